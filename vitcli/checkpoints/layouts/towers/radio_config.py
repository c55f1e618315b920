"""Read the sizes of a RADIO: from transformers' `RadioConfig`, or from the arguments of training
that NVIDIA's `RADIOConfig` keeps (`hf_model.py`, `radio_model.py`, `vit_patch_generator.py`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.layouts.layout import (
    BF16,
    Json,
    MissingTensor,
    Tensors,
    activation,
    ffn_width,
    number,
    pair,
    read_sizes,
    refuse_oblong,
    shape,
)
from vitcli.checkpoints.preprocess.published import CLIP_MEAN, CLIP_STD
from vitcli.errors import CheckpointError
from vitcli.models.config import Triple, ViTConfig
from vitcli.models.fields import LIMITS, PosResize, check_count

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

# The defaults of `RadioConfig`.
HF: dict[str, Any] = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "image_size": 224,
    "patch_size": 16,
    "max_img_size": 2048,
    "num_cls_tokens": 3,
    "num_registers": 7,
}
# The width, depth and heads of timm's and NVIDIA's functions.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "so400m": (1152, 27, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
    "bigG": (1664, 48, 16),
}
MODEL = re.compile(
    rf"vit_({'|'.join(SIZES)})_patch(\d+)(?:_v\d+)?_(?:(\d+)|reg\d+_dinov2|(?:clip_|siglip_)?\d+)"
)
OTHERS = {
    "eradio": "an E-RADIO, a hybrid of convolutions and attention",
    "dinov2": "a RADIO of DINOv2's code, whose patches have a bias and whose tokens differ",
    "mlpnorm": "a RADIO v1 or v2, with norms inside the feed-forward",
    "hybrid": "a RADIO of two networks",
    "radio1d": "a RADIO1D, which shortens its tokens",
}
# Versions whose code on the hub resamples positions with aligned corners. C-RADIOv3 L and g
# changed with their code of July 2025, and v4 never had them: see `_RADIO_ALIGN_CORNERS` of timm.
ALIGNED = re.compile(r"radio_v[12](\.\d)?(-\w+)?|c-radio(_v1|_v2)?(-[\w-]+)?|c-radio_v3-[bh]")
UNALIGNED = re.compile(r"c-radio_v3-[lg]|c-radio_v4-\w+")
# The arguments of timm's model that are read here, or matter in training alone.
READ = re.compile(
    r"embed_dim|depth|num_heads|mlp_ratio|patch_size|img_size|init_values|qkv_bias|weight_init|\w*drop\w*"
)


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read either config. The summary and the normalisation are tensors, which decide, as in both
    sources. Raises CheckpointError for a config that does not fit the tensors, and by name for
    networks that NVIDIA calls RADIO and are not this ViT."""
    sizes = _of_args(tensors, config, num_heads) if is_own(config) else _of_hf(config, num_heads)
    classes, registers = token_counts(config)
    (rows, columns), patch = sizes["pos_grid"], shape(tensors, "patch_embed.proj.weight", 4)[-1]
    if (patch, patch) != sizes["patch_size"]:
        raise CheckpointError(f"patch_size is {sizes['patch_size'][0]}, the file has {patch}")
    if rows * columns != shape(tensors, "pos_embed", 3)[1]:
        raise CheckpointError(
            f"pos_embed has {tensors['pos_embed'].shape[1]} positions, "
            f"and the config says {rows}x{columns}"
        )
    has_scale = any(name.endswith(".gamma") for name in tensors)
    value = 1.0 if is_own(config) else number(config.get("layerscale_value", 1), "layerscale_value")
    if not has_scale and value != 1:
        raise CheckpointError(f"layerscale_value is {value:g}, and the file has no layer scales")
    summary = _summary(tensors, classes, None if is_own(config) else config.get("summary_idxs"))
    given = {} if is_own(config) else config
    return refuse_oblong(
        ViTConfig(
            **sizes,
            num_class_tokens=classes,
            num_registers=registers,
            summary=summary,
            pos_prefix=0,
            pixel_norm=(
                _triple(tensors, "norm_mean", given, CLIP_MEAN),
                _triple(tensors, "norm_std", given, CLIP_STD),
            ),
            patch_bias=False,
            layer_scale=has_scale,
        )
    )


