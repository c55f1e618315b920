"""Swin against transformers, run live, and against what timm answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.fixtures.swin import CLASSES, IMAGE_SIZE, tiny_swin, unshrunk
from tests.fixtures.weights import pixels, weight
from tests.models.goldens import SWIN, SWIN_NAMES, Golden
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import SwinConfig
from vitcli.models.pos_embed import resize_bias_table
from vitcli.models.swin import SwinTransformer
from vitcli.models.vit import Pooling
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
    return Pair(theirs, load(str(folder), image_size=tuple(size) if size else None))


@pytest.fixture(scope="module")
def images(pair: Pair) -> Tensor:
    return torch.from_numpy(pixels(2, *pair.ours.config.image_size))


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
        check(pair, torch.from_numpy(pixels(2, height, width)))


@torch.inference_mode()
def test_attention_within_windows_is_that_of_transformers(pair: Pair) -> None:
    for size in ((64, 64), *OTHER_SIZES[:2]):
        images = torch.from_numpy(pixels(2, *size))
        stages = pair.layers[1:]
        answer = unshrunk(pair.theirs).base_model(
            images, output_attentions=True, interpolate_pos_encoding=True
        )
        found = pair.network.attention(images, stages)
        for stage, theirs in zip(stages, answer.attentions, strict=True):
            torch.testing.assert_close(found[stage].flatten(0, 1), theirs, **CLOSE)
            ones = torch.ones(found[stage].shape[:-1])
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
    assert found.shape[1:] == network.features_shape([0, 1, 2], "mean") == (16 + 32 + 64,)
    last = network.features(images, [3, 2], "patches")
    expected = torch.cat([network.norm(states[3].x), states[2].x], dim=-1)
    assert torch.equal(last, expected)
    assert last.shape[1:] == network.features_shape([3, 2], "tokens") == (16, 128)
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
        swin.network.features_shape(layers, pool)


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
    states = network.hidden_states(golden.pixels, layers)
    for layer in layers:
        torch.testing.assert_close(states[layer].x, golden[f"hidden_{layer}"], **CLOSE)
    tokens = network.tokens(golden.pixels)
    torch.testing.assert_close(tokens.x, golden["features"], **CLOSE)
    torch.testing.assert_close(network.pool(tokens, "mean"), golden["pre_logits"], **CLOSE)
    torch.testing.assert_close(network(golden.pixels), golden["logits"], **CLOSE)


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
