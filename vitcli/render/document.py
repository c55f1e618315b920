"""The frame of every page that is made: one file, no network, for phones and for the dark too."""

from __future__ import annotations

import base64
from functools import cache
from html import escape
from importlib.resources import files

END = "</body>\n</html>\n"
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src {scripts}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
"""


def opening(title: str, css: str, *, has_scripts: bool = False) -> str:
    """Everything up to the body; `css` is the name of a file of ours. Browsers are told to load
    nothing from elsewhere, and to run nothing where there are no scripts of ours."""
    scripts = "'unsafe-inline'" if has_scripts else "'none'"
    return HEAD.format(title=escape(title), css=asset(css), scripts=scripts)


def data_url(kind: str, data: bytes) -> str:
    """A picture inside the page; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{encoded(data)}"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@cache
def asset(name: str) -> str:
    """The text of a file beside this one."""
    return files("vitcli.render").joinpath(name).read_text("utf-8")
