#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Images that are read on demand, over a link of 20 ms a request and 200 Mbit/s.

  bench/lazy.py --ferrofs target/release/ferrofs --origin target/release/examples/origin --scratch DIR

Builds an image of about --size MB from --tree and generated files, serves it by our origin (a server with
a delay for each request and a rate for all), and measures, each from an empty cache:

  first    round trips at the origin and time from `mount` to the first byte of a file
  part     5 % of the image by three patterns: bytes fetched / bytes needed
  crowd    16 readers of the same at once: bytes that the origin sent more than once
  warm     sequential and random throughput of what is there, beside a mount of the image by the kernel
  trace    with a learned trace: time to the last needed byte / (bytes / bandwidth), if this ferrofs has one

Needed are the 4 KiB blocks of the image that hold: the extents (of compressed files whole pclusters) of
what is read; the inodes, with what follows them, of those files and of all folders on the way to them;
and the data of those folders. Fetched is what the origin sent of image and digest table together, until
the reader has ended. What the origin counts, not what we count, is told. As root, with /dev/fuse.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time

import harness
from harness import BenchError
from ondemand import tree
from ondemand.image import Image
from ondemand.mounts import Mount
from ondemand.origin import RATE, Origin
from ondemand.patterns import patterns, warm
from ondemand.reading import drop, read_all

CROWD = 16
GOALS = {"fetched/needed": 1.5, "round trips": 5, "served again": 0, "warm": 0.9, "trace": 1.2}


def say(text):
    print(text, flush=True)


