"""Any mix of good and bad files gives one row each, in order, equal to the row alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.fixtures.photos import BAD, GOOD, Corpus
from vitcli.images.decode import decode
from vitcli.images.job import DecodeJob
from vitcli.images.loader import collate, iter_batches, iter_parts
from vitcli.pipeline import in_order
from vitcli.records import (
    Batch,
    Classified,
    ErrorType,
    Failure,
    ImageRef,
    Limits,
    Preprocess,
    Sample,
)

JOB = DecodeJob((Preprocess((20, 28), (24, 24), "shortest"), Preprocess((8, 8), (8, 8))))

mixes = st.lists(st.sampled_from(sorted((*GOOD, *BAD, "missing.jpg"))), max_size=25)
fixed = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def paths(photos: Corpus) -> dict[str, str]:
    """Name -> path, of every file of the corpus."""
    folder = next(p.parent for p in photos.good if p.name == "grey.jpg")
    return {name: str(folder / name) for name in (*GOOD, *BAD, "missing.jpg")}


def check(names: Sequence[str], batch_size: int, workers: int, paths: dict[str, str]) -> None:
    refs = [ImageRef(index, paths[name]) for index, name in enumerate(names)]
    batches = list(iter_batches(refs, JOB, lambda: batch_size, workers))

    sizes = [len(batch.refs) + len(batch.failures) for batch in batches]
    full, rest = divmod(len(refs), batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)

    rows = [
        r for b in batches for r in in_order([Classified(ref, ()) for ref in b.refs], b.failures)
    ]
    assert [row.ref for row in rows] == refs

    for batch in batches:
        for failure in batch.failures:
            assert failure == JOB(failure.ref)
        for place, ref in enumerate(batch.refs):
            alone = JOB(ref)
            assert isinstance(alone, Sample)
            for stacked, array in zip(batch.pixels, alone.pixels, strict=True):
                np.testing.assert_array_equal(stacked[place], array)


@given(names=mixes, batch_size=st.integers(1, 9))
@fixed
def test_any_mix_has_one_row_each(names: list[str], batch_size: int, paths: dict[str, str]) -> None:
    check(names, batch_size, 0, paths)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_whole_corpus_by_workers_has_one_row_each(
    batch_size: int, paths: dict[str, str]
) -> None:
    check([*paths, *reversed(paths)], batch_size, 2, paths)


def test_a_group_of_failures_is_a_batch_without_pixels() -> None:
    failures = [Failure(ImageRef(i, "x"), ErrorType.NOT_FOUND, "no such file") for i in range(3)]
    assert collate(failures) == Batch((), (), tuple(failures))


def test_an_empty_group_is_an_empty_batch() -> None:
    assert collate([]) == Batch((), (), ())


def test_a_run_made_only_of_failures_keeps_its_batches(paths: dict[str, str]) -> None:
    check(["missing.jpg", "text.jpg", "zero-byte.jpg"] * 3, 4, 0, paths)


def test_samples_and_failures_are_parted_with_their_places(paths: dict[str, str]) -> None:
    names = ("grey.jpg", "text.jpg", "rgba.png")
    refs = [ImageRef(index, paths[name]) for index, name in enumerate(names)]
    batch = collate([decode(ref, JOB.plans, Limits()) for ref in refs])
    assert batch.refs == (refs[0], refs[2])
    assert [failure.ref for failure in batch.failures] == [refs[1]]
    assert [array.shape for array in batch.pixels] == [(2, 20, 28, 3), (2, 8, 8, 3)]
    assert all(array.dtype == np.uint8 for array in batch.pixels)


def test_the_number_of_workers_is_chosen_where_none_is_given(paths: dict[str, str]) -> None:
    refs = [ImageRef(0, paths["grey.jpg"])]
    assert [len(batch.refs) for batch in iter_batches(refs, JOB, lambda: 4)] == [1]


@pytest.mark.parametrize("as_tensors", [False, True])
def test_images_of_several_sizes_run_in_parts_of_one_size(tmp_path: Path, as_tensors: bool) -> None:
    """Whatever the plans: a part has one size in each of them."""
    sizes = [(8, 32), (16, 16), (9, 33), (32, 8), (15, 16), (8, 30)]
    for number, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (number, 0, 0)).save(tmp_path / f"{number}.png")
    plan = Preprocess((16, 16), (16, 16), fit="patches", patch=8, max_patches=4)
    job = DecodeJob((plan, Preprocess((8, 8), (8, 8))))
    refs = [ImageRef(n, str(tmp_path / f"{n}.png")) for n in range(len(sizes) + 1)]
    [batch] = iter_batches(refs, job, lambda: 16, 0)
    assert [image.shape for image in batch.pixels[0]] == [
        *((8, 32, 3), (16, 16, 3), (8, 32, 3), (32, 8, 3), (16, 16, 3), (8, 32, 3)),
    ]
    if as_tensors:
        batch = batch.to(torch.device("cpu"))
        assert all(isinstance(array, torch.Tensor) for array in batch.arrays())
    parts = list(iter_parts(batch, 9))
    assert [[ref.index for ref in part.refs] for part in parts] == [[0, 2, 5], [1, 4], [3]]
    assert [part.pixels_for().shape for part in parts] == [
        (3, 8, 32, 3),
        (2, 16, 16, 3),
        (1, 32, 8, 3),
    ]
    for part in parts:
        assert isinstance(part.pixels_for(), torch.Tensor) == as_tensors
        for place, ref in enumerate(part.refs):
            assert part.sizes[place] == sizes[ref.index]
            assert (part.pixels_for(0)[place][..., 0] == ref.index).all()
            assert (part.pixels_for(1)[place][..., 0] == ref.index).all()
    assert len(batch.failures) == 1 and not any(part.failures for part in parts)
    [whole] = iter_parts(parts[0], 3)
    assert whole is parts[0]
    assert [[r.index for r in p.refs] for p in iter_parts(batch, 2)] == [[0, 2], [5], [1, 4], [3]]
    assert [part.pixels_for().shape[0] for part in iter_parts(whole, 2)] == [2, 1]
