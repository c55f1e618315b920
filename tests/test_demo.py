"""The model that ships in the package: what its card claims, and that others can open it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTImageProcessor

from vitcli.checkpoints.load import Model, load
from vitcli.demo import train
from vitcli.models import onednn
from vitcli.models.prepare import prepare

FOLDER = Path(train.__file__).parent
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("digit-*.png"))


@pytest.fixture(scope="module")
def demo() -> Model:
    return load("demo", offline=True)


def _pixels(model: Model, pictures: list[Image.Image]) -> torch.Tensor:
    ready = prepare(model.network, model.preprocess, "cpu")
    return ready.pixels(train.pixels_of(pictures, model.preprocess))


def test_loads_without_remarks(demo: Model) -> None:
    assert demo.config == train.CONFIG
    assert demo.labels == tuple("0123456789")
    assert demo.notes == ()


def test_the_split_is_a_fifth_of_each_digit() -> None:
    held_out, training = train.held_out(), train.training()
    indices = [index for index, _ in [*held_out, *training]]
    assert sorted(indices) == list(range(1797))  # so no index is in both
    total, out = (np.bincount([label for _, label in pairs]) for pairs in (training, held_out))
    assert np.abs(out - (total + out) / 5).max() <= 0.5


def test_held_out_accuracy_is_the_card_s(demo: Model) -> None:
    count = len(train.held_out())
    right = count - len(train.mistakes(demo))
    dark = count - len(train.mistakes(demo, inverted=True))
    assert right / count >= 0.97
    claims = re.findall(r"([\d.]+) %\S* \((\d+) of (\d+)\)", (FOLDER / "README.md").read_text())
    assert claims == [(f"{100 * n / count:.2f}", str(n), str(count)) for n in (right, dark)]


def test_examples_are_held_out_pictures_read_right(demo: Model) -> None:
    digits = [tuple(map(int, path.stem.split("-")[1:])) for path in EXAMPLES]
    assert [label for label, _ in digits] == list(range(10))
    assert {(index, label) for label, index in digits} <= set(train.held_out())
    pictures = [Image.open(path) for path in EXAMPLES]
    for (_, index), picture in zip(digits, pictures, strict=True):
        rendered = train.render(index)
        assert (picture.mode, picture.size) == ("L", (64, 64)) == (rendered.mode, rendered.size)
        assert picture.tobytes() == rendered.tobytes()
    with torch.inference_mode():
        answers = demo.network(_pixels(demo, pictures)).argmax(dim=1)
    assert answers.tolist() == [label for label, _ in digits]


def test_the_folder_is_small() -> None:
    files = [path for path in FOLDER.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 2_000_000


def test_transformers_gives_the_same_logits(demo: Model) -> None:
    theirs, info = ViTForImageClassification.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info.values()), info  # no key missing, unexpected or of another shape
    pictures = [train.render(index) for index, _ in train.held_out()[:64]]
    processor = ViTImageProcessor.from_pretrained(FOLDER)
    rgb = [picture.convert("RGB") for picture in pictures]
    pixels = _pixels(demo, pictures)
    assert torch.equal(processor(rgb, return_tensors="pt")["pixel_values"], pixels)
    with torch.inference_mode():
        expected, found = theirs.eval()(pixels).logits, demo.network(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert theirs.config.id2label == dict(enumerate(demo.labels))


@pytest.mark.parametrize("options", [{"dtype": "bf16"}, {"quantize": "int8"}], ids=str)
def test_low_precision_reads_the_held_out_digits_as_fp32_does(
    options: dict[str, Any], demo: Model
) -> None:
    if not onednn.supports(torch.float32, int8="quantize" in options):
        pytest.skip("this CPU or PyTorch has no such products")
    labels = torch.tensor([label for _, label in train.held_out()])
    pictures = [train.render(index) for index, _ in train.held_out()]
    pixels = train.pixels_of(pictures, demo.preprocess)
    exact, low = (
        prepare(demo.network, demo.preprocess, "cpu", **chosen)  # type: ignore[arg-type]
        .run(lambda network, images: network(images), pixels)
        .argmax(dim=1)
        for chosen in ({}, options)
    )
    count = len(labels)
    assert (exact == low).sum() >= 0.99 * count
    assert (low == labels).sum() >= (exact == labels).sum() - 0.005 * count
