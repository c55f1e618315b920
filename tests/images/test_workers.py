"""Every ref has its result, in order, whatever happens to the processes that decode."""

from __future__ import annotations

import errno
import gc
import math
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.fixtures.photos import Corpus, photo
from tests.fixtures.processes import processes
from tests.images import stubs
from tests.images.stubs import Numbered, Stub
from vitcli.errors import InputError, VitError
from vitcli.images import worker_process, workers
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches
from vitcli.images.members import StreamedMember
from vitcli.images.pool import shared
from vitcli.images.pool.dispatcher import Dispatcher
from vitcli.images.pool.shared import Slots
from vitcli.images.workers import WorkerPool, default_workers, iter_decoded
from vitcli.machine import cpu_quota
from vitcli.records import ErrorType, Failure, ImageRef, Limits, Preprocess, Sample

ROOT = Path(__file__).parents[2]


warm: set[int] = set()  # the forkservers that have started a worker


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a process, a thread or a descriptor behind."""
    worker_process.warm_up()
    if forkserver_pid() not in warm:
        list(iter_decoded(refs("good"), Stub(), 1))  # what stays open for good is open now
        warm.add(forkserver_pid())
    before = descriptors()
    yield
    assert worker_pids() == []
    assert descriptors() == before
    assert [t.name for t in threading.enumerate() if t.name.startswith("decode")] == []


def refs(*paths: str) -> list[ImageRef]:
    return [ImageRef(index, path) for index, path in enumerate(paths)]


def short(seconds: float = 0.6) -> Any:
    """A job whose images time out soon."""
    return Stub(Limits(timeout=seconds))


def descriptors() -> int:
    """Those that are open, not counting pipes that nobody refers to any more."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def forkserver_pid() -> int:
    return forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined, no-any-return]


def worker_pids() -> list[int]:
    return processes("parent", forkserver_pid())


