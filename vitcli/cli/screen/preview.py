"""An image in the terminal, two pixels per character."""

from __future__ import annotations

import shutil
import sys

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from vitcli.bar import console

HALF = "▀"  # foreground: the upper pixel; background: the lower one
MAX_WIDTH = 96


class Preview:
    """Keeps the image until the progress bar is gone, then prints it to the terminal, whether that
    is standard output or standard error. `room` is (height, width) in pixels, None without a
    terminal."""

    def __init__(self) -> None:
        files = (f for f in (sys.stdout, sys.stderr) if f is not None and f.isatty())
        self._terminal = next(files, None)
        cells = shutil.get_terminal_size()
        room = 2 * max(8, cells.lines - 2), max(16, min(MAX_WIDTH, cells.columns - 1))
        self.room = room if self._terminal is not None else None
        self._pixels: NDArray[np.uint8] | None = None

    def show(self, pixels: NDArray[np.uint8]) -> None:
        """Keep an image: uint8 (2 * lines, columns, 3)."""
        self._pixels = pixels

    def print(self) -> None:
        if self._pixels is not None:
            console(file=self._terminal).print(_lines(self._pixels), no_wrap=True, overflow="crop")


def _lines(pixels: NDArray[np.uint8]) -> Text:
    text = Text()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append(HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text[:-1]
