"""Text in Markdown is read as text."""

from __future__ import annotations

import pytest

from vitcli.render.markdown import code, escaped, with_code


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a plain label, no. 3", "a plain label, no. 3"),
        ("*a* _b_ `c` [d](e) {f} #g \\", r"\*a\* \_b\_ \`c\` \[d\](e) \{f\} \#g " + "\\\\"),
        ("<b> & a|b ~~c~~", "&#60;b&#62; &#38; a&#124;b &#126;&#126;c&#126;&#126;"),
        ("two\nlines\t\udcff", r"two\\nlines\\t\\udcff"),
    ],
)
def test_no_character_of_a_text_has_a_meaning(text: str, written: str) -> None:
    assert escaped(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|*b*", "`a|*b*`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("a\nb", r"`a\nb`"),
        ("", "`  `"),
    ],
)
def test_a_code_span_ends_where_its_text_does(text: str, written: str) -> None:
    assert code(text) == written


def test_code_in_a_text_of_ours_stays_code() -> None:
    assert with_code("one a line, as `a_b` or *c*") == r"one a line, as `a_b` or \*c\*"
