"""Texts in the joint space: the numbers of transformers, run live, and the files around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import PreTrainedModel

import vitcli
from tests.conftest import Vit
from tests.fixtures.clip import PROJECTION, tiny_clip
from tests.fixtures.extras import Lazy, needs
from tests.fixtures.photos import photo
from vitcli.errors import CheckpointError, UsageError

pq = Lazy("pyarrow.parquet", "parquet")
TEXTS = ("a red car", "un été, 猫", "a long text that is cut")
LENGTH, START, END = 8, 1, 49


class Letters:
    """A tokenizer whose tokens are letters."""

    clean, source, context_length, vocab_size = "none", "letters", LENGTH, 50

    def encode(self, texts: Sequence[str]) -> SimpleNamespace:
        ids = np.zeros((len(texts), LENGTH), np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [START, *(3 + ord(c) % 40 for c in text if c not in "?!")][: LENGTH - 1]
            row[: len(tokens) + 1] = [*tokens, END]
        cut = tuple(n for n, text in enumerate(texts) if len(text) > LENGTH - 2)
        return SimpleNamespace(ids=ids, cut=cut)


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitcli.tasks.embed_texts.open_tokenizer", lambda *args, **how: Letters())
    monkeypatch.setattr("vitcli.tasks.embed_texts.AT_ONCE", 2)


@pytest.fixture(scope="module", params=["CLIPModel", "SiglipModel"])
def towers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    folder = tmp_path_factory.mktemp("texts") / request.param
    return tiny_clip(request.param, folder), folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "clip"
    tiny_clip("CLIPModel", folder)
    return folder


@torch.inference_mode()
def text_features(theirs: PreTrainedModel) -> np.ndarray:
    """Return what transformers compares with images, (B, E)."""
    ids = torch.from_numpy(Letters().encode(TEXTS).ids)
    return np.asarray(theirs.get_text_features(ids).pooler_output)


def test_texts_are_those_of_transformers(
    vit: Vit, towers: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    theirs, folder = towers
    expected = text_features(theirs)
    found = vitcli.embed(texts=TEXTS, model=str(folder), l2=False)
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    assert (found.texts, found.paths, found.failures) == (TEXTS, (), ())
    (tmp_path / "q.txt").write_bytes("\ufeff{}\r\n{}\n{}".format(*TEXTS).encode())
    ended = vit("embed", "--texts", "q.txt", "-m", folder, "--l2", "-o", "w.npy")
    assert ended.code == 0, ended.err
    assert "2 texts are cut" not in ended.err and "3 texts are cut to the 8 tokens" in ended.err
    assert "3 texts in" in ended.err and "images" not in ended.err
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "w.npy"), unit, atol=1e-5)


@needs("parquet")
def test_every_format_names_its_texts(vit: Vit, clip: Path, tmp_path: Path) -> None:
    words = [word for text in TEXTS for word in ("--text", text)]
    names = ("w.npy", "z.npz", "s.safetensors", "p.parquet", "j.jsonl")
    for name in names:
        ended = vit("embed", *words, "-m", clip, "--store", "fp16", "-o", name)
        assert ended.code == 0, ended.err
    expected = np.load(tmp_path / "w.npy")
    assert (expected.shape, expected.dtype) == ((3, PROJECTION), np.float16)
    index = [json.loads(line) for line in (tmp_path / "w.index.jsonl").open(encoding="utf-8")]
    assert index == [{"row": n, "text": text} for n, text in enumerate(TEXTS)]
    with np.load(tmp_path / "z.npz") as archive:
        np.testing.assert_array_equal(archive["embeddings"], expected)
        assert archive["texts"].tolist() == list(TEXTS)
    tensors = safetensors.numpy.load_file(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], expected)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["text", "embedding", "error"]
    assert table["text"].to_pylist() == list(TEXTS)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float16), expected)
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").open(encoding="utf-8")]
    assert [list(line) for line in lines] == [["text", "embedding"]] * 3
    np.testing.assert_array_equal(np.array([r["embedding"] for r in lines], np.float16), expected)
    piped = vit(
        "embed", "--texts", "-", "-m", clip, "--store", "fp16", input="\n".join(TEXTS).encode()
    )
    assert piped.out == (tmp_path / "j.jsonl").read_bytes()
    meta = json.loads((tmp_path / "w.meta.json").read_text())
    known = {"kind": "text", "pool": "joint", "l2": False, "clean": "none", "tokenizer": "letters",
             "context_length": 8, "cut": 3, "array_dtype": "float16", "shape": [3, PROJECTION],
             "row_shape": [PROJECTION], "texts": 3, "failed": 0}  # fmt: skip
    assert meta.items() >= known.items() and len(meta["sha256"]) == 64
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.partial*"))


def test_options_of_the_model_are_in_the_meta(vit: Vit, clip: Path, tmp_path: Path) -> None:
    """`vit search` loads the model of the texts with them, to embed its queries."""
    words = ("embed", "--text", "cat", "-m", clip)
    assert vit(*words, "--patch-size", "16", "-o", "w.npy").code == 0
    meta = json.loads((tmp_path / "w.meta.json").read_bytes())
    assert meta["model_options"] == {"patch_size": [16, 16]}
    photo("x").save(tmp_path / "a.png")
    ended = vit("search", "w.npy", "a.png", "-j", "0")
    assert ended.code == 0, ended.err
    [hit] = json.loads(ended.out)["results"]
    assert hit["text"] == "cat"
    assert vit(*words, "-o", "v.npy").code == 0
    assert "model_options" not in json.loads((tmp_path / "v.meta.json").read_bytes())


def test_an_earlier_output_stays_until_the_new_one_is_whole(
    vit: Vit, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ("embed", "-", "-m", clip, "-o", "f.npy")  # an empty list
    assert vit(*images).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert ".f.npy.journal" in before
    words = ("embed", "--text", "cat", "-m", clip, "-o", "f.npy")
    assert "f.npy exists" in vit(*words).err
    with monkeypatch.context() as broken:

        def fail(*args: object, **how: object) -> None:
            raise CheckpointError("the weights are gone")

        broken.setattr("vitcli.tasks.embed_texts._rows", fail)
        assert vit(*words, "--overwrite").code == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert vit(*words, "--overwrite").code == 0
    assert np.load(tmp_path / "f.npy").shape == (1, PROJECTION)
    assert not (tmp_path / ".f.npy.journal").exists()
    assert "f.npy has no record of its run" in vit(*images, "--resume").err


def test_a_text_of_which_the_model_sees_nothing_is_noted(vit: Vit, clip: Path) -> None:
    ended = vit("embed", "--text", "cat", "--text", "?!", "-m", clip)
    assert "the model sees nothing of '?!'" in ended.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("in.png",), "leave out INPUTS"),
        (("--files-from", "q.txt"), "leave out INPUTS"),
        (("--resume",), "leave out --resume"),
        (("--shard", "1/2"), "leave out --shard 1/2"),
        (("--layer", "1"), "leave out --layer"),
        (("--layers", "1,2"), "leave out --layer"),
        (("--pool", "cls"), "leave out --pool cls"),
        (("--no-norm",), "leave out --no-norm"),
        (("--engine", "onnx"), "leave out --engine onnx"),
        (("--quantize", "int8"), "leave out --quantize int8"),
        (("--dtype", "bf16"), "leave out --dtype bf16"),
        (("--devices", "cpu,cpu"), "leave out --devices"),
        (("--ray", "local"), "leave out --ray"),
        (("--texts", "q.txt"), "--text and --texts are both given"),
        (("--text", " "), "text 2 is blank"),
        (("-o", "/dev/null", "--format", "npy"), "cannot be written to a pipe"),
    ],
)
def test_options_of_images_are_refused(
    vit: Vit, clip: Path, tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    (tmp_path / "q.txt").write_text("cat\n")
    ended = vit("embed", "--text", "cat", "-m", clip, *args)
    assert (ended.code, ended.out) == (2, b"")
    assert said in ended.err


@pytest.mark.parametrize(
    ("content", "args", "code", "said"),
    [
        (b"cat\n\ndog\n", (), 2, "q.txt (--texts), line 2 is blank"),
        (b"\n\n", (), 2, "has no texts"),
        (b"version https://git-lfs.github.com/spec/v1\n", (), 1, "is a git-LFS pointer"),
        (b"\xff\n", (), 1, "is not UTF-8"),
        (b"a\0\n", (), 1, "holds NUL bytes"),
        (b"cat\n", ("--texts", "none.txt"), 1, "no such file: none.txt (--texts)"),
        (b"cat\n", ("--texts", "."), 1, ". (--texts) is a folder"),
        (b"cat\n", ("--texts", "/dev/zero"), 1, "is a device"),
        (b"cat\n", ("-o", "q.txt", "--format", "jsonl", "--overwrite"), 1, "would be overwritten"),
        (b"cat\n", ("--summary", "q.txt"), 1, "q.txt"),
    ],
)
def test_a_file_that_is_no_list_of_texts(
    vit: Vit,
    clip: Path,
    tmp_path: Path,
    content: bytes,
    args: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    (tmp_path / "q.txt").write_bytes(content)
    ended = vit("embed", "--texts", "q.txt", "-m", clip, *args)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err
    assert (tmp_path / "q.txt").read_bytes() == content


def test_options_of_texts_need_texts(
    vit: Vit, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--tokenizer has no effect without texts" in vit("embed", ".", "--tokenizer", "x").err
    with pytest.raises(UsageError, match="text_clean has no effect"):
        vitcli.embed([], text_clean="none")
    with pytest.raises(UsageError, match="neither images nor texts"):
        vitcli.embed()
    with pytest.raises(UsageError, match="no texts are given"):
        vitcli.embed(texts=[])
    with pytest.raises(UsageError, match="text 1 is int"):
        vitcli.embed(texts=[3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="text_clean='ftfy'"):
        vitcli.embed(texts="cat", text_clean="ftfy")  # type: ignore[arg-type]
    from vitcli.cli import main

    monkeypatch.setenv("VIT_TEXTS", str(tmp_path / "q.txt"))
    (tmp_path / "q.txt").write_text("cat\n")
    assert main(["embed", "-q", "-m", str(clip), "-o", str(tmp_path / "w.npy")]) == 0
    assert np.load(tmp_path / "w.npy").shape == (1, PROJECTION)


def test_a_model_without_a_text_tower(vit: Vit, tmp_path: Path) -> None:
    tiny_clip("CLIPVisionModelWithProjection", tmp_path / "vision")
    ended = vit("embed", "--text", "cat", "-m", "vision", "-o", "w.npy")
    assert ended.code == 1 and "vision has no text tower" in ended.err
    ended = vit("embed", "--text", "cat", "-m", "demo", "-o", "w.npy")
    assert ended.code == 2 and "demo has a classifier" in ended.err
    assert not list(tmp_path.glob("*w.npy*"))
