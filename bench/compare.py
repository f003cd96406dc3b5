#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""ferrofs against erofs-utils on one tree, in one interleaved run. bench/README.md explains it."""

import argparse
import os
import shlex
import signal
import sys
import time

import harness
import report
import tools
from harness import BenchError

KINDS = ("build", "extract", "fuse-seq", "fuse-rand")
CODECS = ("lz4", "lz4hc,9")
PCLUSTERS = {"4K": 4096, "64K": 65536}
READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reader.py")
SEED = 20260101
LARGE_FILE = 1 << 20


class Bench:
    """One run: the two sides, the tree, where to write, and the rows so far."""

    def __init__(self, options, scratch):
        self.options = options
        self.scratch = scratch
        self.tree = os.path.abspath(options.tree)
        self.sides = {"peer": self._peer("erofs-utils"), "ours": self._ours()}
        self.results = report.Results(os.path.join(options.out, "raw.csv"))
        self.listing = os.path.join(scratch, "files")
        self.entries, self.largest = list_files(self.tree, self.listing)
        self.expected = self._reader("crc", self.tree)[1:]
        self.commands = {}
        self.discarded = 0

    def _peer(self, name):
        return tools.ErofsUtils(name, self.options.peer_dir, self.options.times == "zero")

    def _ours(self):
        zero_times = self.options.times == "zero"
        if self.options.self_test:
            return self._peer("erofs-utils again")
        if self.options.drop_in:
            return tools.drop_in(self.options.ferrofs, self.scratch, zero_times)
        return tools.Ferrofs(self.options.ferrofs, zero_times)

    # -- the four kinds of case ------------------------------------------------------------

    def build(self):
        """Images of the tree: size, CPU and wall time."""
        for codec in CODECS:
            for label, pcluster in PCLUSTERS.items():
                self._build_case(f"build {codec} {label}", codec, pcluster)

    def _build_case(self, case, codec, pcluster):
        def once(side, number):
            image = self._path(f"build.{side}.erofs")
            argv, executable = self.sides[side].build(
                self.tree, image, codec, pcluster, self.options.workers
            )
            self._remember(case, side, argv)
            usage = harness.run(argv, executable)
            size = os.stat(image).st_size
            if number == 0 and self.options.verify:
                self._verify_image(image)
            os.unlink(image)
            self.results.add(case, side, number, usage, image_bytes=size)

        self._rounds(case, once)

    def extract(self):
        """The whole image to a folder, data and metadata."""
        for codec, label in (("lz4", "4K"), ("lz4hc,9", "64K"), ("lz4", "1M")):
            self._extract_case(f"extract {codec} {label}", self._image(codec, label))

    def _extract_case(self, case, image):
        def once(side, number):
            folder = self._path(f"extract.{side}")
            argv, executable = self.sides[side].extract(image, folder, self.options.workers)
            self._remember(case, side, argv)
            os.mkdir(folder)
            self._ready(image)
            usage = harness.run(argv, executable)
            if number == 0 and self.options.verify:
                self._verify_tree(folder)
            self._discard(folder)
            self.results.add(case, side, number, usage)

        self._rounds(case, once)

    def fuse_seq(self):
        """Every byte of every file through FUSE, files in the order of their names."""
        for label in ("4K", "1M"):
            self._fuse_case(f"fuse-seq-{label} lz4", self._image("lz4", label), ["seq"])

    def fuse_rand(self):
        """4 KiB preads at seeded places, large pclusters: in all files, and in large files."""
        image = self._image("lz4", "1M")
        rand = ["rand", str(self.options.reads), str(SEED)]
        self._fuse_case("fuse-rand-1M lz4 all files", image, [*rand, "1"])
        if self.largest >= LARGE_FILE:
            large = [*rand, str(LARGE_FILE)]
            self._fuse_case("fuse-rand-1M lz4 files over 1 MiB", image, large)
        else:
            log("fuse-rand: no file over 1 MiB in the tree: that case is left out")

    def _fuse_case(self, case, image, arguments):
        folder = self._path("mnt")
        os.makedirs(folder, exist_ok=True)
        what, *more = arguments
        wanted = self._reader(what, self.tree, *more)[1:] if what == "rand" else None

        def once(side, number):
            argv, executable = self.sides[side].mount(image, folder)
            self._remember(case, side, argv)
            if number == 0 and self.options.verify:
                with harness.FuseMount(argv, folder, executable):
                    self._expect(self._reader("crc", folder)[1:], self.expected, argv)
            self._ready(image)
            with harness.FuseMount(argv, folder, executable) as mount:
                seconds, total, reads, crc = self._reader(what, folder, *more)
            if wanted is not None:
                self._expect((total, reads, crc), wanted, argv)
            usage = mount.usage._replace(wall_s=seconds)
            self.results.add(case, side, number, usage, read_bytes=total)

        self._rounds(case, once)

    # -- what they share --------------------------------------------------------------------

    def _rounds(self, case, once):
        """A warm-up of each side, then rounds; who goes first changes every round."""
        for number in range(self.options.rounds + 1):
            order = ("peer", "ours") if number % 2 == 0 else ("ours", "peer")
            for side in order:
                log(f"{case}: {side}: round {number}" + ("" if number else " (warm-up)"))
                once(side, number)

    def _path(self, name):
        return os.path.join(self.scratch, name)

    def _image(self, codec, label):
        """An image both sides read, made once by the side that --image-from names."""
        pcluster = {**PCLUSTERS, "1M": 1 << 20}[label]
        image = self._path(f"{codec}.{label}.erofs".replace(",", "-"))
        if not os.path.exists(image):
            side = self.sides[self.options.image_from]
            log(f"{side.name} makes the image {codec} {label}")
            harness.run(*side.build(self.tree, image, codec, pcluster, self.options.workers))
        return image

    def _ready(self, image):
        """The image in the page cache, or out of it; earlier output written back."""
        os.sync()
        if self.options.cold:
            harness.drop_file(image)
        else:
            harness.fault_in(image)

    def _reader(self, what, root, *more):
        """Runs reader.py; returns (seconds, bytes, reads, CRC)."""
        argv = [sys.executable, READER, what, root, self.listing, *more]
        output = harness.run_reader(argv, self.options.reader_timeout)
        seconds, total, reads, crc = output.split()
        return float(seconds), int(total), int(reads), crc

    def _verify_image(self, image):
        """A small image that is wrong is worth nothing: the peer's own reader must agree."""
        folder = self._path("verify")
        os.mkdir(folder)
        argv, executable = self.sides["peer"].extract(image, folder, self.options.workers)
        harness.run(argv, executable)
        self._verify_tree(folder)
        self._discard(folder)

    def _verify_tree(self, folder):
        self._expect(self._reader("crc", folder)[1:], self.expected, [folder])
        found = sum(len(folders) + len(files) for _, folders, files in os.walk(folder))
        self._expect(found, self.entries, [folder])

    def _discard(self, folder):
        """Puts a tree aside until the end of the run.

        Deleting it now would spoil the next extraction: for a minute ext4 steps over every inode
        lately deleted whenever it makes a new one, which takes several times the time of the work.
        """
        self.discarded += 1
        os.rename(folder, self._path(f"discarded.{self.discarded}"))
        free = os.statvfs(self.scratch)
        if free.f_bavail * free.f_frsize < 2 * self.expected[0]:
            raise BenchError(f"{self.scratch}: free space runs out; --scratch names another")

    @staticmethod
    def _expect(found, wanted, argv):
        if found != wanted:
            raise BenchError(f"{' '.join(argv)}: wrong data: {found}, expected {wanted}")

    def _remember(self, case, side, argv):
        text = shlex.join(argv).replace(self.scratch, "SCRATCH").replace(self.tree, "TREE")
        self.commands[case, side] = text

    def summary(self):
        """Writes and returns summary.md, and the goals that were missed."""
        lines, missed = report.table(self.results, self.sides["peer"].name, self.sides["ours"].name)
        options = self.options
        head = [
            "# ferrofs and erofs-utils side by side\n",
            f"- date: {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
            f"- ours: {self.sides['ours'].version()}",
            f"- theirs: {self.sides['peer'].version()} ({tools.libraries(self.sides['peer'])})",
            f"- tree: {self.entries} entries, {self.expected[1]} files, "
            f"{self.expected[0] / 1e6:.1f} MB",
            f"- best of {options.rounds} interleaved rounds after a warm-up; "
            f"{options.workers} workers; times of files: {options.times}; "
            f"images to read made by: {options.image_from}; "
            f"{options.reads} random reads a round; "
            f"image {'not in' if options.cold else 'in'} the page cache",
            f"- load average at the end: {os.getloadavg()[0]:.2f}\n",
        ]
        tail = ["\n## Commands\n"]
        tail += [f"- {case}, {side}: `{text}`" for (case, side), text in self.commands.items()]
        tail += ["\n## Machine\n", report.machine()]
        text = "\n".join(head) + "\n" + lines + "\n".join(tail)
        with open(os.path.join(options.out, "summary.md"), "w", encoding="utf-8") as file:
            file.write(text)
        return lines, missed


