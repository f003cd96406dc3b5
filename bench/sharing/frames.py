#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads every regular file under some folders and counts the page frames behind them.

  frames.py [--read-only] [--keep] DIR...

Each file is read() whole, then mapped, its pages touched and locked, and the mapping kept until all
were counted: a frame that was freed could come back behind another file. Frames are told apart by
their numbers in /proc/self/pagemap, which is for root only. Prints one line of JSON: by folder the
digest of every file, and what was counted. With --keep it waits for the end of its standard input
before it lets the mappings go. With --read-only nothing is hashed, mapped or counted.
"""

import argparse
import array
import ctypes
import hashlib
import json
import os
import stat
import sys
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
PIECE = 1 << 20
SNAPSHOTS = 20
PRESENT = 1 << 63
FRAME = (1 << 55) - 1
PROT_READ, MAP_SHARED, MADV_POPULATE_READ = 1, 1, 22

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def regular_files(folder):
    """Relative path and size of every regular file that has bytes, in the order of names."""
    for root, folders, names in os.walk(folder, onerror=_fail):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                yield os.path.relpath(path, folder), status.st_size


def _fail(error):
    raise error


def read(file, buffer, digest=None):
    """Reads FILE to its end; returns how many bytes came."""
    view, total = memoryview(buffer), 0
    while count := os.readv(file, [buffer]):
        total += count
        if digest is not None:
            digest.update(view[:count])
    return total


def mapped(file, size):
    """Maps SIZE bytes of FILE for good and touches each page; returns where."""
    address = _libc.mmap(None, size, PROT_READ, MAP_SHARED, file, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap (see vm.max_map_count)")
    _libc.madvise(address, -(-size // PAGE) * PAGE, MADV_POPULATE_READ)  # before 5.14: no effect
    if _libc.mlock(address, size) != 0:  # else a page could be taken back before it is counted
        raise OSError(ctypes.get_errno(), "mlock")
    touch(address, size)
    return address


def touch(address, size):
    """Reads a byte of each page."""
    bytes(memoryview((ctypes.c_ubyte * size).from_address(address))[::PAGE])


def frames_at(pagemap, address, size):
    """Which frame is behind each page of a mapping now; 0 where there is none."""
    count = -(-size // PAGE)
    entries = array.array("Q", os.pread(pagemap, count * 8, address // PAGE * 8))
    if len(entries) != count:
        raise OSError("/proc/self/pagemap ended early")
    return array.array("Q", (entry & FRAME if entry & PRESENT else 0 for entry in entries))


def snapshot(pagemap, mappings):
    """Which frame is behind each page of MAPPINGS now; 0 where there is none.

    The kernel may unmap what it has split or merged, locked or not, until it is touched again.
    """
    found = []
    for address, size in mappings:
        frames = frames_at(pagemap, address, size)
        if frames.count(0):
            touch(address, size)
            frames = frames_at(pagemap, address, size)
        found.append(frames)
    return found


def frames_behind(mappings):
    """(distinct frames, pages without one) of MAPPINGS.

    The kernel moves pages to other frames when it compacts memory, and gives the old ones to other
    pages, which are then one frame for two. So what counts is a snapshot that was seen twice.
    """
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    last = snapshot(pagemap, mappings)
    for _ in range(SNAPSHOTS):
        now = snapshot(pagemap, mappings)
        if now == last:
            frames = set().union(*now)
            absent = sum(entries.count(0) for entries in now)
            if absent and len(frames) == 1:
                raise PermissionError("/proc/self/pagemap tells no frame numbers: not root")
            return len(frames - {0}), absent
        last = now
    raise OSError(f"pages moved in each of {SNAPSHOTS} snapshots")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    buffer, mappings, digests, read_bytes = bytearray(PIECE), [], [], 0
    start, cpu = time.monotonic(), time.process_time()
    for folder in options.folders:
        digests.append({})
        for path, size in regular_files(folder):
            file = os.open(os.path.join(folder, path), os.O_RDONLY)
            digest = None if options.read_only else hashlib.sha256()
            got = read(file, buffer, digest)
            if got != size:
                raise OSError(f"{path}: {got} bytes read of {size}")
            read_bytes += got
            if not options.read_only:
                digests[-1][path] = digest.hexdigest()
                mappings.append((mapped(file, size), size))
            os.close(file)
    result = {"bytes": read_bytes, "seconds": time.monotonic() - start}
    result["cpu_s"] = time.process_time() - cpu
    if not options.read_only:
        frames, absent = frames_behind(mappings)
        pages = sum(-(-size // PAGE) for _, size in mappings)
        result |= {"files": len(mappings), "page_bytes": pages * PAGE, "digests": digests}
        result |= {"frame_bytes": frames * PAGE, "absent_pages": absent}
    print(json.dumps(result), flush=True)
    if options.keep:
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
