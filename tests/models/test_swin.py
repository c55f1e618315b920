"""Swin against transformers, run live, and against what timm answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.fixtures.swin import (
    CLASSES,
    IMAGE_SIZE,
    V2_CLASSES,
    microsoft_v2_names,
    tiny_swin,
    unshrunk,
)
from tests.fixtures.weights import pixels, weight
from tests.models.goldens import SWIN, SWIN_NAMES, Golden
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.fields import Pooling
from vitcli.models.pos_embed import resize_bias_table
from vitcli.models.swin import SwinTransformer
from vitcli.models.swin_config import SwinConfig
from vitcli.models.windows import windows_of

CLOSE = {"atol": 1e-5, "rtol": 0.0}
# Larger, not square, with windows to be padded in every stage (grids 56x40, 28x20, 14x10), with
# sides of odd patches, with less than a patch left over, and with one window across.
OTHER_SIZES = ((224, 160), (96, 64), (72, 136), (67, 90), (64, 128))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CLASSES},
    "absolute": (CLASSES[0], {"use_absolute_embeddings": True}),
    "not-square": (CLASSES[0], {"image_size": [128, 96]}),
    "no-qkv-bias": (CLASSES[0], {"qkv_bias": False}),
    "large-eps": (CLASSES[0], {"layer_norm_eps": 1e-2}),
    "gelu-tanh": (CLASSES[0], {"hidden_act": "gelu_pytorch_tanh"}),
    "odd-window": (CLASSES[0], {"window_size": 3}),
    "one-stage": (CLASSES[0], {"depths": [2], "num_heads": [2], "window_size": 5}),
    "v2": (V2_CLASSES[0], {}),
    "v2-pretrained": (
        V2_CLASSES[1],
        {"window_size": 8, "pretrained_window_sizes": [6, 0, 2, 3], "qkv_bias": False},
    ),
    "v2-not-square": (V2_CLASSES[0], {"image_size": [128, 72], "window_size": 5}),
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as transformers and as we load it."""

    theirs: transformers.PreTrainedModel
    ours: Model

    @property
    def network(self) -> SwinTransformer:
        assert isinstance(self.ours.network, SwinTransformer)
        return self.ours.network

    @property
    def layers(self) -> range:
        return range(self.ours.config.depth + 1)

    def pixels(self, batch: int, height: int, width: int) -> Tensor:
        return torch.from_numpy(pixels(batch, height, width)).to(self.network.norm.weight.dtype)

    def backbone(self, images: Tensor) -> transformers.utils.ModelOutput:
        """Their hidden states, last_hidden_state and pooler_output."""
        is_own = tuple(images.shape[-2:]) == self.ours.config.image_size
        base = unshrunk(self.theirs).base_model
        return base(images, output_hidden_states=True, interpolate_pos_encoding=not is_own)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, overrides = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    theirs = tiny_swin(name, folder, **overrides)
    size = overrides.get("image_size")
    made = Pair(theirs, load(str(folder), image_size=tuple(size) if size else None))
    if name in V2_CLASSES:  # its sharp weights magnify rounding
        theirs.double()
        made.network.double()
    return made


@pytest.fixture(scope="module")
def images(pair: Pair) -> Tensor:
    return pair.pixels(2, *pair.ours.config.image_size)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("swin")
    return Pair(tiny_swin(CLASSES[0], folder), load(str(folder)))


def check(pair: Pair, images: Tensor) -> None:
    """Every hidden state with its grid, the normed tokens, the mean, and the logits."""
    answer = pair.backbone(images)
    states = pair.network.hidden_states(images, pair.layers)
    for layer, theirs in enumerate(answer.hidden_states):
        torch.testing.assert_close(states[layer].x, theirs, **CLOSE)
        assert states[layer].grid == tuple(answer.reshaped_hidden_states[layer].shape[-2:])
        assert states[layer].num_prefix == 0
    tokens = pair.network.tokens(images)
    torch.testing.assert_close(tokens.x, answer.last_hidden_state, **CLOSE)
    mean = pair.network.features(images, [pair.ours.config.depth], "mean")
    torch.testing.assert_close(mean, answer.last_hidden_state.mean(dim=1), **CLOSE)
    if answer.pooler_output is not None:
        torch.testing.assert_close(mean, answer.pooler_output, **CLOSE)
    if hasattr(pair.theirs, "classifier"):
        logits = pair.theirs.classifier(answer.pooler_output)
        torch.testing.assert_close(pair.network(images), logits, **CLOSE)


@torch.inference_mode()
def test_hidden_states_and_logits_are_those_of_transformers(pair: Pair, images: Tensor) -> None:
    check(pair, images)