def until(condition: Callable[[], object], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def python(*args: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A process of its own in a group of its own, which finds vitcli and the stubs."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [sys.executable, *args], text=True, env=env, start_new_session=True, **pipes
    )


# Order and equality


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_results_keep_the_order_of_the_refs(count: int) -> None:
    """The later ones are quicker, and overtake."""
    asked = refs(*(f"sleep {(7 - i % 8) / 200}" for i in range(40)))
    found = list(iter_decoded(asked, Stub(), count, ahead=lambda: 8))
    assert [item.ref for item in found] == asked
    assert [item.pixels[0][0, 0, 0] for item in found if isinstance(item, Sample)] == [*range(40)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_are_the_same_for_any_number_of_workers(count: int, photos: Corpus) -> None:
    paths = sorted((*photos.good, *photos.bad))
    asked = refs(*map(str, paths), "missing.jpg", "a\0b.jpg", "caf\udce9.jpg")
    floats = Preprocess((8, 8), (8, 8), resizer="floats")
    job = DecodeJob(
        (Preprocess((32, 24), (32, 24)), Preprocess((8, 8), (9, 9), "shortest"), floats)
    )
    alone, several = (list(iter_batches(asked, job, lambda: 7, n)) for n in (0, count))
    assert len(alone) == len(several)
    for one, other in zip(alone, several, strict=True):
        assert one.refs == other.refs
        assert one.failures == other.failures
        for a, b in zip(one.pixels, other.pixels, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("count", [0, 2])
def test_no_refs_are_no_results(count: int) -> None:
    assert list(iter_decoded([], Stub(), count)) == []


def test_indices_may_begin_anywhere() -> None:
    asked = [ImageRef(index, "good") for index in (1000, 1001, 1005)]
    assert [item.ref for item in iter_decoded(asked, Stub(), 2)] == asked


@pytest.mark.parametrize("resizer", ["pillow", "floats"])
def test_pixels_in_shared_memory_are_those_of_this_process(
    resizer: Literal["pillow", "floats"], tmp_path: Path
) -> None:
    """Whether all images are kept, or some of them, so that their slots are used again."""
    for number in range(24):
        photo(str(number)).save(tmp_path / f"{number}.png")
    asked = refs(*(str(tmp_path / f"{n}.png") for n in range(24)))
    job = DecodeJob(
        (Preprocess((112, 112), (112, 112), resizer=resizer), Preprocess((7, 7), (7, 7)))
    )
    alone = [s for s in iter_decoded(asked, job, 0) if isinstance(s, Sample)]
    assert len(alone) == 24
    for step in (1, 3):
        found = iter_decoded(asked, job, 2, lambda: 4)
        kept = [s for s in found if isinstance(s, Sample) and s.ref.index % step == 0]
        assert len(kept) == 24 // step
        for sample, same in zip(kept, alone[::step], strict=True):
            for ours, theirs in zip(sample.pixels, same.pixels, strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)


def test_a_slot_is_free_when_no_array_uses_it() -> None:
    slots = Slots()
    assert slots.file is not None and slots.take() is None
    slots.choose_size(100)  # small images travel through the pipe
    assert slots.take() is None
    slots.choose_size(50_000)
    slot = slots.take()
    assert slot is not None and slot[1] >= 50_000
    pixels = np.arange(40_000, dtype=np.uint8).reshape(100, 400)
    assert slots.file.fill(slot, [pixels, pixels[:2]])
    assert not slots.file.fill(slot, [pixels, pixels])
    one, other = slots.arrays(slot, [("|u1", (100, 400)), ("|u1", (2, 400))])
    view = one[5:]
    del one, other
    taken = [slots.take() for _ in range(15)]
    assert slot not in taken and None not in taken
    np.testing.assert_array_equal(view, pixels[5:])
    del view
    assert slots.take() == slot
    slots.close()


def test_large_images_and_many_images_do_not_fill_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = Slots()
    slots.choose_size(shared.MAX_SLOT + 1)
    assert slots.take() is None
    monkeypatch.setattr(shared, "MAX_SHARED", 40 * 65_536)
    slots.choose_size(65_536)
    assert sum(slots.take() is not None for _ in range(100)) == 40
    slots.close()


def test_a_slot_is_where_its_memory_is_mapped_after_a_map_that_failed() -> None:
    """The file has grown then, and the next slots are behind what is not mapped."""
    slots = Slots()
    assert slots.file is not None
    slots.file.grow(65_536)
    slots.choose_size(40_000)
    slot = slots.take()
    assert slot is not None and slot[0] == 65_536
    pixels = np.arange(40_000, dtype=np.uint8)
    assert slots.file.fill(slot, [pixels])
    np.testing.assert_array_equal(slots.arrays(slot, [("|u1", (40_000,))])[0], pixels)
    slots.close()


def test_a_worker_that_may_not_map_the_file_sends_the_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = Slots()
    slots.choose_size(40_000)
    slot, file = slots.take(), slots.file
    assert slot is not None and file is not None

    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert not file.fill(slot, [np.zeros(40_000, np.uint8)])
    slots.close()


def test_without_memory_to_share_pixels_travel_through_the_pipes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*size: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    photo("a").save(tmp_path / "a.png")
    job = DecodeJob((Preprocess((112, 112), (112, 112)),))
    found = list(iter_decoded(refs(*[str(tmp_path / "a.png")] * 5), job, 2))
    monkeypatch.delattr(os, "memfd_create")
    found += iter_decoded(refs(*[str(tmp_path / "a.png")] * 5), job, 2)
    assert len({s.pixels[0].tobytes() for s in found if isinstance(s, Sample)}) == 1
    assert len(found) == 10


# Faults of one image


@pytest.mark.parametrize(
    ("verb", "cause"),
    [
        ("abort", "was killed by signal 6 (SIGABRT)"),
        ("kill", "was killed by signal 9 (SIGKILL: out of memory?)"),
        ("exit", "exited with 3"),
        ("raise", "exited with 1"),
    ],
)
def test_an_image_that_kills_its_worker_is_the_only_one_to_fail(verb: str, cause: str) -> None:
    asked = refs("good", "good", verb, "good", "good", "bad", "good")
    notices: list[str] = []
    found = list(iter_decoded(asked, Stub(), 2, note=notices.append))
    assert [item.ref for item in found] == asked
    assert found[2] == Failure(asked[2], ErrorType.WORKER_CRASH, f"its decoder {cause}, 2 times")
    assert [item.ref.index for item in found if isinstance(item, Failure)] == [2, 5]
    assert notices == [f"an image worker {cause}; restarted"]


def test_a_run_made_only_of_crashes_ends() -> None:
    found = list(iter_decoded(refs(*["exit"] * 4), Stub(), 2))
    assert [getattr(item, "type", None) for item in found] == [ErrorType.WORKER_CRASH] * 4


def test_a_worker_that_is_killed_once_costs_no_image(tmp_path: Path) -> None:
    asked = refs("good", f"once {tmp_path / 'killed'}", *["good"] * 5)
    notices: list[str] = []
    found = list(iter_decoded(asked, Stub(), 2, note=notices.append))
    assert [item.ref for item in found] == asked
    assert all(isinstance(item, Sample) for item in found)
    assert notices == [
        "an image worker was killed by signal 9 (SIGKILL: out of memory?); restarted"
    ]


def test_workers_that_are_killed_from_outside_cost_no_image() -> None:
    notices: list[str] = []
    asked = refs("good", *["sleep 0.3"] * 3, "good", "good")
    found = iter_decoded(asked, Stub(), 2, note=notices.append)
    results = [next(found)]
    assert until(lambda: len(worker_pids()) == 2)
    for pid in worker_pids():
        os.kill(pid, signal.SIGKILL)
    results += found
    assert [item.ref for item in results] == asked
    assert all(isinstance(item, Sample) for item in results)
    assert set(notices) == {
        "an image worker was killed by signal 9 (SIGKILL: out of memory?); restarted"
    }


@pytest.mark.parametrize("verb", ["hang", "spin"])
def test_an_image_that_never_ends_is_the_only_one_to_fail(verb: str) -> None:
    asked = refs("good", verb, "sleep 0.1", "good", "good")
    found = list(iter_decoded(asked, short(), 2))
    assert [item.ref for item in found] == asked
    message = "decoding took longer than 0.6 s (--image-timeout)"
    assert found[1] == Failure(asked[1], ErrorType.TIMEOUT, message)
    assert sum(isinstance(item, Sample) for item in found) == 4


def test_a_slow_consumer_times_nobody_out() -> None:
    found = iter_decoded(refs(*["sleep 0.05"] * 8), short(0.3), 2, ahead=lambda: 2)
    results = [next(found)]
    time.sleep(1)
    results += found
    assert all(isinstance(item, Sample) for item in results)


def test_a_path_longer_than_any_file_has_is_a_row(photos: Corpus) -> None:
    """More of them than a pipe holds, beside images larger than a pipe."""
    asked = refs(*[str(photos.good[0]), "x" * 300_000] * 6)
    job = DecodeJob((Preprocess((600, 600), (600, 600)),))
    found = list(iter_decoded(asked, job, 2))
    assert [item.ref for item in found] == asked
    assert [getattr(item, "type", None) for item in found] == [None, ErrorType.UNREADABLE] * 6


def test_nothing_that_a_decoder_prints_gets_out(tmp_path: Path) -> None:
    """libtiff writes to descriptor 2 itself; the row is the same with and without a worker."""
    tiff = tmp_path / "cut.tif"
    photo("a").save(tiff, compression="tiff_lzw")
    data = bytearray(tiff.read_bytes())
    data[100:200] = b"\xff" * 100
    tiff.write_bytes(data)
    script = (
        "import sys\n"
        "from tests.images.test_workers import *\n"
        "job = DecodeJob((Preprocess((8, 8), (8, 8)),))\n"
        "(row,) = iter_decoded(refs(sys.argv[1]), job, int(sys.argv[2]))\n"
        "list(iter_decoded(refs('speak'), Stub(), int(sys.argv[2])))\n"
        "print(row.type, row.message)\n"
    )
    row, err = python("-c", script, tiff, "1").communicate()
    assert err == ""
    assert row.startswith("DecodeError ") and len(row.splitlines()) == 1
    out, err = python("-c", script, tiff, "0").communicate()
    assert row.strip() in out and "words" in out and "not yet in table" not in err
    alone = "import sys\nfrom PIL import Image\nImage.open(sys.argv[1]).load()"
    _, err = python("-c", alone, tiff).communicate()
    assert "not yet in table" in err, "this file tests nothing"
    assert out.endswith(row)


# Read ahead


@pytest.mark.parametrize("verb", ["good", "sleep 0.01"])
def test_refs_are_taken_only_a_little_ahead(verb: str) -> None:
    taken = 0

    def endless() -> Iterator[ImageRef]:
        nonlocal taken
        while True:
            yield ImageRef(taken, verb)
            taken += 1

    found = iter_decoded(endless(), Stub(), 2, ahead=lambda: 8)
    for done, _ in zip(range(1, 30), found, strict=False):
        assert taken <= done + 8
    found.close()


def test_an_image_that_takes_long_does_not_let_the_others_pile_up() -> None:
    taken: list[int] = []

    def noted() -> Iterator[ImageRef]:
        for index in range(1000):
            taken.append(index)
            yield ImageRef(index, "good" if index else "sleep 0.5")

    found = iter_decoded(noted(), Stub(), 2, ahead=lambda: 8)
    next(found)
    assert len(taken) == 8
    found.close()


def test_every_worker_has_something_to_do_however_small_the_batch() -> None:
    found = iter_decoded(refs(*["sleep 0.2"] * 8), Stub(), 4, ahead=lambda: 1)
    next(found)
    assert len(worker_pids()) == 4
    found.close()


# Ends


@pytest.mark.parametrize("verb", ["good", "hang", "spin", "kill"])
def test_closing_early_ends_the_workers_at_once(verb: str) -> None:
    notices: list[str] = []
    found = iter_decoded(refs("good", *[verb] * 50), Stub(), 3, note=notices.append)
    next(found)
    before = time.monotonic()
    found.close()
    assert time.monotonic() - before < 3
    assert worker_pids() == []
    assert verb == "kill" or notices == [], "it was us who killed them"


@pytest.mark.parametrize("count", [0, 2])
def test_what_the_refs_raise_reaches_the_consumer(count: int) -> None:
    def failing() -> Iterator[ImageRef]:
        yield from refs(*["good"] * 20)
        raise InputError("the list is gone")

    with pytest.raises(InputError, match="the list is gone"):
        list(iter_decoded(failing(), Stub(), count))


def test_workers_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "serve", stubs.ends_at_once)
    with pytest.raises(VitError, match=r"workers cannot start \(exited with 9\)") as caught:
        list(iter_decoded(refs("good", "good"), Stub(), 2))
    assert "-j 0" in str(caught.value.hint)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), EOFError()])
