# SPDX-License-Identifier: MIT OR Apache-2.0
"""Mounts by Nydus' servers for the length of a `with` block.

And what Nydus' snapshotter does for a nydusd that dies: it keeps its FUSE descriptor and its state, starts
the next one, and hands both over. The part of that which a comparison of crashes needs.
"""

import array
import contextlib
import io
import os
import socket
import subprocess
import tarfile
import threading
import time
import urllib.request

import harness
from harness import BenchError
from ondemand import mounts

STOP_S = 10
WAIT_S = 20
STATE_MAX = 32 << 10
DESCRIPTORS_MAX = 16
API = "/api/v1/daemon"


class NydusMount(harness.FuseMount):
    """Fetches LAYER of the origin to FOLDER_OF_LAYER, then starts the server and waits for its mount."""

    def __init__(self, argv, mountpoint, layer, folder_of_layer):
        super().__init__(argv, mountpoint)
        self.layer, self.folder_of_layer = layer, folder_of_layer
        self.used = mounts.Used()

    def __enter__(self):
        with urllib.request.urlopen(self.layer, timeout=60) as answer:
            packed = io.BytesIO(answer.read())
        with tarfile.open(fileobj=packed) as layer:
            layer.extractall(self.folder_of_layer, filter="data")
        return super().__enter__()

    def server(self):
        return self.pid if self._process.poll() is None else None

    def __exit__(self, kind, value, trace):
        if self.server() is None:  # killed: nothing to wait for
            return self._abandon()
        self.used = mounts.usage([self.pid])
        return super().__exit__(kind, value, trace)

    def recover(self):
        """Nobody starts the next."""

    def leave(self):
        self._process.terminate()
        deadline = time.monotonic() + STOP_S
        while harness.is_mounted(self.folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        harness.unmount(self.folder, lazy=True)


class Store:
    """The socket that a nydusd leaves its state and descriptors at, and that the next takes them from."""

    def __init__(self, path):
        self.path, self.state, self.descriptors = path, b"", []
        self.taken = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                with peer:
                    self.give(peer) if self.descriptors else self.take(peer)

    def take(self, peer):
        size = array.array("i").itemsize * DESCRIPTORS_MAX
        data, extra, _, _ = peer.recvmsg(STATE_MAX, socket.CMSG_SPACE(size))
        while more := peer.recv(STATE_MAX):
            data += more
        found = array.array("i")
        for _, _, packed in extra:
            found.frombytes(packed[: len(packed) - len(packed) % found.itemsize])
        self.state, self.descriptors = data, list(found)
        self.taken.set()

    def give(self, peer):
        socket.send_fds(peer, [self.state], self.descriptors)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for descriptor in self.descriptors:
            os.close(descriptor)


class SupervisedMount(NydusMount):
    """A nydusd whose FUSE connection outlives it; `recover` starts the next."""

    def __init__(self, argv, mountpoint, layer, folder_of_layer):
        self.sockets = f"{folder_of_layer}.sockets"
        self.first_argv = argv
        super().__init__(self.supervised(1), mountpoint, layer, folder_of_layer)
        self.store = self.next = None

    def api(self, number):
        return os.path.join(self.sockets, f"api.{number}")

    def supervised(self, number):
        more = ["--supervisor", os.path.join(self.sockets, "store"), "--id", "bench", "--apisock", self.api(number)]
        return self.first_argv + more

    def __enter__(self):
        os.mkdir(self.sockets)
        self.store = Store(os.path.join(self.sockets, "store"))
        super().__enter__()
        self.ask(1, "PUT", f"{API}/fuse/sendfd")
        if not self.store.taken.wait(WAIT_S) or not self.store.descriptors:
            raise BenchError("nydusd left no descriptor with its supervisor")
        return self

    def ask(self, number, method, target):
        """Until the server listens, for so long."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                return harness.ask(self.api(number), method, target)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def recover(self):
        self._process.wait()
        self.next = subprocess.Popen(
            [*self.supervised(2), "--upgrade"], stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
        for step in ("fuse/takeover", "start"):
            self.ask(2, "PUT", f"{API}/{step}")

    def __exit__(self, *error):
        try:
            return super().__exit__(*error)
        finally:
            if self.next is not None:
                self.next.kill()
                harness.end(self.next)
            self.store.close()