class Bench:
    """One run."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.tree, self.folder = os.path.join(scratch, "tree"), os.path.join(scratch, "www")
        os.mkdir(self.tree)
        os.mkdir(self.folder)
        tree.make_tree(options.tree, self.tree, options.size << 20)
        path = os.path.join(self.folder, "image.erofs")
        self.image = Image(options.ferrofs, self.tree, path, options.codec)
        self.results = {"image_bytes": self.image.size, "files": len(self.image.files)}
        self.number = 0
        self.table = [("case", "method", "what", "figure", "goal")]

    def note(self, case, method, what, figure, goal=None, wanted=None):
        self.results.setdefault(case, {}).setdefault(method, {})[what] = figure
        passed = ""
        if goal is not None:
            passed = f"{goal}: " + ("pass" if wanted(figure, goal) else "MISSED")
        shown = f"{figure:.3f}" if isinstance(figure, float) else str(figure)
        self.table.append((case, method, what, shown, passed))
        say(f"{case:14} {method:10} {what:28} {shown:>12}  {passed}")

    def lazy(self, origin, method, cache=None, more=()):
        """A lazy mount with a cache of its own, or CACHE."""
        self.number += 1
        cache = cache or os.path.join(self.scratch, f"cache.{self.number}")
        words = ["--pin", self.image.pin, "--cache-dir", cache, "--method", method]
        words += ["-o", "soft=60", *more, origin.url("image.erofs")]
        return Mount(self.image.ferrofs, words, os.path.join(self.scratch, "mnt"), cache)

    # -- cases -------------------------------------------------------------------------------

    def first(self, origin, method):
        path = self.image.files[len(self.image.files) // 2][0]
        origin.count(forget=True)
        start = time.monotonic()
        with self.lazy(origin, method) as mount:
            mounted_s = time.monotonic() - start
            with open(os.path.join(mount.folder, path), "rb", buffering=0) as file:
                file.read(1)
            first_s = time.monotonic() - start
            sent = origin.count()
        trips = sent["round_trips"]
        self.note("first", method, "round trips", trips, GOALS["round trips"], lambda f, g: f <= g)
        self.note("first", method, "mounted, s", mounted_s)
        self.note("first", method, "first byte, s", first_s)

    def part(self, origin, method, name, reads, needed):
        origin.count(forget=True)
        kept = []
        with self.lazy(origin, method) as mount:
            start = time.monotonic()
            read_all(mount.folder, reads, self.options.readers, kept=kept)
            took = time.monotonic() - start
            sent = origin.count()
        tree.compare(self.tree, kept)
        case = f"5 % {name}"
        ratio = sent["bytes"] / needed
        limit = GOALS["fetched/needed"]
        self.note(case, method, "fetched/needed", ratio, limit, lambda f, g: f <= g)
        self.note(case, method, "needed, MB", needed / 1e6)
        self.note(case, method, "requests", sent["requests"])
        self.note(case, method, "sent again, KB", sent["bytes_again"] / 1e3)
        self.note(case, method, "time/(needed/bandwidth)", took / (needed / RATE))
        self.note(case, method, "server CPU, s", mount.used.cpu_s)
        self.note(case, method, "peak memory, MiB", mount.used.peak_mib)

    def trace(self, origin, method, name, reads, needed):
        """With a learned trace: recorded on one mount, replayed on the next."""
        trace = os.path.join(self.scratch, "learned.trace")
        known = subprocess.run(
            [self.image.ferrofs, "mount", "--help"], stdout=subprocess.PIPE, check=False, text=True
        ).stdout
        if "--trace" not in known:
            say("trace: left out: this ferrofs has no `mount --trace`")
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(trace)  # else `record` merges
        with self.lazy(origin, method, more=["--record", trace]) as mount:
            read_all(mount.folder, reads, self.options.readers)
        origin.count(forget=True)
        start = time.monotonic()
        with self.lazy(origin, method, more=["--trace", trace]) as mount:
            read_all(mount.folder, reads, self.options.readers)
            took = time.monotonic() - start
            sent = origin.count()
        case = f"trace {name}"
        figure = took / (sent["bytes"] / RATE)
        limit = GOALS["trace"]
        self.note(case, method, "time/(bytes/bandwidth)", figure, limit, lambda f, g: f <= g)
        self.note(case, method, "fetched/needed", sent["bytes"] / needed)

    def crowd(self, origin, method, reads):
        origin.count(forget=True)
        with self.lazy(origin, method) as mount:
            read_all(mount.folder, reads * CROWD, CROWD, each=len(reads))
            sent = origin.count()
        again = sent["bytes_again"]
        self.note("crowd of 16", method, "sent again, bytes", again, 0, lambda f, g: f <= g)
        self.note("crowd of 16", method, "sent, MB", sent["bytes"] / 1e6)

    def warm(self, free, methods):
        """What is there, by each method and by the kernel from the image itself, in turn."""
        _, whole, _ = warm(self.image.files)
        harness.fault_in(self.image.path)
        cache = os.path.join(self.scratch, "cache.warm")
        for state in "in part", "complete":
            self.fill(free, cache, whole, state)
            self.warm_in(free, methods, cache, state)

    def fill(self, free, cache, whole, state):
        """Has a cache the large files, or everything."""
        more = ["--prefetch", "all"] if state == "complete" else []
        with self.lazy(free, "fuse", cache, more) as mount:
            read_all(mount.folder, whole, 4)
            while state == "complete":
                words = [self.image.ferrofs, "ctl", mount.folder, "stats", "--json"]
                stats = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
                if stats["store"]["present_bytes"] >= self.image.size:
                    break
                time.sleep(0.1)

    def warm_in(self, free, methods, cache, state):
        """With a cache in a state."""
        large, whole, pages = warm(self.image.files)
        best = {}
        kernel = Mount(self.image.ferrofs, ["--kernel", self.image.path], os.path.join(self.scratch, "mnt"))
        for _ in range(self.options.rounds):
            for method in ["kernel", *methods]:
                try:
                    with kernel if method == "kernel" else self.lazy(free, method, cache) as mount:
                        for what, reads in (("sequential", whole), ("random", pages)):
                            drop(mount.folder, large)
                            start = time.monotonic()
                            total = read_all(mount.folder, reads, 1)
                            rate = total / (time.monotonic() - start) / 1e6
                            key = (method, what)
                            best[key] = max(best.get(key, 0), rate)
                except BenchError as error:
                    say(f"warm, {state}, {method}: left out: {error}")
        for (method, what), rate in best.items():
            self.note(f"warm, {state}", method, f"{what}, MB/s", rate)
            if method != "kernel":
                goal = GOALS["warm"] if method != "fuse" else None
                base = best["kernel", what]
                self.note(f"warm, {state}", method, f"{what}, of the kernel's", rate / base, goal, lambda f, g: f >= g)

    def run(self):
        say(f"image: {self.image.size / 1e6:.0f} MB, {len(self.image.files)} files")
        methods, cases = self.options.methods.split(","), self.options.cases.split(",")
        with Origin(self.options.origin, self.folder) as origin:
            for method in methods if "first" in cases else []:
                with left_out("first", method):
                    self.first(origin, method)
            crowd = None
            for name, reads, needed in patterns(self.image):
                crowd = crowd or reads[:400]
                for method in methods:
                    with left_out(name, method):
                        if "part" in cases:
                            self.part(origin, method, name, reads, needed)
                        if "trace" in cases:
                            self.trace(origin, method, name, reads, needed)
            for method in methods if "crowd" in cases else []:
                with left_out("crowd", method):
                    self.crowd(origin, method, crowd)
        if "warm" in cases:
            with Origin(self.options.origin, self.folder, 0, 0) as free:
                self.warm(free, methods)


@contextlib.contextmanager
def left_out(case, method):
    """A method that does not work here is told and left out; the others go on."""
    try:
        yield
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        say(f"{case} {method}: left out: {error}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ferrofs", required=True, help="the release binary")
    parser.add_argument("--origin", required=True, help="the example `origin` of ferrofs-tests")
    parser.add_argument("--scratch", default="/var/tmp", help="where to work, on a disk")
    parser.add_argument("--tree", default="/usr", help="where files come from")
    parser.add_argument("--size", type=int, default=2400, help="MiB of files [2400: an image of 1 GB]")
    parser.add_argument("--codec", default="lz4hc")
    parser.add_argument("--methods", default="fuse,fuse-file,fanotify")
    parser.add_argument("--cases", default="first,part,trace,crowd,warm")
    parser.add_argument("--readers", type=int, default=8, help="threads that read 5 %%")
    parser.add_argument("--rounds", type=int, default=3, help="of the warm case; the best counts")
    parser.add_argument("--out", help="a file for the figures, as JSON")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    options.origin = os.path.abspath(options.origin)
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        sys.exit("lazy.py: mounting needs root and /dev/fuse")
    with harness.scratch(options.scratch) as scratch:
        bench = Bench(options, scratch)
        bench.run()
        say("\n| " + " | ".join(bench.table[0]) + " |\n|" + "---|" * 5)
        for row in bench.table[1:]:
            say("| " + " | ".join(row) + " |")
        if options.out:
            with open(options.out, "w", encoding="ascii") as file:
                json.dump(bench.results, file, indent=1)


if __name__ == "__main__":
    main()
