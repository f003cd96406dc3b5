# SPDX-License-Identifier: MIT OR Apache-2.0
"""One measurement: a pair mounted in one way, all files read and mapped, frames counted."""

import json
import os
import shutil
import subprocess
import sys
import time

from disk import Disk
from groups import Group
from harness import BenchError
from ways import Way

FRAMES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "frames.py")
READER_TIMEOUT_S = 1800
FREE = 64 << 20
# How long the kernel may take to free what an ended process had.
SETTLE_S = 1.0
# Frames may differ from the calculation by this much.
TOLERANCE = 0.005

COLUMNS = (
    "pair", "way", "encodings", "files", "pages_mb", "calculated_mb", "frames_mb", "off_percent",
    "saved_percent", "whole_mb", "alike_mb", "file_mb", "kernel_mb", "servers_rss_mb", "servers_file_mb",
    "servers_kernel_mb", "device_mb", "read_s", "again_device_mb", "again_s", "absent_pages",
    "error",
)


class Reader:
    """frames.py in a group, its mappings kept until the end of the `with` block."""

    def __init__(self, group, folders):
        argv = [sys.executable, "-B", FRAMES, "--keep", *folders]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=group.enter,
        )

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"the reader: {self._end()[-1000:]}")
        return json.loads(line)

    def _end(self):
        self.process.stdin.close()
        try:
            errors = self.process.stderr.read()
            self.process.wait(READER_TIMEOUT_S)
            return errors
        finally:
            self.process.kill()

    def __exit__(self, *_):
        if self.process.returncode is None:
            self._end()


def same_bytes(result, trees):
    """Every file of both mounts has the bytes that it has in the trees."""
    for digests, tree in zip(result["digests"], trees):
        if digests != tree.digests:
            wrong = {path for path, _ in digests.items() ^ tree.digests.items()}
            raise BenchError(f"wrong or missing bytes in {len(wrong)} files: {sorted(wrong)[:3]}")


def measure(options, scratch, name, images, trees, calculated):
    """A row (a dict of some of COLUMNS) of one pair of IMAGES mounted in the way NAME.

    The TREES say which bytes are right, CALCULATED how many frames.
    """
    store_size = sum(os.path.getsize(image) for image in images) + calculated.whole
    with Disk(scratch, store_size * 5 // 4 + FREE) as disk:
        paths = [os.path.join(disk.folder, f"{side}.erofs") for side in "ab"]
        for image, path in zip(images, paths):
            shutil.copyfile(image, path)
        disk.empty_caches()
        with Group("servers") as servers:
            store = os.path.join(disk.folder, "share")
            domain = f"bench-{os.getpid()}"
            way = Way(name, options.ferrofs, domain, store, servers, options.trust_digests)
            pairs = [(path, os.path.join(scratch, side)) for path, side in zip(paths, "ab")]
            try:
                row = _first(way, disk, servers, pairs, trees, calculated)
                row |= _again(way, disk, servers, pairs, trees)
            finally:
                way.forget()
    return row


def _first(way, disk, servers, pairs, trees, calculated):
    before = disk.read_bytes()
    with way.mounted(pairs), Group("reader") as readers:
        with Reader(readers, [folder for _, folder in pairs]) as result:
            same_bytes(result, trees)
            memory, charged, resident = readers.memory(), servers.memory(), servers.resident()
        time.sleep(SETTLE_S)
        kernel = readers.memory().kernel  # without the reader's own page tables and mappings
    if result["absent_pages"]:
        raise BenchError(f"{result['absent_pages']} pages were not in memory when they were counted")
    expected = calculated.whole if way.shares else calculated.none
    return {
        "files": result["files"],
        "pages_mb": calculated.none / 1e6,
        "calculated_mb": expected / 1e6,
        "whole_mb": calculated.whole / 1e6,
        "alike_mb": calculated.alike / 1e6,
        "frames_mb": result["frame_bytes"] / 1e6,
        "off_percent": 100 * (result["frame_bytes"] / expected - 1),
        "saved_percent": 100 * (1 - result["frame_bytes"] / calculated.none),
        "file_mb": memory.file / 1e6,
        "kernel_mb": kernel / 1e6,
        "servers_rss_mb": resident / 1e6,
        "servers_file_mb": charged.file / 1e6,
        "servers_kernel_mb": charged.kernel / 1e6,
        "device_mb": (disk.read_bytes() - before) / 1e6,
        "read_s": result["seconds"],
        "absent_pages": result["absent_pages"],
    }


def _again(way, disk, servers, pairs, trees):
    """Both mounted anew after both were unmounted: what the device is asked for once more."""
    before = disk.read_bytes()
    with way.mounted(pairs), Group("reader") as readers:
        with Reader(readers, [folder for _, folder in pairs]) as result:
            same_bytes(result, trees)
    return {
        "again_device_mb": (disk.read_bytes() - before) / 1e6,
        "again_s": result["seconds"],
    }
