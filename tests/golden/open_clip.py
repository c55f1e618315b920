"""Writes open_clip.npz: what tiny models of open_clip answer, by `encode_text`, `encode_image` and
`get_logits`, with their JSON and the shapes of their tensors.

Run by hand, in an environment with open_clip_torch and timm:

    python -m tests.golden.open_clip
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip import timm_model
from open_clip.model import CLIP, CustomTextCLIP

from tests.fixtures.weights import fill, pixels, token_ids

EMBED, SIZE, VOCABULARY, LENGTH = 24, 32, 40, 12
VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": SIZE}
TEXT = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 32, "heads": 4, "layers": 2}
NO_MASK: dict[str, Any] = {"no_causal_mask": True}
SIGLIP = {
    **NO_MASK,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
EOS = {"pool_type": "eos", "eos_id": 2, "pad_id": 1}
TRUNK = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIZE, "patch_size": 8}


def tower(name: str, pool: str, proj: str | None = None, **more: Any) -> dict[str, Any]:
    """The `vision_cfg` of a tower of timm's."""
    return {
        "timm_model_name": name,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": SIZE,
        **more,
    }


def model(vision: dict[str, Any], text: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "embed_dim": EMBED,
        "vision_cfg": vision if "timm_model_name" in vision else {**VISION, **vision},
        "text_cfg": {**TEXT, **text},
        **more,
    }


CUSTOM = {"custom_text": True}
CASES = {
    "quick": model({}, {"ls_init_value": 0.1}, quick_gelu=True),
    "custom": model({}, {"norm_kwargs": {"eps": 1e-2}}, **CUSTOM),
    "first": model({}, {**NO_MASK, "pool_type": "first"}),
    "eos": model({}, EOS),
    "eos_no_mask": model({}, {**NO_MASK, **EOS}, **CUSTOM),
    "no_projection": {**model({}, {"proj_type": "none"}, **CUSTOM), "embed_dim": 32},
    "mobileclip2": model(tower("vit_large_patch14_clip_224", "token"), NO_MASK, **CUSTOM),
    "mobileclip_b": model(tower("vit_large_patch14_clip_224", "token"), {}, **CUSTOM),
    "siglip": {
        **model(tower("vit_base_patch16_siglip_224", "map", "none"), SIGLIP, **CUSTOM),
        "embed_dim": 32,
        "init_logit_bias": -10,
    },
    "linear_bias": model(tower("vit_base_patch16_224", "avg", "linear", timm_proj_bias=True), {}),
    "eva02": model(tower("eva02_base_patch16_clip_224", "token"), {}, **CUSTOM),
    "pe_core": model(tower("vit_pe_core_tiny_patch16_384", "map"), {}, **CUSTOM),
}


@torch.inference_mode()
def answers(json_: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    config = dict(json_)
    built = (CustomTextCLIP if config.pop("custom_text", False) else CLIP)(**config).eval()
    state = built.state_dict()
    keys = {name: list(value.shape) for name, value in state.items()}
    built.load_state_dict({name: torch.from_numpy(value) for name, value in fill(keys).items()})
    text = config["text_cfg"]
    eos = text["eos_id"] if text.get("pool_type") == "eos" else VOCABULARY - 1
    ids = torch.from_numpy(token_ids(VOCABULARY, LENGTH, eos, text.get("pad_id", 0)))
    images = torch.from_numpy(pixels(2, SIZE, SIZE))
    found = {
        "texts": built.encode_text(ids),
        "images": built.encode_image(images),
        "logits": built.get_logits(images, ids)[0],
    }
    return {name: value.numpy() for name, value in found.items()}, keys


def main() -> None:
    create = timm.create_model
    timm_model.timm.create_model = lambda name, **options: create(name, **{**options, **TRUNK})
    arrays: dict[str, np.ndarray] = {}
    described = {}
    for name, config in CASES.items():
        found, keys = answers(config)
        described[name] = {"model_cfg": config, "keys": keys}
        arrays |= {f"{name} {what}": value for what, value in found.items()}
    about = {"open_clip": open_clip.__version__, "timm": timm.__version__, "models": described}
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"), **arrays, about=np.array(json.dumps(about))
    )


if __name__ == "__main__":
    main()
