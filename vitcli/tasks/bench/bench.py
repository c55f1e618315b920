"""Which engine, dtype, batch size and workers are best for a model on this machine: each way is
tried in a process of its own, for a bounded time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.openvino import CALIBRATION, calibration_pixels
from vitcli.checkpoints.resolve import resolve
from vitcli.engines import ENGINES, DtypeName, EngineName, Quantize, check_engine
from vitcli.errors import DeviceError, InputError, Interrupted, UsageError, VitError
from vitcli.images import sources
from vitcli.images.formats import suffixes
from vitcli.images.scan import Omissions, Scan
from vitcli.images.workers import DecodeJob, iter_decoded
from vitcli.jobs.job import DEFAULT_MODEL, ModelOptions, NullReporter, Reporter
from vitcli.jobs.loading import load_model
from vitcli.models import onednn
from vitcli.models.cost import cost
from vitcli.models.limit import matmul_flops, share_of_limit
from vitcli.models.prepare import choose_device
from vitcli.processes import available_cpus
from vitcli.records import Decode, ImageRef, Preprocess, Sample
from vitcli.tasks.bench.protocol import (
    Candidate,
    Ended,
    Exported,
    Exporting,
    Note,
    Outputs,
    Pixels,
    Read,
    Reading,
    Skipped,
    Timed,
    Trial,
    started,
)
from vitcli.tasks.bench.verdict import Advice, Row, Tried, advise, command_of, table

BATCH_SIZES = (1, 4, 16, 32)
PICTURES = 64
LISTED, USED = 5000, 512  # files of --on: of the first ones, so many from all over
READY = 0.6  # of the time is for ready pictures, where files follow
ENDING = 0.93  # of the time: what is not done by then is not begun
LEAST = 6.0  # seconds that a candidate gets: it takes half of them to start
FAST_READING = 5.0  # seconds to read the pictures once more
PATIENCE = 10.0  # seconds beyond its time, before a candidate is given up
WORKERS = (8, 4, 2, 1, 0)  # and one for each processor, up to MOST_WORKERS
MOST_WORKERS = 16
OUT_OF_TIME = "no time was left"
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchJob:
    """One run of `vit bench`. `on` names images (a folder, a file, a glob) to be read end to end;
    without, the pictures are drawn. `seconds` bounds all of it, the loading of the model too."""

    model: str = DEFAULT_MODEL
    options: ModelOptions = ModelOptions()
    on: str | None = None
    device: str = "auto"
    seconds: float = 60.0
    batch_sizes: tuple[int, ...] = BATCH_SIZES

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(f"--seconds {self.seconds:g}", "give a time such as 60")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError("no batch sizes are given", "use 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What was found. `limits` are operations a second of a large matrix product, `exports` the
    seconds that making an engine's files took, `left_out` what is not in the rows, and why.
    `interrupted` is the signal that ended it early."""

    model: str
    device: str
    threads: int
    images: str
    gflops: float
    limits: dict[str, float]
    rows: tuple[Row, ...]
    advice: tuple[Advice, ...]
    exports: dict[str, float]
    left_out: dict[str, str]
    seconds: float
    interrupted: int | None


def bench(
    job: BenchJob,
    watcher: Reporter | None = None,
    on_step: Callable[[str], None] = lambda text: None,
    *,
    began: float | None = None,
) -> Bench:
    """Try the candidates, the most common first; `on_step` hears what is measured now. The time
    runs from `began` on the monotonic clock, where given.

    Raises VitError, where nothing could be measured, too. An interruption ends the trials, not
    the result: what was measured is there, and so is the signal.
    """
    began = time.monotonic() if began is None else began
    return _Trials(job, watcher or NullReporter(), on_step, began).run()


