"""Text on pictures: one line, cut where there is no room."""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image, ImageFont

from vitcli.errors import VitError, printable
from vitcli.render.confusion import MAX_NAMED, MAX_NUMBERED, confusion_png, most_confused
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


def test_a_confusion_can_be_read_with_any_number_of_classes() -> None:
    sizes = []
    for count in (1, 2, MAX_NUMBERED, MAX_NAMED, 1000):
        counts = np.eye(count, dtype=np.int64) * 20
        counts[-1, 0] += 7
        names = [f"class\n{number}" for number in range(count)]
        picture = Image.open(io.BytesIO(confusion_png(names, counts, "demo on digits")))
        sizes.append(max(picture.size))
    assert sizes[:3] == sorted(sizes[:3]) and max(sizes) < 3200
    assert most_confused(names[:40], counts[:40, :40]).note == ""
    shown = most_confused(names, counts)
    assert (len(shown.labels), shown.labels[0], shown.labels[-1]) == (40, names[0], names[999])
    assert shown.counts[-1, 0] == 7 and shown.totals[-1] == 27
    assert shown.note == "the 40 most confused of 1,000 classes, with 7 of 7 mistakes"


def test_a_message_is_short_whatever_it_is_about() -> None:
    for text in ("x" * 1_000_000, "\udcff" * 10_000, "鳥" * 5_000):
        error = VitError(f"no such file: {text}.png", text)
        printed = printable(error.message) + printable(error.hint or "")
        assert len(printed.encode()) < 2000
        assert error.message.startswith("no such file: ") and error.message.endswith(".png")
    error = VitError("--select: not understood", "a" * 5000 + "?" + "b" * 5000, caret=5000)
    assert error.hint is not None and error.caret is not None
    assert error.hint[error.caret] == "?"
