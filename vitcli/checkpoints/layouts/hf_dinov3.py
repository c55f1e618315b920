"""Hugging Face DINOv3: `transformers/models/dinov3_vit`, in the names of the hub, and in those of a
5.x model in memory (`conversion_mapping.py`, "dinov3_vit")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Reshape, Rule, drop, fuse, rename, reshape
from vitcli.checkpoints.layouts.layout import (
    BF16,
    HF_FIELDS,
    Json,
    Layout,
    Tensors,
    Writer,
    activation_name,
    image_pair,
    number,
    read_sizes,
)
from vitcli.checkpoints.layouts.timm_eva_write import FAR_PERIODS
from vitcli.checkpoints.preprocess.published import DINOV3
from vitcli.checkpoints.weights.lazy import cat
from vitcli.errors import CheckpointError
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

L, L5, B = "layer.{i}.", "model.layer.{i}.", "blocks.{i}."
REGISTERS = "embeddings.register_tokens"

RULES = (
    rename("embeddings.cls_token", "cls_token"),
    rename("embeddings.patch_embeddings.{p}", "patch_embed.proj.{p}"),
    rename(L + "norm1.{p}", B + "norm1.{p}", L5 + "norm1.{p}"),
    fuse(
        tuple(f"{L}attention.{x}_proj.weight" for x in "qkv"),
        B + "attn.qkv.weight",
        tuple(f"{L5}attention.{x}_proj.weight" for x in "qkv"),
    ),
    rename(L + "attention.o_proj.{p}", B + "attn.proj.{p}", L5 + "attention.o_proj.{p}"),
    rename(L + "layer_scale1.lambda1", B + "ls1.gamma", L5 + "layer_scale1.lambda1"),
    rename(L + "norm2.{p}", B + "norm2.{p}", L5 + "norm2.{p}"),
    rename(L + "mlp.down_proj.{p}", B + "mlp.fc2.{p}", L5 + "mlp.down_proj.{p}"),
    rename(L + "layer_scale2.lambda1", B + "ls2.gamma", L5 + "layer_scale2.lambda1"),
    rename("norm.{p}", "norm.{p}"),
    drop("embeddings.mask_token", "only pre-training uses it"),
)
NO_REGISTERS = drop(REGISTERS, "empty: there are no registers")
# vitcli gives a SwiGLU and a plain feed-forward the same names.
MLP = rename(L + "mlp.up_proj.{p}", B + "mlp.fc1.{p}", L5 + "mlp.up_proj.{p}")
SWIGLU = fuse(
    (L + "mlp.gate_proj.{p}", L + "mlp.up_proj.{p}"),
    B + "mlp.fc1.{p}",
    (L5 + "mlp.gate_proj.{p}", L5 + "mlp.up_proj.{p}"),
)
BIASES = {"q": ("query_bias", True), "k": ("key_bias", False), "v": ("value_bias", True)}


def detect(names: Collection[str]) -> bool:
    return "embeddings.patch_embeddings.weight" in names and (
        "layer.0.attention.q_proj.weight" in names
        or "model.layer.0.attention.q_proj.weight" in names
    )


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file, which depend on its biases, registers and kind of feed-forward."""
    is_swiglu = any(".mlp.gate_proj." in name for name in state)
    biases = "".join(x for x in BIASES if any(n.endswith(f".{x}_proj.bias") for n in state))
    has_registers = REGISTERS not in state or state[REGISTERS].numel() > 0
    return _rules(is_swiglu=is_swiglu, biases=biases, has_registers=has_registers)


@lru_cache(maxsize=16)
def _rules(*, is_swiglu: bool, biases: str, has_registers: bool) -> tuple[Rule, ...]:
    registers = rename(REGISTERS, "register_tokens") if has_registers else NO_REGISTERS
    return (*RULES, registers, SWIGLU if is_swiglu else MLP, *_bias_rules(biases))


def _bias_rules(biases: str) -> tuple[Rule, ...]:
    """The rules for these biases of `qkv`. vitcli has q, k and v, or q and v; for others, it gets
    zeros."""
    names, in_memory = (tuple(f"{at}attention.{x}_proj.bias" for x in biases) for at in (L, L5))
    if biases == "qv":
        return tuple(
            rename(name, f"{B}attn.{x}_bias", other)
            for x, name, other in zip(biases, names, in_memory, strict=True)
        )
    if biases in ("", "qkv"):
        return (fuse(names, B + "attn.qkv.bias", in_memory),) if biases else ()
    load, save = _zeros_for_others(biases)
    return (reshape(names, B + "attn.qkv.bias", load, save, in_memory),)


