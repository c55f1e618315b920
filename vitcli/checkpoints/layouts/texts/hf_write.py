"""Write a text tower next to its tower of images, as a `CLIPModel`, `MetaClip2Model` `SiglipModel`
or `Siglip2Model` of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from vitcli.checkpoints.keymap import to_theirs
from vitcli.checkpoints.layouts.layout import Expressed
from vitcli.checkpoints.layouts.texts.hf import CLIP_RULES, OLD_EOS, SIGLIP_RULES, write_text_config
from vitcli.models.text_config import TextConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

Kind = Literal["clip", "siglip"]
KINDS: Mapping[str, Kind] = {"hf-clip": "clip", "hf-siglip": "siglip", "hf-siglip2": "siglip"}
VISION = "vision_model."


def obstacles(kind: Kind, config: TextConfig, bias: float | None) -> list[str]:
    """List the parts of a text tower that the class of transformers cannot express."""
    is_clip = kind == "clip"
    found = {
        "a causal mask": config.causal != is_clip,
        f"texts pooled at {config.pool}": config.pool
        not in (("argmax", "eos") if is_clip else ("last",)),
        "no projection of texts": not config.projection,
        "a bias of the projection of texts": config.projection_bias != (not is_clip),
        "layer scale": config.layer_scale,
        "a bias of the similarity": (bias is None) != is_clip,
    }
    return [what for what, is_so in found.items() if is_so]


def express(
    kind: Kind,
    form: Expressed,
    config: TextConfig,
    tensors: Mapping[str, Tensor],
    scale: Tensor,
    bias: Tensor | None,
) -> Expressed:
    """Add a text tower without obstacles to the form of its tower of images. The tensors are in
    vitcli's names; `scale` and `bias` are `logit_scale` and `logit_bias`."""
    vision = {name: value for name, value in form.json.items() if name != "architectures"}
    texts = write_text_config(config)
    images = {
        name if name.startswith((VISION, "visual_projection.")) else VISION + name: tensor
        for name, tensor in form.tensors.items()
    }
    if kind == "siglip":
        assert bias is not None
        is_2 = vision["model_type"] == "siglip2_vision_model"
        name, model = ("Siglip2", "siglip2") if is_2 else ("Siglip", "siglip")
        json = _json(name, model, vision, {**texts, "projection_size": config.projection})
        added = {"logit_scale": scale.reshape(1), "logit_bias": bias.reshape(1)}
        theirs = to_theirs(tensors, SIGLIP_RULES)
    else:
        eos = OLD_EOS if config.pool == "argmax" else config.eos_id
        name, model = "CLIP", "clip"
        if config.pool == "eos" and eos <= OLD_EOS:  # CLIP's tokenizer has its end last
            name, model = "MetaClip2", "metaclip_2"
            vision["model_type"] = "metaclip_2_vision_model"
        json = _json(name, model, vision, {**texts, "eos_token_id": eos})
        json["projection_dim"] = json["text_config"]["projection_dim"] = config.projection
        added = {"logit_scale": scale.reshape(())}
        theirs = to_theirs(tensors, CLIP_RULES)
    added = {name: tensor.float() for name, tensor in added.items()}
    return replace(form, json=json, tensors={**images, **theirs, **added})


def _json(name: str, model: str, vision: dict[str, Any], texts: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": [f"{name}Model"],
        "model_type": model,
        "vision_config": vision,
        "text_config": {**texts, "model_type": f"{model}_text_model"},
    }
