#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Device bytes of the engine's cache strategies beside those of the kernel's EROFS, on the same images.

Each 4 KiB page of one 134 MB file is read once in random order, and 100,000 pages are read by a zipf
(0.9) distribution in limited memory. What is compared are bytes read from the device, which do not
depend on how busy the machine is. As root the kernel's are measured in the same run, by a loop device
with direct I/O (and a memory cgroup for the second table); otherwise that is left out.

  bench/engine.py --measure target/release/examples/measure --mkfs mkfs.erofs --scratch DIR
  bench/engine.py ... --tensorflow     the file that the published figures are about (220 MB download)
  bench/engine.py ... --file FILE      another file, of which the first 134 MB are taken
"""
import argparse, json, os, random, subprocess, sys, zipfile
from contextlib import contextmanager
from pathlib import Path

SIZE = 128 << 20
PAGE = 4096
CLUSTERS = [4096, 16384, 65536]
STRATEGIES = ["disabled", "readahead", "readaround"]
BUDGETS = [31, 52, 73, 114]


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def say(text):
    print(text, flush=True)


def source_file(arguments, scratch):
    """A folder with the one file."""
    folder = scratch / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "big"
    if arguments.tensorflow:
        run(sys.executable, "-m", "pip", "download", "-q", "tensorflow-cpu==2.11.0", "--no-deps",
            "--python-version", "3.10", "--only-binary=:all:", "-d", scratch)
        wheel = zipfile.ZipFile(next(scratch.glob("tensorflow_cpu-*.whl")))
        largest = max(wheel.infolist(), key=lambda info: info.file_size)
        with wheel.open(largest) as source:
            target.write_bytes(source.read(SIZE))
    else:
        path = arguments.file
        if path is None:
            root = Path(run("rustc", "--print", "sysroot", capture_output=True, text=True).stdout.strip())
            path = max(root.glob("lib/*.so"), key=lambda path: path.stat().st_size)
        with open(path, "rb") as source:
            target.write_bytes(source.read(SIZE))
    if target.stat().st_size != SIZE:
        sys.exit(f"{target} is shorter than {SIZE} bytes")
    return folder


def zipf(count, reads):
    """Numbers of pages. Not the same ones as the engine's, but of the same distribution."""
    generator = random.Random(2)
    pages = list(range(count))
    generator.shuffle(pages)
    weights = [(rank + 1) ** -0.9 for rank in range(count)]
    return generator.choices(pages, weights, k=reads)


def once(count):
    pages = list(range(count))
    random.Random(1).shuffle(pages)
    return pages


@contextmanager
def kernel_mount(image, strategy, target):
    loop = run("losetup", "--find", "--show", "--read-only", "--direct-io=on", image,
               capture_output=True, text=True).stdout.strip()
    try:
        run("mount", "-t", "erofs", "-o", f"ro,cache_strategy={strategy}", loop, target)
        try:
            yield Path("/sys/block") / Path(loop).name / "stat"
        finally:
            run("umount", target)
    finally:
        run("losetup", "--detach", loop)


def device_bytes(stat):
    return int(stat.read_text().split()[2]) * 512


def memory_group(limit):
    """A cgroup with a limit: its file for processes, or None if there is no memory controller."""
    for root, name in [(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
                       (Path("/sys/fs/cgroup"), "memory.max")]:
        group = root / f"ferrofs-bench-{os.getpid()}"
        try:
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit))
            return group
        except OSError:
            continue
    return None


def read_pages(path, pages, group=None):
    """In a process of its own, so that a cgroup can hold it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            for page in pages:
                os.pread(descriptor, PAGE, page * PAGE)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the reader failed")


def kernel(image, strategy, scratch, pages, group=None):
    target = scratch / "mnt"
    target.mkdir(exist_ok=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with kernel_mount(image, strategy, target) as stat:
        before = device_bytes(stat)
        read_pages(target / "big", pages, group)
        return device_bytes(stat) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", type=Path, required=True, help="the engine's example `measure`")
    parser.add_argument("--mkfs", default="mkfs.erofs", help="mkfs.erofs, so that the images are not ours")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for images, on a disk")
    parser.add_argument("--tensorflow", action="store_true")
    parser.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    scratch = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    folder = source_file(arguments, scratch)
    as_root = os.geteuid() == 0
    count = SIZE // PAGE

    def engine(what, image, strategy, cache):
        line = run(arguments.measure, what, image, "/big", strategy, cache,
                   capture_output=True, text=True).stdout
        return json.loads(line)

    images = {}
    for cluster in CLUSTERS:
        images[cluster] = scratch / f"big-{cluster}.erofs"
        run(arguments.mkfs, "-zlz4hc", f"-C{cluster}", "--quiet", images[cluster], folder)

    say("Every page once, MB read from the device (kernel | engine):\n")
    say("| pcluster | image | " + " | ".join(STRATEGIES + ["split"]) + " |")
    say("|---|---|" + "---|" * (len(STRATEGIES) + 1))
    for cluster, image in images.items():
        cells = []
        for strategy in STRATEGIES + ["split"]:
            ours = engine("pages", image, strategy, 512 << 20)["device_bytes"] / 1e6
            theirs = "-"
            if as_root and strategy != "split":
                theirs = f"{kernel(image, strategy, scratch, once(count)) / 1e6:.0f}"
            cells.append(f"{theirs} \\| {ours:.0f}")
        say(f"| {cluster >> 10} KiB | {image.stat().st_size / 1e6:.1f} | " + " | ".join(cells) + " |")

    say("\n100,000 pages by zipf, 64 KiB pclusters, MB read (and thousands of decodes):\n")
    say("| memory | " + " | ".join(f"kernel {name}" for name in STRATEGIES)
        + " | " + " | ".join(f"engine {name}" for name in STRATEGIES + ["split"]) + " |")
    say("|---|" + "---|" * (2 * len(STRATEGIES) + 1))
    trace = zipf(count, 100_000)
    for budget in BUDGETS:
        cells = []
        for strategy in STRATEGIES:
            # The kernel's limit holds the reader, too; some 9 MB of it.
            group = memory_group((budget + 9) * 1_000_000) if as_root else None
            if group is None:
                cells.append("-")
                continue
            cells.append(f"{kernel(images[65536], strategy, scratch, trace, group) / 1e6:.0f}")
            group.rmdir()
        for strategy in STRATEGIES + ["split"]:
            found = engine("zipf", images[65536], strategy, budget * 1_000_000)
            cells.append(f"{found['device_bytes'] / 1e6:.0f} ({found['decodes'] // 1000})")
        say(f"| {budget} MB | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
