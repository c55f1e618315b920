"""open_clip with a vision tower of timm, as in its SigLIP models: `open_clip/timm_model.py`.

The tower has timm's names under `visual.trunk.`, and may have a projection, `visual.head.proj`.
Only open_clip's JSON has the name of the timm model, and how it pools.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from vitcli.checkpoints.keymap import Rule, rename
from vitcli.checkpoints.layouts import openai, timm, timm_eva
from vitcli.checkpoints.layouts.layout import Json, Layout, Tensors
from vitcli.checkpoints.layouts.texts.open_clip import OPEN_CLIP_TEXTS, model_config
from vitcli.checkpoints.preprocess.published import SIGLIP
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig
from vitcli.models.fields import Pool

TRUNK = openai.VISUAL + "trunk."
POOLS: dict[str, Pool] = {"token": "cls", "avg": "mean", "map": "map"}


def _under_trunk(rule: Rule) -> Rule:
    spelled = [tuple(TRUNK + name for name in names) for names in rule.spellings]
    return replace(rule, theirs=spelled[0], also=tuple(spelled[1:]))


def detect(names: Collection[str]) -> bool:
    return TRUNK + "patch_embed.proj.weight" in names and any(
        f"{TRUNK}blocks.0.attn.{part}.weight" in names for part in ("qkv", "q_proj")
    )


def rules(state: Tensors) -> tuple[Rule, ...]:
    """The rules for one file. Those of timm's `Eva` know the names of its plain ViTs, too."""
    trunk = {name.removeprefix(TRUNK): tensor for name, tensor in state.items()}
    return (
        *map(_under_trunk, (*timm_eva.body_rules(trunk), *timm_eva.projection_rules(state, TRUNK))),
        rename(openai.VISUAL + "head.proj.{p}", "proj.{p}"),
        *openai.TEXT_RULES,
    )


def read_config(tensors: Tensors, config: Json, num_heads: int | None) -> ViTConfig:
    """Read the config as timm's, for the model that the JSON names. A file without a JSON is read
    as a SigLIP, whose pooling the tensors show."""
    model = model_config(config)
    vision = dict(model.get("vision_cfg") or {})
    pool = vision.get("timm_pool")
    if pool not in (None, *POOLS):
        raise CheckpointError(f"open_clip's timm_pool={pool!r} is not supported")
    args: dict[str, Any] = {"img_size": vision["image_size"]} if "image_size" in vision else {}
    named: dict[str, Any] = {"architecture": vision.get("timm_model_name", ""), "model_args": args}
    # Without a projection of its own, open_clip builds the tower with its pooling; else it changes
    # the pooling of the finished tower, whose norms remain.
    is_changed = vision.get("timm_proj", "linear") in ("linear", "mlp")
    if pool:
        (named if is_changed else args)["global_pool"] = pool
    is_eva = timm_eva.is_named(named) or timm_eva.detect(tensors)
    read = timm_eva.read_config if is_eva else timm.read_config
    tower = read(tensors, named, num_heads)
    if pool and tower.pool != "map":  # where timm's config would leave it to the family
        tower = replace(tower, pool=POOLS[pool])
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
    texts=OPEN_CLIP_TEXTS,
    family_of=timm_eva.family,
)
