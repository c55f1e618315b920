"""The options for classes in words, up to the job."""

from __future__ import annotations

from pathlib import Path

import pytest

import vitcli
from tests.conftest import Vit
from vitcli.jobs.job import Summary
from vitcli.jobs.words import Words, templates_of
from vitcli.tasks.classify.classify import ClassifyJob


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[ClassifyJob]:
    """The jobs of the commands, none of which is done."""
    taken: list[ClassifyJob] = []

    def share(job: ClassifyJob, *args: object, **options: object) -> Summary:
        taken.append(job)
        return Summary(done=0, failed=0, seconds=0.0)

    monkeypatch.setattr("vitcli.fleet.share.share", share)
    return taken


def words(vit: Vit, jobs: list[ClassifyJob], *args: str) -> Words | None:
    ended = vit("classify", "a.png", "-q", "-j", "0", *args)
    assert ended.code == 0, ended.err
    return jobs[-1].words


def test_options_and_variables_give_the_words_of_the_api(
    vit: Vit, jobs: list[ClassifyJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.txt").write_text("cat\na red car: red car, red van\n")
    assert words(vit, jobs) is None
    found = words(
        vit, jobs, "--classes", "cat, a red car", "--classes", "dog", "--templates", "openai"
    )
    vitcli.classify("a.png", classes=["cat", "a red car", "dog"], templates="openai")
    assert found == jobs[-1].words is not None
    found = words(
        *(vit, jobs, "--classes-file", "c.txt", "--template", "my {}", "--template", "{}!"),
        *("--text-clean", "none", "--tokenizer", "org/name"),
    )
    assert found is not None and found.file == Path("c.txt")
    vitcli.classify(
        "a.png",
        classes={"cat": "cat", "a red car": ["red car", "red van"]},
        templates=["my {}", "{}!"],
        text_clean="none",
        tokenizer="org/name",
    )
    assert found == jobs[-1].words


def test_a_variable_has_a_value_a_line(
    jobs: list[ClassifyJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitcli.cli import main

    monkeypatch.setenv("VIT_CLASSES", "cat, a red car\ndog\n")
    monkeypatch.setenv("VIT_TEMPLATE", "a photo of a {}.\nmy {}\n")
    assert main(["classify", "a.png", "-q", "-j", "0"]) == 0
    found = jobs[-1].words
    assert found is not None
    assert (found.labels, found.templates) == (
        ("cat", "a red car", "dog"),
        ("a photo of a {}.", "my {}"),
    )
    assert main(["classify", "a.png", "-q", "-j", "0", "--classes", "x", "--template", "{}"]) == 0
    found = jobs[-1].words
    assert found is not None and (found.labels, found.templates) == (("x",), ("{}",))
    monkeypatch.delenv("VIT_CLASSES")
    monkeypatch.setenv("VIT_TEMPLATES", "openai")  # idle without classes, and no mistake
    assert main(["classify", "a.png", "-q", "-j", "0"]) == 0
    assert jobs[-1].words is None
    assert len(templates_of("openai")) == 80


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--classes", ""), 2, "no classes are given"),
        (("--classes", "cat, cat"), 2, "the class 'cat' is given 2 times"),
        (("--classes", "cat", "--classes-file", "c.txt"), 2, "are both given"),
        (("--classes", "cat", "--template", "{}", "--templates", "none"), 2, "are both given"),
        (("--template", "my {}"), 2, "--template has no effect without classes"),
        (("--tokenizer", "x"), 2, "--tokenizer has no effect without classes"),
        (("--classes", "cat", "--templates", "imagenet"), 2, "--templates"),
        (("--classes-file", "none.txt"), 1, "no such file: none.txt (--classes-file)"),
        (("--classes-file", "c.txt", "-m", "demo", "-o", "c.txt", "--format", "csv", "--overwrite"),
         1, "c.txt is the file of --classes-file, and would be overwritten"),
        (("--classes-file", "c.txt", "-m", "demo", "--summary", "c.txt"), 1, "c.txt"),
    ],
)  # fmt: skip
def test_mistakes_are_told_at_once(
    vit: Vit, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "c.txt").write_text("cat\n")
    ended = vit("classify", "a.png", "-j", "0", *args)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err and "Traceback" not in ended.err
    assert (tmp_path / "c.txt").read_text() == "cat\n"
