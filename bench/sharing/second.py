#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the second version of an application fetches when it is mounted on demand beside the first.

  bench/sharing/second.py --ferrofs target/release/ferrofs --folder PAIRS --out OUT [NAME ...]

The first is mounted from a file in a domain, and read. The second comes from a `file://` origin with an
empty cache, and all of it is read and compared with its tree. Fetched is what its cache asked the origin
for. New is an image, of the same codec, of the files whose content the first lacks; names an image of the
second's tree with all files empty: what there is to fetch even if nothing were new, its compression
indexes not counted. Goal: fetched at most new and 5 %. All are built without inline tails: ends of files
that lie among the inodes would be fetched with these. As root.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pairs as known  # noqa: E402
from calculate import Tree  # noqa: E402
from disk import Disk  # noqa: E402
from groups import Group  # noqa: E402
from harness import BenchError, scratch  # noqa: E402
from measure import FRAMES  # noqa: E402
from ways import Way, end_well  # noqa: E402

CODEC = ["--compress", "zstd", "--pcluster-size", "64K", "--no-inline-tails"]


def build(options, tree, image, *more):
    argv = [options.ferrofs, "build", tree, "-o", image, *CODEC, *more]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return os.path.getsize(image)


def only_new(first, second, tree, folder):
    """A folder with the files of SECOND, which is of TREE, that FIRST lacks, each content once."""
    met = set(first.digests.values())
    for path, digest in second.digests.items():
        if digest not in met:
            met.add(digest)
            target = os.path.join(folder, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(os.path.join(tree, path), target)


def digests(folder):
    argv = [sys.executable, "-B", FRAMES, folder]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["digests"][0]


def measure(options, name, place):
    trees = [known.tree(options.folder, name, side) for side in "ab"]
    first, second = Tree(trees[0]), Tree(trees[1])
    inside = lambda path: os.path.join(place, path)  # noqa: E731
    new, names = inside("new"), inside("names")
    os.mkdir(new)
    only_new(first, second, trees[1], new)
    subprocess.run(["cp", "-a", "--attributes-only", trees[1], names], check=True)
    row = {"new": build(options, new, inside("new.erofs")), "names": build(options, names, inside("names.erofs"))}
    shutil.rmtree(new)
    shutil.rmtree(names)
    build(options, trees[0], inside("a.erofs"), "--inode-digest")
    row["image"] = build(options, trees[1], inside("b.erofs"), "--inode-digest", "--digests")
    # A disk with room: a cache on a full one keeps nothing.
    with Disk(place, 2 << 30) as disk, Group("servers") as servers:
        way = Way("passthrough", options.ferrofs, f"second-{os.getpid()}", inside("share"), servers)
        try:
            with way.mounted([(inside("a.erofs"), inside("a"))]):
                if digests(inside("a")) != first.digests:
                    raise BenchError("wrong bytes in the first")
                way.words += ["--insecure", "--cache-dir", os.path.join(disk.folder, "cache")]
                with way.mounted([(f"file://{inside('b.erofs')}", inside("b"))]):
                    if digests(inside("b")) != second.digests:
                        raise BenchError("wrong bytes in the second")
                    argv = [options.ferrofs, "share", "stat", way.domain, "--json"]
                    stat = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
                    row["fetched"] = max(one["fetched_bytes"] for one in json.loads(stat)["images"])
        finally:
            way.forget()
    return row


def main():
    end_well()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--folder", required=True, help="the pairs")
    parser.add_argument("--out", required=True)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: redis and node")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    os.makedirs(options.out, exist_ok=True)
    for name in options.names or ("redis", "node"):
        cache = os.path.join(options.folder, ".cache")
        known.make(known.PAIRS[name], options.folder, cache, options.ferrofs, print)
        with scratch(options.out) as place:
            row = measure(options, name, place)
        row = {key: value / 1e6 for key, value in row.items()}
        ratio = row["fetched"] / row["new"]
        print(f"{name:12} image {row['image']:.2f} MB, new {row['new']:.2f}, names {row['names']:.2f}; fetched "
              f"{row['fetched']:.2f} = {ratio:.3f} of new, {row['fetched'] / (row['new'] + row['names']):.3f} of new "
              f"and names", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