def list_files(tree, listing):
    """Writes the regular files of TREE for reader.py; returns (entries, size of the largest)."""
    root = os.fsencode(tree)
    files, entries = [], 0
    for folder, folders, names in os.walk(root):
        entries += len(folders) + len(names)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                files.append((os.path.relpath(path, root), os.stat(path).st_size))
    if not any(size for _, size in files):
        raise BenchError(f"{tree}: no files with content to measure")
    with open(listing, "wb") as file:
        file.writelines(b"%d %s\0" % (size, name) for name, size in sorted(files))
    return entries, max(size for _, size in files)


def log(text):
    print(text, file=sys.stderr, flush=True)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ferrofs", help="our binary, a release build")
    parser.add_argument("--peer-dir", required=True, help="folder of erofs-utils' binaries")
    parser.add_argument("--tree", required=True, help="the tree to build images of")
    parser.add_argument("--out", required=True, help="folder for raw.csv and summary.md")
    parser.add_argument("--scratch", help="where images and extracted trees go (default: --out)")
    parser.add_argument("--only", default=",".join(KINDS), help=f"of: {','.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=3, help="judged rounds a case (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="threads for build and extract")
    parser.add_argument("--reads", type=int, default=20000, help="random reads (default 20000)")
    parser.add_argument("--reader-timeout", type=float, default=900, metavar="SECONDS",
                        help="give up on a file system that hangs (default 900)")
    parser.add_argument("--times", choices=("keep", "zero"), default="keep",
                        help="keep the files' times, or set all to 0 (smaller inodes), both sides")
    parser.add_argument("--image-from", choices=("peer", "ours"), default="peer",
                        help="who makes the images that extract and fuse-* read")
    parser.add_argument("--drop-in", action="store_true",
                        help="call ferrofs by erofs-utils' names: equal command lines")
    parser.add_argument("--cold", action="store_true",
                        help="image out of the page cache before reading (default: in it)")
    parser.add_argument("--no-verify", dest="verify", action="store_false",
                        help="skip the comparison of all data in the warm-up round")
    parser.add_argument("--self-test", action="store_true",
                        help="erofs-utils on both sides: tests the benchmark and shows its noise")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(KINDS):
        parser.error(f"--only: unknown: {','.join(sorted(unknown))}")
    if options.rounds < 1 or options.workers < 1 or options.reads < 1:
        parser.error("--rounds, --workers and --reads are at least 1")
    if not options.self_test and not options.ferrofs:
        parser.error("--ferrofs is needed (or --self-test)")
    return options


def terminated(_signum, _frame):
    """SIGTERM takes the way of an exception, so that every `finally` runs."""
    sys.exit(143)


def main(arguments):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminated)
    os.makedirs(options.out, exist_ok=True)
    with harness.scratch(options.scratch or options.out) as scratch:
        bench = Bench(options, os.path.abspath(scratch))
        try:
            for kind in KINDS:
                if kind in options.only:
                    getattr(bench, kind.replace("-", "_"))()
        finally:
            lines, missed = bench.summary()
            bench.results.close()
    print(lines)
    for goal in missed:
        log(f"missed: {goal}")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"compare.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
