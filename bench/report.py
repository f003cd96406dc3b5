# SPDX-License-Identifier: MIT OR Apache-2.0
"""What was measured, as raw.csv, a Markdown table and a description of the machine."""

import csv
import os
import subprocess
import time

COLUMNS = (
    "time_utc", "case", "side", "round", "wall_s", "cpu_s", "user_s", "sys_s", "rss_kib",
    "image_bytes", "read_bytes", "load_1min",
)

# Which metrics of a case are shown, and the highest ratio ours/theirs that meets the goal.
GOALS = {
    "build": {"image_bytes": 1.005, "cpu_s": 1.0, "wall_s": 1.0, "rss_kib": None},
    "extract": {"wall_s": 1 / 1.7, "cpu_s": None, "rss_kib": None},
    "fuse-seq-4K": {"cpu_s": 1.0, "wall_s": None, "rss_kib": None},
    "fuse-seq-1M": {"cpu_s": 0.5, "wall_s": None, "rss_kib": None},
    "fuse-rand": {"wall_s": 0.2, "cpu_s": None, "rss_kib": None},
}

LABELS = {
    "image_bytes": ("image, MB", 1e-6),
    "cpu_s": ("CPU, s", 1),
    "wall_s": ("wall, s", 1),
    "rss_kib": ("peak RSS, MiB", 1 / 1024),
}


class Results:
    """The rows measured so far. Round 0 is the warm-up: written down, never judged."""

    def __init__(self, path):
        self._file = open(path, "w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self.rows = []

    def add(self, case, side, number, usage, **more):
        row = {
            "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "case": case,
            "side": side,
            "round": number,
            "wall_s": round(usage.wall_s, 6),
            "cpu_s": round(usage.user_s + usage.sys_s, 6),
            "user_s": round(usage.user_s, 6),
            "sys_s": round(usage.sys_s, 6),
            "rss_kib": usage.rss_kib,
            "load_1min": round(os.getloadavg()[0], 2),
            **more,
        }
        self.rows.append(row)
        self._writer.writerow(row)
        self._file.flush()

    def close(self):
        self._file.close()

    def cases(self):
        """The names of the cases in the order of their first row."""
        return list(dict.fromkeys(row["case"] for row in self.rows))

    def best(self, case, side, metric):
        """The lowest value over the judged rounds, None when nothing was measured."""
        values = [
            row[metric]
            for row in self.rows
            if row["case"] == case and row["side"] == side and row["round"] > 0 and metric in row
        ]
        return min(values, default=None)


def goals_of(case):
    """The metrics of CASE: those of the longest goal name that CASE starts with."""
    names = [name for name in GOALS if case.startswith(name)]
    return GOALS[max(names, key=len)] if names else {"wall_s": None, "cpu_s": None}


def table(results, peer_name, our_name):
    """(Markdown table, names of the goals missed)."""
    lines = [
        f"| case | what | {peer_name} | {our_name} | ours/theirs | goal | |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    missed = []
    for case in results.cases():
        for metric, limit in goals_of(case).items():
            theirs = results.best(case, "peer", metric)
            ours = results.best(case, "ours", metric)
            label, scale = LABELS[metric]
            cells = [case, label, _number(theirs, scale), _number(ours, scale)]
            if not theirs or ours is None:
                lines.append(f"| {' | '.join(cells)} | - | | |")
                continue
            ratio = ours / theirs
            goal, verdict = "", ""
            if limit is not None:
                goal = f"<= {limit:.3f}"
                verdict = "pass" if ratio <= limit else "**miss**"
                if ratio > limit:
                    missed.append(f"{case}: {label}: {ratio:.3f}, goal {goal}")
            lines.append(f"| {' | '.join(cells)} | {ratio:.3f} | {goal} | {verdict} |")
    return "\n".join(lines) + "\n", missed


def _number(value, scale):
    if value is None:
        return "-"
    value *= scale
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def machine():
    """The machine in Markdown: enough to judge whether two runs may be compared."""
    parts = [f"kernel: {' '.join(os.uname())}", f"CPUs usable: {len(os.sched_getaffinity(0))}"]
    with open("/proc/meminfo", encoding="ascii") as info:
        parts.append(info.readline().strip())
    try:
        parts.append(subprocess.run(["lscpu"], capture_output=True, text=True).stdout.strip())
    except FileNotFoundError:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            parts.append(info.read().partition("\n\n")[0])
    return "```\n" + "\n".join(parts) + "\n```\n"
