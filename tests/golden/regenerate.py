"""Turns timm's models and transforms into the golden files that the tests compare against.

Run by hand, in an environment with timm and torchvision, after a change of what is compared:

    python tests/golden/regenerate.py             # every file under tests/golden
    python tests/golden/regenerate.py --labels    # the names of the ImageNet-1k classes

The tests themselves run without timm. Weights, pixels and pictures are not stored: both sides
make them with `tests/fixtures/weights.py`.
"""

import argparse
import csv
import hashlib
import itertools
import json
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_transform
from timm.layers import (
    resample_abs_pos_embed,
    resample_patch_embed,
    resize_rel_pos_bias_table,
)
from timm.models import swin_transformer, swin_transformer_v2
from timm.models.vision_transformer import _load_weights
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures.jax import STYLES, jax_arrays
from fixtures.weights import MODES, fill, photo, pixels, weight

GOLDEN = Path(__file__).resolve().parent / "timm"
EVA = Path(__file__).resolve().parent / "timm_eva"
AIMV2 = Path(__file__).resolve().parent / "timm_aimv2"
EVA_OWN = Path(__file__).resolve().parent / "timm_eva_own"
PE = Path(__file__).resolve().parent / "timm_pe"
SWIN = Path(__file__).resolve().parent / "timm_swin"
BEIT = Path(__file__).resolve().parent / "timm_beit"
PATCHES = Path(__file__).resolve().parent / "timm_patches"
LABELS = Path(__file__).resolve().parents[2] / "vitcli" / "checkpoints" / "imagenet_1k.txt"


@dataclass(frozen=True)
class Case:
    """One tiny model: an architecture of timm's, made small by the arguments. `larger` is the size
    that it is then changed to; `zeros` are tensors of zeros."""

    name: str
    architecture: str
    img_size: tuple[int, int] = (64, 48)
    num_classes: int = 7
    args: dict[str, Any] = field(default_factory=dict)
    jax: str = ""  # one of STYLES: the weights come to timm by an `.npz` of that style
    larger: tuple[int, int] | None = None
    zeros: tuple[str, ...] = ()


SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
THREE_HEADS = {"embed_dim": 24, "depth": 2, "num_heads": 3}
DEEPER = {"embed_dim": 24, "depth": 3, "num_heads": 2}

