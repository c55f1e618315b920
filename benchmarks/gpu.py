"""Measure everything on a machine with a GPU, in less than 8 minutes: one table, and one JSON file.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --device cpu --quick     # tests the script on a CPU, in 1 to 3 minutes

The parts are: the network alone against the rate of the device's matrix products and against timm;
files to rows for several numbers of workers, against the pipeline of transformers and timm's
loader; `--devices`; steps of a training; attention; a conversion. The last column compares each
result with fp32 on the CPU. Weights and images are drawn at random, and need no download. Peers
that are not installed and measurements for which no time is left are named below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from training import SameBatch

import vitcli
from vitcli.checkpoints.load import Model, load
from vitcli.jobs.limit import matmul_flops, share_of_limit
from vitcli.machine import available_cpus
from vitcli.models.config import ViTConfig
from vitcli.models.engine import Logits
from vitcli.models.prepare import compile_layers, prepare
from vitcli.tasks.convert import ConvertJob, convert
from vitcli.training.feed import Order
from vitcli.training.loop import Trainer, TrainingPlan
from vitcli.training.objective import Classify, Normalise
from vitcli.training.optim import Optimisation
from vitcli.training.recipe import Recipe, Trained

HERE = Path(__file__).parent
MINUTES = 7.5
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
DTYPES["fp16"] = torch.float16
WIDTHS = {"tiny": (192, 3), "base": (768, 12)}  # width, heads
SIZES = {"500x375": (500, 375), "12 MP": (4000, 3000)}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to measure."""

    model: str
    batches: tuple[int, ...]
    small: int  # images of 500x375
    large: int  # of 12 MP
    file_batch: int
    seconds: float  # for each network
    steps: int  # of a training
    train_batch: int


FULL = Sizes("base", (32, 256), 8192, 384, 256, 1.0, 12, 64)
QUICK = Sizes("tiny", (2,), 12, 2, 4, 0.01, 2, 2)


@dataclass(slots=True)
class Table:
    """The results so far, and what was left out, with the reason."""

    device: str
    sizes: Sizes
    ends: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, part: str, what: str, value: float, unit: str, note: str = "", check: str = ""):
        row = {"part": part, "what": what, "value": value, "unit": unit, "note": note}
        self.rows.append({**row, "against_cpu": check})
        print(f"| {part} | {what} | {value:,.4g} {unit} | {note} | {check} |", flush=True)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Leave something out if it fails, and say why."""
        try:
            yield
        except (Exception, SystemExit) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            self.left_out.append(f"{what}: {reason}")

    def has_time(self, what: str) -> bool:
        if time.monotonic() < self.ends:
            return True
        self.left_out.append(f"{what}: no time was left")
        return False


# Material


def make_model(folder: Path, size: str) -> None:
    """Write a ViT with random weights and 1,000 labels, in timm's layout."""
    width, heads = WIDTHS[size]
    network = _network(width, heads)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        drawn = torch.randn(parameter.shape, generator=draw)
        is_scale = name.endswith("weight") and "norm" in name
        parameter.data = 1 + 0.02 * drawn if is_scale else drawn * width**-0.5
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    evaluation = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9}
    evaluation |= {"mean": half, "std": half, "num_classes": 1000, "classifier": "head"}
    config = {"architecture": f"vit_{size}_patch16_224", "num_classes": 1000, "num_features": width}
    config |= {"global_pool": "token", "pretrained_cfg": evaluation}
    (folder / "config.json").write_text(json.dumps(config))


def _network(width: int, heads: int) -> nn.Module:
    from vitcli.models.vit import VisionTransformer

    sizes = ViTConfig(
        image_size=(224, 224),
        patch_size=(16, 16),
        embed_dim=width,
        depth=12,
        num_heads=heads,
        hidden_dim=4 * width,
        num_classes=1000,
    )
    return VisionTransformer(sizes)


