"""`--devices`: the same command in a process for each device, over shards; then `vit merge`.

Inference needs nothing of its neighbours, so the processes share nothing but the command. What one
of them has done is a shard with its journal: whatever ends a process, --resume goes on with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from threading import Thread
from typing import IO, Any

from vitcli.cli.options.groups import Common
from vitcli.cli.screen.exit import end
from vitcli.cli.screen.screen import Screen
from vitcli.errors import DeviceError, Interrupted, OutputError
from vitcli.fleet.shards import CAN_RESUME, Division, begun, divided, is_complete, total
from vitcli.images.path_list import copy_stdin
from vitcli.images.workers import MOST_WORKERS
from vitcli.jobs.job import Summary
from vitcli.processes import available_cpus, fate
from vitcli.records import ErrorType, Failure, ImageRef, Progress
from vitcli.runs.shard import Shard
from vitcli.runs.staging import staged
from vitcli.stores import Place

TICK = 0.1  # seconds
PARENT = "_VIT_PARENT"  # the descriptor that is at its end when the process that shares is gone


@dataclass(slots=True)
class _Process:
    """One device at work, and what it has said."""

    device: str
    shard: Shard
    process: subprocess.Popen[bytes]
    counts: Mapping[str, Any] = field(default_factory=dict)
    failures: list[Mapping[str, Any]] = field(default_factory=list)
    error: Mapping[str, Any] | None = None
    words: str = ""  # the last line that was none of ours

    def listen(self, screen: Screen) -> None:
        """Take the lines of its stderr."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                said = json.loads(line)
                event = said["event"]
            except (ValueError, TypeError, KeyError):
                self.words = line.decode("utf-8", "replace").strip() or self.words
                continue
            if event == "note":
                screen.note(said["message"])
            elif event == "failures":
                self.failures.append(said)
            elif event == "error":
                self.error = said["error"]
            if "done" in said:
                self.counts = said

    @property
    def has_ended_well(self) -> bool:
        return self.process.returncode in (0, 3)

    def why(self) -> str:
        died = f"it {fate(self.process.returncode)}"
        return str(self.error["message"]) if self.error else self.words or died


def spread(common: Common, words: Sequence[str], out: Place | None) -> Common | None:
    """Run the command, `words`, on all of its devices. What is left to do in this process: all,
    where there is one device.

    Raises OutputError where a process has not come to its end; the others have.
    """
    _end_with_parent()
    devices = _names(common.devices)
    alone = replace(common, running=replace(common.running, device=devices[0]))
    if len(devices) == 1:
        return alone
    asked, overwrite, note = common.resuming, common.overwrite, common.screen.note
    division = Division(out=Path(), asked=asked, overwrite=overwrite, count=len(devices))
    inner = division.shards if asked.shard else ()
    with (
        common.screen as screen,
        staged(out, (), asked, overwrite=overwrite, note=note, shards=inner) as file,
    ):
        file = divided(file, asked, "--devices", "device")
        division = replace(division, out=file)
        named = [shard.named(file) for shard in division.shards]
        names = tuple(start + path.stem for path in named for start in ("", "."))
        if other := [path for path in begun(file) if not path.name.startswith(names)]:
            raise OutputError(
                f"{other[0]} is of a run with another number of devices",
                "give as many as then, or remove it",
            )
        if is_complete(file, asked, overwrite=overwrite):
            note(f"{out} is complete: what is new is done on {devices[0]} alone")
            return alone
        parts = list(zip(devices, division.shards, strict=True))
        summary = division.join(_run(common, words, file, parts, screen))
    end(screen, summary, out)
    return None