CASES = (
    Case("vit", "vit_tiny_patch16_224", args=DEEPER),
    Case("vit_patch8", "vit_base_patch8_224", img_size=(24, 32), args=SMALL),
    Case("vit_avg", "vit_base_patch16_224", args={**SMALL, "global_pool": "avg"}),
    Case("vit_no_qkv_bias", "vit_medium_patch16_gap_240", img_size=(48, 64), args=SMALL),
    Case("vit_no_embed_class", "flexivit_small", args=THREE_HEADS),
    Case("beit3", "beit3_giant_patch14_336", img_size=(42, 56), args=THREE_HEADS),
    Case("deit3", "deit3_small_patch16_224", img_size=(48, 64), args=THREE_HEADS),
    Case("deit_distilled", "deit_tiny_distilled_patch16_224", args=THREE_HEADS),
    Case("dinov2", "vit_base_patch14_dinov2", img_size=(56, 42), num_classes=0, args=SMALL),
    Case("dinov2_head", "vit_base_patch14_dinov2", img_size=(42, 56), num_classes=5, args=SMALL),
    Case("dinov2_reg4", "vit_base_patch14_reg4_dinov2", (56, 42), num_classes=0, args=DEEPER),
    Case("dinov2_swiglu", "vit_giant_patch14_dinov2", (56, 42), num_classes=0, args=THREE_HEADS),
    Case("tipsv2_reg1", "vit_base_patch14_reg1_tipsv2", (42, 56), num_classes=0, args=SMALL),
    Case("siglip_map", "vit_base_patch16_siglip_224", num_classes=0, args=SMALL),
    Case("siglip_map_tanh", "vit_base_patch32_siglip_256", (128, 96), num_classes=0, args=SMALL),
    Case("intern300m", "vit_intern300m_patch14_448", (42, 56), num_classes=0, args=SMALL),
    Case("radio_v3", "vit_base_patch16_radio_v3", (48, 64), 0, args={**SMALL, "reg_tokens": 2}),
    Case("radio_v4", "vit_so400m_patch16_radio_v4", (64, 48), num_classes=0, args=SMALL),
    Case("siglip_gap", "vit_base_patch16_siglip_gap_224", num_classes=0, args=DEEPER),
    Case("clip", "vit_base_patch16_clip_224", img_size=(48, 64), args=SMALL),
    Case("clip_quickgelu", "vit_base_patch16_clip_quickgelu_224", args=SMALL),
    Case("reg4_gap", "vit_medium_patch16_reg4_gap_256", args=SMALL),
    Case("reg1_gap", "vit_wee_patch16_reg1_gap_256", img_size=(48, 64), args=THREE_HEADS),
    Case("reg4_map", "vit_so150m_patch16_reg4_map_256", args=SMALL),
    # Square, as a file without a config must be: written again in the layouts of DINO, DeiT, MAE
    # and DINOv2 by the tests, under whose names nothing else changes.
    Case("bare_vit", "vit_small_patch16_224", (64, 64), num_classes=0, args=SMALL),
    Case("bare_head", "vit_small_patch16_224", (64, 64), args=SMALL),
    Case("bare_avg", "vit_base_patch16_224", (64, 64), args={**SMALL, "global_pool": "avg"}),
    Case("bare_distilled", "deit_tiny_distilled_patch16_224", (64, 64), args=SMALL),
    Case("bare_deit3", "deit3_small_patch16_224", (64, 64), args=SMALL),
    Case("bare_dinov2", "vit_base_patch14_dinov2", (56, 56), num_classes=0, args=SMALL),
    Case("bare_reg4", "vit_base_patch14_reg4_dinov2", (56, 56), num_classes=0, args=SMALL),
    Case("bare_swiglu", "vit_giant_patch14_dinov2", (56, 56), num_classes=0, args=SMALL),
    Case("jax_original", "vit_tiny_patch16_224", (64, 64), args=SMALL, jax="original"),
    Case("jax_target", "vit_tiny_patch16_224", (64, 64), 0, THREE_HEADS, jax="target"),
    Case(
        "jax_big_vision",
        "vit_small_patch16_224",
        (64, 64),
        args={**THREE_HEADS, "no_embed_class": True},
        jax="big_vision",
    ),
    Case("jax_stacked", "vit_base_patch16_siglip_224", (64, 64), 0, DEEPER, jax="stacked"),
    Case("jax_gap", "vit_base_patch16_siglip_gap_224", (64, 64), 5, SMALL, jax="big_vision"),
)


WIDE = {"embed_dim": 48, "depth": 2, "num_heads": 3}
TWO_HEADS = {"embed_dim": 32, "depth": 3, "num_heads": 2}
POOLED = {**WIDE, "attn_pool_num_heads": 8}

EVA_CASES = (
    Case("dinov3", "vit_small_patch16_dinov3_qkvb", num_classes=0, args=WIDE, larger=(96, 80)),
    Case("dinov3_swiglu", "vit_huge_plus_patch16_dinov3", num_classes=0, args=TWO_HEADS),
    Case("dinov3_head", "vit_base_patch16_dinov3", num_classes=5, args=TWO_HEADS),
    Case("lingbot", "vit_giant_patch16_lingbot", (48, 64), num_classes=0, args=WIDE),
    Case("pe_core", "vit_pe_core_small_patch16_384", (48, 64), 12, POOLED, zeros=("head.bias",)),
    Case("pe_lang", "vit_pe_lang_large_patch14_448", (42, 56), num_classes=0, args=WIDE),
    Case("pe_spatial", "vit_pe_spatial_gigantic_patch14_448", (56, 42), 0, args=TWO_HEADS),
    Case("eva02_packed", "eva02_tiny_patch14_224", (42, 56), args=WIDE, larger=(70, 84)),
    Case("eva02", "eva02_base_patch14_448", (56, 42), args=TWO_HEADS),
    Case("eva02_clip", "eva02_base_patch16_clip_224", (48, 64), num_classes=512, args=TWO_HEADS),
    Case("eva_giant", "eva_giant_patch14_224", (56, 42), args=WIDE),
    Case("rope_axial", "vit_small_patch16_rope_224", (48, 64), args=WIDE, larger=(80, 96)),
    Case("rope_mixed", "vit_small_patch16_rope_mixed_224", args=TWO_HEADS, larger=(96, 80)),
    Case("rope_ape", "vit_base_patch16_rope_ape_224", (48, 64), num_classes=0, args=TWO_HEADS),
    Case("rope_gap", "vit_betwixt_patch16_rope_reg4_gap_256", args=WIDE, larger=(96, 80)),
)

