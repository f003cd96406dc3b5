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
import random
import subprocess
import sys
import threading
import time

import harness
from harness import BenchError

BLOCK = 4096
DELAY_MS = 20
RATE = 25_000_000
SHARE = 0.05
CROWD = 16
PIECE = 128 << 10
GOALS = {"fetched/needed": 1.5, "round trips": 5, "served again": 0, "warm": 0.9, "trace": 1.2}


def say(text):
    print(text, flush=True)


# -- the image -------------------------------------------------------------------------------


def make_tree(source, folder, size):
    """Links files of SOURCE, in the order of their names, into FOLDER until they have SIZE bytes, and
    generates a tenth of that: half of it random, half of it text."""
    taken = 0
    for root, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            target = os.path.join(folder, os.path.relpath(path, "/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                os.link(path, target)
            except OSError:
                subprocess.run(["cp", "-p", path, target], check=True)
            taken += os.stat(target).st_size
        if taken >= size:
            break
    make = random.Random(4)
    words = [make.randbytes(make.randrange(2, 9)).hex() for _ in range(4000)]
    os.makedirs(os.path.join(folder, "generated"))
    for number in range(max(1, taken // 10 // (4 << 20))):
        with open(os.path.join(folder, "generated", f"{number:03}"), "wb") as file:
            if number % 2:
                file.write(make.randbytes(4 << 20))
            else:
                file.write(" ".join(make.choices(words, k=400_000)).encode()[: 4 << 20])


class Image:
    """The image, its pin, and where everything of it lies."""

    def __init__(self, options, scratch):
        self.ferrofs = options.ferrofs
        tree = os.path.join(scratch, "tree")
        os.mkdir(tree)
        make_tree(options.tree, tree, options.size << 20)
        self.folder = os.path.join(scratch, "www")
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "image.erofs")
        words = ["build", tree, "-o", self.path, "--digests", "--json", "-z", options.codec, "-C", "64K"]
        self.pin = json.loads(self.run(*words))["pin"]
        self.size = os.stat(self.path).st_size
        self.files = []
        for root, _, names in os.walk(tree):
            for name in names:
                path = os.path.join(root, name)
                self.files.append((os.path.relpath(path, tree), os.stat(path).st_size))
        self.files.sort()
        self.inodes = json.loads(self.run("dump", "--json", "-s", self.path))["superblock"]
        self.known = {}

    def run(self, *words):
        return subprocess.run(
            [self.ferrofs, *words], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def learn(self, paths):
        """Where PATHS lie: `ferrofs dump`, many at a time."""
        paths = [path for path in paths if path not in self.known]
        for start in range(0, len(paths), 1000):
            words = [w for path in paths[start : start + 1000] for w in ("-e", "/" + path)]
            for path, file in zip(
                paths[start : start + 1000],
                json.loads(self.run("dump", "--json", *words, self.path))["files"],
            ):
                self.known[path] = file

    def blocks(self, path, offset=0, length=1 << 62):
        """The blocks that a read of PATH needs: data and the way to it."""
        needed = {0}
        parts = path.split("/")
        ways = ["/".join(parts[:count]) for count in range(len(parts))] if path else []
        self.learn([path, *ways])
        for name in [path, *ways]:
            file = self.known[name]
            inode = self.base() + file["nid"] * 32
            compressed = file["layout"].startswith("compressed")
            index = -(-file["size"] // BLOCK) * 2 if compressed else 0
            needed.update(range(inode // BLOCK, (inode + 64 + index) // BLOCK + 1))
            for extent in file["extents"]:
                inside = extent["start"] < offset + length and extent["start"] + extent["len"] > offset
                if extent.get("device") is None or not (inside or name != path):
                    continue
                first, last = extent["address"], extent["address"] + extent["encoded_len"] - 1
                if not compressed and name == path:  # of plain files only what is read
                    first = max(first, extent["address"] + offset - extent["start"])
                    last = min(last, extent["address"] + offset + length - extent["start"] - 1)
                needed.update(range(first // BLOCK, last // BLOCK + 1))
        return needed

    def base(self):
        """Where the inodes begin."""
        found = self.inodes
        return found.get("meta_blkaddr", found.get("meta_block", 0)) * BLOCK


# -- the origin and mounts -------------------------------------------------------------------


class Origin:
    """Our origin as a process."""

    def __init__(self, program, folder, delay_ms=DELAY_MS, rate=RATE):
        words = [program, folder, str(delay_ms), str(rate)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.address = self.process.stdout.readline().strip()

    def url(self, name):
        return f"http://{self.address}/{name}"

    def count(self, forget=False):
        """What was sent since the last time that it was to forget."""
        self.process.stdin.write("forget\n" if forget else "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def list(self):
        """Each request: what, from which byte on, how many, and when it began and ended in ms."""
        self.process.stdin.write("list\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def servers(mark):
    """The processes that have MARK in their arguments: keeper and worker of one mount."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if os.fsencode(mark) in file.read().split(b"\0") and int(name) != os.getpid():
                    found.append(int(name))
    return found


def children(pids):
    """PIDS and all their descendants."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def usage(pids):
    """CPU seconds so far and peak memory in MiB of PIDS together."""
    cpu, memory = 0.0, 0
    for pid in children(pids):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                memory += next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    return round(cpu, 2), round(memory / 1024, 1)


class Mount:
    """A mount for the length of a `with` block; `cpu_s`, `rss_mib`: of its servers, at its end."""

    def __init__(self, image, words, folder, mark=None):
        self.image, self.words, self.folder, self.mark = image, words, folder, mark
        self.cpu_s = self.rss_mib = 0
        os.makedirs(folder, exist_ok=True)

    def __enter__(self):
        words = [self.image.ferrofs, "mount", "-q", *self.words, self.folder]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=120, check=False, text=True,
        )
        if done.returncode != 0:
            raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")
        return self

    def __exit__(self, *_):
        if self.mark:
            self.cpu_s, self.rss_mib = usage(servers(self.mark))
        subprocess.run([self.image.ferrofs, "umount", self.folder], check=False, timeout=60)
        if harness.is_mounted(self.folder):
            subprocess.run(["umount", "-l", self.folder], check=False, timeout=60)


class Bench:
    """One run."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.image = Image(options, scratch)
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
        return Mount(self.image, words, os.path.join(self.scratch, "mnt"), cache)

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

    def patterns(self):
        """Name and list of (path, offset, length), 5 % of the image each by the bytes needed."""
        choose = random.Random(5)
        small = [path for path, size in self.image.files if 0 < size <= 64 << 10]
        choose.shuffle(small)
        yield "small files", self._until((path, 0, 1 << 62) for path in small[:40_000])
        folders = {}
        for path, size in self.image.files:
            if size:
                folders.setdefault(os.path.dirname(path), []).append(path)
        names = sorted(folders)
        choose.shuffle(names)
        # As an interpreter starts: most files of a folder in order, then the next folder.
        walk = (
            (path, 0, 1 << 62)
            for name in names
            for path in folders[name]
            if choose.random() < 0.7
        )
        yield "by folder", self._until(walk)
        large = [(path, size) for path, size in self.image.files if size >= BLOCK]
        picks = choose.choices(large, [size for _, size in large], k=40_000)
        pages = ((path, choose.randrange(size // BLOCK) * BLOCK, BLOCK) for path, size in picks)
        yield "random pages", self._until(pages)

    def _until(self, reads):
        taken, needed = [], set()
        reads = iter(reads)
        while len(needed) * BLOCK < self.image.size * SHARE:
            some = [read for _, read in zip(range(500), reads)]
            if not some:
                break
            ways = {"/".join(path.split("/")[:n]) for path, _, _ in some for n in range(path.count("/") + 1)}
            self.image.learn([*dict.fromkeys(path for path, _, _ in some), *sorted(ways)])
            for read in some:
                needed |= self.image.blocks(*read)
                taken.append(read)
                if len(needed) * BLOCK >= self.image.size * SHARE:
                    break
        return taken, len(needed) * BLOCK

    def part(self, origin, method, name, reads, needed):
        origin.count(forget=True)
        with self.lazy(origin, method) as mount:
            start = time.monotonic()
            read_all(mount.folder, reads, self.options.readers)
            took = time.monotonic() - start
            sent = origin.count()
        case = f"5 % {name}"
        ratio = sent["bytes"] / needed
        limit = GOALS["fetched/needed"]
        self.note(case, method, "fetched/needed", ratio, limit, lambda f, g: f <= g)
        self.note(case, method, "needed, MB", needed / 1e6)
        self.note(case, method, "requests", sent["requests"])
        self.note(case, method, "sent again, KB", sent["bytes_again"] / 1e3)
        self.note(case, method, "time/(needed/bandwidth)", took / (needed / RATE))
        self.note(case, method, "server CPU, s", mount.cpu_s)
        self.note(case, method, "peak memory, MiB", mount.rss_mib)

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
        large = sorted((size, path) for path, size in self.image.files)[-40:]
        choose = random.Random(6)
        pages = [
            (path, choose.randrange(size // BLOCK) * BLOCK, BLOCK)
            for size, path in choose.choices(large, [size for size, _ in large], k=20_000)
        ]
        whole = [(path, 0, 1 << 62) for _, path in large]
        harness.fault_in(self.image.path)
        cache = os.path.join(self.scratch, "cache.warm")
        with self.lazy(free, "fuse", cache) as mount:
            read_all(mount.folder, whole, 4)
        best = {}
        kernel = Mount(self.image, ["--kernel", self.image.path], os.path.join(self.scratch, "mnt"))
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
                    say(f"warm {method}: left out: {error}")
        for (method, what), rate in best.items():
            self.note("warm", method, f"{what}, MB/s", rate)
            if method != "kernel":
                goal = GOALS["warm"] if method != "fuse" else None
                base = best["kernel", what]
                self.note("warm", method, f"{what}, of the kernel's", rate / base, goal, lambda f, g: f >= g)

    def run(self):
        say(f"image: {self.image.size / 1e6:.0f} MB, {len(self.image.files)} files")
        methods = self.options.methods.split(",")
        with Origin(self.options.origin, self.image.folder) as origin:
            for method in methods:
                with left_out("first", method):
                    self.first(origin, method)
            crowd = None
            for name, (reads, needed) in self.patterns():
                crowd = crowd or reads[:400]
                for method in methods:
                    with left_out(name, method):
                        self.part(origin, method, name, reads, needed)
                        self.trace(origin, method, name, reads, needed)
            for method in methods:
                with left_out("crowd", method):
                    self.crowd(origin, method, crowd)
        with Origin(self.options.origin, self.image.folder, 0, 0) as free:
            self.warm(free, methods)


@contextlib.contextmanager
def left_out(case, method):
    """A method that does not work here is told and left out; the others go on."""
    try:
        yield
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        say(f"{case} {method}: left out: {error}")


# -- reading ---------------------------------------------------------------------------------


def read_one(root, read, buffer):
    path, offset, length = read
    handle = os.open(os.path.join(root, path), os.O_RDONLY)
    try:
        if length <= BLOCK:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        total = 0
        while total < length:
            got = os.preadv(handle, [buffer[: min(len(buffer), length - total)]], offset + total)
            if not got:
                break
            total += got
        return total
    finally:
        os.close(handle)


def read_all(root, reads, readers, each=None):
    """Reads what READS tells by so many threads: each the next one, or each EACH of its own."""
    todo, errors, totals = iter(reads), [], []
    lock = threading.Lock()

    def work(index):
        buffer = memoryview(bytearray(PIECE))
        total = 0
        try:
            if each is not None:
                for read in reads[index * each : (index + 1) * each]:
                    total += read_one(root, read, buffer)
            else:
                while True:
                    with lock:
                        read = next(todo, None)
                    if read is None or errors:
                        break
                    total += read_one(root, read, buffer)
        except OSError as error:
            errors.append(error)
        totals.append(total)

    threads = [threading.Thread(target=work, args=[index]) for index in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise BenchError(f"a read failed: {errors[0]}")
    return sum(totals)


def drop(root, files):
    """Out of the page cache of the mount; what is below it stays."""
    for _, path in files:
        handle = os.open(os.path.join(root, path), os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


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
    parser.add_argument("--methods", default="fuse,fuse-file")
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
