"""Google's `.npz`: every spelling gives the numbers that timm gives for the same file, and a file
that lies is refused before it costs anything."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fixtures.golden import golden, largest_error
from tests.fixtures.jax import STYLES, jax_arrays
from vitcli.checkpoints.keymap import to_ours, to_theirs
from vitcli.checkpoints.layouts import google
from vitcli.checkpoints.load import load
from vitcli.checkpoints.weights.npz import read_npz
from vitcli.errors import CheckpointError

EXACT = 1e-5
CASES = (
    ("jax_original", "original"),
    ("jax_target", "target"),
    ("jax_big_vision", "big_vision"),
    ("jax_stacked", "stacked"),
    ("jax_gap", "big_vision"),
    ("jax_original", "stacked"),  # any model in any spelling
    ("jax_gap", "original"),
    ("jax_stacked", "target"),
)


def arrays_of(name: str, style: str) -> dict[str, Any]:
    expected = golden(name)
    state = {key: tensor.numpy() for key, tensor in expected.state.items()}
    return jax_arrays(state, expected.num_heads, STYLES[style])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return tmp_path / "weights.npz"


@pytest.mark.parametrize(("name", "style"), CASES)
def test_a_file_gives_the_numbers_of_timm(name: str, style: str, npz: Path) -> None:
    expected = golden(name)
    np.savez(npz, **arrays_of(name, style))
    model = load(str(npz))
    assert model.layout == "google"
    assert model.config.num_heads == expected.num_heads  # read off the kernels
    assert model.config.pos_resize == "bilinear"
    assert largest_error(model.network, expected) < EXACT


def test_the_evaluation_of_the_repository_is_taken_and_said(npz: Path) -> None:
    np.savez(npz, **arrays_of("jax_original", "original"))
    model = load(str(npz))
    steps = "resize(squash 64x64, bilinear) | normalize(mean=0.5, std=0.5)"
    assert model.preprocess.describe().endswith(steps)
    assert any(note.endswith(steps) for note in model.notes)


@pytest.mark.parametrize(("name", "style"), CASES)
def test_the_rules_lead_back_to_the_same_arrays(name: str, style: str, npz: Path) -> None:
    np.savez(npz, **arrays_of(name, style))
    state = google.LAYOUT.strip(read_npz(npz))
    rules = google.rules(state)
    ours = to_ours(state, rules).tensors
    back = to_theirs(ours, rules)
    expected = arrays_of(name, "original")
    assert back.keys() == expected.keys()
    for key, array in expected.items():
        assert np.array_equal(back[key].numpy(), array), key


def test_positions_are_resampled_bilinearly(npz: Path) -> None:
    np.savez(npz, **arrays_of("jax_original", "original"))
    model = load(str(npz), image_size=(48, 96))
    pos = golden("jax_original").state["pos_embed"][:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(pos, size=(3, 6), mode="bilinear")
    found = model.network.pos_embed[:, 1:]
    assert torch.equal(found, expected.permute(0, 2, 3, 1).reshape(1, 18, 32))


def test_bfloat16_is_read_as_the_raw_bytes_that_numpy_keeps(npz: Path) -> None:
    expected = torch.linspace(-3, 3, 12).reshape(3, 4).to(torch.bfloat16)
    np.savez(npz, a=expected.view(torch.int16).numpy().view("V2"))
    assert torch.equal(read_npz(npz)["a"], expected)


def test_any_order_of_bytes_and_axes_is_read(npz: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez_compressed(
        npz, big=array.astype(">f4"), columns=np.asfortranarray(array), one=array[0]
    )
    found = read_npz(npz)
    assert np.array_equal(found["big"].numpy(), array)
    assert np.array_equal(found["columns"].numpy(), array)


def test_a_head_behind_a_hidden_layer_is_left_out_and_said(npz: Path) -> None:
    hidden = {"pre_logits/kernel": np.eye(32, dtype=np.float32)}
    hidden["pre_logits/bias"] = np.zeros(32, np.float32)
    np.savez(npz, **arrays_of("jax_original", "original"), **hidden)
    model = load(str(npz))
    assert model.config.num_classes == 0
    assert any("left out: head/" in note and "pre_logits" in note for note in model.notes)


def test_the_text_tower_is_left_out_and_said(npz: Path) -> None:
    text = {
        "params/txt/head/kernel": np.ones((4, 4)),
        "params/t": np.ones(1),
        "params/b": np.ones(1),
    }
    np.savez(npz, **arrays_of("jax_stacked", "stacked"), **text)
    model = load(str(npz))
    assert any("the text tower" in note for note in model.notes)


def test_a_hybrid_is_refused_by_name(npz: Path) -> None:
    stem = {"conv_root/kernel": np.ones((7, 7, 3, 64), np.float32)}
    np.savez(npz, **arrays_of("jax_original", "original"), **stem)
    with pytest.raises(CheckpointError, match="a ResNet stands before the Vision Transformer"):
        load(str(npz))


def test_a_kernel_of_a_wrong_shape_is_an_error_by_name(npz: Path) -> None:
    arrays = arrays_of("jax_original", "original")
    arrays["embedding/kernel"] = arrays["embedding/kernel"].reshape(-1, 32)
    np.savez(npz, **arrays)
    with pytest.raises(CheckpointError, match="embedding/kernel"):
        load(str(npz))


# Files that lie (`npy` makes a member of a header and of what follows it).


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1") + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


def zipped(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)
    return file


def header(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


LIES = (
    (npy(header("(1048576, 1048576)"), b"1234"), r"a in .* claims 4.4 TB"),
    (npy(header(f"(0, {1 << 70})")), "not a readable .npz"),
    (npy(header("(-1, -1)"), b"1234"), "a in .* claims 4 bytes"),
    (npy(header("(2,)"), b"123"), "claims 8 bytes .*the file has 3"),
    (npy(header("(1,)"), b"12345678"), "claims 4 bytes .*the file has 8"),
    (objects(), "refused: a in .* holds Python objects"),
    (npy(header("(1,)", "[('x', '|O')]"), b"12345678"), "holds Python objects"),
    (npy(header("(1,)", "[('x', '<f4')]"), b"1234"), "a in .* is not made of numbers"),
    (npy(header("(1,)", "'<U1'"), b"1234"), "a in .* is not made of numbers"),
    (npy("__import__('os').system('true')", b""), "not a readable .npz"),
    (npy("(" * 5000, b""), "not a readable .npz"),
    (npy("{'descr':", b""), "not a readable .npz"),
    (npy(header("(1,)"), b"1234", (9, 0)), "not a readable .npz|format"),
    (b"", "not a readable .npz"),
    (b"\x93NUMPY", "not a readable .npz"),
)


@pytest.mark.parametrize(("member", "said"), LIES)
def test_a_member_that_lies_is_one_clear_error(member: bytes, said: str, npz: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(str(zipped(npz, {"a": member})))


def test_a_stack_without_end_is_refused(npz: Path) -> None:
    """No bytes, a billion blocks."""
    arrays = {n: npy(header("(1,)"), b"1234") for n in ("embedding/kernel", "cls")}
    arrays["Transformer/encoderblock/LayerNorm_0/scale"] = npy(header("(1000000000, 0)"))
    with pytest.raises(CheckpointError, match="stacks more than 512 blocks"):
        load(str(zipped(npz, arrays)))


def test_nan_is_damage(npz: Path) -> None:
    arrays = arrays_of("jax_original", "original")
    arrays["cls"] = np.full_like(arrays["cls"], np.nan)
    np.savez(npz, **arrays)
    with pytest.raises(CheckpointError, match="cls holds 32 NaN"):
        load(str(npz))


def test_a_flipped_byte_and_a_cut_are_seen(npz: Path) -> None:
    np.savez(npz, **arrays_of("jax_original", "original"))
    whole = npz.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0x40
    npz.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="not a readable"):
        load(str(npz))
    npz.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(CheckpointError):
        load(str(npz))


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_is_unpacked(npz: Path) -> None:
    """128 MiB of zeros in 130 kB: an error, and no more memory than before."""
    zipped(npz, {"m0": npy(header("(33554432,)"), bytes(1 << 27))}, zipfile.ZIP_DEFLATED)
    assert npz.stat().st_size < 200_000
    with pytest.raises(CheckpointError, match=r"claims 134 MB of arrays"):
        load(str(npz))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from vitcli.checkpoints.weights.npz import read_npz\n"
        "from vitcli.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_npz(Path(sys.argv[1]))\n"
        "except CheckpointError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(npz)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 < 10_000_000
