"""--preprocess hf-fast through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor

from tests.fixtures.photos import photo
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError
from vitcli.training.recipe import with_head

Vit = Callable[..., Any]
Models = Callable[[str], Path]
FAST = ("--preprocess", "hf-fast")


def test_embed_records_it_and_resume_and_search_know_it(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    for number in range(3):
        photo(str(number), 90 + number, 70).save(tmp_path / f"{number}.png")
    embed = ("embed", "0.png", "1.png", "-m", tiny_model("vit"), "-j", "0", "-o")
    assert vit(*embed, "fast.npy", *FAST).code == 0
    assert vit(*embed, "pillow.npy").code == 0
    fast, pillow = (np.load(tmp_path / f"{name}.npy") for name in ("fast", "pillow"))
    assert 0 < np.abs(fast - pillow).max() < 0.05
    meta = json.loads((tmp_path / "fast.meta.json").read_text())
    assert "resize(squash 64x64, bilinear, bytes with torch)" in meta["preprocess"]
    assert meta["preprocess_source"] == "preprocessor_config.json; --preprocess hf-fast"
    ended = vit(*embed, "fast.npy", "--resume")
    assert ended.code == 1
    assert b"--preprocess hf-fast (now none)" in ended.err.encode()
    again = ("embed", "0.png", "1.png", "2.png", *embed[3:])
    assert vit(*again, "fast.npy", *FAST, "--resume").code == 0
    assert vit(*again, "whole.npy", *FAST).code == 0
    assert (tmp_path / "fast.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    found = vit("search", "fast.npy", "1.png", "-k", "1", "-j", "0")
    [row] = map(json.loads, found.out.splitlines())
    [best] = row["results"]
    assert best["path"] == "1.png" and best["score"] > 0.99999


def test_classes_are_those_of_torchs_pixels(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    image = photo("1", 90, 70)
    image.save(tmp_path / "1.png")
    args = ("1.png", "-m", tiny_model("vit"), *FAST, "-j", "0")
    [row] = map(json.loads, vit("classify", *args, "--scores", "logit", "-k", "7").out.splitlines())
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    x = F.interpolate(x, (64, 64), mode="bilinear", antialias=True).float()
    model = load(str(tiny_model("vit")))
    plan = model.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (plan.mean, plan.std))
    expected = model.network((x / 255 - mean) / std)[0]
    scores = {p["index"]: p["score"] for p in row["predictions"]}
    assert [scores[n] for n in range(7)] == pytest.approx(expected.tolist(), abs=2e-6)


def test_info_tells_where_it_comes_from(vit: Vit, tiny_model: Models) -> None:
    found = json.loads(vit("info", tiny_model("dinov2"), "--json", *FAST).out)
    sources = {step["step"].partition("(")[0]: step["source"] for step in found["preprocess"]}
    assert sources["resize"].endswith("; --preprocess hf-fast")
    assert sources["rgb"] == "--preprocess hf-fast"
    assert "hf-fast" not in sources["normalize"].partition(";")[0]


def test_convert_keeps_it_for_transformers(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    args = ("convert", tiny_model("dinov2"), "out", *FAST)
    ended = vit(*args, "--to", "hf", "--verify")
    assert ended.code == 0, ended.err
    assert "pixels alone" not in ended.out.decode()
    back = load(str(tmp_path / "out")).preprocess
    assert (back.resizer, back.crop) == ("torch", "hf-fast")
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert theirs.size["shortest_edge"] == back.resize[0]
    ended = vit(*args, "--to", "timm", "--overwrite")
    assert b"resizes bytes with Pillow, this model's bytes with torch" in ended.out


def test_a_new_model_that_only_timm_can_express_is_refused(tiny_model: Models) -> None:
    model = load(str(tiny_model("dinov3")), preprocess="timm")
    fast = load(str(tiny_model("vit")), preprocess="hf-fast").preprocess
    with pytest.raises(CheckpointError, match="written for timm, which does not preprocess as"):
        with_head(replace(model, preprocess=fast), ("a", "b"))
