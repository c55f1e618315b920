"""The network against transformers, run live on the same tiny weights and pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.activations import ACT2FN

from tests.fixtures.tiny import FAMILIES, randomise, tiny_hf
from tests.fixtures.weights import pixels
from vitcli.checkpoints.layouts.layout import ACTIVATION_NAMES
from vitcli.checkpoints.load import Model, load
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import ViTConfig
from vitcli.models.layers import ACTIVATIONS
from vitcli.models.vit import Pooling, VisionTransformer

CLOSE = {"atol": 1e-5, "rtol": 0.0}
OTHER_SIZES = ((96, 64), (40, 88), (64, 48))
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "not-square": ("vit", {"image_size": (64, 48)}),
    "patch-not-square": ("vit", {"patch_size": (8, 16)}),
    "no-qkv-bias": ("vit", {"qkv_bias": False}),
    "large-eps": ("vit", {"layer_norm_eps": 1e-2}),
    "gelu-tanh": ("vit", {"hidden_act": "gelu_pytorch_tanh"}),
    "quick-gelu": ("deit", {"hidden_act": "quick_gelu"}),
    "relu": ("dinov2", {"hidden_act": "relu"}),
    "dinov2-no-qkv-bias": ("dinov2-classifier", {"qkv_bias": False}),
    "dinov3-all-biases": ("dinov3", {"key_bias": True, "num_attention_heads": 2}),
    "dinov3-q-bias": ("dinov3", {"value_bias": False, "proj_bias": False, "mlp_bias": False}),
    "dinov3-k-v-bias": ("dinov3", {"key_bias": True, "query_bias": False, "rope_theta": 17.5}),
    "dinov3-wide-head": ("dinov3", {"num_attention_heads": 1, "layer_norm_eps": 1e-2}),
    "dinov3-plain": ("dinov3", {"num_register_tokens": 0, "hidden_act": "relu"}),
    "dinov3-not-square": ("dinov3", {"patch_size": (8, 16), "image_size": (48, 80)}),
    "dinov3-gelu-gate": ("dinov3", {"use_gated_mlp": True, "intermediate_size": 40}),
    "dinov3-no-biases": ("dinov3-7b", {"proj_bias": False, "mlp_bias": False}),
    "swiglu-registers": ("dinov2-reg-classifier", {"use_swiglu_ffn": True, "mlp_ratio": 3}),
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as transformers and as we load it."""

    theirs: transformers.PreTrainedModel
    ours: Model

    @property
    def network(self) -> VisionTransformer:
        return self.ours.network

    @property
    def layers(self) -> range:
        return range(self.ours.config.depth + 1)

    @property
    def base(self) -> transformers.PreTrainedModel:
        """Their backbone: DINOv3's `base_model` is the encoder alone."""
        return self.theirs if hasattr(self.theirs, "embeddings") else self.theirs.base_model

    def backbone(self, images: Tensor) -> transformers.utils.ModelOutput:
        """Their hidden states and last_hidden_state."""
        return self.base(images, output_hidden_states=True, **self._options(images))

    def answer(self, images: Tensor) -> Tensor:
        """Their logits; of a backbone the class token."""
        if self.base is self.theirs:
            return self.backbone(images).last_hidden_state[:, 0]
        return self.theirs(images, **self._options(images)).logits

    def _options(self, images: Tensor) -> dict[str, bool]:
        """DINOv2 interpolates by itself, DINOv3 never, the others when they are told to."""
        if "dino" in self.theirs.config.model_type:
            return {}
        own = self.base.embeddings.patch_embeddings.image_size
        is_own = tuple(images.shape[-2:]) == tuple(own)
        return {} if is_own else {"interpolate_pos_encoding": True}


# Masked autoencoders shuffle or mask their patches: tests/checkpoints/test_hf_mae.py holds those.
PLAIN = [name for name in FAMILIES if name != "vit-mim" and not name.startswith("mae")]


