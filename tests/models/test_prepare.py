"""Normalised pixels, devices and dtypes: the last step before the network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vitcli.checkpoints.preprocess.published import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
from vitcli.errors import DeviceError
from vitcli.models import prepare as prepare_module
from vitcli.models.config import ViTConfig
from vitcli.models.engine import Logits
from vitcli.models.network import Network
from vitcli.models.prepare import DTYPES, Prepared, choose_device, choose_dtype, prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

STATS = {
    "half": (HALF, HALF),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": (CLIP_MEAN, CLIP_STD),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
RESCALES = (1 / 255, 0.00392156862745098, 1.0)


@pytest.fixture
def network() -> VisionTransformer:
    config = ViTConfig(
        image_size=(16, 16), patch_size=(8, 8), embed_dim=8, depth=1, num_heads=2, hidden_dim=16
    )
    return VisionTransformer(config).eval()


@pytest.fixture
def every_value() -> NDArray[np.uint8]:
    """All 256 values in each channel, in three orders: (1, 16, 16, 3)."""
    ramp = np.arange(256, dtype=np.uint8)
    return np.stack([ramp, ramp[::-1], np.roll(ramp, 99)], axis=-1).reshape(1, 16, 16, 3)


def plan(stats: str = "half", rescale: float = 1 / 255) -> Preprocess:
    mean, std = STATS[stats]
    return Preprocess(size=(16, 16), resize=None, mean=mean, std=std, rescale=rescale)


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("stats", STATS)
def test_pixels_are_bit_for_bit_those_of_transformers(
    stats: str, rescale: float, network: VisionTransformer, every_value: NDArray[np.uint8]
) -> None:
    mean, std = STATS[stats]
    theirs = ViTImageProcessorPil(
        do_resize=False,
        do_rescale=rescale != 1,
        rescale_factor=rescale,
        image_mean=list(mean),
        image_std=list(std),
    )
    expected = theirs(Image.fromarray(every_value[0]), return_tensors="pt").pixel_values
    ours = prepare(network, plan(stats, rescale), "cpu").pixels(every_value)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("stats", STATS)
def test_pixels_are_bit_for_bit_those_of_to_tensor_and_normalize(
    stats: str, network: VisionTransformer, every_value: NDArray[np.uint8]
) -> None:
    mean, std = (torch.tensor(values)[:, None, None] for values in STATS[stats])
    scaled = torch.from_numpy(every_value[0]).permute(2, 0, 1).to(torch.float32).div(255)
    ours = prepare(network, plan(stats), "cpu").pixels(every_value)
    assert torch.equal(ours[0], scaled.sub_(mean).div_(std))


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_pixels_are_normalised_in_fp32_and_then_cast(
    name: str, network: VisionTransformer, every_value: NDArray[np.uint8]
) -> None:
    exact = prepare(network, plan("imagenet"), "cpu").pixels(every_value)
    prepared = prepare(network, plan("imagenet"), "cpu", name)
    assert torch.equal(prepared.pixels(every_value), exact.to(DTYPES[name]))
    assert prepared.network(prepared.pixels(every_value)).dtype == DTYPES[name]


def test_the_batch_of_pixels_is_left_as_it_is(
    network: VisionTransformer, every_value: NDArray[np.uint8]
) -> None:
    before = every_value.copy()
    prepare(network, plan(), "cpu").pixels(every_value)
    assert np.array_equal(every_value, before)


def test_another_dtype_leaves_the_callers_network_unchanged(network: VisionTransformer) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    half = prepare(network, plan(), "cpu", "bf16")
    assert next(half.network.parameters()).dtype == torch.bfloat16
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_the_same_dtype_and_device_copy_nothing(network: VisionTransformer) -> None:
    assert prepare(network, plan(), "cpu").network is network


def test_under_torchrun_each_process_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    for rank, number in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == torch.device("cuda", number)
        assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda", "no CUDA device"),
        ("cuda:0", "no CUDA device"),
        ("mps", "MPS is not available"),
        ("tpu", "unknown device 'tpu'"),
        ("cpu:1", "unknown device 'cpu:1'"),
        ("", "unknown device ''"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=says):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda:2", "no device cuda:2: there are 2 CUDA devices"),
        ("cuda:x", "unknown device"),
        ("cuda:-1", "unknown device"),
    ],
)
def test_the_number_of_a_cuda_device_is_checked(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match=says):
        choose_device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "dtype"),
    [
        (True, True, "cuda", torch.float16),
        (False, True, "mps", torch.float16),
        (False, False, "cpu", torch.float32),
    ],
)
def test_auto_takes_the_fastest_device_and_its_dtype(
    cuda: bool, mps: bool, device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    chosen = choose_device("auto")
    assert chosen == torch.device(device)
    assert choose_dtype("auto", chosen) == dtype
    assert choose_dtype("fp32", chosen) == torch.float32


def test_the_last_batch_of_a_run_is_not_compiled_again(
    network: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled up, once: a size that comes again is compiled."""
    compiled: list[object] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    def compile_layers(network: VisionTransformer) -> None:
        for block in network.blocks:
            block.compile(backend=count, dynamic=False)

    monkeypatch.setattr(prepare_module, "compile_layers", compile_layers)
    torch.compiler.reset()
    drawn = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    cpu = torch.device("cpu")
    plain = Prepared(network, plan(), cpu, torch.float32)
    prepared = Prepared(network, plan(), cpu, torch.float32, compile=True)
    for size, compilations in ((9, 1), (9, 1), (3, 1), (5, 1), (3, 2)):
        found = prepared.run(Logits(), drawn[:size])
        torch.testing.assert_close(found, plain.run(Logits(), drawn[:size]))
        assert len(compiled) == compilations
    torch.compiler.reset()


def test_a_batch_that_needs_too_much_memory_is_not_filled_up(
    network: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "compile_layers", lambda network: None)
    prepared = Prepared(network, plan(), torch.device("cpu"), torch.float32, compile=True)
    drawn, seen = np.zeros((8, 16, 16, 3), np.uint8), []

    def ask(network: Network, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if seen[1:] == [8]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels.flatten(1)

    prepared.run(ask, drawn)
    with pytest.raises(torch.OutOfMemoryError):
        prepared.run(ask, drawn)
    prepared.run(ask, drawn[:4])
    assert seen == [8, 8, 4]


def test_the_output_is_copied_while_the_caller_does_something_else(
    network: VisionTransformer, every_value: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    prepared = Prepared(network, plan(), torch.device("cpu"), torch.float32)
    expected = prepared.run(Logits(), every_value)
    done = SimpleNamespace(synchronize=lambda: events.append("wait"))

    class Stream:
        def record_event(self) -> object:
            events.append("copied")
            return done

    def empty(*size: object, pin_memory: bool, **named: object) -> torch.Tensor:
        events.append("pinned" if pin_memory else "pageable")
        return torch.full(*size, torch.nan, **named)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch.cuda, "current_stream", lambda device: Stream())
        wait = prepared.start(Logits(), every_value)
    events.append("something else")
    found = wait()
    assert events == ["pinned", "copied", "something else", "wait"]
    assert torch.equal(found, expected) and not found.is_inference()
