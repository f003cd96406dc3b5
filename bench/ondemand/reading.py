# SPDX-License-Identifier: MIT OR Apache-2.0
"""Readers of a mount: threads of this process, each with a read of its own at a time."""

import os
import threading

from harness import BenchError
from ondemand.image import BLOCK

PIECE = 128 << 10


def read_one(root, read, buffer, kept=None):
    """How many bytes the read gave; what they are goes to the list KEPT."""
    path, offset, length = read
    handle = os.open(os.path.join(root, path), os.O_RDONLY)
    try:
        if length <= BLOCK:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        total, pieces = 0, []
        while total < length:
            got = os.preadv(handle, [buffer[: min(len(buffer), length - total)]], offset + total)
            if not got:
                break
            total += got
            if kept is not None:
                pieces.append(bytes(buffer[:got]))
        if kept is not None:
            kept.append((path, offset, length, b"".join(pieces)))
        return total
    finally:
        os.close(handle)


def read_all(root, reads, readers, each=None, kept=None):
    """Reads what READS tells by so many threads: each the next one, or each EACH of its own."""
    todo, errors, totals = iter(reads), [], []
    lock = threading.Lock()

    def work(index):
        buffer = memoryview(bytearray(PIECE))
        total = 0
        try:
            if each is not None:
                for read in reads[index * each : (index + 1) * each]:
                    total += read_one(root, read, buffer, kept)
            else:
                while True:
                    with lock:
                        read = next(todo, None)
                    if read is None or errors:
                        break
                    total += read_one(root, read, buffer, kept)
        except OSError as error:
            errors.append(error)
        totals.append(total)

    threads = [threading.Thread(target=work, args=[index]) for index in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise BenchError(f"a read failed: {errors[0]}")
    return sum(totals)


def drop(root, paths):
    """Out of the page cache of the mount; what is below it stays."""
    for path in paths:
        handle = os.open(os.path.join(root, path), os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
