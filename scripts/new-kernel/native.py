#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs in the guest: `ferrofs mount --share` where the kernel itself shares, by inode digests.

  native.py FERROFS WORK

WORK has the trees a and b and images of both, SIDE.NAME. They are copied to a disk of the guest's
own, mounted side by side, and read and mapped whole; the page frames behind them are counted and
compared with what hashing the trees says, every byte with the trees.
"""

import json
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.join(HERE, "../../bench")
sys.path[:0] = [BENCH, os.path.join(BENCH, "sharing")]

from calculate import Tree, calculate  # noqa: E402
from groups import Group  # noqa: E402
from measure import Reader, same_bytes  # noqa: E402

IMAGES = "/run/cache/images"
PLACES = ("/mnt/a", "/mnt/b")
# Names of the images of a and b, and whether what is equal must be in memory once. In `partly`
# what one of them has compressed and the other not is not: the kernel fills such pages otherwise.
CASES = (
    ("plain", "plain", "all"),
    ("chunks", "plain", "all"),
    ("lz4", "lz4", "all"),
    ("lz4", "zstd", "all"),
    ("lz4", "lzma", "all"),
    ("deflate", "chunks", "partly"),
    ("plain", "lz4", "partly"),
    ("mkfs-plain", "plain", "all"),
    ("mkfs-lz4", "lz4", "all"),
    ("mkfs-zstd", "mkfs-lz4", "all"),
    ("mkfs-dedupe", "mkfs-dedupe", "all"),
    ("mkfs-dedupe", "zstd", "partly"),
)

failed = []


def check(good, what):
    print(("ok: " if good else "FAILED: ") + what, flush=True)
    if not good:
        failed.append(what)


def mount(image, place, domain, *words):
    os.makedirs(place, exist_ok=True)
    argv = [FERROFS, "mount", "--share", domain, "--trust-digests", *words, image, place]
    return subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False, timeout=60)


def options_of(place):
    """What the kernel says of the file system mounted last on PLACE."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        lines = [line.split() for line in table]
    found = [line for line in lines if line[4] == place]
    return found[-1][-1].split(",") if found else []


def umount(*places):
    for place in places:
        subprocess.run(["umount", place], check=True)


def read(name):
    """The reader's result and what its control group was charged."""
    with Group(name) as group, Reader(group, PLACES) as result:
        return result, group.memory()


def two(first, second, domains, words=()):
    """Both images mounted and read; (result, memory, messages)."""
    said = []
    paths = [os.path.join(IMAGES, f"{side}.{name}") for side, name in (("a", first), ("b", second))]
    for path, place, domain in zip(paths, PLACES, domains):
        done = mount(path, place, domain, *words)
        if done.returncode != 0:
            raise RuntimeError(f"{path}: {done.stderr}")
        said.append(done.stderr.strip())
    try:
        shown = [options_of(place) for place in PLACES]
        result, memory = read("reader")
        same_bytes(result, TREES)
    finally:
        umount(*PLACES)
    return result, memory, said, shown


def mb(number):
    return f"{number / 1e6:.1f}"


def pairs(expected):
    for first, second, what in CASES:
        if not all(os.path.exists(f"{IMAGES}/{name}") for name in (f"a.{first}", f"b.{second}")):
            print(f"skipped: {first} and {second}: not there")
            continue
        start = time.monotonic()
        result, memory, said, shown = two(first, second, ("one", "one"))
        frames = result["frame_bytes"]
        by_kernel = all("inode_share" in options for options in shown)
        check(by_kernel and "by inode digests" in said[0], f"{first} and {second}: auto takes the kernel's")
        good = frames == expected.whole or what == "partly" and expected.whole < frames < expected.none
        check(
            good and not result["absent_pages"],
            f"{first} and {second}: {mb(frames)} MB of {mb(expected.none)} in memory, calculated"
            f" {mb(expected.whole)}; charged: {mb(memory.file)} MB of file, {mb(memory.kernel)} MB of kernel;"
            f" {time.monotonic() - start:.0f} s",
        )


def controlled():
    """A mount that is changed goes on sharing, and is listed."""
    done = mount(f"{IMAGES}/a.lz4", PLACES[0], "one")
    assert done.returncode == 0, done.stderr
    words = ["mount", "-o", "remount,cache_strategy=disabled", PLACES[0]]
    done = subprocess.run([FERROFS, *words], stderr=subprocess.PIPE, text=True, check=False)
    options = options_of(PLACES[0])
    good = done.returncode == 0 and {"inode_share", "cache_strategy=disabled"} <= set(options)
    check(good, f"a remount keeps the sharing: {','.join(options)} {done.stderr.strip()}")
    listed = subprocess.run([FERROFS, "share", "ls"], stdout=subprocess.PIPE, text=True, check=False)
    check(PLACES[0] in listed.stdout, f"share ls: {listed.stdout.strip()}")
    umount(PLACES[0])


def apart(expected):
    result, *_ = two("lz4", "lz4", ("one", "two"))
    check(result["frame_bytes"] == expected.none, "two domains share nothing")
    result, memory, said, shown = two("undigested", "undigested", ("one", "one"))
    check(
        "inode_share" not in shown[0] and "inode digests" in said[0],
        f"images without digests: auto takes another way, {mb(result['frame_bytes'])} MB",
    )
    subprocess.run([FERROFS, "share", "stop", "one"], check=False)
    done = mount(f"{IMAGES}/a.undigested", PLACES[0], "one", "--share-by", "kernel")
    check(done.returncode == 1 and "--inode-digest" in done.stderr, "and the kernel's alone is refused")


def lies():
    """What --trust-digests means here: who comes first decides what the others read."""
    for order in (("lie", "truth"), ("truth", "lie")):
        for name, place in zip(order, PLACES):
            done = mount(f"{IMAGES}/{name}", place, "lies", "--share-by", "kernel")
            assert done.returncode == 0, done.stderr
        seen = []
        for place in PLACES:
            with open(f"{place}/file", "rb") as file:
                seen.append(file.read())
        umount(*PLACES)
        told = "what the first one holds" if seen[0] == seen[1] else "its own"
        print(f"figure: {' then '.join(order)}: the second mount reads {told}")


def main():
    os.makedirs(IMAGES)
    for name in os.listdir(WORK):
        if os.path.isfile(os.path.join(WORK, name)):
            shutil.copyfile(os.path.join(WORK, name), os.path.join(IMAGES, name))
    expected = calculate(*TREES)
    print(f"figure: trees of {mb(expected.none)} MB, {mb(expected.whole)} MB with each content once")
    pairs(expected)
    apart(expected)
    controlled()
    lies()
    print(json.dumps({"failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    FERROFS, WORK = sys.argv[1:]
    TREES = [Tree(os.path.join(WORK, side)) for side in "ab"]
    sys.exit(main())
