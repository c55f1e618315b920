"""Features that a head reads: what an interrupted run has come to is not computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.digits import make_digits
from vitcli.checkpoints.load import load
from vitcli.errors import Interrupted
from vitcli.interrupts import interrupts
from vitcli.jobs.job import Inputs, NullReporter, Running
from vitcli.jobs.listing import Listing
from vitcli.jobs.run import Run
from vitcli.models.prepare import TorchEngine
from vitcli.records import FoundImage, Progress
from vitcli.tasks.finetune.features import features


class Striker(NullReporter):
    """Ends the run after its first batch."""

    def progress(self, progress: Progress) -> None:
        interrupts.strike(15)


def test_features_of_an_interrupted_run_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
    make_digits(tmp_path / "data", train=12, val=1)
    paths = [str(path) for path in sorted((tmp_path / "data" / "train").rglob("*.png"))]
    model, running = load("demo"), Running(workers=0, batch_size=4)
    computed = 0
    ask = TorchEngine.__call__

    def counted(engine: TorchEngine, batch: object) -> np.ndarray:
        nonlocal computed
        computed += len(batch)  # type: ignore[arg-type]
        return ask(engine, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchEngine, "__call__", counted)

    def take(reporter: NullReporter) -> dict[int, torch.Tensor]:
        run = Run(Inputs(), running, reporter, Listing([]))
        found, failures = features(run, model, [FoundImage(path) for path in paths])
        assert not failures
        return found

    try:
        with pytest.raises(Interrupted):
            take(Striker())
    finally:
        interrupts.forget()
    assert computed == 4
    found = take(NullReporter())
    assert computed == len(found) == len(paths) == 12
    [kept] = (tmp_path / "cache" / "features").iterdir()
    whole = kept.read_bytes()
    for odd in (b"", whole[: len(whole) // 2], whole.replace(b"hashes", b"others")):
        kept.write_bytes(odd)
        assert len(take(NullReporter())) == 12  # computed again
    assert computed == 4 * 12
    fresh, _ = features(
        _fresh(running, tmp_path, monkeypatch), model, [FoundImage(path) for path in paths]
    )
    assert all(torch.equal(found[place], fresh[place]) for place in found)


def _fresh(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that knows nothing."""
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "other"))
    return Run(Inputs(), running, NullReporter(), Listing([]))
