# SPDX-License-Identifier: MIT OR Apache-2.0
"""Our origin (an example of ferrofs-tests) as a process: a delay for each request, a rate for all."""

import json
import subprocess

import harness

DELAY_MS = 20
RATE = 25_000_000


class Origin:
    """Serves FOLDER for the length of a `with` block, and counts what it sent."""

    def __init__(self, program, folder, delay_ms=DELAY_MS, rate=RATE):
        words = [program, folder, str(delay_ms), str(rate)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.address = self.process.stdout.readline().strip()

    def url(self, name):
        return f"http://{self.address}/{name}"

    def count(self, forget=False):
        """What was sent since the last time that it was to forget."""
        self.process.stdin.write("forget\n" if forget else "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def list(self):
        """Each request: what, from which byte on, how many, and when it began and ended in ms."""
        self.process.stdin.write("list\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        harness.end(self.process)
        self.process.stdout.close()
