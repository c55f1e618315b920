"""Help: groups, one screen, every option in the whole one, and only options that do something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.conftest import Vit
from vitcli import __version__
from vitcli.cli.app import COMMANDS, app
from vitcli.cli.config.command import configurable
from vitcli.cli.options.declare import Argument, Declared, Group, Option, declared

SCREEN = 44  # lines of the short help at 80 columns
LEAKS = r"<\w+( range)?>|\[default: \(|x>=|list\[|None"


def _functions() -> dict[str, Any]:
    """The function of each command; `models pull` has two words."""
    found: dict[str, Any] = {name: configurable(command) for name, command in COMMANDS.items()}
    for group in app.registered_groups:
        inner = group.typer_instance
        found[group.name] = inner.registered_callback.callback
        for info in inner.registered_commands:
            found[f"{group.name} {info.callback.__name__}"] = info.callback
    return found


FUNCTIONS = _functions()


@pytest.fixture(params=[80, 140])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    size = os.terminal_size((request.param, 24))
    monkeypatch.setattr("os.get_terminal_size", lambda descriptor: size)
    return int(request.param)


def shown(vit: Vit, *words: str) -> list[str]:
    ended = vit(*words)
    assert (ended.code, ended.err) == (0, ""), ended.err
    return ended.out.decode().splitlines()


def options_in(lines: list[str]) -> set[str]:
    """The names at the beginning of the lines below the first group."""
    first = min(lines.index(f"{group}:") for group in Group if f"{group}:" in lines)
    rows = [re.match(r"  (-[^\s,]+(?:, -[^\s,]+)*)", line) for line in lines[first:]]
    return {name for row in rows if row for name in row[1].split(", ")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_option_says_where_it_belongs(name: str) -> None:
    for parameter in typer.main.get_params_from_function(FUNCTIONS[name]).values():
        info: Any = parameter.default
        if parameter.name != "context":
            assert isinstance(info, Option | Argument), parameter.name
            assert info.group in Group and info.help.endswith((".", "-0")), parameter.name
    for one in declared(FUNCTIONS[name]):
        assert one.metavar or not one.takes_value, f"{one.names} shows a type of Python"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_short_help_fits_a_screen_and_the_whole_one_has_everything(
    vit: Vit, name: str, width: int
) -> None:
    short, whole = shown(vit, *name.split(), "-h"), shown(vit, *name.split(), "--help-all")
    assert whole == shown(vit, *name.split(), "-hh")
    known = [one for one in declared(FUNCTIONS[name]) if not one.is_hidden]
    names = {part for one in known for part in one.names} | {"-h", "--help"}
    assert names <= options_in(whole) <= names | {"-hh", "--help-all"}
    assert options_in(short) <= options_in(whole)
    assert len(short) <= SCREEN
    for lines in (short, whole):
        text = "\n".join(lines)
        assert max(map(len, lines)) <= width
        assert not re.search(LEAKS, text)
        assert re.search(rf"^Examples?:\n  vit {name}\b", text, re.M), "an example"
        titles = [line[:-1] for line in lines if re.fullmatch(r"\w[\w ]+:", line)]
        order = [group.value for group in Group if group in titles]
        assert [title for title in titles if title in list(Group)] == order
    for one in known:
        if one.brief and one.choices:
            listed = one.spelling in "\n".join(short)
            words = set(re.findall(r"[\w+]+", one.brief))
            assert listed or set(one.choices) <= words, f"{one.names} names its values"


def test_the_list_of_commands_cuts_nothing(vit: Vit, width: int) -> None:
    lines = shown(vit, "--help")
    text = " ".join(" ".join(lines).split())
    for name, function in FUNCTIONS.items():
        if " " not in name:
            assert f"{name} {function.__doc__.splitlines()[0]}" in text
    assert "..." not in text.replace("[ARGS]...", "") and max(map(len, lines)) <= width
    assert lines == shown(vit, "--help-all")


def test_help_is_a_command_too(vit: Vit) -> None:
    for words in ([], ["classify"], ["models", "pull"]):
        assert shown(vit, "help", *words) == shown(vit, *words, "--help")


@pytest.mark.parametrize("name", ["-V", "--version"])
def test_the_version(vit: Vit, name: str) -> None:
    assert vit(name).out.decode() == f"vit {__version__}\n"


def test_help_is_fast() -> None:
    """Processor time, for the machine may be busy; without what takes long to import."""
    code = (
        "import sys, resource; from vitcli.cli import main; main(['--help']);"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "heavy = {'torch', 'numpy', 'PIL', 'rich', 'importlib.metadata'} & set(sys.modules);"
        "print(used.ru_utime + used.ru_stime, sorted(heavy), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, _, heavy = ended.stderr.strip().partition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.6


# Only options that do something.


def names_of(command: str) -> dict[str, Declared]:
    return {name: one for one in declared(FUNCTIONS[command]) for name in one.names}


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("embed", "--labels --head"),
        ("reconstruct", "--labels --head --max-patches"),
        ("finetune", "--max-patches"),
    ],
)
def test_an_option_without_an_effect_is_unknown(vit: Vit, command: str, absent: str) -> None:
    assert not set(absent.split()) & names_of(command).keys()


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("attention in -m demo -o x", "--engine onnx", "does not return attention weights"),
        ("reconstruct in -m demo -o x", "--engine onnx", "reconstructed by PyTorch in fp32"),
        ("reconstruct in -m demo -o x", "--quantize int8", "without --quantize int8"),
        ("reconstruct in -m demo -o x", "--compile", "without --compile"),
    ],
)
def test_a_hidden_option_is_refused_by_name(vit: Vit, command: str, option: str, said: str) -> None:
    one = names_of(command.split()[0])[option.split()[0]]
    assert one.is_hidden and one.variable is None
    ended = vit(*command.split(), *option.split())
    assert ended.code == 2 and said in ended.err
    assert option.split()[0] not in options_in(shown(vit, command.split()[0], "-hh"))


def test_reconstruct_has_a_default_model_that_can_reconstruct() -> None:
    assert names_of("reconstruct")["-m"].default == "facebook/vit-mae-base"


def test_null_is_refused_where_no_path_is_read_or_written(vit: Vit) -> None:
    for args in (
        ("classify", "in"),
        ("embed", "in", "-o", "x.npy"),
        ("attention", "in", "-o", "x"),
    ):
        ended = vit(*args, "-0", "-m", "demo")
        assert ended.code == 2 and "-0 has no effect without a list of paths" in ended.err
    assert "--paths-only" not in names_of("embed")["-0"].help
    assert "--paths-only" in names_of("classify")["-0"].help
    assert names_of("search")["-0"].help == names_of("classify")["-0"].help


# A model is named in the same way everywhere.


def test_a_model_is_named_by_its_place_or_with_m(vit: Vit, tmp_path: Path) -> None:
    by_place, by_name = (vit("info", *words, "--json") for words in (["demo"], ["-m", "demo"]))
    assert by_place.code == 0 and by_place.out == by_name.out
    for command in ("info", "bench"):
        both = vit(command, "demo", "-m", "other")
        assert (both.code, both.err.splitlines()[0]) == (
            2,
            "vit: two models are given: demo, and one with -m",
        )
        twice = vit(command, "-m", "demo", "-m", "other")
        assert twice.code == 2 and "takes one model" in twice.err
        missing = vit(command, "-m", str(tmp_path / "none"))
        assert missing.code == 1 and "none" in missing.err


def test_a_variable_names_the_model_unless_the_command_does(vit_process: Vit) -> None:
    for words in (["demo"], ["-m", "demo"]):
        ended = vit_process("info", *words, "--json", env={"VIT_MODEL": "no-such-model"})
        assert ended.code == 0, ended.err


def test_every_group_has_an_option() -> None:
    used = {one.group for function in FUNCTIONS.values() for one in declared(function)}
    assert used == set(Group)