AIMV2_CASES = (
    Case("backbone", "aimv2_large_patch14_224", (42, 56), num_classes=0, args=SMALL),
    Case("head", "aimv2_huge_patch14_336", (56, 42), num_classes=5, args=DEEPER),
    Case("square", "aimv2_1b_patch14_224", (42, 42), 0, {**SMALL, "proj_bias": True}),
)

# Square, and indices that are not scaled, as Meta's files are: written again under Meta's names by
# the tests.
PE_CASES = (
    Case(
        "core",
        "vit_pe_core_small_patch16_384",
        (64, 64),
        12,
        {**POOLED, "ref_feat_shape": (4, 4)},
        zeros=("head.bias",),
    ),
    Case("lang", "vit_pe_lang_large_patch14_448", (42, 42), 0, {**WIDE, "ref_feat_shape": (3, 3)}),
    Case(
        "spatial",
        "vit_pe_spatial_gigantic_patch14_448",
        (56, 56),
        0,
        {**TWO_HEADS, "ref_feat_shape": (4, 4)},
    ),
)

# Square, as EVA's own files are: written again under their names by the tests.
EVA_OWN_CASES = (
    Case("packed", "eva02_tiny_patch14_224", (56, 56), args=WIDE),
    Case("pretrained", "eva02_base_patch14_224", (42, 42), 0, TWO_HEADS),
    Case("clip", "eva02_base_patch16_clip_224", (64, 64), 12, TWO_HEADS),
    Case("giant", "eva_giant_patch14_clip_224", (42, 42), 16, WIDE, zeros=("head.bias",)),
)


def save_npz(path: Path, arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """The arrays, and the config as JSON text; uncompressed, so that equal data are equal bytes."""
    np.savez(path, allow_pickle=False, **arrays, config=np.array(json.dumps(config)))
    print(f"{path.name:26} {path.stat().st_size / 1000:6.1f} kB")


def traits(model: nn.Module) -> dict[str, Any]:
    """What the architecture decided and the state dict's shapes do not show."""
    mlp = model.blocks[0].mlp
    gate = "gated_" if hasattr(mlp, "gate_last") or hasattr(mlp, "fc1_g") else ""
    act = type(mlp.act).__name__
    registers = getattr(model, "reg_token", None)
    tanh = act == "GELUTanh" or getattr(mlp.act, "approximate", "none") == "tanh"
    return {
        "num_heads": model.blocks[0].attn.num_heads,
        "num_prefix_tokens": model.num_prefix_tokens,
        "num_reg_tokens": 0 if registers is None else registers.shape[1],
        "no_embed_class": getattr(model, "no_embed_class", False),
        "eps": model.blocks[0].norm1.eps,
        "act": gate + ("gelu_tanh" if tanh else {"QuickGELU": "quick_gelu"}.get(act, act.lower())),
    }


def by_npz(model: nn.Module, style: str) -> None:
    """Fill the model once more, by timm's own reader of an `.npz` with the weights that it has."""
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.zero_()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        np.savez(path, **jax_arrays(state, model.blocks[0].attn.num_heads, STYLES[style]))
        _load_weights(model, str(path))


@torch.inference_mode()
def write_case(case: Case, folder: Path = GOLDEN) -> None:
    """One tiny model and everything it answers, (B, ...) float32:

    - `hidden_states` (depth + 1, B, N, D): 0 is the input of the first block, after the position
      embedding and, where there is one, `norm_pre`; i is the output of block i, before any norm;
    - `features` (B, N, D): `forward_features`, after the final norm if it is not `fc_norm`;
    - `pre_logits` (B, D): pooled, after `fc_norm` if there is one;
    - `logits` (B, num_classes), or the `pre_logits` again without a head.
    """
    model = timm.create_model(
        case.architecture, num_classes=case.num_classes, img_size=case.img_size, **case.args
    ).eval()
    state = model.state_dict()
    weights = {name: torch.from_numpy(value) for name, value in fill(state).items()}
    model.load_state_dict(weights | {name: torch.zeros_like(weights[name]) for name in case.zeros})

    if case.jax:
        by_npz(model, case.jax)
    if case.larger:
        model.set_input_size(case.larger)

    hidden: list[torch.Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))

    height, width = case.larger or case.img_size
    inputs = {"batch": 2, "height": height, "width": width, "seed": len(case.name)}
    features = model.forward_features(torch.from_numpy(pixels(**inputs)))
    arrays = {
        "hidden_states": torch.stack(hidden).numpy(),
        "features": features.numpy(),
        "pre_logits": model.forward_head(features, pre_logits=True).numpy(),
        "logits": model.forward_head(features).numpy(),
    }
    config = {
        "architecture": case.architecture,
        "model_args": case.args,
        "num_classes": case.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "img_size": case.img_size,
        "pixels": inputs,
        "traits": traits(model),
        "keys": {name: list(value.shape) for name, value in state.items()},
        **({"zeros": case.zeros} if case.zeros else {}),
        "timm": timm.__version__,
    }
    save_npz(folder / f"{case.name}.npz", arrays, config)


