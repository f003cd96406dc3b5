# SPDX-License-Identifier: MIT OR Apache-2.0
"""The tree that is read: files of this machine and generated ones, and what was read against it."""

import os
import random
import subprocess

from harness import BenchError


def make_tree(source, folder, size):
    """Links files of SOURCE, in the order of their names, into FOLDER until they have SIZE bytes, and
    generates a tenth of that: half of it random, half of it text."""
    taken = 0
    for root, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            target = os.path.join(folder, os.path.relpath(path, "/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                os.link(path, target)
            except OSError:
                subprocess.run(["cp", "-p", path, target], check=True)
            taken += os.stat(target).st_size
        if taken >= size:
            break
    make = random.Random(4)
    words = [make.randbytes(make.randrange(2, 9)).hex() for _ in range(4000)]
    os.makedirs(os.path.join(folder, "generated"))
    for number in range(max(1, taken // 10 // (4 << 20))):
        with open(os.path.join(folder, "generated", f"{number:03}"), "wb") as file:
            if number % 2:
                file.write(make.randbytes(4 << 20))
            else:
                file.write(" ".join(make.choices(words, k=400_000)).encode()[: 4 << 20])


def files(folder):
    """(path, size) of every file below FOLDER, sorted."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            found.append((os.path.relpath(path, folder), os.stat(path).st_size))
    return sorted(found)


def wrong(folder, kept):
    """Of what `reading.read_all` KEPT, (path, offset) of what the file below FOLDER has otherwise."""
    found = []
    for path, offset, length, data in kept:
        with open(os.path.join(folder, path), "rb") as file:
            file.seek(offset)
            if file.read(min(length, os.fstat(file.fileno()).st_size)) != data:
                found.append((path, offset))
    return found


def compare(folder, kept):
    """Fails where anything is wrong."""
    for path, offset in wrong(folder, kept):
        raise BenchError(f"wrong bytes in {path} at {offset}")
