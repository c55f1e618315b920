"""Token merging against a slow reference of the paper's formulas, in fp64 and with loops."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.fixtures.tiny import randomise
from tests.fixtures.weights import pixels
from vitcli.models.block_config import Rope
from vitcli.models.config import Config, ViTConfig
from vitcli.models.merging import merge, unmergeable
from vitcli.models.swin_config import SwinConfig
from vitcli.models.vit import VisionTransformer

CLOSE = {"atol": 1e-5, "rtol": 0.0}
PLAIN = ViTConfig(
    image_size=(32, 40),
    patch_size=(8, 8),
    embed_dim=32,
    depth=3,
    num_heads=2,
    hidden_dim=80,
    num_classes=7,
)
NO_CLASS = {"class_token": False, "pos_prefix": 0}
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (4, {}),
    "odd count": (4, {"image_size": (40, 40)}),
    "half": (10, {}),
    "registers": (6, {"num_registers": 3, "layer_scale": True, "ffn": "swiglu"}),
    "distilled": (4, {"dist_token": True, "dist_head": True, "pos_prefix": 2}),
    "several blocks": (5, {"head_blocks": 2}),
    "summary": (5, {"num_class_tokens": 3, "summary": (0, 2)}),
    "mean": (6, {"pool": "mean", "final_norm": "pooled", **NO_CLASS}),
    "class and mean": (7, {"pool": "cls+mean", "qv_bias": True, "qkv_bias": False}),
    "map": (6, {"pool": "map", **NO_CLASS}),
    "map, prefix": (6, {"pool": "map", "pool_prefix": True, "norm": "rms"}),
}


def made(**options: Any) -> VisionTransformer:
    """A network whose attention has peaks, so that a key more or less changes its output."""
    network = VisionTransformer(replace(PLAIN, **options)).eval()
    randomise(network)
    for block in network.blocks:
        block.attn.qkv.weight.data *= 2
    return network


class Reference:
    """An image's tokens through a network that merges, as lists of tokens and their sizes."""

    def __init__(self, network: VisionTransformer, image: Tensor, count: int) -> None:
        self.network = network
        self.prefix, self.heads = network.config.num_prefix, network.config.num_heads
        self.count = count
        self.tokens = list(self.network.embed(image[None])[0])
        self.sizes = [1] * len(self.tokens)
        self.states = [(list(self.tokens), list(self.sizes))]
        for block in self.network.blocks:
            self.tokens = self.attended(block)
            self.tokens = [t + block.ls2(block.mlp(block.norm2(t))) for t in self.tokens]
            self.states.append((list(self.tokens), list(self.sizes)))

    def attended(self, block: Any) -> list[Tensor]:
        """softmax(q k / sqrt(d) + log s) v, then the merge."""
        qkv = [self.qkv(block.attn, block.norm1(token)) for token in self.tokens]
        after = []
        for token, (q, _, _) in zip(self.tokens, qkv, strict=True):
            heads = []
            for head in range(self.heads):
                rows = zip(qkv, self.sizes, strict=True)
                scores = [
                    float(q[head] @ k[head]) / math.sqrt(len(q[head])) + math.log(size)
                    for (_, k, _), size in rows
                ]
                weights = torch.tensor(scores, dtype=torch.float64).softmax(dim=0)
                heads.append(sum(w * v[head] for w, (_, _, v) in zip(weights, qkv, strict=True)))
            after.append(token + block.ls1(block.attn.proj(torch.cat(heads))))
        return self.merged(after, [k.mean(dim=0) for _, k, _ in qkv])

    def qkv(self, attention: Any, x: Tensor) -> Tensor:
        out = attention.qkv(x)
        if attention.q_bias is not None:
            zeros = torch.zeros_like(attention.q_bias)
            out = out + torch.cat([attention.q_bias, zeros, attention.v_bias])
        return out.view(3, self.heads, -1)

    def merged(self, tokens: list[Tensor], keys: list[Tensor]) -> list[Tensor]:
        sources = range(self.prefix + 1, len(tokens), 2)
        others = range(self.prefix, len(tokens), 2)
        edges = []
        for source in sources:
            cosines = {o: float(F.cosine_similarity(keys[source], keys[o], dim=0)) for o in others}
            other = max(cosines, key=lambda o: cosines[o])
            edges.append((cosines[other], source, other))
        pairs = sorted(edges, key=lambda edge: -edge[0])[: self.count]
        groups = {place: [place] for place in range(len(tokens))}
        for _, source, other in pairs:
            groups[other] += groups.pop(source)
        order = [*range(self.prefix), *sources, *others]
        kept = [groups[place] for place in order if place in groups]
        sums = [sum(self.sizes[p] * tokens[p] for p in group) for group in kept]
        self.sizes = [sum(self.sizes[p] for p in group) for group in kept]
        return [total / size for total, size in zip(sums, self.sizes, strict=True)]

    def mean(self, layer: int) -> Tensor:
        """The mean of all original patches."""
        return self.original(layer)[self.prefix :].mean(dim=0)

    def pooled_map(self, layer: int) -> Tensor:
        """The attention pooling of the original patches: a merged token as often as its size."""
        start = 0 if self.network.config.pool_prefix else self.prefix
        return self.network.attn_pool(self.original(layer)[None, start:])[0]

    def original(self, layer: int) -> Tensor:
        """As many normed tokens as before the merges: each as often as its size."""
        tokens = zip(*self.states[layer], strict=True)
        return torch.stack([self.network.norm(t) for t, size in tokens for _ in range(size)])