SHARED = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "init_values": None}
BEIT_CASES = (
    Case("blocks", "beit_base_patch16_224", args=SMALL),
    Case("headless", "beitv2_large_patch16_224", (48, 80), 0, {**DEEPER, "mlp_ratio": 3.0}),
    Case("shared", "beit_base_patch16_224", (64, 64), 7, {**SMALL, **SHARED}),
    Case("token", "beit_base_patch16_224", args={**SMALL, "global_pool": "token"}),
    Case("table", "beit_base_patch16_224", (48, 64), 5, {**SMALL, "use_abs_pos_emb": True}),
)


@dataclass(frozen=True)
class SwinCase:
    """One tiny Swin. `stored` is the size of the model that the weights are for, where timm is to
    fit them into one of another size. A name that starts with v2 is a Swin V2."""

    name: str
    img_size: tuple[int, int] = (64, 64)
    num_classes: int = 7
    args: dict[str, Any] = field(default_factory=dict)
    stored: tuple[int, int] | None = None

    @property
    def is_v2(self) -> bool:
        return self.name.startswith("v2")

    @property
    def architecture(self) -> str:
        return "swinv2_tiny_window8_256" if self.is_v2 else "swin_tiny_patch4_window7_224"


# Grids of 16x16, 8x8 and 4x4 at 64x64.
SMALL_SWIN = {
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 8,
    "depths": (2, 3, 2),
    "num_heads": (2, 4, 4),
}

SWIN_CASES = (
    SwinCase("plain"),
    SwinCase("headless", num_classes=0, args={"mlp_ratio": 3.0}),
    SwinCase("padded", (72, 104)),  # grids of 18x26, 9x13 and 5x7: padded, shifted, odd
    SwinCase("remainder", (67, 81), args={"qkv_bias": False}),  # less than a patch is left over
    SwinCase("shrunk", (64, 48)),  # a last window of 4x3
    SwinCase("one_way", (64, 128)),  # a last stage that is shifted sideways only
    SwinCase("windows", (64, 96), args={"window_size": ((4, 8), 3, (2, 4))}),
    SwinCase("smaller", (48, 40), stored=(64, 64)),
    SwinCase("larger", (96, 64), stored=(64, 64)),
    SwinCase("regrown", (96, 96), stored=(64, 64), args={"window_size": 6}),
    SwinCase("v2"),
    SwinCase("v2_headless", num_classes=0, args={"mlp_ratio": 3.0, "qkv_bias": False}),
    SwinCase("v2_pretrained", args={"window_size": 8, "pretrained_window_sizes": (6, 6, 3)}),
    SwinCase("v2_padded", (72, 104)),
    SwinCase("v2_remainder", (67, 81), args={"pretrained_window_sizes": ((3, 5), 0, 1)}),
    SwinCase("v2_partition", (64, 48), args={"always_partition": True}),
    SwinCase("v2_smaller", (48, 40), stored=(64, 64), args={"window_size": ((4, 8), 3, (2, 4))}),
)


