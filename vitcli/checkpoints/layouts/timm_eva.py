"""timm's class `Eva` (`timm/models/eva.py`): EVA and EVA-02, their CLIP towers, DINOv3, EUPE,
LingBot-Vision, Perception Encoder, RoPE-ViT, and timm's own ViTs with rotary positions.

Rotary positions leave no tensor in the file. They, the epsilon and the pooling follow from the
architecture's name and from `model_args`, as in timm. Of a file without a config, the tensors show
the family, except for a Perception Encoder and a RoPE-ViT with a table of positions.

DINOv3, EUPE and LingBot-Vision are pooled by their class token, as their authors do. timm averages
the patches of the first two.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from vitcli.checkpoints.keymap import NOT_WHOLE, Rule, drop, fuse, rename
from vitcli.checkpoints.layouts import timm
from vitcli.checkpoints.layouts.layout import (
    Json,
    Layout,
    Tensors,
    Writer,
    count_blocks,
    count_classes,
    grid_of,
    number,
    pair,
    shape,
)
from vitcli.checkpoints.layouts.timm_eva_write import (
    CLIPS,
    ONLY,
    RARE_PARTS,
    adapt,
    is_gate_apart,
    is_separate,
    refusals,
    write_config,
)
from vitcli.checkpoints.preprocess.published import DINOV3, PE, Family
from vitcli.checkpoints.preprocess.published import EVA02 as EVA
from vitcli.errors import CheckpointError
from vitcli.models.block_config import Rope
from vitcli.models.config import Config, ViTConfig
from vitcli.models.fields import Pool

B = timm.B
ARCHITECTURES = (
    r"eva_giant_patch14_(clip_)?\d+|eva02_(tiny|small|base|large)_patch\d+_(clip_)?\d+"
    r"|vit_(tiny|small|small_plus|base|large|huge_plus|7b)_patch16_dinov3(_qkvb)?"
    r"|vit_(small|base|large|giant)_patch16_lingbot"
    r"|vit_pe_(core|lang|spatial)_(tiny|small|base|large|gigantic)_patch\d+_\d+"
    r"|vit_(small|base|large)_patch16_rope(_mixed)?(_ape)?_\d+"
    r"|vit_(medium|mediumd|betwixt|base)_patch16_rope_reg\d_gap_\d+"
)

# The arguments of timm's `Eva` that change its results and do not follow from the tensors, with
# their defaults. `eps` is the epsilon of `norm_layer`.
DEFAULTS: dict[str, Any] = {
    "eps": 1e-6,
    "global_pool": "avg",
    "class_token": True,
    "num_reg_tokens": 0,
    "no_embed_class": False,
    "use_abs_pos_emb": True,
    "use_rot_pos_emb": False,
    "rope_type": "cat",
    "rope_grid_offset": 0,
    "rope_grid_indexing": "ij",
    "rope_temperature": 10_000,
    "rope_rotate_half": False,
    "ref_feat_shape": None,
    "attn_type": "eva",
    "qkv_bias": True,
    "swiglu_mlp": False,
    "scale_mlp": False,
    "scale_attn_inner": False,
    "init_values": None,
    "use_pre_transformer_norm": False,
    "use_post_transformer_norm": None,
    "use_fc_norm": None,
    "attn_pool_num_heads": None,
}
DINO: dict[str, Any] = {
    "eps": 1e-5,
    "num_reg_tokens": 4,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "init_values": 1e-5,
    "use_fc_norm": False,
    "img_size": 256,
}
EVA02 = {"swiglu_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
GAP = {
    "class_token": False,
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "ref_feat_shape": (16, 16),
    "init_values": 1e-5,
    "img_size": 256,
}
ENCODER = {
    "eps": 1e-5,
    "attn_type": "rope",
    "use_rot_pos_emb": True,
    "rope_grid_indexing": "xy",
    "rope_grid_offset": 1,
    "use_pre_transformer_norm": True,
}
UNNORMED = {"use_post_transformer_norm": False, "use_fc_norm": False}
NAVER = {
    "global_pool": "token",
    "attn_type": "rope",
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
    "rope_grid_indexing": "xy",
    "rope_temperature": 100,
    "init_values": 1e-5,
}
# The arguments with which timm's functions build the architectures whose name matches. Later rows
# override earlier ones.
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(
        (rf"\w+?_{word}_\w+", {"num_heads": heads})
        for word, heads in {
            **{"tiny": 3, "small": 6, "medium": 8, "mediumd": 8, "betwixt": 10, "base": 12},
            **{"large": 16, "giant": 16, "gigantic": 16, "huge": 20, "7b": 32},
        }.items()
    ),
    (r"eva02_\w+", EVA02),
    (r"eva02_(base|large)_\w+", {"scale_mlp": True}),
    (r"eva\w+_clip_\w+", {"global_pool": "token"}),
    (r"eva02_\w+_clip_\w+", {"scale_attn_inner": True}),
    (r"vit_\w+_(dinov3\w*|lingbot)", DINO),
    (r"vit_\w+_dinov3|vit_giant_\w+_lingbot", {"qkv_bias": False}),
    (r"vit_(small_plus|huge_plus|7b)_\w+|vit_giant_\w+_lingbot", {"swiglu_mlp": True}),
    (r"vit_\w+_lingbot", {"global_pool": "token", "img_size": 512}),
    (r"vit_giant_\w+_lingbot", {"num_heads": 24}),
    (r"vit_pe_\w+", ENCODER),
    (r"vit_pe_core_\w+", {"global_pool": "map", "attn_pool_num_heads": 8}),
    (r"vit_pe_(lang|spatial)_\w+", UNNORMED),
    (r"vit_pe_(lang_\w+|spatial_gigantic_\w+)", {"init_values": 0.1}),
    (r"vit_pe_\w+_gigantic_\w+", {"class_token": False, "rope_grid_offset": 0}),
    (r"vit_\w+_rope_(\d+|mixed\w+|ape\w+)", NAVER),
    (r"vit_base_patch16_rope_\d+", {"use_fc_norm": False}),
    (r"vit_\w+_rope_mixed\w+", {"rope_type": "mixed", "rope_temperature": 10}),
    (r"vit_\w+_ape_\d+", {"use_abs_pos_emb": True, "no_embed_class": True}),
    (r"vit_\w+_rope_reg\d_gap_\d+", GAP),
    *((rf"vit_\w+_rope_reg{n}_gap_\d+", {"num_reg_tokens": n}) for n in range(1, 10)),
    (r"vit_mediumd_\w+", {"qkv_bias": False}),
)
# Arguments that follow from the tensors or matter only in training, and values that change nothing.
IGNORED = re.compile(
    r"img_size|patch_size|in_chans|num_classes|embed_dim|depth|num_heads|mlp_ratio|qkv_fused|"
    r"swiglu_align_to|attn_pool_mlp_ratio|rope_(shift|jitter|rescale)_coords|\w*drop\w*|"
    r"dynamic_img_(size|pad)|strict_img_size|head_init_scale|weight_init|fix_init|pretrained\w*|"
    r"features_only|scriptable|exportable"
)
KINDS = {"global_pool": ("avg", "token", "map"), "attn_type": ("eva", "rope")}
NORMS = ("use_fc_norm", "use_post_transformer_norm")
POOLS: dict[str, Pool] = {"avg": "mean", "token": "cls"}
ENORMOUS = (1792, 64)  # the width and depth of EVA-02 E
# The width and depth of models whose number of heads timm's plain ViTs do not have.
NUM_HEADS = timm.NUM_HEADS | {
    (1280, 32): 20,
    (4096, 40): 32,
    (1024, 23): 16,
    (1536, 47): 16,
    (1536, 50): 16,
}

# Parts of a block whose names only the files of EVA's own repository have (`towers/eva.py`).
ORIGINAL = ("mlp.w1", "mlp.w12", "mlp.ffn_ln", "attn.inner_attn_ln")
# Separate projections of queries, keys and values, whose keys have no bias; and with one for all.
SEPARATE = (
    fuse(tuple(f"{B}attn.{x}_proj.weight" for x in "qkv"), B + "attn.qkv.weight"),
    *(rename(f"{B}attn.{x}_proj.bias", f"{B}attn.{x}_bias") for x in "qv"),
)
KEYS_BIASED = (fuse(tuple(f"{B}attn.{x}_proj.{{p}}" for x in "qkv"), B + "attn.qkv.{p}"),)
GATED = (fuse((B + "mlp.fc1_g.{p}", B + "mlp.fc1_x.{p}"), B + "mlp.fc1.{p}"),)
TABLE = (
    *(
        rule
        for rule in timm.RULES
        if rule.ours is None or not (rule.ours.endswith(".gamma") or rule.ours.startswith("head"))
    ),
    *(rename(f"{B}gamma_{n}", f"{B}ls{n}.gamma", f"{B}ls{n}.gamma") for n in (1, 2)),
    *(rename(f"{B}attn.{x}_bias", f"{B}attn.{x}_bias") for x in "qv"),
    rename("rope.freqs", "rope.freqs"),
)
PRETRAINED = (
    rename("norm.{p}", "fc_norm.{p}"),
    drop("lm_head.{p}", "it predicts features: only pre-training uses it", is_told=True),
)
LABELS = ("id2label", "label_names", "labels")
HEAD = (rename("head.{p}", "head.{p}"),)
PROJECTION = (rename("head.{p}", "proj.{p}"),)
UNBIASED_PROJECTION = (
    rename("head.weight", "proj.weight"),
    drop("head.bias", "zeros: the projection has no bias"),
)


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file. The head of a CLIP tower is its projection to the space of images and
    texts: in a Perception Encoder if its bias is zero, in an EVA that reads the class token also if
    it has a width of EVA's CLIPs."""
    return body_rules(state) + head_rules(state)