def test_a_system_that_gives_no_process_is_an_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(job: object, file: object) -> None:
        raise error

    monkeypatch.setattr(worker_process, "start_worker", start)
    with pytest.raises(VitError, match=r"cannot start \(gave up: (Too many|they cannot)"):
        list(iter_decoded(refs("good"), Stub(), 1))


def test_a_worker_that_is_not_started_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while somebody keeps the exception, as a future does."""
    before = descriptors()
    stopped = Dispatcher(Stub(), 1, lambda text: None)
    stopped.stop()
    assert not stopped._start()
    stopped.close()

    def start(self: BaseProcess) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(BaseProcess, "start", start)
    pool = Dispatcher(Stub(), 1, lambda text: None)
    future = pool.submit(ImageRef(0, "good"))
    with pytest.raises(VitError, match="Too many") as refused:
        future.result()
    pool.close()
    assert descriptors() <= before  # one of an earlier test may close only now
    assert "-j 0" in str(refused.value.hint)  # it is still here


def test_an_error_that_ends_the_dispatcher_reaches_everyone_who_waits() -> None:
    """For an image that killed a worker, for one in a worker, and for one that comes later."""

    def note(text: str) -> None:
        raise BrokenPipeError("nobody reads the notes")

    pool = Dispatcher(Stub(), 2, note)
    futures = [pool.submit(ref) for ref in refs("exit", "sleep 1", "sleep 1", "good")]
    for future in (futures[0], futures[1], futures[2]):
        with pytest.raises(BrokenPipeError):
            future.result(10)
    with pytest.raises(BrokenPipeError):
        pool.submit(ImageRef(4, "good")).result(10)
    pool.close()


def test_an_error_with_a_hint_at_the_start_of_a_worker_reaches_everyone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(job: object, file: object) -> None:
        raise VitError("TMPDIR is too long", "set it")

    monkeypatch.setattr(worker_process, "start_worker", start)
    with pytest.raises(VitError, match="TMPDIR"):
        list(iter_decoded(refs("good", "good"), Stub(), 2))


def test_what_is_submitted_after_the_end_is_cancelled() -> None:
    pool = Dispatcher(Stub(), 1, lambda text: None)
    assert isinstance(pool.submit(ImageRef(0, "good")).result(10), Sample)
    pool.stop()
    assert pool.submit(ImageRef(1, "good")).cancelled()
    pool.close()


def test_an_image_that_the_caller_cancels_costs_no_other() -> None:
    pool = Dispatcher(Stub(), 1, lambda text: None)
    one, other = (pool.submit(ref) for ref in refs("sleep 0.1", "good"))
    assert one.cancel()
    assert isinstance(other.result(10), Sample)
    pool.close()


@pytest.mark.parametrize("count", [0, 2])
def test_a_pool_holds_one_result_for_each_worker_at_a_time(count: int) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def then(number: int, result: Sample | Failure) -> int:
        nonlocal most
        assert isinstance(result, Sample)
        alive.append(weakref.ref(result.pixels[0]))
        most = max(most, sum(array() is not None for array in alive))
        return number

    with WorkerPool(Numbered(), count) as pool:
        assert pool.each([(ref, n) for n, ref in enumerate(refs(*["good"] * 40))], then) == [
            *range(40)
        ]
        assert isinstance(pool.submit(ImageRef(0, "good")).result(10), Sample)
    assert most <= max(1, count)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_of_this_process_leaves_the_workers_alone() -> None:
    notices: list[str] = []
    found = iter_decoded(refs("good", *["sleep 0.05"] * 6), Stub(), 2, note=notices.append)
    next(found)
    child = os.fork()
    if not child:
        found.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [type(item) for item in found] == [Sample] * 6 and notices == []


def test_a_worker_dies_before_the_main_process_when_memory_runs_out() -> None:
    found = iter_decoded(refs("good", "sleep 1"), Stub(), 1)
    next(found)
    [worker] = worker_pids()
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"
    found.close()


def test_a_dead_forkserver_is_replaced() -> None:
    found = iter_decoded(refs("good", "sleep 0.5", "kill", "good"), Stub(), 2)
    next(found)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    assert [type(item) for item in found] == [Sample, Failure, Sample]


def test_two_runs_at_once_do_not_meet() -> None:
    threads: list[list[Sample | Failure]] = [[], []]

    def run(found: list[Sample | Failure]) -> None:
        found += iter_decoded(refs(*["good", "exit", "bad", "sleep 0.01"] * 4), Stub(), 2)

    started = [threading.Thread(target=run, args=(found,)) for found in threads]
    main = sys.modules["__main__"]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(30)
    assert sys.modules["__main__"] is main
    one, other = ([(i.ref, getattr(i, "type", None)) for i in found] for found in threads)
    assert len(one) == 16 and one == other


# Whole processes

SLOW = """
from tests.images.test_workers import *
notices = []
print("ready", flush=True)
found = list(iter_decoded(refs(*["sleep 0.4"] * 4), short(1.0), 1, note=notices.append))
print(sum(isinstance(item, Sample) for item in found), notices, flush=True)
"""

STUCK = """
from tests.images.test_workers import *
found = iter_decoded(refs("good", "hang", "spin", "good"), Stub(), 2)
next(found)
print("ready", flush=True)
next(found)
"""


def test_time_in_which_everything_was_stopped_does_not_count() -> None:
    process = python("-c", SLOW)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=30) == ("4 []\n", "")


def test_workers_do_not_outlive_a_main_process_that_is_killed() -> None:
    process = python("-c", STUCK)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert len(processes("group", process.pid)) >= 4  # main, the forkserver, two workers
    process.kill()
    process.communicate()
    assert until(lambda: not processes("group", process.pid)), processes("group", process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_makes_no_words(number: signal.Signals) -> None:
    """Not even while the main process finishes its batch: it alone has something to say."""
    script = (
        "from tests.images.test_workers import *\n"
        "from vitcli.errors import Interrupted\n"
        "from vitcli.interrupts import interruptible, interrupts\n"
        "worker_process.warm_up()\n"
        "print('ready', flush=True)\n"
        "asked = refs(*['sleep 0.05'] * 200)\n"
        "try:\n"
        "    with interruptible():\n"
        "        for _ in iter_decoded(asked, Stub(), 2, note=print):\n"
        "            with interrupts.held(): time.sleep(0.8)  # a batch that takes its time\n"
        "            interrupts.check()\n"
        "except Interrupted: print('interrupted')\n"
    )
    process = python("-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(process.pid, number)
    assert process.communicate(timeout=10) == ("interrupted\n", "")


def test_a_program_that_leaves_its_workers_behind_ends() -> None:
    script = (
        "from tests.images.test_workers import *\n"
        "worker_process.warm_up()\n"
        "found = iter_decoded(refs('good', *['sleep 0.05'] * 50), Stub(), 2)\n"
        "next(found)\n"
    )
    process = python("-c", script)
    assert process.communicate(timeout=60) == ("", "")
    assert until(lambda: not processes("group", process.pid))


def test_ctrl_c_while_the_forkserver_starts_makes_no_words() -> None:
    script = (
        "import signal, time\n"
        "from vitcli.images import worker_process\n"
        "worker_process.warm_up()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1)\n"
    )
    process = python("-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=10) == ("interrupted\n", "")


def test_no_python_of_the_working_directory_is_run(tmp_path: Path, photos: Corpus) -> None:
    for module in ("selectors", "socket", "numpy", "PIL", "sitecustomize", "vitcli"):
        (tmp_path / f"{module}.py").write_text("open('canary', 'w')\n")
    (tmp_path / "script").mkdir()
    script = tmp_path / "script" / "run.py"
    script.write_text(
        "import sys\n"
        "from tests.images.test_workers import *\n"
        "job = DecodeJob((Preprocess((8, 8), (8, 8)),))\n"
        "print(*(type(row).__name__ for row in iter_decoded(refs(sys.argv[1]), job, 1)))\n"
    )
    ended = python(script, photos.good[0], cwd=tmp_path).communicate()
    assert ended == ("Sample\n", "")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_without_a_guard_works(
    how: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Its workers must not run it again."""
    (tmp_path / "examples").mkdir()
    for index in range(3):
        photo(str(index)).save(tmp_path / "examples" / f"{index}.png")
    script = (
        "print('once')\n"
        "import vitcli\n"
        f"found = vitcli.embed(['examples'], model={str(tiny_model('vit'))!r}, workers=2)\n"
        "print(found.embeddings.shape, found.paths)\n"
    )
    (tmp_path / "script.py").write_text(script)
    args = ("script.py",) if how == "file" else ("-",)
    process = python(*args, cwd=tmp_path, stdin=subprocess.PIPE)
    out, err = process.communicate(script if how == "stdin" else None, timeout=60)
    assert err == ""
    assert out == "once\n(3, 32) ('examples/0.png', 'examples/1.png', 'examples/2.png')\n"


