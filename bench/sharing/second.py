#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the second version of an application fetches when it is mounted on demand beside the first.

  bench/sharing/second.py --ferrofs target/release/ferrofs --origin target/release/examples/origin \
      --folder PAIRS --out OUT [NAME ...]

The first is mounted from a file in a domain. The second comes over HTTP from our origin, verified by
its pin, with an empty cache, and all of it is read and compared with its tree. What the origin sent
counts. New are the contents that the first lacks, each once: `content` is the exact bytes of their
extents in the second image, `blocks` the blocks that these lie in, or the same bytes if they lie
among inodes (inline tails), `alone` an image of just these files. `metadata` is what of the image holds
no file's content: inodes, names, xattrs, indexes. Goal: at most 1.05 of what is new. Images are built
with zstd and 64 KiB pclusters; --option gives other words for `ferrofs build`.
--unpinned mounts without the digest table, and so without the copy of metadata behind it. As root.
"""

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
from ondemand.origin import Origin  # noqa: E402
from ways import Way, end_well  # noqa: E402

CODEC = ["--compress", "zstd", "--pcluster-size", "64K"]
BLOCK = 4096
FILES = 1000  # at a time, on the command line of `dump`


def run(options, *words):
    done = subprocess.run([options.ferrofs, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return done.stdout


def build(options, tree, image, *more):
    words = options.option.split() if options.option else CODEC
    built = json.loads(run(options, "build", tree, "-o", image, "--json", *words, *more))
    return built.get("pin")


def new_files(first, second):
    """Paths of SECOND whose content FIRST lacks, each content once."""
    met = set(first.digests.values())
    found = []
    for path, digest in second.digests.items():
        if digest not in met:
            met.add(digest)
            found.append(path)
    return found


def extents(options, image, paths):
    """(path, whether among inodes, address, bytes) of what is stored of PATHS."""
    for start in range(0, len(paths), FILES):
        some = paths[start : start + FILES]
        words = [word for path in some for word in ("-e", f"/{path}")]
        files = json.loads(run(options, "dump", "--json", *words, image))["files"]
        for path, file in zip(some, files):
            for extent in file["extents"]:
                is_inline = extent["kind"] == "inline"
                if is_inline or extent["device"] is not None:
                    yield path, is_inline, extent["address"], extent["encoded_len"]


def look(options, image, second, new):
    """Bytes of new content, exactly and in blocks, and of metadata."""
    new, exact, ends = set(new), 0, 0
    blocks, taken = set(), set()
    inline = {}  # by address: files may have one inode
    for path, is_inline, address, length in extents(options, image, list(second.digests)):
        if is_inline:
            inline[address] = length
        else:
            inside = range(address // BLOCK, (address + length - 1) // BLOCK + 1)
            taken.update(inside)
        if path in new:
            exact += length
            if is_inline:
                ends += length
            else:
                blocks.update(inside)
    metadata = os.path.getsize(image) - len(taken) * BLOCK - sum(inline.values())
    return exact, len(blocks) * BLOCK + ends, metadata


def measure(options, name, place):
    trees = [known.tree(options.folder, name, side) for side in "ab"]
    first, second = Tree(trees[0]), Tree(trees[1])
    inside = lambda path: os.path.join(place, path)  # noqa: E731
    new = new_files(first, second)
    for path in new:
        target = inside(os.path.join("new", path))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(os.path.join(trees[1], path), target)
    os.makedirs(inside("new"), exist_ok=True)
    build(options, inside("new"), inside("new.erofs"))
    shutil.rmtree(inside("new"))
    os.mkdir(inside("www"))
    build(options, trees[0], inside("a.erofs"), "--inode-digest")
    image = inside("www/b.erofs")
    pin = build(options, trees[1], image, "--inode-digest", "--digests")
    content, blocks, metadata = look(options, image, second, new)
    row = {"image": os.path.getsize(image), "content": content, "blocks": blocks,
           "alone": os.path.getsize(inside("new.erofs")), "metadata": metadata}
    # A disk with room: a cache on a full one keeps nothing.
    with Disk(place, 2 << 30) as disk, Group("servers") as servers, \
            Origin(options.origin, inside("www"), 0, 0) as origin:
        way = Way("passthrough", options.ferrofs, f"second-{os.getpid()}", inside("share"), servers)
        try:
            with way.mounted([(inside("a.erofs"), inside("a"))]):
                way.words += ["--insecure"] if options.unpinned else ["--pin", pin]
                way.words += ["--cache-dir", os.path.join(disk.folder, "cache")]
                with way.mounted([(origin.url("b.erofs"), inside("b"))]):
                    if Tree(inside("b")).digests != second.digests:
                        raise BenchError("wrong bytes in the second")
                    for target, _, sent, _, _ in origin.list():
                        where = "digests" if target.endswith(".digests") else "fetched"
                        row[where] = row.get(where, 0) + sent
                        row[f"{where} requests"] = row.get(f"{where} requests", 0) + 1
        finally:
            way.forget()
    return row


def tell(name, row):
    mb = {key: value / 1e6 for key, value in row.items()}
    total = mb["fetched"] + mb.get("digests", 0)
    print(
        f"{name:9} image {mb['image']:.2f} MB; new: content {mb['content']:.2f}, blocks {mb['blocks']:.2f}, "
        f"alone {mb['alone']:.2f}; metadata {mb['metadata']:.2f}\n"
        f"          sent: image {mb['fetched']:.2f} ({row['fetched requests']} requests), digests and copy "
        f"{mb.get('digests', 0):.2f} ({row.get('digests requests', 0)}), together {total:.2f} = "
        f"{total / mb['content']:.3f} of content, {total / mb['blocks']:.3f} of blocks, "
        f"{total / mb['alone']:.3f} of alone, {total / (mb['blocks'] + mb['metadata']):.3f} of blocks and "
        f"metadata; the image's bytes are {mb['fetched'] / mb['blocks']:.3f} of blocks",
        flush=True,
    )


def main():
    end_well()
    options = known.arguments(
        __doc__,
        ("--origin", {"required": True, "help": "the example `origin` of ferrofs-tests"}),
        ("--option", {"help": "words for `ferrofs build`, instead of: " + " ".join(CODEC)}),
        ("--unpinned", {"action": "store_true"}),
    )
    options.origin = os.path.abspath(options.origin)
    for name in options.names or ("redis", "node"):
        known.made(options, name)
        with scratch(options.out) as place:
            tell(name, measure(options, name, place))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
