"""Classes in words: what a list or a file means, and which of them are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vitcli.errors import InputError, UsageError, VitError
from vitcli.jobs.class_lists import WordClass, classes_in, read_classes
from vitcli.jobs.words import DEFAULT_TEMPLATES, Classes, Words, templates_of, words_of
from vitcli.runs.fingerprint import fingerprint


def phrases(classes: Sequence[WordClass]) -> dict[str, list[str]]:
    return {one.name: list(one.phrases) for one in classes}


def names(*texts: str) -> list[str]:
    found = classes_in(texts)
    assert all(one.phrases == (one.name,) for one in found)
    return [one.name for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat, dog,a red car", ["cat", "dog", "a red car"]),
        ('"red, wet" , dry', ["red, wet", "dry"]),
        ('"say ""hi""",5" pipe, 24"', ['say "hi"', '5" pipe', '24"']),
        ('cat,\t"a, b"\n\n  dog \n', ["cat", "a, b", "dog"]),
        ("l'été, 猫, 🐈‍⬛, a: b, #1", ["l'été", "猫", "🐈‍⬛", "a: b", "#1"]),
        ("cat,, dog,", ["cat", "", "dog", ""]),
        ("", []),
    ],
)
def test_commas_and_line_ends_separate_classes(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_several_lists_are_one() -> None:
    assert names("cat, dog", "bird") == ["cat", "dog", "bird"]


@pytest.mark.parametrize("text", ['"red, wet', '"red" car, dog', 'dog,  "red', "a\\, b"])
def test_a_quote_that_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--classes") as error:
        classes_in([text])
    assert "double quotes" in str(error.value)


def test_a_file_among_classes_is_pointed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "things.txt").write_text("cat")
    (tmp_path / "cat").write_text("")
    with pytest.raises(UsageError, match=r"use --classes-file things\.txt"):
        classes_in(["things.txt"])
    assert names("cat") == ["cat"]
    assert names("things.txt, cat") == ["things.txt", "cat"]
    assert names("a" * 5000 + ".b") == ["a" * 5000 + ".b"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "\ufeffcat\r\n# comment\n  dog  \n\n \n", {"cat": ["cat"], "dog": ["dog"]}),
        ("a.txt", "tench, Tinca tinca\ncat\n", {t: [t] for t in ("tench, Tinca tinca", "cat")}),
        ("a", 'car: a car, "a van, red"\nsky : blue\n',
         {"car": ["a car", "a van, red"], "sky": ["blue"]}),
        ("a", '"12:30": half past twelve\n"#1"\n"a ""b"", c"\n',
         {"12:30": ["half past twelve"], "#1": ["#1"], 'a "b", c': ['a "b", c']}),
        ("a.json", '["cat", "a, b: c"]', {"cat": ["cat"], "a, b: c": ["a, b: c"]}),
        ("a.json", '{"cat": "a cat", "dog": ["a dog", "a, hound"]}',
         {"cat": ["a cat"], "dog": ["a dog", "a, hound"]}),
        ("a.txt", '\n {"cat": ["a cat"]}', {"cat": ["a cat"]}),
    ],
)  # fmt: skip
def test_a_file_of_classes(
    tmp_path: Path, name: str, text: str, expected: dict[str, list[str]]
) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert phrases(read_classes(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "", "names no classes"),
        ("a.txt", "# cat\n\n", "names no classes"),
        ("a.json", "[]", "names no classes"),
        ("a.txt", "cat, dog, bird\n", "one line, with commas"),
        ("a.txt", "cat\n12:30\n", "line 2: '12:30' has a colon without a space"),
        ("a.txt", 'cat\n"dog\n', "line 2"),
        ("a.txt", 'cat: "a cat\n', "line 1"),
        ("a.json", "[1, 2]", "the name of a class in {} is a number, 1"),
        ("a.json", '{"cat": null}', "the phrase of the class 'cat' in {} is null"),
        ("a.json", '{"cat": ["a", 3]}', "the phrase of the class 'cat' in {} is a number, 3"),
        ("a.json", '{"cat": {"a": 1}}', "the phrase of the class 'cat' in {} is an object"),
        ("a.json", '{"cat": true}', "is true, which is not a text"),
        ("a.txt", "cat\n\ndog\n", "line 2 is blank"),
        ("a.txt", "n01440764\ttench\n", "line 1: 'n01440764\\ttench' has a tab"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\n", "is a git-LFS pointer"),
        ("a.json", '"cat, dog"', "is a text in JSON"),
        ("a.json", "3", "is a number, 3, not a list of names"),
        ("a.json", "cat\ndog", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", '{"cat": "a", "cat": "b"}', "the class 'cat' 2 times"),
        ("a.csv", "name,phrase\n", "is a .csv file"),
    ],
)
def test_a_file_in_another_format_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VitError) as error:
        read_classes(tmp_path / name)
    assert said.format(tmp_path / name) in error.value.message
    assert name in error.value.message


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes("cat".encode("utf-16-le"))
    (tmp_path / "large.txt").write_bytes(b"cat\n" * 9)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setattr("vitcli.jobs.class_lists.MAX_JSON", 20)
    for name, kind, said in (
        ("none.txt", InputError, "no such file"),
        ("", InputError, "is a folder"),
        ("loop", InputError, "cannot read"),
        ("latin.txt", InputError, "is not UTF-8"),
        ("wide.txt", InputError, "holds NUL bytes"),
        ("large.txt", InputError, "is too large"),
    ):
        with pytest.raises(kind, match=said):
            read_classes(tmp_path / name)


