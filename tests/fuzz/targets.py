"""What is made odd: a function for each kind of input, from draws and a box to a command."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import pickle
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import typer.main
from hypothesis import strategies as st

from tests.fixtures.hub import Answer, FakeHub, Odd
from tests.fixtures.photos import GOOD
from tests.fuzz.mutate import (
    NUMBERS,
    TEXTS,
    Draw,
    dumped,
    edited,
    odd_json,
    odd_lines,
    of,
    perhaps,
    scalars,
    spoiled,
    texts,
)
from tests.fuzz.runner import Box, Command, Target, picture

DEMO = Path(__file__).parents[2] / "vitcli" / "demo"
RUN = ("-m", "demo", "-j", "0", "-q")
IMAGES = ("in/a.png", "in/b.png")
LABELS = tuple("0123456789")
Files = dict[str, bytes]


def made(*commands: Sequence[str], keep: Sequence[str] = ("home/out",), **files: bytes) -> Files:
    """What good commands leave, to be made odd."""
    with tempfile.TemporaryDirectory(prefix="vit-fuzz-") as folder:
        box = Box(Path(folder) / "box")
        box.base.mkdir()
        box.clear()
        box.fill(files)
        for words in commands:
            assert box.run(Command(words)).code == 0
        return box.files(*keep)


def spoil_one(draw: Draw, files: Files, choose: Callable[[str], bool] = lambda name: True) -> Files:
    """The files with one of them made odd, as its kind is."""
    name = of(draw, *sorted(filter(choose, files)))
    is_lines = name.endswith((".jsonl", ".journal", ".jsonl.partial")) and files[name]
    odd = odd_json if name.endswith(".json") else odd_lines if is_lines else spoiled
    return files | {name: odd(draw, files[name])}


# Runs and their journals.

WRITERS = {
    "classify -k 2": "out/out.jsonl",
    "classify -k 2 --select score>0.3": "out/out.csv",
    "classify": "out/out.parquet",
    "embed": "out/out.npy",
    "embed --pool mean": "out/out.safetensors",
    "attention": "out/maps",
}
ASKED = ((), ("--overwrite",), *(("--resume", *more) for more in ((), ("--retry-failed",))))


@functools.cache
def finished(words: str, out: str) -> Files:
    return made([*words.split(), *IMAGES, "-o", out, *RUN, "-b", "1"])


def interrupted(files: Files) -> Files:
    """As they were before the last journal had its end, and the files their names."""
    found = {}
    for name, data in files.items():
        folder, _, last = name.rpartition("/")
        if last.endswith(".journal"):
            name = f"{folder}/{last.removeprefix('.').removesuffix('.journal')}.partial.journal"
            data = b"".join(data.splitlines(keepends=True)[:-1])
        else:
            name += ".partial"
        found[name] = data
    return found


def journals(draw: Draw, box: Box) -> Command:
    words, out = of(draw, *WRITERS.items())
    files = finished(words, out)
    if draw(st.booleans()):
        files = interrupted(files)
    if draw(st.integers(0, 9)):
        is_journal = draw(st.booleans())
        files = spoil_one(draw, files, lambda name: not is_journal or name.endswith(".journal"))
    box.fill(files)
    if of(draw, False, False, True):
        lock = json.dumps({"pid": 1, "host": "h", "since": 1.5}).encode()
        box.write(f"{out}.partial.lock", odd_json(draw, lock))
    asked = of(draw, *ASKED, ("--resume", "--keep-missing"))
    command = Command([*words.split(), *IMAGES, "-o", out, *RUN, "-b", "1", *asked])
    if words != "classify -k 2" or "--keep-missing" in asked:
        return command
    return replace(command, out=out, whole=finished(words, out)[out])


@functools.cache
def shards() -> Files:
    return made(
        *(["classify", *IMAGES, *RUN, "-o", "out/o.jsonl", "--shard", f"{n}/2"] for n in (1, 2))
    )


def merges(draw: Draw, box: Box) -> Command:
    files = spoil_one(draw, shards())
    box.fill(files)
    names = sorted(name for name in files if name.endswith(".jsonl"))
    return Command(["merge", *names, "-o", "out/all.jsonl", "-q", *of(draw, (), ("--overwrite",))])


@functools.cache
def training() -> tuple[Files, tuple[str, ...]]:
    pictures = {f"in/d/{c}/{n}.png": picture(c + n) for c in ("0", "1") for n in ("p", "pp", "ppp")}
    words = ("finetune", "in/d", *RUN, "--epochs", "1", "--train", "head", "-o", "out/run")
    kept = ("home/out", "cache")
    return pictures | made(words, keep=kept, **pictures), words


def trainings(draw: Draw, box: Box) -> Command:
    files, words = training()
    if of(draw, True, False):  # what the last epoch left is there, and one more is to do
        files = {name: data for name, data in files.items() if "report" not in name}
    inner = ("run.json", "split.jsonl", "state.pt", "metrics.jsonl", ".npz", "config.json")
    box.fill(spoil_one(draw, files, lambda name: name.endswith(inner)))
    return Command([*words, *of(draw, ("--resume",), ("--resume",), ("--overwrite",), ())])


def predictions(draw: Draw, box: Box) -> Command:
    box.write("in/t.csv", b"path,label\na.png,3\nb.png,4\n")
    preds = finished("classify -k 2", "out/out.jsonl")["out/out.jsonl"]
    box.write("out/p.jsonl", odd_lines(draw, preds))
    return Command(["evaluate", "in/t.csv", "--preds", "out/p.jsonl", "-q"])


# Images, lists, tables, archives.


KINDS = tuple(name for name in GOOD if "/" not in name and "4000" not in name)


def chunks(draw: Draw, data: bytes) -> bytes:
    """A PNG with a chunk made odd whose checksum is right."""
    parts, at = [data[:8]], 8
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0] + 12
        parts.append(data[at : at + length])
        at += length
    which = draw(st.integers(1, len(parts) - 1))
    kind = of(draw, parts[which][4:8], *(b"IHDR", b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"acTL"))
    body = kind + spoiled(draw, parts[which][8:-4])
    parts[which] = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"".join(parts)


def directory(draw: Draw, data: bytes) -> bytes:
    """A TIFF with numbers of its first directory made odd."""
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    at = start + 2 + 12 * draw(st.integers(0, count - 1))
    at += of(draw, 0, 2, 4, 8, 8)
    return data[:at] + struct.pack("<I", of(draw, *NUMBERS) % 2**32) + data[at + 4 :]


def images(draw: Draw, box: Box) -> Command:
    name = of(draw, *KINDS)
    data, suffix = GOOD[name](name), Path(name).suffix
    shape = chunks if suffix == ".png" else directory if data[:2] == b"II" else spoiled
    odd = of(draw, shape, spoiled)(draw, data)
    suffix = of(draw, suffix, suffix, suffix, ".jpg", ".png", ".tif")
    inputs = ["in/a.png", box.write(f"in/odd{suffix}", odd), "in/b.png"]
    more = of(draw, (), ("--formats", "all"), ("--decode", "fast"), ("--no-exif",))
    return Command(["classify", *inputs, *RUN, *more], b"", inputs)


def lists(draw: Draw, box: Box) -> Command:
    paths = draw(st.lists(st.one_of(st.sampled_from(IMAGES), texts), max_size=4))
    end, more = of(draw, (b"\n", ()), (b"\r\n", ()), (b"\0", ("-0",)))
    safe = [p for p in paths if not p.startswith("/dev/zero")]
    data = perhaps(draw, end.join(p.encode("utf-8", "surrogatepass") for p in safe) + end)
    if draw(st.booleans()):
        return Command(["classify", "--files-from", "-", *RUN, *more], data)
    box.write("in/list.txt", data)
    return Command(["embed", "--files-from", "in/list.txt", *RUN, "-o", "out/e.npz", *more])


def tables(draw: Draw, box: Box) -> Command:
    names = of(draw, ("path", "label"), ("path", "label", "split"), ("image", "class_name"))
    rows = [["a.png", "3", "train"], ["b.png", "4", "val"]] * of(draw, 1, 3)
    rows = [row[: len(names)] for row in rows]
    kind = of(draw, "csv", "tsv", "jsonl")
    if kind == "jsonl":
        lines = [dumped(dict(zip(names, row, strict=True))) + b"\n" for row in rows]
        data = odd_lines(draw, b"".join(lines))
    else:
        text, cells = io.StringIO(), [list(names), *rows]
        if draw(st.booleans()):
            cells = edited(draw, cells)
        cells = [
            row if isinstance(row, list) else [row]
            for row in (cells if isinstance(cells, list) else [])
        ]
        csv.writer(text, delimiter="," if kind == "csv" else "\t").writerows(cells)
        data = perhaps(draw, text.getvalue().encode("utf-8", "surrogatepass"))
        wide = data.decode("latin-1").encode("utf-16")
        data = of(draw, data, data, data, b"\xef\xbb\xbf" + data, wide)
    box.write(f"in/t.{kind}", data)
    if of(draw, False, False, False, False, True):
        words = ["finetune", f"in/t.{kind}", "--epochs", "1", "--train", "head", "-o", "out/run"]
    else:
        words = ["evaluate", f"in/t.{kind}"]
    return Command([*words, *RUN])


def header(draw: Draw, name: str, data: bytes) -> bytes:
    """A header of a tar and what it is of, with a field made odd and a checksum that is right."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    form = of(draw, tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    if form == tarfile.PAX_FORMAT and draw(st.booleans()):
        sparse = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major")
        key = of(draw, "path", "size", "linkpath", "mtime", "hdrcharset", *sparse)
        info.pax_headers = {key: of(draw, *map(str, NUMBERS), *TEXTS[:40])}
    try:
        blocks = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    except (ValueError, UnicodeError):
        blocks = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "replace"))
    if draw(st.booleans()):
        kinds = (b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g", b"V", b"\0")
        at, new = of(draw, 156, 156, 0, 124, 136, 257, 345, 386), draw(st.binary(max_size=12))
        new = of(draw, *kinds) if at == 156 else new
        at += len(blocks) - 512
        blocks[at : at + len(new)] = new
        if draw(st.booleans()):  # in binary, as GNU has it
            blocks[-388:-376] = b"\x80" + (of(draw, *NUMBERS) % 2**88).to_bytes(11, "big")
        blocks[-364:-356] = b" " * 8
        blocks[-364:-356] = b"%06o\0 " % sum(blocks[-512:])
    return bytes(blocks) + data + bytes(-len(data) % 512)


member = st.one_of(st.sampled_from(("a.png", "c/b.png", "b.cls")), texts)
members = st.lists(member, min_size=1, max_size=4)


def tars(draw: Draw, box: Box) -> Command:
    found = [header(draw, name, picture("a.png")) for name in draw(members)]
    data = perhaps(draw, b"".join(found) + bytes(1024))
    name = of(draw, "in/t.tar", "in/t.tar", "in/t.tar.gz", "in/t.tgz", "in/t.tar.xz")
    if name.endswith("gz"):
        data = perhaps(draw, gzip.compress(data, 1, mtime=0))
    return archive(draw, box.write(name, data))


def zips(draw: Draw, box: Box) -> Command:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, mock.patch("warnings.warn"):
        for name in draw(members):
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode()[:9999])
            info.compress_type = of(draw, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            file.writestr(info, picture("a.png"))
    data = buffer.getvalue()
    for _ in range(draw(st.integers(0, 2))):
        sign, length = of(draw, (b"PK\1\2", 46), (b"PK\3\4", 30), (b"PK\5\6", 22))
        at = data.find(sign) + draw(st.integers(4, length - 2))
        number = struct.pack("<I", of(draw, *NUMBERS) % 2**32)[: of(draw, 1, 2, 4)]
        data = data[:at] + number + data[at + len(number) :]
    return archive(draw, box.write("in/t.zip", perhaps(draw, data)))


def archive(draw: Draw, name: str) -> Command:
    """What reads one, or the folder that it is in."""
    embed = ("embed", name, "-o", "out/e.npz")
    return Command(
        [*of(draw, ("classify", name), ("classify", "in"), ("evaluate", name), embed), *RUN]
    )


def parquet(draw: Draw, box: Box) -> Command:
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = st.one_of(st.just(picture("a.png")), st.none(), st.binary(max_size=4))
    path = st.one_of(st.sampled_from(("a.png", "b.png")), texts.filter(_is_text), st.none())
    both = st.fixed_dictionaries({}, optional={"bytes": held, "path": path})
    kinds = (
        (pa.string(), path),
        (pa.large_string(), path),
        (pa.binary(), held),
        (pa.large_binary(), held),
        (pa.struct({"bytes": pa.binary(), "path": pa.string()}), both),
        (pa.struct({"bytes": pa.binary()}), st.fixed_dictionaries({"bytes": held})),
        (pa.struct({"bytes": pa.string(), "path": pa.int64()}), st.just({"bytes": "x", "path": 1})),
        (pa.list_(pa.binary()), st.lists(held, max_size=2)),
        (pa.int64(), st.integers(-3, 3)),
        (pa.null(), st.none()),
        (pa.dictionary(pa.int8(), pa.string()), path),
    )
    names = ("image", "path", "file_name", "label", "", "a.b", "image")
    columns = {}
    for _ in range(draw(st.integers(1, 2))):
        kind, cells = of(draw, *kinds)
        columns[of(draw, *names)] = pa.array(draw(st.lists(cells, min_size=2, max_size=2)), kind)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return archive(draw, box.write("in/t.parquet", perhaps(draw, buffer.getvalue())))


def _is_text(text: str) -> bool:
    return text.isprintable() and text.encode("utf-8", "ignore").decode() == text


# Models.


@functools.cache
def model() -> Files:
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    return {f"in/m/{name}": (DEMO / name).read_bytes() for name in names}


def ask(draw: Draw, model: str, *more: str) -> Command:
    words = of(draw, ("info",), ("classify", "in/a.png", *RUN[2:], "-m"), ("info", "--json"))
    return Command([*words, model, *more, "--offline"])


VISION = {"layers": 4, "width": 64, "image_size": 32, "patch_size": 4}
OTHERS = (
    {"model_type": "swin", "depths": [1, 1], "num_heads": [1, 2], "embed_dim": 64},
    {"model_type": "clip", "vision_config": {"hidden_size": 64, "image_size": 32, "patch_size": 4}},
    {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 4, "mlp_ratio": 3},
    {"architecture": "vit_tiny_patch4_32", "pretrained_cfg": {"tag": "in1k", "mean": [0.5] * 3}},
    {"model_cfg": {"embed_dim": 64, "vision_cfg": VISION}},
)


def configs(draw: Draw, box: Box) -> Command:
    files = dict(model())
    if not draw(st.integers(0, 4)):
        files["in/m/config.json"] = dumped(of(draw, *OTHERS))
    files = spoil_one(draw, files, lambda name: name.endswith(".json"))
    if not draw(st.integers(0, 6)):
        index = {"metadata": {}, "weight_map": {"head.weight": "model-1-of-1.safetensors"}}
        files["in/m/model-1-of-1.safetensors"] = files.pop("in/m/model.safetensors")
        files["in/m/model.safetensors.index.json"] = odd_json(draw, dumped(index))
    box.fill(files)
    return ask(draw, "in/m")


def safetensors(draw: Draw, box: Box) -> Command:
    data = model()["in/m/model.safetensors"]
    length = struct.unpack_from("<Q", data)[0]
    if draw(st.booleans()):
        head = dumped(edited(draw, json.loads(data[8 : 8 + length])))
        size = of(draw, len(head), len(head), *NUMBERS[1:9]) % 2**64
        data = struct.pack("<Q", size) + head + data[8 + length :]
    else:
        data = spoiled(draw, data[:9000]) + data[9000:]
    box.fill(model() | {"in/m/model.safetensors": data})
    return ask(draw, "in/m")


class Payload:
    """A pickle of this takes a folder away, if it is let."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.rmtree, (self.path,)


@functools.cache
def pickled(kind: str) -> bytes:
    state = {f"blocks.0.{n}": torch.ones(2, 2) for n in ("attn.qkv.weight", "norm1.bias")}
    state |= {"model": {"a": torch.zeros(3)}, "epoch": 1, "args": Payload("elsewhere")}
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump(Payload("elsewhere"), buffer)
    elif kind == "npz":
        np.savez(buffer, **{"Transformer/posembed_input/pos_embedding": np.zeros((1, 5, 4))})
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


def repacked(draw: Draw, data: bytes) -> bytes:
    """A zip with one member made odd."""
    old = zipfile.ZipFile(io.BytesIO(data))
    files = spoil_one(draw, {name: old.read(name) for name in old.namelist()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    return buffer.getvalue()


def pickles(draw: Draw, box: Box) -> Command:
    kinds = {"pth": "zip", "bin": "zip", "pt": "legacy", "ckpt": "pickle", "npz": "npz"}
    suffix, kind = of(draw, *kinds.items())
    data = pickled(kind)
    odd = of(draw, repacked, spoiled) if kind in ("zip", "npz") else spoiled
    name = box.write(f"in/m/w.{suffix}", odd(draw, data) if draw(st.integers(0, 9)) else data)
    return ask(draw, name, *of(draw, (), ("--num-heads", "1"), ("--layout", "timm-vit")))


def labels(draw: Draw, box: Box) -> Command:
    forms = (
        "\n".join(LABELS).encode(),
        dumped(list(LABELS)),
        dumped(dict(enumerate(LABELS))),
        dumped({name: n for n, name in enumerate(LABELS)}),
        dumped({n: [f"n{n}", name] for n, name in enumerate(LABELS)}),
    )
    data, name = of(draw, *forms), of(draw, "in/l.txt", "in/l.json")
    odd = odd_json if data[:1] in b"{[" else spoiled
    box.write(name, odd(draw, data))
    return ask(draw, "demo", "--labels", of(draw, name, name, name, name, "/dev/null", *TEXTS[:20]))


@contextlib.contextmanager
def serving(home: Path, odd: Odd) -> Iterator[None]:
    """A hub with the demo whose answers are odd, and a client that does not wait between tries."""
    from huggingface_hub import constants

    with FakeHub() as hub:
        hub.add("org/demo", DEMO)
        hub.odd = odd
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        at = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
        at |= {"HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token")}
        with mock.patch.multiple(constants, **at), mock.patch("time.sleep"):
            yield


HEADERS = ("ETag", "X-Linked-Size", "X-Linked-ETag", "X-Repo-Commit", "Content-Type", "Location")


@functools.cache
def described() -> bytes:
    """What the hub says of the demo."""
    with FakeHub() as hub:
        sha = hub.add("org/demo", DEMO)
        return dumped(hub.info("org/demo", *hub.find("org/demo", sha, None)))


def hubs(draw: Draw, box: Box) -> Command:
    first, goes_on, seen = draw(st.integers(0, 5)), draw(st.booleans()), itertools.count()
    kind = of(draw, "info", "info", "html", "cut", "status", "header", "header")
    status = of(draw, 200, 204, 206, 301, 302, 304, 400, 401, 403, 404, 416, 429, 500)
    name = of(draw, "Content-Length", "Content-Length", *HEADERS)
    value = of(draw, "", "x" * 300, '"', "0", "../../x", "None", *map(str, NUMBERS))
    info = odd_json(draw, described())

    def answer(code: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        if kind == "info" and b'"siblings"' in body:
            body = info
        if kind == "info" or next(seen) not in range(first, 99 if goes_on else first + 1):
            return code, body, {**headers, "Content-Length": str(len(body))}
        if kind == "header":
            return code, body, {**headers, name: value}
        if kind == "status":
            return status, body, {**headers, "Location": "/x"}
        if kind == "cut":
            return code, body[: len(body) // 2], headers
        body = b"<html>Sign in first</html>"
        return code, body, {"Content-Type": "text/html", "Content-Length": str(len(body))}

    return Command(["info", "org/demo"], within=lambda: serving(box.base / "cache", answer))


# Words.

numbers = st.one_of(st.sampled_from(NUMBERS), st.floats(), st.integers()).map(str)
names = st.sampled_from(("label", "score", "index", "rank", "path", "x"))
operand = st.one_of(names, numbers, st.sampled_from(TEXTS[:40]).map(lambda t: f'"{t}"'))
signs = st.sampled_from(("==", "!=", "<", "<=", ">", ">=", "~", "in", "not in", "="))
compared = st.builds(" ".join, st.tuples(operand, signs, operand))
listed = st.builds("{} in ({}, {})".format, names, operand, operand)
nested = st.tuples(st.sampled_from(("(", "any(", "not ", "not (")), st.sampled_from((2, 90, 3000)))
expressions = st.recursive(
    st.one_of(compared, listed, texts),
    lambda e: st.one_of(
        st.builds("{} {} {}".format, e, st.sampled_from(("and", "or", "&")), e),
        st.builds("any({})".format, e),
        st.builds("not ({})".format, e),
        st.builds(lambda n, e: n[0] * n[1] + e + ")" * (n[0][-1] == "(") * n[1], nested, e),
    ),
    max_leaves=5,
)


def selections(draw: Draw, box: Box) -> Command:
    expression = draw(expressions)
    if not draw(st.integers(0, 3)):
        expression = spoiled(draw, expression.encode("utf-8", "replace")).decode("utf-8", "replace")
    return Command(["classify", "in/a.png", *RUN, f"--select={expression}"])


SLOW = ("help", "devices", "ray", "compile", "engine", "quantize", "workers", "show")
BASES = {
    "classify": ("in/a.png", *RUN),
    "embed": ("in/a.png", "-o", "out/e.npy", *RUN),
    "attention": ("in/a.png", "-o", "out/m", *RUN),
    "evaluate": ("in/t.csv", *RUN),
    "convert": ("demo", "out/c", "--to", "hf", "-q"),
    "info": ("demo",),
    "models": (),
    "reconstruct": ("in/a.png", "-o", "out/r", *RUN),
    "finetune": ("in/t.csv", "-o", "out/f", "--epochs", "1", "--train", "head", *RUN),
}


def options(draw: Draw, box: Box) -> Command:
    from vitcli.cli.app import app

    command = of(draw, *BASES)
    box.write("in/t.csv", b"path,label\na.png,3\nb.png,4\n")
    group: Any = typer.main.get_command(app)
    found = [p for p in group.commands[command].params if p.name not in SLOW]
    words: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        option = of(draw, *found)
        kind, name = option.type_descriptor.annotation, of(draw, *option.opts)
        choices = [each.value for each in kind] if isinstance(kind, type(Enum)) else []
        value = str(draw(st.one_of(scalars, numbers, texts))).replace("/dev/zero", "in")
        value = of(draw, *choices, value.encode("utf-8", "replace").decode())
        if option.param_type_name == "argument":
            words += [value] * (command not in ("finetune", "evaluate"))
        else:
            words += [name] if option.is_flag else [name, value]
    offline = ("--offline",) * (command != "models")
    return Command([command, *BASES[command], *words, *offline], theirs=("tmp",))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(journals, merges, trainings, predictions, images, lists, tables, tars, zips, parquet),
        *(configs, safetensors, pickles, labels, hubs, selections, options),
    )
}
