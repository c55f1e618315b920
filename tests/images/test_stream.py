"""The stream of batches as torch's data set: for the run, and for a user's own loop."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

import vitcli
from tests.fixtures.photos import Corpus
from vitcli.images import stream
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches
from vitcli.images.sources import iter_refs, open_sources
from vitcli.images.stream import CudaCopies, iter_loaded, one_ahead
from vitcli.records import Batch, ImageRef, Preprocess

PLAN = Preprocess((20, 28), (24, 30), "shortest")


def rows(batches: list[Batch]) -> list[tuple[str, bytes | str]]:
    """Each image in input order: its path, and its pixels or why it failed."""
    found: dict[int, tuple[str, bytes | str]] = {}
    for batch in batches:
        for ref, pixels in zip(batch.refs, batch.pixels[0] if batch.pixels else (), strict=True):
            found[ref.index] = ref.path, np.asarray(pixels).tobytes()
        found |= {f.ref.index: (f.ref.path, f"{f.type}: {f.message}") for f in batch.failures}
    return [found[index] for index in sorted(found)]


@pytest.fixture
def inputs(photos: Corpus, tmp_path: Path) -> list[Path]:
    """A folder, a tar, a file that is missing, and one that is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.good[:3]:
        (folder / path.name).symlink_to(path)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in photos.good[3:6]:
            tar.add(path, path.name)
    (tmp_path / "damaged.png").write_bytes(photos.good[0].read_bytes()[:20])
    return [folder, tmp_path / "none.jpg", tmp_path / "x.tar", tmp_path / "damaged.png"]


def test_a_stream_has_the_rows_of_a_run(inputs: list[Path]) -> None:
    refs = iter_refs(open_sources(list(map(str, inputs)), scan=stream.choose_scan()))
    expected = rows(list(iter_batches(refs, DecodeJob((PLAN,)), lambda: 3, 0)))
    failed = {path: why for path, why in expected if isinstance(why, str)}
    assert list(failed) == [str(inputs[1]), str(inputs[3])]
    assert failed[str(inputs[1])] == "NotFound: no such file"
    images = vitcli.ImageStream(inputs, PLAN, batch_size=3, workers=0)
    first, again = list(images), list(images)
    assert [len(b.refs) + len(b.failures) for b in first] == [3, 3, 2]
    assert rows(first) == rows(again) == expected


@pytest.mark.parametrize("count", [0, 2])
def test_a_dataloader_gives_the_same_batches_in_the_same_order(
    count: int, inputs: list[Path]
) -> None:
    """Each of torch's workers has every second batch."""
    images = vitcli.ImageStream(inputs, PLAN, batch_size=2, workers=0)
    loader: DataLoader[Batch] = DataLoader(images, batch_size=None, num_workers=count)
    alone, loaded_ = list(images), list(loader)
    assert [batch.refs for batch in loaded_] == [batch.refs for batch in alone]
    assert rows(loaded_) == rows(alone)


def test_what_is_left_out_is_noted(inputs: list[Path]) -> None:
    (inputs[0] / "raw.nef").touch()
    notes: list[str] = []
    list(vitcli.ImageStream(inputs[0], PLAN, workers=0, note=notes.append))
    assert len(notes) == 1 and "1 image file was not looked at: 1 .nef" in notes[0]


def numbered(count: int) -> list[Batch]:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    return [Batch((ImageRef(n, str(n)),), (pixels + n,)) for n in range(count)]


def test_a_run_reads_its_batches_uncopied_and_draws_no_random_number() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    batches = numbered(3)
    assert all(
        ours is theirs
        for ours, theirs in zip(
            iter_loaded(iter(batches), torch.device("cpu")), batches, strict=True
        )
    )
    assert torch.equal(before, torch.get_rng_state())


def test_a_dataloader_pins_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    [batch] = numbered(1)
    pinned = pin_memory(batch)
    assert pinned.refs == batch.refs and int(pinned.pixels[0].max()) == 1


def test_each_copy_starts_before_the_one_before_it_is_used() -> None:
    events: list[str] = []

    def start(item: str) -> Callable[[], str]:
        events.append(f"start {item}")
        return lambda: item

    for item in one_ahead("abc", start):
        events.append(f"use {item}")
    assert events == ["start a", "start b", "use a", "start c", "use b", "use c"]
    assert list(one_ahead("", start)) == []


def test_the_network_waits_for_its_own_copy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Stream:
        """Says what is asked of it; the second one is the network's."""

        def __init__(self, device: object) -> None:
            self.copies = 0

        def record_event(self) -> int:
            self.copies += 1
            return self.copies

        def wait_event(self, copy: int) -> None:
            events.append(f"wait for {copy}")

        __enter__ = __exit__ = lambda self, *error: None

    network = Stream(None)
    cuda = {"Stream": Stream, "stream": lambda s: s, "current_stream": lambda device: network}
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**cuda))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, s: events.append("keep"))
    device = torch.device("cpu")
    for batch in one_ahead(numbered(2), CudaCopies(device)):
        events.append(f"use {batch.refs[0].index}")
        assert isinstance(batch.pixels[0], torch.Tensor)
        assert int(batch.pixels[0].max()) == batch.refs[0].index
    assert events == ["wait for 1", "keep", "use 0", "wait for 2", "keep", "use 1"]