@torch.inference_mode()
def test_images_of_other_sizes_are_those_of_transformers(pair: Pair) -> None:
    for height, width in OTHER_SIZES:
        if pair.ours.config.absolute_positions and (height % 4 or width % 4):
            continue  # transformers cannot interpolate for what it pads
        check(pair, pair.pixels(2, height, width))


@torch.inference_mode()
def test_attention_within_windows_is_that_of_transformers(pair: Pair) -> None:
    for size in ((64, 64), *OTHER_SIZES[:2]):
        images = pair.pixels(2, *size)
        stages = pair.layers[1:]
        answer = unshrunk(pair.theirs).base_model(
            images, output_attentions=True, interpolate_pos_encoding=True
        )
        found = pair.network.attention(images, stages)
        for stage, theirs in zip(stages, answer.attentions, strict=True):
            torch.testing.assert_close(found[stage].flatten(0, 1), theirs, **CLOSE)
            ones = torch.ones(found[stage].shape[:-1], dtype=theirs.dtype)
            torch.testing.assert_close(found[stage].sum(dim=-1), ones, **CLOSE)


@torch.inference_mode()
def test_a_size_that_is_made_the_models_own_changes_no_number(swin: Pair, tmp_path: Path) -> None:
    theirs = tiny_swin(CLASSES[0], tmp_path, use_absolute_embeddings=True)
    plain, resized = load(str(tmp_path)), load(str(tmp_path), image_size=(96, 160))
    assert resized.config.image_size == resized.preprocess.size == (96, 160)
    images = torch.from_numpy(pixels(2, 96, 160))
    torch.testing.assert_close(resized.network(images), plain.network(images), **CLOSE)
    logits = unshrunk(theirs)(images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(resized.network(images), logits, **CLOSE)


@torch.inference_mode()
def test_a_grid_smaller_than_the_window_takes_the_middle_of_the_tables(swin: Pair) -> None:
    """transformers fails there. Windows without padding: attention over the whole small grid,
    with the learned bias of each pair's distance."""
    network = swin.network
    images = torch.from_numpy(pixels(2, 32, 32))  # grids 8x8, 4x4 and 2x2
    block = network.layers[2].blocks[1]
    x = network.hidden_states(images, [2])[2].x
    normed = block.norm1(x)
    q, k, v = block.attn.qkv(normed).reshape(2, 4, 3, 4, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    table = block.attn.relative_position_bias_table.reshape(7, 7, 4)
    at = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for i, (row, column) in enumerate(at):
        for j, (other_row, other_column) in enumerate(at):
            scores[:, :, i, j] += table[row - other_row + 3, column - other_column + 3]
    attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(2, 4, -1)
    expected = x + block.attn.proj(attended)
    expected = expected + block.mlp(block.norm2(expected))
    windows, _ = windows_of(network.config, 2, (2, 2), x)
    found = block(x, windows)
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.inference_mode()
def test_features_are_those_of_the_layers(swin: Pair) -> None:
    network = swin.network
    images = torch.from_numpy(pixels(2, IMAGE_SIZE, IMAGE_SIZE))
    states = network.hidden_states(images, swin.layers)
    means = [states[layer].x.mean(dim=1) for layer in (0, 1, 2)]
    found = network.features(images, [0, 1, 2], "mean")
    assert torch.equal(found, torch.cat(means, dim=-1))  # the final norm is for the last layer
    assert found.shape[1:] == network.config.features_shape([0, 1, 2], "mean") == (16 + 32 + 64,)
    last = network.features(images, [3, 2], "patches")
    expected = torch.cat([network.norm(states[3].x), states[2].x], dim=-1)
    assert torch.equal(last, expected)
    assert last.shape[1:] == network.config.features_shape([3, 2], "tokens") == (16, 128)
    raw = network.features(images, [3], "tokens", norm=False)
    assert torch.equal(raw, states[3].x)


@pytest.mark.parametrize(
    ("layers", "pool", "said"),
    [
        ([3], "cls", "pool cls needs a class token, and a Swin has none"),
        ([3], "cls+mean", "needs a class token"),
        ([3], "map", "needs an attention-pooling head"),
        ([1, 3], "patches", "grids of 8x8 and 4x4 patches"),
    ],
)
def test_what_a_swin_lacks_is_refused(
    swin: Pair, layers: list[int], pool: Pooling, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        swin.network.config.features_shape(layers, pool)


def test_blocks_after_the_last_asked_layer_are_not_computed(swin: Pair) -> None:
    seen = []
    hooks = [
        stage.register_forward_hook(lambda *_, number=n: seen.append(number))
        for n, stage in enumerate(swin.network.layers, start=1)
    ]
    with torch.inference_mode():
        swin.network.hidden_states(torch.zeros(1, 3, 64, 64), [1, 0])
    for hook in hooks:
        hook.remove()
    assert seen == [1]


def test_the_config_says_what_is_wrong(swin: Pair) -> None:
    config = swin.ours.config
    assert isinstance(config, SwinConfig)
    for changes, said in (
        ({"depths": ()}, "the number of stages is 0"),
        ({"num_heads": (2, 4)}, r"num_heads is \[2, 4\], and there are 3 stages"),
        ({"num_heads": (2, 3, 4)}, "num_heads is 3, which does not divide the width 32"),
        ({"depths": (2, 0, 2)}, r"depths\[1\] is 0"),
        ({"window_sizes": ((4, 4), (4, 4), (0, 4))}, r"window_sizes\[2\] is 0"),
        ({"embed_dim": 10**6}, "embed_dim is 1000000"),
        ({"image_size": (64, 3)}, "smaller than one patch"),
        ({"norm_eps": -1.0}, "norm_eps is -1.0"),
    ):
        with pytest.raises(CheckpointError, match=said):
            replace(config, **changes)


# Version 2.


@torch.inference_mode()
def test_the_windows_of_a_swin_v2_stay_those_of_its_own_image(tmp_path: Path) -> None:
    """At another size, and with scores so large that transformers' second mask is felt."""
    theirs = tiny_swin(V2_CLASSES[0], tmp_path / "v2")
    for block in (block for stage in theirs.swinv2.encoder.layers for block in stage.blocks):
        block.attention.self.logit_scale.fill_(9.0)
    theirs.save_pretrained(tmp_path / "v2")
    network = load(str(tmp_path / "v2"), image_size=(96, 160)).network
    images = torch.from_numpy(pixels(2, 96, 160)).double()
    found = network.double()(images)
    torch.testing.assert_close(found, theirs.double()(images).logits, **CLOSE)
    once = SwinTransformer(replace(network.config, window_rule="hf")).double()
    once.load_state_dict(network.state_dict())
    own = torch.from_numpy(pixels(2, 64, 64)).double()
    assert (network(own) - once(own)).abs().max() > 1e-4


def test_padding_is_no_nan_in_half_precision(tmp_path: Path) -> None:
    """A key of zeros has no direction, and 1e-12 is 0 in fp16."""
    tiny_swin(V2_CLASSES[0], tmp_path / "v2")
    network = load(str(tmp_path / "v2")).network.half()
    with torch.inference_mode():
        assert network(torch.from_numpy(pixels(1, 72, 72)).half()).isfinite().all()


def test_every_parameter_of_a_swin_v2_has_the_gradient_of_transformers(tmp_path: Path) -> None:
    theirs = tiny_swin(V2_CLASSES[0], tmp_path / "v2").double()
    network = load(str(tmp_path / "v2")).network.double().requires_grad_()
    images = torch.from_numpy(pixels(2, 64, 64)).double()
    network(images).square().sum().backward()
    theirs(images).logits.square().sum().backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = load(str(tmp_path / "gradients")).network.state_dict()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad.float(), expected[name], atol=1e-4, rtol=1e-4)
        is_clamped = name.endswith("logit_scale") and bool((parameter > 4.7).all())
        assert is_clamped or parameter.grad.any(), name


V2_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"use_absolute_embeddings": True}, "transformers itself cannot run such a Swin V2"),
    ({"pretrained_window_sizes": [6, 1, 6]}, "has a 1, by which transformers divides"),
    ({"pretrained_window_sizes": [6, 6]}, r"is \[6, 6\]: expected one for each of 3 stages"),
    ({"pretrained_window_sizes": [6, -6, 6]}, "pretrained_window_sizes is -6"),
    ({"model_type": "swin"}, "model_type is swin, the tensors are a swinv2's"),
    ({"image_size": 15}, "has 3 rows of patches, too few to be halved for 3 stages"),
]