@dataclass(frozen=True)
class Case:
    """A network in fp64, some images, and what the formulas give for them."""

    network: VisionTransformer
    merging: VisionTransformer
    images: Tensor
    references: list[Reference]

    @property
    def config(self) -> ViTConfig:
        return self.network.config


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest) -> Case:
    count, options = VARIANTS[request.param]
    network = made(**options).double()
    images = torch.from_numpy(pixels(2, *network.config.image_size)).double()
    with torch.inference_mode():
        references = [Reference(network, image, count) for image in images]
    return Case(network, network.with_merging(count), images, references)


@torch.inference_mode()
def test_every_layer_is_that_of_the_formulas(case: Case) -> None:
    states = case.merging.hidden_states(case.images, range(case.config.depth + 1))
    for number, reference in enumerate(case.references):
        for layer, (tokens, sizes) in enumerate(reference.states):
            torch.testing.assert_close(states[layer].x[number], torch.stack(tokens), **CLOSE)
            if layer:
                assert states[layer].sizes[number].tolist() == sizes
        assert max(sizes) > 2  # some tokens have merged twice
        assert sum(sizes) == case.config.num_prefix + math.prod(case.config.grid)


@torch.inference_mode()
def test_pooled_vectors_are_those_of_the_formulas(case: Case) -> None:
    config, of_class = case.config, list(case.config.pooled_tokens)
    for layer in (1, config.depth):
        expected = {"mean": [r.mean(layer) for r in case.references]}
        if config.class_token:
            expected["cls"] = [r.original(layer)[of_class] for r in case.references]
        if config.pool == "map":
            expected["map"] = [r.pooled_map(layer) for r in case.references]
        for pool, vectors in expected.items():
            theirs = case.network.fc_norm(torch.stack(vectors)).flatten(1)
            ours = case.merging.features(case.images, [layer], pool)
            torch.testing.assert_close(ours, theirs, **CLOSE)


@torch.inference_mode()
def test_logits_are_those_of_the_formulas(case: Case) -> None:
    network, config = case.network, case.config
    for reference, ours in zip(case.references, case.merging(case.images), strict=True):
        parts = []
        if "cls" in config.pool:
            for layer in range(config.depth - config.head_blocks + 1, config.depth + 1):
                parts += reference.original(layer)[list(config.pooled_tokens)]
        if "mean" in config.pool:
            parts.append(network.fc_norm(reference.mean(config.depth)))
        if config.pool == "map":
            parts.append(reference.pooled_map(config.depth))
        theirs = network.head(torch.cat(parts))
        if config.dist_head:
            distilled = network.head_dist(reference.original(config.depth)[1])
            theirs = (theirs + distilled) / 2
        torch.testing.assert_close(ours, theirs, **CLOSE)


@torch.inference_mode()
def test_fp32_merges_what_fp64_merges(case: Case) -> None:
    single = copy.deepcopy(case.merging).float()
    theirs = case.merging(case.images).float()
    torch.testing.assert_close(single(case.images.float()), theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_nothing_merged_is_the_network_itself() -> None:
    network = made()
    assert network.with_merging(0) is network


@torch.inference_mode()
def test_the_network_that_is_given_stays_as_it_is() -> None:
    network, images = made(), torch.from_numpy(pixels(2, 32, 40))
    before, names = network(images), list(network.state_dict())
    merging = network.with_merging(5)
    assert not torch.allclose(merging(images), before, atol=1e-3)
    assert torch.equal(network(images), before)
    assert list(network.state_dict()) == names
    assert (network.config.merge_tokens, merging.config.merge_tokens) == (0, 5)


@torch.inference_mode()
@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_equal_tokens_merge_without_a_trace(pool: str) -> None:
    """Without positions the patches of a plain image are equal, and a merge changes nothing."""
    options = {"pos_embed": False, "pos_prefix": 0, "class_token": pool == "cls"}
    network = made(pool=pool, **options)
    image = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 3, 32, 40)
    torch.testing.assert_close(network.with_merging(9)(image), network(image), **CLOSE)


@torch.inference_mode()
def test_an_image_is_merged_as_it_would_be_alone() -> None:
    merging, images = made().with_merging(6), torch.from_numpy(pixels(3, 32, 40))
    alone = torch.cat([merging(image[None]) for image in images])
    torch.testing.assert_close(merging(images), alone, atol=1e-6, rtol=0)


def test_of_equal_similarities_the_first_counts() -> None:
    x = torch.arange(9.0).view(1, 9, 1)
    ours, sizes = merge(x, torch.ones(1, 2, 9, 4), torch.ones(1, 9), 2, num_prefix=1)
    # The tokens 2 and 4 join 1, which is the first of 1, 3, 5, 7.
    assert sizes.tolist() == [[1, 1, 1, 3, 1, 1, 1]]
    torch.testing.assert_close(ours.flatten(), torch.tensor([0, 6, 8, 7 / 3, 3, 5, 7]))


SWIN = SwinConfig(
    image_size=(64, 64),
    patch_size=(4, 4),
    embed_dim=16,
    depths=(1, 1),
    num_heads=(2, 4),
    hidden_dims=(64, 128),
    window_sizes=((4, 4), (4, 4)),
)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (PLAIN, None),
        (replace(PLAIN, num_registers=4), None),
        (
            replace(PLAIN, rope=Rope()),
            "each block rotates its tokens by their positions, and a merged token has several",
        ),
        (
            replace(PLAIN, rel_bias="shared"),
            "each block reads the distances of its tokens, and a merged token has several places",
        ),
        (
            replace(PLAIN, any_grid=True),
            "its images have different numbers of tokens (NaFlex)",
        ),
        (SWIN, "a Swin cuts its tokens into windows of the grid"),
    ],
)
def test_a_network_whose_tokens_have_one_place_is_not_merged(
    config: Config, reason: str | None
) -> None:
    assert unmergeable(config) == reason
