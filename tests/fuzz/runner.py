"""Runs odd commands in this process, holds them to the rules, and keeps what breaks them."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import gc
import hashlib
import io
import itertools
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from unittest import mock

import torch
import torch._dynamo  # by the optimizers, and slow: not in the time of a command
import typer.main
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tests.faults.rules import Finished, check
from tests.fixtures.forks import import_all
from tests.fixtures.weights import photo
from tests.fuzz.mutate import Draw
from vitcli.cli import main

CPU, WALL = 5.0, 30.0  # seconds that one command may take; of the wall, for a busy machine
# MB that one command may take, and that all of a round may leave: hypothesis keeps what it drew.
PEAK, GROWTH = 600, 300
SPARE = 3 * 10**9  # bytes that a round may map
WARM, ROUND = 50, 30  # commands until a round has all that it keeps; seconds of a round
PROJECT = re.compile(r'File "[^"]*/(vitcli/[^"]+)", line \d+,? in (\S+)')
MTIME = 1_700_000_000 * 10**9


class Stuck(BaseException):
    """A command took too long. Its traceback shows where."""


class Finding(AssertionError):
    """A rule is broken: `key` is the same for all commands that break it at the same place."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}\n{words}")
        self.key, self.name = key, hashlib.sha256(key.encode()).hexdigest()[:12]
        self.can_shrink = not key.startswith((Stuck.__name__, "R8"))  # else it takes too long


@dataclass(frozen=True)
class Command:
    """Words for `vit`. `inputs` must have a row each on stdout, in this order; `out` must be
    `whole` when all went well."""

    words: Sequence[str]
    stdin: bytes = b""
    inputs: Sequence[str] | None = None
    out: str | None = None
    whole: bytes | None = None
    within: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    theirs: Sequence[str] = ("home/in", "home/elsewhere", "tmp")  # what must stay as it is


Target = Callable[[Draw, "Box"], Command]


