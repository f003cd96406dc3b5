# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rows of measurements as a line, as Markdown beside what was published, and as an SVG chart."""

from xml.sax.saxutils import escape

# By way: its name in the chart, and its color.
SHOWN = {
    "kernel": ("kernel, not shared", "#9aa0a6"),
    "fuse": ("FUSE, not shared", "#bdc1c6"),
    "superblock": ("one superblock", "#1a73e8"),
    "passthrough": ("FUSE passthrough", "#e37400"),
    "overlay": ("stores under overlay", "#188038"),
    "native": ("kernel's own sharing", "#d01884"),
    "auto": ("auto", "#a142f4"),
    "pool mapped": ("one process, mapped", "#00897b"),
    "pool copied": ("one process, copied", "#4db6ac"),
}
BAR, GAP, NAME, LEFT, WIDTH, RIGHT = 14, 12, 90, 265, 560, 190


def line(row):
    """One row for the terminal."""
    head = f"{row['pair']:12} {row.get('way', ''):11} {row.get('encodings', ''):9}"
    if "error" in row:
        return f"{head} {row['error']}"
    counted = (
        f"{head} frames {row['frames_mb']:.1f} of {row['pages_mb']:.1f} MB"
        f" (calculated {row['calculated_mb']:.1f}, {row['off_percent']:+.2f} %)"
    )
    if "files" not in row:
        return counted
    return (
        f"{counted}, file {row['file_mb']:.1f}, kernel {row['kernel_mb']:.1f},"
        f" servers {row['servers_rss_mb']:.1f} MB; device {row['device_mb']:.1f}"
        f" then {row['again_device_mb']:.1f} MB; {row['read_s']:.1f} then {row['again_s']:.1f} s"
    )


def markdown(rows, pairs):
    """The table: first beside what was published, then all that was counted."""
    text = [
        "| pair | published: sum, whole, saved | here: sum, whole, saved | alike | way | images"
        " | frames MB | off % | saved % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        old = pairs[row["pair"]].published if row["pair"] in pairs else None
        before = f"{old.sum_mb}, {old.whole_mb}, {old.saved} %" if old else "-"
        if "error" in row:
            text.append(f"| {row['pair']} | {before} | | | {row.get('way', '')} | "
                        f"{row.get('encodings', '')} | {_cell(row['error'])} | | |")
            continue
        whole = row["whole_mb"]
        here = f"{row['pages_mb']:.1f}, {whole:.1f}, {100 * (1 - whole / row['pages_mb']):.1f} %"
        differs = old and abs(whole / old.whole_mb - 1) > 0.002
        text.append(
            f"| {row['pair']} | {before} | {here}{' (the published pair differs)' if differs else ''}"
            f" | {row['alike_mb']:.1f} | {row['way']} | {row['encodings']} | {row['frames_mb']:.1f}"
            f" | {row['off_percent']:+.2f} | {row['saved_percent']:.1f} |"
        )
    text += [
        "",
        "| pair | way | images | files | file MB | kernel MB | servers: RSS, file, kernel MB"
        " | device MB: first, again | s: first, again |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "files" in row:
            text.append(
                f"| {row['pair']} | {row['way']} | {row['encodings']} | {row['files']}"
                f" | {row['file_mb']:.1f} | {row['kernel_mb']:.1f} | {row['servers_rss_mb']:.1f},"
                f" {row['servers_file_mb']:.1f}, {row['servers_kernel_mb']:.1f}"
                f" | {row['device_mb']:.1f}, {row['again_device_mb']:.1f}"
                f" | {row['read_s']:.1f}, {row['again_s']:.1f} |"
            )
    return "\n".join(text) + "\n"


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")[:200]


def _besides(row):
    """MB of kernel memory and of servers."""
    return row.get("kernel_mb", 0) + row.get("servers_rss_mb", 0)


def chart(rows, pairs):
    """Bars of frames, a line where the calculation of whole files is, a dot where the published is."""
    measured = [row for row in rows if "error" not in row]
    scale = WIDTH / max((row["pages_mb"] + _besides(row) for row in measured), default=1)
    shapes, y, last = [], 46, None
    for row in rows:
        if row["pair"] != last:
            y, last = y + GAP, row["pair"]
            shapes.append(_text(4, y + BAR - 3, last, "bold"))
        name, color = SHOWN.get(row.get("way"), (row.get("way", ""), "#444444"))
        shapes.append(_text(NAME, y + BAR - 3, f"{name}{', mixed' if _mixed(row) else ''}"))
        if "error" in row:
            shapes.append(_text(LEFT, y + BAR - 3, "not measured: see the table"))
            y += BAR
            continue
        width, besides = scale * row["frames_mb"], scale * _besides(row)
        shapes.append(_bar(LEFT, y, width, color))
        shapes.append(_bar(LEFT + width, y, besides, color, 'fill-opacity="0.35"'))
        saved = f", {row['saved_percent']:.1f} % saved" if row["saved_percent"] > 0.05 else ""
        marks = [row["whole_mb"]]
        x = LEFT + scale * row["whole_mb"]
        shapes.append(f'<path d="M{x:.1f} {y - 1}v{BAR}" stroke="#d93025" stroke-width="2"/>')
        if row["pair"] in pairs:
            marks.append(pairs[row["pair"]].published.whole_mb)
            x = LEFT + scale * marks[-1]
            shapes.append(f'<circle cx="{x:.1f}" cy="{y + BAR / 2 - 1}" r="2.5" fill="#202124"/>')
        end = max(width + besides, scale * max(marks))  # never under a mark
        shapes.append(_text(LEFT + end + 8, y + BAR - 3, f"{row['frames_mb']:.1f} MB{saved}"))
        y += BAR
    head = "Memory of all files of both images, MB. Pale: kernel memory and servers besides."
    key = "Red: each content once, calculated. Dot: the same as published. Mixed: one image in lz4, one in zstd."
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{y + 16}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{_text(4, 20, head, "bold")}\n'
        f"{_text(4, 36, key)}\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _bar(x, y, width, color, more=""):
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{color}" {more}/>'


def _mixed(row):
    first, _, second = row.get("encodings", "").partition("/")
    return first != second


def _text(x, y, text, weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(text)}</text>'
