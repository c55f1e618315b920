"""What cron gets: lines of JSON on stderr, a summary file, and an early stop."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ended, Vit
from tests.fixtures.forks import ForkServer, wait_for
from tests.fixtures.photos import many_photos
from vitcli.cli.screen import screen

DEMO = ("-m", "demo")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """40 photographs: of 8 and 24 the half is missing, 17 and 33 are text."""
    many_photos(tmp_path / "mixed", 40, broken=(8, 17, 24, 33))
    return tmp_path / "mixed"


def events(ended: Ended) -> list[dict[str, Any]]:
    """Every line of stderr is an object with a time and an event."""
    found = [json.loads(line) for line in ended.err.splitlines()]
    for event in found:
        assert [*event][:2] == ["time", "event"]
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
    return found


def read(file: Path) -> dict[str, Any]:
    """The summary, and that nothing else was left behind."""
    assert [p.name for p in file.parent.iterdir() if file.name in p.name] == [file.name]
    return json.loads(file.read_bytes())  # type: ignore[no-any-return]


def test_the_summary_has_counts_speed_failures_and_versions(
    vit: Vit, mixed: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    file.touch()
    os.mkfifo(mixed / "pipe.jpg")
    ended = vit("classify", mixed, *DEMO, "-o", "o.csv", "--summary", file, "--select", "score > 2")
    assert ended.code == 3
    report = read(file)
    seconds, speed = report.pop("seconds"), report.pop("images_per_second")
    assert speed == pytest.approx(40 / seconds, rel=0.01)
    started, finished = (datetime.fromisoformat(report.pop(key)) for key in ("started", "ended"))
    assert 0 < seconds <= (finished - started).total_seconds() + 0.01
    assert report.pop("versions")["torch"] == version("torch")
    assert report.pop("config").startswith("[classify]\ninputs = [")
    assert report == {
        "schema": 1,
        "images": 40,
        "done": 36,
        "failed": 4,
        "failures": {"DecodeError": 2, "NotAnImage": 2},
        "unlisted": 0,
        "skipped": 1,
        "selected": 0,
        "exit_code": 3,
        "error": None,
    }


def test_the_summary_of_a_good_run(vit: Vit, mixed: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    args = ("embed", mixed / "img-00000.jpg", *DEMO, "-o", "e.npy", "--summary", file, "-q")
    ended = vit(*args)
    assert (ended.code, ended.err) == (0, "")
    report = read(file)
    assert (report["exit_code"], report["images"], report["failures"]) == (0, 1, {})
    assert "selected" not in report


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("mixed", "-m", "no/such", "--offline"), 1, "no/such"),
        (("nothing", *DEMO), 3, None),
        (("empty", *DEMO), 1, "no images in empty"),
        (("mixed", *DEMO, "--device", "tpu"), 1, "unknown device"),
        (("mixed", *DEMO, "--max-errors", "1"), 1, "--max-errors 1"),
    ],
)
def test_a_run_that_fails_has_a_summary_too(
    vit: Vit, mixed: Path, tmp_path: Path, args: tuple[str, ...], code: int, words: str | None
) -> None:
    (tmp_path / "empty").mkdir()
    file = tmp_path / "run.json"
    ended = vit("classify", *args, "--summary", file)
    assert ended.code == code
    report = read(file)
    assert report["exit_code"] == code
    if words is None:
        assert report["error"] is None
    else:
        assert words in report["error"]["message"]
        assert words in ended.err


def test_a_summary_that_cannot_be_written_is_found_at_once(vit: Vit, tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "no" / "folder.json"):
        ended = vit("classify", "x.jpg", "-m", "no-such-model", "--summary", file)
        assert ended.code == 1
        assert ended.err.startswith(f"vit: cannot write the summary to {file}: ")


def test_a_run_logs_json_and_nothing_else(
    vit: Vit, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "LOG_EVERY", 0.0)
    ended = vit("classify", mixed, *DEMO, "--log-json", "-b", "8")
    assert ended.code == 3
    found = events(ended)
    kinds = [event["event"] for event in found]
    assert kinds == ["progress"] * 5 + ["failures"] * 2 + ["summary"]
    assert [event["images"] for event in found[:5]] == [8, 16, 24, 32, 40]
    assert [event["failed"] for event in found[:5]] == [0, 1, 2, 3, 4]
    first = {"path": str(mixed / "img-00008.jpg"), "message": found[5]["first"]["message"]}
    assert found[5] | {"time": 0} == {
        "time": 0,
        "event": "failures",
        "type": "DecodeError",
        "count": 2,
        "first": first,
    }
    last = found[-1]
    assert (last["images"], last["done"], last["failed"]) == (40, 36, 4)
    assert (last["exit_code"], last["error"], last["out"]) == (3, None, None)


def test_an_error_is_an_event_and_not_said_twice(vit: Vit, mixed: Path) -> None:
    ended = vit("classify", mixed, *DEMO, "--log-json", "--device", "tpu")
    [event] = events(ended)
    assert (ended.code, event["event"], event["exit_code"]) == (1, "error", 1)
    assert "unknown device" in event["error"]["message"]


def test_notes_are_events(capsys: pytest.CaptureFixture[str]) -> None:
    with screen.Screen(log_json=True) as reporter:
        reporter.note("a \x1b note")
        reporter.note("a \x1b note")
    [event] = events(Ended(0, b"", capsys.readouterr().err))
    assert (event["event"], event["message"]) == ("note", "a \x1b note")


def test_quiet_is_quiet_but_for_errors(vit: Vit, mixed: Path) -> None:
    assert vit("classify", mixed, *DEMO, "--log-json", "-q").err == ""
    ended = vit("classify", mixed, *DEMO, "--log-json", "-q", "--device", "tpu")
    assert [event["event"] for event in events(ended)] == ["error"]


def test_an_interrupted_run_reports_where_it_was(vits: ForkServer, tmp_path: Path) -> None:
    many_photos(tmp_path / "many", 300)
    args = ("classify", "many", *DEMO, "-b", "1", "-o", "o.csv", "--summary", "run.json")
    child = vits.start(*args, "--log-json", cwd=tmp_path)
    wait_for(child.errors)  # the first progress, perhaps before the first image
    rows, partial = 0, tmp_path / "o.csv.partial"
    while rows < 2 and Path(f"/proc/{child.pid}").exists():  # the header is one
        time.sleep(0.01)
        rows = partial.read_bytes().count(b"\n") if partial.exists() else 0
    child.kill(signal.SIGTERM)
    child.wait()
    found = events(Ended(0, b"", child.err))
    report = read(tmp_path / "run.json")
    assert report["exit_code"] == found[-1]["exit_code"] == 143
    assert 1 <= report["images"] < 300
    assert found[-1]["event"] == "error"
    assert found[-1]["error"]["message"] == "interrupted"


# Stopping early


@pytest.mark.parametrize("command", ["classify", "embed"])
@pytest.mark.parametrize(
    ("options", "seen", "said"),
    [
        (("--max-errors", "1"), 24, "2 of 24 images failed, --max-errors 1 (DecodeError: "),
        (("--max-errors", "2"), 32, "3 of 32 images failed, --max-errors 2"),
        (("--max-errors", "9%"), 40, "4 of 40 images failed, --max-errors 9%"),
        (("--on-error", "stop"), 16, "1 of 16 images failed, and none is allowed (DecodeError: "),
    ],
)
def test_too_many_errors_end_the_run_and_keep_what_was_written(
    vit: Vit,
    mixed: Path,
    tmp_path: Path,
    command: str,
    options: tuple[str, ...],
    seen: int,
    said: str,
) -> None:
    ended = vit(command, mixed, *DEMO, "-b", "8", "-o", "out.jsonl", *options)
    assert (ended.code, ended.out) == (1, b"")
    *failures, error, _ = ended.err.splitlines()
    assert said in error
    assert failures and all("img-000" in line for line in failures)
    assert not (tmp_path / "out.jsonl").exists()
    partial = (tmp_path / "out.jsonl.partial").read_bytes().splitlines()
    assert [json.loads(line)["path"] for line in partial] == [
        str(mixed / f"img-{i:05}.jpg") for i in range(seen)
    ]


@pytest.mark.parametrize(
    "options", [("--max-errors", "4"), ("--max-errors", "10%"), ("--on-error", "skip")]
)
def test_errors_that_are_borne_end_nothing(vit: Vit, mixed: Path, options: tuple[str, ...]) -> None:
    ended = vit("classify", mixed, *DEMO, *options)
    assert ended.code == 3
    assert len(ended.out.splitlines()) == 40


def test_two_ways_to_stop_contradict_each_other(vit: Vit) -> None:
    ended = vit("classify", "x.jpg", "--max-errors", "3", "--on-error", "stop")
    assert (ended.code, ended.err.splitlines()[0]) == (
        2,
        "vit: --max-errors and --on-error stop contradict each other",
    )
