"""Find the engine, dtype, batch size and workers that run a model best on this machine.

Each candidate is measured in its own process, for a limited time.
"""

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
from vitcli.images.job import DecodeJob
from vitcli.images.kinds import suffixes
from vitcli.images.scan import Omissions, Scan
from vitcli.images.workers import iter_decoded
from vitcli.jobs.job import DEFAULT_MODEL, SILENT, ModelOptions, Note, Reporter
from vitcli.jobs.limit import matmul_flops, share_of_limit
from vitcli.jobs.loading import check_one_size, load_model
from vitcli.machine import available_cpus
from vitcli.models import onednn
from vitcli.models.cost import cost
from vitcli.models.prepare import choose_device
from vitcli.records import Decode, ImageRef, PixelArray, Preprocess, Sample
from vitcli.tasks.bench.protocol import (
    Candidate,
    Ended,
    Exported,
    Exporting,
    Outputs,
    Read,
    Reading,
    Skipped,
    Timed,
    Trial,
    started,
)
from vitcli.tasks.bench.verdict import Advice, BenchRow, Measured, advise, command_of, table

BATCH_SIZES = (1, 4, 16, 32)
MAX_IMAGES = 64  # compared with fp32
MAX_LISTED, MAX_FILES = 5000, 512  # --on reads MAX_FILES, spread over the first MAX_LISTED
MAX_WORKERS = 16
WORKERS = (8, 4, 2, 1, 0)  # tried after one worker for each processor
SHARE_OF_TIME = 0.93  # for running the trials; the rest is for ending them
SHARE_FOR_READY = 0.6  # of that share, for ready images if files follow
MIN_SECONDS = 6.0  # for a candidate, half of them for its start
GRACE_SECONDS = 10.0  # beyond its time, before a candidate is stopped
LIMIT_SECONDS = 0.4  # to measure the rate of matrix products
FAST_DECODE_SECONDS = 5.0  # to read the images again with --decode fast
OUT_OF_TIME = "no time was left"
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchJob:
    """One run of `vit bench`. `on` names images (a folder, a file, a glob) to read end to end;
    without it the images are synthetic. `seconds` limits the whole run, including the loading of
    the model."""

    model: str = DEFAULT_MODEL
    options: ModelOptions = ModelOptions()
    on: str | None = None
    device: str = "auto"
    seconds: float = 60.0
    batch_sizes: tuple[int, ...] = BATCH_SIZES

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UsageError(f"--seconds {self.seconds:g} is too short", "give a time such as 60")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError("no batch sizes are given", "use 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The result. `limits` are the operations per second of large matrix products, by precision;
    `exports` are the seconds of each export; `left_out` has the reasons for missing rows.
    `interrupted` is the signal that ended the run early."""

    model: str
    device: str
    threads: int
    images: str
    gflops: float
    limits: dict[str, float]
    rows: tuple[BenchRow, ...]
    advice: tuple[Advice, ...]
    exports: dict[str, float]
    left_out: dict[str, str]
    seconds: float
    interrupted: int | None


def bench(
    job: BenchJob,
    reporter: Reporter = SILENT,
    on_step: Callable[[str], None] = lambda text: None,
    *,
    began: float | None = None,
) -> Bench:
    """Measure the candidates, the most promising first; `on_step` gets the name of the
    running one. The time counts from `began` on the monotonic clock.

    Raises VitError, also if nothing could be measured. After an interruption, returns the
    measurements so far, along with the signal.
    """
    began = time.monotonic() if began is None else began
    return _Trials(job, reporter, on_step, began).run()


@dataclass(slots=True)
class _Trials:
    """The steps of a bench, and the measurements so far."""

    job: BenchJob
    reporter: Reporter
    on_step: Callable[[str], None]
    began: float
    measured: dict[Candidate, Measured] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    exports: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self) -> Bench:
        job = self.job
        paths = _paths(job.on, self.reporter.note) if job.on is not None else ()
        device = choose_device(job.device)
        checkpoint = resolve(job.model, offline=job.options.offline)
        self.on_step("loading the model")
        options = replace(job.options, decode="exact")  # the reference
        model = load_model(checkpoint, options, self.reporter.note)
        if paths:
            check_one_size(model, "--on")
        interrupted = None
        with tempfile.TemporaryDirectory(prefix="vit-bench-", ignore_cleanup_errors=True) as made:
            folder = Path(made)
            images, source = self._images(paths, model.preprocess)
            np.save(folder / "exact.npy", images)
            trial = Trial(
                checkpoint=checkpoint,
                options=options,
                candidate=Candidate("torch", "fp32"),
                device=str(device),
                images=folder / "exact.npy",
                batch_sizes=tuple(sorted(set(job.batch_sizes))),
                deadline=0.0,
                files=paths,
            )
            try:
                self._time_all(
                    trial, list(self._candidates(device, exports=not model.preprocess.varies))
                )
                if paths:
                    self._read_files(trial, model, images)
            except Interrupted as signal:
                interrupted = signal.signal_number
        if not self.measured and interrupted is None:
            raise self._nothing_measured()
        return self._result(model, device, source, interrupted)

    def _images(self, paths: Sequence[str], preprocess: Preprocess) -> tuple[PixelArray, str]:
        """The images that every candidate runs on, (n, H, W, 3), and their description."""
        if not paths:  # not the images that calibrate int8
            drawn = calibration_pixels(preprocess.size, CALIBRATION + MAX_IMAGES)[CALIBRATION:]
            return drawn.astype(preprocess.dtype), f"{MAX_IMAGES} drawn images"
        self.on_step("reading images")
        decoded = _decoded(paths, preprocess, self._end(SHARE_FOR_READY) / 4)
        if not len(decoded):
            raise InputError(
                f"no image of {self.job.on} can be read", f"see why: vit classify {self.job.on}"
            )
        return decoded, f"{len(decoded)} images of {self.job.on}"

    def _candidates(self, device: torch.device, *, exports: bool) -> Iterator[Candidate]:
        """The candidates of this machine, the most promising first, exported engines last."""
        yield Candidate("torch", "fp32")
        if device.type != "cpu":
            yield Candidate("torch", "fp16")
            if device.type == "cuda" and torch.cuda.is_bf16_supported():
                yield Candidate("torch", "bf16")
            return
        has_bf16 = onednn.has("avx512_bf16", "amx_bf16", "bf16")
        if has_bf16:
            yield Candidate("torch", "bf16")
        if onednn.supports(torch.bfloat16 if has_bf16 else torch.float32, int8=True):
            yield Candidate("torch", "fp32", "int8")
        exporting = [name for name, engine in ENGINES.items() if exports and engine.module]
        missing = set()
        for name in exporting:
            try:
                check_engine(name)
            except DeviceError as error:
                missing.add(name)
                self.left_out[name] = NOT_INSTALLED
                self.reporter.note(f"left out: {error.message}")
        present = [name for name in exporting if name not in missing]
        dtypes: list[DtypeName] = ["bf16", "fp32"] if has_bf16 else ["fp32"]
        order: list[tuple[list[EngineName], Quantize | None]]
        order = [(present, None), (present[::-1], "int8")]  # OpenVINO's int8 export takes longest
        for names, quantize in order:
            for name, dtype in product(names, dtypes):
                if dtype in ENGINES[name].dtypes:
                    yield Candidate(name, dtype, quantize)

    def _time_all(self, trial: Trial, candidates: Sequence[Candidate]) -> None:
        """Time every candidate on ready images, in equal shares of the time."""
        end = self._end(SHARE_FOR_READY if trial.files else 1)
        for place, candidate in enumerate(candidates):
            left = end - time.monotonic()
            if left <= 0 or (place and left < MIN_SECONDS / 2):
                self.left_out[str(candidate)] = OUT_OF_TIME
                continue
            self._measure_limit(candidate, trial.device)
            seconds = max(min(MIN_SECONDS, left), left / (len(candidates) - place))
            self._try(replace(trial, candidate=candidate), Measured(candidate), seconds)

    def _measure_limit(self, candidate: Candidate, device: str) -> None:
        if candidate.precision not in self.limits:
            self.on_step(f"matrix products in {candidate.precision}")
            self.limits[candidate.precision] = matmul_flops(
                candidate.dtype, device, quantize=candidate.quantize, seconds=LIMIT_SECONDS
            )

    def _try(self, trial: Trial, result: Measured, seconds: float, step: str = "") -> None:
        """Run a trial for about `seconds` and collect its events. An export may take all the
        remaining time; after it, the trial runs again."""
        end = self.began + self.job.seconds
        now = time.monotonic()
        trial = replace(trial, deadline=min(now + seconds, self._end()))
        until = min(now + seconds + GRACE_SECONDS, end)
        name = f"{trial.candidate}{step}"
        self.on_step(name)
        with started(trial) as next_event:
            has_exported = False
            while True:
                match next_event(until):
                    case Note(text):
                        self.reporter.note(text)
                    case Exporting():
                        self.on_step(f"{name}: exporting the model, once")
                        until = end
                    case Exported(took):
                        has_exported = True
                        exported = trial.candidate
                        self.exports[f"{exported.engine} {exported.quantize or 'fp32'}"] = took
                    case Timed() as timed:
                        self.measured[trial.candidate] = result  # kept even if interrupted
                        result.timed.append(timed)
                    case Outputs() as outputs if trial.readings:
                        result.fast = outputs
                    case Outputs() as outputs:
                        result.outputs = outputs
                    case Read() as read:
                        result.reads.append(read)
                    case Skipped(what):
                        self.left_out[f"{name}: {what}"] = OUT_OF_TIME
                    case Ended(why):
                        break
        left = self._end() - time.monotonic()
        if has_exported and left > MIN_SECONDS / 2:
            self._try(trial, result, max(seconds, MIN_SECONDS), step)
        elif has_exported or (why and time.monotonic() >= end):
            self.left_out[f"the rest of {name}" if result.timed else name] = OUT_OF_TIME
        elif why:
            self.left_out[name] = why
            self.reporter.note(f"{name}: {why}")

    def _read_files(self, trial: Trial, model: Model, images: PixelArray) -> None:
        """Measure the best candidates end to end on the files."""
        rows = list(table(self.measured.values(), *self._reference(model), {}))
        purposes = ("fastest", "close", "exact")
        chosen = dict.fromkeys(a.row.candidate for a in advise(rows) if a.purpose in purposes)
        decodings, fast = self._decodings(trial, model.preprocess, images)
        cpus = available_cpus()
        workers = dict.fromkeys((min(cpus, MAX_WORKERS), *(n for n in WORKERS if n <= cpus)))
        readings = tuple(Reading(decode, count) for decode in decodings for count in workers)
        for place, candidate in enumerate(chosen):
            left = self._end() - time.monotonic()
            if left < MIN_SECONDS / 2:
                self.left_out[f"{candidate} from files"] = OUT_OF_TIME
                continue
            result = self.measured[candidate]
            result.read_batch = result.best.batch_size
            reading = replace(
                trial,
                candidate=candidate,
                batch_sizes=(result.read_batch,),
                readings=readings,
                images=fast,
            )
            self._try(reading, result, left / (len(chosen) - place), " from files")

    def _decodings(
        self, trial: Trial, preprocess: Preprocess, images: PixelArray
    ) -> tuple[tuple[Decode, ...], Path]:
        """The values of --decode that give different pixels here, and the file of the last one's
        pixels."""
        fast = replace(preprocess, decode="fast")
        decoded = _decoded(trial.files, fast, FAST_DECODE_SECONDS) if fast.reduces else images
        if np.array_equal(decoded, images):  # too small to be reduced
            return ("exact",), trial.images
        file = trial.images.with_name("fast.npy")
        np.save(file, decoded[: len(images)])
        return (("fast",) if self.job.options.decode == "fast" else ("exact", "fast")), file

    def _reference(self, model: Model) -> tuple[Outputs | None, int]:
        """The outputs of fp32, without a regression's numbers, and the number of columns of the
        embedding."""
        config = model.config
        exact = self.measured.get(Candidate("torch", "fp32"))
        [dim] = model.config.features_shape((config.depth,), config.pool)
        outputs = exact.outputs if exact else None
        if outputs is not None and model.score_function == "none":
            outputs = replace(outputs, values=outputs.values[:, :dim])
        return outputs, dim

    def _result(
        self, model: Model, device: torch.device, source: str, interrupted: int | None
    ) -> Bench:
        job = self.job
        shares = {
            candidate: share_of_limit(model.config, 1.0, self.limits[candidate.precision])
            for candidate in self.measured
        }
        inputs, has_labels = job.on or "photos", bool(model.config.num_classes)
        rows = tuple(
            replace(
                row, command=command_of(row, job.model, job.options, job.device, inputs, has_labels)
            )
            for row in table(self.measured.values(), *self._reference(model), shares)
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

    def _nothing_measured(self) -> VitError:
        """The error if no candidate could be measured, with a reason."""
        for name, why in self.left_out.items():
            if why not in (OUT_OF_TIME, NOT_INSTALLED):
                return VitError(f"nothing could be measured: {name}: {why}")
        return VitError(
            f"nothing could be measured in {self.job.seconds:g} s",
            "give it more time: --seconds 60",
        )

    def _end(self, part: float = 1.0) -> float:
        """The end of a part of the trials, on the monotonic clock."""
        return self.began + self.job.seconds * SHARE_OF_TIME * part


def _paths(on: str, note: Callable[[str], None]) -> tuple[str, ...]:
    """The files to read, spread evenly over the first MAX_LISTED.

    Raises InputError for a folder or pattern without images.
    """
    if on == "-":
        raise UsageError("--on - is a list, but bench reads the files repeatedly", "name a folder")
    opened = sources.open_sources([on], scan=Scan(suffixes("common"), Omissions(note)))
    listed = [ref.path for ref in islice(sources.iter_refs(opened), MAX_LISTED)]
    return tuple(listed[:: max(1, -(-len(listed) // MAX_FILES))])


def _decoded(paths: Sequence[str], preprocess: Preprocess, seconds: float) -> PixelArray:
    """Decode up to MAX_IMAGES images for at most `seconds`.  -> (n, H, W, 3)"""
    until = time.monotonic() + seconds
    step = max(1, len(paths) // MAX_IMAGES)
    refs = [ImageRef(number, path) for number, path in enumerate(paths[::step])]
    images = []
    with closing(iter_decoded(refs, DecodeJob((preprocess,)), available_cpus())) as decoded:
        for item in decoded:
            if isinstance(item, Sample):
                images.append(item.pixels[0])
            if len(images) == MAX_IMAGES or time.monotonic() > until:
                break
    return np.stack(images) if images else np.zeros((0, *preprocess.size, 3), preprocess.dtype)
