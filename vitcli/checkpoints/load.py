"""Load a model from a spec: find its files, rename their tensors, and build the network of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from vitcli.checkpoints.build import build, missing, with_decoder
from vitcli.checkpoints.detect import layout_of
from vitcli.checkpoints.file_names import Spelling
from vitcli.checkpoints.heads import read_head
from vitcli.checkpoints.keymap import Made, Renamed, to_ours
from vitcli.checkpoints.labels import Labels, read_labels
from vitcli.checkpoints.layouts.decoders import without_decoder
from vitcli.checkpoints.layouts.layout import (
    Decoder,
    Json,
    Layout,
    MissingTensor,
    Reconstruction,
    count_blocks,
)
from vitcli.checkpoints.layouts.swin import count_blocks as count_swin_blocks
from vitcli.checkpoints.layouts.timm import pretrained_cfg
from vitcli.checkpoints.preprocess.choose import choose_preprocess
from vitcli.checkpoints.resolve import Checkpoint, check_sha256, resolve
from vitcli.checkpoints.resolve import sha256 as sha256_of
from vitcli.checkpoints.scoring import (
    ProblemType,
    ScoreFunction,
    read_problem_type,
    score_function,
)
from vitcli.checkpoints.tensors import read_weights, without
from vitcli.checkpoints.text.tower import TextSource, text_source
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import Config
from vitcli.models.fields import FieldError
from vitcli.models.network import Network
from vitcli.models.patch_size import change_patch_size
from vitcli.models.swin_config import SwinConfig
from vitcli.models.text import TextConfig, TextTransformer
from vitcli.records import Decode, Preprocess, Size, by

_WITH_TEXT = (
    "models with one are google/siglip2-base-patch16-224, openai/clip-vit-base-patch32 and others: "
    "vit models --for words"
)
FLEXIVIT_PATCHES = range(8, 49)  # the patch sizes that a FlexiViT was trained on
ONE_PATCH = re.compile(r"flexivit_\w+\.patch\d")


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of each part of a model, for `vit info` and `vit convert`.

    `made` has the source tensors of each tensor, `dropped` the reason for each tensor left out,
    `labels` and `steps` the sources of the labels and of each preprocessing step. `dtypes` are the
    dtypes on disk, `architecture` the model's name in the config, `stored_size` the image size of
    the stored position embeddings, and `stored_patch` the size of the stored patch embedding.
    """

    made: Mapping[str, Made] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    labels: str = ""
    steps: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()
    architecture: str = ""
    stored_size: Size | None = None
    stored_patch: Size | None = None


@dataclass(frozen=True)
class Model:
    """A network with everything that belongs to it. `labels` is empty without a classifier.

    `reconstruction` is `network` with the decoder of masked pre-training, if the decoder was kept.
    `problem_type` comes from the config: the problem that the classifier was trained for.
    `text_source` is where the text tower is, if there is one.
    """

    spec: str
    network: Network
    preprocess: Preprocess
    labels: tuple[str, ...]
    layout: str
    files: tuple[Path, ...]
    revision: str | None
    notes: tuple[str, ...]
    provenance: Provenance = Provenance()
    reconstruction: Reconstruction | None = None
    problem_type: ProblemType | None = None
    text_source: TextSource | None = None

    @property
    def config(self) -> Config:
        return self.network.config

    @property
    def score_function(self) -> ScoreFunction:
        """The function that turns the logits into scores."""
        if self.config.cosine_head:
            return self.compared.similarity.function
        return score_function(self.problem_type, self.config.num_classes)

    @cached_property
    def text(self) -> TextTransformer:
        """The text tower, read on first use. Raises CheckpointError for a model without one."""
        with _naming(self.spec):
            return self.compared.read()

    @cached_property
    def text_config(self) -> TextConfig:
        """The config of the text tower, from the shapes of its tensors. Raises CheckpointError for
        a model without one."""
        with _naming(self.spec):
            return self.compared.config

    @property
    def compared(self) -> TextSource:
        """The source of the text tower. Raises CheckpointError for a model without one."""
        if self.text_source is None:
            raise CheckpointError(
                f"{self.spec} has no text tower: it cannot compare images with words", _WITH_TEXT
            )
        return self.text_source

    @cached_property
    def sha256(self) -> str:
        """The hash of the weight files, computed on first use."""
        return sha256_of(self.files)

    def with_decoder(self) -> Reconstruction:
        """The network with its decoder. Raises CheckpointError if the model has no decoder."""
        if self.reconstruction is None:
            raise CheckpointError(
                f"{self.spec} has no decoder: it cannot reconstruct hidden patches",
                "MAE's pre-training files (ViTMAEForPreTraining), ViTForMaskedImageModeling, and "
                "the models of vit finetune --objective mim have one",
            )
        return self.reconstruction


