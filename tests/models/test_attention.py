"""Where a network looks: transformers' eager attentions, and methods against plain references.

The references are written from the papers, in numpy or with whole graphs of gradients, and share
nothing with what they test but the weights of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from tests.fixtures.bright import Bright
from tests.fixtures.clip import tiny_clip
from tests.fixtures.cpu import needs_int8
from tests.fixtures.swin import CLASSES, V2_CLASSES, tiny_swin, unshrunk
from tests.fixtures.tiny import FAMILIES, randomise
from tests.fixtures.weights import pixels
from vitcli.checkpoints.load import load
from vitcli.models.attention import raw, relevance, rollout, similarity
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

Models = Callable[[str], Path]
CLOSE = {"atol": 1e-5, "rtol": 0.0}
PLAIN = [name for name in FAMILIES if name != "vit-mim" and not name.startswith("mae")]


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


KINDS: dict[str, dict[str, Any]] = {
    "class-token": {},
    "registers": {"num_registers": 3},
    "distilled": {"dist_token": True, "dist_head": True, "pos_prefix": 2},
    "mean": {"class_token": False, "pos_prefix": 0, "pool": "mean"},
    "mean-beside-class-token": {"pool": "mean", "final_norm": "pooled"},
    "map": {"class_token": False, "pos_prefix": 0, "pool": "map"},
    "several-blocks": {"head_blocks": 2},
}


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest) -> VisionTransformer:
    return make(**KINDS[request.param])


@pytest.fixture
def batch() -> Tensor:
    return torch.from_numpy(pixels(3, 32, 24))


# Against transformers.


@pytest.mark.parametrize("family", PLAIN)
@torch.inference_mode()
def test_the_weights_of_every_layer_are_transformers_eager_attentions(
    family: str, tiny_model: Models, tmp_path: Path
) -> None:
    architecture = getattr(transformers, FAMILIES[family].model)
    for size in ((64, 64), (64, 40)):
        theirs = architecture.from_pretrained(
            tiny_model(family), attn_implementation="eager"
        ).eval()
        options = {} if "dino" in family or size == (64, 64) else {"interpolate_pos_encoding": True}
        images = torch.from_numpy(pixels(2, *size))
        answer = theirs(images, output_attentions=True, **options).attentions
        ours = load(str(tiny_model(family)))
        layers = range(1, ours.config.depth + 1)
        found = ours.network.attention(images, layers)
        prefix = ours.config.num_prefix
        looked = raw(ours.network, images, layers, "all")
        for layer, expected in zip(layers, answer, strict=True):
            torch.testing.assert_close(found[layer], expected, **CLOSE)
            torch.testing.assert_close(found[layer].sum(-1), torch.ones_like(expected[..., 0]))
            rows = expected[:, :, 0, prefix:].unflatten(2, ours.network.grid_of(images))
            torch.testing.assert_close(looked.maps[layer], rows, **CLOSE)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "SiglipVisionModel"])
@torch.inference_mode()
def test_the_weights_of_towers_are_transformers(name: str, tmp_path: Path) -> None:
    theirs = tiny_clip(name, tmp_path, attn_implementation="eager")
    images = torch.from_numpy(pixels(2, 32, 32))
    answer = theirs(images, output_attentions=True)
    ours = load(str(tmp_path)).network
    found = ours.attention(images, (1, 2, 3))
    for layer, expected in enumerate(answer.attentions, start=1):
        torch.testing.assert_close(found[layer], expected, **CLOSE)
    if name.startswith("Siglip"):  # its pooling: torch's own module tells the mean of the heads
        head = theirs.vision_model.head if hasattr(theirs, "vision_model") else theirs.head
        probe = head.probe.repeat(2, 1, 1)
        state = answer.last_hidden_state
        _, weights = head.attention(probe, state, state, average_attn_weights=False)
        looked = raw(ours, images, [4], "all").maps[4]
        torch.testing.assert_close(looked, weights[:, :, 0].unflatten(2, (4, 4)), **CLOSE)


@pytest.fixture(scope="module")
def vit_base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """transformers' ViT-B/16 with random weights, and its folder."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.ViTConfig(num_labels=10, attn_implementation="eager")
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(folder)
    return theirs, folder


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (224, 160)], ids=str)
@torch.inference_mode()
def test_the_weights_of_vit_base_are_transformers_on_the_network_that_runs(
    size: tuple[int, int], vit_base: tuple[Any, Path]
) -> None:
    theirs, folder = vit_base
    model = load(str(folder), image_size=size)
    prepared = prepare(model.network, model.preprocess)
    shown = np.random.RandomState(0).randint(0, 256, (1, *size, 3), dtype=np.uint8)
    is_own = size == (224, 224)
    answer = theirs(
        prepared.pixels(shown), output_attentions=True, interpolate_pos_encoding=not is_own
    ).attentions
    for network, images in (
        (model.network, prepared.pixels(shown)),
        (prepared.fast_network, prepared.fast_input(shown)),
    ):
        found = network.attention(images, range(1, 13))
        for layer, expected in enumerate(answer, start=1):
            torch.testing.assert_close(found[layer], expected, **CLOSE)


