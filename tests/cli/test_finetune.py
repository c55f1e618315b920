"""`vit finetune` on scikit-learn's digits: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

import vitcli
from tests.conftest import Vit
from tests.fixtures.digits import make_digits
from tests.fixtures.forks import Child, ForkServer
from tests.fixtures.ports import free_port
from tests.fixtures.swin import tiny_swin
from tests.fixtures.tiny import tiny_hf
from vitcli import files
from vitcli.cache import cache_folder
from vitcli.checkpoints.load import load
from vitcli.cli import main
from vitcli.errors import WriteError
from vitcli.images.augment import LEVELS
from vitcli.records import Preprocess
from vitcli.tasks.finetune.job import TrainingOptions
from vitcli.tasks.finetune.recipe_choice import choose_recipe
from vitcli.training.state import save_state

FAST = ("--epochs", "2", "--batch-size", "16", "--no-flip", "-j", "0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("digits"), train=600, val=150)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("few"), train=160, val=40)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("tiny"), train=40, val=10)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def last_line(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("given", "processes", "batch"), [("auto", 1, 32), ("auto", 3, 33), ("24", 3, 24)]
)
def test_a_batch_is_a_number_or_chosen_for_the_recipe_and_the_processes(
    monkeypatch: pytest.MonkeyPatch, vit: Vit, given: str, processes: int, batch: int
) -> None:
    asked: list[TrainingOptions] = []
    monkeypatch.setattr(
        "vitcli.tasks.finetune.finetune.finetune",
        lambda job, _: asked.append(job.training) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        vit("finetune", "data", "--out", "run", "-b", given, "--train", "full", "-q")
    chosen = choose_recipe(asked[0], load("demo"), [], torch.device("cpu"), processes)
    assert chosen.batch_size == batch


@pytest.mark.slow
def test_digits_are_learnt_and_every_reader_agrees(vit: Vit, digits: Path, tmp_path: Path) -> None:
    """The whole network learns classes that the demo has no head for; `run/` opens everywhere."""
    renamed = tmp_path / "data"
    for folder in sorted(digits.glob("*/*")):
        target = renamed / folder.parent.name / f"digit {folder.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.name == "digit 3":
            shutil.copytree(folder, target)  # there will be one more in it
        else:
            target.symlink_to(folder)
    (renamed / "train" / "digit 3" / "broken.png").write_text("no image")
    args = ("--epochs", "3", "--no-flip", "-j", "0")
    done = vit("finetune", renamed, "-m", "demo", "--out", "run", *args)
    assert done.code == 3, done.err
    assert "recipe: --train full (it takes less than a minute here)" in done.err
    assert "1 image cannot be read and is left out; run/run.json lists them" in done.err
    assert "broken.png: " in done.err
    run = tmp_path / "run"
    assert last_line(run)["val_top1"] >= 0.96
    page = (run / "report.html").read_text()
    assert page.count("<svg") >= 3 and "digit 3" in page and "://" not in page
    image = next((renamed / "val" / "digit 7").iterdir())
    [row] = vitcli.classify([str(image)], model=str(run), top_k=10, workers=0)
    ours = {p.label: p.score for p in row.predictions}
    pipe = transformers.pipeline("image-classification", str(run))
    theirs = {p["label"]: p["score"] for p in pipe(str(image), top_k=10)}
    assert ours.keys() == theirs.keys() == {f"digit {n}" for n in range(10)}
    assert [ours[label] for label in theirs] == pytest.approx(list(theirs.values()), abs=1e-5)
    vector = vitcli.embed([str(image)], model=str(run), workers=0).embeddings[0]
    hf = transformers.ViTForImageClassification.from_pretrained(run)
    logits = vector @ hf.classifier.weight.detach().numpy().T + hf.classifier.bias.detach().numpy()
    shares = np.exp(logits) / np.exp(logits).sum()
    by_place = [ours[hf.config.id2label[n]] for n in range(10)]
    np.testing.assert_allclose(shares, by_place, atol=1e-5)
    judged = json.loads(vit("evaluate", renamed, "-m", "run", "-j", "0", "--json").out)["models"][0]
    assert judged["top1"] == pytest.approx(
        max(
            json.loads(line)["val_top1"]
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ),
        abs=1e-6,
    )


def test_a_head_learns_from_features_that_are_kept(vit: Vit, digits: Path, tmp_path: Path) -> None:
    """A second run computes none, and gives the same weights."""
    renamed = tmp_path / "data"
    for folder in sorted(digits.glob("*/*")):
        (renamed / folder.parent.name).mkdir(parents=True, exist_ok=True)
        (renamed / folder.parent.name / f"n{folder.name}").symlink_to(folder)
    args = ("finetune", renamed, "-m", "demo", "--train", "head", "--epochs", "20", "-j", "0")
    first = vit(*args, "--out", "one")
    assert first.code == 0, first.err
    assert last_line(tmp_path / "one")["val_top1"] >= 0.96
    kept = {file: file.stat().st_ino for file in (cache_folder() / "features").iterdir()}
    assert vit(*args, "--out", "two").code == 0
    assert kept == {f: f.stat().st_ino for f in (cache_folder() / "features").iterdir()}
    assert same(tmp_path / "one", tmp_path / "two")
    body = "vit.encoder.layer.0.intermediate.dense.weight"
    demo = load_file(Path(vitcli.__file__).parent / "demo" / "model.safetensors")
    assert torch.equal(weights(tmp_path / "one")[body], demo[body])


def test_the_same_seed_gives_the_same_bytes(vit: Vit, tiny: Path, tmp_path: Path) -> None:
    """Of the head alone, with and without kept features, and of the whole network."""
    for recipe in ("head", "full"):
        args = ("finetune", tiny, "-m", "demo", "--train", recipe, *FAST, "--epochs", "1")
        runs = {"one": "3", "two": "3", "other": "4"}
        for name, seed in runs.items():
            done = vit(*args, "--out", f"{recipe}-{name}", "--seed", seed)
            assert done.code == 0, done.err
        one, two, other = (
            (tmp_path / f"{recipe}-{name}" / "model.safetensors").read_bytes() for name in runs
        )
        assert one == two != other


def test_every_other_option_reaches_the_training(vit: Vit, tiny: Path, tmp_path: Path) -> None:
    """At another resolution, in bf16, with gradients of two batches and early stopping."""
    args = ("finetune", tiny / "train", "--val", tiny / "val", "-m", "demo", "--train", "full")
    more = ("--image-size", "48", "--dtype", "bf16", "--accumulate", "2", "--batch-size", "8")
    more += ("--gradient-checkpointing", "--class-weights", "--cutmix", "1", "--compile")
    more += ("--clip", "0", "--layer-decay", "0.5", "--label-smoothing", "0", "--warmup", "0")
    done = vit(
        *args, *more, "--lr", "0", "--patience", "1", "--epochs", "9", "-j", "0", "-o", "run"
    )
    assert done.code == 0, done.err
    assert "--compile has no effect on a CPU" in done.err
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["is_best"] for line in lines] == [True, False]
    assert lines[0]["step"] == 40 // 16
    hf = transformers.ViTForImageClassification.from_pretrained(run)
    assert hf.config.image_size == 48
    assert hf(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 10)
    rows = [json.loads(line) for line in (run / "split.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows].count("val") == 10


def test_mistaken_options_are_named_as_they_are_spelled(vit: Vit, tiny: Path) -> None:
    for option, value, told in (
        ("--label-smoothing", "1.5", "--label-smoothing 1.5"),
        ("--layer-decay", "2", "--layer-decay 2"),
        ("--val-split", "1", "--val-split 1"),
        ("--seed", "4294967296", "--seed 4294967296"),
        ("--train", "last-0", "last-0 trains no block"),
        ("--train", "last-99", "demo has 4 blocks"),
        ("--train", "body", "known are head, full, lora, and last-N"),
        ("--dtype", "fp16", "fp16 does not train on a CPU"),
    ):
        train = () if option == "--train" else ("--train", "full")
        done = vit(
            "finetune", tiny, "-m", "demo", *train, option, value, "--out", "none", "-j", "0"
        )
        assert done.code == 2 and told in done.err, done.err


HEAD = "--train head computes the features of each image once"
MIM = "--objective mim learns without labels"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--train", "full", "--lora-rank", "4"), "--lora-rank has no effect: it is for --train"),
        (("--lora-alpha", "4", "--train", "last-1"), "--lora-alpha has no effect: it is for"),
        (("--mask-ratio", "0.5"), "--mask-ratio has no effect: it is for --objective mim"),
        (("--objective", "mim", "--label-smoothing", "0.2"), f"--label-smoothing {MIM}"),
        (("--objective", "mim", "--mixup", "1"), f"--mixup {MIM}"),
        (("--objective", "mim", "--cutmix", "1"), f"--cutmix {MIM}"),
        (("--objective", "mim", "--class-weights"), f"--class-weights {MIM}"),
        (("--objective", "mim", "--drop-path", "0.1"), "--drop-path has no effect: --objective"),
        (("--train", "head", "--augment", "light"), f"--augment {HEAD}"),
        (("--train", "head", "--mixup", "1"), f"--mixup {HEAD}"),
        (("--train", "head", "--cutmix", "1"), f"--cutmix {HEAD}"),
        (("--train", "head", "--drop-path", "0.1"), f"--drop-path {HEAD}"),
        (("--train", "head", "--lora-rank", "4"), "--lora-rank has no effect: it is for --train"),
    ],
)
def test_options_that_contradict_each_other_end_the_run_before_it_reads(
    vit: Vit, options: tuple[str, ...], told: str
) -> None:
    done = vit("finetune", "missing", "-m", "missing", "-o", "none", "-j", "0", *options)
    told = told.replace(f" {HEAD}", f" has no effect: {HEAD}")
    told = told.replace(f" {MIM}", f" has no effect: {MIM}")
    assert done.code == 2 and done.err.startswith(f"vit: {told}"), done.err
    assert len(done.err.splitlines()) == 2


def test_options_with_nothing_to_do_are_noted(vit: Vit, tiny: Path) -> None:
    args = ("finetune", tiny / "train", "-m", "demo", "-o", "run", "-j", "0", "--epochs", "1")
    options = ("--layer-decay", "0.5", "--gradient-checkpointing", "--no-flip", "--patience", "2")
    done = vit(*args, *options, "--train", "head", "--val-split", "0")
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "no effect" in line] == [
        "vit: --layer-decay has no effect: a head is one layer",
        f"vit: --gradient-checkpointing has no effect: {HEAD}",
        "vit: --no-flip has no effect: without augmentation nothing is mirrored",
        "vit: --patience has no effect: no images are held out for validation",
    ]
    done = vit(*args, "--train", "last-1", "--val", tiny, "--val-split", "0.3", "--overwrite")
    assert done.code == 0
    assert [line for line in done.err.splitlines() if "no effect" in line] == [
        "vit: --val-split has no effect: the data have validation images of their own"
    ]
    unnoticed = ("--augment", "none", "--layer-decay", "1", "--patience", "2", "--lora-rank", "8")
    done = vit(*args, "--train", "head", *unnoticed, "--overwrite")
    assert (done.code, "no effect" in done.err) == (0, False)


@pytest.mark.parametrize("recipe", ["lora", "last-1", "head"])
def test_a_swin_is_trained_as_asked(vit: Vit, tiny: Path, tmp_path: Path, recipe: str) -> None:
    """What may change has changed, what may not has not, and classify reads what is written."""
    tiny_swin("SwinForImageClassification", tmp_path / "swin")
    fast = ("--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--warmup", "0", "-j", "0")
    done = vit("finetune", tiny, "-m", "swin", "--train", recipe, "--out", "run", *fast)
    assert done.code == 0, done.err
    before, after = weights(tmp_path / "swin"), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    body = [n for n in before if "classifier" not in n]
    changed = {n for n in body if not torch.equal(before[n], after[n])}
    if recipe == "head":
        assert not changed
    elif recipe == "lora":
        assert {n for n in body if "blocks" in n and n.endswith("query.weight")} <= changed
        assert all(n.endswith(".weight") and "blocks" in n for n in changed)
    else:
        ours = ("swin.encoder.layers.2.blocks.1.", "swin.layernorm.")
        assert all(n.startswith(ours) for n in changed)
        assert any("blocks" in n for n in changed)
    image = next((tiny / "val").rglob("*.png"))
    done = vit("classify", image, "-m", "run", "-k", "1", "-j", "0")
    assert done.code == 0 and json.loads(done.out)["predictions"][0]["label"].isdigit()


def test_a_dinov3_is_trained_and_written_for_timm(vit: Vit, tiny: Path, tmp_path: Path) -> None:
    """transformers has no class for a DINOv3 with a head, and no decoder for one."""
    tiny_hf("dinov3-7b", tmp_path / "dino")
    fast = ("--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--warmup", "0", "-j", "0")
    words = ("finetune", tiny, "-m", "dino", "--train", "lora", "--out", "run", *fast)
    done = vit(*words)
    assert done.code == 0 and "the model is written for timm" in done.err, done.err
    before, after = load(str(tmp_path / "dino")), load(str(tmp_path / "run"))
    assert (after.layout, after.config.pool) == ("timm-eva", "cls")
    old, new = before.network.state_dict(), after.network.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    linear = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert changed == {f"blocks.{i}.{part}.weight" for i in range(3) for part in linear}
    done = vit("evaluate", tiny / "val", "-m", "run", "-j", "0", "--json")
    assert json.loads(done.out)["models"][0]["top1"] == last_line(tmp_path / "run")["val_top1"]
    assert vit(*words, "--resume").code == 0
    (tmp_path / "run" / "config.json").unlink()
    assert "run has no config.json" in vit(*words, "--resume").err
    done = vit("finetune", tiny, "-m", "dino", "--objective", "mim", "--out", "mim", "-j", "0")
    assert done.code == 1 and "a decoder after an encoder of hf-dinov3" in done.err
    done = vit("convert", "run", "hf", "--to", "hf")
    assert done.code == 1


def test_what_a_swin_cannot_do_is_said_before_anything_is_written(
    vit: Vit, tiny: Path, tmp_path: Path
) -> None:
    tiny_swin("SwinForImageClassification", tmp_path / "swin")
    done = vit("finetune", tiny, "-m", "swin", "--train", "last-8", "--out", "run", "-j", "0")
    assert done.code == 2 and "swin has 7 blocks" in done.err
    done = vit("finetune", tiny, "-m", "swin", "--objective", "mim", "--out", "run", "-j", "0")
    assert done.code == 1 and "swin is a Swin: masked pre-training" in done.err
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_killed_in_mid_epoch_it_goes_on_to_the_same_bits(
    vits: ForkServer, few: Path, tmp_path: Path
) -> None:
    """kill -9 after some steps, then SIGTERM, then to the end; beside one run without a stop."""
    args = [str(few), "-m", "demo", "--train", "full", *FAST, "--epochs", "3"]
    args += ["--batch-size", "32", "--augment", "strong", "--ema", "0.9", "--mixup", "0.2"]
    args += ["--drop-path", "0.1", "--save-every", "0.0"]
    assert vits.vit("finetune", *args, "--out", "whole", cwd=tmp_path).code == 0
    command = ["finetune", *args, "--out", "cut", "--log-json"]
    state = tmp_path / "cut" / "last" / "state.pt"
    process = vits.start(*command, cwd=tmp_path)
    wait_for(lambda: state.exists() and torch.load(state)["step"] > 2)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = torch.load(state)
    assert killed["step"] > 0 and killed["epoch"] < 3
    process = vits.start(*command, "--resume", cwd=tmp_path)
    wait_for(lambda: moved(state, killed))
    process.kill(signal.SIGTERM)
    assert process.wait() in (-signal.SIGTERM, 143)
    done = vits.vit("finetune", *args, "--out", "cut", "--resume", cwd=tmp_path)
    assert done.code == 0, done.err
    assert same(tmp_path / "whole", tmp_path / "cut")
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
    done = vits.vit("finetune", *args, "--out", "cut", "--resume", "--lr", "0.5", cwd=tmp_path)
    assert done.code == 1 and "--lr was None, is 0.5" in done.err


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The command of a run, but for `--out`, and its directory."""
    run = tmp_path_factory.mktemp("finished") / "run"
    args = ["finetune", str(tiny), "-m", "demo", "--train", "head", "--epochs", "2", "-j", "0"]
    assert main([*args, "--out", str(run), "-q"]) == 0
    return args, run


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def edit(file: Path, *path: str | int, to: object) -> None:
    """Put something else somewhere in a JSON file or a state."""
    is_state = file.suffix == ".pt"
    whole = torch.load(file) if is_state else json.loads(file.read_text())
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    torch.save(whole, file) if is_state else file.write_text(json.dumps(whole))


