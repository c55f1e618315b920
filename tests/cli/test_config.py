"""Options from `vit.toml`: names, types, order, what a found file may not do, and the config of a
run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import Ended, Vit
from vitcli.cli.app import app
from vitcli.cli.config.current import current

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "config.md").read_text("utf-8")
ONE = EXAMPLES / "digit-0-0036.png"
DEMO = '[classify]\nmodel = "demo"\nworkers = 0\n'


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """Write `vit.toml` in the working folder."""

    def write(text: str) -> Path:
        file = tmp_path / "vit.toml"
        file.write_text(text)
        return file

    return write


def shown(ended: Ended) -> tuple[dict[str, Any], dict[str, str]]:
    """The table that --show-config prints, and the source of each key."""
    assert ended.code == 0
    text = ended.out.decode()
    [table] = tomllib.loads(text).values()
    lines = (line.removeprefix("# ").partition("  # ") for line in text.splitlines()[3:])
    return table, {line.split(" =")[0]: source.strip() for line, _, source in lines}


@pytest.mark.quick
def test_the_file_in_the_folder_gives_options_and_a_note_tells_which(
    vit: Vit, config: Callable[[str], Path]
) -> None:
    config(DEMO + "top_k = 2\n")
    ended = vit("classify", ONE)
    assert len(json.loads(ended.out)["predictions"]) == 2
    assert ended.err.splitlines()[0] == "vit: options from vit.toml: model, workers, top-k"
    assert vit("classify", ONE, "-q").err == ""


def test_an_option_wins_over_a_variable_and_both_over_the_file(
    vit_process: Vit, config: Callable[[str], Path]
) -> None:
    config(DEMO + "top-k = 2\nimage-size = 28\nclasses = ['c']\n")
    env = {"VIT_TOP_K": "3", "VIT_CLASSES": "a\nb"}
    words = ("classify", "--show-config")
    table, sources = shown(vit_process(*words, "x.jpg", "--decode", "fast", env=env))
    assert table["top-k"] == 3
    assert shown(vit_process(*words, "-k4", env=env))[0]["top-k"] == 4
    assert sources["top-k"] == "variable VIT_TOP_K"
    assert sources["classes"] == "variable VIT_CLASSES" and table["classes"] == ["a", "b"]
    assert (sources["model"], table["model"]) == ("vit.toml:2", ["demo"])
    assert (sources["image-size"], table["image-size"]) == ("vit.toml:5", "28")
    assert (sources["decode"], sources["inputs"]) == ("option", "argument")
    assert (sources["batch-size"], sources["labels"]) == ("default", "not set")


def test_what_show_config_prints_is_a_file_that_says_the_same(
    vit: Vit, config: Callable[[str], Path]
) -> None:
    config('[embed]\nlayers = [2, -1] # two\ntext-clean = "hf"\n\ndrop = [\n "a",\n "b\\"c"]\n')
    ended = vit("embed", "--show-config", "é.jpg", "-m", "demo")
    table, sources = shown(ended)
    assert (sources["layers"], sources["drop"]) == ("vit.toml:2", "vit.toml:5")
    assert (table["layers"], table["drop"], table["inputs"]) == ("2,-1", ["a", 'b"c'], ["é.jpg"])
    config(ended.out.decode())
    assert shown(vit("embed", "--show-config"))[0] == table


@pytest.mark.parametrize("command", ["finetune", "merge", "convert", "search", "models", "info"])
def test_every_command_shows_its_config_even_without_its_arguments(vit: Vit, command: str) -> None:
    assert f"[{command}]" in vit(command, "--show-config").out.decode()


def test_every_command_takes_a_config() -> None:
    def missing(command: Any, name: str) -> list[str]:
        below = getattr(command, "commands", {}).items()
        has = {parameter.name for parameter in command.params} >= {"config", "show_config"}
        lacking = [] if has or name == "vit" else [name]
        return [*lacking, *(n for inner, c in below for n in missing(c, f"{name} {inner}"))]

    assert missing(typer.main.get_command(app), "vit") == []


@pytest.mark.parametrize(
    ("text", "told", "way_out"),
    [
        ("[classify]\ntopk = 2", "vit.toml:2: vit classify has no option topk", "top-k?"),
        ("[classify]\nk = 2", "vit.toml:2: vit classify has no option k", "long name: top-k"),
        ("[clasify]\ntop-k = 2", "vit.toml:1: [clasify] is not a command", "[classify]?"),
        ("\ntop-k = 2", "vit.toml:2: top-k is outside of a table", "such as [classify]"),
        ("[classify]\ntop-k = 2\ntop_k = 3", "[classify] has top-k and top_k", "use one"),
        ("[classify]\ntop-k = \n", "vit.toml:2 is not TOML", "--config ''"),
        ("[classify]\nconfig = 'a'", "vit classify has no key config", "command line"),
        ("[classify]\ntop-k = '2'", "top-k in [classify]: it takes a whole number, without", ""),
        ("[classify]\ntop-k = 2.0", "top-k in [classify]: it takes a whole number", ""),
        ("[classify]\ntop-k = true", "top-k in [classify]: it takes a whole number", ""),
        ("[classify]\ntop-k = 0", "vit.toml:2: top-k in [classify]: ", ""),
        ("[classify]\nquiet = 'yes'", "quiet in [classify]: it takes true or false", ""),
        ("[classify]\next = 3", "ext in [classify]: it takes a list of texts", ""),
        ("[classify]\nlabels = 3", "labels in [classify]: it takes a text in quotes", ""),
        ("[classify]\nlabels = {}", "it takes a text in quotes, not a table", ""),
        ("[classify]\nscores = 'x'", "scores in [classify]: 'x' is not one of 'prob'", ""),
        ("[classify]\nimage-size = 'x'", "--image-size x", "image-size is set in vit.toml:2"),
        ("[classify]\ndevice = 'tpu'", "unknown device 'tpu'", "device is set in vit.toml:2"),
        ("[classify]\noverwrite = true", "only from a file that you name", "--config vit.toml"),
        ("[cache]\nclear = 'all'", "clear in [cache]: clear is read only from a file", ""),
        ("[classify]\nray = true", "only from a file that you name", "--config ''"),
        ("[classify]\nout = 's3://a/b.csv'", "out to a URL is read only from a file that", ""),
    ],
)
def test_what_the_file_gets_wrong_is_named(
    vit: Vit, config: Callable[[str], Path], text: str, told: str, way_out: str
) -> None:
    config(text)
    words = ("cache",) if text.startswith("[cache]") else ("classify", ONE, "-m", "demo", "-q")
    ended = vit(*words)
    assert ended.code in (1, 2) and ended.out == b""
    assert told in ended.err and way_out in ended.err and len(ended.err.splitlines()) <= 2


def test_no_file_is_read_if_the_option_or_the_variable_is_empty(
    vit: Vit, config: Callable[[str], Path], tmp_path: Path
) -> None:
    config("nonsense")
    assert vit("classify", "--help").code == 0
    (tmp_path / "other.toml").write_text("[classify]\noverwrite = true\n")
    words = ("classify", "--show-config")
    assert shown(vit(*words, "--config", ""))[1]["overwrite"] == "default"
    assert shown(vit(*words, "--config", "other.toml"))[1]["overwrite"] == "other.toml:2"
    ended = vit(*words, "--config", "none.toml")
    assert (ended.code, ended.err) == (
        2,
        "vit: there is no config file none.toml\n  did you mean other.toml?\n",
    )


@pytest.mark.parametrize(("value", "source"), [("", "default"), ("other.toml", "other.toml:2")])
def test_the_variable_names_a_file(
    vit_process: Vit, config: Callable[[str], Path], tmp_path: Path, value: str, source: str
) -> None:
    config("nonsense")
    (tmp_path / "other.toml").write_text("[classify]\ntop-k = 2\n")
    ended = vit_process("classify", "--show-config", env={"VIT_CONFIG": value})
    assert shown(ended)[1]["top-k"] == source.replace("default", "not set")


def test_an_option_replaces_what_the_file_says_in_other_words(
    vit: Vit, config: Callable[[str], Path]
) -> None:
    config('[embed]\nmodel = "demo"\nlayers = "1,2"\ninputs = ["no.jpg"]\ntext-clean = "hf"\n')
    ended = vit("embed", ONE, "--layer", "1", "-j0", "-o", "e.npy")
    assert ended.code == 0, ended.err
    assert ended.err.startswith("vit: options from vit.toml: model, text-clean\n")


def test_the_meta_has_a_config_that_repeats_the_run(
    vit: Vit, config: Callable[[str], Path], tmp_path: Path
) -> None:
    config('[embed]\nmodel = "demo"\nl2 = true\nworkers = 0\n')
    assert vit("embed", ONE, "-o", "a.npy", "--layer", "2", "--summary", "s.json").code == 0
    config("[embed]\nlayer = 1\n")
    meta = json.loads((tmp_path / "a.meta.json").read_bytes())
    summary = json.loads((tmp_path / "s.json").read_bytes())
    assert meta["schema"] == summary["schema"] == 1
    assert meta["config"] == summary["config"]
    (tmp_path / "again.toml").write_text(meta["config"])
    first = (tmp_path / "a.npy").read_bytes()
    for number, file in enumerate(("again.toml", "a.meta.json", "s.json")):
        ended = vit("embed", "--config", file, "-o", f"{number}.npy")
        assert (ended.code, "options from" in ended.err) == (0, False)
        assert (tmp_path / f"{number}.npy").read_bytes() == first
    ended = vit("embed", "--config", "a.index.jsonl.json")
    assert ended.code == 2


def test_no_secret_is_in_the_config_of_a_run(vit: Vit, tmp_path: Path) -> None:
    url = "https://me:password@127.0.0.1:9/a.jpg?token=secret"
    vit("classify", url, "-m", "demo", "-j0", "--summary", "s.json", "--format", "jsonl")
    text = (tmp_path / "s.json").read_text()
    assert "# inputs: left out: it has a secret" in text
    assert 'secret"' not in text and "password@" not in text
    assert "password@" not in vit("classify", url, "--show-config").out.decode()


def test_the_note_is_an_event_in_a_json_log(vit: Vit, config: Callable[[str], Path]) -> None:
    config(DEMO + "log-json = true\n")
    lines = [json.loads(line) for line in vit("classify", ONE).err.splitlines()]
    assert lines[0]["message"] == "options from vit.toml: model, workers, log-json"


def test_outside_of_a_command_there_is_no_config() -> None:
    assert current().text is None


def test_the_commands_of_the_page_do_what_it_says(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    lines = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()
    printed = ""
    for line in lines:
        program, *words = shlex.split(line)
        if program == "vit":
            ended = vit(*words, *(() if "--show-config" in words else ("-j0",)))
            assert ended.code == 0, ended.err
            printed = printed or ended.out.decode()
        else:
            assert program == "cmp"
            first, again = ((tmp_path / name).read_bytes() for name in words)
            assert first == again
    [expected] = (
        block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if "# The" in block
    )
    same = expected.removesuffix("...\n").splitlines()
    assert [re.sub(" +", " ", line) for line in printed.splitlines()][: len(same)] == [
        re.sub(" +", " ", line) for line in same
    ]


def test_the_example_of_the_page_is_understood(vit: Vit, tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "vit.toml").write_text(text)
    assert shown(vit("classify", "--show-config"))[1]["top-k"] == "vit.toml:3"
    assert shown(vit("embed", "--show-config"))[0]["layers"] == "3,6,-1"
