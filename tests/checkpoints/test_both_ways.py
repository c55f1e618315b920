"""Every layout: read, written for transformers and for timm, and read again, with the same numbers
and the same bits; and refused by name where one tensor is missing, misshapen or too many."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.fixtures.clip import SIGLIP2, patches_of
from tests.fixtures.layouts import MAKERS, V2_WITH_HEAD, Source
from tests.fixtures.swin import CLASSES
from tests.fixtures.tiny import FAMILIES
from tests.models.goldens import EVA_NAMES, PE_NAMES
from vitcli.checkpoints import build as building
from vitcli.checkpoints import load as loading
from vitcli.checkpoints.layouts.layout import COMPARES, TEXT, Reconstruction
from vitcli.checkpoints.load import Model, Unread, load
from vitcli.checkpoints.weights.tensors import Weights, read_weights
from vitcli.errors import CheckpointError, VitError
from vitcli.jobs.job import ModelOptions
from vitcli.models.config import Config, ViTConfig
from vitcli.models.mae import MaskedAutoencoder, mask_of
from vitcli.models.network import Network, network_of
from vitcli.models.shapes import shapes_of
from vitcli.tasks.convert import ConvertJob, compare, convert, synthetic_pixels

Make = Callable[[str], Source]
ON_DISK = [name for name in MAKERS if not name.endswith(" in memory")]
EXACT = 1e-5
# What the other library has no words for; the first that stands in the way.
CANNOT = {
    "hf": {
        "meta mae_finetuned bare_avg": "cannot express final_norm=pooled, pool=mean",
        "meta dinov2_swiglu bare_swiglu": "cannot express hidden_dim=85 of a SwiGLU",
        "timm bare_avg": "cannot express final_norm=pooled, pool=mean",
        "timm bare_swiglu": "cannot express hidden_dim=85 of a SwiGLU",
        "timm beit3": "cannot express final_norm=pooled, a norm inside attention",
        "timm clip": "cannot express patch_bias=False, pre_norm=True",
        "timm clip_quickgelu": "cannot express patch_bias=False, pre_norm=True",
        "timm deit3": "no image processor for",  # none crops to 48x64
        "timm deit_distilled": "no image processor for",
        "timm dinov2": "no image processor for",
        "timm dinov2_head": "no image processor for",
        "timm dinov2_reg4": "56x42, which is not square",
        "timm dinov2_swiglu": "56x42, which is not square",
        "timm reg1_gap": "cannot express num_registers=1, layer_scale=True, final_norm=pooled",
        "timm reg4_gap": "cannot express num_registers=4, layer_scale=True, final_norm=pooled",
        "timm reg4_map": "cannot express num_registers=4, pool=map",
        "timm intern300m": "42x56, which is not square",
        "timm radio_v3": "cannot express final_norm=none",
        "timm radio_v4": "cannot express num_registers=9, final_norm=none",
        "timm siglip_gap": "no image processor for",
        "timm siglip_map": "cannot express pool=map",
        "timm siglip_map_tanh": "cannot express pool=map",
        "timm tipsv2_reg1": "42x56, which is not square",
        "timm vit": "no image processor for",
        "timm vit_avg": "cannot express final_norm=pooled, pool=mean",
        "timm vit_no_embed_class": "no image processor for",
        "timm vit_no_qkv_bias": "no image processor for",
        "timm vit_patch8": "no image processor for",
        "open_clip_timm projected": "cannot express projection=24",
        "open_clip_timm pe_core": "rotary positions",
        "open_clip_timm eva02_clip": "rotary positions",
        **{f"timm eva {name}": "rotary positions" for name in EVA_NAMES if name != "lingbot"},
        "timm eva dinov3": "no image processor for",
        "timm eva dinov3_head": "a classifier: it has no DINOv3 with one",
        "timm eva dinov3_swiglu": "no image processor for",
        "timm eva eva_giant": "an image of 56x42, which is not square",
        **{f"eva {name}": "rotary positions" for name in ("packed", "pretrained", "clip")},
        "eva giant": "cannot express projection=16",
        "timm beit blocks": "64x48, which is not square",
        "timm beit headless": "48x80, which is not square",
        "timm beit table": "48x64, which is not square",
        "timm beit token": "64x48, which is not square",
        "hf beit-mim": "pool=mean with the final norm of tokens",
        "hf data2vec": "pool=mean with the final norm of none",
        "timm aimv2 backbone": "42x56, which is not square",
        "timm aimv2 head": "cannot express num_classes=5",
        "timm aimv2 square": "a bias of q, k and v without one after attention",
        **{f"meta pe {name}": "rotary positions" for name in PE_NAMES},
        "timm swin padded": "windows of 4x4 on a grid of 18x26 (stage 1) as this model has them",
        "timm swin remainder": "an image of (67, 81) in patches of (4, 4)",
        "timm swin shrunk": "windows of 4x4 on a grid of 8x6 (stage 2)",
        "timm swin one_way": "windows of 4x4 on a grid of 4x8 (stage 3)",
        "timm swin windows": "windows of several sizes",
        "timm swin regrown": "windows of several sizes",
        "timm swin v2_partition": "windows of 4x4 on a grid of 8x6 (stage 2)",
        "timm swin v2_remainder": "in patches of (4, 4), a window of 3x5 in pre-training",
    },
    "timm": {
        "hf aimv2-biases": "cannot express norm_eps=0.001",
        "hf internvit-rms": "cannot express RMS norms",
        "hf deit": "a distillation token without a classifier of its own",
        "hf dinov2-classifier": "a classifier on the class token and the mean",
        "hf dinov2-reg-classifier": "a classifier on the class token and the mean",
        "eva clip": "a projection to 12 after a tower that is not CLIP's",
        "open_clip_timm projected": "a projection to 24 after a tower that is not CLIP's",
        "hf data2vec": "no final norm",
        "hf pixio": "several class tokens",
        **{
            name: "a summary of joined class tokens"
            for name in ("hf radio", "hf radio-swiglu", "nvidia radio")
        },
        "hf CLIPForImageClassification": "a classifier on tokens without the final norm",
        **{f"hf {name}": "images of any shape (NaFlex)" for name in SIGLIP2},
    },
}
# Written for timm, it is a model that transformers has no class for.
ONE_WAY = ("hf radio-one",)
PAIRS = [(name, to) for name in ON_DISK for to in CANNOT if name not in CANNOT[to]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A source, made once."""
    sources: dict[str, Source] = {}

    def make(name: str) -> Source:
        if name not in sources:
            sources[name] = MAKERS[name](tmp_path_factory.mktemp("source"))
        return sources[name]

    return make