def test_each_phrase_stands_in_each_template_once() -> None:
    words = words_of(
        {"car": ["car", "van", "car"], "sky": "sky"}, templates=["a {}.", "{} or {}", "a {}."]
    )
    assert words is not None
    assert words.labels == ("car", "sky")
    assert words.prompts(words.classes[0]) == ("a car.", "car or car", "a van.", "van or van")
    assert words.prompts(words.classes[1]) == ("a sky.", "sky or sky")


def test_a_class_may_look_like_a_template() -> None:
    words = words_of(["{}", "{0}"])
    assert words is not None and words.prompts(words.classes[0]) == ("a photo of a {}.",)


# sha256 of the texts of open_clip 3.3.0, zero_shot_metadata.py, for the class "x".
OPEN_CLIP = {
    "openai": (80, "f8cc48dbe0dd0f116cc04b0b68b06576969220f0eedc58f86d1021d218e440e9"),
    "simple": (7, "9e0b1a31c9c5babe43c9a35bf8126bd9215838dd4cc326059e5d75a83b33e1d3"),
}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_the_sets_of_templates_are_those_of_open_clip(name: str) -> None:
    words = words_of(["x"], templates=name)
    assert words is not None
    texts = words.prompts(words.classes[0])
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert (len(texts), digest) == OPEN_CLIP[name]


def test_the_other_sets_of_templates() -> None:
    assert templates_of("none") == ("{}",)
    assert templates_of(None) == DEFAULT_TEMPLATES == ("a photo of a {}.",)
    assert templates_of("my {}") == ("my {}",)


@pytest.mark.parametrize(
    ("classes", "options", "said"),
    [
        ([], {}, "no classes are given"),
        ("", {}, "no classes are given"),
        ("cat,,dog", {}, "the class with index 1 is empty"),
        (["cat", " "], {}, "the class with index 1 is empty"),
        ({"cat": []}, {}, "'cat' has no phrase"),
        ({"cat": ["a", ""]}, {}, "'cat' has an empty phrase"),
        (["cat", "dog", " cat"], {}, "'cat' is given 2 times"),
        ({"cat": "feline", "kitty": ["feline", "feline"]}, {}, "'cat' and 'kitty' are the same"),
        (["a\udcff"], {}, "is not UTF-8"),
        ({"cat", "dog"}, {}, "classes is a Python set"),
        ([b"cat"], {}, "the name of a class in classes is bytes, 'cat'"),
        (["cat"], {"templates": "imagenet"}, "is not a set of templates"),
        (["cat"], {"templates": []}, "no template is given"),
        (["cat"], {"templates": [3]}, "in the place of a template"),
        (["cat"], {"templates": ["a photo"]}, "has no {}"),
        (["cat"], {"templates": ["a {0}"]}, "has no {}"),
        (["cat"], {"templates": ["a {} of {name}"]}, "has other braces"),
        (["cat"], {"templates": ["a {{}}"]}, "has other braces"),
        (["cat"], {"templates": ["a {} {"]}, "has other braces"),
        (["cat"], {"templates": ["{} \udcff"]}, "is not UTF-8"),
        (["cat"], {"clean": "ftfy"}, "text_clean='ftfy'"),
        (None, {"templates": "openai"}, "templates has no effect"),
    ],
)
def test_words_that_are_refused(classes: Classes, options: Mapping[str, str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        words_of(classes, **options)  # type: ignore[arg-type]
    assert said in error.value.message


def test_no_classes_are_no_words() -> None:
    assert words_of(None) is None


def test_classes_that_the_model_cannot_tell_apart_are_refused() -> None:
    words = words_of(["Cat", "dog", "cat"])
    assert words is not None
    words.check_texts(str)
    with pytest.raises(UsageError, match="'Cat' and 'cat' are the same text for the model"):
        words.check_texts(str.lower)


def test_a_phrase_that_cleaning_leaves_empty_is_refused() -> None:
    words = words_of({"cat": ["cat", "?!"]})
    assert words is not None
    with pytest.raises(UsageError, match="sees nothing of '\\?!' \\(class 'cat'"):
        words.check_texts(lambda text: text.strip("?!"))


def test_the_fingerprint_has_the_classes_and_not_their_file(tmp_path: Path) -> None:
    def made(file: str, text: str) -> dict[str, object]:
        (tmp_path / file).write_text(text)
        words = Words(classes=read_classes(tmp_path / file), file=tmp_path / file)
        return dict(fingerprint("classify", [], {"words": words}, {"words": None}).values)

    one = made("a.txt", "cat\ndog: hound\n")
    assert one == made("b.json", json.dumps({"cat": "cat", "dog": ["hound"]}))
    assert one != made("b.txt", "cat\ndog\n")
    assert one != made("b.txt", "dog: hound\ncat\n")
