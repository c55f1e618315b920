"""Write a loaded model into a directory that transformers or timm opens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from vitcli.checkpoints import layouts
from vitcli.checkpoints.keymap import Made, to_ours
from vitcli.checkpoints.layouts.decoders import refuse_decoder
from vitcli.checkpoints.layouts.layout import Expressed, Layout, Library
from vitcli.checkpoints.layouts.texts import hf_write
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocess.hf import normalised_less, to_hf
from vitcli.checkpoints.preprocess.timm import to_timm
from vitcli.checkpoints.scoring import DESCRIBED
from vitcli.errors import CheckpointError
from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin_config import SwinConfig
from vitcli.records import by

FileDtype = Literal["fp32", "fp16", "bf16"]
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Scores of a Swin V2 differ by at most twice the scale of its cosines and 16 of the bias. Up to
# this scale, a mask of -100 leaves a masked token less than 2e-8 of the weight of another.
MAX_MASKED_SCALE = 33.0
HF_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Written:
    """The result of writing: the layout's name, notes on changes, and for each tensor of the model
    the written tensors that hold it. `has_text`: the text tower is written, too."""

    layout: str
    notes: tuple[str, ...]
    made: dict[str, Made]
    has_text: bool = False


def write_hf(model: Model, folder: Path, dtype: FileDtype) -> Written:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors`, with labels.

    Takes the first of transformers' layouts that can express the model. If none can, raises
    CheckpointError with the obstacles of the closest one.
    """
    layout, form, notes = _hf_form(model)
    form, text_notes = _with_text(model, layout, form)
    values = form.json
    if model.labels:
        values["id2label"] = {str(i): label for i, label in enumerate(model.labels)}
        values["label2id"] = {label: i for i, label in enumerate(model.labels)}
    values |= _problem_type(model)
    values["dtype"] = HF_DTYPES[dtype]
    _write_json(folder / "config.json", values)
    plan, config = model.preprocess, form.config
    if isinstance(config, ViTConfig) and config.pixel_norm:
        plan = normalised_less(plan, config.pixel_norm)
    _write_json(folder / "preprocessor_config.json", to_hf(plan))
    _write_tensors(folder / "model.safetensors", form.tensors, dtype)
    notes = (*notes, *_notes(model.config, form.config, "transformers"), *form.notes)
    notes = (*notes, *_mask_notes(model, form.config), *text_notes)
    has_text = not text_notes and model.text_source is not None
    return Written(layout.name, notes, _made(layout, form), has_text=has_text)


def _with_text(model: Model, layout: Layout, form: Expressed) -> tuple[Expressed, tuple[str, ...]]:
    """Add the text tower, if there is one, or return a note why it is left out."""
    source = model.text_source
    if source is None or model.config.num_classes:
        return form, ()
    kind = hf_write.KINDS.get(layout.name)
    if kind is None:
        return form, (f"the text tower is left out: {layout.name} has none",)
    try:
        config, bias = model.text.config, source.similarity.bias
    except CheckpointError as error:
        return form, (f"the text tower is left out: {error.message}",)
    if found := hf_write.obstacles(kind, config, bias):
        return form, (f"the text tower is left out: {layout.name} has no {found[0]}",)
    assert source.scale is not None
    tensors = model.text.state_dict()
    return hf_write.express(kind, form, config, tensors, source.scale, source.bias), ()


def check_hf(model: Model) -> None:
    """Raise CheckpointError if no layout of transformers can express a model and its decoder."""
    _hf_form(model)


def _hf_form(model: Model) -> tuple[Layout, Expressed, tuple[str, ...]]:
    """The layout of transformers that can express a model, the model in its form, and notes."""
    layout, config = _hf_layout(model.config, model.layout)
    tensors, notes = model.network.state_dict(), []
    if config != model.config:
        tensors = _without_layer_scale(tensors)
        notes.append(
            "layer scale, which this layout lacks, is multiplied into the weights before it"
        )
    assert layout.writer is not None
    form = layout.writer.express(config, tensors)
    if model.reconstruction is not None:
        express = layout.decoders.express if layout.decoders else None
        if express is None:
            refuse_decoder([f"a decoder after an encoder of {layout.name}"])
        else:
            form = express(model.reconstruction, form)
    return layout, form, tuple(notes)


def _hf_layout(config: Config, own: str = "") -> tuple[Layout, Config]:
    """The layout of transformers that can express a config, and the config. If only layer scale is
    an obstacle, the config is one without it."""
    try:
        return _layout_for(config, "transformers", own), config
    except CheckpointError as error:
        if not isinstance(config, ViTConfig):
            raise
        folded = replace(config, layer_scale=False)
        try:
            return _layout_for(folded, "transformers", own), folded
        except CheckpointError:
            raise error from None


def library_for(config: Config) -> Library:
    """The library that a trained model is written for: transformers, or timm if transformers has no
    class for the model. Raises CheckpointError, with transformers' obstacles, if neither has."""
    try:
        _hf_layout(config)
    except CheckpointError as error:
        try:
            _layout_for(config, "timm")
        except CheckpointError:
            raise error from None
        return "timm"
    return "transformers"


def write_trained(model: Model, folder: Path) -> Written:
    """Write a model for the library of `library_for`, in fp32."""
    write = write_hf if library_for(model.config) == "transformers" else write_timm
    return write(model, folder, "fp32")


