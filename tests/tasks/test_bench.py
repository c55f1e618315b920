"""Trials of `vit bench`: each in a process of its own, within its time, whatever becomes of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.clip import tiny_clip
from tests.fixtures.swin import tiny_swin
from tests.fixtures.tiny import tiny_hf
from vitcli.checkpoints import engines
from vitcli.checkpoints.load import load
from vitcli.checkpoints.openvino import calibration_pixels
from vitcli.checkpoints.resolve import resolve
from vitcli.errors import InputError, VitError
from vitcli.jobs.job import ModelOptions
from vitcli.models.engine import Features, Judged, Logits
from vitcli.models.prepare import TorchEngine, prepare
from vitcli.tasks.bench import bench as task
from vitcli.tasks.bench import protocol as trials
from vitcli.tasks.bench.bench import BenchJob, bench
from vitcli.tasks.bench.protocol import (
    Candidate,
    Ended,
    Outputs,
    Read,
    Reading,
    Timed,
    Trial,
    started,
)

pytestmark = pytest.mark.usefixtures("warm")
EXAMPLES = Path(__file__).parents[2] / "examples"
FP32 = Candidate("torch", "fp32")

# Stands in for the process: the trial arrives, then what is written here happens.
STUB = """
import os, pickle, signal, sys, time
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[-1]))
pipe.recv_bytes()
"""


@pytest.fixture
def one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task._Trials, "_candidates", lambda self, device, exports: iter([FP32]))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, one_candidate: None) -> Callable[[str], None]:
    def use(code: str) -> None:
        monkeypatch.setattr(trials, "COMMAND", [sys.executable, "-c", STUB + code])

    return use


MAKERS: dict[str, Callable[[str, Path], object]] = {
    "ViTForImageClassification": lambda name, folder: tiny_hf("vit", folder),
    "DeiTForImageClassificationWithTeacher": lambda name, folder: tiny_hf("deit-distilled", folder),
    "Dinov2ForImageClassification": lambda name, folder: tiny_hf("dinov2-classifier", folder),
    "Dinov2Model": lambda name, folder: tiny_hf("dinov2", folder),
    "SwinForImageClassification": tiny_swin,
    "CLIPForImageClassification": tiny_clip,
    "CLIPVisionModelWithProjection": tiny_clip,
}


@pytest.mark.parametrize("name", MAKERS)
def test_one_pass_gives_the_embedding_and_the_logits(tmp_path: Path, name: str) -> None:
    MAKERS[name](name, tmp_path)
    model = load(str(tmp_path))
    prepared = prepare(model.network, model.preprocess, "cpu")
    pixels = calibration_pixels(model.preprocess.size, 3)
    found = TorchEngine(prepared, Judged())(pixels)
    config = model.config
    pooled = TorchEngine(prepared, Features((config.depth,), config.pool))(pixels)
    logits = TorchEngine(prepared, Logits())(pixels)
    expected = np.concatenate([pooled, logits], axis=-1) if config.num_classes else pooled
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


def trial_of(folder: Path, seconds: float, **more: object) -> Trial:
    np.save(folder / "exact.npy", calibration_pixels((32, 32), 6))
    values: dict[str, object] = {
        "checkpoint": resolve("demo"),
        "options": ModelOptions(),
        "candidate": FP32,
        "device": "cpu",
        "images": folder / "exact.npy",
        "batch_sizes": (1, 4),
        "deadline": time.monotonic() + seconds,
    }
    return Trial(**{**values, **more})  # type: ignore[arg-type]


def events(trial: Trial) -> list[trials.Event]:
    found: list[trials.Event] = []
    with started(trial) as next_event:
        while not found or not isinstance(found[-1], Ended):
            found.append(next_event(time.monotonic() + 600))
    return found


def test_a_trial_times_every_batch_and_gives_what_the_network_gives(tmp_path: Path) -> None:
    one, four, outputs, ended = events(trial_of(tmp_path, 600.0))
    assert isinstance(one, Timed) and isinstance(four, Timed) and isinstance(outputs, Outputs)
    assert (one.batch_size, four.batch_size, ended) == (1, 4, Ended(""))
    assert 0 < one.peak <= four.peak < 4e9, "bytes, of a process with torch in it"
    model = load("demo")
    engine = TorchEngine(prepare(model.network, model.preprocess, "cpu"), Judged())
    assert outputs.images.tolist() == list(range(6))
    expected = engine(np.load(tmp_path / "exact.npy"))
    np.testing.assert_allclose(outputs.values, expected, atol=1e-5, rtol=1e-5)


def test_a_trial_reads_files_over_and_over_with_every_number_of_workers(tmp_path: Path) -> None:
    readings = (Reading("exact", 1), Reading("fast", 0))
    files = tuple(str(path) for path in sorted(EXAMPLES.glob("*.png"))[:2])
    trial = trial_of(tmp_path, 600.0, files=files, readings=readings, batch_sizes=(4,))
    found = events(trial)
    assert [event.reading for event in found if isinstance(event, Read)] == list(readings)
    rates = [event.images_per_second for event in found if isinstance(event, Read)]
    assert all(rate > 0 for rate in rates)
    assert sum(isinstance(event, Outputs) for event in found) == 1, "of the pictures read fast"


def test_a_candidate_that_hangs_is_ended_in_time(
    stub: Callable[[str], None], tmp_path: Path
) -> None:
    stub(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    before = time.monotonic()
    with pytest.raises(VitError, match="nothing could be measured in 5 s"):
        bench(BenchJob(model="demo", seconds=5))
    assert time.monotonic() - before < 60, "not the 600 s that it sleeps"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"torch fp32: it was killed by signal 11 \(SIGS"),
        ("sys.exit('no such instruction')", r"it exited with 1 \(no such instruction\)"),
    ],
)
def test_a_candidate_that_crashes_is_told(
    stub: Callable[[str], None], code: str, said: str
) -> None:
    stub(code)
    with pytest.raises(VitError, match=said):
        bench(BenchJob(model="demo", seconds=30))


def test_an_export_that_was_killed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has no time to clear away."""
    monkeypatch.setenv("VIT_CACHE", str(tmp_path))
    others, its = (tmp_path / "engines" / name for name in (".partial-1-x", "its"))
    others.mkdir(parents=True)
    code = STUB + "os.mkdir(f'{os.environ[\"VIT_CACHE\"]}/engines/.partial-{os.getpid()}-x')\n"
    code += "open(os.environ['VIT_CACHE'] + '/made', 'w'); time.sleep(600)"
    monkeypatch.setattr(trials, "COMMAND", [sys.executable, "-c", code])
    with started(trial_of(tmp_path, 60)) as next_event:
        for _ in range(600):
            if (tmp_path / "made").exists():
                break
            time.sleep(0.1)
        assert isinstance(next_event(0.0), Ended)
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [others.name]
    assert engines._partial(17).startswith(".partial-17-") and not its.exists()


def test_pictures_of_a_folder_are_what_is_compared(one_candidate: None) -> None:
    found = bench(BenchJob(model="demo", on=str(EXAMPLES), seconds=600))
    assert found.images == f"10 images of {EXAMPLES}"
    assert {row.workers for row in found.rows} >= {None, 0, 1}
    assert {row.decode for row in found.rows} == {None, "exact"}, "too small for fast decoding"
    like = found.rows[0].likeness
    assert like is not None
    assert (like.agreement, like.images) == (1.0, 10)
    assert found.advice[0].row.command.startswith(f"vit classify {EXAMPLES} -m demo --engine torch")


def test_a_folder_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="can be read"):
        bench(BenchJob(model="demo", on=str(tmp_path), seconds=5))
