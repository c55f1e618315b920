"""What was typed as the model into one that is ready to use: built, strictly filled, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vitcli.checkpoints import preprocessing
from vitcli.checkpoints.heads import read_head
from vitcli.checkpoints.keymap import their_name, to_ours
from vitcli.checkpoints.labels import Labels, read_labels
from vitcli.checkpoints.layouts import decoders, layout_of
from vitcli.checkpoints.layouts.decoders import Reconstruction
from vitcli.checkpoints.layouts.layout import Json, Layout, MissingTensor
from vitcli.checkpoints.layouts.openai import model_config
from vitcli.checkpoints.layouts.timm import image_size as timm_image_size
from vitcli.checkpoints.layouts.timm import pretrained_cfg
from vitcli.checkpoints.resolve import Checkpoint, check_sha256, resolve
from vitcli.checkpoints.resolve import sha256 as sha256_of
from vitcli.checkpoints.tensors import read_weights
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import Config
from vitcli.models.network import Network, network_of
from vitcli.models.vit import VisionTransformer
from vitcli.records import Decode, Preprocess, Size

# Whose published preprocessing fits, where the layout tells.
FAMILIES = {
    "hf-dinov2": "dinov2",
    "hf-clip": "clip",
    "hf-siglip": "siglip",
    "openai": "clip",
    "open-clip": "clip",
    "hf-swin": "swin",
    "timm-swin": "swin",
    "swin": "swin",
}
Module = TypeVar("Module", bound=nn.Module)
OPEN_CLIP = ("openai", "open-clip")
TIMM = ("timm", "timm-swin")


@dataclass(frozen=True)
class Model:
    """A network with everything that belongs to it. `labels` is empty without a classifier.

    What stands last is told by `vit info`: where labels and steps of the preprocessing came from,
    the precisions on disk, what the file calls its architecture, and the image size that its
    position embeddings were stored for.
    `reconstruction` is `network` with the decoder of masked pre-training, where it was kept.
    """

    spec: str
    network: Network
    preprocess: Preprocess
    labels: tuple[str, ...]
    layout: str
    files: tuple[Path, ...]
    revision: str | None
    notes: tuple[str, ...]
    fused: int = 0
    dropped: Mapping[str, str] = field(default_factory=dict)
    labels_source: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    architecture: str = ""
    stored_size: Size | None = None
    reconstruction: Reconstruction | None = None

    @property
    def config(self) -> Config:
        return self.network.config

    @cached_property
    def sha256(self) -> str:
        """The hash of the weight files, computed when it is first asked for."""
        return sha256_of(self.files)


def load(
    spec: str | Checkpoint,
    *,
    layout: str | None = None,
    labels: Path | None = None,
    image_size: Size | None = None,
    preprocess: str | None = None,
    num_heads: int | None = None,
    exif: bool = True,
    decode: Decode = "exact",
    offline: bool = False,
    head: Path | None = None,
    sha256: str | None = None,
    keep_grid: bool = False,
    keep_decoder: bool = False,
) -> Model:
    """Load a checkpoint in fp32, in eval mode, on the CPU. Nothing is ever left at random.

    spec: hub id (`org/name`, `org/name@revision`), directory, weight file, or `demo`; or what
    `resolve` has made of one.
    layout, labels, image_size (height, width), preprocess ("hf" or "timm") and num_heads override
    what the files say; exif and decode ("exact" or "fast") complete the preprocessing. Position
    embeddings are resampled for its size, unless `keep_grid` asks for those of the file. `head` is
    a linear classifier in a file of its own, `sha256` what the weight files of `spec` must have;
    `keep_decoder` keeps what only masked pre-training uses, in `reconstruction`.
    Raises ModelNotFound, CheckpointError (by name for every tensor that is unknown, missing or
    misshapen) or UsageError.
    """
    checkpoint = resolve(spec, offline=offline) if isinstance(spec, str) else spec
    spec = checkpoint.spec
    if sha256 is not None:
        check_sha256(checkpoint.weights, sha256)
    weights = read_weights(checkpoint.weights)
    found = layout_of(weights.tensors, layout)
    names = found.strip(weights.tensors)
    if found.name.startswith("hf-") and not checkpoint.config:
        raise CheckpointError(
            f"{spec} has no config.json, and {found.name} tensors do not say their sizes",
            "give the folder that holds both",
        )
    rules = found.rules(names)
    decoder = decoders.decoder_of(found.name, names) if keep_decoder else None
    if decoder is not None:
        rules = decoder.among(rules)
    renamed = to_ours(names, rules)
    tensors, decoding = decoders.without_decoder(renamed.tensors)

    def their(ours: str) -> str:
        return their_name(ours, rules, names)

    heads = num_heads or found.num_heads(names)
    try:
        config = found.read_config(tensors, checkpoint.config, heads)
    except MissingTensor as error:
        raise CheckpointError(f"{their(error.name)} is missing") from None
    if config.in_chans != 3:
        raise CheckpointError(f"{spec} reads {config.in_chans} channels, and pictures have 3")
    notes = [*checkpoint.notes, *weights.notes, *renamed.notes]
    if head is not None:
        with_head = read_head(head, config)
        config, tensors = with_head.config, tensors | with_head.tensors
        notes.append(with_head.note)
    network = build(config, tensors, their)
    reconstruction = None
    if decoder is not None:
        reconstruction = _with_decoder(network, decoder, decoding, checkpoint.config, their)
    plan = _preprocess(checkpoint, found, config, image_size, preprocess)
    _check_size(plan.plan.size, config, asked=image_size is not None)
    if plan.plan.size != config.image_size and (image_size is not None or not keep_grid):
        network.resize(plan.plan.size)
    notes += plan.notes
    named = Labels((), "no classifier")
    if config.num_classes:
        named = read_labels(checkpoint.config, config.num_classes, labels)
        notes += named.notes
        if not tensors["head.weight"].any():
            notes.append("the head is all zero: every class scores the same; it is to be trained")
    return Model(
        spec=spec,
        network=network,
        preprocess=replace(plan.plan, exif=exif, decode=decode),
        labels=named.names,
        layout=found.name,
        files=(*checkpoint.weights, *([head] if head else [])),
        revision=checkpoint.revision,
        notes=tuple(notes),
        fused=renamed.fused,
        dropped=renamed.dropped,
        labels_source=named.source,
        origins=_origins(plan, asked=image_size is not None),
        dtypes=weights.dtypes,
        architecture=_architecture(checkpoint.config),
        stored_size=config.image_size,
        reconstruction=reconstruction,
    )


def load_reconstruction(spec: str, **options: Any) -> tuple[Model, Reconstruction]:
    """A checkpoint of masked pre-training with its decoder, and what else `load` gives of it.

    Takes the options of `load`. Raises CheckpointError, too, for a file without a decoder.
    """
    model = load(spec, **options, keep_decoder=True)
    if model.reconstruction is None:
        raise CheckpointError(
            f"{spec} has no decoder: it cannot reconstruct what is hidden",
            "MAE's files for pre-training and visualisation have one (ViTMAEForPreTraining), "
            "and ViTForMaskedImageModeling",
        )
    return model, model.reconstruction


def build(
    config: Config,
    tensors: Mapping[str, Tensor],
    named: Callable[[str], str] = lambda ours: ours,
) -> Network:
    """A network that holds exactly these tensors, in our names. Nothing is allocated before the
    shapes agree, so a config that lies costs nothing. Raises CheckpointError, with the names that
    the file has for them."""
    with torch.device("meta"):
        network = network_of(config)
    return _filled(network, tensors, named)


def _with_decoder(
    network: Network,
    decoder: decoders.Decoder,
    tensors: Mapping[str, Tensor],
    json: Json,
    named: Callable[[str], str],
) -> Reconstruction:
    """The network and its decoder, filled as strictly."""
    assert isinstance(network, VisionTransformer)  # no other layout has a decoder

    def their(ours: str) -> str:
        return named(decoders.D + ours)

    try:
        with torch.device("meta"):
            empty, join = decoder.parts(network.config, tensors, json)
    except MissingTensor as error:
        raise CheckpointError(f"{their(error.name)} is missing") from None
    return join(network, _filled(empty, tensors, their)).eval()


def _filled(network: Module, tensors: Mapping[str, Tensor], named: Callable[[str], str]) -> Module:
    """A module on `meta` with exactly these tensors. Raises CheckpointError, by name."""
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    _refuse("is missing", [n for n in expected if n not in tensors], expected, named)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    _refuse("has no place in the model", [n for n in found if n not in expected], found, named)
    wrong = [
        f"{named(n)}: expected {list(expected[n])}, found {list(found[n])}"
        for n in expected
        if expected[n] != found[n]
    ]
    if wrong:
        raise CheckpointError(f"tensors of the wrong shape: {_few(wrong)}")
    whole = [n for n in expected if not tensors[n].is_floating_point()]
    _refuse("holds whole numbers, not weights", whole, expected, named)
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(False).eval()


def _refuse(
    what: str,
    names: list[str],
    shapes: Mapping[str, Sequence[int]],
    named: Callable[[str], str],
) -> None:
    if names:
        listed = _few([f"{named(n)} {list(shapes[n])}" for n in names[:6]])
        raise CheckpointError(f"{listed} {what}" + (f" ({len(names)} tensors)" * (len(names) > 1)))


def _few(items: list[str]) -> str:
    return ", ".join(items[:5]) + (", ..." if len(items) > 5 else "")


def _preprocess(
    checkpoint: Checkpoint,
    layout: Layout,
    config: Config,
    image_size: Size | None,
    override: str | None,
) -> preprocessing.Found:
    """The checkpoint's own preprocessing, or the one asked for."""
    family = _family(checkpoint, layout)
    is_timm, is_open_clip = layout.name in TIMM, layout.name in OPEN_CLIP
    if layout.name == "swin" and checkpoint.config:  # an old file of timm's
        is_timm = True
    if override == "timm" and not is_timm:
        size = image_size or config.image_size
        plan = preprocessing.published(family, size, f"--preprocess timm: {family} as published")
        return preprocessing.Found(plan)
    if override == "hf" and not layout.name.startswith("hf-"):
        model_type = family if family in ("dinov2", "clip", "swin") else "vit"
        found = preprocessing.from_hf({}, model_type, config.image_size, image_size)
    elif is_timm:
        found = _timm(checkpoint.config, family, config, image_size)
    elif is_open_clip:
        found = _open_clip(checkpoint.config, config, image_size)
    elif layout.name in preprocessing.OWN:
        found = preprocessing.own(layout.name, config.image_size, image_size)
    else:
        model_type = str(checkpoint.config.get("model_type", ""))
        found = preprocessing.from_hf(
            checkpoint.processor, model_type, config.image_size, image_size
        )
        if not checkpoint.processor:
            note = f"no preprocessor_config.json: {found.plan.describe()} is taken"
            found = replace(found, notes=(*found.notes, note))
    if override == "hf":
        found = replace(found, plan=preprocessing.clamped(found.plan))
    if family == "deit" and layout.name.startswith("hf-") and found.plan.mean == preprocessing.HALF:
        note = (
            "DeiT was trained with ImageNet's mean and std, this file says 0.5; "
            "the file is obeyed (--preprocess timm takes the published one)"
        )
        found = replace(found, notes=(*found.notes, note))
    return found


