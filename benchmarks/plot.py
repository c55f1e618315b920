"""Draw the first table of benchmarks/README.md: `python benchmarks/plot.py`."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README, PICTURE = ROOT / "benchmarks" / "README.md", ROOT / "docs" / "benchmarks.svg"
WIDTH, NAMES, ROW, GAP = 760, 250, 22, 30  # pixels: the picture, its names, a bar, between groups
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.head { font-weight: 600 }
.peer { fill: #afb8c1 }
.ours { fill: #2563eb }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .peer { fill: #57606a } }
"""


class Bar(NamedTuple):
    """How many times as fast as the first of its group a contender is."""

    name: str
    times: float


def read_table(text: str) -> dict[str, list[Bar]]:
    """The groups of bars of the first table: one for each line, named by its first cell.

    A cell has one figure, which the head of its column names, or several: `int8 5.4x, bf16 3.7x`.
    """
    [table] = re.findall(r"(?<=\n\n)\|.*?\n\n", text, re.DOTALL)[:1]
    heads, _, *rows = map(_cells, table.split("\n")[:-2])
    groups = dict[str, list[Bar]]()
    for name, *cells in rows:
        bars = groups[name] = []
        for head, cell in zip(heads[1:], cells, strict=True):
            for label, times in re.findall(r"([^,]*?)\s*\b(\d+(?:\.\d+)?)x", cell):
                bars.append(Bar(label.strip() or head, float(times)))
    return groups


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line[1:-1].split("|")]


def draw(groups: dict[str, list[Bar]]) -> str:
    """The groups as an SVG of horizontal bars, which follows the colours of the reader's screen."""
    longest = max(bar.times for bars in groups.values() for bar in bars)
    parts, y = [], 0
    for name, bars in groups.items():
        y += GAP
        parts.append(f'<text class="head" x="0" y="{y - 8}">{escape(name)}</text>')
        for bar in bars:
            length = (WIDTH - NAMES - 60) * bar.times / longest
            kind = "ours" if bar.name.startswith("vit") else "peer"
            parts += [
                f'<text x="{NAMES - 10}" y="{y + 15}" text-anchor="end">{escape(bar.name)}</text>',
                f'<rect class="{kind}" x="{NAMES}" y="{y + 3}" width="{length:.1f}" '
                f'height="{ROW - 6}" rx="2"/>',
                f'<text x="{NAMES + length + 6:.1f}" y="{y + 15}">{bar.times:g}x</text>',
            ]
            y += ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 6}" '
            f'width="{WIDTH}" height="{y + 6}" role="img">',
            "<title>Images a second, as a multiple of the pipeline of transformers</title>",
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(read_table(README.read_text("utf-8"))), "utf-8")
