"""Text on pictures: one line, cut where there is no room."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image, ImageFont

from vitcli.errors import VitError, printable
from vitcli.render.charts import confusion_png
from vitcli.render.sheet import cut, panel


def test_a_text_is_cut_where_the_room_ends() -> None:
    font = ImageFont.load_default(12)
    text = "a label with many words in it"
    for room in range(0, 200, 7):
        found = cut(text, font, room)
        assert font.getlength(found) <= room
        if found not in ("", text):
            assert found == text[: len(found) - 1] + "…"
            assert font.getlength(text[: len(found)] + "…") > room


def test_a_label_of_any_length_is_drawn_at_once() -> None:
    started = time.process_time()
    label, photo = "x" * 1_000_000, Image.new("RGB", (64, 64))
    panel([photo, photo], label, "raw")
    confusion_png([label, "y"], np.array([[1, 2], [3, 4]]))
    assert time.process_time() - started < 1


def test_a_message_is_short_whatever_it_is_about() -> None:
    for text in ("x" * 1_000_000, "\udcff" * 10_000, "鳥" * 5_000):
        error = VitError(f"no such file: {text}.png", text)
        printed = printable(error.message) + printable(error.hint or "")
        assert len(printed.encode()) < 2000
        assert error.message.startswith("no such file: ") and error.message.endswith(".png")
    error = VitError("--select: not understood", "a" * 5000 + "?" + "b" * 5000, caret=5000)
    assert error.hint is not None and error.caret is not None
    assert error.hint[error.caret] == "?"
