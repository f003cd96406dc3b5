#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Images read on demand, ours and those of Nydus: same tree, origin and link, side by side.

  bench/nydus.py --ferrofs target/release/ferrofs --origin target/release/examples/origin \\
      --nydus2 DIR --nydus3 DIR --folder DIR --out FILE [WAY ...]

Makes tree and images in --folder (what is there already is used again), then measures each way to read
them, each case from an empty cache unless it says otherwise:

  first    from the start of the mount command to the first byte of a file
  part     5 % of an image of ours by three patterns: the same reads for all
  learned  the same once more, from the start of the mount command on, with what was learned from reading
           it before: our trace; a list of files for nydusd; an image with an `ondemand` blob of nydus v3
  all      the second pattern while everything else is fetched in the background
  warm     sequential and random throughput of what is there
  killed   kill -9 of the server among 8 readers

Bytes and requests are counted at the origin, metadata included, until the reader has ended. Every byte
that was read is compared with the tree, after the clock has stopped. Figures go to --out as JSON, beside
those of other ways that are there; --table prints all. See bench/README.md. As root, with /dev/fuse.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import harness
from harness import BenchError
from ondemand import tree
from ondemand.image import Image
from ondemand.mounts import children, servers
from ondemand.nydus import Nydus2, Nydus3
from ondemand.origin import Origin
from ondemand.patterns import patterns, warm
from ondemand.reading import PIECE, drop, read_all, read_one
from ondemand.ways import Ferrofs

READERS = 8
KILL_AFTER_S = 1.0
HANG_S = 45
CASES = ("first", "part", "learned", "all", "warm", "killed")


def say(text):
    print(text, flush=True)


def known_ways(options, place):
    found = [Ferrofs(options, place, method, codec)
             for codec in ("lz4", "zstd") for method in ("fuse", "fuse-file")]
    found.append(Ferrofs(options, place, "fanotify", "zstd"))
    if options.nydus2:
        found += [Nydus2(options, place, codec, chunk)
                  for chunk in (1 << 20, 64 << 10) for codec in ("lz4_block", "zstd")]
    if options.nydus3:
        found += [Nydus3(options, place, "fuse", 4 << 20), Nydus3(options, place, "fuse", 1 << 20),
                  Nydus3(options, place, "fanotify", 4 << 20)]
    return {way.name: way for way in found}


