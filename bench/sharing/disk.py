# SPDX-License-Identifier: MIT OR Apache-2.0
"""A disk of our own: an ext4 in a file behind a loop device.

Nothing else reads from it, so that the device's own counter says how many bytes of the images were
read, whoever asked for them: the kernel, a server, a store. Unmounting it empties all caches of
its files, without emptying those of the machine.
"""

import contextlib
import os
import subprocess

import harness
from harness import BenchError

SECTOR = 512


def _run(*argv):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: {done.stdout.strip()}")
    return done.stdout.strip()


class Disk:
    """A disk of SIZE bytes in SCRATCH for the length of a `with` block, mounted at `folder`."""

    def __init__(self, scratch, size):
        self.file, self.size = os.path.join(scratch, "disk"), size
        self.folder = os.path.join(scratch, "disk.mnt")
        self.device = None

    def __enter__(self):
        os.mkdir(self.folder)
        with open(self.file, "wb") as file:
            file.truncate(self.size)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.file)
        try:
            # Direct, so that the file behind is not cached once more.
            self.device = _run("losetup", "--find", "--show", "--direct-io=on", self.file)
            _run("mount", "-o", "noatime", self.device, self.folder)
        except BaseException:
            self.__exit__()
            raise
        return self

    def empty_caches(self):
        """Nothing of the disk is in memory after this."""
        _run("umount", self.folder)
        _run("blockdev", "--flushbufs", self.device)
        _run("mount", "-o", "noatime", self.device, self.folder)

    def read_bytes(self):
        """Bytes read from the device since it was made."""
        name = os.path.basename(self.device)
        with open(f"/sys/block/{name}/stat", encoding="ascii") as file:
            return int(file.read().split()[2]) * SECTOR

    def __exit__(self, *_):
        if harness.is_mounted(self.folder):
            with contextlib.suppress(BenchError):
                _run("umount", self.folder)
            if harness.is_mounted(self.folder):
                subprocess.run(["umount", "-l", self.folder], check=False)
        if self.device:
            _run("losetup", "--detach", self.device)
        with contextlib.suppress(OSError):
            os.unlink(self.file)
            os.rmdir(self.folder)
