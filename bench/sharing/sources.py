# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trees of published packages: wheels, npm packages, Debian roots.

Knows the ordinary client of each registry and nothing of what the trees are for. What was
downloaded stays in a cache folder; a tree appears under its name when it is whole, so that a run
that was stopped goes on where it was.
"""

import contextlib
import glob
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import zipfile

from harness import BenchError, remove_tree

TIMEOUT_S = 1800


def _run(argv, **more):
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S, text=True, check=False, **more,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout[-2000:].strip()}")
    return done.stdout


@contextlib.contextmanager
def _whole(tree):
    """A folder beside TREE that becomes TREE when the block ends well."""
    partial = f"{tree}.partial"
    remove_tree(partial)  # refuses where a client that was killed left mounts
    os.makedirs(partial)
    yield partial
    os.rename(partial, tree)


class Wheels:
    """Wheels of PyPI for one CPython, unpacked into one folder, without what they depend on.

    With `install`, pip unpacks them: it compiles, and gives all files the time of now.
    """

    tools = ("pip",)

    def __init__(self, *names, python="3.11", install=False):
        self.names, self.python, self.install = names, python, install

    def make(self, tree, cache):
        folder = os.path.join(cache, "pypi")
        os.makedirs(folder, exist_ok=True)
        limits = ["-q", "--no-deps", "--only-binary=:all:", "--python-version", self.python]
        for tag in ("manylinux2014_x86_64", "manylinux_2_17_x86_64"):
            limits += ["--platform", tag]
        wheels = [self._cached(folder, name) for name in self.names]
        if None in wheels:
            _run(["pip", "download", *limits, "-d", folder, *self.names])
            wheels = [self._cached(folder, name) for name in self.names]
        if None in wheels:
            raise BenchError(f"pip did not leave the wheels of {' '.join(self.names)}")
        with _whole(tree) as partial:
            if self.install:
                _run(["pip", "install", *limits, "--no-index", "--target", partial, *wheels])
                return
            for wheel in wheels:
                _unzip(wheel, partial)

    def _cached(self, folder, name):
        name, version = name.split("==")
        tag = "cp" + self.python.replace(".", "")
        found = glob.glob(os.path.join(folder, f"{name.replace('-', '_')}-{version}-{tag}-*.whl"))
        return found[0] if found else None


def _unzip(archive, folder):
    """Unpacks with modes and times, which the zipfile module leaves out."""
    with zipfile.ZipFile(archive) as wheel:
        for entry in wheel.infolist():
            path = wheel.extract(entry, folder)
            mode = entry.external_attr >> 16 & 0o777
            os.chmod(path, mode or (0o755 if entry.is_dir() else 0o644))
            when = time.mktime((*entry.date_time, 0, 0, -1))
            os.utime(path, (when, when))


class Npm:
    """Packages of npm, each unpacked under its name; with `install` what they depend on too."""

    tools = ("npm",)

    def __init__(self, *names, install=False):
        self.names, self.install = names, install

    def make(self, tree, cache):
        folder = os.path.abspath(os.path.join(cache, "npm"))
        os.makedirs(folder, exist_ok=True)
        with _whole(tree) as partial:
            if self.install:
                argv = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
                _run([*argv, "--cache", folder, "--prefix", partial, *self.names])
                return
            for name in self.names:
                argv = ["npm", "pack", "--json", "--cache", folder, "--pack-destination", folder]
                packed = json.loads(_run([*argv, name]))[0]["filename"]
                packed = os.path.join(folder, packed.replace("@", "").replace("/", "-"))
                with tarfile.open(packed) as archive:
                    archive.extractall(partial, filter="tar")


class Debian:
    """A Debian root with PACKAGES: as it was released, or with updates and security fixes."""

    tools = ("mmdebstrap",)

    def __init__(self, *packages, updated, without=()):
        self.packages, self.updated, self.without = packages, updated, without

    def make(self, tree, cache):
        folder = os.path.abspath(os.path.join(cache, "debian"))
        os.makedirs(folder, exist_ok=True)
        suite, lines = _apt_lines(self.updated)
        archives = "/var/cache/apt/archives/"
        argv = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", "--quiet"]
        argv += ["--include=" + ",".join(self.packages)]
        argv += ["--skip=download/empty", "--skip=essential/unlink"]
        argv += [f'--setup-hook=mkdir -p "$1{archives}"', f"--setup-hook=sync-in {folder} {archives}"]
        argv += [f"--customize-hook=sync-out {archives} {folder}"]
        argv += [f'--customize-hook=rm -rf "$1{path}"/*' for path in self.without]
        with _whole(tree) as partial:
            _run([*argv, suite, partial, *lines])


def _apt_lines(updated):
    """Where this machine gets Debian from: the mirrors of its own apt, never a name of ours."""
    suite = re.search(r"^VERSION_CODENAME=(\w+)", open("/etc/os-release").read(), re.M)
    if suite is None:
        raise BenchError("no VERSION_CODENAME in /etc/os-release: is this Debian?")
    suite = suite.group(1)
    mirrors = {}
    for path in ("/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))):
        if os.path.isfile(path):
            text = open(path, encoding="utf-8", errors="replace").read()
            for uri, suites in _apt_entries(text):
                for name in suites:
                    mirrors.setdefault(name, uri)
    wanted = [suite, *([f"{suite}-updates", f"{suite}-security"] if updated else [])]
    missing = [name for name in wanted if name not in mirrors]
    if missing:
        raise BenchError(f"the sources of apt have no {', '.join(missing)}")
    return suite, [f"deb {mirrors[name]} {name} main" for name in wanted]


def _apt_entries(text):
    """(URI, suites) of both styles of apt's lists."""
    for line in re.findall(r"^deb\s+(?:\[[^]]*\]\s*)?(.+)$", text, re.M):
        yield line.split()[0], line.split()[1:2]
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", text, flags=re.M)):
        fields = dict(re.findall(r"^(\w+):\s*(.+)$", stanza, re.M))
        if "deb" in fields.get("Types", "").split():
            for uri in fields.get("URIs", "").split():
                yield uri, fields.get("Suites", "").split()


def missing_tools(source):
    return [tool for tool in source.tools if shutil.which(tool) is None]
