"""Templates into HTML and SVG that need no network: they contain their styles and scripts."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitcli.errors import shortened

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_NAME = 200  # bytes of a label
RATIO = 1.333  # of a card without a picture
ROWS = "<rows>\n"  # where a template has the rows of a page; `<` in a value is escaped


def render(name: str, **values: object) -> str:
    """Fill in a template of the folder `templates`. All values are escaped."""
    text = _environment().get_template(name).render(values)
    return text.encode("utf-8", "replace").decode()


def halves(name: str, **values: object) -> tuple[bytes, bytes]:
    """Fill in a template and cut it where the rows go, for a page that is written row by row."""
    before, _, after = render(name, **values).partition(ROWS)
    return before.encode(), after.encode()


def inert(value: object) -> bytes:
    """JSON without `<`, so that it cannot end the script element that holds it. Odd bytes in a
    path, which are surrogates in Python, become escapes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode("utf-8", "backslashreplace")


def script(name: str, value: object, ratio: float | None = None) -> bytes:
    """A script element of data, of the class `name`; `ratio` is that of the picture in it."""
    shape = "" if ratio is None else f' data-ratio="{ratio:g}"'
    return b'<script class="%b" type="application/json"%b>%b</script>\n' % (
        name.encode(),
        shape.encode(),
        inert(value),
    )


def ratio_of(thumbnail: bytes) -> float:
    """The width of a picture by its height, without decoding it; RATIO for empty bytes."""
    if not thumbnail:
        return RATIO
    width, height = Image.open(io.BytesIO(thumbnail)).size
    return round(width / height, 3)


@cache
def _environment() -> Environment:
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, **settings())
    environment.filters["short"] = lambda text: shortened(text, MAX_NAME)
    environment.filters["px"] = "{:.1f}".format
    environment.globals["source"] = lambda name: Markup(source(name))
    return environment


def settings() -> dict[str, Any]:
    """The settings of jinja2 for all templates."""
    from jinja2 import FunctionLoader, StrictUndefined

    return {
        "loader": FunctionLoader(source),
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }


def source(name: str) -> str:
    """The text of a file of the folder `templates`."""
    return files("vitcli.render").joinpath("templates", name).read_text("utf-8")


def data_url(kind: str, data: bytes) -> str:
    """A URL that holds a picture; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64_of(data)}"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
