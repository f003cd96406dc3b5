# SPDX-License-Identifier: MIT OR Apache-2.0
"""Nydus beside us: RAFS v6 by `nydusd` (its branch master), EROFS by `nydus` (its branch v3).

Both take data from a registry, which our origin is for them: blobs lie below v2/bench/blobs. Metadata is
local by design. As their tools do, it is packed as one layer, a .tar.gz, which a mount of ours fetches
from the origin in one request and unpacks before the server starts. Nothing else is told to either than
where things are; what is not named here has the default.
"""

import json
import os
import shutil
import subprocess
import tarfile

import harness
from harness import BenchError
from ondemand.nydus_mounts import NydusMount, SupervisedMount
from ondemand.reading import read_all
from ondemand.ways import Way

REPOSITORY = "bench"


class Nydus(Way):
    """What the two have in common: blobs and layers at the origin."""

    def __init__(self, name, options, place, program):
        super().__init__(name, options, place)
        self.program = program
        self.key = name.replace(" ", "-")
        self.stored = os.path.join(place, self.key)
        self.layer = f"{self.key}.tar.gz"

    def publish(self, digest, path):
        """Gives the blob at PATH a name at the origin."""
        folder = os.path.join(self.served, "v2", REPOSITORY, "blobs")
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, f"sha256:{digest}")
        if not os.path.exists(target):
            os.link(path, target)

    def pack(self, layer, files):
        """The layer of metadata at the origin: FILES, (path, name) each."""
        with tarfile.open(os.path.join(self.served, layer), "w:gz", compresslevel=6) as packed:
            for path, name in files:
                packed.add(path, name)

    def sizes(self, blobs, metadata):
        return {
            "image": sum(map(os.path.getsize, blobs)) + os.path.getsize(metadata),
            "digests": 0,
            "at mount": os.path.getsize(os.path.join(self.served, self.layer)),
        }

    def tool(self, *words):
        argv = [self.program, *words]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False, text=True,
        )
        if done.returncode != 0:
            raise BenchError(f"{' '.join(argv)}: {done.stdout[-1000:]}")
        return done.stdout


class Nydus2(Nydus):
    """RAFS v6; learned is a list of files for `--prefetch-files`."""

    def __init__(self, options, place, codec, chunk):
        program = os.path.join(options.nydus2, "nydus-image") if options.nydus2 else ""
        super().__init__(f"nydus2 fuse {codec} {chunk >> 10}K", options, place, program)
        self.codec, self.chunk = codec, chunk

    def build(self):
        blobs, bootstrap = os.path.join(self.stored, "blobs"), os.path.join(self.stored, "bootstrap")
        if not os.path.exists(bootstrap):
            os.makedirs(blobs)
            self.tool("create", "--type", "dir-rafs", "--fs-version", "6", "--compressor", self.codec,
                      "--chunk-size", hex(self.chunk), "--blob-dir", blobs, "--bootstrap", bootstrap,
                      self.tree)
            self.pack(self.layer, [(bootstrap, "bootstrap")])
        paths = [os.path.join(blobs, name) for name in os.listdir(blobs)]
        for path in paths:
            self.publish(os.path.basename(path), path)
        return self.sizes(paths, bootstrap)

    def mounted(self, origin, cache, learned=None, everything=False, supervised=False):
        os.makedirs(cache, exist_ok=True)
        settings = {
            "device": {
                "backend": {"type": "registry", "config": {
                    "scheme": "http", "host": origin.address, "repo": REPOSITORY,
                    "timeout": 60, "connect_timeout": 10, "retry_limit": 2,
                }},
                "cache": {"type": "blobcache", "config": {"work_dir": cache}},
            },
            "mode": "direct", "digest_validate": False, "iostats_files": False, "enable_xattr": True,
            "fs_prefetch": {"enable": bool(learned or everything), "prefetch_all": everything},
        }
        config = f"{cache}.json"
        with open(config, "w", encoding="ascii") as file:
            json.dump(settings, file)
        argv = [os.path.join(self.options.nydus2, "nydusd"), "--config", config, "--mountpoint", self.mountpoint]
        argv += ["--bootstrap", os.path.join(cache, "bootstrap"), "--log-level", "error", "--rlimit-nofile", "0"]
        argv += ["--prefetch-files", learned] if learned else []
        kind = SupervisedMount if supervised else NydusMount
        return kind(argv, self.mountpoint, origin.url(self.layer), cache)

    def learn(self, origin, cache, reads, readers):
        names = f"{cache}.list"
        with open(names, "w", encoding="utf-8") as file:
            for path in dict.fromkeys(path for path, _, _ in reads):
                file.write(f"/{path}\n")
        return names