def body_rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file, without those of the head. Pre-training has no pooling: as in timm,
    its norm is that of the averaged patches."""
    table = TABLE
    if "mask_token" in state:
        table = PRETRAINED + table
    if any(".mlp.fc1_g." in name or ".mlp.fc1_x." in name for name in state):
        table = GATED + table
    if any(re.search(r"\.attn\.[qkv]_proj\.", name) for name in state):
        table = (KEYS_BIASED if "blocks.0.attn.k_proj.bias" in state else SEPARATE) + table
    return table


def head_rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules of the head, which is a classifier or a projection."""
    bias = state.get("head.bias")
    is_clip = "norm.weight" in state and "blocks.0.gamma_1" not in state
    if bias is None or "head.weight" not in state or not is_clip:
        return HEAD
    is_eva = "blocks.0.attn.q_bias" in state or "blocks.0.attn.q_proj.bias" in state
    is_encoder = "norm_pre.weight" in state and "attn_pool.latent" in state
    if (is_eva or is_encoder) and not bias.any():
        return UNBIASED_PROJECTION
    return PROJECTION if is_eva and bias.numel() in CLIPS else HEAD


def rules_by_config(state: Tensors, config: Json) -> tuple[Rule, ...]:
    """The rules for one file with its config. Names of classes make the head a classifier. So does,
    for a head whose bias is not zero, an architecture that is not a CLIP or has another width.
    Raises CheckpointError for such a head in a file without a config."""
    head = head_rules(state)
    is_labelled = any(config.get(key) for key in LABELS)
    if head is HEAD or is_labelled:
        return body_rules(state) + HEAD
    if head is PROJECTION and config and not _is_clip(state, config):
        head = HEAD
    elif head is PROJECTION and not config:
        classes, width = state["head.weight"].shape[0], state["head.weight"].shape[-1]
        raise CheckpointError(
            f"head.weight [{classes}, {width}] is EVA-CLIP's projection or a classifier of "
            f"{classes} classes, and no config says which",
            "give the folder with its config.json; label_names in it make it a classifier",
        )
    return body_rules(state) + head


