"""The files of EVA-02 and EVA-CLIP from their own repository, `baaivision/EVA`: those of
`EVA-02/asuka/modeling_finetune.py` and `EVA-CLIP/rei/eva_clip/eva_vit_model.py`.

The network is that of timm's class `Eva`, some of whose tensors have other names here. A CLIP has
its tower under `visual.`, and next to it a text tower, which is open_clip's. The table of the
rotations is in the file (`rope.freqs_cos`): it shows the width of a head and the grid to which the
indices are scaled. Some programs leave it out; then they are those of the published models.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from vitcli.checkpoints.keymap import Rule, drop, rename
from vitcli.checkpoints.layouts import timm_eva
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors, number, shape
from vitcli.checkpoints.layouts.openai import TEXT_RULES, VISUAL
from vitcli.checkpoints.layouts.texts.open_clip import OPEN_CLIP_TEXTS, model_config
from vitcli.checkpoints.preprocess.published import EVA02, EVA_OWN
from vitcli.errors import CheckpointError
from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig

THETA, REFERENCE = 10_000, 16  # of all published models
COS, SIN = "rope.cos", "rope.sin"
TABLE_ERROR = 2**-7  # the largest error of a table in bf16
# timm's names, and the repository's. A SwiGLU that timm packs is packed here, too.
NAMES = {
    "mlp.fc1_g": "mlp.w1",
    "mlp.fc1_x": "mlp.w2",
    "mlp.norm": "mlp.ffn_ln",
    "attn.norm": "attn.inner_attn_ln",
    "attn.q_proj.bias": "attn.q_bias",
    "attn.v_proj.bias": "attn.v_bias",
}
PACKED = {"mlp.fc1.": "mlp.w12."}
GATED = {"mlp.fc2.": "mlp.w3."}
TABLE = (
    rename("rope.freqs_cos", COS),
    rename("rope.freqs_sin", SIN),
    drop("blocks.{i}.attn.rope.freqs_cos", "the same as rope.freqs_cos"),
    drop("blocks.{i}.attn.rope.freqs_sin", "the same as rope.freqs_sin"),
)
SIGNS = tuple(f"blocks.0.{name}.weight" for name in timm_eva.ORIGINAL)


def _at(names: Collection[str]) -> str:
    """The prefix of the tower's names."""
    return VISUAL if any(name.startswith(VISUAL + "blocks.") for name in names) else ""


def detect(names: Collection[str]) -> bool:
    at = _at(names)
    block = at + "blocks.0.attn."
    is_original = bool(at) or "rope.freqs_cos" in names or any(sign in names for sign in SIGNS)
    has_products = block + "qkv.weight" in names or block + "q_proj.weight" in names
    return block + "q_bias" in names and is_original and has_products


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file: timm's, with the repository's names. The head of a CLIP's tower is
    its projection."""
    at = _at(state)
    tower = {name.removeprefix(at): tensor for name, tensor in state.items() if name.startswith(at)}
    is_apart = any(".mlp.w1." in name or ".mlp.w2." in name for name in tower)
    is_packed = any(".mlp.w12." in name for name in tower)
    names = NAMES | (GATED if is_apart or is_packed else {}) | (PACKED if is_packed else {})
    heads = timm_eva.projection_rules(state, at) if at else timm_eva.head_rules(tower)
    table = (timm_eva.GATED if is_apart else ()) + timm_eva.body_rules(tower) + heads + TABLE
    return (*(_spelled(rule, at, names) for rule in table), *(TEXT_RULES if at else ()))


def _spelled(rule: Rule, at: str, names: Mapping[str, str]) -> Rule:
    """A rule of timm's with the names of a file, which begin with `at`."""

    def spell(name: str) -> str:
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        return at + name

    theirs, *also = (tuple(spell(name) for name in spelling) for spelling in rule.spellings)
    return replace(rule, theirs=theirs, also=tuple(also))


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read the sizes from the tensors, as timm's `Eva` has them, and the rotations from their
    table. `eva_clip`'s JSON, if there is one, says the rest."""
    vision = dict(model_config(config).get("vision_cfg") or {})
    if vision.get("postnorm"):
        raise CheckpointError("eva_clip's postnorm=True is not supported")
    args: dict[str, Any] = {}
    if "image_size" in vision:
        args["img_size"] = vision["image_size"]
    if "rope" in vision:
        side = vision.get("pt_hw_seq_len", REFERENCE)
        args |= {"use_rot_pos_emb": bool(vision["rope"]), "ref_feat_shape": [side, side]}
    width, *_ = shape(tensors, "patch_embed.proj.weight", 4)
    for name in ("cls_token", "pos_embed"):  # which timm's class may lack
        shape(tensors, name, 3)
    if "head_width" in vision:
        num_heads = num_heads or width // max(1, int(number(vision["head_width"], "head_width")))
    if COS in tensors or SIN in tensors:
        heads, reference = _read_table(tensors, width)
        if num_heads not in (None, heads):
            raise CheckpointError(
                f"rope.freqs_cos is that of {heads} heads, and not of {num_heads}",
                "leave out --num-heads",
            )
        num_heads = heads
        args |= {"use_rot_pos_emb": True, "ref_feat_shape": [reference, reference]}
    return timm_eva.read_config(tensors, {"model_args": args}, num_heads)


def _read_table(tensors: Tensors, width: int) -> tuple[int, int]:
    """The number of heads, and the side of the grid to which the indices are scaled: that of the
    published models, the table's own, or what the angle between two columns shows. Raises
    CheckpointError for a table that is none of these."""
    count, head = shape(tensors, COS, 2)
    if shape(tensors, SIN, 2) != (count, head):
        raise CheckpointError(
            f"rope.freqs_sin has another shape than rope.freqs_cos, {[count, head]}"
        )
    side = math.isqrt(count)
    if side**2 != count or head % 4 or width % head:
        raise CheckpointError(
            f"rope.freqs_cos has shape {[count, head]}: expected a row for each patch of a square, "
            f"and a column for each channel of a head, of {width} in all"
        )
    cosine, sine = (tensors[name].float().cpu() for name in (COS, SIN))  # of torch from here on
    from vitcli.models.positions import RotaryEmbedding

    angle = math.atan2(sine[1 % count, head // 2], cosine[1 % count, head // 2])
    for reference in (REFERENCE, side, round(angle * side)):
        rope = Rope(
            theta=THETA, coordinates="index", reference=(reference, reference), halves=False
        )
        computed = RotaryEmbedding(rope, 1, 1, head)((side, side), 0, cosine.device)[0]
        expected = (table.repeat_interleave(2, dim=-1) for table in computed)
        pairs = zip((cosine, sine), expected, strict=True)
        if all((found - table).abs().max() <= TABLE_ERROR for found, table in pairs):
            return width // head, reference
    raise CheckpointError(
        "rope.freqs_cos is not the table of EVA-02's rotations: its frequencies differ"
    )


LAYOUT = Layout(
    "eva",
    (),
    detect,
    rules,
    read_config,
    config_tensors=frozenset({COS, SIN}),
    evaluation=EVA_OWN,
    family=EVA02,
    texts=OPEN_CLIP_TEXTS,
)
