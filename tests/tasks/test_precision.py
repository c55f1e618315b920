"""The precision that is fast on this CPU: measured once, told, and kept by a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.photos import photo
from vitcli.jobs import limit, precision
from vitcli.jobs.job import Running
from vitcli.jobs.precision import Rates, note_if_slower, settled
from vitcli.models import onednn

Vit = Callable[..., Any]
SLOW, FAST = Rates(245e9, 165e9), Rates(100e9, 190e9)


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rates | None], None]:
    return lambda rates: monkeypatch.setattr(precision, "measured", lambda name: rates)


def told(running: Running) -> list[str]:
    notes: list[str] = []
    note_if_slower(running, notes.append)
    return notes


def test_what_is_slower_is_told_with_the_figures(measure: Any) -> None:
    measure(SLOW)
    [text] = told(Running(dtype="bf16"))
    assert text == (
        "--dtype bf16 is slower than fp32 on this CPU: a thread multiplies matrices at 165 Gop/s "
        "in bf16, at 245 in fp32; vit bench measures whole runs"
    )
    [text] = told(Running(dtype="bf16", quantize="int8", engine="openvino"))
    assert text.startswith("--quantize int8 is slower than fp32 on this CPU")
    others: list[dict[str, Any]] = [{}, {"dtype": "fp16"}, {"engine": "onnx", "quantize": "int8"}]
    assert [told(Running(**other)) for other in others] == [[], [], []]
    for rates in (FAST, None):
        measure(rates)
        assert told(Running(dtype="bf16")) == told(Running(quantize="int8")) == []


def test_auto_is_the_fastest_on_a_cpu(measure: Any) -> None:
    auto = Running(dtype="auto", device="cpu")
    for rates, dtype in ((FAST, "bf16"), (SLOW, "fp32"), (Rates(1, 1.05), "fp32"), (None, "fp32")):
        measure(rates)
        assert settled(auto).dtype == dtype
        assert settled(Running(dtype="auto", engine="openvino")).dtype == dtype
    measure(FAST)
    assert settled(Running(dtype="auto", engine="onnx")).dtype == "fp32"
    assert settled(Running()).dtype == "fp32"


def test_auto_on_a_gpu_stays(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(FAST)
    monkeypatch.setattr(precision, "_is_on_cpu", lambda device: False)
    assert settled(Running(dtype="auto")).dtype == "auto"


def test_a_resumed_run_keeps_its_first_choice(
    vit: Vit, tiny_model: Callable[[str], Path], tmp_path: Path, measure: Any
) -> None:
    for number in range(2):
        photo(str(number), 70, 70).save(tmp_path / f"{number}.png")
    first = ("embed", "0.png", "-m", tiny_model("vit"), "-j", "0", "--dtype", "auto", "-o", "f.npy")
    more = ("embed", "0.png", "1.png", *first[2:], "--resume")
    measure(FAST)
    assert vit(*first).code == 0
    assert json.loads((tmp_path / "f.meta.json").read_text())["dtype"] == "bf16"
    measure(SLOW)
    ended = vit(*more)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "f.meta.json").read_text())["dtype"] == "bf16"
    assert "--dtype bf16 is slower than fp32 on this CPU" in ended.err
    assert vit(*first, "--overwrite").code == 0
    assert json.loads((tmp_path / "f.meta.json").read_text())["dtype"] == "fp32"
    measure(FAST)
    assert vit(*more).code == 0
    assert json.loads((tmp_path / "f.meta.json").read_text())["dtype"] == "fp32"


def test_a_machine_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[[Any], Rates | None]
) -> None:
    monkeypatch.setenv("VIT_CACHE", str(tmp_path))
    asked: list[str] = []

    def rates(name: str) -> tuple[float, float] | None:
        asked.append(name)
        return 2e9, 3e9

    monkeypatch.setattr(limit, "thread_rates", rates)
    assert [measured("bf16") for _ in range(2)] == 2 * [Rates(2e9, 3e9)]
    [file] = (tmp_path / "rates").iterdir()
    assert measured("int8") == Rates(2e9, 3e9)
    assert json.loads(file.read_text())["torch"] == torch.__version__
    for damaged in ("", "[]", '{"fp32": 0, "bf16": 1}', '{"fp32": "x", "bf16": 1}'):
        file.write_text(damaged)
        assert measured("bf16") == Rates(2e9, 3e9)
    assert asked == ["bf16", "int8", *4 * ["bf16"]]
    monkeypatch.setattr(precision, "_cpu", lambda: "another CPU")
    assert measured("bf16") == Rates(2e9, 3e9)
    assert asked[6:] == ["bf16"]


def test_the_products_of_a_thread_leave_torchs_threads_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = torch.get_num_threads()
    for name in ("bf16", "int8"):
        found = limit.thread_rates(name)  # type: ignore[arg-type]
        assert found is None or all(1e8 < rate < 1e14 for rate in found)
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(onednn, "has", lambda *instructions: False)
    assert limit.thread_rates("bf16") is None
