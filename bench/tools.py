# SPDX-License-Identifier: MIT OR Apache-2.0
"""The two sides of the comparison, each as "the command line that does X".

A side answers four questions with (argv, executable): build, extract, mount, version. Everything
else in the benchmark treats the two alike.
"""

import os
import re
import shutil
import subprocess

from harness import BenchError

NIL_UUID = "00000000-0000-0000-0000-000000000000"


class ErofsUtils:
    """erofs-utils in a folder of binaries, or whatever answers to the same names there."""

    def __init__(self, name, folder, zero_times):
        self.name = name
        self.folder = os.path.abspath(folder)
        self.zero_times = zero_times
        self.has_workers = b"--workers" in _output([self._tool("mkfs.erofs"), "--help"])

    def _tool(self, name):
        path = os.path.join(self.folder, name)
        if not os.access(path, os.X_OK):
            raise BenchError(f"{self.folder} has no {name}; see bench/fetch-peer.md")
        return path

    def build(self, tree, image, codec, pcluster, workers):
        """mkfs.erofs with a fixed UUID, so that the same input gives the same image."""
        argv = [self._tool("mkfs.erofs"), "--quiet", "-d0", f"-z{codec}", f"-C{pcluster}"]
        argv += [f"-U{NIL_UUID}", *([f"--workers={workers}"] if self.has_workers else [])]
        argv += ["-T0", "--all-time"] if self.zero_times else []
        return [*argv, image, tree], None

    def extract(self, image, folder, _workers):
        """fsck.erofs has one thread, whatever is asked."""
        return [self._tool("fsck.erofs"), f"--extract={folder}", image], None

    def mount(self, image, folder):
        return [self._tool("erofsfuse"), "-f", image, folder], None

    def version(self):
        return _first_line([self._tool("mkfs.erofs"), "-V"])


class Ferrofs:
    """The ferrofs binary by its own commands."""

    def __init__(self, binary, zero_times):
        self.name = "ferrofs"
        self.binary = os.path.abspath(binary)
        self.zero_times = zero_times
        if not os.access(self.binary, os.X_OK):
            raise BenchError(f"{binary} is not an executable; cargo build --release makes it")

    def build(self, tree, image, codec, pcluster, workers):
        argv = [self.binary, "build", tree, "-o", image, "--compress", codec]
        argv += ["--pcluster-size", str(pcluster), "--workers", str(workers)]
        argv += ["--timestamp", "0"] if self.zero_times else []
        return argv, None

    def extract(self, image, folder, workers):
        return [self.binary, "extract", image, "-C", folder, "--workers", str(workers)], None

    def mount(self, image, folder):
        return [self.binary, "mount", "--fuse", "--foreground", image, folder], None

    def version(self):
        return _first_line([self.binary, "--version"])


def drop_in(binary, scratch, zero_times):
    """ferrofs under the names of erofs-utils: the very same command lines on both sides."""
    folder = os.path.join(scratch, "drop-in")
    os.mkdir(folder)
    for tool in ("mkfs.erofs", "fsck.erofs", "dump.erofs", "erofsfuse"):
        os.symlink(os.path.abspath(binary), os.path.join(folder, tool))
    return ErofsUtils("ferrofs", folder, zero_times)


def _output(argv):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def _first_line(argv):
    lines = _output(argv).decode(errors="replace").splitlines()
    return lines[0].strip() if lines else "version unknown"


def libraries(side):
    """Which compression libraries a dynamically linked mkfs.erofs uses; sizes depend on them."""
    ldd = shutil.which("ldd")
    if ldd is None or not isinstance(side, ErofsUtils):
        return ""
    argv = [ldd, os.path.join(side.folder, "mkfs.erofs")]
    paths = re.findall(r"=> (\S*lib(?:lz4|zstd|lzma|deflate)\S*)", _output(argv).decode())
    return ", ".join(os.path.basename(os.path.realpath(path)) for path in paths)
