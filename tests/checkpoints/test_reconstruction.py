"""MAE and masked image modelling with their decoders: the predictions, losses and tensors of
transformers, from its own files and from Meta's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints.files import edit_json
from tests.conftest import Vit
from tests.fixtures.golden import golden
from tests.fixtures.meta import mae_visualize
from tests.fixtures.tiny import tiny_hf
from tests.fixtures.weights import pixels
from vitcli.checkpoints.load import load
from vitcli.errors import CheckpointError
from vitcli.models.mae import MaskedAutoencoder, mask_of, patchify, unpatchify
from vitcli.models.mim import MaskedImageModel

CLOSE = {"atol": 1e-5, "rtol": 1e-6}
SIZES = [(64, 64), (40, 80), (96, 32)]  # a grid of 8x8, 5x10 and 12x4
SPELLINGS = ["disk", "memory", "hub"]


def spelled(family: str, spelling: str, folder: Path, **overrides: Any) -> Any:
    """A tiny model of transformers in a folder: as 5.x saves it, as it is in memory, and as 4.x
    saved the decoder."""
    reference = tiny_hf(family, folder, **overrides)
    state = load_file(folder / "model.safetensors")
    if spelling == "memory":
        state = reference.state_dict()
    if spelling == "hub":
        state = {n.replace("decoder_encoder.layer", "decoder_layers"): t for n, t in state.items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return reference


def interpolated_in_two_dimensions(decoder: Any, size: tuple[int, int]) -> None:
    """transformers resamples the decoder's positions as one long row, which mixes up the rows of
    an image that is not square. Here they are resampled as the encoder's are."""
    pos = decoder.decoder_pos_embed
    grid = pos[:, 1:].reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(size[0] // 8, size[1] // 8), mode="bicubic")
    new = torch.cat([pos[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    decoder.interpolate_pos_encoding = lambda embeddings: new


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_mae_predicts_and_loses_what_transformers_does(
    size: tuple[int, int], norm_pix: bool, tmp_path: Path
) -> None:
    theirs = tiny_hf("mae-pretraining", tmp_path, mask_ratio=0.7, norm_pix_loss=norm_pix)
    ours = load(str(tmp_path), keep_decoder=True).with_decoder()
    assert isinstance(ours, MaskedAutoencoder) and ours.norm_pix == norm_pix
    x = torch.from_numpy(pixels(2, *size))
    noise = torch.rand(2, size[0] * size[1] // 64, generator=torch.Generator().manual_seed(1))
    is_square = size == (64, 64)
    if not is_square:
        interpolated_in_two_dimensions(theirs.decoder, size)
    expected = theirs(x, noise=noise, interpolate_pos_encoding=not is_square)
    mask = mask_of(noise, ours.mask_ratio)
    assert torch.equal(mask, expected.mask.bool())
    prediction = ours(x, mask)
    torch.testing.assert_close(prediction, expected.logits, **CLOSE)
    torch.testing.assert_close(ours.loss(x, prediction, mask), expected.loss, **CLOSE)


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_mim_predicts_and_loses_what_transformers_does(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Of images that are not square transformers can give the tokens alone."""
    theirs = tiny_hf("vit-mim", tmp_path)
    ours = load(str(tmp_path), keep_decoder=True).with_decoder()
    assert isinstance(ours, MaskedImageModel)
    x = torch.from_numpy(pixels(2, *size))
    grid = (size[0] // 8, size[1] // 8)
    mask = mask_of(torch.rand(2, grid[0] * grid[1]), 0.5)
    prediction = ours(x, mask)
    if size == (64, 64):
        expected = theirs(x, bool_masked_pos=mask)
        torch.testing.assert_close(prediction, expected.reconstruction, **CLOSE)
        torch.testing.assert_close(ours.loss(x, prediction, mask), expected.loss, **CLOSE)
    else:
        encoded = theirs.vit(x, bool_masked_pos=mask, interpolate_pos_encoding=True)
        tokens = encoded.last_hidden_state[:, 1:].transpose(1, 2).reshape(2, -1, *grid)
        torch.testing.assert_close(prediction, theirs.decoder(tokens), **CLOSE)
        shown = mask.reshape(2, 1, *grid).float()
        shown = torch.nn.functional.interpolate(shown, scale_factor=8)
        error = (prediction - x).abs().mean(dim=1, keepdim=True)
        torch.testing.assert_close(
            ours.loss(x, prediction, mask), (error * shown).sum() / shown.sum(), **CLOSE
        )


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", ["mae-pretraining", "vit-mim"])
def test_every_spelling_is_written_and_opened_by_transformers_bit_for_bit(
    family: str, spelling: str, vit: Vit, tmp_path: Path
) -> None:
    overrides = {"norm_pix_loss": True, "mask_ratio": 0.6} if family != "vit-mim" else {}
    theirs = spelled(family, spelling, tmp_path / "src", **overrides)
    ended = vit("convert", tmp_path / "src", tmp_path / "out", "--to", "hf", "--verify")
    assert ended.code == 0, ended.err
    assert b"reconstruction: max |\xce\x94| 0, allowed" in ended.out
    assert b"dropped" not in ended.out and "left out" not in ended.err
    back, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    for key in ("mask_ratio", "norm_pix_loss", "encoder_stride"):
        assert getattr(back.config, key, None) == getattr(theirs.config, key, None)


def meta_mae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of transformers' `ViTMAEForPreTraining` in memory, as facebookresearch/mae's."""
    names = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.layernorm": "norm",
        "vit.layers": "blocks",
        "decoder.decoder_layers": "decoder_blocks",
        "decoder.": "",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "attention.q_proj": "attn.qkv",
    }
    found = {}
    for name, tensor in state.items():
        renamed = name
        for old, new in names.items():
            renamed = renamed.replace(old, new)
        if ".q_proj." in name:
            tensor = torch.cat([state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
        if "k_proj" not in name and "v_proj" not in name:
            found[renamed] = tensor
    return found


@torch.inference_mode()
def test_metas_file_predicts_the_same_and_reaches_transformers(vit: Vit, tmp_path: Path) -> None:
    sizes = {"decoder_hidden_size": 64, "mask_ratio": 0.75, "layer_norm_eps": 1e-6}
    theirs = tiny_hf("mae-pretraining", tmp_path / "hf", **sizes)
    torch.save({"model": meta_mae(theirs.state_dict())}, tmp_path / "mae.pth")
    model = load(str(tmp_path / "mae.pth"), num_heads=4, keep_decoder=True)
    ours = model.with_decoder()
    assert model.layout == "mae"
    x = torch.from_numpy(pixels(2, 64, 64))
    noise = torch.rand(2, 64)
    expected = theirs(x, noise=noise)
    torch.testing.assert_close(ours(x, mask_of(noise, 0.75)), expected.logits, **CLOSE)
    out = tmp_path / "out"
    ended = vit("convert", "mae.pth", out, "--to", "hf", "--num-heads", "4", "--verify")
    assert ended.code == 0, ended.err
    opened, info = transformers.ViTMAEForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    torch.testing.assert_close(opened(x, noise=noise).logits, expected.logits, **CLOSE)


def test_patches_lead_back_to_the_picture() -> None:
    x = torch.from_numpy(pixels(2, 40, 80))
    patches = patchify(x, (8, 16))
    assert patches.shape == (2, 25, 384)
    assert torch.equal(patches[0, 6, :3], x[0, :, 8, 16])
    assert torch.equal(unpatchify(patches, (5, 5), (8, 16)), x)


@torch.inference_mode()
def test_the_picture_of_normed_patches_has_the_light_of_the_image(tmp_path: Path) -> None:
    tiny_hf("mae-pretraining", tmp_path, norm_pix_loss=True)
    model = load(str(tmp_path), keep_decoder=True).with_decoder()
    x = torch.from_numpy(pixels(1, 64, 64)) + 3
    target = patchify(x, (8, 8))
    normed = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model.picture(x, normed), x, **CLOSE)


def test_without_being_asked_for_the_decoder_is_left_out(tmp_path: Path) -> None:
    tiny_hf("mae-pretraining", tmp_path)
    model = load(str(tmp_path))
    assert model.reconstruction is None
    assert any("only reconstruction uses it" in note for note in model.notes)
    kept = load(str(tmp_path), keep_decoder=True)
    network = kept.with_decoder()
    assert kept.network is network.encoder and not kept.notes and not kept.provenance.dropped


def test_a_file_without_a_decoder_cannot_reconstruct(tmp_path: Path) -> None:
    tiny_hf("vit", tmp_path)
    with pytest.raises(CheckpointError, match="has no decoder: it cannot reconstruct"):
        load(str(tmp_path), keep_decoder=True).with_decoder()


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("mae-pretraining", {"decoder_num_hidden_layers": 3}, "decoder_encoder.layer.2.layernorm"),
        ("mae-pretraining", {"decoder_num_hidden_layers": 1}, "have no place in the model"),
        ("mae-pretraining", {"decoder_hidden_size": 32}, "decoder.mask_token: expected [1, 1, 32]"),
        (
            "mae-pretraining",
            {"decoder_num_attention_heads": 3},
            "decoder_num_attention_heads is 3",
        ),
        ("mae-pretraining", {"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ("vit-mim", {"encoder_stride": 16}, "encoder_stride is 16, patches are [8, 8]"),
    ],
)
def test_a_decoder_that_does_not_fit_its_config_is_refused(
    family: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    tiny_hf(family, tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError) as caught:
        load(str(tmp_path), keep_decoder=True).with_decoder()
    assert said in str(caught.value)


@pytest.mark.parametrize("family", ["mae-pretraining", "vit-mim"])
def test_one_tensor_of_a_decoder_missing_is_refused_by_name(family: str, tmp_path: Path) -> None:
    reference = spelled(family, "hub", tmp_path)
    del reference
    file = tmp_path / "pytorch_model.bin"
    whole = torch.load(file, weights_only=True)
    for name in whole:
        if not name.startswith("decoder") and "mask_token" not in name:
            continue
        torch.save({n: t for n, t in whole.items() if n != name}, file)
        with pytest.raises(CheckpointError) as caught:
            load(str(tmp_path), keep_decoder=True).with_decoder()
        assert name.removeprefix("vit.") in str(caught.value)


def test_a_visualisation_file_of_meta_says_what_of_its_decoder_is_missing(tmp_path: Path) -> None:
    made = mae_visualize(golden("bare_vit").state)
    del made["model"]["decoder_blocks.0.mlp.fc1.weight"]
    torch.save(made, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=r"decoder_blocks\.0\.mlp\.fc1\.weight is missing"):
        load(str(tmp_path / "mae.pth"), num_heads=4, keep_decoder=True).with_decoder()
