"""Draw the pictures of README.md anew with the commands that it names: `python docs/pictures.py`.

Needs Chromium for the page.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import tempfile
from io import StringIO
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
WIDTH = 80  # columns of the terminal
PAGE = (1120, 540)  # CSS pixels
FONTS = "ui-monospace, 'Cascadia Mono', 'DejaVu Sans Mono', Menlo, Consolas, monospace"
CLASSIFY = ("vit", "classify", "examples", "-m", "demo", "--top-k", "3")
ATTENTION = ("vit", "attention", "examples", "-m", "demo", "--method", "grad", "--style", "overlay")


def main() -> None:
    shown = Console(width=WIDTH, record=True, file=StringIO(), force_terminal=True)
    shown.print(Text("$ " + " ".join(CLASSIFY), "bold"))
    shown.print(Text.from_ansi(on_terminal(CLASSIFY)))
    (DOCS / "terminal.svg").write_text(drawn(shown), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "looks.html")
        command = [*ATTENTION, "-q", "--out", folder, "--html", str(page)]
        subprocess.run(command, cwd=DOCS.parent, check=True, stdout=subprocess.DEVNULL)
        photograph(page, DOCS / "gallery.png")


def on_terminal(command: tuple[str, ...]) -> str:
    """What a command writes to a terminal: its output with colours, then its last words."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    child = subprocess.Popen(
        command, cwd=DOCS.parent, env=env, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    _, said = child.communicate()
    return (b"".join(parts) + said).decode().replace("\r\n", "\n").rstrip()


def drawn(console: Console) -> str:
    """What is on a console as an SVG that fetches no font."""
    svg = console.export_svg(title="vit", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "monospace").replace("monospace, monospace", FONTS)


def photograph(page: Path, to: Path) -> None:
    """A screenshot of the top of a page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            "--timeout=20000",
            f"--window-size={PAGE[0]},{PAGE[1]}",
            f"--screenshot={to}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )
    with Image.open(to) as image:
        image.convert("RGB").quantize(255).save(to, optimize=True)


if __name__ == "__main__":
    main()
