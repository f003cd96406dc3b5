# SPDX-License-Identifier: MIT OR Apache-2.0
"""The ways to read a tree on demand that are compared: images of ours, and mounts of them.

A way builds its image from the tree into a folder that the origin serves, unless it is there; mounts it
over a cache, which keeps what was fetched; and learns from reads what to fetch ahead the next time.
"""

import os

from ondemand.image import Image
from ondemand.mounts import Mount
from ondemand.reading import read_all


class Way:
    """PLACE has the tree and what the origin serves; mounts are made at MOUNTPOINT."""

    def __init__(self, name, options, place):
        self.name, self.options = name, options
        self.tree, self.served = os.path.join(place, "tree"), os.path.join(place, "www")
        self.mountpoint = os.path.join(place, "mnt")
        os.makedirs(self.mountpoint, exist_ok=True)

    def build(self):
        """Makes what is served; sizes of it by name, in bytes."""
        raise NotImplementedError

    def mounted(self, origin, cache, learned=None, everything=False):
        """A mount for the length of a `with` block."""
        raise NotImplementedError

    def learn(self, origin, cache, reads, readers):
        """What the next mount is to fetch ahead, from a mount on which READS are read."""
        raise NotImplementedError


class Ferrofs(Way):
    """An image of pclusters of 64 KiB and its digest table, by one of the methods."""

    def __init__(self, options, place, method, codec):
        super().__init__(f"ferrofs {method} {codec}", options, place)
        self.method, self.codec, self.image = method, codec, None

    def build(self):
        path = os.path.join(self.served, f"{self.codec}.erofs")
        self.image = Image(self.options.ferrofs, self.tree, path, self.codec)
        return {"image": self.image.size, "digests": os.path.getsize(f"{path}.digests"), "at mount": 0}

    def mounted(self, origin, cache, learned=None, everything=False, record=None):
        words = ["--pin", self.image.pin, "--cache-dir", cache, "--method", self.method]
        words += ["-o", "soft=60"] if self.method != "fanotify" else []
        words += ["--trace", learned] if learned else []
        words += ["--record", record] if record else []
        words += ["--prefetch", "all"] if everything else []
        words.append(origin.url(f"{self.codec}.erofs"))
        return Mount(self.options.ferrofs, words, self.mountpoint, cache)

    def learn(self, origin, cache, reads, readers):
        trace = f"{cache}.trace"
        with self.mounted(origin, cache, record=trace) as mount:
            read_all(mount.folder, reads, readers)
        return trace