class Bench:
    """Measures one way; figures by case."""

    def __init__(self, options, way, reads, caches):
        self.options, self.way, self.reads, self.caches = options, way, reads, caches
        self.figures, self.number = {}, 0

    def note(self, case, **figures):
        self.figures[case] = {name: round(figure, 3) if isinstance(figure, float) else figure
                              for name, figure in figures.items()}
        say(f"{self.way.name:24} {case:22} " + ", ".join(f"{k} {v}" for k, v in self.figures[case].items()))

    @contextlib.contextmanager
    def cache(self):
        """The name of an empty cache, and of what lies beside it."""
        self.number += 1
        name = f"{os.getpid()}-{self.number}"
        try:
            yield os.path.join(self.caches, name)
        finally:
            for found in os.listdir(self.caches):
                if found.split(".")[0] == name:
                    path = os.path.join(self.caches, found)
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def first(self, origin):
        files = self.reads["files"]
        path = files[len(files) // 2][0]
        with self.cache() as cache:
            origin.count(forget=True)
            start = time.monotonic()
            with self.way.mounted(origin, cache) as mount:
                mounted_s = time.monotonic() - start
                with open(os.path.join(mount.folder, path), "rb", buffering=0) as file:
                    file.read(1)
                first_s = time.monotonic() - start
                sent = origin.count()
        self.note("first", mounted_s=mounted_s, first_s=first_s, chain=sent["round_trips"],
                  requests=sent["requests"], sent_mb=sent["bytes"] / 1e6)

    def part(self, origin, name, cache, case="part", **how):
        """From the mount on: after it by default, with it where it has something to do ahead."""
        reads, kept = self.reads["patterns"][name], []
        origin.count(forget=True)
        begun = time.monotonic()
        with self.way.mounted(origin, cache, **how) as mount:
            mounted = time.monotonic()
            read_all(mount.folder, reads, READERS, kept=kept)
            ended = time.monotonic()
            sent = origin.count()
        wanted = sum(len(data) for _, _, _, data in kept)
        tree.compare(self.way.tree, kept)
        self.note(f"{case} {name}", sent_mb=sent["bytes"] / 1e6, wanted_mb=wanted / 1e6,
                  sent_of_wanted=sent["bytes"] / wanted, requests=sent["requests"],
                  read_s=ended - mounted, with_mount_s=ended - begun, again_mb=sent["bytes_again"] / 1e6,
                  cpu_s=mount.used.cpu_s, peak_mib=mount.used.peak_mib, anonymous_mib=mount.used.anonymous_mib)

    def parts(self, origin):
        for name in self.reads["patterns"]:
            with self.cache() as cache:
                self.part(origin, name, cache)

    def learned(self, origin):
        for name, reads in self.reads["patterns"].items():
            with self.cache() as before, self.cache() as cache:
                learned = self.way.learn(origin, before, reads, READERS)
                self.part(origin, name, cache, "learned", learned=learned)

    def all(self, origin):
        with self.cache() as cache:
            self.part(origin, "by folder", cache, "all", everything=True)

    def warm(self, free):
        paths, whole, pages = warm(self.reads["files"])
        best = {}
        with self.cache() as cache:
            kept = []
            with self.way.mounted(free, cache) as mount:
                read_all(mount.folder, whole + pages, 4, kept=kept)
            tree.compare(self.way.tree, kept)
            for _ in range(self.options.rounds):
                with self.way.mounted(free, cache) as mount:
                    for what, reads in (("sequential", whole), ("random", pages)):
                        drop(mount.folder, paths)
                        start = time.monotonic()
                        total = read_all(mount.folder, reads, 1)
                        rate = total / (time.monotonic() - start) / 1e6
                        best[what] = max(best.get(what, 0), rate)
                best["cpu_s"] = min(best.get("cpu_s", 1e9), mount.used.cpu_s)
                best["peak_mib"] = mount.used.peak_mib
        self.note("warm", sequential_mb_s=best["sequential"], random_mb_s=best["random"],
                  cpu_s=best["cpu_s"], peak_mib=best["peak_mib"])

    def killed(self, origin):
        with self.cache() as cache:
            self._killed(origin, cache, "killed", lambda mount: [mount.server()])
        if isinstance(self.way, Ferrofs):
            with self.cache() as cache:
                self._killed(origin, cache, "killed with keeper", lambda mount: children(servers(mount.mark)))
        if isinstance(self.way, Nydus2):
            with self.cache() as cache:
                self._killed(origin, cache, "killed, supervised", lambda mount: [mount.server()], supervised=True)

    def _killed(self, origin, cache, case, victims, **how):
        reads = self.reads["patterns"]["small files"][:2500]
        todo, lock, ended = iter(reads[1:]), threading.Lock(), threading.Event()
        kept, errors, longest, after = [], {}, [0.0], [0]

        def work(folder):
            buffer = memoryview(bytearray(PIECE))
            while True:
                with lock:
                    read = next(todo, None)
                if read is None:
                    return
                start = time.monotonic()
                try:
                    read_one(folder, read, buffer, kept)
                    after[0] += ended.is_set()
                except OSError as error:
                    with lock:
                        errors[error.strerror] = errors.get(error.strerror, 0) + 1
                longest[0] = max(longest[0], time.monotonic() - start)

        with self.way.mounted(origin, cache, **how) as mount:
            threads = [threading.Thread(target=work, args=[mount.folder], daemon=True) for _ in range(READERS)]
            for thread in threads:
                thread.start()
            time.sleep(KILL_AFTER_S)
            for pid in victims(mount):
                os.kill(pid, signal.SIGKILL)
            ended.set()
            mount.recover()
            deadline = time.monotonic() + HANG_S
            for thread in threads:
                thread.join(max(0, deadline - time.monotonic()))
            hung = sum(thread.is_alive() for thread in threads)
            probe = ["cat", os.path.join(mount.folder, reads[0][0])]
            try:
                done = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20, check=False)
                usable = "yes" if done.returncode == 0 else done.stderr.decode().strip().rpartition(": ")[2]
            except subprocess.TimeoutExpired:
                usable = "hangs"
        wrong = {path for path, _ in tree.wrong(self.way.tree, kept)}
        self.note(case, right=len(kept) - len(wrong), wrong=len(wrong), without_error_after=after[0],
                  errors=errors, hung=hung,
                  longest_read_s=longest[0], usable_after=usable)

    def run(self, cases):
        with Origin(self.options.origin, self.way.served) as origin:
            todo = {"first": self.first, "part": self.parts, "learned": self.learned, "all": self.all,
                    "killed": self.killed}
            for case in cases:
                if case in todo:
                    self.one(case, todo[case], origin)
        if "warm" in cases:
            with Origin(self.options.origin, self.way.served, 0, 0) as free:
                self.one("warm", self.warm, free)

    def one(self, case, measure, origin):
        try:
            measure(origin)
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            say(f"{self.way.name}: {case}: left out: {error}")


