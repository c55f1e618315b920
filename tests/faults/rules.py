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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.fixtures.forks import Child, ForkServer
from tests.fixtures.processes import processes
from vitcli.records import ErrorType

ROOT = Path(__file__).parents[2]
SHM = Path("/dev/shm")
DEMO = ("-m", "demo", "-k", "1")
FAILURE = re.compile(rf"vit: ({'|'.join(ErrorType)}): |vit: more images failed")
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Root may do everything; behind these words it obeys the modes of files, as everybody does.
OBEYING = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.getuid() == 0 else ()
)


@dataclass(frozen=True)
class Finished:
    """A run that kept the rules; `rows` where it wrote JSONL to stdout; `peaks` in MB, of each
    process, where it was watched."""

    code: int
    out: bytes
    err: str
    rows: list[dict[str, Any]]
    peaks: dict[int, float] = field(default_factory=dict)

    @property
    def errors(self) -> dict[str, str]:
        """Path -> error type, of the images that failed."""
        return {row["path"]: row["error"]["type"] for row in self.rows if "error" in row}


def vit(
    *args: str | Path,
    cwd: Path,
    inputs: Sequence[str | Path] | None = None,
    env: dict[str, str] | None = None,
    before: Sequence[str] = (),
) -> Finished:
    """Run `vit` in an interpreter and a session of its own, with the words `before` it, and check
    the rules.

    `inputs` are the paths that must have a row each, in this order.
    """
    shared = segments()
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "vitcli", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment() if env is None else env,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=300)
    found = check(process.returncode, out, err.decode("utf-8", "replace"), inputs, None)
    assert until_gone(process.pid) == [], "R5: a process is left"
    assert segments() <= shared, "R5: shared memory is left"
    return found


def run(
    vits: ForkServer,
    *args: str | Path,
    inputs: Sequence[str | Path] | None = None,
    made: Path | None = None,
    **how: Any,
) -> Finished:
    """As `vit`, but forked, in a tenth of the time. `made` is the output."""
    return ended(vits.start(*args, **how), inputs, made)


def watched(
    vits: ForkServer, *args: str | Path, inputs: Sequence[str | Path], **how: Any
) -> Finished:
    """As `run`, with an eye on the memory of its processes and on what they share."""
    shared = segments()
    child = vits.start(*args, **how)
    peaks: dict[int, float] = {}
    while Path(f"/proc/{child.pid}").exists():
        for pid in (child.pid, *processes("session", child.pid)):
            peaks[pid] = max(peaks.get(pid, 0), peak_memory(pid))
        time.sleep(0.05)
    found = replace(ended(child, inputs), peaks=peaks)
    assert segments() <= shared, "R5: shared memory is left"
    return found


def ended(
    child: Child, inputs: Sequence[str | Path] | None = None, made: Path | None = None
) -> Finished:
    """Wait for a forked process, and check the rules."""
    found = check(child.wait(), child.out, child.err, inputs, made)
    assert until_gone(child.pid) == [], "R5: a process is left"
    return found


def check(
    code: int,
    out: bytes,
    err: str,
    inputs: Sequence[str | Path] | None,
    made: Path | None,
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
        errors = [line for line in lines if not FAILURE.match(line)]
        assert 1 <= len(errors) <= 3, f"R6: {err}"
    assert code in (0, 1, 2, 3, 141) or -code in INTERRUPTS, f"{code}: {err}"
    return Finished(code, out, err, rows)


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
    """An output with what stands beside it; the meta file without its times and the config,
    which names the output."""
    found = {}
    for path in out.parent.glob(f"{out.stem}.*"):
        data = path.read_bytes()
        if path.name.endswith(".meta.json"):
            meta = json.loads(data)
            data = json.dumps(
                {k: v for k, v in meta.items() if k not in ("seconds", "config")}
            ).encode()
        found[path.name] = data
    return found


def environment(**extra: str) -> dict[str, str]:
    """The environment of the tests without settings that would change what `vit` does."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIT_", "HF_", "COV_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def segments() -> set[str]:
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


def until_gone(leader: int, seconds: float = 5) -> list[int]:
    end = time.monotonic() + seconds
    while (left := processes("session", leader)) and time.monotonic() < end:
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
