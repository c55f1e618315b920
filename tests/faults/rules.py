"""What holds for every run, whatever happens to it: the rules that each fault test checks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fixtures.nursery import Child, Nursery

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")
DEMO = ("-m", "demo", "-k", "1")
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Root may do everything; behind these words it obeys the modes of files, as everybody does.
OBEYING = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.getuid() == 0 else ()
)


@dataclass(frozen=True)
class Finished:
    """A run that kept the rules; `rows` where it wrote JSONL to stdout; peaks in MB."""

    code: int
    out: bytes
    err: str
    rows: list[dict[str, Any]]
    peaks: dict[int, float]

    @property
    def errors(self) -> dict[str, str]:
        """Path -> error type, of the images that failed."""
        return {row["path"]: row["error"]["type"] for row in self.rows if "error" in row}


def vit(
    *args: str | Path,
    cwd: Path,
    inputs: Sequence[str | Path] | None = None,
    made: Path | None = None,
    stdin: bytes | None = b"",
    env: dict[str, str] | None = None,
    before: Sequence[str] = (),
    timeout: float = 300,
    **options: Any,
) -> Finished:
    """Run `vit` in a session of its own, behind the words `before`, and check the rules.

    `inputs` are the paths that must have a row each, in this order; `made` is the output.
    """
    shared = segments()
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "vitcli", *map(str, args)],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        cwd=cwd,
        env=environment() if env is None else env,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    peaks: dict[int, float] = {}
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)  # what fits a pipe
        process.stdin.close()
        process.stdin = None
    end = time.monotonic() + timeout
    while True:
        try:
            out, err = process.communicate(timeout=0.1)
            break
        except subprocess.TimeoutExpired:
            assert time.monotonic() < end, f"still running after {timeout} s"
            for pid in session(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
    text = (err or b"").decode("utf-8", "replace")
    found = check(process.returncode, out or b"", text, inputs, made, peaks)
    assert until_gone(process.pid) == [], "R5: a process is left"
    assert segments() <= shared, "R5: shared memory is left"
    return found


def run(
    vits: Nursery,
    *args: str | Path,
    inputs: Sequence[str | Path] | None = None,
    made: Path | None = None,
    **how: Any,
) -> Finished:
    """As `vit`, but by the nursery, in a tenth of the time."""
    return ended(vits.start(*args, **how), inputs, made)


def ended(
    child: Child, inputs: Sequence[str | Path] | None = None, made: Path | None = None
) -> Finished:
    """Wait for a process of the nursery, and check the rules."""
    found = check(child.wait(), child.out, child.err, inputs, made, {})
    assert until_gone(child.pid) == [], "R5: a process is left"
    return found


def check(
    code: int,
    out: bytes,
    err: str,
    inputs: Sequence[str | Path] | None,
    made: Path | None,
    peaks: dict[int, float],
) -> Finished:
    lines = err.splitlines()
    assert "Traceback" not in err, f"R1: {err}"
    assert "\x1b" not in err, f"R1: {err}"
    assert all(line.startswith(("vit: ", "  ")) for line in lines), f"R1: {err}"
    assert len(lines) == len(set(lines)), f"R1: said twice: {err}"
    rows = []
    if out.startswith(b"{") and code in (0, 3):
        assert out.endswith(b"\n"), "R2"
        rows = [json.loads(line) for line in out.removesuffix(b"\n").split(b"\n")]
    if inputs is not None:
        if made is not None:
            rows = [json.loads(line) for line in made.read_bytes().splitlines()]
        assert [row["path"] for row in rows] == list(map(str, inputs)), "R3"
        failed = sum("error" in row for row in rows)
        assert code == (3 if failed else 0), f"R3: {code} with {failed} failed rows: {err}"
    if made is not None:
        assert made.exists() == (code in (0, 3)), f"R4: {code}: {err}"
        assert not is_locked(made), "R5"
    if code in (1, 2):
        assert 1 <= len(lines) <= 3, f"R6: {err}"
    assert code in (0, 1, 2, 3, 141) or -code in INTERRUPTS, f"{code}: {err}"
    return Finished(code, out, err, rows, peaks)


def is_locked(out: Path) -> bool:
    """Whether somebody still says that an output is theirs."""
    lock = out.with_name(out.name + ".partial.lock")
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def contents(out: Path) -> dict[str, bytes]:
    """An output with what stands beside it; the meta file without its times."""
    found = {}
    for path in out.parent.glob(f"{out.stem}.*"):
        data = path.read_bytes()
        if path.name.endswith(".meta.json"):
            meta = json.loads(data)
            data = json.dumps({k: v for k, v in meta.items() if k != "seconds"}).encode()
        found[path.name] = data
    return found


def environment(**extra: str) -> dict[str, str]:
    """The environment of the tests without settings that would change what `vit` does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIT_", "HF_", "COV_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def segments() -> set[str]:
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


def session(leader: int) -> list[int]:
    """The processes that one and its children make up, without those that are dead already."""
    found = subprocess.run(
        ["ps", "-s", str(leader), "-o", "pid=,stat="], capture_output=True, text=True
    )
    pairs = [line.split() for line in found.stdout.splitlines()]
    return [int(pid) for pid, state in pairs if not state.startswith("Z")]


def until_gone(leader: int, seconds: float = 5) -> list[int]:
    end = time.monotonic() + seconds
    while (left := session(leader)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def peak_memory(pid: int) -> float:
    """Megabytes that a process has had at its most, 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0
