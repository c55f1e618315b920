"""Signals: the batch in flight is written, one line says how to go on, and nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vit
from tests.faults.conftest import FEWER
from tests.faults.rules import DEMO, contents, ended, environment, run, until_gone
from tests.fixtures.forks import Child, ForkServer, wait_for
from vitcli.checkpoints import load
from vitcli.cli import again
from vitcli.errors import CheckpointError

SIGNALS = pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: getattr(value, "name", None),
)


def start(
    vits: ForkServer,
    many: Path,
    out: Path,
    *more: object,
    workers: int = 0,
    size: int = 500,
    **how: Any,
) -> Child:
    """A run of one image at a time, which is on its way."""
    args = ("classify", many, "-m", "demo", "-b", 1, "-j", workers, "-o", out)
    child = vits.start(*args, *more, **how)
    wait_for(out.with_name(out.name + ".partial"), size)
    return child


def in_pipe(descriptor: int) -> int:
    """Bytes that wait to be read."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("target", ["main", "group"])
@pytest.mark.parametrize("workers", [0, 2])
@SIGNALS
def test_a_signal_says_how_to_continue(
    vits: ForkServer,
    many: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    workers: int,
    target: str,
) -> None:
    """S1, S3: early or late, to all of the processes or to the first one alone."""
    out = tmp_path / "out.jsonl"
    size = 500 if target == "main" else 60_000
    child = start(vits, many, out, workers=workers, size=size)
    sent = time.monotonic()
    (os.kill if target == "main" else os.killpg)(child.pid, number)
    interrupted = ended(child, made=out)
    assert interrupted.code == -number, "the shell stops its loops only then"
    assert time.monotonic() - sent < 10
    partial = tmp_path / "out.jsonl.partial"
    rows = [json.loads(line) for line in partial.read_bytes().splitlines()]
    *failures, last = interrupted.err.splitlines(keepends=True)
    assert all(re.match(f"vit: [A-Za-z]+: {many}/", line) for line in failures)
    assert last == (
        f"vit: interrupted after {len(rows)} of 500 images; continue with: vit classify {many} "
        f"-m demo -b 1 -j {workers} -o {out} --resume\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.jsonl.partial",
        "out.jsonl.partial.journal",
    }


def test_a_run_that_starts_over_is_not_told_to_start_over_again() -> None:
    words = ["vit", "embed", "my photos", "--overwrite", "-o", "f.npy"]
    assert again(words) == "vit embed 'my photos' -o f.npy --resume"


@SIGNALS
def test_python_says_the_exit_code(
    vits: ForkServer, many: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """S1, S3: what a shell makes of the signal."""
    words = f"{sys.executable} -m vitcli classify {many} -m demo -b 1 -j 0 -o out.jsonl; echo $?"
    shell = subprocess.Popen(
        ["sh", "-c", words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "out.jsonl.partial", 500)
    found = subprocess.run(
        ["pgrep", "-s", str(shell.pid), "-f", "vitcli classify .* -j 0"],
        capture_output=True,
        text=True,
    )
    os.kill(int(found.stdout.split()[-1]), number)
    out, err = shell.communicate(timeout=30)
    assert int(out) == code
    assert b"continue with" in err


def test_a_signal_in_the_last_batch_lets_the_run_finish_or_go_on(
    vits: ForkServer, fewer: Path, tmp_path: Path
) -> None:
    """S1: the rows are all there, the names are taken or not."""
    clean = tmp_path / "clean" / "out.jsonl"
    clean.parent.mkdir()
    run(vits, "classify", fewer, "-m", "demo", "-b", 1, "-j", 0, "-o", clean, made=clean)
    out = tmp_path / "out.jsonl"
    child = start(vits, fewer, out, size=clean.stat().st_size - 300)
    child.kill(signal.SIGTERM)
    last = ended(child, made=out)
    assert last.code in (3, -signal.SIGTERM)
    again = run(
        vits, "classify", fewer, "-m", "demo", "-b", 1, "-j", 0, "-o", out, "--resume", made=out
    )
    assert again.code == 3
    assert contents(out) == contents(clean)


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.4, 0.8, 1.2])
def test_a_signal_while_everything_is_loaded_makes_one_line(
    ten: Path, tmp_path: Path, seconds: float
) -> None:
    """S1: no import of what a command needs is interrupted with a traceback. What comes before,
    Python's own start and our first module, is too short to be met on purpose."""
    script = "from vitcli.cli import entry; print(flush=True); entry()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "classify", ten, *DEMO, "-o", "out.jsonl"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGINT, 0)
    assert process.returncode == 0 or re.fullmatch(
        rb"vit: interrupted( after 0 of 10 images; continue with: .* --resume)?\n", err
    )
    assert until_gone(process.pid) == []