def _is_clip(state: Tensors, config: Json) -> bool:
    """Whether the config names an EVA-CLIP with this width of the joint space."""
    name, classes = timm.architecture(config), state["head.weight"].shape[0]
    own = timm.pretrained_cfg(config).get("num_classes", classes)
    sizes = {clip.split("_patch")[0]: width for width, clip in CLIPS.items()}
    width = sizes.get(name.split("_patch")[0], classes)
    return "_clip_" in name and own == classes == width


def projection_rules(state: Tensors, at: str) -> tuple[Rule, ...]:
    """The rules of a head that is a projection, in a tower whose names begin with `at`. Raises
    CheckpointError for half of it."""
    weight, bias = (f"{at}head.{part}" for part in ("weight", "bias"))
    if weight not in state and bias not in state:
        return ()
    for name in (weight, bias):
        if name not in state:
            raise CheckpointError(f"{name} is missing", NOT_WHOLE)
    return PROJECTION if state[bias].any() else UNBIASED_PROJECTION


def detect(names: Collection[str]) -> bool:
    """Whether the tensors can be no other's: biases of q and v alone without a table of relative
    positions, a gate of its own, learned rotations, or registers and no positions."""
    if "patch_embed.proj.weight" not in names or "patch_embed.norm.weight" in names:
        return False
    block = "blocks.0."
    has_table = block + "attn.relative_position_bias_table" in names or any(
        name.startswith("rel_pos_bias.") for name in names
    )
    is_original = "rope.freqs_cos" in names or any(
        f"{block}{part}.weight" in names for part in ORIGINAL
    )
    has_attention = block + "attn.qkv.weight" in names or block + "attn.q_proj.weight" in names
    is_eva = block + "attn.q_bias" in names or block + "mlp.fc1_g.weight" in names
    # With a class token and no registers, it may also be a DeiT-III without its positions.
    is_other = "reg_token" in names or "cls_token" not in names
    is_placeless = "pos_embed" not in names and block + "gamma_1" in names and is_other
    is_rotary = "rope.freqs" in names or is_placeless
    return has_attention and not has_table and not is_original and (is_eva or is_rotary)