def prepare(options):
    """Tree, ways and reads: made, or found in --folder."""
    place = os.path.abspath(options.folder)
    where = os.path.join(place, "tree")
    os.makedirs(os.path.join(place, "www"), exist_ok=True)
    if not os.path.exists(where):
        os.makedirs(f"{where}.partial")
        tree.make_tree(options.tree, f"{where}.partial", options.size << 20)
        os.rename(f"{where}.partial", where)
    ways = known_ways(options, place)
    for name in options.ways or ways:
        if name not in ways:
            raise BenchError(f"no way is called {name}: there are {', '.join(ways)}")
    image = Image(options.ferrofs, where, os.path.join(place, "www", "lz4.erofs"), "lz4")
    stored = os.path.join(place, "reads.json")
    if not os.path.exists(stored):
        found = {name: reads for name, reads, _ in patterns(image)}
        with open(stored, "w", encoding="utf-8") as file:
            json.dump(found, file)
    with open(stored, encoding="utf-8") as file:
        found = json.load(file)
    return place, {name: ways[name] for name in options.ways or ways}, {"patterns": found, "files": image.files}


def table(results):
    """All figures in Markdown, a table for each case."""
    cases = dict.fromkeys(case for figures in results.values() for case in figures)
    for case in cases:
        rows = {way: figures[case] for way, figures in results.items() if case in figures}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        say(f"\n| {case} | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
        for way, row in rows.items():
            say(f"| {way} | " + " | ".join(str(row.get(name, "")) for name in names) + " |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferrofs", required=True, help="the release binary")
    parser.add_argument("--origin", required=True, help="the example `origin` of ferrofs-tests")
    parser.add_argument("--nydus2", help="the folder with nydusd and nydus-image")
    parser.add_argument("--nydus3", help="the folder with nydus, of the branch v3")
    parser.add_argument("--folder", required=True, help="for tree and images, on a disk; kept")
    parser.add_argument("--caches", default="/var/tmp", help="where caches are made [/var/tmp]")
    parser.add_argument("--tree", default="/usr", help="where files come from")
    parser.add_argument("--size", type=int, default=1750, help="MiB of files [1750: an image of 1 GB]")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of the warm case; the best counts")
    parser.add_argument("--out", required=True, help="a file for the figures, as JSON")
    parser.add_argument("--table", action="store_true", help="print the figures of --out when done")
    parser.add_argument("ways", nargs="*", metavar="WAY", help="default: all that are here")
    options = parser.parse_args()
    for program in ("ferrofs", "origin", "nydus2", "nydus3"):
        if getattr(options, program):
            setattr(options, program, os.path.abspath(getattr(options, program)))
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        sys.exit("nydus.py: mounting needs root and /dev/fuse")
    results = {}
    with contextlib.suppress(FileNotFoundError), open(options.out, encoding="utf-8") as file:
        results = json.load(file)
    _, ways, reads = prepare(options)
    cases = options.cases.split(",") if options.cases else []
    for way in ways.values():
        sizes = way.build()
        figures = results.setdefault(way.name, {})
        figures["image"] = {f"{name}_mb": round(size / 1e6, 1) for name, size in sizes.items()}
        say(f"{way.name:24} {figures['image']}")
        with harness.scratch(options.caches) as caches:
            bench = Bench(options, way, reads, caches)
            bench.run(cases)
        figures |= bench.figures
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    if options.table:
        table(results)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"nydus.py: {error}")