@dataclass(slots=True)
class _Trials:
    """The steps of a bench, and what they have found so far."""

    job: BenchJob
    watcher: Reporter
    on_step: Callable[[str], None]
    began: float
    tried: dict[Candidate, Tried] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    exports: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self) -> Bench:
        job = self.job
        paths = _paths(job.on, self.watcher.note) if job.on is not None else ()
        device = choose_device(job.device)
        checkpoint = resolve(job.model, offline=job.options.offline)
        self.on_step("loading the model")
        options = replace(job.options, decode="exact")  # what all are compared with
        model = load_model(checkpoint, options, self.watcher.note)
        interrupted = None
        with tempfile.TemporaryDirectory(prefix="vit-bench-", ignore_cleanup_errors=True) as made:
            folder = Path(made)
            pictures, source = self._pictures(paths, model.preprocess)
            np.save(folder / "exact.npy", pictures)
            trial = Trial(
                checkpoint=checkpoint,
                options=options,
                candidate=Candidate("torch", "fp32"),
                device=str(device),
                pictures=folder / "exact.npy",
                batch_sizes=tuple(sorted(set(job.batch_sizes))),
                deadline=0.0,
                files=paths,
            )
            try:
                self._try_all(trial, list(self._candidates(device)))
                if paths:
                    self._read_files(trial, model, pictures)
            except Interrupted as signal:
                interrupted = signal.signal_number
        if not self.tried and interrupted is None:
            raise self._nothing()
        return self._found(model, device, source, interrupted)

    def _pictures(self, paths: Sequence[str], plan: Preprocess) -> tuple[Pixels, str]:
        """What goes through every candidate, and what it is: (n, H, W, 3)"""
        if not paths:
            drawn = calibration_pixels(plan.size, CALIBRATION + PICTURES)[CALIBRATION:]
            return drawn, f"{PICTURES} drawn pictures"  # others than int8 is calibrated on
        self.on_step("reading pictures")
        found = _decoded(paths, plan, self._end(READY) / 4)
        if not len(found):
            raise InputError(
                f"no image of {self.job.on} can be read", f"see why: vit classify {self.job.on}"
            )
        return found, f"{len(found)} pictures of {self.job.on}"

    def _candidates(self, device: torch.device) -> Iterator[Candidate]:
        """What can be tried here, the most promising first; a long export holds nobody up."""
        yield Candidate("torch", "fp32")
        if device.type != "cpu":
            has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
            yield Candidate("torch", "fp16")
            yield from [Candidate("torch", "bf16")] if has_bf16 else []
            return
        has_bf16 = onednn.has("avx512_bf16", "amx_bf16", "bf16")
        if has_bf16:
            yield Candidate("torch", "bf16")
        if onednn.supports(torch.bfloat16 if has_bf16 else torch.float32, int8=True):
            yield Candidate("torch", "fp32", "int8")
        exporting = [name for name, engine in ENGINES.items() if engine.module]
        absent = set()
        for name in exporting:
            try:
                check_engine(name)
            except DeviceError as error:
                absent.add(name)
                self.left_out[name] = NOT_INSTALLED
                self.watcher.note(f"left out: {error.message}")
        present = [name for name in exporting if name not in absent]
        dtypes: list[DtypeName] = ["bf16", "fp32"] if has_bf16 else ["fp32"]
        order: list[tuple[list[EngineName], Quantize | None]]
        order = [(present, None), (present[::-1], "int8")]  # OpenVINO's int8 export takes longest
        for names, quantize in order:
            for name, dtype in product(names, dtypes):
                if dtype in ENGINES[name].dtypes:
                    yield Candidate(name, dtype, quantize)

    def _try_all(self, trial: Trial, candidates: Sequence[Candidate]) -> None:
        end = self.began + self.job.seconds * ENDING * (READY if trial.files else 1)
        for place, candidate in enumerate(candidates):
            left = end - time.monotonic()
            if left <= 0 or (place and left < LEAST / 2):
                self.left_out[str(candidate)] = OUT_OF_TIME
                continue
            self._measure_limit(candidate, trial.device)
            slice = max(min(LEAST, left), left / (len(candidates) - place))
            self._try(replace(trial, candidate=candidate), Tried(candidate), slice)

    def _try(self, trial: Trial, one: Tried, seconds: float, step: str = "") -> None:
        """Run a trial for about so many seconds, and keep what it tells; once more after an
        export, which may take all the time that there is."""
        end = self.began + self.job.seconds
        now = time.monotonic()
        trial = replace(trial, deadline=min(now + seconds, self._end()))
        until = min(now + seconds + PATIENCE, end)
        name = f"{trial.candidate}{step}"
        self.on_step(name)
        with started(trial) as next_event:
            has_exported = False
            while True:
                match next_event(until):
                    case Note(text):
                        self.watcher.note(text)
                    case Exporting():
                        self.on_step(f"{name}: exporting the model, once")
                        until = end
                    case Exported(took):
                        has_exported = True
                        self.exports[_export(trial.candidate)] = took
                    case Timed() as timed:
                        self.tried[trial.candidate] = one  # at once: we may be interrupted
                        one.timed.append(timed)
                    case Outputs() as outputs if trial.readings:
                        one.fast = outputs
                    case Outputs() as outputs:
                        one.outputs = outputs
                    case Read() as read:
                        one.reads.append(read)
                    case Skipped(what):
                        self.left_out[f"{name}: {what}"] = OUT_OF_TIME
                    case Ended(why):
                        break
        left = self._end() - time.monotonic()
        if has_exported and left > LEAST / 2:
            self._try(trial, one, max(seconds, LEAST), step)
        elif has_exported or (why and time.monotonic() >= end):
            self.left_out[f"the rest of {name}" if one.timed else name] = OUT_OF_TIME
        elif why:
            self.left_out[name] = why
            self.watcher.note(f"{name}: {why}")

    def _read_files(self, trial: Trial, model: Model, pictures: Pixels) -> None:
        """The files end to end, for the candidates that may be advised."""
        rows = list(table(self.tried.values(), *self._reference(model), {}))
        chosen = dict.fromkeys(
            advice.row.candidate
            for advice in advise(rows)
            if advice.purpose in ("fastest", "close", "exact")
        )
        decoding, read_fast = self._decodings(trial, model.preprocess, pictures)
        cpus = available_cpus()
        workers = dict.fromkeys((min(cpus, MOST_WORKERS), *(n for n in WORKERS if n <= cpus)))
        readings = tuple(Reading(decode, count) for decode in decoding for count in workers)
        for place, candidate in enumerate(chosen):
            left = self._end() - time.monotonic()
            if left < LEAST / 2:
                self.left_out[f"{candidate} from files"] = OUT_OF_TIME
                continue
            one = self.tried[candidate]
            one.read_batch = one.best.batch_size
            reading = replace(
                trial,
                candidate=candidate,
                batch_sizes=(one.read_batch,),
                readings=readings,
                pictures=read_fast,
            )
            self._try(reading, one, left / (len(chosen) - place), " from files")

    def _decodings(
        self, trial: Trial, plan: Preprocess, pictures: Pixels
    ) -> tuple[tuple[Decode, ...], Path]:
        """The ways to decode that differ here, and the pictures as the last one reads them."""
        fast = replace(plan, decode="fast")
        found = _decoded(trial.files, fast, FAST_READING) if fast.reduces else pictures
        if np.array_equal(found, pictures):  # too small to be reduced
            return ("exact",), trial.pictures
        file = trial.pictures.with_name("fast.npy")
        np.save(file, found[: len(pictures)])
        return (("fast",) if self.job.options.decode == "fast" else ("exact", "fast")), file

    def _measure_limit(self, candidate: Candidate, device: str) -> None:
        name = candidate.quantize or candidate.dtype
        if name in self.limits:
            return
        self.on_step(f"matrix products in {name}")
        dtype = "fp32" if candidate.dtype == "auto" else candidate.dtype
        self.limits[name] = matmul_flops(dtype, device, quantize=candidate.quantize, seconds=0.4)

    def _reference(self, model: Model) -> tuple[Outputs | None, int]:
        """What fp32 gives, and how many of its columns are the embedding."""
        config = model.config
        found = self.tried.get(Candidate("torch", "fp32"))
        [dim] = model.network.features_shape((config.depth,), config.pool)
        return found.outputs if found else None, dim

    def _found(
        self, model: Model, device: torch.device, source: str, interrupted: int | None
    ) -> Bench:
        job = self.job
        shares = {
            candidate: share_of_limit(model.config, 1.0, self.limits[key])
            for candidate in self.tried
            if (key := candidate.quantize or candidate.dtype) in self.limits
        }
        inputs, has_labels = job.on or "photos", bool(model.config.num_classes)
        rows = tuple(
            replace(
                row, command=command_of(row, job.model, job.options, job.device, inputs, has_labels)
            )
            for row in table(self.tried.values(), *self._reference(model), shares)
        )
        return Bench(
            model=job.model,
            device=str(device),
            threads=torch.get_num_threads(),
            images=source,
            gflops=cost(model.config).gflops,
            limits=self.limits,
            rows=rows,
            advice=tuple(advise(rows)),
            exports=self.exports,
            left_out=self.left_out,
            seconds=time.monotonic() - self.began,
            interrupted=interrupted,
        )

    def _nothing(self) -> VitError:
        """Why there is no row."""
        for name, why in self.left_out.items():
            if why not in (OUT_OF_TIME, NOT_INSTALLED):
                return VitError(f"nothing could be measured: {name}: {why}")
        return VitError(
            f"nothing could be measured in {self.job.seconds:g} s", "give it more: --seconds 60"
        )

    def _end(self, part: float = 1.0) -> float:
        """When the trials are to have ended."""
        return self.began + self.job.seconds * ENDING * part


