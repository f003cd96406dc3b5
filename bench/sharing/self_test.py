#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The harness on tiny trees whose figures are known, in seconds.

  bench/sharing/self_test.py [--ferrofs PROGRAM]

Says `skipped: why` of what needs root, control groups or loop devices where there are none.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.dom.minidom

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import frames  # noqa: E402
import pairs  # noqa: E402
import table  # noqa: E402
from calculate import Tree, calculate  # noqa: E402
from disk import Disk  # noqa: E402
from groups import Group  # noqa: E402
from harness import BenchError, scratch  # noqa: E402
from measure import FRAMES, measure, same_bytes  # noqa: E402
from sources import _apt_entries  # noqa: E402
from ways import PLAIN, known as known_ways  # noqa: E402

PAGE = frames.PAGE


def check(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r}, not {wanted!r}")


def make_trees(folder):
    """A: 40 files of 1 to 40 pages less a byte. B: the first 30 as links to A's, 10 of its own.

    Each has a copy of its first file under another mode, and an empty file. As links are one file
    of the file system, what they share and what they do not is known without any ferrofs.
    """
    first, second = os.path.join(folder, "a"), os.path.join(folder, "b")
    os.makedirs(os.path.join(first, "sub"))
    os.makedirs(os.path.join(second, "sub"))
    for number in range(40):
        name = f"sub/{number:02}"
        path = os.path.join(first, name)
        with open(path, "wb") as file:
            file.write(os.urandom(PAGE * (number + 1) - 1))
        if number < 30:
            os.link(path, os.path.join(second, name))
        else:
            with open(os.path.join(second, name), "wb") as file:
                file.write(os.urandom(PAGE * (number + 1) - 1))
    for tree in (first, second):
        shutil.copyfile(os.path.join(tree, "sub/00"), os.path.join(tree, "copy"))
        os.chmod(os.path.join(tree, "copy"), 0o600)
        open(os.path.join(tree, "empty"), "wb").close()
    return first, second


def calculated(first, second):
    found = calculate(Tree(first), Tree(second))
    all_pages = sum(range(1, 41)) + 1
    new = sum(range(31, 41))
    check("files", found.files, 82)
    check("none", found.none, 2 * all_pages * PAGE)
    check("whole", found.whole, (all_pages - 1 + new) * PAGE)
    check("second", found.second, new * PAGE)
    check("alike", found.alike >= found.whole + PAGE, True)
    return found


def counted(first, second, expected):
    """Frames of linked files count once, of copies twice; a wrong byte is seen."""
    if os.geteuid() != 0:
        print("skipped: only root sees the numbers of frames")
        return
    argv = [sys.executable, "-B", FRAMES, first, second]
    found = frames.json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    check("files", found["files"], 82)
    check("page bytes", found["page_bytes"], expected.none)
    check("absent pages", found["absent_pages"], 0)
    # The two copies are no links: one page more in each tree.
    check("frames", found["frame_bytes"], expected.whole + 2 * PAGE)
    same_bytes(found, [Tree(first), Tree(second)])
    found["digests"][1]["copy"] = "0" * 64
    try:
        same_bytes(found, [Tree(first), Tree(second)])
    except BenchError:
        return
    raise AssertionError("a wrong byte was not seen")


def mounted(options, folder, first, second, expected):
    """Every way holds what it must: all pages of both trees, each content once, or the alike once."""
    images = []
    for side, tree, encoding in (("a", first, "lz4"), ("b", second, "zstd")):
        images.append(os.path.join(folder, f"{side}.erofs"))
        pairs.build(options.ferrofs, tree, images[-1], encoding)
    trees = [Tree(first), Tree(second)]
    rows = []
    for way in possible_ways(options, folder):
        with scratch(folder) as place:
            row = measure(options, place, way, images, trees, expected)
        sharing = expected.alike if way == "superblock" else expected.whole
        wanted = expected.none if way in PLAIN else sharing
        check(f"frames of {way}", round(row["frames_mb"] * 1e6), wanted)
        check(f"device bytes of {way}", row["device_mb"] * 1e6 >= os.path.getsize(images[0]), True)
        rows.append({"pair": "tiny", "way": way, "encodings": "lz4/zstd", **row})
    rows.append({"pair": "redis", "way": "auto", "encodings": "lz4/lz4", "error": "a | b"})
    check("rows", table.markdown(rows, pairs.PAIRS).count("\n| tiny |"), 2 * (len(rows) - 1))
    bars = xml.dom.minidom.parseString(table.chart(rows, pairs.PAIRS)).getElementsByTagName("rect")
    check("bars", len(bars), 2 * len(rows) - 1)


def possible_ways(options, folder):
    """Those of this machine; `native` wants images of its own, see scripts/new-kernel."""
    try:
        with Disk(folder, 8 << 20), Group("self-test"):
            pass
    except (BenchError, OSError) as error:
        print(f"skipped: mounts: {error}")
        return
    with open("/proc/filesystems", encoding="ascii") as known:
        has_erofs = "erofs" in known.read()
    passthrough = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 9)
    for way in known_ways(options.ferrofs):
        by_fuse = way in ("fuse", "superblock", "passthrough")
        if by_fuse and not os.path.exists("/dev/fuse") or not by_fuse and not has_erofs:
            continue
        if way != "native" and (way not in ("passthrough", "overlay") or passthrough):
            yield way


def lists():
    """Both styles of apt's lists name their mirrors."""
    old = "deb [arch=amd64] http://mirror/debian stable main\ndeb http://mirror/s stable-security main\n"
    check("old", list(_apt_entries(old)), [
        ("http://mirror/debian", ["stable"]), ("http://mirror/s", ["stable-security"]),
    ])
    new = "Types: deb\n# a comment\nURIs: http://mirror/debian\nSuites: stable stable-updates\n"
    check("new", list(_apt_entries(new)), [("http://mirror/debian", ["stable", "stable-updates"])])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs")
    options = parser.parse_args()
    options.trust_digests = False
    lists()
    with tempfile.TemporaryDirectory(prefix="ferrofs-bench.") as folder:
        first, second = make_trees(folder)
        expected = calculated(first, second)
        counted(first, second, expected)
        if options.ferrofs and os.geteuid() == 0:
            mounted(options, folder, first, second, expected)
        else:
            print("skipped: mounts need root, and --ferrofs")
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