def is_named(config: Json) -> bool:
    """Whether the config names an architecture of this layout."""
    return re.fullmatch(ARCHITECTURES, timm.architecture(config)) is not None


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read sizes from the tensors, and the rest from the architecture's name and `model_args`."""
    name = timm.architecture(config)
    given = timm.model_args(config)
    is_published = is_named(config)
    args = DEFAULTS | (_published(name) if is_published else _shown(tensors)) | given
    _check_args(args, given)
    width, chans, *patch = shape(tensors, "patch_embed.proj.weight", 4)
    depth = args.get("depth") or count_blocks(tensors)
    if (width, depth) == ENORMOUS and not is_published:
        raise CheckpointError("this is an EVA-02 E, whose norms come after its sublayers")
    heads = num_heads or args.get("num_heads") or heads_of(width, depth)
    registers = int(number(args["num_reg_tokens"], "num_reg_tokens"))
    prefix = int(bool(args["class_token"])) + registers
    has_table, covers = args["use_abs_pos_emb"], not args["no_embed_class"]
    size = timm.image_size(config) or pair(args.get("img_size") or 224, "img_size")
    if has_table:
        like = size[0] // patch[0], size[1] // patch[1]
        grid = grid_of(shape(tensors, "pos_embed", 3)[1] - prefix * covers, like)
        size = size if grid == like else (grid[0] * patch[0], grid[1] * patch[1])
    hidden = shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0] // (1 + args["swiglu_mlp"])
    pool_heads, pool_hidden = 0, 0
    if args["global_pool"] == "map":
        pool_heads = args["attn_pool_num_heads"] or heads
        pool_hidden = shape(tensors, "attn_pool.mlp.fc1.weight", 2)[0]
    has_bias, of_rope = args["qkv_bias"], args["attn_type"] == "rope"
    pre_norm = bool(args["use_pre_transformer_norm"])
    return ViTConfig(
        image_size=size,
        patch_size=(patch[0], patch[1]),
        in_chans=chans,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        hidden_dim=hidden,
        num_classes=count_classes(tensors),
        projection=shape(tensors, "proj.weight", 2)[0] if "proj.weight" in tensors else 0,
        projection_bias="proj.bias" in tensors,
        class_token=args["class_token"],
        num_registers=registers,
        pos_embed=has_table,
        pos_prefix=prefix * covers if has_table else 0,
        pos_resize="bicubic-antialias",
        rope=_rope(args),
        fixed_grid=name.startswith("vit_pe_") or (not is_published and pre_norm),
        patch_bias=not pre_norm,
        pre_norm=pre_norm,
        qkv_bias=has_bias and of_rope,
        qv_bias=has_bias and not of_rope,
        attn_norm=args["scale_attn_inner"],
        layer_scale=args["init_values"] is not None,
        ffn="swiglu" if args["swiglu_mlp"] else "mlp",
        ffn_norm=args["scale_mlp"],
        pool=_pool(args, given, config, count_classes(tensors)),
        pool_heads=0 if pool_heads == heads else pool_heads,
        pool_hidden_dim=0 if pool_hidden == hidden else pool_hidden,
        pool_prefix=args["global_pool"] == "map",
        final_norm=_final_norm(args),
        norm_eps=args["eps"],
    )


