"""What holds for every run, whatever happens to it: the rules that each fault test checks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")
DEMO = ("-m", "demo", "-k", "1")


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
    stdin: bytes | None = b"",
    env: dict[str, str] | None = None,
    before: Sequence[str] = (),
    timeout: float = 120,
    **options: Any,
) -> Finished:
    """Run `vit` in a session of its own, behind the words `before`, and check the rules.

    `inputs` are the paths that must have a row each, in this order.
    """
    shared = segments()
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "vitcli", *map(str, args)],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment() if env is None else env,
        start_new_session=True,
        **options,
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
    found = check(process, out, err.decode("utf-8", "replace"), inputs, peaks)
    assert until_gone(process.pid) == [], "R5: a process is left"
    assert segments() <= shared, "R5: shared memory is left"
    return found


def check(
    process: subprocess.Popen[bytes],
    out: bytes,
    err: str,
    inputs: Sequence[str | Path] | None,
    peaks: dict[int, float],
) -> Finished:
    code, lines = process.returncode, err.splitlines()
    assert "Traceback" not in err, f"R1: {err}"
    assert "\x1b" not in err, f"R1: {err}"
    assert all(line.startswith(("vit: ", "  ")) for line in lines), f"R1: {err}"
    assert len(lines) == len(set(lines)), f"R1: said twice: {err}"
    rows = []
    if out.startswith(b"{"):
        assert out.endswith(b"\n"), "R2"
        rows = [json.loads(line) for line in out.removesuffix(b"\n").split(b"\n")]
    if inputs is not None:
        assert [row["path"] for row in rows] == list(map(str, inputs)), "R3"
        failed = sum("error" in row for row in rows)
        assert code == (3 if failed else 0), f"R3: {code} with {failed} failed rows: {err}"
    if code in (1, 2):
        assert 1 <= len(lines) <= 3, f"R6: {err}"
    return Finished(code, out, err, rows, peaks)


def environment(**extra: str) -> dict[str, str]:
    """The environment of the tests without settings that would change what `vit` does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIT_", "HF_", "COV_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def segments() -> set[str]:
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


def session(leader: int) -> list[int]:
    """The processes that one and its children make up."""
    found = subprocess.run(["pgrep", "-s", str(leader)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


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
