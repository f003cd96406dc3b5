#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Two versions of one application side by side: how much memory, with and without sharing.

  bench/sharing/run.py --ferrofs target/release/ferrofs [--folder DIR] [--out OUT] [NAME ...]

For each pair and way to mount: reads and maps every file of both mounts, counts the distinct page
frames behind them, and compares with what hashing the trees says. With --pool also what both cost
in the pool of one process that embeds us. See bench/README.md. As root.
"""

import argparse
import csv
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pairs as known  # noqa: E402
import table  # noqa: E402
from calculate import Tree, calculate  # noqa: E402
from harness import BenchError, scratch  # noqa: E402
from measure import COLUMNS, TOLERANCE, measure  # noqa: E402
from pool import pooled  # noqa: E402
from ways import NAMES, end_well, known as known_ways  # noqa: E402

OUT = "target/bench-sharing"
MIXES = {"same": ("lz4", "lz4"), "mixed": ("lz4", "zstd")}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--folder", default=f"{OUT}/pairs", help="the pairs; made where they are not there")
    parser.add_argument("--cache", help="for what is downloaded; default: .cache in that folder")
    parser.add_argument("--out", default=OUT, help="receives table, CSV and chart; default: %(default)s")
    parser.add_argument("--scratch", help="for the disk and the mounts, on ext4; default: OUT")
    parser.add_argument("--all", action="store_true", help="also pairs of over 1 GB")
    parser.add_argument("--ways", help="some of %s; default: all there are here, auto left out" % ",".join(NAMES))
    parser.add_argument("--mixes", default="mixed", help="of %s; default: %%(default)s" % ",".join(MIXES))
    parser.add_argument("--pool", metavar="PROGRAM", help="the example `pool` of ferrofs-share")
    parser.add_argument("--trust-digests", action="store_true")
    parser.add_argument("--build-option", action="append", default=[], help="of `ferrofs build`")
    parser.add_argument("--check", action="store_true", help="exit 1 where frames are off by 0.5 %%")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    options.ways = options.ways.split(",") if options.ways else known_ways(options.ferrofs)
    options.mixes = options.mixes.split(",")
    for given, there in ((options.ways, NAMES), (options.mixes, MIXES)):
        if not set(given) <= set(there):
            parser.error(f"there are {', '.join(there)}")
    if os.geteuid() != 0:
        parser.error("must be root: mounts, control groups, frame numbers")
    return options


def say(text):
    print(text, flush=True)


def rows_of(options, pair):
    """All rows of one pair; one that could not be measured says why."""
    cache = options.cache or os.path.join(options.folder, ".cache")
    known.make(pair, options.folder, cache, options.ferrofs, say, options.build_option)
    trees = [Tree(known.tree(options.folder, pair.name, side)) for side in "ab"]
    calculated = calculate(*trees)
    for mix in options.mixes:
        images = [known.image(options.folder, pair.name, *side) for side in zip("ab", MIXES[mix])]
        start = {"pair": pair.name, "encodings": "/".join(MIXES[mix])}
        for way in options.ways:
            row = start | {"way": way}
            with scratch(options.scratch or options.out) as folder:
                try:
                    row |= measure(options, folder, way, images, trees, calculated)
                except (BenchError, OSError, subprocess.TimeoutExpired) as error:
                    row["error"] = str(error)
            say(table.line(row))
            yield row
        if options.pool:
            for row in pooled(options.pool, images, calculated):
                say(table.line(start | row))
                yield start | row


def main():
    end_well()
    options = parse()
    os.makedirs(options.out, exist_ok=True)
    rows = []
    for pair in known.chosen(options.names, options.all):
        try:
            for row in rows_of(options, pair):
                rows.append(row)
                write(options, rows)
        except (BenchError, OSError, subprocess.TimeoutExpired) as error:
            rows.append({"pair": pair.name, "error": str(error)})
            say(table.line(rows[-1]))
    write(options, rows)
    say(table.markdown(rows, known.PAIRS))
    broken = [row for row in rows if "error" in row]
    off = [row for row in rows if abs(row.get("off_percent", 0)) > 100 * TOLERANCE]
    return 1 if broken or (options.check and off) else 0


def write(options, rows):
    """After each row, so that a run that is stopped leaves what it has."""
    with open(os.path.join(options.out, "sharing.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with open(os.path.join(options.out, "sharing.md"), "w", encoding="utf-8") as file:
        file.write(table.markdown(rows, known.PAIRS))
    with open(os.path.join(options.out, "sharing.svg"), "w", encoding="utf-8") as file:
        file.write(table.chart(rows, known.PAIRS))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
