# SPDX-License-Identifier: MIT OR Apache-2.0
"""An image of ours, its pin, and where everything of it lies."""

import json
import os
import subprocess

from ondemand import tree

BLOCK = 4096


class Image:
    """Built from the tree in FOLDER to PATH, unless it is there already."""

    def __init__(self, ferrofs, folder, path, codec):
        self.ferrofs, self.folder, self.path = ferrofs, folder, path
        stored = f"{path}.pin"
        if not os.path.exists(stored):
            words = ["build", folder, "-o", path, "--digests", "--json", "-z", codec, "-C", "64K"]
            pin = json.loads(self.run(*words))["pin"]
            with open(stored, "w", encoding="ascii") as file:
                file.write(pin)
        with open(stored, encoding="ascii") as file:
            self.pin = file.read()
        self.size = os.stat(path).st_size
        self.files = tree.files(folder)
        self.inodes = json.loads(self.run("dump", "--json", "-s", path))["superblock"]
        self.known = {}

    def run(self, *words):
        return subprocess.run(
            [self.ferrofs, *words], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def learn(self, paths):
        """Where PATHS lie: `ferrofs dump`, many at a time."""
        paths = [path for path in paths if path not in self.known]
        for start in range(0, len(paths), 1000):
            words = [w for path in paths[start : start + 1000] for w in ("-e", "/" + path)]
            for path, file in zip(
                paths[start : start + 1000],
                json.loads(self.run("dump", "--json", *words, self.path))["files"],
            ):
                self.known[path] = file

    def blocks(self, path, offset=0, length=1 << 62):
        """The blocks that a read of PATH needs: data and the way to it."""
        needed = {0}
        parts = path.split("/")
        ways = ["/".join(parts[:count]) for count in range(len(parts))] if path else []
        self.learn([path, *ways])
        for name in [path, *ways]:
            file = self.known[name]
            inode = self.base() + file["nid"] * 32
            compressed = file["layout"].startswith("compressed")
            index = -(-file["size"] // BLOCK) * 2 if compressed else 0
            needed.update(range(inode // BLOCK, (inode + 64 + index) // BLOCK + 1))
            for extent in file["extents"]:
                inside = extent["start"] < offset + length and extent["start"] + extent["len"] > offset
                if extent.get("device") is None or not (inside or name != path):
                    continue
                first, last = extent["address"], extent["address"] + extent["encoded_len"] - 1
                if not compressed and name == path:  # of plain files only what is read
                    first = max(first, extent["address"] + offset - extent["start"])
                    last = min(last, extent["address"] + offset + length - extent["start"] - 1)
                needed.update(range(first // BLOCK, last // BLOCK + 1))
        return needed

    def base(self):
        """Where the inodes begin."""
        found = self.inodes
        return found.get("meta_blkaddr", found.get("meta_block", 0)) * BLOCK
