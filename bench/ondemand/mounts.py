# SPDX-License-Identifier: MIT OR Apache-2.0
"""Mounts of ours for the length of a `with` block, and what the servers behind a mount used."""

import collections
import contextlib
import os
import subprocess
import time

import harness
from harness import BenchError

END_S = 20
Used = collections.namedtuple("Used", "cpu_s peak_mib anonymous_mib", defaults=(0, 0, 0))


def servers(mark):
    """The processes that have MARK in their arguments: keeper and worker of one mount."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if os.fsencode(mark) in file.read().split(b"\0") and int(name) != os.getpid():
                    found.append(int(name))
    return found


def parent(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def children(pids):
    """PIDS and all their descendants."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError):
            parents[int(name)] = parent(name)
    found = set(pids)
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found


def usage(pids):
    """What PIDS and their descendants used together so far."""
    cpu, peak, anonymous = 0.0, 0, 0
    for pid in children(pids):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                status = dict(line.split(":", 1) for line in file)
            peak += int(status["VmHWM"].split()[0])
            anonymous += int(status["RssAnon"].split()[0])
    return Used(round(cpu, 2), round(peak / 1024, 1), round(anonymous / 1024, 1))


class Mount:
    """A mount by ferrofs; `used`: by its servers, at its end. MARK is an argument that only they have."""

    def __init__(self, ferrofs, words, folder, mark=None):
        self.ferrofs, self.words, self.folder, self.mark = ferrofs, words, folder, mark
        self.used = Used()
        os.makedirs(folder, exist_ok=True)

    def __enter__(self):
        words = [self.ferrofs, "mount", "-q", *self.words, self.folder]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=120, check=False, text=True,
        )
        if done.returncode != 0:
            raise BenchError(f"{' '.join(words)}: {done.stderr.strip()}")
        return self

    def server(self):
        """The process that serves: of keeper and worker the younger."""
        found = children(servers(self.mark))
        return next(iter(found - {parent(pid) for pid in found}), None)

    def recover(self):
        """The keeper does it."""

    def __exit__(self, *_):
        if self.mark:
            self.used = usage(servers(self.mark))
        if harness.is_mounted(self.folder):
            subprocess.run([self.ferrofs, "umount", self.folder], check=False, timeout=60)
        harness.unmount(self.folder, lazy=True)
        # What a server has to write at its end is there when it has gone.
        deadline = time.monotonic() + END_S
        while self.mark and servers(self.mark) and time.monotonic() < deadline:
            time.sleep(0.02)