def _published(name: str) -> dict[str, Any]:
    """The arguments of a published architecture. A Perception Encoder's reference is its grid."""
    args: dict[str, Any] = {}
    for pattern, values in ROWS:
        if re.fullmatch(pattern, name):
            args |= values
    if match := re.fullmatch(r"\w+_patch(\d+)_(?:\w+_)?(\d+)", name):
        args["img_size"] = int(match[2])
    if match and name.startswith("vit_pe_"):
        args["ref_feat_shape"] = int(match[2]) // int(match[1])
    return args


def _shown(tensors: Tensors) -> dict[str, Any]:
    """The arguments that the tensors show, for a file without a config."""
    block = "blocks.0."
    has_table, has_scale = "pos_embed" in tensors, block + "ls1.gamma" in tensors
    is_eva = block + "attn.q_bias" in tensors
    gate, out = (shape(tensors, block + f"mlp.{fc}.weight", 2) for fc in ("fc1", "fc2"))
    is_gated = gate[0] == 2 * out[1]
    registers = shape(tensors, "register_tokens", 3)[1] if "register_tokens" in tensors else 0
    has_class = "cls_token" in tensors
    if "norm_pre.weight" in tensors:
        family = ENCODER | ({} if has_class else {"rope_grid_offset": 0})
    elif registers and not has_table:
        family = DINO if has_class else GAP
    elif has_scale and block + "attn.qkv.bias" in tensors:
        family = NAVER | {"no_embed_class": True}
        if "rope.freqs" in tensors:
            family |= {"rope_type": "mixed", "rope_temperature": 10}
    else:
        family = EVA02 if is_gated and has_table else {}
    pooled, normed = (
        any(name.startswith(f"{norm}.") for name in tensors) for norm in ("fc_norm", "norm")
    )
    is_classifier = family is DINO and "head.weight" in tensors  # timm's default is the mean
    pool = "token" if normed and not is_classifier else "avg"
    return family | {
        "global_pool": "map" if "attn_pool.latent" in tensors else pool,
        "attn_pool_num_heads": 8 if "norm_pre.weight" in tensors else None,
        "class_token": has_class,
        "num_reg_tokens": registers,
        "use_abs_pos_emb": has_table,
        "qkv_bias": is_eva or block + "attn.qkv.bias" in tensors,
        "attn_type": "rope" if block + "attn.qkv.bias" in tensors else "eva",
        "swiglu_mlp": is_gated,
        "scale_mlp": block + "mlp.norm.weight" in tensors,
        "scale_attn_inner": block + "attn.norm.weight" in tensors,
        "init_values": 1e-5 if has_scale else None,
        "use_post_transformer_norm": normed,
        "use_fc_norm": pooled,
    }


def _check_args(args: Mapping[str, Any], given: Json) -> None:
    """Raise CheckpointError for an argument that changes the results, and for a value of the wrong
    kind."""
    for name, value in args.items():
        is_known = name in DEFAULTS or IGNORED.fullmatch(name)
        is_refused = bool(value) and (not is_known or (name == "eps" and name in given))
        is_flag = isinstance(DEFAULTS.get(name), bool) or (name in NORMS and value is not None)
        is_wrong = is_flag and not isinstance(value, bool)
        if is_refused or is_wrong or value not in KINDS.get(name, (value,)):
            raise CheckpointError(f"config.json: timm's {name}={value!r} is not supported")