def load(
    spec: str | Checkpoint,
    *,
    layout: str | None = None,
    labels: Path | None = None,
    image_size: Size | None = None,
    patch_size: Size | None = None,
    max_patches: int | None = None,
    preprocess: str | None = None,
    num_heads: int | None = None,
    exif: bool = True,
    decode: Decode = "exact",
    offline: bool = False,
    head: Path | None = None,
    sha256: str | None = None,
    drop: Sequence[str] = (),
    keep_grid: bool = False,
    keep_decoder: bool = False,
) -> Model:
    """Load a checkpoint in fp32, in eval mode, on the CPU. Every weight comes from a file.

    spec: hub id (`org/name`, `org/name@revision`), directory, weight file, `demo`, or the result of
    `resolve`. layout, labels, image_size and patch_size (both height, width), preprocess ("hf" or
    "timm") and num_heads override the files. `exif` (whether to turn images by EXIF) and `decode`
    ("exact" or "fast") complete the preprocessing. Position embeddings are resampled for the
    preprocessing's size; with `keep_grid`, only if `image_size` is given. Both they and the patch
    embedding are resampled for `patch_size`. In a model for images of any shape, an image has at
    most `max_patches` patches. `head` is a linear classifier in another file,
    `sha256` the hash that the weight files of `spec` must have. Tensors that match a pattern of
    `drop` (`criterion.*`) are left out. `keep_decoder` keeps the decoder of masked pre-training, in
    `reconstruction`.
    Raises ModelNotFound, UsageError, or CheckpointError (which names every tensor that is unknown,
    missing or misshapen).
    """
    checkpoint = resolve(spec, offline=offline) if isinstance(spec, str) else spec
    with _naming(checkpoint.spec):
        if sha256 is not None:
            check_sha256(checkpoint.weights, sha256)
        weights = without(read_weights(checkpoint.weights), drop)
        bare = checkpoint.weights[0] if not checkpoint.config else None
        detected = layout_of(weights.tensors, layout, checkpoint.config, bare)
        parts = _read(checkpoint, detected, weights.tensors, num_heads, keep_decoder=keep_decoder)
        notes = [*checkpoint.notes, *weights.notes, *parts.renamed.notes]
        if detected.doubt and bare is not None and layout is None:
            notes.append(detected.doubt)
        config, tensors = parts.config, parts.tensors
        notes += detected.notes(config, checkpoint.config)
        if head is not None:
            with_head = read_head(head, config)
            config, tensors = with_head.config, tensors | with_head.tensors
            notes.append(with_head.note)
        network = build(config, tensors, parts.spelling)
        reconstruction = parts.join_decoder(network, checkpoint.config)
        chosen = choose_preprocess(
            checkpoint,
            detected,
            config,
            image_size,
            preprocess,
            patch_size=patch_size,
            max_patches=max_patches,
        )
        plan = replace(chosen.plan, exif=exif, decode=decode)
        keeps = keep_grid and image_size is None and not getattr(config, "pos_grid", None)
        size = config.image_size if keeps or plan.varies else plan.size
        if patch_size is not None and patch_size != config.patch_size:
            _check_decoder(reconstruction, config.patch_size)
            change_patch_size(network, patch_size, size)
            notes += _untrained(checkpoint, config.patch_size, patch_size)
        elif size != config.image_size:
            network.resize(size)
        notes += chosen.notes
        class_labels, problem_type = Labels((), "no classifier"), None
        if config.num_classes:
            problem_type = read_problem_type(checkpoint.config) if head is None else None
            class_labels = read_labels(checkpoint.config, config.num_classes, labels)
            notes += class_labels.notes
            if not tensors["head.weight"].any():
                notes.append("the head is all zero: every class scores the same; train it")
    return Model(
        spec=checkpoint.spec,
        network=network,
        preprocess=plan,
        labels=class_labels.names,
        layout=detected.name,
        files=(*checkpoint.weights, *([head] if head else [])),
        revision=checkpoint.revision,
        notes=tuple(notes),
        provenance=Provenance(
            made=parts.renamed.made,
            dropped=parts.renamed.dropped,
            labels=class_labels.source,
            steps=chosen.origins,
            dtypes=weights.dtypes,
            architecture=_architecture(checkpoint.config),
            stored_size=config.image_size,
            stored_patch=config.patch_size,
        ),
        reconstruction=reconstruction,
        problem_type=problem_type,
        text_source=text_source(
            checkpoint, detected, parts.spelling.theirs, parts.renamed, tuple(drop)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """A checkpoint in vitcli's names: the network's config and tensors, the decoder and its
    tensors (`decoding`), and the `spelling` of the names in the file, for messages."""

    config: Config
    tensors: dict[str, Tensor]
    renamed: Renamed
    spelling: Spelling
    decoder: Decoder | None
    decoding: dict[str, Tensor]

    def join_decoder(self, network: Network, json: Json) -> Reconstruction | None:
        """The network and its decoder; None without a decoder."""
        if self.decoder is None:
            return None
        spelling = self.spelling.of("decoder.")
        return with_decoder(network, self.decoder, self.decoding, json, spelling)


def _read(
    checkpoint: Checkpoint,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    num_heads: int | None,
    *,
    keep_decoder: bool,
) -> _Parts:
    """Rename the tensors by the layout's rules, and read the config from tensors and JSON."""
    if layout.needs_config and not checkpoint.config:
        raise CheckpointError(
            f"{checkpoint.spec} has no config.json, "
            f"and {layout.name} tensors do not show all sizes",
            "give a folder with both: the weights named model.safetensors or pytorch_model.bin, or "
            "without other weight files",
        )
    stripped = layout.strip(tensors)
    decoder = layout.decoder_in(stripped) if keep_decoder else None
    rules = layout.rules_with(decoder, stripped, checkpoint.config)
    renamed = to_ours(stripped, rules)
    ours, decoding = without_decoder(renamed.tensors)
    spelling = Spelling(rules, stripped)
    heads = num_heads or layout.num_heads(stripped)
    try:
        config = layout.read_config(ours, checkpoint.config or layout.buffers(stripped), heads)
    except MissingTensor as error:
        raise missing(error, spelling) from None
    except FieldError as error:
        field = layout.fields.get(error.field)
        source = f"config.json: {field}" if field else error.field
        if num_heads and error.field == "num_heads":
            source = "--num-heads"
        raise CheckpointError(f"{source} {error.what}") from None
    ours, renamed = _without(layout.config_tensors, ours, renamed)
    _check_depth(config, ours, layout)
    if config.in_chans != 3:
        raise CheckpointError(
            f"{checkpoint.spec} reads {config.in_chans} channels, and images have 3"
        )
    return _Parts(config, ours, renamed, spelling, decoder, decoding)


def _without(
    names: frozenset[str], tensors: dict[str, Tensor], renamed: Renamed
) -> tuple[dict[str, Tensor], Renamed]:
    """Leave out the tensors that are now part of the config."""
    made = {name: source for name, source in renamed.made.items() if name not in names}
    read = {name: "it is part of the config" for n in names & renamed.made.keys()
            for name in renamed.made[n].of}  # fmt: skip
    kept = {name: tensor for name, tensor in tensors.items() if name not in names}
    return kept, replace(renamed, made=made, dropped={**renamed.dropped, **read})


def _check_depth(config: Config, tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Raise CheckpointError if the file and the config differ in the number of blocks. This comes
    before `build`, as a wrong config could ask for a huge network."""
    if isinstance(config, SwinConfig):
        field, claimed, counted = "depths", config.depths, count_swin_blocks(tensors)
    else:
        field = layout.fields.get("depth", "depth")
        claimed, counted = (config.depth,), (count_blocks(tensors),)
    if claimed != counted:
        raise CheckpointError(
            f"{field} is {', '.join(map(str, claimed))}, the file has "
            f"{', '.join(map(str, counted))} blocks",
            "the config and the weights belong to different models, or the file is incomplete",
        )


def _check_decoder(reconstruction: Reconstruction | None, patch: Size) -> None:
    """Raise UsageError if the model has a decoder, which predicts the pixels of `patch`."""
    if reconstruction is not None:
        raise UsageError(
            f"--patch-size: the model's decoder predicts patches of {by(patch)} pixels",
            "leave out --patch-size, or to convert the encoder alone, add --drop 'decoder*'",
        )


def _untrained(checkpoint: Checkpoint, old: Size, new: Size) -> list[str]:
    """A note about patches on which the model was not trained; none for a FlexiViT. timm calls two
    models flexivit that were trained on one patch size, and says so in their tags."""
    config, spec = checkpoint.config, Path(checkpoint.spec).name
    architecture, tag = _architecture(config), pretrained_cfg(config).get("tag", "")
    is_flexible = "flexivit" in (architecture or spec).lower()
    is_flexible &= not any(ONE_PATCH.search(name) for name in (f"{architecture}.{tag}", spec))
    if is_flexible and new[0] == new[1] and new[0] in FLEXIVIT_PATCHES:
        return []
    first, last = FLEXIVIT_PATCHES[0], FLEXIVIT_PATCHES[-1]
    trained = f"square ones of {first} to {last}" if is_flexible else by(old)
    return [
        f"the model was not trained on patches of {by(new)}, but on {trained}: measure its results "
        "(vit evaluate)"
    ]


@contextmanager
def _naming(spec: str) -> Iterator[None]:
    """Prefix the messages of CheckpointErrors with the model's spec, unless they contain it."""
    try:
        yield
    except CheckpointError as error:
        if spec in error.message:
            raise
        raise CheckpointError(f"{spec}: {error.message}", error.hint) from None


def _architecture(config: Json) -> str:
    """The model's name in the config: a class of transformers, or an architecture of timm."""
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else ""
    return str(config.get("architecture") or first or config.get("model_type") or "")
