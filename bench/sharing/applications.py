# SPDX-License-Identifier: MIT OR Apache-2.0
"""The programs of serve.py, and the load that each gets: the same in every way to mount."""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time

import harness
from harness import BenchError

START_S = 60
LOAD_S = 300
NGINX = """
daemon off; master_process on; worker_processes 1; pid /run/nginx.pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off; include /etc/nginx/mime.types;
  client_body_temp_path /run/1; proxy_temp_path /run/2; fastcgi_temp_path /run/3;
  uwsgi_temp_path /run/4; scgi_temp_path /run/5;
  server {{ listen 127.0.0.1:{port}; root /; autoindex on; }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A program in a chroot of ROOT for the length of a `with` block; its /run is a tmpfs, and its /dev
    that of this machine."""

    def __init__(self, group, root, argv, files=(), user=None):
        self.group, self.root, self.argv, self.files = group, root, argv, files
        self.user = user
        self.run, self.dev = os.path.join(root, "run"), os.path.join(root, "dev")
        self.process = None

    def __enter__(self):
        mount = ["mount", "-t", "tmpfs", "-o", "size=256m,mode=1777", "tmpfs", self.run]
        subprocess.run(mount, check=True)
        try:
            subprocess.run(["mount", "--bind", "/dev", self.dev], check=True)
            for name, text in self.files:
                with open(os.path.join(self.run, name), "w", encoding="ascii") as file:
                    file.write(text)
            self.before()
            self.process = self.start(self.argv)
        except BaseException:
            self.__exit__()
            raise
        return self

    def before(self):
        """What is to be done in the place before the program starts."""

    def start(self, argv):
        """Another program in the same place and group."""
        def inside():
            self.group.enter()
            os.chroot(self.root)
            os.chdir("/run")
            if self.user is not None:
                os.setgroups([])
                os.setgid(self.user)
                os.setuid(self.user)

        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=inside, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def wait_for(self, port):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BenchError(f"{self.argv[0]} ended with {self.process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise BenchError(f"{self.argv[0]} does not listen after {START_S} s")

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            harness.end(self.process)
        for folder in (self.dev, self.run):
            if os.path.ismount(folder):
                subprocess.run(["umount", "-l", folder], check=False)


class Redis:
    """100,000 requests of redis-benchmark of the same version, from the same mount."""

    def __init__(self, port):
        self.port = port
        self.argv = ["/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", str(port)]
        self.argv += ["--save", "", "--appendonly", "no", "--dir", "/run"]

    def served(self, group, root):
        return Served(group, root, self.argv)

    def load(self, served):
        argv = ["/usr/bin/redis-benchmark", "-p", str(self.port), "-t", "set,get", "-q"]
        bench = served.start([*argv, "-n", "50000", "-r", "10000"])
        try:
            if bench.wait(LOAD_S) != 0:
                raise BenchError(f"redis-benchmark ended with {bench.returncode}")
        finally:
            bench.kill()


class Nginx:
    """5,000 requests on one connection: a file of the image and a listing, in turn."""

    def __init__(self, port):
        self.port = port
        self.argv = ["/usr/sbin/nginx", "-c", "/run/nginx.conf"]
        self.files = (("nginx.conf", NGINX.format(port=port)),)

    def served(self, group, root):
        return Served(group, root, self.argv, self.files)

    def load(self, _served):
        for path in ("/etc/nginx/mime.types", "/etc/nginx/") * 2500:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                raise BenchError(f"nginx: {path}: {answer.status}")
            connection.close()


class Database(Served):
    """A server of PostgreSQL, whose data is made in its /run first."""

    def before(self):
        making = self.start([f"{Postgres.BIN}/initdb", "-D", "/run/data", "-A", "trust", "--locale=C", "-N"])
        if making.wait(LOAD_S) != 0:
            raise BenchError(f"initdb ended with {making.returncode}")


class Postgres:
    """pgbench of the same version, from the same mount: 100,000 rows, then 4,000 transactions that
    write and 20,000 that read."""

    BIN = "/usr/lib/postgresql/15/bin"
    USER = 65534  # `nobody`, which every image knows: it does not run as root

    def __init__(self, port):
        self.port = port
        settings = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=/run",
                    "fsync=off", "dynamic_shared_memory_type=mmap", "shared_buffers=32MB")
        self.argv = [f"{self.BIN}/postgres", "-D", "/run/data"]
        self.argv += [word for setting in settings for word in ("-c", setting)]

    def served(self, group, root):
        return Database(group, root, self.argv, user=self.USER)

    def load(self, served):
        argv = [f"{self.BIN}/pgbench", "-h", "127.0.0.1", "-p", str(self.port), "-U", "nobody"]
        for more in (["-i", "-q"], ["-c", "2", "-t", "2000"], ["-S", "-c", "2", "-t", "10000"]):
            bench = served.start([*argv, *more, "postgres"])
            try:
                if bench.wait(LOAD_S) != 0:
                    raise BenchError(f"pgbench {more[0]} ended with {bench.returncode}")
            finally:
                bench.kill()


