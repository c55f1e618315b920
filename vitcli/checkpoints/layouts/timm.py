"""timm's Vision Transformers: `timm/models/vision_transformer.py` and `deit.py`.

vitcli's names are timm's, so most rules rename a tensor to itself. The activation and epsilon,
which the tensors do not show, follow from the architecture's name, as in timm. Research
repositories use the same names. Their layouts (`meta.py`) recognise their files by names that timm
never has; this layout reads the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    Writer,
    activation,
    count_blocks,
    count_classes,
    grid_of,
    number,
    pair,
    shape,
)
from vitcli.checkpoints.layouts.timm_write import adapt, notes, refusals, write_config
from vitcli.checkpoints.preprocess.published import BEIT3, INTERNVIT, RADIO, Family
from vitcli.errors import CheckpointError
from vitcli.models.config import Config, ViTConfig
from vitcli.models.fields import Activation, Pool

B = "blocks.{i}."
# DINO and DINOv2 train a student next to the teacher: the teacher is the model, and the tensors
# under `student.` keep their prefix and are dropped.
PREFIXES = ("teacher.",)
# The architectures of timm 1.0.31, and older names, that vitcli's network can compute.
_SIZES = (
    "tiny|xsmall|small|base|large|huge|giant|gigantic|giantopt|wee|little|medium|mediumd|betwixt|"
    r"so\d+m\d?"
)
_PARTS = (
    r"\d+(x1)?|clip|quickgelu|siglip|gap|map|reg\d+|plus|dinov2|tipsv2|miil|distilled|"
    r"in21k|in1k|in21ft1k|dino|sam|mae|laion2b|radio_v\d+"
)
ARCHITECTURES = (
    rf"vit_(deit_)?({_SIZES})(_distilled)?_patch\d+(_({_PARTS}))*"
    rf"|deit3?_({_SIZES})(_distilled)?_patch\d+_\d+(_in21ft1k)?"
    r"|vit_intern300m_patch14_\d+|beit3_(base|large|giant)_patch\d+_\d+"
    r"|flexivit_(small|base|large)|eva_large_patch14_(196|336)|test_vit[23]?"
)

RULES = (
    *(rename(name, name) for name in ("cls_token", "dist_token", "pos_embed")),
    rename("reg_token", "register_tokens"),
    *(
        rename(name + ".{p}", name + ".{p}")
        for name in (
            "patch_embed.proj",
            "norm_pre",
            *(B + part for part in ("norm1", "attn.qkv", "attn.proj")),
            *(B + part for part in ("norm2", "mlp.fc1", "mlp.fc2", "attn.norm", "mlp.norm")),
            "norm",
            "fc_norm",
            "head",
            "head_dist",
        )
    ),
    *(rename(B + f"ls{n}.gamma", B + f"ls{n}.gamma", B + f"gamma_{n}") for n in (1, 2)),
    rename("attn_pool.latent", "attn_pool.latent"),
    *(
        rename(f"attn_pool.{part}.{{p}}", f"attn_pool.{part}.{{p}}")
        for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
    ),
    drop("pre_logits.fc.{p}", "a leftover of the first in21k files"),
    drop("mask_token", "only DINOv2's pre-training uses it"),
)
# In timm, CLIP's projection to the space of images and texts is the head, with a bias of zeros.
PROJECTION_RULES = (
    *(rule for rule in RULES if rule.ours != "head.{p}"),
    rename("head.weight", "proj.weight"),
    drop("head.bias", "zeros: CLIP's projection has no bias"),
)

# The tensors do not show the number of heads. These are the (width, depth) of timm 1.0.31's models;
# if two models share a pair, the architecture's name decides.
NUM_HEADS = {
    (64, 6): 2,
    (64, 8): 2,
    (96, 9): 3,
    (192, 12): 3,
    (256, 10): 4,
    (256, 14): 4,
    (320, 14): 5,
    (384, 12): 6,
    (384, 36): 6,
    (512, 12): 8,
    (512, 20): 8,
    (640, 12): 10,
    (768, 12): 12,
    (832, 21): 13,
    (896, 12): 14,
    (896, 18): 14,
    (1024, 24): 16,
    (1152, 27): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1536, 40): 24,
    (1664, 48): 16,
}
RADIO_REGISTERS = {"radio_v3": 7, "radio_v4": 9}
HEADS_BY_NAME = {"vit_base_patch16_gap_224": 16, "vit_giantopt_": 16}
TANH_GELU = re.compile(
    r"vit_(base_patch32|large_patch16_siglip_(gap_)?512|so400m_patch16|giantopt_patch16)"
)
# READ: arguments of timm's `VisionTransformer` that are read here, follow from the tensors, or
# matter only in training. NEUTRAL: values that change nothing. Other arguments change the results.
READ = re.compile(
    r"img_size|patch_size|in_chans|embed_dim|depth|num_heads|mlp_ratio|qkv_bias|init_values|"
    r"class_token|no_embed_class|reg_tokens|scale_(attn|mlp)_norm|pre_norm|fc_norm|final_norm|global_pool|act_layer|num_classes|"
    r"dynamic_img_(size|pad)|strict_img_size|weight_init|fix_init|proj_bias|\w*drop\w*|"
    r"window_size|depths|pretrained\w*|features_only|scriptable|exportable"
)
NEUTRAL = {"pos_embed": "learn", "use_fc_norm": None}


def detect(names: Collection[str]) -> bool:
    return "patch_embed.proj.weight" in names and "blocks.0.attn.qkv.weight" in names


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file: in a CLIP tower, a head with a bias of zeros is the projection."""
    bias = state.get("head.bias")
    if "norm_pre.weight" in state and bias is not None and not bias.any():
        return PROJECTION_RULES
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read sizes from the tensors, and the rest from `config.json` (old or new) and the name."""
    args = model_args(config)
    name = architecture(config)
    _check_args(args)
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depth = count_blocks(tensors)
    class_token, dist_token = "cls_token" in tensors, "dist_token" in tensors
    if "register_tokens" in tensors:
        registers = shape(tensors, "register_tokens", 3)[1]
    else:  # the config or the name may show that the file lacks them
        match = re.search(r"_reg(\d+)_", name)
        named = RADIO_REGISTERS.get(name[-8:], int(match[1]) if match else 0)
        claimed = args.get("reg_tokens", named)
        registers = int(number(claimed, "reg_tokens"))
    prefix = int(class_token) + int(dist_token) + registers
    size = image_size(config)
    like = (size[0] // patch[0], size[1] // patch[1]) if size else None
    positions = shape(tensors, "pos_embed", 3)[1]
    pos_prefix = _pos_prefix(positions, (prefix, int(class_token), 0), like)
    grid = grid_of(positions - pos_prefix, like)
    hidden = shape(tensors, "blocks.0.mlp.fc2.weight", 2)[1]
    has_fc_norm = "fc_norm.weight" in tensors or "fc_norm.bias" in tensors
    pre_norm = "norm_pre.weight" in tensors or "norm_pre.bias" in tensors
    attn_norm, ffn_norm = (
        args.get(f"scale_{part}_norm", name.startswith("beit3_") or _has_norm(tensors, part))
        for part in ("attn", "mlp")
    )
    is_beit3 = name.startswith("beit3_") or (not name and attn_norm and ffn_norm)
    is_swiglu = shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0] == 2 * hidden
    return ViTConfig(
        image_size=(grid[0] * patch[0], grid[1] * patch[1]) if like != grid or not size else size,
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads or args.get("num_heads") or _heads(name, width, depth),
        hidden_dim=hidden,
        num_classes=count_classes(tensors),
        projection=shape(tensors, "proj.weight", 2)[0] if "proj.weight" in tensors else 0,
        projection_bias="proj.bias" in tensors,
        class_token=class_token,
        dist_token=dist_token,
        dist_head=any(name.startswith("head_dist.") for name in tensors),
        num_registers=registers,
        pos_prefix=pos_prefix,
        pos_resize="bilinear" if name.startswith("flexivit") else "bicubic-antialias",
        patch_bias="patch_embed.proj.bias" in tensors or not pre_norm,
        pre_norm=pre_norm,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        attn_norm=attn_norm,
        layer_scale=any(name.endswith(".gamma") for name in tensors),
        ffn="swiglu" if is_swiglu else "mlp",
        ffn_norm=ffn_norm,
        act=_activation(name, args),
        pool=_pool(tensors, config, name, class_token),
        final_norm=_final_norm(name, args, has_fc_norm=has_fc_norm),
        norm_eps=1e-5 if is_beit3 or "_clip_" in name else 1e-6,
    )


def _has_norm(tensors: Tensors, part: str) -> bool:
    """Whether the blocks have a norm inside attention (`attn`) or the feed-forward (`mlp`)."""
    return any(name.startswith(f"blocks.0.{part}.norm.") for name in tensors)


def _check_args(args: dict[str, Any]) -> None:
    """Raise CheckpointError for an argument that changes the results."""
    for name, value in args.items():
        if not READ.fullmatch(name) and value and value != NEUTRAL.get(name):
            raise CheckpointError(f"config.json: timm's {name}={value!r} is not supported")
    for name, value in NEUTRAL.items():
        if args.get(name, value) != value and name != "use_fc_norm":
            raise CheckpointError(f"config.json: timm's {name}={args[name]!r} is not supported")


def architecture(config: Json) -> str:
    """`vit_base_patch16_224` of `timm/vit_base_patch16_224.augreg_in1k`, or ""."""
    inner = _section(config, "pretrained_cfg").get("architecture")
    name = str(config.get("architecture") or inner or "")
    return name.removeprefix("hf-hub:").removeprefix("timm/").split(".")[0]


def pretrained_cfg(config: Json) -> dict[str, Any]:
    """The object with the preprocessing and the tag; old files have its keys at the top level."""
    return {**config, **_section(config, "pretrained_cfg")}


def model_args(config: Json) -> dict[str, Any]:
    """The arguments that the architecture was created with."""
    return _section(config, "model_args")


def image_size(config: Json) -> tuple[int, int] | None:
    """The image size in the config; None if it has none."""
    size = model_args(config).get("img_size")
    if size is None:
        input_size = pretrained_cfg(config).get("input_size")
        size = list(input_size)[1:] if isinstance(input_size, list | tuple) else None
    return None if size is None else pair(size, "img_size")


def _section(config: Json, key: str) -> dict[str, Any]:
    section = config.get(key) or {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: {key} is {section!r}: expected an object")
    return dict(section)


def _pos_prefix(positions: int, counts: tuple[int, ...], like: tuple[int, int] | None) -> int:
    """The number of prefix tokens with a position, one of `counts`: all; the class token alone, as
    in DINOv2's own files; or, with no_embed_class, none."""
    if like is not None and positions - like[0] * like[1] in counts:
        return positions - like[0] * like[1]
    for count in counts:
        side = round(max(positions - count, 0) ** 0.5)
        if side * side == positions - count:
            return count
    return counts[0]