def _timm(json: Json, family: str, config: Config, image_size: Size | None) -> preprocessing.Found:
    cfg = pretrained_cfg(json)
    size = timm_image_size(json) or config.image_size
    if "mean" in cfg or "crop_pct" in cfg:
        source = "config.json: pretrained_cfg"
        plan = preprocessing.from_timm(cfg, size, image_size, source)
        keys = preprocessing.TIMM_KEYS
        return preprocessing.Found(
            plan, origins=preprocessing.origins(keys, cfg, source, "timm's default")
        )
    if family == "swin":
        plan = preprocessing.published("swin", image_size or size, "timm's Swin as published")
    else:
        plan = preprocessing.published("timm", image_size or size, "timm's default")
    note = f"the file has no preprocessing: {plan.source} is taken: {plan.describe()}"
    if not json and family != "swin":
        note += "; a file of DINO, DeiT or MAE looks the same: --layout dino, deit or mae says so"
    return preprocessing.Found(plan, (note,))


def _open_clip(json: Json, config: Config, image_size: Size | None) -> preprocessing.Found:
    """open_clip's own; what is not said is said to be taken, the activation too."""
    cfg, size = json.get("preprocess_cfg"), config.image_size
    source = "open_clip_config.json: preprocess_cfg" if cfg else "CLIP's default"
    plan = preprocessing.from_open_clip(cfg or {}, size, image_size, source)
    notes = [] if cfg else [f"the file has no preprocessing: CLIP's is taken: {plan.describe()}"]
    if "vision_cfg" not in model_config(json):
        names = {"quick_gelu": "QuickGELU, as OpenAI's weights have it"}
        taken = names.get(config.act, "GELU (--layout openai takes QuickGELU)")
        notes.append(f"no open_clip_config.json says the activation: {taken} is taken")
    return preprocessing.Found(plan, tuple(notes))


