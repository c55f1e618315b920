"""What the commands write fits the schemas, and the schemas have no field that is never written."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import Ended, Vit
from tests.fixtures.digits import make_digits
from tests.fixtures.pages import PAGES, ROOT
from vitcli import schemas
from vitcli.cache import hold
from vitcli.cli.screen import screen, training
from vitcli.errors import UsageError

EXAMPLES = ROOT / "examples"
CHECK = jsonschema.FormatChecker()


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas.read(name), format_checker=CHECK)


class Fields:
    """Checks records against schemas, and collects the fields of the schemas that they have."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = {name: set() for name in schemas.names()}

    def check(self, name: str, *records: Any) -> None:
        """Validate records; there is at least one."""
        assert records, f"nothing to check for {name}"
        for record in records:
            validator(name).validate(record)
            schema = validator(name).schema
            self.seen[name].update(_written(schema, record, schema, ""))

    def file(self, name: str, file: Path) -> None:
        """Validate the lines of a `.jsonl`, or the only value of a `.json`."""
        text = file.read_text("utf-8")
        values = text.splitlines() if file.suffix == ".jsonl" else [text]
        self.check(name, *map(json.loads, values))

    def lines(self, name: str, text: bytes | str) -> None:
        self.check(name, *map(json.loads, text.splitlines()))