def _pool(tensors: Tensors, config: Json, name: str, class_token: bool) -> Pool:
    if any(name.startswith("attn_pool.") for name in tensors):
        return "map"
    pooling = config.get("global_pool", model_args(config).get("global_pool"))
    if pooling is None:
        averages = "fc_norm.weight" in tensors or "_gap" in name or not class_token
        pooling = "avg" if averages else "token"
    if pooling == "map":
        return "map"
    if pooling not in ("token", "avg"):
        raise CheckpointError(
            f"global_pool={pooling!r} is not supported", "supported are token, avg and map"
        )
    return "cls" if pooling == "token" else "mean"


def _final_norm(
    name: str, args: dict[str, Any], *, has_fc_norm: bool
) -> Literal["tokens", "pooled", "none"]:
    """The final norm. An InternViT and a RADIO have none, unless `model_args` say otherwise."""
    is_normed = not (name.startswith("vit_intern") or "_radio_" in name)
    if not args.get("final_norm", is_normed):
        return "none"
    return "pooled" if has_fc_norm else "tokens"


def _activation(name: str, args: dict[str, Any]) -> Activation:
    if "act_layer" in args:
        return activation(args["act_layer"])
    if "quickgelu" in name:
        return "quick_gelu"
    return "gelu_tanh" if "siglip" in name and TANH_GELU.match(name) else "gelu"


