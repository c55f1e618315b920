"""From files to a model: every container, strictly, and what is said of damaged or hostile ones."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.checkpoints.files import (
    State,
    copied,
    edit_json,
    loaded,
    read_state,
    refusal,
    write_state,
)
from tests.fixtures.tiny import LABELS, tiny_hf
from tests.models.goldens import Golden
from vitcli.checkpoints import load as loading
from vitcli.checkpoints.load import Model
from vitcli.errors import ModelNotFound, UsageError

QUERY = "vit.encoder.layer.0.attention.attention.query.weight"


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny ViT with a classifier, to be changed."""
    return copied(tiny_model("vit"), tmp_path / "model")


@pytest.fixture(scope="module")
def original(tiny_model: Callable[[str], Path]) -> Model:
    return loaded(tiny_model("vit"))


def same(one: Model, other: Model) -> bool:
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def as_bin(folder: Path, payload: object = None, **options: Any) -> Path:
    """The weights, or something else, as `pytorch_model.bin` in the place of safetensors."""
    path = folder / "pytorch_model.bin"
    torch.save(read_state(folder) if payload is None else payload, path, **options)
    (folder / "model.safetensors").unlink()
    return path


def as_shards(folder: Path, suffix: str, count: int = 3) -> Path:
    """The weights in shards beside an index; gives the index."""
    state = read_state(folder)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    write = save_file if suffix == "safetensors" else torch.save
    weight_map = {}
    for number in range(count):
        name = f"{stem}-{number + 1:05}-of-{count:05}.{suffix}"
        part = {key: state[key] for key in list(state)[number::count]}
        write(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_a_model_is_ready_to_use(original: Model) -> None:
    assert not original.network.training
    assert not any(p.requires_grad for p in original.network.parameters())
    assert {p.dtype for p in original.network.parameters()} == {torch.float32}
    assert original.labels == LABELS
    assert original.notes == ()


# Containers.


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_one_model(folder: Path, suffix: str, original: Model) -> None:
    index = as_shards(folder, suffix)
    model = loaded(folder)
    assert same(model, original)
    assert len(model.files) == 3
    assert same(loaded(index), original)


def test_shards_of_save_pretrained_are_one_model(tmp_path: Path, original: Model) -> None:
    tiny_hf("vit", tmp_path).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    assert same(loaded(tmp_path / "shards"), original)


@pytest.mark.parametrize("new_zip", [True, False], ids=["zip", "legacy"])
def test_a_bin_is_the_same_model(folder: Path, new_zip: bool, original: Model) -> None:
    path = as_bin(folder, _use_new_zipfile_serialization=new_zip)
    assert same(loaded(folder), original)
    assert same(loaded(path), original)


def test_safetensors_are_preferred_to_pickles(folder: Path, original: Model) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    model = loaded(folder)
    assert same(model, original)
    assert [file.name for file in model.files] == ["model.safetensors"]


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], object]] = {
    "model": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "distributed": lambda state: {"state_dict": prefixed(state, "module."), "optimizer": {1: {}}},
    "ema first": lambda state: {"state_dict_ema": state, "state_dict": {"x": torch.ones(1)}},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled and distributed": lambda state: prefixed(state, "_orig_mod.module."),
    "nested": lambda state: {"state_dict": {"model": state}},
    "lightning": lambda state: {
        "state_dict": prefixed(state, "model."),
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.ones(())}},
        "pytorch-lightning_version": "2.5.0",
    },
    "in a module of one's own": lambda state: {"model": prefixed(state, "module.net.")},
    "a backbone": lambda state: prefixed(state, "_orig_mod.backbone."),
    "of timm": lambda state: prefixed(state, "timm_model."),
    "PyTorch's tutorial": lambda state: {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        "loss": torch.tensor(0.5),
    },
    "a key of one's own": lambda state: {"net": state, "acc": torch.tensor(9), "epoch": 1},
    "two deep": lambda state: {"checkpoint": {"weights": prefixed(state, "module.")}},
    "an average beside": lambda state: {"network": other(state), "ema_network": state},
    "wrappers inside": lambda state: {
        re.sub(r"\.(\d+)\.", r".\1._checkpoint_wrapped_module._orig_mod.", name): tensor
        for name, tensor in prefixed(state, "_fsdp_wrapped_module.").items()
    },
    "a module in a module": lambda state: prefixed(state, "student_net.feature_extractor.vit."),
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("kind", ["timm", "hf"])
def test_a_training_checkpoint_is_unwrapped(kind: str, wrap: str, folder: Path) -> None:
    if kind == "timm":
        folder = Golden.read("vit").save(folder)
    plain = loaded(folder)
    as_bin(folder, WRAPPED[wrap](read_state(folder)))
    assert same(loaded(folder), plain)


