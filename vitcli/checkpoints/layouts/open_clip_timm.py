"""open_clip with a vision tower of timm, as in its SigLIP models: `open_clip/timm_model.py`.

The tower has timm's names under `visual.trunk.`, and may have a projection, `visual.head.proj`.
Only open_clip's JSON has the name of the timm model, and how it pools.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from vitcli.checkpoints.keymap import Rule, rename
from vitcli.checkpoints.layouts import openai, timm
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors
from vitcli.checkpoints.preprocess.published import SIGLIP
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig

TRUNK = openai.VISUAL + "trunk."


def _under_trunk(rule: Rule) -> Rule:
    spelled = [tuple(TRUNK + name for name in names) for names in rule.spellings]
    return replace(rule, theirs=spelled[0], also=tuple(spelled[1:]))


RULES = (
    *map(_under_trunk, timm.RULES),
    rename(openai.VISUAL + "head.proj.weight", "proj.weight"),
    *openai.TEXT_RULES,
)


def detect(names: Collection[str]) -> bool:
    return (
        TRUNK + "patch_embed.proj.weight" in names and TRUNK + "blocks.0.attn.qkv.weight" in names
    )


def rules(state: Tensors) -> tuple[Rule, ...]:
    return RULES


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read the config as timm's, for the model that the JSON names. A file without a JSON is read
    as a SigLIP, whose pooling the tensors show."""
    model = openai.model_config(config)
    vision = dict(model.get("vision_cfg") or {})
    pool = vision.get("timm_pool") or None
    if pool not in (None, "token", "avg", "map"):
        raise CheckpointError(f"open_clip's timm_pool={pool!r} is not supported")
    args = {"img_size": vision["image_size"]} if "image_size" in vision else {}
    named = {"architecture": vision.get("timm_model_name", ""), "model_args": args}
    tower = timm.read_config(tensors, named | ({"global_pool": pool} if pool else {}), num_heads)
    if tower.projection or not vision or vision.get("timm_proj", "linear") == "none":
        return tower
    return replace(tower, projection=model.get("embed_dim", 0))  # `build` reports it as missing


LAYOUT = Layout(
    "open-clip-timm",
    (),
    detect,
    rules,
    read_config,
    words="open_clip",
    family=SIGLIP,
)
