"""A loaded model: what it says of itself, and what it computes when it is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitcli
from tests.fixtures.extras import needs
from tests.fixtures.photos import Corpus, photo
from tests.fixtures.two_towers import two_towers
from vitcli.errors import ImageFailed, UsageError
from vitcli.records import Classified

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_model: Models) -> Any:
    return vitcli.load(str(tiny_model("vit")))


def test_a_model_says_what_it_is_in_a_line(tiny_model: Models) -> None:
    spec = str(tiny_model("vit"))
    said = r"<Model {}: hf-vit, [\d.]+ M parameters, 48x80 pixels, 7 labels, {} on cpu>"
    model = vitcli.load(spec, image_size=(48, 80))
    assert re.fullmatch(said.format(re.escape(spec), "float32"), repr(model))
    model.network.bfloat16()
    assert re.fullmatch(said.format(re.escape(spec), "bfloat16"), repr(model))
    backbone = str(tiny_model("dinov2"))
    assert "labels" not in repr(vitcli.load(backbone))
    assert isinstance(model, vitcli.Model)


def test_calling_a_model_gives_the_logits_of_images(photos: Corpus, model: Any) -> None:
    """Those of classify, but for the last bits, for more images than a batch has."""
    images = [*photos.good[:18], np.asarray(photo("x")), photo("y")]
    logits = model(images)
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((20, 7), torch.float32, False)
    rows = vitcli.classify(images, model=model, scores="logit", top_k=7, workers=0)
    for row, values in zip(rows, logits, strict=True):
        assert isinstance(row, Classified)
        for prediction in row.predictions:
            assert prediction.score == pytest.approx(values[prediction.index].item(), abs=1e-5)
    assert torch.allclose(model(images[0]), logits[:1], atol=1e-5)


def test_calling_a_backbone_gives_embeddings(photos: Corpus, tiny_model: Models) -> None:
    model = vitcli.load(str(tiny_model("dinov2")))
    found = vitcli.embed(photos.good[:3], model=model, workers=0)
    vectors = model(photos.good[:3])
    assert np.allclose(vectors.numpy(), found.embeddings, atol=1e-5)
    torch.nn.Linear(32, 2)(vectors).sum().backward()  # the input of a training


def test_a_batch_of_bytes_is_preprocessed_and_one_of_floats_is_not(model: Any) -> None:
    array = np.stack([np.asarray(photo(name, 64, 64)) for name in "ab"])
    bytes_ = torch.from_numpy(array).permute(0, 3, 1, 2)
    floats = (bytes_ / 255 - 0.5) / 0.5
    plan = model.preprocess
    assert (plan.size, plan.mean, plan.std) == ((64, 64), (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(model(bytes_), model(array))
    assert torch.allclose(model(floats), model(bytes_), atol=1e-5)
    floats.requires_grad_()
    model(floats).sum().backward()
    assert floats.grad is not None and floats.grad.shape == (2, 3, 64, 64)


@needs("text")
def test_images_of_several_sizes_keep_their_order(tmp_path: Path) -> None:
    two_towers("naflex", tmp_path)
    model = vitcli.load(str(tmp_path))
    images = [photo("a", 64, 64), photo("b", 120, 30), photo("c", 64, 64), photo("d", 30, 120)]
    together = model(images)
    alone = torch.cat([model(image) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_model_of_another_precision_computes_in_it(tiny_model: Models) -> None:
    model = vitcli.load(str(tiny_model("vit")))
    before = model(photo("x"))
    model.network.bfloat16()
    after = model(photo("x"))
    assert after.dtype == torch.bfloat16
    assert torch.allclose(before, after.float(), atol=0.1)


def test_what_has_no_place_in_a_tensor_is_an_error(photos: Corpus, model: Any) -> None:
    bad = next(iter(photos.bad))
    with pytest.raises(ImageFailed) as raised:
        model([photos.good[0], bad])
    assert raised.value.path == str(bad)
    with pytest.raises(UsageError, match="a batch of no images"):
        model([])
    with pytest.raises(UsageError, match=re.escape("a float tensor of (3, 8, 8) is not a batch")):
        model(torch.zeros(3, 8, 8))