class Nydus3(Nydus):
    """Its own EROFS with chunks outside; learned is the layer of an image with an `ondemand` blob."""

    def __init__(self, options, place, method, group):
        program = os.path.join(options.nydus3, "nydus") if options.nydus3 else ""
        super().__init__(f"nydus3 {method} zstd {group >> 20}M", options, place, program)
        self.method, self.group = method, group
        self.stored = os.path.join(place, f"nydus3-{group >> 20}M")
        self.layer = f"nydus3-{group >> 20}M.tar.gz"

    def build(self):
        blobs, bootstrap = os.path.join(self.stored, "blobs"), os.path.join(self.stored, "image.boot")
        if not os.path.exists(bootstrap):
            os.makedirs(blobs)
            self.tool("build", "--blob-dir", blobs, "--compress-size", str(self.group), self.tree)
            full = [path for path in self._paths(blobs) if not path.endswith(".meta")]
            self.tool("merge", "--bootstrap", bootstrap, *full)
            self.pack(self.layer, self._metadata(bootstrap, blobs))
        full = [path for path in self._paths(blobs) if not path.endswith(".meta")]
        for path in full:
            self.publish(os.path.basename(path), path)
        return self.sizes(full, bootstrap)

    @staticmethod
    def _paths(folder):
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]

    def _metadata(self, bootstrap, *folders):
        found = [path for folder in folders for path in self._paths(folder) if path.endswith(".meta")]
        return [(bootstrap, "image.boot"), *((path, os.path.basename(path)) for path in found)]

    def config(self, origin, cache, prefetch, full=False):
        path = f"{cache}.yaml"
        settings = {  # JSON is YAML
            "backend": {"type": "registry", "config": {
                "host": origin.address, "repo": REPOSITORY, "insecure": True, "timeout": 60,
            }},
            "cache": {"type": "local", "config": {"dir": cache}},
            "prefetch": {"enable": prefetch, "full": full},
        }
        with open(path, "w", encoding="ascii") as file:
            json.dump(settings, file)
        return path

    def mounted(self, origin, cache, learned=None, everything=False, api=None):
        os.makedirs(cache, exist_ok=True)
        config = self.config(origin, cache, bool(learned or everything), everything)
        argv = [self.program, self.method, "--bootstrap", os.path.join(cache, "image.boot")]
        argv += ["--config", config, "--mountpoint", self.mountpoint, "--log-level", "error"]
        argv += ["--apiserver", f"unix://{api}"] if api else []
        return NydusMount(argv, self.mountpoint, origin.url(learned or self.layer), cache)

    def learn(self, origin, cache, reads, readers):
        api, trace = f"{cache}.sock", f"{cache}.trace"
        recorder = self if self.method == "fuse" else Nydus3(self.options, os.path.dirname(self.served), "fuse", self.group)
        with recorder.mounted(origin, cache, api=api) as mount:
            read_all(mount.folder, reads, readers)
            with open(trace, "wb") as file:
                file.write(harness.ask(api, "GET", "/trace"))
        made, bootstrap = f"{cache}.made", f"{cache}.boot"
        os.makedirs(made)
        try:
            self.tool("optimize", "--trace-file", trace, "--parent-bootstrap", os.path.join(cache, "image.boot"),
                      "--bootstrap", bootstrap, "--blob-dir", made, "--config", self.config(origin, cache, False))
            for path in self._paths(made):
                if not path.endswith(".meta"):
                    self.publish(os.path.basename(path), path)
            layer = f"{os.path.basename(cache)}.tar.gz"
            self.pack(layer, self._metadata(bootstrap, os.path.join(self.stored, "blobs"), made))
        finally:
            shutil.rmtree(made)
        return layer
