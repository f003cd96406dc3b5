# SPDX-License-Identifier: MIT OR Apache-2.0
"""Processes, mounts and scratch folders for the benchmark.

Knows how to start a command, charge it for what it used, and leave nothing behind: no process,
no mount, no folder. Knows nothing about ferrofs or erofs-utils.
"""

import collections
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

MOUNT_WAIT_S = 15.0
STOP_WAIT_S = 20.0

Usage = collections.namedtuple("Usage", "wall_s user_s sys_s rss_kib")


class BenchError(Exception):
    """A measurement that could not be made; the message says what and why."""


def run(argv, executable=None, timeout_s=3600, cwd=None):
    """Runs ARGV to its end and returns its Usage (children it waited for included).

    The peak RSS has this script's own (about 20 MiB) as its floor: the kernel hands the
    high-water mark on over exec.
    """
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(
            argv,
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            status, usage, wall_s = _wait(process, start, timeout_s)
        except BaseException:
            _kill_group(process)
            raise
        if status != 0:
            raise BenchError(f"{' '.join(map(str, argv))}: exit {status}: {_tail(log)}")
    return Usage(wall_s, usage.ru_utime, usage.ru_stime, usage.ru_maxrss)


def run_reader(argv, timeout_s):
    """Runs ARGV and returns its standard output.

    Does not wait for the reader after a timeout or an interrupt: a read that a FUSE server has
    taken and never answers cannot be killed before the server is, and that is the caller's next
    step on its way out.
    """
    reader = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = reader.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        reader.kill()
        raise BenchError(f"{' '.join(argv)}: no end after {timeout_s:.0f} s") from error
    except BaseException:
        reader.kill()
        raise
    if reader.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: {errors.strip() or reader.returncode}")
    return output


def _wait(process, start, timeout_s):
    """Waits with wait4, which alone tells one child's resource use."""
    previous = signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage, wall_s


def _on_alarm(_signum, _frame):
    raise BenchError("the command did not end in time")


def _kill_group(process):
    """Ends a process of ours and everything in its session, and reaps it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        process.wait()


def end(process, patience_s=10.0):
    """Reaps PROCESS, which was told to end; kills it when it does not."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log, size=2000):
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - size))
    return log.read().decode(errors="replace").strip()


def is_mounted(folder):
    """Whether FOLDER is a mount point, also when the file system behind it is dead."""
    wanted = os.fsencode(os.path.abspath(folder))
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            field = line.split(b" ")[4]
            if field.replace(b"\\040", b" ") == wanted:
                return True
    return False


def unmount(folder, lazy):
    """Tries the ways to unmount that this user may have, the gentle ones first."""
    flags = [["-u", "-z"], ["-l"]] if lazy else [["-u"], []]
    for tool, flag in (("fusermount3", flags[0]), ("umount", flags[1])):
        if not is_mounted(folder):
            return
        if shutil.which(tool):
            subprocess.run(
                [tool, *flag, folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )


class FuseMount:
    """A FUSE server in the foreground, mounted for the length of a `with` block.

    `usage` is set when the block has ended: the whole life of the daemon, mount and unmount
    included, to the microsecond. `before_unmount_s` holds the CPU seconds of /proc/PID/stat at the
    end of the block (ticks of 10 ms) as a cross-check.
    """

    def __init__(self, argv, folder, executable=None):
        self.argv, self.folder, self.executable = argv, folder, executable
        self.usage = None
        self.before_unmount_s = None
        self._process = None
        self._log = None

    def __enter__(self):
        self._log = tempfile.TemporaryFile()
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            self.argv,
            executable=self.executable,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_mounted()
        except BaseException:
            self._abandon()
            raise
        return self

    def _wait_until_mounted(self):
        deadline = time.monotonic() + MOUNT_WAIT_S
        while not is_mounted(self.folder):
            if self._process.poll() is not None:
                raise BenchError(f"{self.argv[0]} ended without mounting: {_tail(self._log)}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.argv[0]} did not mount in {MOUNT_WAIT_S:.0f} s")
            time.sleep(0.005)

    def __exit__(self, kind, value, trace):
        try:
            if kind is not None:
                return
            rss_kib = self._peak_rss_kib()
            self.before_unmount_s = self._stat_cpu_s()
            self.leave()
            if is_mounted(self.folder):
                raise BenchError(f"{self.folder} could not be unmounted")
            status, usage, wall_s = _wait(self._process, self._start, STOP_WAIT_S)
            if status < 0:
                raise BenchError(f"{self.argv[0]}: signal {-status}: {_tail(self._log)}")
            if status > 0:  # libfuse does so now and then when its threads race at the end
                print(f"{self.argv[0]}: exit {status} after unmounting", file=sys.stderr)
            self.usage = Usage(wall_s, usage.ru_utime, usage.ru_stime, rss_kib)
        finally:
            self._abandon()

    def leave(self):
        """Lets the server end; what stays mounted is an error."""
        unmount(self.folder, lazy=False)

    @property
    def pid(self):
        return self._process.pid

    def _abandon(self):
        """After this, whatever happened: not mounted, not running."""
        unmount(self.folder, lazy=True)
        _kill_group(self._process)
        self._log.close()

    def _peak_rss_kib(self):
        with open(f"/proc/{self._process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
        return 0

    def _stat_cpu_s(self):
        with open(f"/proc/{self._process.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(path, method, target, timeout_s=20):
    """The body of what the HTTP server behind the Unix socket PATH answers."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(path)
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{path}: {method} {target}: {answer.status}: {body[:200]!r}")
        return body
    finally:
        connection.close()


@contextlib.contextmanager
def scratch(parent):
    """A folder of our own under PARENT, removed at the end unless something is mounted in it."""
    folder = tempfile.mkdtemp(prefix="ferrofs-bench.", dir=parent)
    try:
        yield folder
    finally:
        remove_tree(folder)


def remove_tree(folder):
    """Removes FOLDER; refuses when a mount lives in it, so that nothing foreign is deleted."""
    if not os.path.lexists(folder):
        return
    inside = os.fsencode(os.path.abspath(folder))
    with open("/proc/self/mountinfo", "rb") as table:
        mounts = [line.split(b" ")[4] for line in table]
    busy = [m for m in mounts if m == inside or m.startswith(inside + b"/")]
    if busy:
        raise BenchError(f"not removing {folder}: still mounted: {os.fsdecode(busy[0])}")
    shutil.rmtree(folder)


def fault_in(path):
    """Brings PATH into the page cache: what is measured is the tools, not the disk."""
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def drop_file(path):
    """Writes PATH back and drops it from the page cache (this file only, not the machine's)."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