def swap(file: Path, content: bytes | str) -> None:
    if isinstance(content, str):
        content = content.encode()
    file.write_bytes(content)


ODD: dict[str, Callable[[Path], object]] = {
    "no run.json": lambda run: (run / "run.json").unlink(),
    "no split": lambda run: (run / "split.jsonl").unlink(),
    "no last": lambda run: shutil.rmtree(run / "last"),
    "no model": lambda run: (run / "model.safetensors").unlink(),
    "run.json cut": lambda run: cut(run / "run.json"),
    "run.json a list": lambda run: swap(run / "run.json", "[]"),
    "run.json deep": lambda run: swap(run / "run.json", "[" * 100_000),
    "asked a list": lambda run: edit(run / "run.json", "asked", to=["data"]),
    "asked a number": lambda run: edit(run / "run.json", "asked", to=7),
    "left_out a number": lambda run: edit(run / "run.json", "left_out", to=7),
    "left_out odd": lambda run: edit(run / "run.json", "left_out", to=[{"path": 7, "error": []}]),
    "left_out a kind": lambda run: edit(
        run / "run.json",
        "left_out",
        to=[{"path": "a", "error": {"type": "New", "message": "b"}}],
    ),
    "an option gone": lambda run: edit(run / "run.json", "asked", to={}),
    "run.json a pipe": lambda run: ((run / "run.json").unlink(), os.mkfifo(run / "run.json")),
    "split cut": lambda run: cut(run / "split.jsonl"),
    "split empty": lambda run: swap(run / "split.jsonl", ""),
    "split a list": lambda run: swap(run / "split.jsonl", "[]\n"),
    "split of numbers": lambda run: swap(run / "split.jsonl", '{"path":1,"label":2,"split":3}\n'),
    "split deep": lambda run: swap(run / "split.jsonl", "[" * 100_000 + "\n"),
    "state cut": lambda run: cut(run / "last" / "state.pt"),
    "state empty": lambda run: swap(run / "last" / "state.pt", ""),
    "state text": lambda run: swap(run / "last" / "state.pt", "hello"),
    "state a folder": lambda run: (
        (run / "last" / "state.pt").unlink(),
        (run / "last" / "state.pt").mkdir(),
    ),
    "state a list": lambda run: torch.save([1], run / "last" / "state.pt"),
    "state of nothing": lambda run: torch.save({}, run / "last" / "state.pt"),
    "epoch a word": lambda run: edit(run / "last" / "state.pt", "epoch", to="two"),
    "epoch beyond": lambda run: edit(run / "last" / "state.pt", "epoch", to=99),
    "history odd": lambda run: edit(run / "last" / "state.pt", "history", to=[1, 2]),
    "history old": lambda run: edit(run / "last" / "state.pt", "history", to=[{"epoch": 1}] * 2),
    "other weights": lambda run: edit(
        run / "last" / "state.pt", "parameters", "weight", to=torch.ones(1, 1)
    ),
    "no weights": lambda run: edit(run / "last" / "state.pt", "parameters", to={}),
    "no optimizer": lambda run: edit(run / "last" / "state.pt", "optimizer", to=None),
    "moments": lambda run: edit(
        run / "last" / "state.pt", "optimizer", "state", 0, "exp_avg", to=torch.ones(1)
    ),
    "schedule": lambda run: edit(run / "last" / "state.pt", "schedule", to={"a": 1}),
    "answers": lambda run: edit(run / "last" / "state.pt", "answers", to=[1]),
    "ema": lambda run: edit(run / "last" / "state.pt", "ema", to={"weight": torch.ones(1)}),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_run_that_has_become_odd_is_not_resumed(
    vit: Vit, finished: tuple[list[str], Path], tmp_path: Path, odd: str
) -> None:
    """Never a traceback, and never a new start that nobody is told of."""
    args, before = finished
    shutil.copytree(before, tmp_path / "run")
    ODD[odd](tmp_path / "run")
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*")}
    done = vit(*args, "--out", "run", "--resume")
    assert done.code == 1, done.err
    assert "--overwrite" in done.err and len(done.err) < 2000
    assert files == {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*")}


@pytest.mark.parametrize("mistake", [("-m", "no-such-model"), ("--batch-size", "0")], ids=" ".join)
def test_a_run_is_not_removed_by_a_mistake_in_the_next(
    vit: Vit, finished: tuple[list[str], Path], tmp_path: Path, mistake: tuple[str, ...]
) -> None:
    args, before = finished
    shutil.copytree(before, tmp_path / "run")
    files = sorted((tmp_path / "run").rglob("*"))
    assert vit(*args, "--out", "run", "--overwrite", *mistake).code in (1, 2)
    (tmp_path / "empty").mkdir()
    assert vit(args[0], "empty", *args[2:], "--out", "run", "--overwrite").code == 1
    assert files == sorted((tmp_path / "run").rglob("*"))


def test_metrics_are_written_again_and_a_run_without_a_state_says_so(
    vit: Vit, finished: tuple[list[str], Path], tmp_path: Path
) -> None:
    args, before = finished
    shutil.copytree(before, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("?")
    shutil.rmtree(tmp_path / "run" / "last")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    done = vit(*args, "--out", "run", "--resume")
    assert done.code == 0 and "had not saved anything yet: training starts over" in done.err
    assert same(before, tmp_path / "run")


def test_a_training_ends_in_its_summary(vit: Vit, tiny: Path, tmp_path: Path) -> None:
    """In the file, and as the last line of --log-json; with an image that is left out, too."""
    data = tmp_path / "data"
    shutil.copytree(tiny / "train", data)
    (data / "0" / "bad.png").write_bytes(b"no image")
    fast = ("--train", "head", "--epochs", "1", "-j", "0", "--log-json", "--summary", "s.json")
    done = vit("finetune", data, "-m", "demo", "--out", "run", *fast)
    assert done.code == 3, done.err
    summary = json.loads((tmp_path / "s.json").read_text())
    last = json.loads(done.err.splitlines()[-1])
    assert last["event"] == "summary" and last["out"] == "run"
    for found in (summary, last):
        assert (found["exit_code"], found["error"], found["failed"]) == (3, None, 1)
        assert found["images"] == found["done"] + found["failed"] == 41
        assert found["epochs"] == found["best_epoch"] == 1
    quiet = vit(
        "finetune", data, "-m", "demo", "--out", "two", *fast[:6], "--summary", "q.json", "-q"
    )
    assert quiet.code == 3 and json.loads((tmp_path / "q.json").read_text())["exit_code"] == 3


def test_a_pipe_in_a_table_is_left_out(vit: Vit, tiny: Path, tmp_path: Path) -> None:
    lines = []
    for number, file in enumerate(sorted((tiny / "train").rglob("*.png"))):
        shutil.copy(file, tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{file.parent.name}")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "t.csv").write_text("\n".join([*lines, "pipe.png,1", "zero.png,1"]))
    args = ("finetune", "t.csv", "-m", "demo", "--epochs", "1", "-j", "0", "--allow-outside")
    for recipe in ("head", "last-1"):
        done = vit(*args, "--train", recipe, "--out", recipe)
        assert done.code == 3, done.err
        assert done.err.count("not a regular file") == 2
    done = vit(*args[:-1], "--out", "none")
    assert done.code == 1 and "zero.png lies outside of the folder of the table" in done.err


def moved(state: Path, before: dict[str, int]) -> bool:
    try:
        now = torch.load(state)
    except (OSError, RuntimeError, EOFError):
        return False
    return (now["epoch"], now["step"]) > (before["epoch"], before["step"])


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_train_as_one(
    vit: Vit,
    vits: ForkServer,
    scripts: Path,
    few: Path,
    tmp_path: Path,
    clean_env: dict[str, str],
) -> None:
    """Under torchrun; and when one of them is told to stop, both do, and go on to the same bits."""
    args = ["finetune", str(few), "-m", "demo", "--train", "full", *FAST, "--mixup", "0.3"]
    assert vit(*args, "--out", "one").code == 0
    port = str(free_port())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", port, "--no-python", str(scripts / "vit")]
    done = subprocess.run(
        [*torchrun, *args, "--out", "two"],
        cwd=tmp_path,
        env={**clean_env, "OMP_NUM_THREADS": "1"},  # as in the forks
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        if name.endswith("key.bias"):
            continue  # it changes no answer: its gradient is rounding, which AdamW makes large
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=name)
    metrics = [last_line(tmp_path / name) for name in ("one", "two")]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_top1"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-4)
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 2

    env = {**clean_env, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [*args, "--out", "cut", "--save-every", "0", "-q"]

    def both(*more: str) -> list[Child]:
        return [
            vits.start(*command, *more, cwd=tmp_path, env={**env, "RANK": rank})
            for rank in ("0", "1")
        ]

    state = tmp_path / "cut" / "last" / "state.pt"
    processes = both()
    wait_for(state.exists)
    processes[1].kill(signal.SIGTERM)
    codes = [process.wait() for process in processes]
    said = [process.err for process in processes]
    assert codes == [-signal.SIGTERM] * 2, said
    assert "continue with: the same command and --resume" in said[0] and said[1] == ""
    assert torch.load(state)["epoch"] < 2
    resumed = both("--resume")
    assert [process.wait() for process in resumed] == [0, 0]
    assert same(tmp_path / "two", tmp_path / "cut"), [process.err for process in resumed]


@pytest.mark.parametrize("recipe", ["lora", "last-1"])
def test_other_recipes_end_in_a_plain_model(
    vit: Vit, few: Path, tmp_path: Path, recipe: str
) -> None:
    done = vit("finetune", few, "-m", "demo", "--train", recipe, "--out", "run", *FAST)
    assert done.code == 0, done.err
    assert load(str(tmp_path / "run")).labels == tuple("0123456789")
    judged = json.loads(vit("evaluate", few, "-m", "run", "-j", "0", "--json").out)["models"][0]
    assert judged["top1"] == pytest.approx(last_line(tmp_path / "run")["val_top1"], abs=0.03)


def test_a_split_is_drawn_written_down_and_obeyed(vit: Vit, few: Path, tmp_path: Path) -> None:
    args = ("finetune", few / "train", "-m", "demo", "--train", "head", "--val-split", "0.25")
    assert vit(*args, "--out", "one", "--seed", "5").code == 0
    assert vit(*args, "--out", "two", "--seed", "5", "-j", "0").code == 0
    split = (tmp_path / "one" / "split.jsonl").read_text()
    assert split == (tmp_path / "two" / "split.jsonl").read_text()
    rows = [json.loads(line) for line in split.splitlines()]
    for label in "0123456789":
        of_class = [row["split"] for row in rows if row["label"] == label]
        assert of_class.count("val") == round(0.25 * len(of_class))
    again = ("finetune", "one/split.jsonl", "-m", "demo", "--train", "head", "--out", "three")
    assert "--allow-outside (VIT_ALLOW_OUTSIDE=1)" in vit(*again).err
    again = vit(*again, "--allow-outside", "-j", "0")
    assert again.code == 0, again.err
    assert same(tmp_path / "one", tmp_path / "three") or last_line(tmp_path / "three")["val_top1"]


@pytest.mark.parametrize("recipe", ["head", "full"])
def test_a_tar_is_learnt_as_its_folder(vit: Vit, tiny: Path, tmp_path: Path, recipe: str) -> None:
    """The same weights, bit for bit, from another folder; and --resume finds the members again."""
    args = ("-m", "demo", "--train", recipe, *FAST, "--epochs", "1", "--out")
    assert vit("finetune", tiny, *args, "one").code == 0
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for file in sorted(tiny.rglob("*.png"), key=os.fsencode):
            tar.add(file, f"./{file.relative_to(tiny)}")
    assert vit("finetune", "data.tar", *args, "two").code == 0
    assert same(tmp_path / "one", tmp_path / "two")
    splits = [(tmp_path / run / "split.jsonl").read_text() for run in ("one", "two")]
    assert splits[0].replace(f"{tiny}/", f"{tmp_path}/data.tar/./") == splits[1]
    again = vit("finetune", "data.tar", *args, "two", "--resume")
    assert again.code == 0, again.err
    shutil.rmtree(tmp_path / "two" / "last")  # as if it had ended before the first epoch
    (tmp_path / "two" / "metrics.jsonl").unlink()
    assert vit("finetune", "data.tar", *args, "two", "--resume").code == 0
    assert same(tmp_path / "one", tmp_path / "two")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9), 200, np.uint8)).save(path)


def test_odd_data_are_named(vit: Vit, tmp_path: Path) -> None:
    picture(tmp_path / "one" / "a" / "1.png")
    done = vit("finetune", "one", "-m", "demo", "--out", "run")
    assert done.code == 1 and "only one class, a" in done.err
    for name in ("train/a", "train/b", "val/a", "val/c"):
        picture(tmp_path / "differ" / name / "1.png")
    done = vit("finetune", "differ", "-m", "demo", "--out", "run")
    assert done.code == 1 and "val has c, which train does not" in done.err
    (tmp_path / "flat").mkdir()
    done = vit("finetune", "flat", "-m", "demo", "--out", "run")
    assert done.code == 1 and "no folders of classes" in done.err
    for name in ("a/1", "a/2", "b/1"):
        picture(tmp_path / "rare" / f"{name}.png")
    (tmp_path / "rare" / "empty").mkdir()
    done = vit("finetune", "rare", "-m", "demo", "--out", "run2", "--epochs", "1")
    assert done.code == 0, done.err
    assert "class empty is left out" in done.err
    assert "b: one image each, trained on and never tested" in done.err
    assert "--train head (a class has only 1 image)" in done.err
    done = vit("finetune", "rare", "-m", "demo", "--out", "run2")
    assert done.code == 1 and "run2 is not empty" in done.err
    for name in ("a/1", "a/2", "b/1", "b/2"):
        picture(tmp_path / "alone" / "train" / f"{name}.png")
    (tmp_path / "alone" / "train" / "a" / "3.png").write_text("no image")
    args = (
        "finetune",
        "alone",
        "-m",
        "demo",
        "--out",
        "run3",
        "--epochs",
        "1",
        "--val-split",
        "0.5",
    )
    assert vit(*args).code == 3
    again = vit("finetune", "./alone/", *args[2:], "--resume")  # nothing is left to do
    assert again.code == 3 and "NotAnImage: alone/train/a/3.png: not an image" in again.err
    assert "alone/train/a/3.png" in (tmp_path / "run3" / "report.html").read_text()
    labels = [json.loads(line)["label"] for line in (tmp_path / "run3" / "split.jsonl").open()]
    assert sorted(labels) == ["a", "a", "b", "b"]
    again = vit(*args, "--resume", "--no-flip", "--label-smoothing", "0.2")
    assert again.code == 1 and "--no-flip was False, is True" in again.err
    assert "--label-smoothing was None, is 0.2" in again.err


def test_what_cannot_be_learnt_is_told(vit: Vit, tmp_path: Path) -> None:
    rest = ("-m", "demo", "--epochs", "1", "--train", "full", "-j", "0", "--out")
    for name in ("a/1", "a/2", "b/1", "b/2", "c/1"):
        picture(tmp_path / "data" / f"{name}.png")
    (tmp_path / "data" / "c" / "1.png").write_bytes(b"")
    done = vit("finetune", "data", *rest, "lost")
    assert done.code == 3 and "no image of class c can be read" in done.err
    lines = ["image,class", "data/a/1.png,a", "data/b/1.png,b"]  # a header with other names
    (tmp_path / "named.csv").write_text("\n".join(lines))
    assert vit("finetune", "named.csv", *rest, "named").code == 0
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    assert sorted(config["label2id"]) == ["a", "b"]
    (tmp_path / "gone.csv").write_text("no/1.png,a\nno/2.png,b\n")
    done = vit("finetune", "gone.csv", *rest, "gone")
    assert done.code == 1 and "none of 2 images can be read; the first, no/1.png: no" in done.err
    (tmp_path / "latin.csv").write_bytes(b"data/a/1.png,\xe9\ndata/b/1.png,b\n")
    done = vit("finetune", "latin.csv", *rest, "latin")
    assert done.code == 1 and r"line 1: the label \udce9 is not UTF-8" in done.err
    (tmp_path / "excel.csv").write_text("data/a/1.png;a\ndata/b/1.png;b\n")
    assert vit("finetune", "excel.csv", *rest, "excel").code == 0
    done = vit("finetune", "x.parquet", *rest, "parquet")
    assert done.code == 1 and "labels are not read from Parquet" in done.err


@pytest.mark.parametrize("closed", ["data", "data/train"])
def test_a_folder_that_may_not_be_looked_into_is_named(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    picture(tmp_path / "data" / "train" / "a" / "1.png")
    listed = {"scandir": os.scandir, "listdir": os.listdir}
    for name, real in listed.items():

        def refuse(path: object = ".", real: Callable[..., object] = real) -> object:
            if os.fspath(path) == closed:  # type: ignore[call-overload]
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, name, refuse)
    done = vit("finetune", "data", "-m", "demo", "--out", "run", "-j", "0")
    assert done.code == 1 and f"cannot list {closed}: Permission denied" in done.err


def test_a_full_disk_is_named_where_the_state_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "create", lambda *args: io.FileIO("/dev/full", "r+"))
    with pytest.raises(WriteError, match="No space left"):
        save_state(tmp_path, {"step": torch.ones(9)})


def test_augmentation_depends_on_seed_epoch_and_place_alone() -> None:
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8))
    plan = Preprocess((32, 24), (32, 24))
    for level in ("light", "medium", "strong"):
        augment = LEVELS[level]
        assert augment is not None
        views = [
            augment(picture, plan, np.random.default_rng(numbers))
            for numbers in ((0, 0, 1), (0, 0, 1), (0, 1, 1), (1, 0, 1))
        ]
        assert views[0].shape == (32, 24, 3) and views[0].dtype == np.uint8
        assert np.array_equal(views[0], views[1])
        assert not np.array_equal(views[0], views[2]) and not np.array_equal(views[0], views[3])