def make_images(folder: Path, size: tuple[int, int], count: int) -> None:
    """Write smooth noise as JPEGs: 16 of them, and links to them."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"{number:05}.jpg"
        if number < 16:
            coarse = draw.integers(0, 256, (24, 32, 3), np.uint8)
            photo = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            fine = draw.integers(0, 24, (size[1], size[0], 3), np.uint8)
            Image.fromarray(np.asarray(photo) // 2 + fine).save(file, quality=90)
        else:
            file.hardlink_to(folder / f"{number % 16:05}.jpg")


# The network alone


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], device: str, seconds: float) -> float:
    """The median seconds of a call, after two calls that warm up."""
    times: list[float] = []
    while len(times) < 4 or sum(times[2:]) < seconds:
        started = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


@contextmanager
def tf32(dtype: str) -> Iterator[None]:
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def as_named(dtype: str) -> Any:
    return "fp32" if dtype == "tf32" else dtype


def difference(ours: Tensor, exact: Tensor) -> str:
    """Compare logits with those of fp32 on the CPU."""
    ours, exact = ours.float().cpu().flatten(1), exact.flatten(1)
    cosine = nn.functional.cosine_similarity(ours, exact).min()
    same = (ours.argmax(-1) == exact.argmax(-1)).float().mean()
    return f"largest {(ours - exact).abs().max():.1e}, cosine {cosine:.6f}, top-1 {same:.0%}"


@torch.inference_mode()
def measure_network(table: Table, folder: Path) -> None:
    device, sizes = table.device, table.sizes
    model = load(str(folder))
    drawn = np.random.default_rng(0).integers(0, 256, (max(sizes.batches), 224, 224, 3), np.uint8)
    exact = prepare(model.network, model.preprocess, "cpu").run(Logits(), drawn[:8])
    on_gpu = device != "cpu"
    limits: dict[str, float] = {}
    for dtype in ("fp32", "tf32", "bf16", "fp16") if on_gpu else ("fp32", "bf16"):
        with table.attempt(f"products, {dtype}"), tf32(dtype):
            limits[dtype] = matmul_flops(as_named(dtype), device, seconds=sizes.seconds / 4)
            table.add("matrix products", dtype, limits[dtype] / 1e12, "Tflop/s")
    contenders = [("vit", vit_network)]
    if find_spec("timm"):
        contenders.append(("timm", timm_network))
    for dtype in limits:
        for compiles in (False, True) if on_gpu else (False,):
            for name, make in contenders:
                what = f"{name} {dtype}{' compiled' if compiles else ''}"
                if not table.has_time(what):
                    continue
                with table.attempt(what), tf32(dtype):
                    torch.compiler.reset()
                    run = make(model, folder, device, dtype, compiles)
                    for batch in sizes.batches:
                        pixels = on_device(drawn[:batch], device)
                        check = difference(run(pixels)[:8], exact[:batch])
                        spent = seconds_of(partial(run, pixels), device, sizes.seconds)
                        share = share_of_limit(model.config, batch / spent, limits[dtype])
                        note = f"{share:.0%} of the products"
                        table.add(
                            *("network", f"{what}, batch {batch}", batch / spent, "images/s"),
                            *(note, check),
                        )


def on_device(pixels: np.ndarray, device: str) -> Tensor:
    """(B, H, W, 3) bytes -> the same on the device"""
    return torch.from_numpy(pixels).to(device)


def vit_network(
    model: Model, folder: Path, device: str, dtype: str, compiles: bool
) -> Callable[[Tensor], Tensor]:
    prepared = prepare(
        *(model.network, model.preprocess, device, as_named(dtype)), compile=compiles
    )

    def run(pixels: Tensor) -> Tensor:
        return Logits()(prepared.fast_network, prepared.fast_input(pixels))

    return run


def timm_network(
    model: Model, folder: Path, device: str, dtype: str, compiles: bool
) -> Callable[[Tensor], Tensor]:
    import timm

    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs = theirs.to(device, DTYPES[dtype])
    if compiles:
        theirs = torch.compile(theirs)

    def run(pixels: Tensor) -> Tensor:
        normalised = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        logits: Tensor = theirs(normalised.to(DTYPES[dtype]))
        return logits

    return run


# Files to rows


def rate_of(words: Sequence[str], images: int, skipped: int, ends: float) -> tuple[float, list]:
    """Run a process that prints a line of JSON for each image. Return images a second after the
    first `skipped`, and the label of each image."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    limit = max(1.0, ends - time.monotonic())
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        at, lines = [], []
        started = time.perf_counter()
        try:
            for line in process.stdout:
                at.append(time.perf_counter())
                lines.append(line)
                if at[-1] - started > limit:
                    raise SystemExit("no time was left")
        finally:
            process.kill() if len(at) < images else None
            code = process.wait()
        if code or len(at) != images:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip() or "it says nothing"
            raise SystemExit(f"exit code {code} after {len(at)} of {images} rows: {said}")
    spent = max(at[-1] - at[skipped - 1], 1e-9)
    return (images - skipped) / spent, [label_of(json.loads(line)) for line in lines]


def label_of(row: dict[str, Any]) -> int:
    """The number of the best label, in a row of vit, transformers or timm."""
    best = row["predictions"][0]
    if isinstance(best, list):  # timm: [index, score]
        return int(best[0])
    if "index" in best:
        return int(best["index"])
    return int(str(best["label"]).rpartition("_")[2])  # transformers: LABEL_7