def test_what_stands_beside_a_wrapped_model_is_named(folder: Path) -> None:
    """A loss with weights, say: nothing tells that it is none of the model's."""
    state = prefixed(read_state(folder), "model.") | {"criterion.weight": torch.ones(7)}
    as_bin(folder, {"state_dict": state})
    said = refusal(folder)
    assert "1 tensor of unknown name: criterion.weight [7]" in said
    assert "--drop 'criterion.*' leaves it out" in said


def test_what_is_none_of_the_models_can_be_dropped(folder: Path, original: Model) -> None:
    state = prefixed(read_state(folder), "model.")
    state |= {"criterion.weight": torch.ones(7), "model.metric.w": torch.ones(2)}
    as_bin(folder, {"state_dict": state})
    model = loaded(folder, drop=("criterion.*", "metric.*"))
    assert same(model, original)
    assert "--drop leaves out 2 of" in model.notes[0]
    assert "--drop nothing.* matches no tensor" in refusal(
        folder, drop=("criterion.*", "nothing.*")
    )
    assert "leaves out all tensors" in refusal(folder, drop=("*",))


def test_of_two_state_dicts_one_has_to_be_chosen(folder: Path) -> None:
    state = read_state(folder)
    as_bin(folder, {"netG": state, "netD": state})
    assert "holds 2 state dicts: 'netG', 'netD'" in refusal(folder)


def test_a_folder_of_the_hubs_cache_is_a_model(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    for name in ("a" * 40, "b" * 40):
        shutil.copytree(folder, cache / "snapshots" / name)
    assert "2 snapshots" in refusal(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    assert loaded(cache).files[0].parent.name == "b" * 40


def test_torchvisions_names_are_read(tmp_path: Path) -> None:
    """The same tensors under both names are one model; torchvision's epsilon is timm's."""
    golden = Golden.read("vit")
    state = {**golden.state, "pos_embed": torch.zeros(1, 1 + 9, 24)}
    torch.save(state, tmp_path / "timm.pth")
    names = (
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj", "conv_proj"),
        (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc(\d)\.", r".mlp.linear_\1."),
    )
    theirs = {}
    for name, tensor in state.items():
        for pattern, spelled in names:
            name = re.sub(pattern, spelled, name)
        theirs[name] = tensor
    torch.save(theirs, tmp_path / "vision.pth")
    expected, found = (loaded(tmp_path / n, num_heads=2) for n in ("timm.pth", "vision.pth"))
    assert found.layout == "torchvision"
    assert same(found, expected)
    assert found.preprocess.resample == "bilinear"
    published = loaded(tmp_path / "vision.pth", num_heads=2, preprocess="timm").preprocess
    assert published.source == "--preprocess timm: torchvision as published"
    assert (published.resample, published.resize) == ("bilinear", found.preprocess.resize)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_load_as_their_fp32_values(
    folder: Path, dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in read_state(folder).items()}
    write_state(folder, state)
    network = loaded(folder).network
    assert torch.equal(network.cls_token, state["vit.embeddings.cls_token"].float())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_loaded_model_outlives_its_file(folder: Path, original: Model) -> None:
    """The tensors are copies: no map of the file, whose truncation would kill the process."""
    model = loaded(folder)
    os.truncate(folder / "model.safetensors", 100)
    assert same(model, original)


# Strictness.


def without(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != QUERY}


def extra(state: State) -> State:
    return state | {"vit.encoder.layer.0.lambda_1": torch.ones(32)}


def deeper(state: State) -> State:
    third = {n: t for n, t in state.items() if ".layer.2." in n}
    return state | {n.replace(".2.", ".3."): t.clone() for n, t in third.items()}


def misshapen(state: State) -> State:
    return state | {"classifier.bias": torch.zeros(9)}


def not_a_number(state: State) -> State:
    weight = state[QUERY].clone()
    weight[0, :17] = torch.nan
    return state | {QUERY: weight}


def infinite(state: State) -> State:
    return state | {"classifier.bias": torch.full((7,), torch.inf)}


def no_bias(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "vit.layernorm.bias"}


def whole_numbers(state: State) -> State:
    return state | {"classifier.bias": torch.zeros(7, dtype=torch.int64)}


def complex_numbers(state: State) -> State:
    return state | {"classifier.bias": torch.zeros(7, dtype=torch.complex64)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without, "blocks.0.attn.qkv.weight is made of 3 tensors, the file has only"),
        (extra, "1 tensor of unknown name: encoder.layer.0.lambda_1 [32]"),
        (deeper, "num_hidden_layers is 3, the file has 4 blocks"),
        (misshapen, "classifier.bias: expected [7], found [9]"),
        (not_a_number, f"{QUERY} holds 17 NaN"),
        (infinite, "classifier.bias holds 7 infinite values"),
        (no_bias, "layernorm.bias [32] is missing"),
        (whole_numbers, "classifier.bias [7] holds whole numbers, not weights"),
        (complex_numbers, "classifier.bias in"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    folder: Path, change: Callable[[State], State], says: str
) -> None:
    write_state(folder, change(read_state(folder)))
    assert says in refusal(folder)


def test_one_tensor_in_two_shards_is_refused(folder: Path) -> None:
    as_shards(folder, "safetensors")
    first, second, _ = sorted(folder.glob("model-*"))
    second.write_bytes(first.read_bytes())
    assert "is in two shards" in refusal(folder)


# Broken files.

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346293852\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "vit.pth", "vit.pt"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (LFS, "is a git-LFS pointer, not the weights\n  run git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page, not weights"),
        (b"\n <HTML>", "is a web page"),
        (b"\x1f\x8b\x08\0", "is gzip-compressed"),
        (b"\x28\xb5\x2f\xfd", "is zstd-compressed"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras and TensorFlow write it"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\xff\xd8\xff\xe0", "is a picture, not a model"),
        (b'{"error": "Invalid username or password."}', "is JSON, not weights"),
        (b"abc", "safetensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"{path} ") or said.startswith("refused: ")
    assert says in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x02}q\x00.", "is not a readable PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(40), "is truncated, at 44 bytes: the end of the archive is missing"),
        (b"PK\x05\x06" + bytes(18), "is neither safetensors, a PyTorch checkpoint nor .npz"),
    ],
)
def test_a_file_that_only_begins_like_a_checkpoint_is_refused(
    content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / "vit.pth").write_bytes(content)
    assert says in refusal(tmp_path / "vit.pth")


