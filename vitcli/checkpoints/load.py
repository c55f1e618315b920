"""Load a model from a spec: find its files, rename their tensors, and build the network of them.

Most of what a model is follows from the names and shapes of its tensors. With `lazily`, `load`
reads no more, without torch, and the network is built when it is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vitcli import __version__
from vitcli.checkpoints.detect import layout_of
from vitcli.checkpoints.file_names import Spelling, missing
from vitcli.checkpoints.hashes import check_sha256
from vitcli.checkpoints.hashes import sha256 as sha256_of
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
from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.checkpoints.scoring import (
    ProblemType,
    ScoreFunction,
    read_problem_type,
    score_function,
)
from vitcli.checkpoints.text.tower import TextSource, text_source
from vitcli.checkpoints.weights.lazy import NeedsTorch
from vitcli.checkpoints.weights.tensors import are_sound, read_lazily, read_weights, without
from vitcli.errors import CheckpointError, UsageError, VitError
from vitcli.models.config import Config
from vitcli.models.fields import FieldError
from vitcli.models.shapes import fits
from vitcli.models.swin_config import SwinConfig
from vitcli.models.text_config import TextConfig
from vitcli.records import Decode, Preprocess, Size, by

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

    from vitcli.models.network import Network
    from vitcli.models.text import TextTransformer

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


class Unread:
    """A network that is built when it is needed; its `config` is known before.

    `read` builds it of the `files`. `stored` is its config before anything is resampled, `tensors`
    are its tensors in vitcli's names, `all_tensors` those of the files, all of them lazy. `how` is
    all else that determines the network's numbers: how the files' tensors become the network's.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Network],
        *,
        files: tuple[Path, ...],
        stored: Config,
        how: object,
        tensors: Mapping[str, Tensor],
        all_tensors: Mapping[str, Tensor],
    ) -> None:
        self.config = config
        self._read = read
        self._files, self._stored, self._how = files, stored, how
        self._tensors, self._all_tensors = tensors, all_tensors

    @cached_property
    def network(self) -> Network:
        """The network. Raises CheckpointError if its files are not whole."""
        return self._read()

    @property
    def is_read(self) -> bool:
        """Whether the network has been built."""
        return "network" in self.__dict__

    def identity(self) -> str:
        """A hash of everything that determines the network's numbers, as the files are now."""
        parts = (sha256_of(self._files), self._stored, self.config, self._how, __version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def check(self) -> None:
        """Read the numbers once, without torch if they are sound. Raises CheckpointError if the
        network cannot be built of its files."""
        if not (fits(self._tensors, self._stored) and are_sound(self._all_tensors)):
            _ = self.network


@dataclass(frozen=True, repr=False)
class Model:
    """A network with everything that belongs to it. `labels` is empty without a classifier.

    `source` is the network, or reads it. `reconstruction` is the network with the decoder of masked
    pre-training, if the decoder was kept. `problem_type` comes from the config: the problem that
    the classifier was trained for. `text_source` is where the text tower is, if there is one.
    """

    spec: str
    source: Network | Unread
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

    def __repr__(self) -> str:
        about = [f"{by(self.config.image_size)} pixels"]
        about += [f"{len(self.labels):,} labels"] if self.labels else []
        if isinstance(self.source, Unread):
            return f"<Model {self.spec}: {self.layout}, {', '.join(about)}, not read yet>"
        weights = sum(parameter.numel() for parameter in self.source.parameters())
        first = next(self.source.parameters())
        dtype = str(first.dtype).removeprefix("torch.")
        about.insert(0, f"{weights / 1e6:.3g} M parameters")
        return f"<Model {self.spec}: {self.layout}, {', '.join(about)}, {dtype} on {first.device}>"

    @property
    def network(self) -> Network:
        """The network, which may be read now. Raises CheckpointError if its files are not whole."""
        if isinstance(self.source, Unread):
            with _naming(self.spec):
                return self.source.network
        return self.source

    @property
    def config(self) -> Config:
        return self.source.config

    def check(self) -> None:
        """Read the numbers of a model that was loaded lazily. Raises CheckpointError if they are
        damaged, or if the network cannot be built of them."""
        if isinstance(self.source, Unread):
            with _naming(self.spec):
                self.source.check()

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

    def check_text(self) -> TextConfig:
        """The config of the text tower. Raises CheckpointError if it cannot be built."""
        with _naming(self.spec):
            return self.text_config if self.compared.fits else self.text.config

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
    lazily: bool = False,
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
    `reconstruction`. With `lazily`, the numbers of tensors are read when they are needed, except
    those of pickles.
    Raises ModelNotFound, UsageError, or CheckpointError (which names every tensor that is unknown,
    missing or misshapen).
    """
    checkpoint = resolve(spec, offline=offline) if isinstance(spec, str) else spec
    how = _How(
        layout=layout,
        labels=labels,
        image_size=image_size,
        patch_size=patch_size,
        max_patches=max_patches,
        preprocess=preprocess,
        num_heads=num_heads,
        exif=exif,
        decode=decode,
        head=head,
        drop=tuple(drop),
        keep_grid=keep_grid,
        keep_decoder=keep_decoder,
    )
    with _naming(checkpoint.spec):
        if sha256 is not None:
            check_sha256(checkpoint.weights, sha256)
        if lazily and not keep_decoder:
            with suppress(NeedsTorch, VitError, OSError):  # reading all finds the first error
                return _load(checkpoint, how, lazily=True)
        return _load(checkpoint, how, lazily=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """The options of `load`."""

    layout: str | None
    labels: Path | None
    image_size: Size | None
    patch_size: Size | None
    max_patches: int | None
    preprocess: str | None
    num_heads: int | None
    exif: bool
    decode: Decode
    head: Path | None
    drop: tuple[str, ...]
    keep_grid: bool
    keep_decoder: bool


def _load(checkpoint: Checkpoint, how: _How, *, lazily: bool) -> Model:
    """Load a model with options. With `lazily`, its network is an `Unread`. Raises NeedsTorch if
    lazy tensors are not enough."""
    read = read_lazily if lazily else read_weights
    weights = without(read(checkpoint.weights), how.drop)
    bare = checkpoint.weights[0] if not checkpoint.config else None
    detected = layout_of(weights.tensors, how.layout, checkpoint.config, bare)
    parts = _read(
        checkpoint, detected, weights.tensors, how.num_heads, keep_decoder=how.keep_decoder
    )
    notes = [*checkpoint.notes, *weights.notes, *parts.renamed.notes]
    if detected.doubt and bare is not None and how.layout is None:
        notes.append(detected.doubt)
    config, tensors, all_tensors = parts.config, parts.tensors, weights.tensors
    notes += detected.notes(config, checkpoint.config)
    if how.head is not None:
        with_head = read_head(how.head, config, read)
        config, tensors = with_head.config, tensors | with_head.tensors
        all_tensors = all_tensors | with_head.tensors
        notes.append(with_head.note)
    built = None if lazily else parts.build(config, tensors, checkpoint.config)
    chosen = choose_preprocess(
        checkpoint,
        detected,
        config,
        how.image_size,
        how.preprocess,
        patch_size=how.patch_size,
        max_patches=how.max_patches,
    )
    plan = replace(chosen.plan, exif=how.exif, decode=how.decode)
    keeps = how.keep_grid and how.image_size is None and not getattr(config, "pos_grid", None)
    size = config.image_size if keeps or plan.varies else plan.size
    patch = how.patch_size or config.patch_size
    files = (*checkpoint.weights, *([how.head] if how.head else []))
    if built is None:
        is_repatched = patch != config.patch_size
        of_each = ((name, one.of) for name, one in parts.renamed.made.items())
        source: Network | Unread = Unread(
            config.repatched(patch, size) if is_repatched else config.resized(size),
            lambda: _load(checkpoint, how, lazily=False).network,
            files=files,
            stored=config,
            how=(detected.name, sorted(of_each), checkpoint.config),
            tensors=tensors,
            all_tensors=all_tensors,
        )
    else:
        source = built.network
        _resample(built, patch, size)
    if patch != config.patch_size:
        notes += _untrained(checkpoint, config.patch_size, patch)
    notes += chosen.notes
    class_labels, problem_type = Labels((), "no classifier"), None
    if config.num_classes:
        problem_type = read_problem_type(checkpoint.config) if how.head is None else None
        class_labels = read_labels(checkpoint.config, config.num_classes, how.labels)
        notes += class_labels.notes
        if not tensors["head.weight"].any():
            notes.append("the head is all zero: every class scores the same; train it")
    return Model(
        spec=checkpoint.spec,
        source=source,
        preprocess=plan,
        labels=class_labels.names,
        layout=detected.name,
        files=files,
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
        reconstruction=None if built is None else built.reconstruction,
        problem_type=problem_type,
        text_source=text_source(
            checkpoint, detected, parts.spelling.theirs, parts.renamed, how.drop
        ),
    )


@dataclass(frozen=True, slots=True)
class _Built:
    """A network, and the same network with its decoder, if that was kept."""

    network: Network
    reconstruction: Reconstruction | None


def _resample(built: _Built, patch: Size, size: Size) -> None:
    """Resample a network for patches and images of these sizes."""
    from vitcli.models.patch_size import change_patch_size

    config = built.network.config
    if patch != config.patch_size:
        _check_decoder(built.reconstruction, config.patch_size)
        change_patch_size(built.network, patch, size)
    elif size != config.image_size:
        built.network.resize(size)


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

    def build(self, config: Config, tensors: Mapping[str, Tensor], json: Json) -> _Built:
        """Build the network and, if the file has one, its decoder."""
        from vitcli.checkpoints.build import build, with_decoder

        network = build(config, tensors, self.spelling)
        if self.decoder is None:
            return _Built(network, None)
        spelling = self.spelling.of("decoder.")
        return _Built(network, with_decoder(network, self.decoder, self.decoding, json, spelling))


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