def _run(
    common: Common,
    words: Sequence[str],
    out: Path,
    parts: Sequence[tuple[str, Shard]],
    screen: Screen,
) -> Summary:
    """All processes from their start to their end."""
    started = time.monotonic()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="vit-devices-")))
        theirs, ours = os.pipe()  # whatever ends us closes our end
        opened.callback(os.close, theirs)
        opened.callback(os.close, ours)
        stdin = _stdin(folder) if common.inputs.has_stdin else None
        processes: list[_Process] = []
        opened.enter_context(_ended_with_us(processes))
        for device, shard in parts:
            begun = _start(common, words, out, device, shard, parts, folder, stdin, theirs)
            processes.append(_Process(device, shard, begun))
        listeners = [Thread(target=p.listen, args=(screen,), daemon=True) for p in processes]
        for listener in listeners:
            listener.start()
        screen.listing(lambda: None)
        while any(listener.is_alive() for listener in listeners):
            screen.progress(_progress(processes))
            time.sleep(TICK)
        for process in processes:
            process.process.wait()
        screen.progress(_progress(processes))
        reports = [_report(folder, shard) for _, shard in parts]
    if fallen := [p for p in processes if not p.has_ended_well]:
        hint = str(fallen[0].error["hint"] or "") if fallen[0].error else ""
        more = f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else ""
        raise OutputError(
            f"the process on {fallen[0].device} has failed{more}: {fallen[0].why()}",
            "; ".join(filter(None, (hint, CAN_RESUME))),
        )

    return total(reports, time.monotonic() - started)


def _start(
    common: Common,
    words: Sequence[str],
    out: Path,
    device: str,
    shard: Shard,
    parts: Sequence[tuple[str, Shard]],
    folder: Path,
    stdin: Path | None,
    parent: int,
) -> subprocess.Popen[bytes]:
    """The command itself, with our word behind its own."""
    more = [f"--out={out}", "--devices", device, "--shard", str(shard), "--log-json"]
    more += ["--summary", str(_report_of(folder, shard))]
    share = max(1, available_cpus() // len(parts))
    if common.running.workers is None:
        more += ["--workers", str(min(MOST_WORKERS, share))]
    end_of_options = words.index("--") if "--" in words else len(words)
    command = [*words[:end_of_options], *more, *words[end_of_options:]]
    environment = {**os.environ, PARENT: str(parent)}
    if device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", str(share))
    with ExitStack() as opened:
        file: int | IO[bytes] = subprocess.DEVNULL
        if stdin is not None:
            file = opened.enter_context(stdin.open("rb"))
        return subprocess.Popen(
            [sys.executable, "-m", "vitcli", *command],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=(parent,),
        )


def _end_with_parent() -> None:
    """One of several does not work on when the process that shares among them has been killed; it
    ends as by Ctrl-C, with what is in flight."""
    descriptor = os.environ.pop(PARENT, None)
    if descriptor is not None:

        def watch() -> None:
            os.read(int(descriptor), 1)
            os.kill(os.getpid(), signal.SIGTERM)

        Thread(target=watch, name="parent-watch", daemon=True).start()


@contextmanager
def _ended_with_us(processes: Sequence[_Process]) -> Iterator[None]:
    """What interrupts us interrupts them; they finish what is in flight."""
    try:
        yield
    except BaseException as error:
        number = error.signal_number if isinstance(error, Interrupted) else 15
        for process in processes:
            if process.process.poll() is None:
                process.process.send_signal(number)
        for process in processes:
            process.process.wait()
        if isinstance(error, Interrupted):
            error.after = f"{_progress(processes).seen:,} images"
            error.can_resume = True
        raise


def _progress(processes: Sequence[_Process]) -> Progress:
    """The progress of all processes combined, with the first failure of each kind."""
    progress = Progress()
    for process in processes:
        progress.done += process.counts.get("done", 0)
        progress.failed += process.counts.get("failed", 0)
        for said in process.failures:
            kind, first = ErrorType(said["type"]), said["first"]
            failure = Failure(ImageRef(0, first["path"]), kind, first["message"])
            progress.count(failure, said["count"])
    return progress


def _names(asked: Sequence[str]) -> list[str]:
    """`all`, or numbers of CUDA devices, or names as --device has them."""
    if list(asked) != ["all"]:
        return [f"cuda:{name}" if name.isdecimal() else name for name in asked]
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("--devices all: there is no CUDA device here", "name them: cpu,cpu")
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _report_of(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.number}.json"


def _report(folder: Path, shard: Shard) -> Summary:
    """How it ended; nothing, where it has not come so far as to say it."""
    try:
        found = json.loads(_report_of(folder, shard).read_bytes())
    except (OSError, ValueError):
        found = {}
    said = {f.name: found[f.name] for f in fields(Summary) if f.name in found}
    return Summary(**{"done": 0, "failed": 0, "seconds": 0.0} | said)


def _stdin(folder: Path) -> Path:
    """For the processes, each of which reads the list."""
    copy = folder / "stdin"
    with copy.open("wb") as file:
        copy_stdin(file)
    return copy