def is_own(config: Json) -> bool:
    """Whether this is NVIDIA's config, and not that of transformers."""
    return config.get("model_type") != "radio" and "args" in config


def token_counts(config: Json) -> tuple[int, int]:
    """The numbers of class tokens and registers. NVIDIA's code has a class token for each teacher,
    and fills the tokens up to a multiple."""
    if not is_own(config):
        both = {name: config.get(name, HF[name]) for name in ("num_cls_tokens", "num_registers")}
    else:
        args = _args(config)
        classes = len(_teachers(args)) if args.get("cls_token_per_teacher") else 1
        registers, multiple = args.get("cpe_num_registers"), args.get("register_multiple")
        if not registers:
            check_count("register_multiple", multiple or 0, 0, LIMITS["num_registers"])
            registers = multiple - classes % multiple if multiple else 0
        both = {"num_cls_tokens": classes, "num_registers": registers}
    check_count("num_cls_tokens", both["num_cls_tokens"], 1, LIMITS["num_registers"])
    check_count("num_registers", both["num_registers"], 0, LIMITS["num_registers"])
    return both["num_cls_tokens"], both["num_registers"]


def _of_hf(config: Json, num_heads: int | None) -> dict[str, Any]:
    """The sizes in a `RadioConfig`."""
    values = {**HF, **config}
    sizes = read_sizes(values, num_heads, 16, "gelu", 1e-6)
    is_swiglu = bool(values.get("use_swiglu_ffn", False))
    side = int(number(values["max_img_size"], "max_img_size")) // sizes["patch_size"][0]
    return {
        **sizes,
        "hidden_dim": ffn_width(sizes["embed_dim"], values["mlp_ratio"], is_swiglu=is_swiglu),
        "ffn": "swiglu" if is_swiglu else "mlp",
        "qkv_bias": values.get("qkv_bias", True),
        "final_norm": "none",
        "pos_grid": (side, side),
        "pos_resize": "bilinear-square",
    }


def _of_args(tensors: Tensors, config: Json, num_heads: int | None) -> dict[str, Any]:
    """The sizes in NVIDIA's config, which keeps all arguments of training."""
    args = _args(config)
    name, kwargs = str(args.get("model")), _section(args, "model_kwargs")
    match = MODEL.fullmatch(name)
    other = next((text for word, text in OTHERS.items() if word in name and not match), "")
    if match is None:
        raise CheckpointError(
            f"config.json: args.model is {name}: this is {other or 'a model that is not known'}",
            "RADIOs that are plain ViTs are supported: nvidia/C-RADIOv3-B, nvidia/C-RADIOv4-H",
        )
    for key in ("vitdet_window_size", "feature_normalizer_config"):
        if config.get(key):
            raise CheckpointError(f"config.json: {key}={config[key]!r} is not supported")
    for key, value in kwargs.items():
        if not READ.fullmatch(key) and value:
            raise CheckpointError(f"config.json: {key}={value!r} in model_kwargs is not supported")
    width, depth, heads = SIZES[match[1]]
    if (match[1], match[2]) == ("giant", "14"):
        width, heads = 1408, 16  # timm's own
    patch = pair(config.get("patch_size") or int(match[2]), "patch_size")
    largest = number(args.get("cpe_max_size"), "args.cpe_max_size")
    side = round(largest / patch[0])
    if side * patch[0] == number(kwargs.get("img_size", int(match[3] or 0)), "img_size"):
        raise CheckpointError(
            f"args.cpe_max_size is {largest}, the size of the model's own images",
            "its positions are cut and not resampled, which is not supported",
        )
    hidden, found = shape(tensors, "blocks.0.mlp.fc2.weight", 2)[1], kwargs.get("mlp_ratio")
    if (
        found is not None
        and int(kwargs.get("embed_dim", width) * number(found, "mlp_ratio")) != hidden
    ):
        raise CheckpointError(f"mlp_ratio is {found}, and mlp.fc2.weight has {hidden} columns")
    return {
        "image_size": pair(config.get("preferred_resolution", 512), "preferred_resolution"),
        "patch_size": patch,
        "embed_dim": kwargs.get("embed_dim", width),
        "depth": kwargs.get("depth", depth),
        "num_heads": num_heads or kwargs.get("num_heads", heads),
        "hidden_dim": hidden,
        "act": activation("gelu"),
        "norm_eps": 1e-6,
        "qkv_bias": kwargs.get("qkv_bias", True),
        "final_norm": "tokens" if args.get("model_norm") else "none",
        "pos_grid": (side, side),
        "pos_resize": _resize(config),
    }


