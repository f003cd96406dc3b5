# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is read: 5 % of an image of ours in three ways, and what is read again when all is there."""

import os
import random

from ondemand.image import BLOCK

SHARE = 0.05
WHOLE = 1 << 62


def patterns(image):
    """Name, list of (path, offset, length) and bytes needed, 5 % of the image each by these."""
    choose = random.Random(5)
    small = [path for path, size in image.files if 0 < size <= 64 << 10]
    choose.shuffle(small)
    yield "small files", *_until(image, ((path, 0, WHOLE) for path in small[:40_000]))
    folders = {}
    for path, size in image.files:
        if size:
            folders.setdefault(os.path.dirname(path), []).append(path)
    names = sorted(folders)
    choose.shuffle(names)
    # As an interpreter starts: most files of a folder in order, then the next folder.
    walk = (
        (path, 0, WHOLE) for name in names for path in folders[name] if choose.random() < 0.7
    )
    yield "by folder", *_until(image, walk)
    large = [(path, size) for path, size in image.files if size >= BLOCK]
    picks = choose.choices(large, [size for _, size in large], k=40_000)
    pages = ((path, choose.randrange(size // BLOCK) * BLOCK, BLOCK) for path, size in picks)
    yield "random pages", *_until(image, pages)


def _until(image, reads):
    taken, needed = [], set()
    reads = iter(reads)
    while len(needed) * BLOCK < image.size * SHARE:
        some = [read for _, read in zip(range(500), reads)]
        if not some:
            break
        ways = {"/".join(path.split("/")[:n]) for path, _, _ in some for n in range(path.count("/") + 1)}
        image.learn([*dict.fromkeys(path for path, _, _ in some), *sorted(ways)])
        for read in some:
            needed |= image.blocks(*read)
            taken.append(read)
            if len(needed) * BLOCK >= image.size * SHARE:
                break
    return taken, len(needed) * BLOCK


def warm(files):
    """The paths of the largest of FILES, reads of all of them, and reads of 20,000 pages in them."""
    large = sorted((size, path) for path, size in files)[-40:]
    choose = random.Random(6)
    pages = [
        (path, choose.randrange(size // BLOCK) * BLOCK, BLOCK)
        for size, path in choose.choices(large, [size for size, _ in large], k=20_000)
    ]
    return [path for _, path in large], [(path, 0, WHOLE) for _, path in large], pages
