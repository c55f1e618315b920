"""The committed completion scripts are those of the app, and the shells accept them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from vitcli.cli.app import app
from vitcli.cli.completion import SCRIPTS
from vitcli.cli.inventory import commands

FOLDER = Path(__file__).parents[1] / "completions"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_committed_script_is_what_make_completions_writes(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == SCRIPTS[name](), "run: make completions"


def command_of(name: str) -> Any:
    """What Typer makes of `models pull`."""
    found: Any = typer.main.get_command(app)
    for word in name.split():
        found = found.commands[word]
    return found


def test_every_option_of_the_app_is_completed() -> None:
    for command in commands():
        declared = command_of(command.name).params
        known = {name for option in command.options for name in option.names}
        for parameter in declared:
            if parameter.opts[0].startswith("-") and not parameter.hidden:
                assert {*parameter.opts, *parameter.secondary_opts} <= known


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "vit.bash"), ("zsh", "_vit"), ("fish", "vit.fish")]
)
def test_the_shell_accepts_the_script(shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    subprocess.run([shell, "-n", FOLDER / name], check=True)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("vit cl", "classify"),
        ("vit embed --pool c", "cls cls+mean"),
        ("vit classify --top", "--top-k"),
        ("vit embed --sto", "--store"),
        ("vit models p", "pull"),
        ("vit models --for sp", "speed"),
        ("vit models pull --off", "--offline"),
        ("vit info --js", "--json"),
        ("vit info --help-", "--help-all"),
    ],
)
def test_bash_completes(words: str, offered: str) -> None:
    script = (
        f"source '{FOLDER / 'vit.bash'}'; compopt() {{ :; }}; COMP_WORDS=({words});"
        ' COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _vit; echo "${COMPREPLY[@]}"'
    )
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == offered