class Imported:
    """A Python that has imported what is in a folder, and keeps it until the end of the `with` block."""

    def __init__(self, group, argv, paths):
        self.group, self.argv, self.paths = group, argv, paths
        self.process = self.errors = None

    def __enter__(self):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            preexec_fn=self.group.enter,
            env={"PYTHONPATH": os.pathsep.join(self.paths), "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        return self

    def wait_for(self, _port):
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait()
            self.errors.seek(0)
            raise BenchError(f"import: {self.errors.read()[-500:]}")

    def __exit__(self, *_):
        self.process.stdin.close()
        harness.end(self.process)
        self.process.stdout.close()
        self.errors.close()


class Tensorflow:
    """`import tensorflow` and a small calculation; what it needs besides is the same for both."""

    PYTHON = "3.10"
    # Of the versions that 2.11 wants.
    NEEDS = (
        "numpy==1.23.5", "absl-py==1.4.0", "astunparse==1.6.3", "flatbuffers==23.1.21", "gast==0.4.0",
        "google-pasta==0.2.0", "h5py==3.8.0", "keras==2.11.0", "opt-einsum==3.3.0", "packaging==23.0",
        "protobuf==3.19.6", "six==1.16.0", "tensorflow-estimator==2.11.0", "termcolor==2.2.0",
        "typing-extensions==4.4.0", "wrapt==1.14.1", "grpcio==1.51.1", "wheel==0.38.4",
        "requests==2.28.2", "urllib3==1.26.14", "idna==3.4", "certifi==2022.12.7",
        "charset-normalizer==3.0.1",
    )
    CODE = (
        "import sys, tensorflow as tf\n"
        "assert float(tf.reduce_sum(tf.matmul(tf.ones((64, 64)), tf.ones((64, 64))))) == 64.0 ** 3\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    needs = None

    def __init__(self, port):
        self.port = port

    @classmethod
    def prepare(cls, cache):
        """What it needs besides, in a folder of CACHE."""
        python = interpreter(cls.PYTHON)
        cls.needs = os.path.join(cache, "tensorflow-needs")
        if not os.path.isdir(cls.needs):
            os.makedirs(cache, exist_ok=True)
            partial = f"{cls.needs}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            argv = [python, "-m", "pip", "install", "-q", "--root-user-action=ignore", "--no-deps"]
            subprocess.run([*argv, "--target", partial, *cls.NEEDS], check=True)
            os.rename(partial, cls.needs)
        # In memory before anybody is charged for it: the way that comes first would pay for all.
        library = os.path.join(os.path.dirname(os.path.dirname(python)), "lib", f"python{cls.PYTHON}")
        for folder in (cls.needs, library):
            for root, _, names in os.walk(folder):
                for name in names:
                    with open(os.path.join(root, name), "rb") as file:
                        while file.read(1 << 20):
                            pass

    def served(self, group, root):
        # The tree first: what is imported must come from it.
        return Imported(group, [interpreter(self.PYTHON), "-B", "-c", self.CODE], [root, self.needs])

    def load(self, _served):
        """Importing is the load."""


def interpreter(version):
    """The Python of this version, itself and not a script that looks for it."""
    found = shutil.which(f"python{version}")
    if found is None:
        raise BenchError(f"python{version} is not here")
    argv = [found, "-c", "import sys; print(sys.executable)"]
    asked = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    if asked.returncode == 0:
        return asked.stdout.strip()
    # pyenv knows of it, but it is not the one that is chosen.
    argv = ["sh", "-c", 'ls -d "$(pyenv root)"/versions/%s.*/bin/python%s' % (version, version)]
    listed = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    if not listed:
        raise BenchError(f"python{version} does not run")
    return listed[-1]


APPLICATIONS = {"redis": Redis, "nginx": Nginx, "postgres": Postgres, "tensorflow": Tensorflow}