@torch.inference_mode()
def write_swin(case: SwinCase) -> None:
    """One tiny Swin and everything it answers, tokens as (B, N, D) float32:

    - `hidden_i`: 0 is the embedding, i what enters stage i + 1, after the merge; the last is the
      output of the last stage, before the norm;
    - `features`, `pre_logits` and `logits` as for a ViT.

    A Swin V2 computes in float64, because its sharp weights magnify rounding.
    """
    args = {**SMALL_SWIN, **case.args}

    def build(img_size: tuple[int, int]) -> nn.Module:
        made = timm.create_model(
            case.architecture, num_classes=case.num_classes, img_size=img_size, **args
        )
        return made.eval()

    state = build(case.stored or case.img_size).state_dict()
    weights = {name: torch.from_numpy(value) for name, value in fill(state).items()}
    model = build(case.img_size)
    code = swin_transformer_v2 if case.is_v2 else swin_transformer
    model.load_state_dict(code.checkpoint_filter_fn(weights, model))
    dtype = torch.float64 if case.is_v2 else torch.float32
    model.to(dtype)

    hidden: list[torch.Tensor] = []
    for stage in model.layers:
        stage.blocks[0].register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    model.layers.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))

    height, width = case.img_size
    inputs = {"batch": 2, "height": height, "width": width, "seed": len(case.name)}
    features = model.forward_features(torch.from_numpy(pixels(**inputs)).to(dtype))
    arrays = {f"hidden_{i}": x.flatten(1, 2).float().numpy() for i, x in enumerate(hidden)}
    arrays |= {
        "features": features.flatten(1, 2).float().numpy(),
        "pre_logits": model.forward_head(features, pre_logits=True).float().numpy(),
        "logits": model.forward_head(features).float().numpy(),
    }
    config = {
        "architecture": case.architecture,
        "model_args": args,
        "num_classes": case.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "img_size": case.img_size,
        "stored": case.stored or case.img_size,
        "pixels": inputs,
        "windows": [[s.blocks[1].window_size, s.blocks[1].shift_size] for s in model.layers],
        "keys": {name: list(value.shape) for name, value in state.items()},
        "timm": timm.__version__,
    }
    save_npz(SWIN / f"{case.name}.npz", arrays, config)


# (old window, new window); the input is weight("table", (..., 3)).
WINDOWS = (
    *(((7, 7), new) for new in ((6, 6), (2, 2), (1, 1), (7, 5), (12, 12), (8, 3))),
    *itertools.product([(4, 6)], [(6, 4), (3, 6), (9, 9)]),
    ((1, 1), (3, 2)),
)


def write_bias_tables() -> None:
    """Tables of relative positions resized from one window to another, under the `key`."""
    arrays, records = {}, []
    for old, new in WINDOWS:
        before, after = ((2 * h - 1) * (2 * w - 1) for h, w in (old, new))
        table = torch.from_numpy(weight("table", (before, 3)))
        key = f"{old[0]}x{old[1]}_{new[0]}x{new[1]}"
        arrays[key] = resize_rel_pos_bias_table(table, new, (after, 3), old).numpy()
        records.append({"key": key, "old": old, "new": new})
    save_npz(
        SWIN / "bias_tables.npz",
        arrays,
        {"name": "bias_tables", "heads": 3, "cases": records, "timm": timm.__version__},
    )


# (old grid, new grid, prefix tokens), rows first; the input is weight("pos_embed", (1, N, 4)).
RESIZES = (
    *itertools.product([(7, 7)], [(5, 9)], (0, 1, 5)),
    *itertools.product([(14, 14)], [(10, 14)], (0, 1, 5)),
    *itertools.product([(4, 6)], [(6, 4), (4, 6), (9, 9)], (0, 1, 5)),  # same count, same grid
    ((16, 16), (37, 37), 1),
    ((37, 37), (16, 16), 1),
)


def write_pos_embed() -> None:
    """Position embeddings resized from one grid to another: (1, N, 4) each, under the `key`."""
    arrays, records = {}, []
    for old, new, prefix in RESIZES:
        table = torch.from_numpy(weight("pos_embed", (1, prefix + old[0] * old[1], 4)))
        key = f"{old[0]}x{old[1]}_{new[0]}x{new[1]}_{prefix}"
        arrays[key] = resample_abs_pos_embed(table, list(new), list(old), prefix).numpy()
        records.append({"key": key, "old": old, "new": new, "num_prefix_tokens": prefix})
    save_npz(
        GOLDEN / "pos_embed.npz",
        arrays,
        {"name": "pos_embed", "dim": 4, "cases": records, "timm": timm.__version__},
    )