@pytest.mark.parametrize(
    ("dtype", "quantize", "close"),
    [("bf16", None, 0.02), pytest.param("fp32", "int8", 0.1, marks=needs_int8)],
)
def test_networks_of_low_precision_look_nearly_the_same(
    dtype: Any, quantize: Any, close: float
) -> None:
    network = make()
    plan = Preprocess(size=(32, 24), resize=None)
    shown = np.random.RandomState(0).randint(0, 256, (2, 32, 24, 3), dtype=np.uint8)
    exact = raw(network, prepare(network, plan).pixels(shown), [1, 3], "all").maps
    low = prepare(network, plan, "cpu", dtype, quantize=quantize)
    with torch.inference_mode():
        found = raw(low.fast_network, low.fast_input(shown), [1, 3], "all").maps
    for layer, expected in exact.items():
        assert found[layer].dtype == torch.float32
        torch.testing.assert_close(found[layer], expected, atol=close, rtol=0.0)


# Against plain references.


def attentions(network: VisionTransformer, batch: Tensor) -> list[np.ndarray]:
    with torch.inference_mode():
        found = network.attention(batch, range(1, network.config.depth + 1))
    return [weights.double().numpy() for weights in found.values()]


def query_row(network: VisionTransformer, matrix: np.ndarray) -> np.ndarray:
    """(..., N, N) -> (..., N)"""
    prefix = network.config.num_prefix
    if network.config.class_token:
        return matrix[..., 0, :]
    return matrix[..., prefix:, :].mean(axis=-2)


@pytest.mark.parametrize("heads", ["mean", "max", "min", "all", 2])
@torch.inference_mode()
def test_raw_is_the_row_of_the_query(network: VisionTransformer, batch: Tensor, heads: Any) -> None:
    prefix = network.config.num_prefix
    looked = raw(network, batch, [2, 1], heads)
    assert list(looked.maps) == [2, 1]
    for layer, maps in looked.maps.items():
        row = query_row(network, attentions(network, batch)[layer - 1])[..., prefix:]
        expected = {
            "mean": lambda row: row.mean(axis=1, keepdims=True),
            "max": lambda row: row.max(axis=1, keepdims=True),
            "min": lambda row: row.min(axis=1, keepdims=True),
            "all": lambda row: row,
            2: lambda row: row[:, 1:],
        }[heads](row)
        np.testing.assert_allclose(maps.flatten(2).numpy(), expected, atol=1e-6)


def rolled_out(network: VisionTransformer, batch: Tensor, heads: str, discard: float) -> np.ndarray:
    """Abnar & Zuidema, equation 1, image by image.  -> (B, N, N)"""
    fuse = {"mean": np.mean, "max": np.max, "min": np.min}[heads]
    products = []
    for image in range(len(batch)):
        product = np.eye(attentions(network, batch)[0].shape[-1])
        for weights in attentions(network, batch):
            matrix = fuse(weights[image], axis=0)
            smallest = np.argsort(matrix, axis=None, kind="stable")[: int(matrix.size * discard)]
            matrix.flat[smallest] = 0
            matrix = matrix + np.eye(len(matrix))
            product = matrix / matrix.sum(axis=1, keepdims=True) @ product
        products.append(product)
    return np.stack(products)


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.6, 0.9])
@torch.inference_mode()
def test_rollout_is_a_plain_product(
    network: VisionTransformer, batch: Tensor, heads: Any, discard: float
) -> None:
    prefix = network.config.num_prefix
    expected = rolled_out(network, batch, heads, discard)
    np.testing.assert_allclose(expected.sum(axis=-1), 1)
    looked = rollout(network, batch, [3], heads, discard=discard).maps[3]
    row = query_row(network, expected)[:, prefix:]
    np.testing.assert_allclose(looked.flatten(1).numpy(), row, atol=1e-6)


