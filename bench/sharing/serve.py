#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Both versions of a server at work from their mounts, in one control group, under a fixed load.

  bench/sharing/serve.py --ferrofs target/release/ferrofs --folder DIR --out OUT [redis] [nginx]

For each way to mount: both servers run in a chroot of their mount and answer on loopback; then the
group's file pages, those of them that are mapped, and its kernel memory are told. As root.
"""

import argparse
import contextlib
import csv
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pairs as known  # noqa: E402
from disk import Disk  # noqa: E402
from groups import Group  # noqa: E402
from harness import BenchError, scratch  # noqa: E402
from measure import SETTLE_S  # noqa: E402
from ways import NAMES, Way, end_well, known as known_ways  # noqa: E402

START_S = 30
LOAD_S = 300
ROUNDS = 3
COLUMNS = (
    "pair", "way", "file_mb", "mapped_mb", "kernel_mb", "anonymous_mb", "servers_rss_mb",
    "servers_file_mb", "error",
)
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
    """A program in a chroot of ROOT for the length of a `with` block; its /run is a tmpfs."""

    def __init__(self, group, root, argv, files=()):
        self.group, self.root, self.argv, self.files = group, root, argv, files
        self.run = os.path.join(root, "run")
        self.process = None

    def __enter__(self):
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", self.run]
        subprocess.run(mount, check=True)
        try:
            for name, text in self.files:
                with open(os.path.join(self.run, name), "w", encoding="ascii") as file:
                    file.write(text)
            self.process = self.start(self.argv)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, argv):
        """Another program in the same place and group."""
        def inside():
            self.group.enter()
            os.chroot(self.root)
            os.chdir("/run")

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
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "-l", self.run], check=False)


class Redis:
    """100,000 requests of redis-benchmark of the same version, from the same mount."""

    def __init__(self, port):
        self.port = port
        self.argv = ["/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", str(port)]
        self.argv += ["--save", "", "--appendonly", "no", "--dir", "/run"]
        self.files = ()

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

    def load(self, _served):
        for path in ("/etc/nginx/mime.types", "/etc/nginx/") * 2500:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                raise BenchError(f"nginx: {path}: {answer.status}")
            connection.close()


APPLICATIONS = {"redis": Redis, "nginx": Nginx}


def measure(options, place, pair, way_name):
    """A row of one way."""
    images = [known.image(options.folder, pair, side, "lz4") for side in "ab"]
    size = sum(os.path.getsize(image) for image in images)
    with Disk(place, size * 8 + (256 << 20)) as disk:
        paths = [os.path.join(disk.folder, f"{side}.erofs") for side in "ab"]
        for image, path in zip(images, paths):
            shutil.copyfile(image, path)
        disk.empty_caches()
        with Group("servers") as servers:
            store = os.path.join(disk.folder, "share")
            domain = f"bench-{os.getpid()}"
            way = Way(way_name, options.ferrofs, domain, store, servers, options.trust_digests)
            try:
                folders = [os.path.join(place, side) for side in "ab"]
                with way.mounted(list(zip(paths, folders))), Group("apps") as applications:
                    return _both(pair, folders, applications, servers)
            finally:
                way.forget()


def _both(pair, folders, applications, servers):
    with contextlib.ExitStack() as stack:
        both = []
        for folder in folders:
            application = APPLICATIONS[pair](free_port())
            served = stack.enter_context(
                Served(applications, folder, application.argv, application.files)
            )
            served.wait_for(application.port)
            both.append((application, served))
        for application, served in both:
            application.load(served)
        time.sleep(SETTLE_S)
        memory, charged = applications.memory(), servers.memory()
        return {
            "file_mb": memory.file / 1e6,
            "mapped_mb": memory.mapped / 1e6,
            "kernel_mb": memory.kernel / 1e6,
            "anonymous_mb": memory.anonymous / 1e6,
            "servers_rss_mb": servers.resident() / 1e6,
            "servers_file_mb": charged.file / 1e6,
        }


def main():
    end_well()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ferrofs", required=True)
    parser.add_argument("--folder", required=True, help="the pairs")
    parser.add_argument("--out", required=True)
    parser.add_argument("--scratch", help="default: OUT")
    parser.add_argument("--ways", help="some of %s; default: all this ferrofs has" % ",".join(NAMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trust-digests", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    options.ferrofs = os.path.abspath(options.ferrofs)
    options.ways = options.ways.split(",") if options.ways else known_ways(options.ferrofs)
    os.makedirs(options.out, exist_ok=True)
    rows, failed = [], 0
    for pair in options.names or APPLICATIONS:
        known.make(
            known.PAIRS[pair], options.folder, os.path.join(options.folder, ".cache"),
            options.ferrofs, print,
        )
        for _ in range(options.rounds):
            for way in options.ways:
                row = {"pair": pair, "way": way}
                with scratch(options.scratch or options.out) as place:
                    try:
                        row |= measure(options, place, pair, way)
                    except (BenchError, OSError, subprocess.SubprocessError) as error:
                        row["error"] = str(error)
                        failed += 1
                rows.append(row)
                shown = (f"{row[name]:.1f}" for name in COLUMNS[2:-1] if name in row)
                print(f"{pair:8} {way:12}", row.get("error") or ", ".join(shown), flush=True)
    with open(os.path.join(options.out, "serve.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print("figures: " + ", ".join(COLUMNS[2:-1]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