# (old patch, new patch, channels, dtype); the input is weight("patch_embed.proj.weight", ...).
KERNELS: tuple[tuple[tuple[int, int], tuple[int, int], int, str], ...] = (
    *(((16, 16), (side, side), 3, "float32") for side in (8, 15, 32)),
    *(((14, 14), (side, side), 3, "float32") for side in (7, 16)),
    *(((16, 8), new, 3, "float32") for new in ((8, 16), (15, 15), (20, 6))),
    *(((8, 8), (side, side), 1, "float32") for side in (1, 5, 12)),
    *(((8, 8), (6, 11), 3, dtype) for dtype in ("bfloat16", "float16")),
)
HOW = {"bicubic-antialias": ("bicubic", True), "bilinear": ("bilinear", False)}


def write_kernels() -> None:
    """Patch embeddings of width 2 resampled for other patches, under the `key`, as float32."""
    arrays, records = {}, []
    for (old, new, channels, dtype), how in itertools.product(KERNELS, HOW):
        if how == "bilinear" and (old, dtype) != ((16, 8), "float32"):
            continue
        kernel = torch.from_numpy(weight("patch_embed.proj.weight", (2, channels, *old)))
        key = f"{old[0]}x{old[1]}_{new[0]}x{new[1]}_{channels}_{dtype}_{how}"
        kernel = kernel.to(getattr(torch, dtype))
        arrays[key] = resample_patch_embed(kernel, list(new), *HOW[how]).float().numpy()
        records.append(
            {"key": key, "old": old, "new": new, "in_chans": channels, "dtype": dtype, "how": how}
        )
    save_npz(PATCHES / "kernels.npz", arrays, {"cases": records, "timm": timm.__version__})


@dataclass(frozen=True)
class PatchCase(Case):
    """A tiny model of `img_size` whose images and patches timm then gives other sizes."""

    new_img: tuple[int, int] = (0, 0)
    new_patch: tuple[int, int] = (0, 0)


SMALL_PATCHES = {**THREE_HEADS, "patch_size": 8}
PATCH_CASES = (
    PatchCase("flexivit", "flexivit_small", (48, 32), 7, SMALL_PATCHES, "", (60, 48), (12, 8)),
    PatchCase(
        "clip", "vit_base_patch16_clip_224", (32, 48), 7, SMALL_PATCHES, "", (32, 48), (4, 6)
    ),
    PatchCase(
        "swin", "swin_tiny_patch4_window7_224", (32, 48), 7, SMALL_SWIN, "", (32, 48), (2, 3)
    ),
)


def loaded(case: PatchCase, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The model of the new sizes, with the weights of the old ones as timm loads its own files."""
    classes = {"num_classes": case.num_classes}
    sizes = {"img_size": case.new_img, "patch_size": case.new_patch}
    stored = {"custom_load": False, "input_size": (3, *case.img_size)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(weights, file)
        return timm.create_model(
            case.architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(file), **stored, **classes},
            **classes | case.args | sizes,
        )


@torch.inference_mode()
def write_resampled(case: PatchCase) -> None:
    """The features and logits of a tiny model after a change of its patches."""
    model = timm.create_model(
        case.architecture, num_classes=case.num_classes, img_size=case.img_size, **case.args
    )
    state = model.state_dict()
    weights = {name: torch.from_numpy(value) for name, value in fill(state).items()}
    if case.name == "swin":  # timm resamples its patch embedding only in a model
        model.load_state_dict(weights)
        window = case.args["window_size"]
        model.set_input_size(case.new_img, case.new_patch, window_size=window)
    else:
        model = loaded(case, weights)
    height, width = case.new_img
    inputs = {"batch": 1, "height": height, "width": width, "seed": len(case.name)}
    features = model.eval().forward_features(torch.from_numpy(pixels(**inputs)))
    arrays = {
        "features": (features.flatten(1, 2) if features.ndim == 4 else features).numpy(),
        "logits": model.forward_head(features).numpy(),
    }
    config = {
        "architecture": case.architecture,
        "model_args": case.args,
        "num_classes": case.num_classes,
        "num_features": model.num_features,
        "global_pool": model.global_pool,
        "img_size": case.new_img,
        "stored": case.img_size,
        "patch_size": case.new_patch,
        "pixels": inputs,
        "keys": {name: list(value.shape) for name, value in state.items()},
        "timm": timm.__version__,
    }
    save_npz(PATCHES / f"{case.name}.npz", arrays, config)


SIZES = (
    *((1, 1), (3, 1), (1, 50), (4000, 37), (37, 4000), (500, 375), (375, 500)),
    *((224, 224), (225, 223), (227, 231), (640, 481), (33, 1000)),
)


def geometry(size: int | tuple[int, int], crop_pct: float, mode: str, **rest: Any) -> dict:
    """Arguments of `create_transform`; `size` is a side, or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "input_size": [3, height, width],
        "crop_pct": crop_pct,
        "crop_mode": mode,
        "interpolation": "bicubic",
        **rest,
    }