def write_timm(model: Model, folder: Path, dtype: FileDtype) -> Written:
    """Write `config.json` and `model.safetensors`, for `timm.create_model("local-dir:FOLDER")`."""
    layout = _layout_for(model.config, "timm", model.layout)
    assert layout.writer is not None
    form = layout.writer.express(model.config, model.network.state_dict())
    values = form.json
    cfg = {**to_timm(model.preprocess), "num_classes": form.config.num_classes}
    classifier = "head" if isinstance(form.config, ViTConfig) else "head.fc"
    values["pretrained_cfg"] = {**cfg, "classifier": classifier, "first_conv": "patch_embed.proj"}
    if model.labels:
        values["label_names"] = list(model.labels)
    values |= _problem_type(model)  # transformers reads it here, too
    _write_json(folder / "config.json", values)
    _write_tensors(folder / "model.safetensors", form.tensors, dtype)
    notes = (*_notes(model.config, form.config, "timm"), *form.notes, *_score_notes(model))
    notes = (*notes, *_mask_notes(model, form.config))
    return Written(layout.name, notes, _made(layout, form))


WRITERS: dict[str, Callable[[Model, Path, FileDtype], Written]] = {
    "hf": write_hf,
    "timm": write_timm,
}


def _without_layer_scale(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply each layer scale into the linear map before it: one factor for each row."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".gamma")}
    for scale, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name, tensor in tensors.items():
            if name.endswith(f".{scale}.gamma"):
                scaled = name.removesuffix(f"{scale}.gamma") + linear
                kept[scaled + ".weight"] = kept[scaled + ".weight"] * tensor[:, None]
                if scaled + ".bias" in kept:
                    kept[scaled + ".bias"] = kept[scaled + ".bias"] * tensor
    return kept


def _layout_for(config: Config, library: Library, own: str = "") -> Layout:
    """The first layout of a library that can express a config, `own` before the others. Raises
    CheckpointError, with the obstacles of the closest layout."""
    obstacles: dict[str, list[str]] = {}
    for layout in sorted(layouts.LAYOUTS, key=lambda layout: layout.name != own):
        writer = layout.writer
        if writer and writer.library == library and isinstance(config, writer.kind):
            obstacles[layout.name] = writer.obstacles(config)
            if not obstacles[layout.name]:
                return layout
    closest = min(obstacles, key=lambda name: len(obstacles[name]))
    if len(obstacles) == 1:
        raise CheckpointError(
            f"{library} cannot express {', '.join(obstacles[closest])}",
            "--to onnx writes any model",
        )
    raise CheckpointError(
        f"none of the layouts of {library} can express this model",
        f"the closest, {closest}, cannot express {', '.join(obstacles[closest])}",
    )


def _notes(before: Config, after: Config, library: str) -> list[str]:
    notes = []
    if after.norm_eps != before.norm_eps:
        notes.append(
            f"{library}'s LayerNorm has epsilon {after.norm_eps:g}, this model {before.norm_eps:g}"
        )
    if isinstance(before, ViTConfig) and isinstance(after, ViTConfig):
        if after.pos_prefix > before.pos_prefix:
            notes.append("prefix tokens had no position of their own: they get one of zeros")
        elif after.pos_prefix < before.pos_prefix:
            notes.append("the class token's position is added to the token itself")
        if before.pos_grid not in (None, after.pos_grid):
            notes.append(
                f"positions are written for {by(before.image_size)}: {library} resamples them in "
                "another way for other sizes"
            )
        if before.rope and before.rope.periods and after.rope and not after.rope.periods:
            notes.append(
                f"{library} computes the rotary periods exactly, this model has them rounded by up "
                f"to {before.rope.rounding:.2%}: results differ slightly (--verify measures it)"
            )
    return notes


def _mask_notes(model: Model, after: Config) -> list[str]:
    """A note if a Swin V2 has such large scores that the other library's mask may let tokens attend
    across the edges of a shifted grid, or no longer."""
    before = model.config
    if not isinstance(before, SwinConfig) or not isinstance(after, SwinConfig):
        return []
    scales = [
        min(float(tensor.exp().max()), 100.0)
        for name, tensor in model.network.state_dict().items()
        if name.endswith(".logit_scale") and _is_shifted(before, name)
    ]
    scale = max(scales, default=0.0)
    if before.far == after.far or scale <= MAX_MASKED_SCALE:
        return []
    return [
        f"shifted windows are separated by {after.far:g} there, by {before.far:g} in this model: "
        f"with cosines scaled by {scale:.0f} the results may differ (--verify compares them)"
    ]


def _is_shifted(config: SwinConfig, name: str) -> bool:
    """Whether a tensor is in a block with shifted windows."""
    _, stage, _, block, *_ = name.split(".")
    shift = config.windows(int(stage), config.layer_grid(int(stage)))[1]
    return int(block) % 2 == 1 and any(shift)


def _problem_type(model: Model) -> dict[str, str]:
    """The checkpoint's `problem_type`, for the written config. transformers 5 refuses
    single-label classification with one output, so the key is left out there."""
    problem = model.problem_type
    is_refused = problem == "single_label_classification" and model.config.num_classes == 1
    return {} if problem is None or is_refused else {"problem_type": problem}


def _score_notes(model: Model) -> list[str]:
    """A note for timm's users, who would apply softmax, if the head's scores are not softmax's."""
    function = model.score_function
    if function == "softmax" or not model.labels:
        return []
    return [f"timm does not know how this head makes scores: {DESCRIBED[function]}"]


def _made(layout: Layout, form: Expressed) -> dict[str, Made]:
    """The written tensors that hold each tensor of the model, found by reading the names back."""
    names = layout.strip(form.tensors)
    rules = layout.rules_with(layout.decoder_in(names), names, form.json)
    return to_ours({n: tensor.to("meta") for n, tensor in names.items()}, rules).made


def _write_tensors(file: Path, state: Mapping[str, Tensor], dtype: FileDtype) -> None:
    kind = TORCH_DTYPES[dtype]
    cast = {
        name: (tensor.to(kind) if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in state.items()
    }
    file.write_bytes(save(cast, metadata={"format": "pt"}))


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