@pytest.fixture(scope="module")
def written(made: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder that a source is converted to, once."""
    folders: dict[tuple[str, str], Path] = {}

    def write(name: str, to: str) -> Path:
        if (name, to) not in folders:
            folders[name, to] = tmp_path_factory.mktemp("converted") / to
            _convert(made(name), folders[name, to], to)
        return folders[name, to]

    return write


def _convert(source: Source, target: Path, to: Any) -> None:
    options = ModelOptions(**source.options)
    convert(ConvertJob(source=str(source.path), target=target, to=to, options=options))


def _load(source: Source) -> Model:
    return load(str(source.path), keep_grid=True, keep_decoder=True, **source.options)


def _tensors(model: Model) -> dict[str, Tensor]:
    return model.network.state_dict()


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", [*CLASSES, *V2_WITH_HEAD])
def test_a_swin_of_microsofts_gives_the_numbers_of_transformers(name: str, made: Make) -> None:
    """The same tensors under their names; transformers' own are compared in test_swin.py."""
    theirs, ours = (_load(made(f"{whose} {name}")) for whose in ("hf", "microsoft"))
    assert (theirs.layout, ours.layout) == ("hf-swin", "swin")
    assert max(compare(theirs, ours).values()) < EXACT


@pytest.mark.parametrize("family", [*FAMILIES, *CLASSES])
def test_both_spellings_of_transformers_are_one_model(family: str, made: Make) -> None:
    disk, memory = (_load(made(name)) for name in (f"hf {family}", f"hf {family} in memory"))
    assert disk.config == memory.config
    assert _equal(_tensors(disk), _tensors(memory))


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_what_is_written_gives_the_same_numbers(
    name: str, to: str, made: Make, written: Callable[[str, str], Path]
) -> None:
    """Logits and every hidden state, absolute."""
    source, back = _load(made(name)), _load(Source(written(name, to)))
    assert max(compare(source, back).values()) < EXACT
    assert back.labels == source.labels
    plan = replace(source.preprocess, resizer=back.preprocess.resizer)
    assert back.preprocess.describe() == plan.describe()


@pytest.mark.parametrize("name", [name for name, to in PAIRS if to == "hf"])
@torch.inference_mode()
def test_transformers_opens_what_is_written_for_it(
    name: str, made: Make, written: Callable[[str, str], Path]
) -> None:
    folder = written(name, "hf")
    model_class = json.loads((folder / "config.json").read_text())["architectures"][0]
    theirs, info = getattr(transformers, model_class).from_pretrained(
        folder, output_loading_info=True
    )
    missing = {key for key in info.pop("missing_keys") if not key.startswith("pooler.")}
    assert not missing, "only a pooler, which is no part of a ViT, may be missing"
    assert not any(info.values()), info
    ours = _load(made(name))
    x = synthetic_pixels(ours)
    own = getattr(ours.config, "pixel_norm", None)
    if own or getattr(ours.config, "version", 1) == 2:  # their sharp weights magnify rounding
        theirs, x = theirs.double(), x.double()
        ours.network.double()
    if ours.reconstruction is not None:
        _check_reconstruction(theirs, ours.reconstruction, x)
        return
    if hasattr(theirs, "text_model"):  # both towers of a CLIP or a SigLIP
        images = theirs.get_image_features(**_inputs(ours, x))
        images = getattr(images, "pooler_output", images)
        torch.testing.assert_close(images, ours.network(x), atol=EXACT, rtol=0)
        return
    if own:
        normalises = theirs.make_preprocessor_external()
        for values, written in zip(own, (normalises.norm_mean, normalises.norm_std), strict=True):
            torch.testing.assert_close(written.flatten().float(), torch.tensor(values))
    out = theirs(**_inputs(ours, x))
    kind = next(key for key in ("logits", "image_embeds", "last_hidden_state") if key in out)
    is_vit = isinstance(ours.config, ViTConfig)
    if (
        kind == "last_hidden_state"
        and is_vit
        and (ours.config.pool == "map" or ours.config.pre_norm)
    ):
        kind = "pooler_output"  # theirs of CLIP is not normed
    expected = ours.network.tokens(x).x if kind == "last_hidden_state" else ours.network(x)
    torch.testing.assert_close(out[kind], expected, atol=EXACT, rtol=0)


def _inputs(model: Model, x: Tensor) -> dict[str, Tensor]:
    """The arguments of transformers' model for these images."""
    is_naflex = isinstance(model.config, ViTConfig) and model.config.any_grid
    return patches_of(list(x)) if is_naflex else {"pixel_values": x}


def _check_reconstruction(theirs: Any, ours: Reconstruction, x: Tensor) -> None:
    noise = torch.rand(len(x), ours.encoder.config.grid[0] ** 2)
    if isinstance(ours, MaskedAutoencoder):
        mask = mask_of(noise, ours.mask_ratio)
        expected = theirs(x, noise=noise).logits
    else:
        mask = noise > 0.5
        expected = theirs(x, bool_masked_pos=mask).reconstruction
    torch.testing.assert_close(ours(x, mask), expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("to", CANNOT)
def test_what_a_target_cannot_express_is_refused_by_name(
    to: str, made: Make, tmp_path: Path
) -> None:
    for name, reason in CANNOT[to].items():
        with pytest.raises(CheckpointError, match=re.escape(reason)):
            _convert(made(name), tmp_path / "out", to)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "to"), [(n, to) for n, to in PAIRS if n.startswith(to)])
