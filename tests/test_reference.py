"""The pages on the commands are those of the app, and docs/llms.txt lists every page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fixtures.pages import DOCS, Entry, navigation
from vitcli.cli import reference
from vitcli.cli.inventory import commands

FOLDER = DOCS / "reference"
LLMS = (DOCS / "llms.txt").read_text("utf-8")


def test_the_committed_pages_are_what_make_completions_writes() -> None:
    committed = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    assert committed == reference.pages(), "run: make completions"


def test_writing_removes_the_page_of_a_command_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("# vit gone\n")
    reference.write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(reference.pages())


def test_a_page_has_every_option_once_and_a_place_for_its_long_name() -> None:
    written = reference.pages()
    for command in commands():
        page = written["-".join(command.words) + ".md"]
        places = re.findall(r'<a id="(.*?)">', page)
        assert len(places) == len(set(places)) == len(command.options)
        for option in command.options:
            assert page.count(f"`{option.spelling}`") == 1
            assert set(places) & set(option.names)


def test_an_option_is_described_as_in_the_help() -> None:
    page = reference.pages()["convert.md"]
    assert (
        '- <a id="--template"></a>`--template TEXT`\n\n'
        r"    Text in which \{\} stands for a class; repeat to average several."
        " Default: `a photo of a {}.`. Variable: `VIT_TEMPLATE`.\n"
    ) in page
    assert '- <a id="--to"></a>`--to hf|timm|onnx`\n\n    Library that' in page
    assert "ONNX Runtime. Required.\n" in page
    assert "Ignore tensors that are not part of the model, such as 'criterion.\\*';" in page


def test_llms_txt_has_the_form_of_llmstxt_org() -> None:
    title, _, summary, *rest = LLMS.splitlines()
    assert title == "# vitcli" and summary.startswith("> ")
    for line in filter(None, rest):
        is_link = re.fullmatch(r"- \[[^\]]+\]\([^)]+\): .+[^.]", line)
        assert is_link or line.startswith("## ") or re.fullmatch(r"\w.*\.", line), line


def test_llms_txt_lists_the_pages_of_the_navigation_in_its_order() -> None:
    section, listed = "", []
    for line in LLMS.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif link := re.match(r"- \[(.+?)\]\((.+?)\.html\): ", line):
            listed.append(Entry(section, link[1], link[2] + ".md"))
    assert listed == navigation()


def test_llms_txt_says_of_a_command_what_its_help_says() -> None:
    said = dict(re.findall(r"^- \[(vit .+?)\]\(.*?\): (.*)$", LLMS, re.MULTILINE))
    assert said == {command.full_name: command.help.rstrip(".") for command in commands()}