def test_a_daemonic_process_decodes_by_itself(
    photos: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """multiprocessing's Pool and Celery allow their workers no processes of their own."""
    refs = [ImageRef(n, str(path)) for n, path in enumerate(photos.good[:3])]
    job = DecodeJob((Preprocess((8, 8), (8, 8)),))
    expected = [s.pixels[0] for s in iter_decoded(refs, job, 0) if isinstance(s, Sample)]
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="daemonic process"):
        found = [s.pixels[0] for s in iter_decoded(refs, job, 2) if isinstance(s, Sample)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../x\n", {"cpu.max": "200000 100000"}, 2.0),
        (
            "4:cpu,cpuacct:/d\n",
            {"cpu/d/cpu.cfs_quota_us": "300000", "cpu/d/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "4:cpu:/gone\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("nonsense", {}, math.inf),
    ],
)
def test_the_quota_of_a_container_counts(
    own: str, files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == quota


def test_images_that_travel_with_their_refs_are_bounded_by_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "MAX_HELD_BYTES", 2500)
    taken = 0

    def refs() -> Iterator[ImageRef]:
        nonlocal taken
        for n in range(12):
            taken += 1
            yield ImageRef(
                n, f"{n}.png", None, StreamedMember("x.tar.gz", 1000, "", None, bytes(1000))
            )

    found = iter_decoded(refs(), DecodeJob(()), 1, lambda: 64, keeps_data=False)
    first = next(found)
    assert taken == 3
    assert first.ref.member is not None and first.ref.member.held == 0
    assert [got.ref.index for got in found] == list(range(1, 12))


def test_a_gpu_gets_the_images_of_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cpus", lambda: 96)
    assert [default_workers(), default_workers("cuda"), default_workers("cuda", 8)] == [8, 96, 12]
    monkeypatch.setattr(workers, "available_cpus", lambda: 2)
    assert [default_workers(), default_workers("cuda"), default_workers("cuda", 8)] == [2, 2, 1]