def _export(candidate: Candidate) -> str:
    return f"{candidate.engine} {candidate.quantize or 'fp32'}"


def _paths(on: str, note: Callable[[str], None]) -> tuple[str, ...]:
    """Some of the files, evenly from all over the first ones.

    Raises InputError for a folder or pattern without images.
    """
    scan = Scan(suffixes("common"), Omissions(note))
    if on == "-":
        raise UsageError(
            "--on - is a list, and bench reads the files again and again", "name a folder"
        )
    listed = [
        ref.path for ref in islice(sources.iter_refs(sources.open_sources([on], scan=scan)), LISTED)
    ]
    return tuple(listed[:: max(1, -(-len(listed) // USED))])


def _decoded(paths: Sequence[str], plan: Preprocess, seconds: float) -> Pixels:
    """The first pictures that can be read in this time.  -> (n, H, W, 3)"""
    until = time.monotonic() + seconds
    step = max(1, len(paths) // PICTURES)
    refs = [ImageRef(number, path) for number, path in enumerate(paths[::step])]
    found = []
    decoded = iter_decoded(refs, DecodeJob((plan,)), available_cpus())
    with closing(decoded):
        for item in decoded:
            if isinstance(item, Sample):
                found.append(item.pixels[0])
            if len(found) == PICTURES or time.monotonic() > until:
                break
    return np.stack(found) if found else np.zeros((0, *plan.size, 3), np.uint8)