def header(text: str | bytes, length: int | None = None, data: bytes = b"") -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(name: str, start: int, end: int, dtype: str = "F32", shape: str = "[1]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"1234567", "not a valid safetensors file (header says"),
        (header("{}", length=1000), "header says 1,000 bytes, file has 10"),
        (header("{}", length=2**63), "not a valid safetensors file"),
        (header("{]"), "not a valid safetensors file"),
        (header(b"{\xff}"), "not a valid safetensors file"),
        (header("[" * 100_000), "not a valid safetensors file"),
        (header('{"a":1}'), "not a valid safetensors file"),
        (header("{" + entry("a", 0, 400, shape="[100]") + "}", data=bytes(310)), "is truncated:"),
        (header("{" + entry("a", 4, 8) + "}", data=bytes(8)), "not a valid safetensors file"),
        (header("{" + entry("a", 0, 4, "X7") + "}", data=bytes(4)), "a is X7, which is not read"),
        (
            header("{" + entry("a", 0, 4) + "," + entry("a", 4, 8) + "}", data=bytes(8)),
            "a name is there twice",
        ),
        (header("{}"), "holds no tensors"),
        (
            header("{" + ",".join(entry(f"t{n}", 0, 0, shape="[0]") for n in range(20_001)) + "}"),
            "claims 20,001 tensors",
        ),
    ],
)
def test_a_wrong_safetensors_header_is_refused_at_once(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "vit.safetensors"
    path.write_bytes(content)
    start = time.process_time()
    assert says in refusal(path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_said_to_be_truncated(folder: Path, share: float) -> None:
    for path in (folder / "model.safetensors", as_bin(copied(folder, folder.parent / "bin"))):
        os.truncate(path, int(path.stat().st_size * share))
        said = refusal(path)
        assert "truncated" in said
        assert "download it again" in said


def test_a_flipped_byte_in_a_pickle_is_found_by_its_checksum(folder: Path) -> None:
    path = as_bin(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is damaged: the checksum of" in refusal(folder)


# Hostile files.


class Hostile:
    """A pickle of this runs a command, if it is let."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def hostile_files(canary: Path) -> Iterator[bytes]:
    hostile = Hostile(canary)
    nested = {"state_dict": {"a": torch.ones(1)}, "args": argparse.Namespace(run=hostile)}
    for payload in (hostile, {"state_dict": {"a": hostile}}, nested):
        for protocol in (2, 4):
            for new_zip in (True, False):
                stream = io.BytesIO()
                torch.save(
                    payload,
                    stream,
                    pickle_protocol=protocol,
                    _use_new_zipfile_serialization=new_zip,
                )
                yield stream.getvalue()
        yield from (pickle.dumps(payload, protocol) for protocol in range(6))


def test_a_pickle_that_wants_to_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "vit.pth"
    named = 0
    for content in hostile_files(canary):
        path.write_bytes(content)
        said = refusal(path)
        named += ".system" in said
        assert not canary.exists()
    assert named == 30


def test_the_refusal_names_what_a_pickle_wants_to_run(folder: Path, tmp_path: Path) -> None:
    as_bin(folder, {"state_dict": {"a": Hostile(tmp_path / "canary")}})
    said = refusal(folder)
    assert said.startswith("refused: ")
    assert "wants to run `posix.system`; only tensors and plain containers are loaded" in said
    assert said.endswith("ask for a .safetensors")
    assert not (tmp_path / "canary").exists()


def stretched() -> Tensor:
    return torch.empty(1).as_strided((2**20, 2**20), (0, 0))


def quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"a": stretched()}, "a takes 4.4 TB, "),
        (dict.fromkeys(map(str, range(100)), torch.ones(1000)), "take more than its"),
        ({"a": torch.ones(2, 2).to_sparse()}, "vit.pth is sparse"),
        ({"a": quantised()}, "vit.pth is quantised"),
        ({"a": torch.ones(2, device="meta")}, "vit.pth is without numbers"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "vit.pth is complex"),
        ({1: torch.ones(2)}, "not a state dict"),
        ([torch.ones(2)], "holds list, not a state dict"),
        ({}, "holds dict, not a state dict"),
        ({"a": 1}, "holds dict, not a state dict"),
    ],
)
def test_a_pickle_without_plain_tensors_is_refused(
    payload: object, says: str, tmp_path: Path
) -> None:
    torch.save(payload, tmp_path / "vit.pth")
    assert says in refusal(tmp_path / "vit.pth")


@pytest.mark.parametrize("new_zip", [True, False], ids=["zip", "legacy"])
def test_wherever_a_file_is_cut_it_is_said_to_be_truncated(new_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    args = argparse.Namespace(lr=0.1)
    torch.save(
        {"model": {"a": torch.ones(9)}, "args": args}, path, _use_new_zipfile_serialization=new_zip
    )
    whole = path.read_bytes()
    for length in range(4, len(whole) - 1, 13):
        path.write_bytes(whole[:length])
        assert "is truncated" in refusal(path), length


def test_a_file_that_shrinks_while_it_is_read_is_no_crash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header has been believed by then."""
    preadv = os.preadv

    def cut(descriptor: int, buffers: list[Any], place: int) -> int:
        os.truncate(folder / "model.safetensors", 9000)
        return preadv(descriptor, buffers, place)

    monkeypatch.setattr(os, "preadv", cut)
    assert "was cut short while it was read" in refusal(folder)


def test_tensors_that_share_memory_are_parted(folder: Path, original: Model) -> None:
    """Two views of one tensor, and one of a larger one, as a training script may save them."""
    state = read_state(folder)
    weight, bias = "vit.layernorm.weight", "vit.layernorm.bias"
    state[weight], state[bias] = torch.stack([state[weight], state[bias]]).unbind()
    as_bin(folder, state)
    model = loaded(folder)
    assert same(model, original)
    sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() == p.nbytes
             for p in model.network.parameters()}  # fmt: skip
    assert all(sizes.values())
    assert len(sizes) == len(list(model.network.parameters()))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["a/data.pkl", "a/data.pkl"], "has 2 entries of 1 names"),
        (["p.jpg"], "is a zip archive, not a PyTorch checkpoint"),
    ],
)
def test_an_archive_of_something_else_is_refused(
    entries: list[str], says: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "vit.pth", "w") as archive:
        for name in entries:
            archive.writestr(name, b"")
    assert says in refusal(tmp_path / "vit.pth")


