#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Both versions of a server at work from their mounts, in one control group, under a fixed load.

  bench/sharing/serve.py --ferrofs target/release/ferrofs --folder DIR --out OUT [NAME...]

For each way to mount: both servers run in a chroot of their mount and answer on loopback (or both
Pythons have imported what is there); then the group's file pages are told, those of the images
themselves apart, those that are mapped, and its kernel and other memory. As root.
"""

import contextlib
import csv
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pairs as known  # noqa: E402
from applications import APPLICATIONS, free_port  # noqa: E402
from disk import Disk  # noqa: E402
from groups import Group  # noqa: E402
from harness import BenchError, scratch  # noqa: E402
from measure import SETTLE_S  # noqa: E402
from ways import NAMES, Way, end_well, known as known_ways  # noqa: E402

ROUNDS = 3
COLUMNS = (
    "pair", "way", "content_mb", "images_mb", "mapped_mb", "kernel_mb", "anonymous_mb", "error",
)


def measure(options, place, pair, way_name):
    """A row of one way."""
    images = [known.image(options.folder, pair, side, "lz4") for side in "ab"]
    size = sum(os.path.getsize(image) for image in images)
    with Disk(place, size * 8 + (256 << 20)) as disk:
        paths = [os.path.join(disk.folder, f"{side}.erofs") for side in "ab"]
        for image, path in zip(images, paths):
            shutil.copyfile(image, path)
        disk.empty_caches()
        # One for all, what serves the mounts included: it is charged for what it hands to the kernel.
        with Group("all") as group:
            store = os.path.join(disk.folder, "share")
            domain = f"bench-{os.getpid()}"
            way = Way(way_name, options.ferrofs, domain, store, group, options.trust_digests)
            try:
                folders = [os.path.join(place, side) for side in "ab"]
                with way.mounted(list(zip(paths, folders))):
                    return _both(pair, folders, group, disk.folder)
            finally:
                way.forget()


def cached(folder):
    """Bytes in memory of all files in FOLDER: images, and stores made of them."""
    total = 0
    for root, _, names in os.walk(folder):
        paths = [os.path.join(root, name) for name in names]
        if paths:
            argv = ["fincore", "--bytes", "--noheadings", "--output", "RES", *paths]
            done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
            total += sum(int(size) for size in done.stdout.split())
    return total


def _both(pair, folders, group, disk):
    with contextlib.ExitStack() as stack:
        both = []
        for folder in folders:
            application = APPLICATIONS[pair](free_port())
            served = stack.enter_context(application.served(group, folder))
            served.wait_for(application.port)
            both.append((application, served))
        for application, served in both:
            application.load(served)
        time.sleep(SETTLE_S)
        memory, images = group.memory(), cached(disk)
        return {
            "content_mb": (memory.file - images) / 1e6,
            "images_mb": images / 1e6,
            "mapped_mb": memory.mapped / 1e6,
            "kernel_mb": memory.kernel / 1e6,
            "anonymous_mb": memory.anonymous / 1e6,
        }


def main():
    end_well()
    options = known.arguments(
        __doc__,
        ("--scratch", {"help": "default: OUT"}),
        ("--ways", {"help": f"some of {','.join(NAMES)}; default: all this ferrofs has"}),
        ("--rounds", {"type": int, "default": ROUNDS}),
        ("--trust-digests", {"action": "store_true"}),
    )
    options.ways = options.ways.split(",") if options.ways else known_ways(options.ferrofs)
    rows, failed = [], 0
    for pair in options.names or APPLICATIONS:
        cache = known.made(options, pair)
        if hasattr(APPLICATIONS[pair], "prepare"):
            APPLICATIONS[pair].prepare(cache)
        for _ in range(options.rounds):
            for way in options.ways:
                row = {"pair": pair, "way": way}
                with scratch(options.scratch or options.out) as place:
                    try:
                        row |= measure(options, place, pair, way)
                    except (BenchError, OSError, subprocess.SubprocessError) as error:
                        row["error"] = str(error)
                        failed += 1
                rows.append(row)
                shown = (f"{row[name]:.1f}" for name in COLUMNS[2:-1] if name in row)
                print(f"{pair:8} {way:12}", row.get("error") or ", ".join(shown), flush=True)
    with open(os.path.join(options.out, "serve.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print("figures: " + ", ".join(COLUMNS[2:-1]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
