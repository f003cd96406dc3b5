#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads files through a mount, as its own process, so that a hung file system cannot hang the
benchmark and the reader's own CPU time is not mixed with anybody's.

    reader.py seq  ROOT LIST            every file of LIST, in order, in pieces of 1 MiB
    reader.py walk ROOT LIST            every file, found by walking the directories; LIST is not looked at
    reader.py crc  ROOT LIST            every file whole, summed up: for comparing two trees
    reader.py rand ROOT LIST COUNT SEED SMALLEST
                                        4 KiB preads at seeded places; files of SMALLEST bytes and
                                        more, each chosen as often as its size asks

LIST is a file of "size relative-path" records, each ended by a NUL byte.
Prints one line: seconds, bytes, reads, and a CRC-32 of what was read, in order (seq: 0).
"""

import os
import random
import resource
import sys
import time
import zlib

PIECE = 1 << 20
PAGE = 4096


def load(path):
    """The (size, relative path as bytes) records of LIST."""
    with open(path, "rb") as file:
        records = file.read().split(b"\0")[:-1]
    pairs = (record.split(b" ", 1) for record in records)
    return [(int(size), name) for size, name in pairs]


def sequential(root, files):
    """Reads every byte of every file; returns (bytes, reads, 0)."""
    buffer = memoryview(bytearray(PIECE))
    total = reads = 0
    for size, name in files:
        handle = os.open(os.path.join(root, name), os.O_RDONLY)
        left = size
        while got := os.readv(handle, [buffer]):
            left -= got
            reads += 1
        os.close(handle)
        if left:
            sys.exit(f"{os.fsdecode(name)}: {size - left} bytes read, {size} expected")
        total += size
    return total, reads, 0


def walked(root):
    """Reads every byte of every file as a tool that packs a tree does; returns (bytes, reads, 0)."""
    buffer = memoryview(bytearray(PIECE))
    total = reads = 0
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            handle = os.open(path, os.O_RDONLY)
            while got := os.readv(handle, [buffer]):
                total += got
                reads += 1
            os.close(handle)
    return total, reads, 0


def scattered(root, files, count, seed, smallest):
    """COUNT reads of one page; the same places for the same arguments on every machine."""
    files = [(size, name) for size, name in files if size >= smallest]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    choose = random.Random(seed)
    picks = choose.choices(range(len(files)), weights=[size for size, _ in files], k=count)
    pages = [(size + PAGE - 1) // PAGE for size, _ in files]
    places = [(pick, choose.randrange(pages[pick]) * PAGE) for pick in picks]
    handles = {}
    buffer = bytearray(PAGE)
    total = crc = 0
    for pick, offset in places:
        if pick not in handles:
            handles[pick] = os.open(os.path.join(root, files[pick][1]), os.O_RDONLY)
            os.posix_fadvise(handles[pick], 0, 0, os.POSIX_FADV_RANDOM)
        got = os.preadv(handles[pick], [buffer], offset)
        if got != min(PAGE, files[pick][0] - offset):
            sys.exit(f"{os.fsdecode(files[pick][1])} at {offset}: {got} bytes read")
        crc = zlib.crc32(memoryview(buffer)[:got], crc)
        total += got
    return total, count, crc


def checksums(root, files):
    """Reads every file whole; returns (bytes, files, CRC-32 over sizes, names and contents)."""
    buffer = memoryview(bytearray(PIECE))
    total = over_all = 0
    for size, name in files:
        crc = 0
        with open(os.path.join(root, name), "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                crc = zlib.crc32(buffer[:got], crc)
        over_all = zlib.crc32(b"%08x %d %s" % (crc, size, name), over_all)
        total += size
    return total, len(files), over_all


def main(arguments):
    what, root, listing = arguments[0], os.fsencode(arguments[1]), arguments[2]
    files = load(listing)
    start = time.monotonic()
    if what == "seq":
        total, reads, crc = sequential(root, files)
    elif what == "walk":
        total, reads, crc = walked(root)
    elif what == "rand":
        total, reads, crc = scattered(root, files, *map(int, arguments[3:6]))
    elif what == "crc":
        total, reads, crc = checksums(root, files)
    else:
        sys.exit(__doc__)
    print(f"{time.monotonic() - start:.6f} {total} {reads} {crc:08x}")


if __name__ == "__main__":
    main(sys.argv[1:])