def test_entries_that_lie_over_one_another_are_refused(tmp_path: Path) -> None:
    """Each claims the same bytes: little on disk, much in memory."""
    path = tmp_path / "vit.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(10_000))
        first = archive.infolist()[0]
        for n in range(9):
            other = zipfile.ZipInfo(f"a/data/{n}")
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = first.file_size
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
    assert "claims 100 kB of entries, it has 1" in refusal(path)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vit.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1_000_000))
    assert "is a compressed archive" in refusal(tmp_path / "vit.pth")


def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vit.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    assert "is a TorchScript archive" in refusal(tmp_path / "vit.pt")


@pytest.mark.parametrize(
    "name",
    [
        "../model-1.safetensors",
        "a/../../model-1.safetensors",
        "/model-1.safetensors",
        "C:\\model-1.safetensors",
        "..\\model-1.safetensors",
        "model-1.bin",
    ],
)
def test_an_index_that_points_elsewhere_is_refused(folder: Path, name: str) -> None:
    index = as_shards(folder, "safetensors")
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    said = refusal(folder)
    assert "names a file that is not a shard next to it" in said
    assert name in said


def test_a_missing_shard_is_named(folder: Path) -> None:
    as_shards(folder, "safetensors")
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "shard 2 of 3 is missing: " in refusal(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_a_weight_map_is_refused(folder: Path, weight_map: object) -> None:
    as_shards(folder, "safetensors").write_text(json.dumps({"weight_map": weight_map}))
    assert "has no weight_map" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 10**9}, "config.json: hidden_size is 1000000000"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 512}, "num_hidden_layers is 512, the file has 3 blocks"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, the file has 3 blocks"),
        (
            {"num_attention_heads": 5},
            "heads is 5, which does not divide the width 32",
        ),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"intermediate_size": 131_072}, "expected [131072, 32], found [128, 32]"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"patch_size": "8"}, "patch_size is '8'"),
        ({"image_size": 10**6}, "image_size is 1000000"),
        ({"image_size": [1, 2, 3]}, "image_size is [1, 2, 3]"),
        ({"image_size": 16_384}, "position_embeddings: expected"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"hidden_act": "tanhshrink"}, "unknown activation 'tanhshrink'"),
        ({"id2label": "x"}, "id2label is str"),
        ({"id2label": {"a": "b"}}, "has keys that are not numbers"),
        ({"num_channels": 1}, "reads 1 channels, and images have 3"),
    ],
)
def test_a_config_that_lies_is_refused_at_once(
    folder: Path, changes: dict[str, Any], says: str
) -> None:
    edit_json(folder / "config.json", **changes)
    start = time.process_time()
    assert says in refusal(folder)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("value", [None, "x", float("nan"), float("inf"), -1, 10**9])