@pytest.fixture(scope="module", params=[*PLAIN, *VARIANTS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, overrides = VARIANTS.get(request.param, (request.param, {}))
    folder = tmp_path_factory.mktemp(request.param)
    theirs = tiny_hf(family, folder, **overrides)
    return Pair(theirs, load(str(folder), image_size=overrides.get("image_size")))


@pytest.fixture(scope="module")
def images(pair: Pair) -> Tensor:
    return torch.from_numpy(pixels(2, *pair.ours.config.image_size))


@torch.inference_mode()
def test_logits_are_those_of_transformers(pair: Pair, images: Tensor) -> None:
    torch.testing.assert_close(pair.network(images), pair.answer(images), **CLOSE)


@torch.inference_mode()
def test_every_raw_hidden_state_is_that_of_transformers(pair: Pair, images: Tensor) -> None:
    states = pair.network.hidden_states(images, pair.layers)
    for layer, theirs in enumerate(pair.backbone(images).hidden_states):
        torch.testing.assert_close(states[layer].x, theirs, **CLOSE)
        ours = pair.network.features(images, [layer], "tokens", norm=False)
        torch.testing.assert_close(ours, theirs, **CLOSE)


@torch.inference_mode()
def test_every_normed_hidden_state_is_that_of_transformers(pair: Pair, images: Tensor) -> None:
    answer = pair.backbone(images)
    norm = pair.base.norm if hasattr(pair.base, "norm") else pair.base.layernorm
    for layer, theirs in enumerate(answer.hidden_states):
        ours = pair.network.features(images, [layer], "tokens")
        torch.testing.assert_close(ours, norm(theirs), **CLOSE)
    torch.testing.assert_close(ours, answer.last_hidden_state, **CLOSE)


@torch.inference_mode()
def test_pooled_embeddings_are_those_of_transformers(pair: Pair, images: Tensor) -> None:
    last = pair.backbone(images).last_hidden_state
    cls, mean = last[:, 0], last[:, pair.ours.config.num_prefix :].mean(dim=1)
    expected: dict[Pooling, Tensor] = {
        "cls": cls,
        "mean": mean,
        "cls+mean": torch.cat([cls, mean], dim=-1),
    }
    for pool, theirs in expected.items():
        ours = pair.network.features(images, [pair.layers[-1]], pool)
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert ours.shape[1:] == pair.network.config.features_shape([pair.layers[-1]], pool)


@pytest.mark.parametrize("size", OTHER_SIZES, ids=str)
@pytest.mark.parametrize("family", PLAIN)
@torch.inference_mode()
def test_another_image_size_interpolates_as_transformers_does(
    family: str, size: tuple[int, int], tiny_model: Callable[[str], Path]
) -> None:
    folder = tiny_model(family)
    architecture = getattr(transformers, FAMILIES[family].model)
    theirs = architecture.from_pretrained(folder).eval()
    images = torch.from_numpy(pixels(2, *size))
    same = Pair(theirs, load(str(folder)))
    resized = Pair(theirs, load(str(folder), image_size=size))
    assert resized.ours.config.image_size == resized.ours.preprocess.size == size
    for ours in (same, resized):
        torch.testing.assert_close(ours.network(images), ours.answer(images), **CLOSE)
        states = ours.network.hidden_states(images, ours.layers)
        for layer, hidden in enumerate(ours.backbone(images).hidden_states):
            torch.testing.assert_close(states[layer].x, hidden, **CLOSE)


@pytest.mark.slow
@torch.inference_mode()
def test_vit_base_at_224_agrees_within_1e_4_and_in_its_top_5(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000)).eval()
    theirs.save_pretrained(tmp_path)
    images = torch.from_numpy(pixels(1, 224, 224))
    ours, expected = load(str(tmp_path)).network(images), theirs(images).logits
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0.0)
    assert torch.equal(ours.topk(5).indices, expected.topk(5).indices)


@pytest.mark.parametrize("name", [n for n in ACTIVATION_NAMES if n in ACT2FN])
def test_activations_are_those_of_transformers(name: str) -> None:
    x = torch.linspace(-8, 8, 4001)
    ours = ACTIVATIONS[ACTIVATION_NAMES[name]]
    torch.testing.assert_close(ours(x), ACT2FN[name](x), atol=1e-6, rtol=0.0)


# What follows needs no other library: small networks of our own.


def make(**options: Any) -> VisionTransformer:
    sizes: dict[str, Any] = {
        "image_size": (32, 24),
        "patch_size": (8, 8),
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "hidden_dim": 32,
        "num_classes": 5,
    }
    network = VisionTransformer(ViTConfig(**sizes | options)).eval()
    randomise(network)
    return network


@pytest.fixture
def batch() -> Tensor:
    return torch.from_numpy(pixels(3, 32, 24))


@torch.inference_mode()
def test_several_layers_are_concatenated_in_the_order_asked(batch: Tensor) -> None:
    network = make()
    for pool in ("cls", "mean", "cls+mean", "patches", "tokens"):
        several = network.features(batch, [3, 0, 1, 3], pool)
        single = [network.features(batch, [layer], pool) for layer in (3, 0, 1, 3)]
        assert torch.equal(several, torch.cat(single, dim=-1))
        assert several.shape[1:] == network.config.features_shape([3, 0, 1, 3], pool)


