"""The committed manual is that of the app, and man(1) shows it without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.pages import PAGES
from vitcli.cli import manual
from vitcli.cli.inventory import commands

FOLDER = Path(__file__).parents[1] / "completions" / "man"
GROFF = shutil.which("groff")
needs_groff = pytest.mark.skipif(GROFF is None, reason="groff is not installed here")


def rendered(name: str) -> str:
    """A page as a terminal shows it, without bold and italics; groff warns of nothing."""
    command = ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=79n", FOLDER / name]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return ended.stdout


def test_the_committed_pages_are_what_make_completions_writes() -> None:
    committed = {file.name: file.read_text("ascii") for file in FOLDER.iterdir()}
    assert committed == manual.pages(), "run: make completions"


def test_writing_removes_the_page_of_a_command_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "vit-gone.1").write_text("")
    manual.write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in FOLDER.iterdir()}


@needs_groff
def test_groff_shows_every_option_with_its_text() -> None:
    for command in commands():
        page = rendered(f"vit-{'-'.join(command.words)}.1")
        words = " ".join(page.split())
        for option in (*command.arguments, *command.options):
            assert re.search(rf"^ {{7}}{re.escape(option.spelling)}( |$)", page, re.MULTILINE)
            assert " ".join(option.help.replace("`", "").split()) in words
        for example in command.examples:
            assert f"\n       {example}\n" in page


@needs_groff
def test_groff_keeps_what_is_typed_as_it_is_typed() -> None:
    page = rendered("vit-convert.1")
    assert "'criterion.*'; repeatable. Variable: VIT_DROP.\n" in page
    assert "Default: a photo of a {}.. Variable: VIT_TEMPLATE." in " ".join(page.split())
    assert 'any(label == "cat" and rank <= 3)' in " ".join(rendered("vit-classify.1").split())
    escaped = manual._text("a\\b `c-d` ~x ^y … --top-k")
    assert escaped == r"a\(rsb \fBc\-d\fR \(tix \(hay \[u2026] \fB\-\-top\-k\fR"
    assert manual._line(".hidden 'x'") == r"\&.hidden \(aqx\(aq"


def test_the_exit_codes_are_those_of_the_page_on_errors() -> None:
    table = re.findall(r"^\| ([\d, ]+) \|", PAGES["errors.md"], re.MULTILINE)
    assert table == [*manual.EXIT_STATUS]