def test_every_tensor_on_disk_comes_back_bit_for_bit(
    name: str, to: str, made: Make, written: Callable[[str, str], Path]
) -> None:
    """Into the same layout, except what only another class of the family reads."""
    source = _load(made(name))
    before = load_file(made(name).path / "model.safetensors")
    after = load_file(written(name, to) / "model.safetensors")
    prefix = re.compile(
        r"^(vit|deit|dinov2|dinov2_with_registers|swin|swinv2|vision_model|beit|data2vec_vision"
        r"|ijepa|pixio|vision_encoder)\."
    )
    old, new = "decoder.decoder_encoder.layer.", "decoder.decoder_layers."  # as 4.x and the hub
    bare, found = (
        {prefix.sub("", n).replace(old, new): t for n, t in state.items()}
        for state in (before, after)
    )
    dropped = source.provenance.dropped
    texts = (TEXT, COMPARES) if source.text_source is not None else ()
    kept = {key for key in bare if key not in dropped or dropped[key] in texts}
    if source.layout in ("hf-dinov2", "hf-dinov3", "hf-tips"):
        found.pop("embeddings.mask_token", None)
        found.pop("mask_token", None)
    projects = getattr(source.config, "projection", 0) and not source.config.projection_bias
    assert kept == {*found} - ({"head.bias"} if projects else set())
    assert all(torch.equal(bare[key], found[key]) for key in kept)


