# SPDX-License-Identifier: MIT OR Apache-2.0
"""The ways to mount a pair: without sharing, and by each mechanism of `ferrofs mount --share`.

`native` is the kernel's own (`--share-by kernel`): Linux 7.0, and images with inode digests, which it
believes.
"""

import contextlib
import os
import signal
import subprocess

import harness
from harness import BenchError

MECHANISMS = ("superblock", "passthrough", "overlay", "native", "auto")
WITH_STORE = ("overlay",)
KEEPING = ("superblock", "passthrough", "auto")  # they have a cache that outlives the mounts
PLAIN = ("kernel", "fuse")
NAMES = (*PLAIN, *MECHANISMS)
NATIVE_SINCE = (7, 0)
RUN = "/run/ferrofs/share"  # where a domain's server has its own mounts
TIMEOUT_S = 600
KEEP_S = 600


class Way:
    """How images of one run are mounted; `domain` must be new for each run."""

    def __init__(self, name, ferrofs, domain, store, group, trust=False):
        self.name, self.ferrofs, self.group = name, ferrofs, group
        self.shares = name in MECHANISMS
        self.words = ["--kernel"] if name == "kernel" else ["--fuse"]
        if self.shares:
            self.words = ["--share", domain, "--share-by", "kernel" if name == "native" else name]
            self.words += ["--share-keep", str(KEEP_S)] if name in KEEPING else []
            self.words += ["--share-dir", store] if name in WITH_STORE else []
            self.words += ["--trust-digests"] if trust or name == "native" else []
        self.domain, self.store = domain, store
        self.said = ""

    def _run(self, *words, check=True):
        argv = [self.ferrofs, *words]
        # To a file, not a pipe: a server in the background would hold the pipe open.
        with harness.tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S, check=False, preexec_fn=self.group.enter,
            )
            log.seek(0)
            said = log.read().strip()
        if check and done.returncode != 0:
            raise BenchError(f"{' '.join(argv)}: exit {done.returncode}: {said[-500:]}")
        return said

    @contextlib.contextmanager
    def mounted(self, pairs):
        """PAIRS of (image, folder) mounted for the length of a `with` block."""
        done = []
        try:
            for image, folder in pairs:
                os.makedirs(folder, exist_ok=True)
                done.append(folder)
                self.said = self._run("mount", *self.words, image, folder)
            yield
        finally:
            for folder in reversed(done):
                self._unmount(folder)

    def _unmount(self, folder):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._run("umount", folder, check=False)
        if harness.is_mounted(folder):
            subprocess.run(["umount", "-l", folder], check=False)
            raise BenchError(f"{folder} could not be unmounted")

    def forget(self):
        """Lets the domain go, with all that it keeps."""
        if self.name in WITH_STORE:
            self._run("share", "prune", self.domain, "--share-dir", self.store, check=False)
        elif self.name in KEEPING:
            self._run("share", "stop", self.domain, check=False)
        for target in [*_mounts_below(self.store), *_mounts_below(os.path.join(RUN, self.domain))]:
            subprocess.run(["umount", "-l", target], check=False)


def end_well():
    """SIGTERM and SIGINT end the program by an exception, so that nothing is left mounted."""
    def terminated(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, terminated)


def known(ferrofs):
    """The ways that this ferrofs has here, by its own help; `auto` is one of the others."""
    done = subprocess.run([ferrofs, "mount", "--help"], stdout=subprocess.PIPE, text=True, check=False)
    mechanisms = done.stdout.partition("--share-by")[2].partition("[possible values:")[2]
    there = mechanisms.partition("]")[0].replace(",", " ").split()
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if "kernel" in there and release >= NATIVE_SINCE:
        there.append("native")
    return [name for name in NAMES if name in PLAIN or name in there and name != "auto"]


def _mounts_below(folder):
    inside = os.fsencode(os.path.abspath(folder)) + b"/"
    with open("/proc/self/mountinfo", "rb") as table:
        targets = [line.split(b" ")[4] for line in table]
    return [os.fsdecode(target) for target in reversed(targets) if target.startswith(inside)]
