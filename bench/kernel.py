#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Throughput through FUSE as a part of the throughput of the kernel's EROFS, on the same images.

The whole tree by one reader that walks it (as tar does), by one and by two that know the paths (and so
look up each), and 20,000 random reads of 4 KiB; each round
mounts anew, so that no file is cached, while the image is. As root.

  bench/kernel.py --ferrofs target/release/ferrofs --mkfs mkfs.erofs --tree TREE --scratch DIR
"""
import argparse, os, subprocess, sys
from pathlib import Path

from compare import list_files

READER = Path(__file__).with_name("reader.py")


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def server_cpu(target):
    """CPU seconds so far of the FUSE server of a mount."""
    ticks = os.sysconf("SC_CLK_TCK")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(target).encode() in words and words[0].endswith((b"ferrofs", b"erofsfuse")):
                fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
                return (int(fields[11]) + int(fields[12])) / ticks
        except OSError:
            continue
    return 0.0


def read(what, target, lists, more):
    """Readers side by side, one for each list: seconds of the slowest, bytes of all."""
    children = [
        subprocess.Popen([sys.executable, "-B", READER, what, target, listing, *more],
                         stdout=subprocess.PIPE, text=True)
        for listing in lists
    ]
    seconds, total = 0.0, 0
    for child in children:
        words = child.communicate()[0].split()
        if child.returncode != 0:
            sys.exit("a reader failed")
        seconds, total = max(seconds, float(words[0])), total + int(words[1])
    return seconds, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ferrofs", type=Path, required=True)
    parser.add_argument("--mkfs", default="mkfs.erofs", help="mkfs.erofs, so that the images are not ours")
    parser.add_argument("--erofsfuse", help="erofsfuse, to be measured too")
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codecs", default="lz4,zstd,lzma")
    parser.add_argument("--pcluster", type=int, default=65536)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=OPTIONS",
                        help="one more FUSE mount with these -o options, called NAME")
    arguments = parser.parse_args()
    scratch = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / "mnt"
    target.mkdir(exist_ok=True)
    ferrofs = arguments.ferrofs
    sides = {
        "kernel": [ferrofs, "mount", "--kernel"],
        "fuse": [ferrofs, "mount", "--fuse"],
    }
    for text in arguments.option:
        name, options = text.split("=", 1)
        sides[name] = [ferrofs, "mount", "--fuse", "-o", options]
    if arguments.erofsfuse:
        sides["erofsfuse"] = [arguments.erofsfuse]
    whole = scratch / "list"
    list_files(arguments.tree, whole)
    records = whole.read_bytes().split(b"\0")[:-1]
    halves = [scratch / "list-0", scratch / "list-1"]
    for index, half in enumerate(halves):
        half.write_bytes(b"".join(record + b"\0" for record in records[index::2]))
    cases = {
        "all, walking": ("walk", [whole], []),
        "all, 1 reader": ("seq", [whole], []),
        "all, 2 readers": ("seq", halves, []),
        "random 4 KiB": ("rand", [whole], ["20000", "7", "1"]),
    }
    print("| image | case | " + " | ".join(f"{side} MB/s" for side in sides)
          + " | " + " | ".join(f"{side}/kernel" for side in sides if side != "kernel")
          + " | server CPU s |")
    print("|---|---|" + "---|" * (2 * len(sides)))
    for codec in arguments.codecs.split(","):
        image = scratch / f"{codec}.erofs"
        if not image.exists():
            run(arguments.mkfs, f"-z{codec}", f"-C{arguments.pcluster}", "--quiet", image, arguments.tree)
        for case, (what, lists, more) in cases.items():
            best = dict.fromkeys(sides, 0.0)
            cpu = {}
            for _ in range(arguments.rounds):
                for side, command in sides.items():
                    image.read_bytes()
                    run(*command, image, target, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    try:
                        seconds, total = read(what, target, lists, more)
                        used = server_cpu(target)
                    finally:
                        run("umount", target)
                    best[side] = max(best[side], total / seconds / 1e6)
                    cpu[side] = min(cpu.get(side, used), used)
            ratios = [f"{best[side] / best['kernel']:.2f}" for side in sides if side != "kernel"]
            shown = ", ".join(f"{side} {cpu[side]:.2f}" for side in sides if side != "kernel")
            print(f"| {codec} | {case} | " + " | ".join(f"{best[side]:.0f}" for side in sides)
                  + " | " + " | ".join(ratios) + f" | {shown} |", flush=True)


if __name__ == "__main__":
    main()