@torch.inference_mode()
def test_blocks_after_the_last_asked_layer_are_not_computed(batch: Tensor) -> None:
    network, called = make(), []
    for number, block in enumerate(network.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    network.hidden_states(batch, [2, 0])
    assert called == [1, 2]
    called.clear()
    network.features(batch, [0], "cls")
    assert called == []


@torch.inference_mode()
def test_norm_after_pooling_is_applied_to_vectors_and_not_to_tokens(batch: Tensor) -> None:
    network = make(pool="mean", final_norm="pooled")
    raw = network.features(batch, [3], "cls+mean", norm=False)
    halves = [network.fc_norm(half) for half in raw.split(16, dim=-1)]
    assert torch.equal(network.features(batch, [3], "cls+mean"), torch.cat(halves, dim=-1))
    for pool in ("tokens", "patches"):
        assert torch.equal(
            network.features(batch, [2], pool), network.features(batch, [2], pool, norm=False)
        )


@pytest.mark.parametrize("size", [(48, 24), (16, 40), (37, 29)], ids=str)
@pytest.mark.parametrize("how", ["bicubic", "bicubic-antialias", "bicubic-offset", "bilinear"])
@torch.inference_mode()
def test_resizing_once_equals_interpolating_for_each_image(how: str, size: tuple[int, int]) -> None:
    images = torch.from_numpy(pixels(2, *size))
    network = make(pos_resize=how, num_registers=2)
    on_the_fly = network(images)
    network.resize(size)
    assert network.config.image_size == size
    assert torch.equal(network(images), on_the_fly)


def test_registers_and_unplaced_tokens_get_no_position() -> None:
    network = make(num_registers=2, pos_prefix=1)
    torch.nn.init.zeros_(network.register_tokens)
    images = torch.from_numpy(pixels(1, 32, 24))
    prefix = network.hidden_states(images, [0])[0].prefix
    assert torch.equal(prefix[:, 1:], torch.zeros(1, 2, 16))
    assert torch.equal(prefix[0, 0], (network.cls_token + network.pos_embed[:, :1])[0, 0])


@torch.inference_mode()
def test_an_image_has_the_same_numbers_alone_and_in_a_batch(batch: Tensor) -> None:
    network = make()
    together = network(batch)
    for image, logits in zip(batch, together, strict=True):
        torch.testing.assert_close(network(image[None])[0], logits, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("option", ["dropout", "attn_dropout", "drop_path"])
def test_regularisation_acts_in_training_only(option: str, batch: Tensor) -> None:
    plain, network = make(), make(**{option: 0.5})
    assert torch.equal(network(batch), plain(batch))
    network.train()
    torch.manual_seed(0)
    first, second = network(batch), network(batch)
    assert not torch.equal(first, second)


def test_drop_path_grows_with_depth_and_keeps_the_mean() -> None:
    network = make(drop_path=0.4)
    assert [block.drop_path.rate for block in network.blocks] == pytest.approx([0, 0.2, 0.4])
    torch.manual_seed(0)
    ones = network.blocks[2].drop_path.train()(torch.ones(20_000, 1, 1))
    assert ones.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert ones.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "pool", "lacks"),
    [
        ({"class_token": False, "pos_prefix": 0, "pool": "mean"}, "cls", "class token"),
        ({"class_token": False, "pos_prefix": 0, "pool": "mean"}, "cls+mean", "class token"),
        ({}, "map", "attention-pooling head"),
    ],
)
def test_a_pool_that_the_model_lacks_is_refused(
    options: dict[str, Any], pool: Pooling, lacks: str
) -> None:
    with pytest.raises(UsageError, match=lacks):
        make(**options).config.features_shape([3], pool)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"embed_dim": 10**9}, "embed_dim is 1000000000: expected a whole number from 1 to 16,384"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": 10**9}, "depth is 1000000000"),
        ({"num_heads": "2"}, "num_heads is '2'"),
        ({"num_heads": 3}, "num_heads is 3, which does not divide the width 16"),
        ({"hidden_dim": 2.5}, r"hidden_dim is 2\.5"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"num_registers": None}, "num_registers is None"),
        ({"in_chans": True}, "in_chans is True"),
        ({"patch_size": (0, 8)}, "patch_size is 0"),
        ({"image_size": (10**6, 24)}, "image_size is 1000000"),
        ({"image_size": (7, 24)}, "image_size .* is smaller than one patch"),
        ({"pos_prefix": 2}, "covers 2 prefix tokens, the model has 1"),
        ({"class_token": False, "pos_prefix": 0}, "pool=cls needs a class token"),
        ({"dist_head": True}, "needs a distillation token"),
        ({"norm_eps": "tiny"}, "norm_eps is 'tiny'"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"norm_eps": -1.0}, "norm_eps is -1"),
    ],
)
def test_impossible_sizes_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        replace(make().config, **options)
