"""The shared options in groups, each read into one noun: a command's signature is a list of nouns
and what it has of its own. The defaults stand here."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from typer.models import OptionInfo

from vitcli.checkpoints.resolve import WEIGHTS
from vitcli.cli.options.options import (
    AllowOutside,
    BatchSizeOpt,
    Compile,
    DecodeOpt,
    Device,
    DevicesOpt,
    Drop,
    DtypeOpt,
    EngineOpt,
    Ext,
    FilesFrom,
    FormatsOpt,
    Head,
    ImageSize,
    ImageTimeout,
    KeepMissing,
    Labels,
    Layout,
    LogJson,
    MaxErrors,
    MaxPixels,
    NoExif,
    NoProgress,
    Null,
    NumHeads,
    Offline,
    OnErrorOpt,
    Overwrite,
    Paths,
    Preprocess,
    QuantizeOpt,
    Quiet,
    RayOpt,
    Resume,
    RetryFailed,
    Sha256,
    ShardOpt,
    SummaryFile,
    Workers,
)
from vitcli.cli.options.parse import (
    check_number,
    check_paths,
    is_address,
    output_place,
    parse_batch_size,
    parse_devices,
    parse_image_size,
    parse_pixels,
    parse_tolerance,
    parse_workers,
)
from vitcli.cli.screen import report
from vitcli.cli.screen.screen import Screen
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_BATCH_SIZE, Inputs, ModelOptions, Running
from vitcli.records import Limits
from vitcli.runs.shard import Resuming, parse_shard, shard_of_environment

LONGEST_TIMEOUT = 1_000_000  # seconds; what waits for a worker counts milliseconds


def overwrite(overwrite: Overwrite = False) -> bool:
    """Whether an existing output is replaced."""
    return overwrite


def resuming(
    resume: Resume = False,
    retry_failed: RetryFailed = False,
    keep_missing: KeepMissing = False,
    shard: ShardOpt = None,
) -> Resuming:
    """What becomes of an earlier run, and which part of the inputs is ours."""
    return Resuming(
        resume=resume,
        retry_failed=retry_failed,
        keep_missing=keep_missing,
        shard=parse_shard(shard) if shard else shard_of_environment(os.environ),
    )


def reading(
    formats: FormatsOpt = "common",
    ext: Ext = None,
    max_pixels: MaxPixels = "89.5M",
    image_timeout: ImageTimeout = 60.0,
    allow_outside: AllowOutside = False,
) -> Inputs:
    """How the images of a data set are found and read."""
    if image_timeout > LONGEST_TIMEOUT:
        raise UsageError(f"--image-timeout {image_timeout:g}", "give seconds, such as 60")
    return Inputs(
        formats=formats,
        extensions=tuple(ext or ()),
        limits=Limits(parse_pixels(max_pixels), image_timeout),
        allow_outside=allow_outside,
    )


def inputs(
    paths: Paths = None,
    files_from: FilesFrom = None,
    null: Null = False,
    formats: FormatsOpt = "common",
    ext: Ext = None,
    max_pixels: MaxPixels = "89.5M",
    image_timeout: ImageTimeout = 60.0,
    allow_outside: AllowOutside = False,
    max_errors: MaxErrors = None,
    on_error: OnErrorOpt = "skip",
) -> Inputs:
    """Which images."""
    return replace(
        reading(formats, ext, max_pixels, image_timeout, allow_outside),
        paths=check_paths(paths, files_from),
        is_implied=not paths and files_from is None,
        files_from=files_from,
        null=null,
        tolerance=parse_tolerance(max_errors, on_error),
    )


def model_options(
    layout: Layout = None,
    labels: Labels = None,
    image_size: ImageSize = None,
    preprocess: Preprocess = None,
    num_heads: NumHeads = None,
    head: Head = None,
    sha256: Sha256 = None,
    drop: Drop = None,
    no_exif: NoExif = False,
    decode: DecodeOpt = "exact",
    offline: Offline = False,
) -> ModelOptions:
    """What overrides the checkpoint's own word."""
    return ModelOptions(
        layout=layout,
        labels=labels,
        image_size=parse_image_size(image_size),
        preprocess=preprocess,
        num_heads=num_heads,
        head=head,
        sha256=sha256,
        drop=tuple(drop or ()),
        exif=not no_exif,
        decode=decode,
        offline=offline,
    )


def running(
    device: Device = "auto",
    dtype: DtypeOpt = "fp32",
    engine: EngineOpt = "torch",
    quantize: QuantizeOpt = None,
    compile: Compile = False,
    batch_size: BatchSizeOpt = str(DEFAULT_BATCH_SIZE),
    workers: Workers = "auto",
) -> Running:
    """On what, and how much at a time."""
    return Running(
        device=device,
        dtype=dtype,
        engine=engine,
        quantize=quantize,
        compile=compile,
        batch_size=parse_batch_size(batch_size),
        workers=parse_workers(workers),
    )


def devices(devices: DevicesOpt = None) -> tuple[str, ...]:
    """Which devices share the run; none where it is this process alone."""
    return parse_devices(devices) if devices else ()


