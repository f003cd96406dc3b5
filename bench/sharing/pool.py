# SPDX-License-Identifier: MIT OR Apache-2.0
"""Both images in the pool of one process that embeds ferrofs-share, without any mount.

`mapped`: every file as a composed mapping of unique pages; frames by /proc/self/pagemap. `copied`:
every file read by copying, the pool's own memory. What they must cost is the estimate of unique
pages of 4 KiB, and of chunks of 16 KiB on average.
"""

import json
import subprocess

from harness import BenchError

TIMEOUT_S = 1800
# In the pool, and the method of the estimate.
KINDS = (("mapped", "page4k"), ("copied", "cdc16k"))
NAMES = tuple(f"pool {kind}" for kind, _ in KINDS)


def pooled(program, images, calculated):
    """Rows of a pair."""
    same = {"pages_mb": calculated.none / 1e6, "whole_mb": calculated.whole / 1e6}
    same["alike_mb"] = calculated.alike / 1e6
    try:
        done = subprocess.run(
            [program, "--json", *images], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False,
        )
        if done.returncode != 0:
            raise BenchError(f"{program}: exit {done.returncode}: {done.stderr.decode()[-500:]}")
        found = json.loads(done.stdout)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return [{"way": name, "error": str(error)} for name in NAMES]
    rows = []
    for name, (kind, estimate) in zip(NAMES, KINDS):
        took, expected = found[kind], found[estimate]
        rows.append({
            "way": name,
            **same,
            "calculated_mb": expected / 1e6,
            "frames_mb": took / 1e6,
            "off_percent": 100 * (took / expected - 1),
            "saved_percent": 100 * (1 - took / calculated.none),
        })
    return rows