def _heads(name: str, width: int, depth: int) -> int:
    for start, heads in HEADS_BY_NAME.items():
        if name.startswith(start):
            return heads
    try:
        return NUM_HEADS[width, depth]
    except KeyError:
        raise CheckpointError(
            f"no published model has width {width} and {depth} blocks, "
            "and the number of heads is not in the file",
            "give it with --num-heads",
        ) from None


def family(config: Config) -> Family | None:
    """The family whose preprocessing applies to a file that says none: an InternViT's, a RADIO's
    or a BEiT-3's."""
    if not isinstance(config, ViTConfig):
        return None
    if config.attn_norm and config.ffn_norm:
        return BEIT3
    if config.final_norm == "none" and config.num_registers:
        return RADIO
    return INTERNVIT if config.final_norm == "none" and config.layer_scale else None


WRITER = Writer(
    "timm",
    ViTConfig,
    lambda config: RULES,
    write_config,
    refusals=refusals,
    adapt=adapt,
    notes=notes,
    rare=("attn_norm", "ffn_norm", "num_class_tokens", "summary", "pos_grid"),
)
LAYOUT = Layout(
    "timm",
    PREFIXES,
    detect,
    rules,
    read_config,
    WRITER,
    is_general=True,
    model_types=("timm_wrapper",),
    classes="Timm",
    architectures=ARCHITECTURES,
    words="timm",
    family_of=family,
)