class Box:
    """A folder to run in, anew for each command, with neighbours that nobody may touch."""

    def __init__(self, base: Path) -> None:
        self.base, self.home = base.resolve(), base.resolve() / "home"

    def clear(self) -> None:
        """Leave in/a.png, in/b.png, an empty out/, and the neighbours."""
        shutil.rmtree(self.base)
        for name in ("home/out", "tmp", "cache"):
            (self.base / name).mkdir(parents=True)
        for name in ("in/a.png", "in/b.png", "elsewhere/secret.png"):
            self.write(name, picture(name))
        self.write("elsewhere/kept.txt", b"kept")

    def write(self, name: str, data: bytes) -> str:
        """A file in the folder, of a time that is always the same; gives the name."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(MTIME, MTIME))
        return name

    def fill(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.write(name, data)

    def files(self, *within: str) -> dict[str, bytes]:
        """What is there, by its name in the box."""
        found = itertools.chain.from_iterable((self.base / w).rglob("*") for w in within)
        return {os.path.relpath(p, self.home): p.read_bytes() for p in found if p.is_file()}

    def run(self, command: Command) -> Finished:
        """Run it, and hold it to the rules. Raises Finding."""
        before, children = self.files(*command.theirs), _children()
        _reset_peak()
        memory = _memory("VmRSS")
        try:
            with self._inside(command.stdin) as said, command.within():
                code = main(list(command.words))
            done = self._check(command, code, *said)
        except (Exception, Stuck) as error:
            raise _finding(error) from error
        if changed := {name for name, _ in before.items() ^ self.files(*command.theirs).items()}:
            raise Finding(f"R7: changed: {min(changed)}", f"changed: {sorted(changed)}")
        if _children() != children:
            raise Finding("R5: a process is left", "")
        if _memory("VmHWM") - memory > PEAK:
            raise Finding("R8: memory", f"{_memory('VmHWM') - memory:.0f} MB more at its peak")
        return done

    def _check(self, command: Command, code: int, out: bytes, err: bytes) -> Finished:
        lines = err.decode("utf-8", "replace").splitlines()
        is_json = "--log-json" in command.words
        text = "\n".join(line for line in lines if not (is_json and line.startswith('{"time": ')))
        text = text or "vit: told otherwise" * (code in (1, 2) and is_json)
        done = check(code, out, text, command.inputs, None)
        assert code in (0, 1, 2, 3), f"exit code {code}"
        assert len(err) < 4000, "R6: long words"
        assert "not enough memory" not in text, f"R8: memory: {text}"
        shown = [row["path"] for row in done.rows if "error" not in row and row.get("path")]
        secret = [p for p in shown if p.endswith("secret.png") and (self.home / "in" / p).exists()]
        assert not secret, "R7: a secret is shown"
        if command.out is not None and code in (0, 3):
            found = (self.home / command.out).read_bytes()
            assert command.whole in (None, found), f"R9: rows differ\n{found!r}"
        return done

    @contextlib.contextmanager
    def _inside(self, stdin: bytes) -> Iterator[list[bytes]]:
        """In the folder, with a clean environment, watched; gives stdout and stderr at the end."""
        said: list[bytes] = []
        env = {k: v for k, v in os.environ.items() if not k.startswith(("VIT_", "HF_", "COV_"))}
        env |= {"VIT_CACHE": str(self.base / "cache"), "TMPDIR": str(self.base / "tmp")}
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            stack.enter_context(_descriptors([file.fileno() for file in files]))
            for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
                errors = "backslashreplace" if fd == 2 else "strict"
                text = stack.enter_context(
                    open(fd, mode, encoding="utf-8", errors=errors, closefd=False)
                )
                stack.enter_context(mock.patch.object(sys, name, text))
            stack.enter_context(mock.patch.dict(os.environ, env, clear=True))
            stack.enter_context(mock.patch.object(tempfile, "tempdir", None))
            stack.enter_context(mock.patch.object(typer.main, "get_command", get_command))
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(contextlib.chdir(self.home))
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
            with _watched():
                yield said
            sys.stdout.flush()
            sys.stderr.flush()
            for file in files[1:]:
                file.seek(0)
                said.append(file.read())


get_command = functools.cache(typer.main.get_command)  # half of the time of a run


@functools.cache
def picture(name: str) -> bytes:
    """A small one, which the name decides about."""
    data = io.BytesIO()
    photo(8 + zlib.crc32(name.encode()) % 17, 12).save(data, "PNG")
    return data.getvalue()


@contextlib.contextmanager
def _descriptors(files: Sequence[int]) -> Iterator[None]:
    """0, 1 and 2 are these."""
    saved = [os.dup(fd) for fd in range(3)]
    for fd, file in enumerate(files):
        os.dup2(file, fd)
    try:
        yield
    finally:
        for fd, old in enumerate(saved):
            os.dup2(old, fd)
            os.close(old)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Raise Stuck in what takes too long."""

    def strike(number: int, frame: object) -> None:
        raise Stuck(f"more than {CPU} s of CPU" if number == signal.SIGPROF else f"{WALL} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, CPU), (signal.SIGALRM, signal.ITIMER_REAL, WALL))
    before = [signal.signal(number, strike) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _finding(error: BaseException) -> Finding:
    """What the error is to be known by: the rule, or its type and the last place of ours."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, AssertionError) and not PROJECT.search(text.rpartition("rules.py")[2]):
        last = str(error).splitlines()[0][:90] if str(error) else text.splitlines()[-2].strip()
        return Finding(last[:2] + re.sub(r"'[^']*'|\d+", "N", last[2:]), text)
    file, function = (PROJECT.findall(text) or [("?", "?")])[-1]
    return Finding(f"{type(error).__name__} at {file}:{function}", text)


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _memory(name: str) -> float:
    """Megabytes that /proc says of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def fuzz(
    target: Target,
    box: Box,
    examples: int,
    *,
    number: int | None = None,
    is_new: Callable[[Finding, Sequence[str]], bool] = lambda finding, words: True,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Run so many commands of a target, the same ones always where there is no seed `number`.

    Raises a Finding that `is_new`, made as small as hypothesis can.
    """

    def one(data: st.DataObject) -> None:
        if is_over():
            return
        box.clear()
        command = target(data.draw, box)
        try:
            box.run(command)
        except Finding as finding:
            if is_new(finding, command.words):
                raise

    how = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=number is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    test = how(given(st.data())(one))
    (test if number is None else seed(number)(test))()


# A long run: rounds of one target after the other, each in a process of its own.


def long_run(targets: Mapping[str, Target], words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--target", choices=targets, action="append", help="all by default")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "vit-fuzz")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args(words)
    end = time.monotonic() + asked.minutes * 60
    corpus, counts = Corpus(asked.corpus), dict.fromkeys(asked.target or targets, 0)
    known = corpus.known()
    import_all()  # each round is a fork, and need not do it again
    for number in itertools.count(asked.seed):
        for name in counts:
            left = min(end - time.monotonic(), ROUND)
            counts[name] += _round(name, targets[name], number, left, corpus) if left > 0 else 0
        print(f"{sum(counts.values()):,} commands: {counts}", flush=True)
        if time.monotonic() >= end:
            break
    return int(corpus.known() != known)


@dataclass(frozen=True)
class Corpus:
    """A folder for each finding: what was said, the command, and the box that it ran in."""

    folder: Path

    def known(self) -> set[str]:
        return {path.parent.name for path in self.folder.glob("*/said")}

    def keep(self, finding: Finding, target: str, words: Sequence[str], box: Path) -> None:
        """Write it down, in the place of a larger one; tell of it the first time."""
        place = self.folder / finding.name
        if not place.exists():
            print(f"{target}: {finding.key}\n  {place}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(box, place / "box", symlinks=True)
        (place / "command").write_text(f"vit {shlex.join(words)}\n", errors="backslashreplace")
        (place / "said").write_text(f"{target}: {finding}\n", errors="backslashreplace")


def _round(name: str, target: Target, number: int, seconds: float, corpus: Corpus) -> int:
    """Run one target for some seconds; gives how many commands it were."""
    with tempfile.TemporaryDirectory(prefix="vit-fuzz-") as folder:
        base, count = Path(folder) / "box", Path(folder) / "count"
        base.mkdir()
        stack = Path(folder) / "stack"
        if not (child := os.fork()):
            with stack.open("w") as file:
                try:
                    _child(name, target, number, seconds, corpus, base, count, file)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc(file=file)
                    file.flush()
                    os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            last = PROJECT.search(stack.read_text())  # the innermost comes first
            key = f"died with {status} in {':'.join(last.groups()) if last else name}"
            corpus.keep(Finding(key, stack.read_text()), name, ["?"], base)
        return int(count.read_text()) if count.exists() else 0


def _child(
    name: str,
    target: Target,
    number: int,
    seconds: float,
    corpus: Corpus,
    base: Path,
    count: Path,
    stack: TextIO,
) -> None:
    """The round itself, in a process of its own."""
    limit = int(_memory("VmSize") * 1e6) + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    end, known = time.monotonic() + seconds, corpus.known()
    box, began, done = Box(base), (0.0, 0), 0

    def is_over() -> bool:
        nonlocal began, done
        faulthandler.dump_traceback_later(2 * WALL, exit=True, file=stack)
        done += 1
        count.write_text(str(done))
        began = _grown() if done == WARM else began
        return time.monotonic() > end

    def is_new(finding: Finding, words: Sequence[str]) -> bool:
        if finding.name in known:
            return False
        corpus.keep(finding, name, words, base)
        new.add(finding.name)
        return finding.can_shrink

    while time.monotonic() < end:
        new: set[str] = set()
        number += 1_000_003
        with contextlib.suppress(Finding, Flaky):  # flaky: the time was over while it was shrunk
            fuzz(target, box, 1000, number=number, is_new=is_new, is_over=is_over)
        known |= new
    memory, files = (now - then for now, then in zip(_grown(), began, strict=True))
    if done > WARM and (memory > GROWTH or files > 3):
        words = f"{memory:.0f} MB, {files} open files after {done} commands"
        corpus.keep(Finding(f"growth of {name}", words), name, ["?"], base)
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()


def _grown() -> tuple[float, int]:
    """Megabytes and open files of this process."""
    gc.collect()
    return _memory("VmRSS"), len(list(Path("/proc/self/fd").iterdir()))