@pytest.mark.parametrize(
    "name",
    [n for n in ON_DISK if all(n not in CANNOT[to] for to in CANNOT) and n not in ONE_WAY],
)
def test_there_and_back_again_is_the_same_bit_for_bit(
    name: str, made: Make, written: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Through timm to transformers, beside straight to transformers; and the other way. Not where
    a position is added to a token, or a layer scale multiplied into a weight."""
    _convert(Source(written(name, "timm")), tmp_path / "hf", "hf")
    _convert(Source(written(name, "hf")), tmp_path / "timm", "timm")
    for to in CANNOT:
        straight, around = (load(str(p)) for p in (written(name, to), tmp_path / to))
        has_registers = getattr(straight.config, "num_registers", 0)
        is_exact = not name.endswith("deit3") and not has_registers
        if is_exact and straight.config == around.config:
            assert _equal(_tensors(straight), _tensors(around)), to


def _as_safetensors(source: Source, folder: Path) -> Path:
    """The model in a format that can be read lazily, which pickles are not."""
    if source.path.is_dir():
        copy = shutil.copytree(source.path, folder / "copy")
        for pickle in copy.glob("*.bin"):
            save_file(read_weights((pickle,)).tensors, copy / "model.safetensors")
            pickle.unlink()
        return copy
    if source.path.suffix == ".npz":
        return source.path
    save_file(read_weights((source.path,)).tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


SIZES: tuple[dict[str, Any], ...] = ({"image_size": (64, 96)}, {"patch_size": (12, 10)})
RESAMPLED = ("hf vit", "hf beit", "hf radio", "hf SwinModel", "timm dinov2", "google stacked")


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in MAKERS), *((name, size) for name in RESAMPLED for size in SIZES)],
)
def test_names_and_shapes_tell_what_the_numbers_tell(
    name: str, options: dict[str, Any], made: Make, tmp_path: Path
) -> None:
    """A model that is loaded lazily is the same, and is checked without building its network."""
    source = made(name)
    path, given = str(_as_safetensors(source, tmp_path)), {**source.options, **options}
    try:
        whole = load(path, **given)
    except VitError as error:
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            load(path, lazily=True, **given)
        return
    lazy = load(path, lazily=True, **given)
    if name in ("eva packed", "eva pretrained", "eva clip"):
        assert not isinstance(lazy.source, Unread)  # torch computes the table of its rotations
        return
    assert isinstance(lazy.source, Unread)
    for field in fields(Model):
        if field.name not in ("source", "text_source"):
            assert getattr(lazy, field.name) == getattr(whole, field.name), field.name
    assert (lazy.config, lazy.sha256) == (whole.config, whole.sha256)
    shapes = {key: tuple(tensor.shape) for key, tensor in _tensors(whole).items()}
    assert list(shapes_of(whole.config).items()) == list(shapes.items())
    lazy.check()
    assert (lazy.text_source is None) == (whole.text_source is None)
    if whole.text_source is not None:
        assert _told(lazy) == _told(whole)
    assert "network" not in vars(lazy.source)
    assert _equal(_tensors(lazy), _tensors(whole))


def _told(model: Model) -> tuple[object, ...]:
    """What a model says of its text tower."""
    try:
        return model.check_text(), model.compared.similarity
    except CheckpointError as error:
        return (str(error),)


class _Networks:
    """`network_of`, which makes a network of a config again only where the last one was filled."""

    def __init__(self) -> None:
        self._empty: dict[Config, Network] = {}

    def __call__(self, config: Config) -> Network:
        made = self._empty.get(config)
        if made is None or not next(made.parameters()).is_meta:  # all are filled at once
            made = self._empty[config] = network_of(config)
        return made


# Strictness. Files in which a tensor less is another model, and not a damaged one.
ANOTHER = {
    "meta deit3 bare_deit3": "cls_token",
    "meta dinov3": "storage_tokens",
    "meta dinov2 bare_reg4": "register_tokens",
    "google big_vision": "params/cls",
}


@pytest.mark.parametrize("name", MAKERS)
def test_one_tensor_missing_misshapen_or_too_many_is_refused_by_name(
    name: str, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tensor outside of the blocks and of the first block."""
    source = made(name)
    model = _load(source)
    weights = read_weights(model.files)
    # A network that no tensor has come into serves the next file of the same sizes.
    monkeypatch.setattr(building, "network_of", _Networks())

    def refusal(state: dict[str, Tensor]) -> str:
        changed = Weights(state, weights.dtypes, weights.notes)
        monkeypatch.setattr(loading, "read_weights", lambda files: changed)
        with pytest.raises(VitError) as caught:
            _load(source)
        return str(caught.value)

    for tensor in weights.tensors:
        is_dropped = any(tensor.endswith(dropped) for dropped in model.provenance.dropped)
        if is_dropped or re.search(r"[._][1-9]\d*[./]", tensor) or tensor == ANOTHER.get(name):
            continue
        less = {key: value for key, value in weights.tensors.items() if key != tensor}
        said = refusal(less)
        assert _names(said, tensor), (tensor, said)
        # The patches say the sizes of all others, the arrays of all blocks in one say their number.
        if not re.search("patch|conv1|embedding/kernel|encoderblock/", tensor):
            grown = torch.ones([side + 1 for side in weights.tensors[tensor].shape])
            said = refusal(weights.tensors | {tensor: grown})
            assert _names(said, tensor), (tensor, said)
    assert "surplus.weight [3]" in refusal(weights.tensors | {"surplus.weight": torch.zeros(3)})


# Where the number of positions does not fit, either may be wrong.
IN_OTHER_WORDS = {
    "cls_token": ("pos_embed", "class token"),
    "dist_token": ("pos_embed",),
    "cls": ("pos_embed", "class token"),
    "pos_embedding": ("pos_embed",),
    "position_embedding": ("pos_embed",),
    "positional_embedding": ("pos_embed", "class_embedding"),
}


def _names(said: str, tensor: str) -> bool:
    """Whether it speaks of the tensor."""
    *_, module, leaf = ["", *re.split(r"[./]", tensor)]
    is_part = leaf in ("weight", "bias", "kernel", "scale")
    words = (f"{module}.{leaf}" if is_part else leaf, *IN_OTHER_WORDS.get(leaf, ()))
    return any(word in said.replace("/", ".") for word in words)
