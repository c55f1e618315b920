"""The Python API: what the commands do, as functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vitcli
from tests.conftest import Vit
from tests.fixtures.photos import Corpus
from vitcli.errors import InputError, ModelNotFound
from vitcli.records import Attended, Classified, Failure

Models = Callable[[str], Path]


def test_load_gives_a_network_that_is_ready(tiny_model: Models) -> None:
    model = vitcli.load(str(tiny_model("vit")), image_size=(48, 80))
    assert not model.network.training
    assert model.preprocess.size == model.config.image_size == (48, 80)
    assert model.network(torch.zeros(2, 3, 48, 80)).shape == (2, 7)
    assert len(model.labels) == 7


def test_classify_gives_the_rows_of_the_command(
    vit: Vit, tiny_model: Models, photos: Corpus
) -> None:
    spec = str(tiny_model("vit"))
    inputs = [photos.good[0], next(iter(photos.bad)), photos.good[1]]
    rows = vitcli.classify(inputs, model=spec, top_k=2, workers=0)
    lines = [
        json.loads(line)
        for line in vit("classify", *inputs, "-m", spec, "-k", 2).out.split(b"\n")[:-1]
    ]
    assert [type(row) for row in rows] == [Classified, Failure, Classified]
    for row, line in zip(rows, lines, strict=True):
        assert row.ref.path == line["path"]
        if isinstance(row, Classified):
            expected = [(p["label"], p["index"], p["score"]) for p in line["predictions"]]
            assert [(p.label, p.index, round(p.score, 6)) for p in row.predictions] == expected
        else:
            assert row.type == line["error"]["type"]


def test_embed_keeps_paths_beside_rows(tiny_model: Models, photos: Corpus) -> None:
    model = vitcli.load(str(tiny_model("dinov2")))
    bad = next(iter(photos.bad))
    found = vitcli.embed([photos.good[0], bad, photos.good[1]], model=model, workers=0)
    assert found.embeddings.shape == (2, 32)
    assert found.embeddings.dtype == np.float32
    assert found.paths == (str(photos.good[0]), str(photos.good[1]))
    assert [str(failure.ref.path) for failure in found.failures] == [str(bad)]
    assert found.meta["layers"] == [3]
    patches = vitcli.embed(photos.good[0], model=model, layers=[1, 2], pool="patches", workers=0)
    assert patches.embeddings.shape == (1, 64, 64)


def test_attention_gives_the_maps_and_pictures_of_the_command(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    spec = str(tiny_model("vit"))
    inputs = [str(photos.good[0]), str(next(iter(photos.bad)))]
    args = ("--layer", "1,-1", "--heads", "all", "--query", "3,5", "--raw", "--style", "grid")
    lines = vit("attention", *inputs, "-m", spec, *args, "--out", "theirs").out.splitlines()
    rows = vitcli.attention(
        inputs,
        model=vitcli.load(spec),
        layers=[1, -1],
        heads="all",
        query=(3, 5),
        out=tmp_path / "ours",
        style="grid",
        raw=True,
        workers=0,
    )
    assert [type(row) for row in rows] == [Attended, Failure]
    [row, failure], [line, _] = rows, map(json.loads, lines)
    assert isinstance(row, Attended) and isinstance(failure, Failure)
    assert failure.ref.path == inputs[1]
    assert row.query == tuple(line["query"])
    for ours, theirs in zip(row.files, line["files"], strict=True):
        assert Path(ours).read_bytes() == (tmp_path / theirs).read_bytes()
    for maps, file in zip(row.maps, row.files[-2:], strict=True):
        assert np.array_equal(np.load(file), maps.values)
        assert maps.values.shape == (4, 8, 8)


def test_attention_for_a_class_by_its_name_and_its_number(
    tiny_model: Models, photos: Corpus
) -> None:
    spec = str(tiny_model("vit"))
    found = [
        vitcli.attention(photos.good[0], model=spec, method="grad", target=target, workers=0)
        for target in ("fern", 6)
    ]
    for [row] in found:
        assert isinstance(row, Attended) and row.target is not None
        assert (row.target.label, row.target.index, row.files) == ("fern", 6, ())
    with pytest.raises(vitcli.VitError, match="has 7 classes"):
        vitcli.attention(photos.good[0], model=spec, method="grad", target=7, workers=0)


def test_nothing_in_gives_an_empty_array(tiny_model: Models) -> None:
    found = vitcli.embed([], model=str(tiny_model("dinov2")), workers=0)
    assert found.embeddings.shape == (0, 32)


def test_a_loaded_model_is_not_changed_by_another_dtype(tiny_model: Models, photos: Corpus) -> None:
    model = vitcli.load(str(tiny_model("vit")))
    vitcli.classify(photos.good[0], model=model, dtype="bf16", workers=0)
    assert next(model.network.parameters()).dtype == torch.float32


def test_errors_are_for_catching(tmp_path: Path, tiny_model: Models) -> None:
    with pytest.raises(ModelNotFound, match="no model at"):
        vitcli.load(str(tmp_path / "nothing.safetensors"))
    with pytest.raises(InputError, match="no images in"):
        vitcli.classify(tmp_path, model=str(tiny_model("vit")))
    assert issubclass(InputError, vitcli.VitError)