def _origins(found: preprocessing.Found, *, asked: bool) -> dict[str, str]:
    """Where each step of the preprocessing came from, by its name."""
    origins = {name: found.plan.source for name in preprocessing.HF_KEYS} | dict(found.origins)
    if asked:
        for name in ("resize", "center_crop"):
            origins[name] += "; size: --image-size"
    clamped = found.plan.grey16 == "clamp"
    return {
        "reduced_decode": "--decode fast",
        "exif_turn": "vitcli; --no-exif omits it",
        "rgb": "--preprocess hf" if clamped else "vitcli; 16-bit grey is scaled",
        **origins,
    }


def _architecture(config: Json) -> str:
    """What the config calls the model: a class of transformers, or a model of timm."""
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else ""
    return str(config.get("architecture") or first or config.get("model_type") or "")


def _family(checkpoint: Checkpoint, layout: Layout) -> str:
    """Whose published preprocessing fits: told by the layout or the config, or by the name for
    DeiT, whose plain models call themselves ViT."""
    if layout.name in ("dino", "deit", "mae", "dinov2"):
        return layout.name
    name = f"{checkpoint.spec} {checkpoint.config.get('_name_or_path', '')}".lower()
    kind = f"{checkpoint.config.get('model_type', '')} {checkpoint.config.get('architecture', '')}"
    if "deit" in name or "deit" in kind:
        return "deit"
    if layout.name in FAMILIES:
        return FAMILIES[layout.name]
    if "vit_mae" in kind:
        return "mae"
    return "dinov2" if "dinov2" in kind else "vit"


def _check_size(size: Size, config: Config, *, asked: bool) -> None:
    patch = config.patch_size
    if size[0] < patch[0] or size[1] < patch[1]:
        raise UsageError(f"an image of {size[0]}x{size[1]} is smaller than one patch of {patch[0]}")
    if asked and (size[0] % patch[0] or size[1] % patch[1]):
        near = [max(1, round(s / p)) * p for s, p in zip(size, patch, strict=True)]
        raise UsageError(
            f"--image-size {size[0]}x{size[1]} is not a multiple of the patch size {patch[0]}",
            f"the nearest is {near[0]}x{near[1]}",
        )
    if max(size) > 16_384:
        raise UsageError(f"an image of {size[0]}x{size[1]} is too large for a model")