@pytest.mark.parametrize("becomes", ["another error", "nothing"])
def test_a_signal_that_a_library_makes_something_else_of_is_still_a_signal(
    vit: Vit, ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    """S1: C code that calls Python back may turn any exception into one of its own."""
    original = load.read_weights

    def read(*args: Any, **options: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            if becomes == "another error":
                raise CheckpointError("model.safetensors is not valid (no shape)") from None
        return original(*args, **options)

    monkeypatch.setattr(load, "read_weights", read)
    found = vit("classify", ten, *DEMO, "-j", "0", "-o", "o.csv", "--summary", "run.json")
    assert found.code == 143
    assert found.err.startswith("vit: interrupted")
    assert json.loads((tmp_path / "run.json").read_bytes())["exit_code"] == 143
    assert vit("classify", ten, *DEMO, "-j", "0", "-o", "p.csv", "-q").code == 143, (
        "no memory of it"
    )
    monkeypatch.undo()
    assert vit("classify", ten, *DEMO, "-j", "0", "-o", "q.csv", "-q").code == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_two_signals_in_one_instant_are_one(
    vits: ForkServer, fewer: Path, tmp_path: Path, workers: int
) -> None:
    """S2: `timeout` and others signal the process, and then its group."""
    out = tmp_path / "out.jsonl"
    child = start(vits, fewer, out, workers=workers)
    child.kill(signal.SIGINT)
    child.kill(signal.SIGINT)
    interrupted = ended(child, made=out)
    assert interrupted.code == -signal.SIGINT
    assert "continue with" in interrupted.err
    args = ("classify", fewer, "-m", "demo", "-b", 1, "-j", workers, "-o", out, "--resume")
    assert run(vits, *args, made=out).code == 3
    assert len(out.read_bytes().splitlines()) == FEWER


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_signal_ends_a_run_that_cannot_finish_its_batch(
    vits: ForkServer, many: Path, tmp_path: Path, workers: int
) -> None:
    """S2: nobody reads the pipe that it writes to. What a death at any moment leaves of a
    partial is the business of tests/runs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    args = ("classify", many, "-m", "demo", "-j", workers, "--format", "jsonl", "-o", fifo)
    child = vits.start(*args)
    waiting, before, end = 0, -1, time.monotonic() + 60
    while not before == waiting > 0:  # it waits for a reader
        assert time.monotonic() < end
        time.sleep(0.5)
        before, waiting = waiting, in_pipe(reader)
    child.kill(signal.SIGINT)
    time.sleep(0.5)
    assert is_alive(child.pid)
    child.kill(signal.SIGINT)
    assert ended(child).code == -signal.SIGINT
    os.close(reader)


def test_signals_that_were_ignored_at_the_start_stay_ignored(
    vits: ForkServer, fewer: Path, tmp_path: Path
) -> None:
    """S3: `nohup`, and a job in the background of a script."""
    out = tmp_path / "out.jsonl"
    child = start(vits, fewer, out, workers=2, ignored=[signal.SIGHUP, signal.SIGINT])
    for _ in range(5):
        os.killpg(child.pid, signal.SIGHUP)
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.02)
    assert ended(child, made=out).code == 3


def test_hours_of_sleep_time_no_image_out(vits: ForkServer, fewer: Path, tmp_path: Path) -> None:
    """S15: stopped and continued, twice as long as an image may take."""
    out = tmp_path / "out.jsonl"
    child = start(vits, fewer, out, "--image-timeout", 1, workers=2)
    os.killpg(child.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.killpg(child.pid, signal.SIGCONT)
    found = ended(child, made=out)
    assert found.code == 3
    assert b"Timeout" not in out.read_bytes()
