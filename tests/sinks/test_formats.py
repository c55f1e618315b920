"""A new format is a class and a row of a table: that makes it atomic, and a run into it resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sinks.rows import classified
from vitcli.records import Row
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.runs.shard import Resuming
from vitcli.sinks import FORMATS, choose_format
from vitcli.sinks.format import Format
from vitcli.sinks.text import LineSink

ROWS = [classified(index, name, "cat") for index, name in enumerate(("a.jpg", "b.jpg"))]


class LoudSink(LineSink):
    """Paths in capitals."""

    def lines(self, row: Row) -> bytes:
        return row.ref.path.upper().encode() + b"\n"


def test_a_toy_format_is_reached_by_its_suffix_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**FORMATS["classify"], "loud": LoudSink}
    monkeypatch.setitem(FORMATS, "classify", known)  # type: ignore[arg-type]  # a Mapping
    out = tmp_path / "out.loud"
    for resumes in (False, True):
        output = Output(
            out=out,
            command="classify",
            format=Format(choose_format(out, None, known)),
            resuming=Resuming(resume=resumes),
        )
        with Recording(output, lambda: (row.ref for row in ROWS)) as record:
            record.plan(Fingerprint({}))
            sink = record.begin({}, [])
            left = [ref.index for ref in record.items()]
            sink.write([ROWS[left[0]]])
            if resumes:
                sink.finish({})
            else:
                assert left == [0, 1]
                sink.abort()
                assert not out.exists()
    assert left == [1]
    assert out.read_bytes() == b"A.JPG\nB.JPG\n"