def _rope(args: Mapping[str, Any]) -> Rope | None:
    """Read the rotary positions. Raises CheckpointError for values that timm's kinds of rotations
    do not have, or vitcli does not."""
    if not args["use_rot_pos_emb"]:
        return None
    kind, indexing = args["rope_type"], args["rope_grid_indexing"]
    offset, halves = number(args["rope_grid_offset"], "rope_grid_offset"), args["rope_rotate_half"]
    is_allowed = {
        "rope_type": kind in ("cat", "dinov3", "mixed"),
        "rope_grid_indexing": indexing in ("ij", "xy"),
        "rope_grid_offset": offset == (0 if kind == "dinov3" else int(offset)),
        "rope_rotate_half": not (kind == "mixed" and halves),
    }
    for name, is_so in is_allowed.items():
        if not is_so:
            raise CheckpointError(f"config.json: timm's {name}={args[name]!r} is not supported")
    reference, is_scaled = args["ref_feat_shape"], kind == "cat" and args["ref_feat_shape"]
    return Rope(
        theta=number(args["rope_temperature"], "rope_temperature"),
        coordinates="centred" if kind == "dinov3" else "index",
        offset=int(offset) if kind == "cat" else 0,
        reference=pair(reference, "ref_feat_shape") if is_scaled else None,
        columns_first=indexing == "xy",
        halves=halves,
        mixed=kind == "mixed",
    )


def _pool(args: Mapping[str, Any], given: Json, config: Json, num_classes: int) -> Pool:
    """The pooling: as the config says, but the class token in a DINOv3 without a classifier, as
    timm writes its own default into each config."""
    pooling = given.get("global_pool") or config.get("global_pool") or args["global_pool"]
    if args["global_pool"] == "map" or pooling == "map":
        return "map"
    if pooling not in POOLS:
        raise CheckpointError(f"config.json: timm's global_pool={pooling!r} is not supported")
    is_dino = args["rope_type"] == "dinov3" and args["use_rot_pos_emb"] and args["class_token"]
    if is_dino and not num_classes:
        return "cls"
    return POOLS[pooling]


def _final_norm(args: Mapping[str, Any]) -> Literal["tokens", "pooled", "none"]:
    """The final norm: as timm decides it, from the pooling where no argument does."""
    pooled, tokens = args["use_fc_norm"], args["use_post_transformer_norm"]
    pooled = args["global_pool"] == "avg" if pooled is None else pooled
    tokens = not pooled if tokens is None else tokens
    if pooled and tokens:
        raise CheckpointError("config.json: a norm before pooling and one after it: not supported")
    return "pooled" if pooled else "tokens" if tokens else "none"


def heads_of(width: int, depth: int) -> int:
    """The number of heads of the published models of this width and depth. Raises CheckpointError
    if there is none."""
    try:
        return NUM_HEADS[width, depth]
    except KeyError:
        raise CheckpointError(
            f"no published model has width {width} and {depth} blocks, "
            "and the number of heads is not in the file",
            "give it with --num-heads",
        ) from None


def family(config: Config) -> Family | None:
    """The family whose preprocessing applies to a file that says none."""
    if not isinstance(config, ViTConfig):
        return None
    if config.rope and config.rope.coordinates == "centred":
        return DINOV3
    if config.fixed_grid:
        return PE
    return EVA if config.qv_bias else None


def notes(config: Config, json: Json) -> tuple[str, ...]:
    """A note on a head that is read as a projection, and one where timm pools in another way."""
    if isinstance(config, ViTConfig) and config.qv_bias and config.projection_bias:
        read = f"its head is read as EVA-CLIP's projection to {config.projection}"
        return (f"{read}; if it is a classifier, label_names in config.json say so",)
    averages = timm.model_args(json).get("global_pool", json.get("global_pool")) == "avg"
    if not averages or config.pool != "cls" or config.num_classes:
        return ()
    return ("its embedding is the class token, as its authors'; timm's is --pool mean",)


def rules_to_write(config: ViTConfig) -> tuple[Rule, ...]:
    """The rules for writing: the tensors that timm's class has for the arguments written."""
    separate = SEPARATE if is_separate(config) else ()
    return separate + (GATED if is_gate_apart(config) else ()) + TABLE + HEAD


WRITER = Writer(
    "timm",
    ViTConfig,
    rules_to_write,
    write_config,
    ONLY,
    refusals,
    adapt,
    rare=RARE_PARTS,
)
LAYOUT = Layout(
    "timm-eva",
    timm.PREFIXES,
    detect,
    rules,
    read_config,
    WRITER,
    architectures=ARCHITECTURES,
    doubt="no config says which rotary positions and pooling the model has: its tensors decide",
    words="timm",
    family_of=family,
    rules_by_config=rules_by_config,
    notes=notes,
)
