"""Messages: printable, and without the secrets of URLs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vitcli
from vitcli import stores
from vitcli.errors import hidden, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a.jpg", "https://***@host/a.jpg"),
        ("cannot list s3://k:s@b/p/: no", "cannot list s3://***@b/p/: no"),
        ("'https://h/a?X-Amz-Signature=1&sig=2', 403", "'https://h/a?…', 403"),
        ("zip://a.png::https://u@h/a?token=1", "zip://a.png::https://***@h/a?…"),
        ("what?/a@b.jpg", "what?/a@b.jpg"),
        ("s3://bucket/a@2x.jpg", "s3://bucket/a@2x.jpg"),
    ],
)
def test_secrets_of_urls_are_hidden(text: str, shown: str) -> None:
    assert hidden(text) == printable(text) == shown


def test_what_a_library_says_of_a_url_has_no_secrets() -> None:
    error = OSError("cannot connect to https://u:secret@127.0.0.1:1/x?sig=secret")
    assert "secret" not in stores.words_of(error)
    error = OSError('Invalid bucket name "AKIA:secret@bucket"')
    assert stores.words_of(error) == 'Invalid bucket name "***@bucket"'


@pytest.mark.parametrize("url", ["reference://x", "zip://a.png", "nothing://x", "ftp://[bad/x"])
def test_a_url_that_no_library_likes_is_an_oserror(url: str) -> None:
    with pytest.raises(OSError):
        stores.read(url)


def test_an_error_about_an_option_says_what_is_wrong() -> None:
    """`--image-size abc` alone does not: an option and its value are no sentence."""
    bare = []
    for path in sorted(Path(vitcli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_error = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error")
            if is_error and node.args and isinstance(node.args[0], ast.JoinedStr):
                parts = node.args[0].values
                said = "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in parts)
                if re.fullmatch(r"--[a-z-]+ \{\}", said):
                    bare.append(f"{path}:{node.lineno}: {ast.unparse(node.args[0])}")
    assert not bare, "\n".join(bare)