# `border` shrinks or grows the longest side to floor(side / crop_pct), rounding each side to the
# nearest (halves to even), then crops and pads at once. It fills with round(255 * mean), unlike
# the black of the other modes, so its result depends on the mean. Its short side may round to
# 0 for a very long picture (4000 x 8 at 224), and PIL then refuses: timm raises ValueError.
TRANSFORMS = (
    geometry(224, 0.9, "center"),
    geometry(224, 0.875, "center", interpolation="bilinear"),
    geometry(384, 1.0, "squash"),
    geometry(224, 0.9, "squash"),
    geometry(518, 1.0, "center"),
    geometry(248, 0.95, "center"),
    geometry(32, 0.9, "center", interpolation="lanczos"),
    geometry(224, 0.95, "border", mean=[0.485, 0.456, 0.406]),
    geometry(224, 1.0, "border", mean=[0.5, 0.5, 0.5]),
    geometry((224, 160), 0.9, "center"),
    geometry((224, 160), 0.9, "squash"),
    geometry((224, 160), 0.9, "border", mean=[0.5, 0.5, 0.5]),
)


def preprocessed(width: int, height: int, mode: str, cfg: dict[str, Any]) -> dict[str, Any]:
    """What timm hands to ToTensor for one picture: RGB bytes, (H, W, 3), as their sha256."""
    geometric = create_transform(**cfg, is_training=False).transforms[:-2]
    image = photo(width, height, mode).convert("RGB")  # as timm's datasets do
    for step in geometric:
        image = step(image)
    array = np.asarray(image)
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    asked = {"width": width, "height": height, "mode": mode, "cfg": cfg}
    return {**asked, "shape": array.shape, "sha256": digest}


def write_preprocess() -> None:
    """Every size under every transform in RGB, and every other mode once; one record a line."""
    asked = [(width, height, "RGB", cfg) for cfg in TRANSFORMS for width, height in SIZES]
    asked += [(500, 375, mode, TRANSFORMS[0]) for mode in MODES if mode != "RGB"]
    lines = ",\n".join(json.dumps(preprocessed(*one)) for one in asked)
    path = GOLDEN / "preprocess.json"
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{path.name:26} {path.stat().st_size / 1000:6.1f} kB")


def write_labels() -> None:
    """The ImageNet-1k classes in index order, one a line, each as the lemmas of its synset.

    timm keeps the order of the synsets and WordNet's lemmas apart; joined, they read as the
    `id2label` of the checkpoints on the Hugging Face Hub: "tench, Tinca tinca".
    """
    info = files("timm") / "data" / "_info"
    table = (info / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(csv.reader(table, delimiter="\t"))
    synsets = (info / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    names = "".join(f"{lemmas[synset]}\n" for synset in synsets)
    LABELS.write_text(names, encoding="utf-8", newline="\n")
    print(f"{LABELS.name}: {len(synsets)} classes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden files from timm's answers.")
    parser.add_argument("--labels", action="store_true", help="write only the ImageNet-1k names")
    if parser.parse_args().labels:
        write_labels()
        return
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        write_case(case)
    EVA_OWN.mkdir(exist_ok=True)
    for case in EVA_OWN_CASES:
        write_case(case, EVA_OWN)
    EVA.mkdir(exist_ok=True)
    for case in EVA_CASES:
        write_case(case, EVA)
    AIMV2.mkdir(exist_ok=True)
    for case in AIMV2_CASES:
        write_case(case, AIMV2)
    PE.mkdir(exist_ok=True)
    for case in PE_CASES:
        write_case(case, PE)
    write_pos_embed()
    BEIT.mkdir(exist_ok=True)
    for case in BEIT_CASES:
        write_case(case, BEIT)
    SWIN.mkdir(exist_ok=True)
    for swin in SWIN_CASES:
        write_swin(swin)
    write_bias_tables()
    PATCHES.mkdir(exist_ok=True)
    write_kernels()
    for patches in PATCH_CASES:
        write_resampled(patches)
    write_preprocess()


if __name__ == "__main__":
    main()