@torch.inference_mode()
def test_rollout_goes_on_through_the_attention_pooling(batch: Tensor) -> None:
    network = make(**KINDS["map"])
    product = rolled_out(network, batch, "mean", 0.0)
    tokens = network.tokens(batch)
    pooling = network.attn_pool.weights(tokens.patches).mean(1).double().numpy()
    expected = (pooling @ product)[:, 0]
    np.testing.assert_allclose(expected.sum(axis=-1), 1)
    found = rollout(network, batch, [4]).maps[4]
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-6)


def with_kept_weights(network: VisionTransformer, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits by the plain formulas of a ViT, all weights in one graph."""
    config, kept = network.config, []
    states = [network.embed(x)]

    def softmaxed(q: Tensor, k: Tensor) -> Tensor:
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        weights.retain_grad()
        kept.append(weights)
        return weights

    for block in network.blocks:
        x = states[-1]
        B, N, D = x.shape
        qkv = block.attn.qkv(block.norm1(x)).reshape(B, N, 3, config.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + block.attn.proj((softmaxed(q, k) @ v).transpose(1, 2).reshape(B, N, D))
        states.append(x + block.mlp(block.norm2(x)))
    normed = [network.norm(state) for state in states]
    last = normed[-1]
    if config.pool == "map":
        pool = network.attn_pool
        B, N, D = last.shape
        shape = (B, -1, config.num_heads, D // config.num_heads)
        q = pool.q(pool.latent).expand(B, 1, D).reshape(shape).transpose(1, 2)
        k, v = (part.reshape(shape).transpose(1, 2) for part in pool.kv(last).chunk(2, dim=-1))
        pooled = pool.proj((softmaxed(q, k) @ v).transpose(1, 2).reshape(B, D))
        pooled = pooled + pool.mlp(pool.norm(pooled))
    elif config.pool == "mean":
        pooled = network.fc_norm(last[:, config.num_prefix :].mean(1))
    else:
        first = config.depth - config.head_blocks + 1
        pooled = torch.cat([state[:, 0] for state in normed[first:]], dim=-1)
    logits = network.head(pooled)
    if config.dist_head:
        logits = (logits + network.head_dist(last[:, 1])) / 2
    return logits, kept


@pytest.mark.parametrize("classes", [None, (4, 0, 2)], ids=["top1", "given"])
def test_relevance_is_the_papers(
    network: VisionTransformer, batch: Tensor, classes: tuple[int, ...] | None
) -> None:
    """Equations 5 and 6 of arXiv 2103.15679: R starts as the identity, R <- R + A R with
    A = E_h[(gradient * weights)+], from the first block to the last."""
    config = network.config
    looked = relevance(network, batch, None if classes is None else torch.tensor(classes))
    for image in range(len(batch)):
        logits, kept = with_kept_weights(network, batch[image : image + 1])
        torch.testing.assert_close(looked.logits[image], logits[0].detach(), **CLOSE)
        label = int(logits.argmax()) if classes is None else classes[image]
        logits[0, label].backward()
        means = [(w.grad * w).clamp(min=0).mean(1)[0].detach().double().numpy() for w in kept]
        R = np.eye(means[0].shape[-1])
        for mean in means[: config.depth]:
            R = R + mean @ R
        row = R[0]
        if config.pool == "map":
            row = (means[-1] @ R)[0]
        elif config.pool == "mean":
            row = R[config.num_prefix :].mean(0)
        elif config.dist_head:
            row = (R[0] + R[1]) / 2
        found = looked.maps[config.depth][image].flatten().numpy()
        np.testing.assert_allclose(found, row[config.num_prefix :], atol=1e-6)


@torch.inference_mode()
def test_similarity_is_the_cosine(network: VisionTransformer, batch: Tensor) -> None:
    prefix = network.config.num_prefix
    points = torch.tensor([[0.0, 0.0], [0.99, 0.99], [0.5, 0.34]])
    patch = [0, 11, 2 * 3 + 1]
    for layer in (1, 3):
        x = network.norm(network.hidden_states(batch, [layer])[layer].x).double().numpy()
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        found = similarity(network, batch, [layer], points).maps[layer].flatten(1).numpy()
        for image in range(3):
            expected = x[image, prefix:] @ x[image, prefix + patch[image]]
            np.testing.assert_allclose(found[image], expected, atol=1e-6)
            assert found[image].argmax() == patch[image]


@torch.inference_mode()
def test_a_point_asks_for_the_row_of_its_patch(network: VisionTransformer, batch: Tensor) -> None:
    prefix = network.config.num_prefix
    points = torch.tensor([[0.0, 0.0], [0.99, 0.99], [0.5, 0.34]])
    rows = [prefix + patch for patch in (0, 11, 7)]
    maps = raw(network, batch, [2], "all", points).maps[2].flatten(2)
    multiplied = rollout(network, batch, [3], points=points).maps[3].flatten(1)
    product = rolled_out(network, batch, "mean", 0.0)
    for image, row in enumerate(rows):
        weights = attentions(network, batch)[1][image][:, row, prefix:]
        np.testing.assert_allclose(maps[image], weights, atol=1e-6)
        np.testing.assert_allclose(multiplied[image], product[image, row, prefix:], atol=1e-6)


@torch.inference_mode()
def test_logits_come_along(network: VisionTransformer, batch: Tensor) -> None:
    for looked in (
        raw(network, batch, [1], wants_logits=True),
        rollout(network, batch, [2], wants_logits=True),
        similarity(network, batch, [2], wants_logits=True),
    ):
        torch.testing.assert_close(looked.logits, network(batch), **CLOSE)


@torch.inference_mode()
def test_nothing_is_computed_behind_the_asked_layer(batch: Tensor) -> None:
    network, called = make(), []
    for number, block in enumerate(network.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    raw(network, batch, [2])
    assert called == [1]  # of block 2 its weights alone
    called.clear()
    rollout(network, batch, [3])
    assert called == [1, 2]


# What a map is for.


def spots(*corners: tuple[int, int], side: int = 64) -> Tensor:
    images = torch.full((len(corners), 3, side, side), -1.0)
    for image, (top, left) in zip(images, corners, strict=True):
        image[:, top : top + 16, left : left + 16] = 1.0
    return images


@torch.inference_mode()
def test_swapped_regions_swap_the_map() -> None:
    network = Bright()
    images = spots((8, 40), (40, 8))
    maps = raw(network, images, [1]).maps[1][:, 0]
    expected = F.avg_pool2d(images[:, :1], 8)[:, 0] > 0
    assert torch.equal(maps > maps.mean(), expected)
    assert maps[expected].sum() > 10 * maps[~expected].sum()
    torch.testing.assert_close(maps[0], maps[1].T)


@pytest.mark.parametrize("method", ["raw", "rollout", "grad", "similarity"])
def test_the_map_of_a_random_model_follows_its_patches(method: str) -> None:
    """Without position embeddings, swapped patches are swapped in the map, whatever the weights."""
    network = make(image_size=(64, 48), num_registers=2)
    torch.nn.init.zeros_(network.pos_embed)
    image = torch.from_numpy(pixels(1, 64, 48))
    swapped = image.clone()
    swapped[..., 8:24, 8:24], swapped[..., 40:56, 24:40] = (
        image[..., 40:56, 24:40],
        image[..., 8:24, 8:24],
    )
    looks: dict[str, Callable[[Tensor], Tensor]] = {
        "raw": lambda x: raw(network, x, [3]).maps[3],
        "rollout": lambda x: rollout(network, x, [3]).maps[3],
        "grad": lambda x: relevance(network, x).maps[3],
        "similarity": lambda x: similarity(network, x, [3]).maps[3],
    }
    before, after = looks[method](image)[0, 0], looks[method](swapped)[0, 0]
    expected = before.clone()
    expected[1:3, 1:3], expected[5:7, 3:5] = before[5:7, 3:5], before[1:3, 1:3]
    assert (before - expected).abs().max() > 1e-4
    torch.testing.assert_close(after, expected, **CLOSE)


# Swin.


@pytest.fixture(scope="module", params=[CLASSES[0], V2_CLASSES[0]])
def swin(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("swin")
    theirs = tiny_swin(request.param, folder)
    for block in theirs.modules():  # version 2's sharp weights magnify rounding
        if hasattr(block, "logit_scale"):
            block.logit_scale.data.clamp_(max=2.5)
    theirs.save_pretrained(folder)
    return unshrunk(theirs), load(str(folder)).network


def test_raw_of_a_swin_is_what_its_patches_receive(swin: tuple[Any, Any]) -> None:
    """Its windows put in their places by hand: 64 pixels make grids of 16, 8 and 4."""
    _, network = swin
    images = torch.from_numpy(pixels(2, 64, 64))
    with torch.inference_mode():
        maps = raw(network, images, [1, 2, 3], "all").maps
        weights = network.attention(images, [1, 2, 3])
    for stage, side in ((1, 16), (2, 8), (3, 4)):
        found = maps[stage].numpy()
        size, _ = network.config.windows(stage - 1, (side, side))
        shift = (
            size[0] // 2 if side > size[0] and len(network.layers[stage - 1].blocks) % 2 == 0 else 0
        )
        expected = np.zeros_like(found)
        count = side // size[0]
        for window in range(count * count):
            received = weights[stage][:, window].mean(-2).numpy() / count**2  # (B, A, N)
            for place in range(size[0] * size[1]):
                row = (window // count * size[0] + place // size[1] + shift) % side
                column = (window % count * size[1] + place % size[1] + shift) % side
                expected[:, :, row, column] = received[:, :, place]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(found.sum(axis=(2, 3)), 1, atol=1e-5)


def test_relevance_of_a_swin_is_the_papers_within_windows(swin: tuple[Any, Any]) -> None:
    """Whole matrices over all patches of a stage, gradients of one graph from transformers."""
    theirs, network = swin
    images = torch.from_numpy(pixels(1, 64, 64))
    kept: list[Tensor] = []

    def keep(module: Any, args: Any, out: Any) -> None:
        out[1].retain_grad()
        kept.append(out[1])

    hooks = [
        block.attention.self.register_forward_hook(keep)
        if hasattr(block.attention, "self")
        else block.attention.register_forward_hook(keep)
        for stage in theirs.base_model.encoder.layers
        for block in stage.blocks
    ]
    logits = theirs(images, output_attentions=True).logits
    for hook in hooks:
        hook.remove()
    logits[0, 3].backward()
    found = relevance(network, images, torch.tensor([3]))
    torch.testing.assert_close(found.logits, logits.detach(), **CLOSE)
    row = np.full(16, 1 / 16)
    weights = list(kept)
    side = 4
    for stage in (2, 1, 0):
        if stage < 2:
            row = np.repeat(np.repeat(row.reshape(side, side) / 4, 2, 0), 2, 1).reshape(-1)
            side *= 2
        size, _ = network.config.windows(stage, (side, side))
        for place in reversed(range(len(network.layers[stage].blocks))):
            w = weights.pop()
            mean = (w.grad * w).clamp(min=0).mean(1).detach().numpy()  # (n, N, N)
            shift = size[0] // 2 if place % 2 and side > size[0] else 0
            count, matrix = side // size[0], np.zeros((side * side,) * 2)
            for window in range(count * count):
                at = [
                    (window // count * size[0] + p // size[1] + shift) % side * side
                    + (window % count * size[1] + p % size[1] + shift) % side
                    for p in range(size[0] * size[1])
                ]
                matrix[np.ix_(at, at)] = mean[window]
            row = row + row @ matrix
    np.testing.assert_allclose(found.maps[3][0, 0].flatten().numpy(), row, atol=1e-6)


def test_a_swin_with_padded_windows_has_maps_of_its_grids(swin: tuple[Any, Any]) -> None:
    _, network = swin
    images = torch.from_numpy(pixels(1, 72, 100))
    points = torch.tensor([[0.5, 0.5]])
    with torch.inference_mode():
        maps = raw(network, images, [1, 2, 3], points=points).maps
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(18, 25), (9, 13), (5, 7)]
    assert relevance(network, images).maps[3].shape == (1, 1, 18, 25)
    with torch.inference_mode():
        assert similarity(network, images, [2], points).maps[2].shape == (1, 1, 5, 7)