@pytest.mark.parametrize(("changes", "said"), V2_REFUSALS)
def test_a_config_that_transformers_cannot_run_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    tiny_swin(V2_CLASSES[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=said):
        load(str(tmp_path))


def test_the_names_of_timms_swin_v2_say_its_windows(tmp_path: Path) -> None:
    golden = Golden.read("v2", SWIN)
    for name, size, window, pretrained in (
        ("swinv2_tiny_window8_256", 256, 8, (0, 0, 0)),
        ("swinv2_base_window12_192_22k", 192, 12, (0, 0, 0)),
        ("swinv2_base_window12to16_192to256", 256, 16, (12, 12, 12)),
        ("swinv2_large_window12to24_192to384_22kft1k", 384, 24, (12, 12, 12)),
    ):
        folder = golden.save(tmp_path / name, {"architecture": name, "num_classes": 7})
        config = load(str(folder)).config
        assert isinstance(config, SwinConfig) and config.image_size == (size, size)
        assert config.window_sizes == ((window, window),) * 3
        assert config.pretrained_windows == tuple((side, side) for side in pretrained)


def test_what_timms_swin_v2_does_otherwise_is_refused(tmp_path: Path) -> None:
    golden = Golden.read("v2", SWIN)
    folder = golden.save(tmp_path / "v2")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="a Swin V2 do not show its windows"):
        load(str(folder))
    for changes, said in (
        ({"architecture": "swinv2_cr_tiny_224"}, "timm's own variant of Swin V2"),
        ({"architecture": "swin_tiny_patch4_window7_224"}, "the tensors are a V2's"),
        ({"global_pool": "max"}, "timm's global_pool='max' is not supported for Swin"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "timm's norm_layer='rmsnorm'"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load(str(golden.save(tmp_path / "v2", golden.json | changes)))


def test_buffers_of_microsofts_swin_v2_say_its_windows(tmp_path: Path) -> None:
    """Also those of pre-training; and a table of other distances is refused."""
    sizes = {"window_size": 8, "pretrained_window_sizes": [6, 6, 3]}
    theirs = tiny_swin(V2_CLASSES[0], tmp_path / "hf", **sizes)
    state = microsoft_v2_names(theirs)
    torch.save({"model": state}, tmp_path / "v2.pth")
    model = load(str(tmp_path / "v2.pth"))
    config = model.config
    assert isinstance(config, SwinConfig) and config.image_size == (64, 64)
    assert config.window_sizes == ((8, 8),) * 3  # shrunk to 4 in the last stage
    assert config.pretrained_windows == ((6, 6), (6, 6), (3, 3))
    images = torch.from_numpy(pixels(1, 64, 64)).double()
    with torch.inference_mode():
        found = model.network.double()(images)
        torch.testing.assert_close(found, theirs.double()(images).logits, **CLOSE)
    state["layers.1.blocks.0.attn.relative_coords_table"] *= 1.1
    torch.save({"model": state}, tmp_path / "v2.pth")
    with pytest.raises(CheckpointError, match=r"relative_coords_table is of a window of 4\.\d+"):
        load(str(tmp_path / "v2.pth"))


# timm's answers.


@pytest.fixture(scope="module", params=SWIN_NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.read(request.param, SWIN)


@torch.inference_mode()
def test_hidden_states_and_logits_are_timms(golden: Golden, tmp_path: Path) -> None:
    """Padded, shrunk, shifted one way only; and with tables resampled for another image size."""
    size, stored = (tuple(golden.config[name]) for name in ("img_size", "stored"))
    folder = golden.save(tmp_path / "timm")
    model = load(str(folder), image_size=None if size == stored else size)
    network = model.network
    assert isinstance(network, SwinTransformer)
    assert (model.layout, network.config.image_size) == ("timm-swin", size)
    for stage, (window, shift) in enumerate(golden.config["windows"]):
        found = network.config.windows(stage, network.config.layer_grid(stage))
        assert found == (tuple(window), tuple(shift))
    layers = range(network.config.depth + 1)
    dtype = torch.float64 if network.config.version == 2 else torch.float32
    network.to(dtype)
    images = golden.pixels.to(dtype)
    states = network.hidden_states(images, layers)
    tokens = network.tokens(images)
    pooled = {"pre_logits": network.pool(tokens, "mean"), "logits": network(images)}
    found = {f"hidden_{i}": states[i].x for i in layers} | {"features": tokens.x} | pooled
    for name, ours in found.items():
        torch.testing.assert_close(ours.float(), golden[name], **CLOSE)


@torch.inference_mode()
def test_tables_need_not_be_resampled_beforehand(tmp_path: Path) -> None:
    golden = Golden.read("smaller", SWIN)
    model = load(str(golden.save(tmp_path / "timm")))
    assert model.config.image_size == (64, 64)
    torch.testing.assert_close(model.network(golden.pixels), golden["logits"], **CLOSE)


def test_tables_are_resampled_as_timm_does() -> None:
    golden = Golden.read("bias_tables", SWIN)
    for case in golden.config["cases"]:
        old, new = tuple(case["old"]), tuple(case["new"])
        table = torch.from_numpy(weight("table", ((2 * old[0] - 1) * (2 * old[1] - 1), 3)))
        torch.testing.assert_close(resize_bias_table(table, old, new), golden[case["key"]], **CLOSE)