@pytest.mark.parametrize("key", ["hidden_size", "mlp_ratio"])
def test_a_dinov2_config_that_lies_is_refused(
    key: str, value: object, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied(tiny_model("dinov2"), tmp_path)
    edit_json(folder / "config.json", **{key: value})
    refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": [1]},
        {"model_args": {"num_heads": "x"}},
        {"model_args": {"num_heads": 2, "img_size": "x"}},
        {"pretrained_cfg": "x"},
        {"pretrained_cfg": {"input_size": [3, "x", 1]}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "crop_pct": "x"}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "crop_pct": -1}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "crop_pct": float("nan")}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "mean": "x"}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "mean": [0, 0, 0], "std": [0, 0, 0]}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "crop_pct": 1, "crop_mode": "x"}},
        {"pretrained_cfg": {"input_size": [3, 64, 48], "mean": 0, "interpolation": [1]}},
    ],
    ids=str,
)
def test_a_timm_config_that_lies_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    golden = Golden.read("vit")
    refusal(golden.save(tmp_path, golden.json | changes))


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, "\xff"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, "latin-1")
    assert str(folder / "config.json") in refusal(folder)


def test_python_files_beside_a_model_are_never_imported(folder: Path, tmp_path: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModel": "evil.Model"}, trust_remote_code=True)
    for name in ("evil.py", "sitecustomize.py", "modeling_vit.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    loaded(folder)
    assert not (tmp_path / "canary").exists()


# What was typed.


@pytest.mark.parametrize("spec", ["no-such-model", "./org/name", "org/name.pth", "a/b/c", ""])
def test_a_spec_that_is_nothing_says_what_may_be_given(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model at") as caught:
        loading.load(spec)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(("give a directory", "there is no folder"))


def test_a_local_folder_wins_over_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: Model
) -> None:
    copied(folder, tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert same(loading.load("org/name"), original)


# Image size.


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((100, 64), "not a multiple of the patch size 8\n  the nearest is 96x64"),
        ((61, 67), "the nearest is 64x64"),
        ((7, 64), "smaller than one patch of 8"),
        ((16_392, 64), "is too large"),
    ],
)
def test_an_image_size_that_does_not_fit_the_patches_is_refused(
    folder: Path, size: tuple[int, int], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(folder, image_size=size)
    assert says in str(caught.value)


def test_a_preprocessing_of_another_size_than_the_models_resizes_it(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", size={"height": 40, "width": 72})
    model = loaded(folder)
    assert model.config.image_size == model.preprocess.size == (40, 72)


# Labels.


def test_labels_with_gaps_are_filled_and_said(folder: Path) -> None:
    edit_json(folder / "config.json", id2label={"0": "cat", "5": "dog"})
    model = loaded(folder)
    assert model.labels == (
        "cat",
        *("LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"),
        *("dog", "LABEL_6"),
    )
    assert model.notes == ("config.json: id2label leaves 5 of 7 classes without a name",)


@pytest.mark.parametrize("placeholders", [True, False])
def test_a_model_without_labels_numbers_them_and_says_so(folder: Path, placeholders: bool) -> None:
    names = {str(i): f"LABEL_{i}" for i in range(7)} if placeholders else ...
    edit_json(folder / "config.json", id2label=names)
    model = loaded(folder)
    assert model.labels[:2] == ("LABEL_0", "LABEL_1")
    assert any("--labels FILE" in note for note in model.notes)


def test_more_names_than_outputs_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", id2label={str(i): f"class {i}" for i in range(9)})
    assert "the head has 7 outputs, config.json: id2label names 9" in refusal(folder)


NAMES = [f"name {i}" for i in range(7)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "\n".join(NAMES)),
        ("crlf.txt", "\r\n".join(NAMES) + "\r\n\r\n"),
        ("bom.txt", "\ufeff" + "\n".join(NAMES)),
        ("list.json", json.dumps(NAMES)),
        ("map.json", json.dumps({str(i): name for i, name in enumerate(NAMES)})),
        ("config.json", json.dumps({"id2label": {str(i): n for i, n in enumerate(NAMES)}})),
        ("bom.json", "\ufeff" + json.dumps(NAMES)),
    ],
)
def test_labels_are_read_from_a_file(folder: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8", newline="")
    model = loaded(folder, labels=tmp_path / name)
    assert list(model.labels) == NAMES
    assert model.notes == ()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("short.txt", "a\nb\n", "the head has 7 outputs"),
        ("long.txt", "a\n" * 8, "has 8"),
        ("bad.json", "{", "is not JSON"),
        ("word.json", '"x"', "expected names by number"),
        ("short.json", '["a"]', "the head has 7 outputs"),
        ("keys.json", '{"a": "b"}', "has keys that are not numbers"),
        ("gap.json", '{"0": "a", "9": "b"}', ""),
        ("latin.txt", "caf\xe9", "is not UTF-8 text"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_text(text, "latin-1")
    said = refusal(folder, labels=tmp_path / name)
    assert says in said
    assert name in said


def test_a_labels_file_that_is_not_there_is_refused(folder: Path) -> None:
    assert "no such file" in refusal(folder, labels=folder / "absent.txt")


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_tiny_patch16_224.augreg_in21k_ft_in1k"},
        {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"tag": "fb_in1k"}},
        {"architecture": "vit_tiny_patch16_224", "tag": "in1k"},
    ],
    ids=["architecture", "pretrained_cfg", "flat"],
)
def test_a_timm_tag_of_imagenet_gives_its_names(config: dict[str, Any], tmp_path: Path) -> None:
    golden = Golden.read("vit")
    folder = golden.save(tmp_path, config | {"model_args": golden.json["model_args"]})
    head = {"head.weight": torch.zeros(1000, 24), "head.bias": torch.zeros(1000)}
    square = {"pos_embed": torch.zeros(1, 1 + 9, 24)}
    write_state(folder, golden.state | head | square)
    labels = loaded(folder).labels
    assert labels[0] == "tench, Tinca tinca"
    assert len(set(labels)) >= 998
    assert len(labels) == 1000


def test_label_names_of_timm_are_used(tmp_path: Path) -> None:
    golden = Golden.read("vit")
    folder = golden.save(tmp_path, golden.json | {"label_names": list(LABELS)})
    assert loaded(folder).labels == LABELS