def _resize(config: Json) -> PosResize:
    """How the code of this version resamples positions."""
    version = str(config.get("version") or "")
    if not version or UNALIGNED.fullmatch(version):
        return "bilinear-square"
    if ALIGNED.fullmatch(version):
        return "bilinear-square-corners"
    raise CheckpointError(
        f"config.json: version is {version}: it is not known how its code resamples positions",
        "known are RADIO v1 and v2, C-RADIO v1 to v4; without a version, the code of v4 counts",
    )


def _summary(tensors: Tensors, classes: int, claimed: object) -> tuple[int, ...]:
    """The class tokens of the summary, as the file has them."""
    numbers = _tensor(tensors, "summary_idxs")
    is_int64 = str(numbers.dtype).removeprefix("torch.") == "int64"
    is_whole = numbers.ndim == 1 and is_int64 and len(numbers) > 0
    if not is_whole or not all(0 <= int(n) < classes for n in numbers):
        raise CheckpointError(
            f"summary_idxs is {numbers.flatten()[:8].tolist()} (shape {list(numbers.shape)}): "
            f"expected numbers of class tokens, 0 to {classes - 1}"
        )
    found = tuple(int(n) for n in numbers)
    if isinstance(claimed, list | tuple) and tuple(claimed) != found:
        raise CheckpointError(
            f"summary_idxs is {list(claimed)} in config.json, and {list(found)} in the file",
            "the config and the weights belong to different models",
        )
    return found


def _triple(tensors: Tensors, name: str, given: Json, usual: Triple) -> Triple:
    """The values of a channel each, in the decimals of the config where they are the same."""
    values = _tensor(tensors, name)
    if values.shape != (3, 1, 1) or not values.is_floating_point():
        raise CheckpointError(
            f"input_conditioner.{name} has shape {list(values.shape)}: expected [3, 1, 1]"
        )
    first, second, third = (float(v) for v in values.flatten())
    found = first, second, third
    if name == "norm_std" and not all(v > 0 for v in found):
        raise CheckpointError(f"input_conditioner.{name} is {found}: expected positive numbers")
    claimed = given.get(name) or usual
    if not isinstance(claimed, list | tuple) or len(claimed) != 3:
        raise CheckpointError(f"config.json: {name} is {claimed!r}: expected three numbers")
    one, two, three = (float(number(v, name)) for v in claimed)
    decimals = one, two, three
    if all(math.isclose(v, c, rel_tol=1e-6) for v, c in zip(found, decimals, strict=True)):
        return decimals
    if name in given and not all(
        math.isclose(v, c, rel_tol=BF16, abs_tol=BF16) for v, c in zip(found, decimals, strict=True)
    ):
        raise CheckpointError(
            f"{name} is {decimals} in config.json, and {found} in the file",
            "the config and the weights belong to different models",
        )
    return found


def _tensor(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise MissingTensor(name)
    return tensors[name]


def _args(config: Json) -> Mapping[str, Any]:
    args = config["args"]
    if not isinstance(args, Mapping):
        raise CheckpointError(f"config.json: args is {args!r}: expected an object")
    return args


def _section(args: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = args.get(key) or {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"config.json: args.{key} is {section!r}: expected an object")
    return section


def _teachers(args: Mapping[str, Any]) -> set[str]:
    """The names of the teachers, each of which has a class token."""
    teachers = args.get("teachers")
    rows = teachers if isinstance(teachers, list) else []
    if not rows or not all(isinstance(t, Mapping) and isinstance(t.get("name"), str) for t in rows):
        raise CheckpointError("config.json: args.teachers has no names, one for each class token")
    return {t["name"] for t in rows}