def _branches(schema: Any, root: Any) -> Iterator[Any]:
    """Yield a schema, or its alternatives, without references."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    inner = schema.get("oneOf", schema.get("anyOf"))
    if inner is None:
        yield schema
    else:
        for one in inner:
            yield from _branches(one, root)


def _written(schema: Any, value: Any, root: Any, where: str) -> Iterator[str]:
    """Yield the places in a schema that a valid value has; a schema without alternatives fits."""
    branches = list(_branches(schema, root))
    for number, branch in enumerate(branches):
        if len(branches) > 1:
            alone = jsonschema.Draft202012Validator({**branch, "$defs": root.get("$defs", {})})
            if not alone.is_valid(value):
                continue
        place = f"{where}|{number}"
        yield place
        if isinstance(value, dict):
            for key, inner in branch.get("properties", {}).items():
                if key in value:
                    yield from _written(inner, value[key], root, f"{place}.{key}")
            more = branch.get("additionalProperties")
            if isinstance(more, dict):
                for key in value.keys() - branch.get("properties", {}).keys():
                    yield from _written(more, value[key], root, f"{place}.*")
        if isinstance(value, list) and isinstance(branch.get("items"), dict):
            for inner in value:
                yield from _written(branch["items"], inner, root, f"{place}[]")


def _places(schema: Any, root: Any, where: str) -> Iterator[str]:
    """Yield all places in a schema."""
    for number, branch in enumerate(_branches(schema, root)):
        place = f"{where}|{number}"
        yield place
        for key, inner in branch.get("properties", {}).items():
            yield from _places(inner, root, f"{place}.{key}")
        if isinstance(more := branch.get("additionalProperties"), dict):
            yield from _places(more, root, f"{place}.*")
        if isinstance(branch.get("items"), dict):
            yield from _places(branch["items"], root, f"{place}[]")


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of an object within a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for inner in schema.values():
            yield from _objects(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _objects(inner)


FREE = {  # objects whose keys are not the schema's: sizes of a model, options of a run
    "finetune-run": ["The options, by name. null stands for a value that vit chose."],
    "info": ["The sizes of the network, by the names in its config class."],
}


@pytest.mark.parametrize("name", schemas.names())
def test_a_schema_is_one_and_refuses_unknown_keys(name: str) -> None:
    schema = schemas.read(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:vitcli:schema:{schemas.SCHEMA}:{name}"
    assert schema["title"] and schema["description"].endswith(".")
    free = [one for one in _objects(schema) if "additionalProperties" not in one]
    assert [one["description"] for one in free] == FREE.get(name, [])
    for one in _objects(schema):
        for key, inner in one.get("properties", {}).items():
            assert "description" in inner or "$ref" in inner or "const" in inner, (name, key)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no schema labels"):
        schemas.read("labels")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Images, of which some fail: by themselves, in a tar, with a name that is not UTF-8."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for image in sorted(EXAMPLES.iterdir())[:4]:
        shutil.copy(image, photos)
    shutil.copy(image, photos / "twin.png")
    shutil.copy(image, os.fsencode(photos) + b"/odd-\xff.png")
    (photos / "bad.png").write_text("no image")
    (photos / os.fsdecode(b"gone-\xff.png")).symlink_to("nowhere")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(image, "000.png")
        broken = tarfile.TarInfo("001.png")
        broken.size = 4
        tar.addfile(broken, io.BytesIO(b"oops"))
    return tmp_path


@pytest.fixture
def run(vit: Vit) -> Callable[..., Ended]:
    """Run a command whose exit code is 0, or 3 if images fail."""

    def called(*words: str | Path, code: int = 3) -> Ended:
        ended = vit(*words)
        assert ended.code == code, ended.err
        return ended

    return called


Run = Callable[..., Ended]


def labels(fields: Fields, run: Run) -> None:
    ended = run("classify", "photos", "shard.tar", "none.png", "-m", "demo", "-k", "2")
    fields.lines("classify", ended.out)
    fields.lines("classify", run("classify", "photos", "-m", "demo", "-m", "demo").out)
    fields.lines("classify", run("classify", "photos", "-m", "demo", "--scores", "logit").out)
    ended = run("classify", "photos", "-m", "two", "--classes", "a, b", "--scores", "cosine")
    fields.lines("classify", ended.out)


def vectors(fields: Fields, run: Run, home: Path) -> None:
    images = ("photos", "shard.tar", "none.png")
    run("embed", *images, "-m", "demo", "-o", "feats.npy")
    fields.file("index", home / "feats.index.jsonl")
    fields.file("meta", home / "feats.meta.json")
    fields.lines("embed", run("embed", *images, "-m", "demo", "-o", "-").out)
    tokens = ("--pool", "patches", "--layers", "1,2", "--dtype", "bf16")
    fields.lines("embed", run("embed", "photos", "-m", "demo", *tokens, "-o", "-").out)
    run(
        "embed",
        "photos",
        "-m",
        "naflex",
        "--max-patches",
        "12",
        "--pool",
        "patches",
        "-o",
        "n.jsonl",
    )
    fields.file("embed", home / "n.jsonl")
    fields.file("meta", home / "n.meta.json")
    odd = ("--patch-size", "16", "--image-size", "64", "--no-exif", "--decode", "fast")
    odd += ("--num-heads", "4", "--layout", "hf-vit", "--drop", "pooler.*", "--preprocess", "hf")
    run("embed", "photos", "-m", "plain", *odd, "--l2", "-b", "auto", "-o", "odd.safetensors")
    fields.file("meta", home / "odd.meta.json")
    run("embed", "photos", "-m", "radio", "--merge-tokens", "2", "-o", "radio.npy")
    fields.file("meta", home / "radio.meta.json")
    texts = ("embed", "--text", "a cat", "--text", "a dog", "-m", "two")
    odd = ("--patch-size", "16", "--image-size", "64", "--no-exif", "--decode", "fast")
    odd += ("--num-heads", "4", "--layout", "hf-siglip", "--preprocess", "hf")
    run(*texts, *odd, "-o", "resampled.npy", code=0)
    fields.file("meta", home / "resampled.meta.json")
    odd = ("--max-patches", "12", "--drop", "logit_*")
    run("embed", "--text", "a", "-m", "naflex", *odd, "-o", "naflex.npy", code=0)
    fields.file("meta", home / "naflex.meta.json")
    run(*texts, "-o", "texts.npy", code=0)
    fields.file("index", home / "texts.index.jsonl")
    fields.file("meta", home / "texts.meta.json")
    fields.lines("embed", run(*texts, "-o", "-", code=0).out)


def indexes(fields: Fields, run: Run, home: Path) -> None:
    odd = os.fsdecode(b"photos/odd-\xff.png")
    gone = os.fsdecode(b"photos/gone-\xff.png")
    found = run("search", "feats.npy", "photos/twin.png", odd, gone, "-k", "9")
    fields.lines("search", found.out)
    fields.lines("search", run("search", "feats.npy", "--like", "0", code=0).out)
    fields.lines("search", run("search", "texts.npy", "--text", "a cat", code=0).out)
    fields.lines("dedupe", run("dedupe", "feats.npy", "-o", "-", code=0).out)
    os.utime(os.fsencode(home) + b"/photos/odd-\xff.png", (0, 0))
    fields.lines("dedupe", run("dedupe", "feats.npy", "--keep", "oldest", "-o", "-", code=0).out)
    run("classify", "photos", "-m", "demo", "-o", "labels.jsonl")
    run("map", "feats.npy", "-o", "map.jsonl", "--color", "labels.jsonl", code=0)
    fields.file("map", home / "map.jsonl")
    (home / "texts.csv").write_text("path,label\na cat,animal\n")
    run("map", "texts.npy", "-o", "words.jsonl", "--color", "texts.csv", code=0)
    fields.file("map", home / "words.jsonl")


def looks(fields: Fields, run: Run, home: Path) -> None:
    images = ("attention", "photos", "shard.tar", "-m", "demo")
    for name, *words in (
        ("mean",),
        ("one", "--heads", "2"),
        ("several", "--layer", "1,2", "--heads", "all"),
        ("grad", "--method", "grad"),
        ("query", "--query", "3,4", "--style", "grid"),
        ("rollout", "--method", "rollout"),
    ):
        run(*images, *words, "-o", name)
        fields.file("attention", home / name / "attention.jsonl")
    run("attention", "photos", "-m", "two", "--layer", "1,pool", "-o", "pools")
    fields.file("attention", home / "pools" / "attention.jsonl")
    run("attention", "photos", "-m", "swin", "--layer", "1,3", "-o", "swins")
    fields.file("attention", home / "swins" / "attention.jsonl")


def judgements(fields: Fields, run: Run, home: Path) -> None:
    ended = run("evaluate", "digits", "-m", "demo", "-m", "demo", "--json", "-o", "judged")
    fields.lines("evaluate", ended.out)
    fields.file("evaluate", home / "judged" / "metrics.json")
    for kind, cell in (("multi", "{}"), ("number", "{}.5")):
        names = sorted(path.name for path in (home / "photos").glob("[dt]*.png"))
        label = json.loads((home / kind / "config.json").read_text())["id2label"]["0"]
        values = [label if kind == "multi" else cell.format(n) for n in range(len(names))]
        rows = [f"photos/{name},{value}" for name, value in zip(names, values, strict=True)]
        (home / f"{kind}.csv").write_text(
            "\n".join([f"path,{'labels' if kind == 'multi' else 'age'}", *rows])
        )
        ended = run("evaluate", f"{kind}.csv", "-m", kind, "--json", code=0)
        fields.lines("evaluate", ended.out)


def trainings(fields: Fields, run: Run, home: Path) -> None:
    words = ("finetune", "digits", "-m", "demo", "--epochs", "1", "-j", "0", "--train", "last-1")
    ended = run(*words, "-o", "run", "--log-json", "--summary", "trained.json")
    fields.lines("log", ended.err)
    fields.file("summary", home / "trained.json")
    for name in ("metrics.jsonl", "split.jsonl", "run.json"):
        fields.file(f"finetune-{name.partition('.')[0]}", home / "run" / name)
    mim = ("--objective", "mim", "--val-split", "0", "--train", "full", "-o", "mim")
    run(*words, *mim)
    fields.file("finetune-metrics", home / "mim" / "metrics.jsonl")


def reports(fields: Fields, run: Run, home: Path) -> None:
    logs = ("--log-json", "--summary", "s.json")
    for words, code in (
        (("classify", "photos", "-m", "demo", "-o", "l.csv", "--select", 'label == "0"'), 3),
        (("classify", "photos", "-m", "demo", "-o", "l.csv"), 1),
        (("embed", "photos", "-m", "demo", "-o", "feats2.npy"), 3),
        (("embed", "photos", "digits", "-m", "demo", "-o", "feats2.npy", "--resume"), 3),
        (("embed", "--text", "a", "-m", "two", "-o", "t.npy"), 0),
        (("search", "texts.npy", "--text", "a", "-o", "q.jsonl"), 0),
        (("map", "feats.npy", "-o", "m.jsonl"), 0),
        (("classify", "photos", "-m", "demo", "-o", "m.csv", "--max-errors", "0"), 1),
    ):
        ended = run(*words, *logs, code=code)
        fields.lines("log", ended.err)
        fields.file("summary", home / "s.json")


def facts(fields: Fields, run: Run, home: Path) -> None:
    for model in ("demo", "two", "multi", "radio"):
        fields.lines("info", run("info", model, "--json", code=0).out)
    fields.lines("environment", run("info", "--env", "--json", code=0).out)
    fields.lines("models", run("models", "--json", code=0).out)
    fields.lines("cache", run("cache", "--json", code=0).out)
    fields.lines("cache", run("cache", "--clear", "all", "--dry-run", "--json", code=0).out)
    export = home / "cache" / "engines" / ("a" * 32)
    export.mkdir(parents=True)
    assert hold(export)
    fields.lines("cache", run("cache", "--clear", "exports", "--json", code=0).out)


MAY_BE_UNSEEN = {
    "bench": "",  # tests/cli/test_bench.py
    "log": r"4\.(epochs|best_epoch|held_out|top1)",  # an error after the training
    "environment": "",  # a GPU, what is not installed: tests/cli/test_environment.py
}


@pytest.mark.slow
def test_outputs_fit_the_schemas_and_have_every_field(
    run: Run,
    home: Path,
    tiny_model: Callable[[str], Path],
    heads: Callable[[str], Path],
    clean_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.fixtures.radio import tiny_radio  # here: transformers is slow to import
    from tests.fixtures.swin import tiny_swin
    from tests.fixtures.two_towers import two_towers

    monkeypatch.setattr(screen, "LOG_EVERY", 0.0)
    monkeypatch.setattr(training, "LOG_EVERY", 0.0)
    monkeypatch.setenv("VIT_WORKERS", "0")
    monkeypatch.setitem(clean_env, "VIT_WORKERS", "0")
    monkeypatch.setitem(clean_env, "VIT_CACHE", str(home / "cache"))
    two_towers("siglip2", home / "two")
    two_towers("naflex", home / "naflex")
    tiny_radio("radio", home / "radio")
    tiny_swin("SwinForImageClassification", home / "swin")
    (home / "plain").symlink_to(tiny_model("vit-backbone"))
    for kind in ("multi", "number"):
        (home / kind).symlink_to(heads(kind))
    make_digits(home / "digits", train=20, val=10)
    for split in ("train", "val"):
        (home / "digits" / split / "0" / "bad.png").write_text("no image")
    shutil.copy(EXAMPLES / "digit-7-0007.png", home / "digits" / "val" / "0")
    fields = Fields()
    labels(fields, run)
    vectors(fields, run, home)
    indexes(fields, run, home)
    looks(fields, run, home)
    judgements(fields, run, home)
    trainings(fields, run, home)
    reports(fields, run, home)
    facts(fields, run, home)
    for name in schemas.names():
        schema = schemas.read(name)
        unseen = {*_places(schema, schema, "")} - fields.seen[name]
        known = MAY_BE_UNSEEN.get(name)
        assert {place for place in unseen if known is None or not re.search(known, place)} == set()


def test_the_page_lists_every_schema() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| ", PAGES["schemas.md"], re.MULTILINE)
    assert listed == schemas.names()
