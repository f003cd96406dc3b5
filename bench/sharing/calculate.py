# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a pair must cost: page cache of all files of both trees, by hashing the trees.

Independent of any mount and of ferrofs. In bytes of whole pages; a file with many names counts
once in each tree.
"""

import collections
import hashlib
import os

from frames import PAGE, read, regular_files

# none: no sharing at all. whole: each content once. alike: each content once for each mode, owner
# and time it has. second: what the second tree adds to the first when contents are shared.
Calculated = collections.namedtuple("Calculated", "files none whole alike second")


class Tree:
    """Digests and pages of the files of FOLDER."""

    def __init__(self, folder):
        self.digests, self.inodes, self.pages = {}, {}, {}
        buffer = bytearray(1 << 20)
        for path, size in regular_files(folder):
            status = os.lstat(os.path.join(folder, path))
            inode = (status.st_dev, status.st_ino)
            if inode not in self.inodes:
                digest = hashlib.sha256()
                with open(os.path.join(folder, path), "rb", buffering=0) as file:
                    if read(file.fileno(), buffer, digest) != size:
                        raise OSError(f"{path} changed while it was read")
                attributes = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
                digest = digest.hexdigest()
                self.inodes[inode] = (digest, attributes, -(-size // PAGE) * PAGE)
            self.digests[path] = self.inodes[inode][0]

    def files(self):
        """(digest, attributes, bytes of pages) of every inode."""
        return self.inodes.values()


def calculate(a, b):
    """The Calculated of two Trees."""
    both = [*a.files(), *b.files()]
    whole = {digest: size for digest, _, size in both}
    alike = {(digest, attributes): size for digest, attributes, size in both}
    first = {digest: size for digest, _, size in a.files()}
    return Calculated(
        files=len(both),
        none=sum(size for _, _, size in both),
        whole=sum(whole.values()),
        alike=sum(alike.values()),
        second=sum(whole.values()) - sum(first.values()),
    )
