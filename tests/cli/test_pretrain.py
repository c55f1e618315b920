"""Masked pre-training: what it writes is transformers', and what `vit reconstruct` draws."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from tests.fixtures.photos import Corpus
from vitcli.checkpoints.load import load
from vitcli.images.job import DecodeJob
from vitcli.models.mae import mask_of
from vitcli.models.prepare import prepare
from vitcli.records import ImageRef
from vitcli.tasks.reconstruct import draw_mask


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("few"), train=160, val=40)


def losses(run: Path) -> list[float]:
    return [
        json.loads(line)["val_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def test_simmim_from_a_classifier_loads_in_transformers(
    vit: Vit, few: Path, tmp_path: Path
) -> None:
    args = ("--objective", "mim", "--epochs", "6", "--batch-size", "16", "--lr", "2e-3", "-j", "0")
    done = vit("finetune", few, "-m", "demo", "--out", "run", *args)
    assert done.code == 0, done.err
    found = losses(tmp_path / "run")
    assert found[-1] < 0.85 * found[0]
    ours = load(str(tmp_path / "run"), keep_decoder=True).with_decoder()
    hf = transformers.ViTForMaskedImageModeling.from_pretrained(tmp_path / "run").eval()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.cat([draw_mask(0, place, 64, 0.6) for place in range(2)])
    with torch.no_grad():
        theirs = hf(pixels, bool_masked_pos=mask)
        prediction = ours(pixels, mask)
        loss = ours.loss(pixels, prediction, mask)
    torch.testing.assert_close(prediction, theirs.reconstruction, atol=1e-5, rtol=0)
    assert loss.item() == pytest.approx(theirs.loss.item(), abs=1e-5)


def test_a_masked_autoencoder_goes_on_as_one(
    vit: Vit, few: Path, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    args = ("--objective", "mim", "--mask-ratio", "0.75", "--epochs", "1", "-j", "0")
    done = vit("finetune", few, "-m", tiny_model("mae-pretraining"), "--out", "run", *args)
    assert done.code == 0, done.err
    hf = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "run").eval()
    before = transformers.ViTMAEForPreTraining.from_pretrained(tiny_model("mae-pretraining"))
    assert torch.equal(
        hf.vit.embeddings.position_embeddings, before.vit.embeddings.position_embeddings
    )
    assert not torch.equal(hf.decoder.decoder_pred.weight, before.decoder.decoder_pred.weight)
    ours = load(str(tmp_path / "run"), keep_decoder=True).with_decoder()
    pixels, noise = torch.rand(2, 3, 64, 64), torch.rand(2, 64)
    hf.config.mask_ratio = 0.75
    with torch.no_grad():
        theirs = hf(pixels, noise=noise).logits
        prediction = ours(pixels, mask_of(noise, 0.75))
    torch.testing.assert_close(prediction, theirs, atol=1e-5, rtol=0)


def test_reconstruct_draws_what_the_model_predicts(
    vit: Vit, photos: Corpus, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    photo = next(path for path in photos.good if path.suffix == ".png")
    broken = photo.with_name("no-such.png")
    args = (photo, broken, "-m", tiny_model("vit-mim"), "--mask-ratio", "0.75", "--seed", "3")
    done = vit("reconstruct", *args, "--out", "drawn")
    assert done.code == 3, done.err
    [file] = (tmp_path / "drawn").rglob("*.png")
    assert file.name == f"{photo.name}.png"  # a GIF in its folder is called alike
    sheet = np.asarray(Image.open(io.BytesIO(file.read_bytes())))
    panels = [sheet[22 : 22 + 192, 8 + n * 200 : 200 + n * 200][1::3, 1::3] for n in range(3)]
    model = load(str(tiny_model("vit-mim")), keep_decoder=True)
    reconstruction = model.with_decoder()
    [bytes_] = DecodeJob((model.preprocess,))(ImageRef(0, str(photo))).pixels
    mask = draw_mask(3, 0, 64, 0.75)
    assert mask.sum() == 48
    hidden = mask.reshape(8, 8).numpy().repeat(8, 0).repeat(8, 1)
    assert np.array_equal(panels[0], bytes_)
    assert np.array_equal(panels[1], np.where(hidden[..., None], 128, bytes_))
    pixels = prepare(model.network, model.preprocess, "cpu").pixels(bytes_[None].copy())
    with torch.no_grad():
        picture = reconstruction(pixels, mask)[0].permute(1, 2, 0).numpy()
    expected = np.clip(np.rint((picture * 0.5 + 0.5) * 255), 0, 255)
    assert np.abs(panels[2][hidden].astype(int) - expected[hidden]).max() <= 1
    assert np.array_equal(panels[2][~hidden], bytes_[~hidden])
    again = vit("reconstruct", *args, "--out", "again")
    assert again.code == 3
    assert [f.read_bytes() for f in (tmp_path / "again").rglob("*.png")] == [file.read_bytes()]
    done = vit("reconstruct", photo, "-m", "demo", "--out", "none")
    assert done.code == 1 and "demo has no decoder" in done.err