def _zeros_for_others(biases: str) -> tuple[Reshape, Reshape]:
    """Functions from these biases, joined, to those of q, k and v, and back."""

    def load(joined: Tensor) -> Tensor:
        parts = dict(zip(biases, joined.chunk(len(biases)), strict=True))
        zeros = joined.new_zeros(len(joined) // len(biases))
        return cat([parts.get(x, zeros) for x in BIASES])

    def save(whole: Tensor) -> Tensor:
        parts = dict(zip(BIASES, whole.chunk(3), strict=True))
        return cat([parts[x] for x in biases])

    return load, save


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read `DINOv3ViTConfig` of transformers, with its defaults for keys that are left out.

    `pos_embed_shift`, `pos_embed_jitter` and `pos_embed_rescale` move positions in training only.
    """
    config = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, **config}
    sizes = read_sizes(config, num_heads, 16, "gelu", 1e-5)
    is_swiglu = _flag(config, "use_gated_mlp", default=False)
    biases = _biases(tensors, config)
    theta = number(config.get("rope_theta", 100.0), "rope_theta")
    return ViTConfig(
        **sizes,
        num_registers=config.get("num_register_tokens", 0),
        pos_embed=False,
        pos_prefix=0,
        rope=Rope(theta=float(theta)),
        qkv_bias=biases not in ("", "qv"),
        qv_bias=biases == "qv",
        proj_bias=_flag(config, "proj_bias"),
        layer_scale=True,
        ffn="swiglu" if is_swiglu else "mlp",
        gate_act=sizes["act"] if is_swiglu else "silu",
        ffn_bias=_flag(config, "mlp_bias"),
    )


def _flag(config: Json, key: str, *, default: bool = True) -> bool:
    value = config.get(key, default)
    if isinstance(value, bool):
        return value
    raise CheckpointError(f"{key} is {value!r}: expected true or false")


def _biases(tensors: Tensors, config: Json) -> str:
    """The letters of q, k and v with a bias. Raises CheckpointError if the file has a bias that the
    config does not have: transformers would ignore it."""
    biases = "".join(
        x for x, (key, default) in BIASES.items() if _flag(config, key, default=default)
    )
    for name, tensor in tensors.items():
        if not name.endswith(".attn.qkv.bias"):
            continue
        for x, part in zip(BIASES, tensor.chunk(3), strict=False):
            if x not in biases and part.any():
                key = BIASES[x][0]
                raise CheckpointError(f"{key} is false, and the file has biases of {x}_proj")
    return biases


ONLY: dict[str, tuple[object, ...]] = {
    "class_token": (True,),
    "dist_token": (False,),
    "pos_embed": (False,),
    "patch_bias": (True,),
    "pre_norm": (False,),
    "layer_scale": (True,),
    "pool": ("cls",),
    "final_norm": ("tokens",),
    "head_blocks": (1,),
    "projection": (0,),
}


def refusals(config: ViTConfig) -> list[str]:
    obstacles = []
    if config.num_classes:
        obstacles.append("a classifier: it has no DINOv3 with one, and --to timm writes it")
    rope = config.rope
    if rope is None:
        obstacles.append("a model without rotary positions")
    elif rope != Rope(theta=rope.theta, periods=rope.periods):
        obstacles.append("rotary positions other than DINOv3's")
    elif rope.rounding > BF16:
        obstacles.append(FAR_PERIODS)
    return obstacles


def adapt(config: ViTConfig, tensors: Tensors) -> tuple[ViTConfig, dict[str, Tensor]]:
    """Let the periods follow from theta. transformers also expects the mask token of pre-training,
    whose initial value is zero, and an empty tensor if there are no registers."""
    import torch

    assert config.rope is not None
    placed = {**tensors, "mask_token": torch.zeros(1, 1, config.embed_dim)}
    if not config.num_registers:
        placed["register_tokens"] = torch.zeros(1, 0, config.embed_dim)
    return replace(config, rope=replace(config.rope, periods=())), placed


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    biases = "qv" if config.qv_bias else "qkv" if config.qkv_bias else ""
    table = _rules(is_swiglu=config.ffn == "swiglu", biases=biases, has_registers=True)
    return (*table, rename("embeddings.mask_token", "mask_token"))


def write_config(config: ViTConfig) -> dict[str, Any]:
    assert config.rope is not None
    is_swiglu = config.ffn == "swiglu"
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "image_size": image_pair(config.image_size),
        "patch_size": image_pair(config.patch_size),
        "num_channels": config.in_chans,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_dim,
        "use_gated_mlp": is_swiglu,
        "hidden_act": activation_name(config.gate_act if is_swiglu else config.act),
        "layer_norm_eps": config.norm_eps,
        "num_register_tokens": config.num_registers,
        "rope_theta": float(config.rope.theta),
        "query_bias": config.qkv_bias or config.qv_bias,
        "key_bias": config.qkv_bias,
        "value_bias": config.qkv_bias or config.qv_bias,
        "proj_bias": config.proj_bias,
        "mlp_bias": config.ffn_bias,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "layerscale_value": 1.0,
    }


WRITER = Writer(
    "transformers",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    rare=("pos_embed", "rope", "qv_bias", "proj_bias", "gate_act", "ffn_bias"),
)
LAYOUT = Layout(
    "hf-dinov3",
    (),
    detect,
    rules,
    read_config,
    WRITER,
    needs_config=True,
    model_types=("dinov3_vit",),
    classes="DINOv3ViT",
    words="hf",
    family=DINOV3,
    fields={**HF_FIELDS, "num_registers": "num_register_tokens"},
)
