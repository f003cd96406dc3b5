#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What sharing costs where nothing is shared: one image read in order, with and without a domain.

  bench/sharing/cost.py --ferrofs target/release/ferrofs --image IMAGE --out OUT

Rounds are interleaved, each with a new mount and a cold cache of its files; who goes first changes.
The median of the rounds' ratios counts. `first` is the first reading of a domain, where content is hashed;
`again` the second, in the same mount, after its pages were dropped. As root.
"""

import argparse
import contextlib
import csv
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from frames import regular_files  # noqa: E402
from groups import Group  # noqa: E402
from harness import BenchError, fault_in, scratch  # noqa: E402
from measure import FRAMES  # noqa: E402
from ways import Way, end_well  # noqa: E402

COLUMNS = ("round", "way", "first_s", "first_cpu_s", "again_s", "again_cpu_s", "bytes")
GOAL = 0.95
MADV_PAGEOUT, MADV_POPULATE_READ = 21, 22


def read(folder, group):
    """(seconds, CPU seconds of the servers, bytes) of one reading of everything in FOLDER."""
    before = group.cpu_s()
    argv = [sys.executable, "-B", FRAMES, "--read-only", folder]
    result = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return result["seconds"], group.cpu_s() - before + result["cpu_s"], result["bytes"]


def drop(folder):
    """The pages of all files go; what the server itself keeps stays.

    By a mapping, which leads to the file that has the pages, also where that is another one.
    """
    for path, size in regular_files(folder):
        with open(os.path.join(folder, path), "rb") as file:
            with mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as pages:
                pages.madvise(MADV_POPULATE_READ)
                pages.madvise(MADV_PAGEOUT)


def one(options, place, way_name, number):
    image, folder = os.path.join(place, "image"), os.path.join(place, "mnt")
    with Group("servers") as group:
        domain = f"cost-{os.getpid()}-{number}"
        store = os.path.join(place, "share")
        way = Way(way_name, options.ferrofs, domain, store, group, options.trust_digests)
        fault_in(image)
        try:
            with way.mounted([(image, folder)]):
                first = read(folder, group)
                drop(folder)
                again = read(folder, group)
        finally:
            way.forget()
            with contextlib.suppress(OSError):
                shutil.rmtree(store)
    row = {"round": number, "way": way_name, "bytes": first[2]}
    return row | dict(zip(COLUMNS[2:6], (*first[:2], *again[:2])))


def main():
    end_well()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--way", default="superblock", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trust-digests", action="store_true")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    os.makedirs(options.out, exist_ok=True)
    rows = []
    with scratch(options.out) as place:
        shutil.copyfile(options.image, os.path.join(place, "image"))
        for number in range(options.rounds):
            ways = ("fuse", options.way)
            for name in ways if number % 2 else reversed(ways):
                rows.append(one(options, place, name, number))
                print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
                                for k, v in rows[-1].items()), flush=True)
    with open(os.path.join(options.out, "cost.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for column in COLUMNS[2:6]:
        plain, shared = ([r[column] for r in rows if r["way"] == n] for n in ("fuse", options.way))
        ratio = statistics.median(one / other for one, other in zip(plain, shared))
        goal = "" if "cpu" in column else f"goal >= {GOAL}: {'pass' if ratio >= GOAL else 'MISSED'}"
        print(f"{column:12} lowest: fuse {min(plain):.3f}  {options.way} {min(shared):.3f}  "
              f"ratio {min(plain) / min(shared):.3f}  median of rounds {ratio:.3f}  {goal}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
