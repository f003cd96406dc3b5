# SPDX-License-Identifier: MIT OR Apache-2.0
"""Memory control groups of our own, version 1 or 2, and what they were charged.

The kernel charges a page to the group that touched it first, so that readers of everything that is
compared must be in one group. Groups are made at the top, outside any limit of this session.
"""

import collections
import contextlib
import os
import signal
import time

from harness import BenchError

# In bytes: file pages without those of tmpfs, those of them mapped, what the kernel keeps for the
# group (inodes, dentries), and memory without a file.
Memory = collections.namedtuple("Memory", "file mapped kernel anonymous")

V1, V2 = "/sys/fs/cgroup/memory", ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class Group:
    """A group for the length of a `with` block; what still runs in it then is killed."""

    def __init__(self, name):
        self.version, top = _top()
        self.path = os.path.join(top, f"ferrofs-bench.{os.getpid()}.{name}")

    def __enter__(self):
        os.mkdir(self.path)
        return self

    def enter(self):
        """Moves the calling process in: the preexec_fn of a child."""
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def pids(self):
        with open(os.path.join(self.path, "cgroup.procs"), encoding="ascii") as file:
            return [int(line) for line in file]

    def memory(self):
        stat = {}
        with open(os.path.join(self.path, "memory.stat"), encoding="ascii") as file:
            for line in file:
                name, value = line.split()
                stat[name] = int(value)
        if self.version == 2:
            kernel = stat.get("kernel", stat["slab"])
            file = stat["file"] - stat["shmem"]
            return Memory(file, stat["file_mapped"], kernel, stat["anon"])
        with open(os.path.join(self.path, "memory.kmem.usage_in_bytes"), encoding="ascii") as file:
            kernel = int(file.read())
        file = stat["total_cache"] - stat["total_shmem"]
        return Memory(file, stat["total_mapped_file"], kernel, stat["total_rss"])

    def resident(self):
        """RSS of all processes in the group, in bytes."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return total

    def cpu_s(self):
        """CPU seconds so far of the processes that are in the group."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_):
        for _ in range(200):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
                return
            time.sleep(0.05)
        raise BenchError(f"{self.path} cannot be removed")


def _top():
    if os.path.isfile(os.path.join(V1, "cgroup.procs")):
        return 1, V1
    for path in V2:
        with contextlib.suppress(OSError):
            with open(os.path.join(path, "cgroup.subtree_control"), encoding="ascii") as file:
                if "memory" in file.read().split():
                    return 2, path
    raise BenchError("no memory control groups: neither version 1 nor a version 2 with them on")