def ray(ray: RayOpt = None) -> str | None:
    """The address of the Ray cluster that shares the run; None where none does."""
    if ray and not is_address(ray):
        raise UsageError(f"--ray {ray}", "give HOST:PORT, ray://HOST:PORT, local, or nothing")
    return ray or None


def screen(
    quiet: Quiet = False,
    no_progress: NoProgress = False,
    log_json: LogJson = False,
    summary: SummaryFile = None,
) -> Screen:
    """What is told of the run."""
    return Screen(quiet=quiet, progress=not no_progress, log_json=log_json, report=summary)


@dataclass(frozen=True, slots=True)
class WithData:
    """The options of a command that takes labelled images, read."""

    inputs: Inputs
    model: ModelOptions
    running: Running
    screen: Screen


@dataclass(frozen=True, slots=True)
class Common:
    """The options of a command that takes images, read: one noun for each group of them."""

    overwrite: bool
    inputs: Inputs
    model: ModelOptions
    running: Running
    screen: Screen
    resuming: Resuming = Resuming()
    devices: tuple[str, ...] = ()
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.inputs.is_implied:  # before it is read: a pipe may have nobody at its other end
            self.screen.note("no images are named: reading the list of paths on standard input")


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first argument is `Common`, spelled with all the shared options."""
    return _spelled(command, (overwrite, inputs, model_options, running, screen), Common)


def with_resuming(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_common`, for a command whose output a later run can take up."""
    groups = (overwrite, inputs, model_options, running, screen, resuming)
    return _spelled(command, groups, Common)


def with_devices(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_resuming`, for a command that several devices may share."""

    @functools.wraps(command)
    def shared(common: Common, **values: Any) -> None:
        left: Common | None = common
        if common.devices and common.ray:
            raise UsageError("--devices is for one machine, --ray for a cluster", "use one")
        if common.devices:
            from vitcli.cli.devices import spread

            left = spread(common, sys.argv[1:], output_place(values["out"]))
        if left is not None:
            command(left, **values)

    groups = (overwrite, inputs, model_options, running, screen, resuming, devices, ray)
    return _spelled(shared, groups, Common)


def with_data(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first argument is `WithData`, spelled with all its options."""
    return _spelled(command, (reading, model_options, running, screen), WithData)


def spelled_with(
    *groups: Callable[..., object],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `with_data`, with groups of options of the command's own."""
    return lambda command: _spelled(command, groups, WithData)


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first argument is `ModelOptions`, spelled with those options."""
    return _spelled(command, (model_options,), lambda options: options)


def _spelled(
    command: Callable[..., None],
    groups: Sequence[Callable[..., object]],
    gather: Callable[..., object],
) -> Callable[..., None]:
    """A command whose first argument is what `gather` makes of the groups of shared options.

    Typer reads a signature: this writes the one that holds them all, so that the options of
    every command are declared once. A mistake is found before anything is imported or loaded.
    """
    shared = [inspect.signature(group, eval_str=True).parameters for group in groups]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def spelled(**values: Any) -> None:
        for name, value in values.items():
            check_number(name, value)
        read = [
            group(**{name: values.pop(name) for name in names})
            for group, names in zip(groups, shared, strict=True)
        ]
        gathered = gather(*read)
        if isinstance(gathered, Common | WithData):
            _check_summary(gathered, values)
        command(gathered, **values)

    declared = [*own, *(parameter for group in shared for parameter in group.values())]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in sorted(declared, key=_is_option)  # arguments first
    ]
    spelled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled.__annotations__ = {p.name: p.annotation for p in parameters}
    del spelled.__wrapped__  # it would be asked for its signature
    return spelled


def _check_summary(common: Common | WithData, values: Mapping[str, object]) -> None:
    """Raises OutputError for a report in the place of a file of its run."""
    if common.screen.report is None:
        return
    from vitcli.jobs.apart import read_of_inputs, read_of_model, read_of_options

    out, html = values.get("out"), values.get("html")
    place = output_place(out) if isinstance(out, str) else out  # as a Path it is a folder
    place = place if isinstance(place, Path) else None
    if place is not None and isinstance(common, Common) and common.resuming.shard is not None:
        place = common.resuming.shard.named(place)
    models = values.get("model") or ()
    folders = [Path(str(model)) for model in ([models] if isinstance(models, str) else models)]  # type: ignore[attr-defined]  # typer's list
    named = {name: Path(v) for name, v in values.items() if isinstance(v, str | Path)}
    read = chain(
        read_of_inputs(common.inputs),
        read_of_options({"labels": common.model.labels, "head": common.model.head}),
        read_of_options({name: v for name, v in named.items() if name not in ("out", "html")}),
        read_of_model([path / WEIGHTS[0] if path.is_dir() else path for path in folders]),
    )
    report.check_apart(common.screen.report, place, html if isinstance(html, Path) else None, read)


def _is_option(parameter: inspect.Parameter) -> bool:
    return isinstance(get_args(parameter.annotation)[1], OptionInfo)
