"""report.html: whatever labels and paths hold, it is text, and one file without a script."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from vitcli.render.charts import Line, lines_chart, reliability_chart
from vitcli.render.heat import file_bytes
from vitcli.render.report import ClassTable, ReportPage, Section, Shot, html

HOSTILE = "</td></style></svg><script>alert('\"&')</script>\udcff"


@pytest.mark.parametrize("classes", [2, 50, 150])
def test_labels_and_paths_stay_text(classes: int) -> None:
    labels = [HOSTILE] * classes
    jpeg = file_bytes(Image.new("RGB", (8, 4)), "JPEG")
    charts = [(HOSTILE, lines_chart(HOSTILE, [Line(HOSTILE, (1, 2), (0.5, float("nan")))]))]
    section = Section(
        HOSTILE,
        ClassTable(("F1",), [(label, "1.0") for label in labels]),
        labels,
        np.eye(classes, dtype=np.int64),
        [Shot(HOSTILE, HOSTILE, HOSTILE, "0.9", jpeg), Shot(HOSTILE, "a", "b", "0.9", None)],
        charts=[("", reliability_chart([(0.0, 0.5, 3, 0.25), (0.5, 1.0, 0, 0.0)]))],
    )
    rows = [(HOSTILE, HOSTILE)]
    text = html(ReportPage(HOSTILE, HOSTILE, rows, charts, [section], rows, rows))
    assert "<script" not in text and "\udcff" not in text
    assert "--ratio:2.0" in text
    assert text.count("<svg") == text.count("</svg>") == 2
    assert text.count("</style>") == 1
    assert text.count("&lt;script&gt;alert(&#39;&#34;&amp;&#39;)&lt;/script&gt;?") >= 12


def test_the_axis_of_an_accuracy_of_1_ends_there() -> None:
    drawn = lines_chart("Accuracy", [Line("val", (1, 2), (1.0, 1.0))])
    assert re.findall(r'class="y"[^>]*>([^<]*)<', drawn) == ["0.8", "1"]