def agreement(found: Sequence[int], exact: Sequence[int]) -> str:
    same = sum(a == b for a, b in zip(found, exact, strict=False))
    return f"top-1 of {same} of {len(exact)}"


def measure_files(table: Table, timm: Path, hf: Path, images: dict[str, Path], peers: str) -> None:
    sizes, device = table.sizes, table.device
    dtype, batch = "fp32" if device == "cpu" else "fp16", str(sizes.file_batch)
    cpus = available_cpus()
    counts = sorted({n for n in (1, 2, 4, 8, 16, 32, 64) if n < cpus} | {cpus})
    vit = [sys.executable, "-m", "vitcli", "classify", "-m", str(timm), "--no-progress"]
    script = [peers, str(HERE / "peers.py")]
    for name, folder in images.items():
        files = sorted(folder.iterdir())
        skipped = min(2 * sizes.file_batch, len(files) // 2)
        exact: list[int] = []
        with table.attempt(f"files of {name} on the CPU"):
            few = [str(file) for file in files[:16]]
            more = ["--device", "cpu", "--format", "jsonl"]
            _, exact = rate_of([*vit, *few, *more], len(few), 1, table.ends)
        common = ["--device", device, "--dtype", dtype, "--batch-size", batch]
        runs = {
            f"vit -j {count}": [*vit, str(folder), *common, "-j", str(count), "--format", "jsonl"]
            for count in counts
        }
        most = ["--workers", str(cpus)]
        for peer, model in (("transformers", hf), ("timm", timm)):
            if has(peers, peer):
                runs[f"{peer}, {cpus} workers"] = [
                    *(*script, peer, str(model), str(folder)),
                    *(*common, *most),
                ]
        if device != "cpu":
            runs["vit --devices all"] = [
                *(*vit, str(folder), "--devices", "all", "--dtype", dtype),
                *("--batch-size", batch, "--format", "jsonl"),
            ]
        elif name == "500x375":
            runs["vit --devices cpu,cpu"] = [
                *(*vit, str(folder), "--devices", "cpu,cpu", "--batch-size", batch),
                *("--format", "jsonl"),
            ]
        for what, words in runs.items():
            if not table.has_time(f"{what}, {name}"):
                continue
            with table.attempt(f"{what}, {name}"):
                if "--devices" in words:  # rows come when all are done
                    rate, found = whole_rate(words, len(files), table.ends)
                else:
                    rate, found = rate_of(words, len(files), skipped, table.ends)
                note = f"{dtype}, batch {batch}" + ", start included" * ("--devices" in words)
                check = agreement(found[: len(exact)], exact)
                table.add(f"files of {name}", what, rate, "images/s", note, check)


def whole_rate(words: Sequence[str], images: int, ends: float) -> tuple[float, list[int]]:
    """Images a second of the whole process, with its start, and the label of each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.jsonl"
        at = words.index("--format")
        words = [*words[:at], "-o", str(out), "-q"]
        started = time.perf_counter()
        limit = max(1.0, ends - time.monotonic())
        ended = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, env={**os.environ}
        )
        spent = time.perf_counter() - started
        if ended.returncode:
            raise SystemExit(ended.stderr or f"exit code {ended.returncode}")
        return images / spent, [label_of(json.loads(row)) for row in out.read_text().splitlines()]


def has(python: str, package: str) -> bool:
    found = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
    return found.returncode == 0


# Training


def train(
    folder: Path, device: str, dtype: str, sizes: Sizes, compiles: bool, saves_memory: bool
) -> tuple[float, float]:
    """The median seconds of a step, and the loss of the first."""
    model, target = load(str(folder)), torch.device(device)
    on_cpu, low = target.type == "cpu", DTYPES[dtype]
    trained = Trained(
        model.network.to(target),
        Recipe("full"),
        on_cpu=on_cpu,
        dtype=low,
        checkpointing=saves_memory,
    )
    if compiles:
        compile_layers(trained.module)
    plan = TrainingPlan(
        epochs=sizes.steps + 2,
        seed=0,
        optimisation=Optimisation(lr=1e-5, steps=sizes.steps + 2),
        device=target,
        autocast=None if on_cpu or low == torch.float32 else low,
    )
    trainer = Trainer(
        trained,
        SameBatch(Order(sizes.train_batch, sizes.train_batch, 0)),
        Classify(Normalise(model.preprocess, target), 1000),
        plan,
        save=lambda state: None,
        best=lambda: None,
    )
    events, times, losses = trainer.run(), [], []
    for _ in range(plan.epochs):
        started = time.perf_counter()
        losses.append(next(events).loss)
        wait(device)
        times.append(time.perf_counter() - started)
        next(events, None)  # the end of the epoch
    return statistics.median(times[2:]), losses[0]


def measure_training(table: Table, folder: Path) -> None:
    device, sizes = table.device, table.sizes
    exact = None
    with table.attempt("training on the CPU"):
        few = Sizes(**{**asdict(sizes), "steps": 1})
        exact = train(folder, "cpu", "fp32", few, False, False)[1]
    settings = [("fp32", False, False), ("bf16", False, False)]
    if device != "cpu":
        settings += [("fp16", False, False), ("bf16", True, False)]
    settings += [("bf16", False, True)]
    for dtype, compiles, saves_memory in settings:
        words = [dtype, *["compiled"] * compiles, *["checkpointing"] * saves_memory]
        what = " ".join(words)
        if not table.has_time(f"training, {what}"):
            continue
        with table.attempt(f"training, {what}"):
            torch.compiler.reset()
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            step, loss = train(folder, device, dtype, sizes, compiles, saves_memory)
            peak = 0.0 if device == "cpu" else torch.cuda.max_memory_allocated() / 1e9
            note = f"batch {sizes.train_batch}" + (f", peak {peak:.1f} GB" if peak else "")
            check = "" if exact is None else f"first loss {loss:.5f}, there {exact:.5f}"
            table.add("training", what, sizes.train_batch / step, "images/s", note, check)


# Attention, conversion


def measure_attention(table: Table, folder: Path, images: Path) -> None:
    sizes, device = table.sizes, table.device
    paths = [str(file) for file in sorted(images.iterdir())][: 4 * sizes.file_batch]
    few = paths[:4]
    maps: dict[str, list[np.ndarray]] = {}
    for where in ("cpu", device):
        rows = vitcli.attention(few, model=str(folder), device=where)
        maps[where] = [row.maps[0].values for row in rows]
    largest = max(
        float(np.abs(a - b).max()) for a, b in zip(maps[device], maps["cpu"], strict=True)
    )
    started = time.perf_counter()
    vitcli.attention(paths, model=str(folder), device=device, batch_size=sizes.file_batch)
    rate = len(paths) / (time.perf_counter() - started)
    check = f"largest difference of a map {largest:.1e}"
    table.add("attention", "maps, fp32", rate, "images/s", "start included", check)


@torch.inference_mode()
def measure_conversion(table: Table, timm: Path, hf: Path) -> None:
    """Convert with --verify, and compare the two models on the device."""
    started = time.perf_counter()
    job = ConvertJob(source=str(timm), target=hf, to="hf", verify=True)
    convert(job)
    spent = time.perf_counter() - started
    drawn = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8)
    logits = []
    for folder in (timm, hf):
        model = load(str(folder))
        logits.append(prepare(model.network, model.preprocess, table.device).run(Logits(), drawn))
    model = load(str(timm))
    exact = prepare(model.network, model.preprocess, "cpu").run(Logits(), drawn)
    same = "equal" if torch.equal(*logits) else "NOT EQUAL"
    note = f"both models on the device: {same}"
    table.add("convert", "timm to hf, --verify", spent, "s", note, difference(logits[1], exact))


def machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processors": available_cpus(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test this script")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--peers", default=sys.executable, help="the Python with the peers")
    asked = parser.parse_args()
    sizes = QUICK if asked.quick else FULL
    table = Table(asked.device, sizes, time.monotonic() + 60 * MINUTES)
    about = machine(asked.device)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print("\n| | | | | against fp32 on the CPU |\n|---|---|---|---|---|", flush=True)
    for peer in ("timm", "transformers"):
        if not has(asked.peers, peer):
            table.left_out.append(f"{peer}: it is not installed")
    with tempfile.TemporaryDirectory() as folder:
        timm, hf = Path(folder) / "timm", Path(folder) / "hf"
        make_model(timm, sizes.model)
        images = {}
        for (name, size), count in zip(SIZES.items(), (sizes.small, sizes.large), strict=True):
            images[name] = Path(folder) / f"{size[0]}"
            make_images(images[name], size, count)
        parts: dict[str, Callable[[], None]] = {
            "convert": partial(measure_conversion, table, timm, hf),
            "attention": partial(measure_attention, table, timm, images["500x375"]),
            "training": partial(measure_training, table, timm),
            "files": partial(measure_files, table, timm, hf, images, asked.peers),
            "network": partial(measure_network, table, timm),
        }
        for name, measure in parts.items():
            if table.has_time(name):
                with table.attempt(name):
                    measure()
    print()
    for line in table.left_out:
        print(f"Left out: {line}.")
    result = {"machine": about, "sizes": asdict(sizes), "rows": table.rows}
    asked.out.write_text(json.dumps({**result, "left_out": table.left_out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
