"""The shared options and their defaults, in groups. A function reads each group into one object; a
command takes these objects and its own options."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from typer.models import OptionInfo

from vitcli.checkpoints.resolve import WEIGHTS
from vitcli.cli.options import options as o
from vitcli.cli.options.declare import as_hidden
from vitcli.cli.options.parse import (
    check_number,
    check_paths,
    is_address,
    output_place,
    parse_batch_size,
    parse_devices,
    parse_merging,
    parse_pixels,
    parse_size,
    parse_tolerance,
    parse_workers,
)
from vitcli.cli.options.texts import texts
from vitcli.cli.options.words import words
from vitcli.cli.screen import report
from vitcli.cli.screen.screen import Screen
from vitcli.errors import InputError, UsageError
from vitcli.jobs.job import DEFAULT_BATCH_SIZE, Inputs, ModelOptions, Running
from vitcli.jobs.texts import Texts
from vitcli.jobs.words import Words
from vitcli.records import Limits
from vitcli.runs.shard import Resuming, parse_shard, shard_of_environment

MAX_TIMEOUT = 1_000_000  # seconds; poll takes milliseconds as 32 bits


def overwrite(overwrite: o.Overwrite = False) -> bool:
    """Whether to replace an existing output."""
    return overwrite


def resuming(
    resume: o.Resume = False,
    retry_failed: o.RetryFailed = False,
    keep_missing: o.KeepMissing = False,
    shard: o.ShardOpt = None,
) -> Resuming:
    """How to treat an earlier run, and which shard of the inputs to process."""
    return Resuming(
        resume=resume,
        retry_failed=retry_failed,
        keep_missing=keep_missing,
        shard=parse_shard(shard) if shard else shard_of_environment(os.environ),
    )


def reading(
    formats: o.FormatsOpt = "common",
    ext: o.Ext = None,
    max_pixels: o.MaxPixels = "89.5M",
    image_timeout: o.ImageTimeout = 60.0,
    allow_outside: o.AllowOutside = False,
) -> Inputs:
    """How to find and read the images of a data set."""
    if image_timeout > MAX_TIMEOUT:
        raise UsageError(
            f"--image-timeout {image_timeout:g} is too long", "give seconds, such as 60"
        )
    return Inputs(
        formats=formats,
        extensions=tuple(ext or ()),
        limits=Limits(parse_pixels(max_pixels), image_timeout),
        allow_outside=allow_outside,
    )


def inputs(
    paths: o.Paths = None,
    files_from: o.FilesFrom = None,
    null: o.Null = False,
    formats: o.FormatsOpt = "common",
    ext: o.Ext = None,
    max_pixels: o.MaxPixels = "89.5M",
    image_timeout: o.ImageTimeout = 60.0,
    allow_outside: o.AllowOutside = False,
    max_errors: o.MaxErrors = None,
    on_error: o.OnErrorOpt = "skip",
) -> Inputs:
    """Which images to read, and how."""
    return replace(
        reading(formats, ext, max_pixels, image_timeout, allow_outside),
        paths=check_paths(paths, files_from),
        is_implied=not paths and files_from is None,
        files_from=files_from,
        null=null,
        tolerance=parse_tolerance(max_errors, on_error),
    )


def queries(
    paths: o.Queries = None,
    files_from: o.FilesFrom = None,
    null: o.Null = False,
    formats: o.FormatsOpt = "common",
    ext: o.Ext = None,
    max_pixels: o.MaxPixels = "89.5M",
    image_timeout: o.ImageTimeout = 60.0,
    allow_outside: o.AllowOutside = False,
    max_errors: o.MaxErrors = None,
    on_error: o.OnErrorOpt = "skip",
) -> Inputs:
    """Which images to search for, perhaps none: standard input is read only if it is named."""
    return replace(
        reading(formats, ext, max_pixels, image_timeout, allow_outside),
        paths=check_paths(paths, files_from) if paths or files_from is not None else (),
        files_from=files_from,
        null=null,
        tolerance=parse_tolerance(max_errors, on_error),
    )


def model_options(
    layout: o.Layout = None,
    labels: o.Labels = None,
    image_size: o.ImageSize = None,
    patch_size: o.PatchSize = None,
    max_patches: o.MaxPatches = None,
    preprocess: o.Preprocess = None,
    num_heads: o.NumHeads = None,
    head: o.Head = None,
    sha256: o.Sha256 = None,
    drop: o.Drop = None,
    no_exif: o.NoExif = False,
    decode: o.DecodeOpt = "exact",
    offline: o.Offline = False,
) -> ModelOptions:
    """How to read the checkpoint: options that override its own settings."""
    return ModelOptions(
        layout=layout,
        labels=labels,
        image_size=parse_size("--image-size", image_size),
        patch_size=parse_size("--patch-size", patch_size),
        max_patches=max_patches,
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
    device: o.Device = "auto",
    dtype: o.DtypeOpt = "fp32",
    engine: o.EngineOpt = "torch",
    quantize: o.QuantizeOpt = None,
    compile: o.Compile = False,
    merge_tokens: o.MergeTokensOpt = "0",
    batch_size: o.BatchSizeOpt = str(DEFAULT_BATCH_SIZE),
    workers: o.Workers = "auto",
) -> Running:
    """How to run the model: device, precision, batches."""
    return Running(
        device=device,
        dtype=dtype,
        engine=engine,
        quantize=quantize,
        compile=compile,
        merge_tokens=parse_merging(merge_tokens),
        batch_size=parse_batch_size(batch_size),
        workers=parse_workers(workers),
    )


def querying(
    device: o.Device = "auto",
    batch_size: o.BatchSizeOpt = str(DEFAULT_BATCH_SIZE),
    workers: o.Workers = "auto",
) -> Running:
    """How to run the model of an index: its engine and precision are those of the index."""
    return Running(
        device=device, batch_size=parse_batch_size(batch_size), workers=parse_workers(workers)
    )


def devices(devices: o.DevicesOpt = None) -> tuple[str, ...]:
    """The devices that share the run; empty if this process runs alone."""
    return parse_devices(devices) if devices else ()


def ray(ray: o.RayOpt = None) -> str | None:
    """The address of the Ray cluster that shares the run, or None."""
    if ray and not is_address(ray):
        raise UsageError(
            f"--ray {ray} is not an address", "give HOST:PORT, ray://HOST:PORT, local, or nothing"
        )
    return ray or None


def screen(
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
    log_json: o.LogJson = False,
    summary: o.SummaryFile = None,
) -> Screen:
    """How to report on the run."""
    return Screen(quiet=quiet, progress=not no_progress, log_json=log_json, report=summary)


@dataclass(frozen=True, slots=True)
class WithData:
    """The shared options of a command that takes labelled images."""

    inputs: Inputs
    model: ModelOptions
    running: Running
    screen: Screen
    words: Words | None = None


@dataclass(frozen=True, slots=True)
class Common:
    """The shared options of a command that takes images, one field for each group."""

    overwrite: bool
    inputs: Inputs
    model: ModelOptions
    running: Running
    screen: Screen
    resuming: Resuming = Resuming()
    devices: tuple[str, ...] = ()
    ray: str | None = None
    words: Words | None = None
    texts: Texts | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other processes run the model."""
        return self.ray is not None or len(self.devices) > 1

    def __post_init__(self) -> None:
        if self.inputs.is_implied and self.texts is None:
            if not self.inputs.paths:
                raise UsageError(
                    "no images are given", "name files or directories, or - for a list on stdin"
                )
            # Before reading: a pipe may stay silent.
            self.screen.note("no images are given: reading a list of paths from standard input")


def adapted(
    group: Callable[..., object],
    *,
    without: Sequence[str] = (),
    hidden: Sequence[str] = (),
    **others: object,
) -> Callable[..., object]:
    """A group for a command that leaves out some of its options, which would do nothing there, and
    hides others, whose values the command refuses by name. `others` replace declarations."""
    signature = inspect.signature(group, eval_str=True)
    parameters = []
    for name, parameter in signature.parameters.items():
        annotation = others.get(name, parameter.annotation)
        if name in hidden:
            annotation = as_hidden(annotation)
        if name not in without:
            parameters.append(parameter.replace(annotation=annotation))

    def read(**values: Any) -> object:
        return group(**values)

    read.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return read


# A masked autoencoder has no classifier, and reconstructs in fp32 on PyTorch.
RECONSTRUCTED = adapted(model_options, without=("labels", "head", "max_patches"))
IN_FP32 = adapted(running, hidden=("dtype", "engine", "quantize", "compile", "merge_tokens"))
WITHOUT_HEAD = adapted(model_options, without=("labels", "head"))


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command that draws with PyTorch; its first argument is a
    `Common`."""
    return _spelled(command, (overwrite, inputs, RECONSTRUCTED, IN_FP32, screen), Common)


def with_resuming(command: Callable[..., None]) -> Callable[..., None]:
    """Like `with_common`, for a command that can resume."""
    on_torch = adapted(running, hidden=("engine", "merge_tokens"))
    groups = (overwrite, inputs, model_options, on_torch, screen, resuming)
    return _spelled(command, groups, Common)


def with_words(command: Callable[..., None]) -> Callable[..., None]:
    """Like `with_resuming`, for a command that takes classes in words, writes paths, and that
    several devices can share."""
    of_paths = adapted(inputs, null=o.NullInAndOut)
    groups = (overwrite, of_paths, model_options, running, screen, resuming, devices, ray, words)
    return _spelled(command, groups, Common)


def with_texts(command: Callable[..., None]) -> Callable[..., None]:
    """Like `with_words`, for a command that takes texts and needs no classifier."""
    groups = (overwrite, inputs, WITHOUT_HEAD, running, screen, resuming, devices, ray, texts)

    def gather(*read: Any) -> Common:
        *shared, given = read
        return Common(*shared, **{"texts": given})

    return _spelled(command, groups, gather)


def with_queries(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that takes images as queries; its first argument is `Common`,
    whose model has the default options: an index knows those of its model."""

    def gather(
        overwrite: bool, inputs: Inputs, running: Running, screen: Screen, ray: str | None
    ) -> Common:
        return Common(overwrite, inputs, ModelOptions(), running, screen, ray=ray)

    of_paths = adapted(queries, null=o.NullInAndOut)
    return _spelled(command, (overwrite, of_paths, querying, screen, ray), gather)


def with_data(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command on labelled images; its first argument is `WithData`."""
    return _spelled(command, (reading, model_options, running, screen, words), WithData)


def spelled_with(
    *groups: Callable[..., object],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Like `with_data`, with the given groups of options."""
    return lambda command: _spelled(command, groups, WithData)


@dataclass(frozen=True, slots=True)
class Reading:
    """The shared options of a command that reads an index and its images."""

    inputs: Inputs
    screen: Screen
    overwrite: bool


def spelled_as(
    *groups: Callable[..., object],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the given groups of options to a command, whose first argument is a `Reading`."""
    return lambda command: _spelled(command, groups, Reading)


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the model's options to a command, whose first argument is a `ModelOptions`."""
    return _spelled(command, (model_options,), lambda options: options)


def with_screen(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the screen to a command, whose first argument is a `Screen`."""
    return _spelled(command, (screen,), lambda screen: screen)


def _spelled(
    command: Callable[..., None],
    groups: Sequence[Callable[..., object]],
    gather: Callable[..., object],
) -> Callable[..., None]:
    """Add the options of `groups` to a command. `gather` turns the values of the groups into the
    command's first argument.

    Typer reads the options from a signature. This function builds a signature from the command's
    own options and those of the groups, so that each shared option is declared once. It finds
    mistakes before anything is imported or loaded.
    """
    shared = [_parameters(group) for group in groups]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def spelled(**values: Any) -> None:
        for name, value in values.items():
            check_number(name, value)
        read = [
            group(**{name: values.pop(name) for name in names})
            for group, names in zip(groups, shared, strict=True)
        ]
        gathered: Any = gather(*read)
        if isinstance(gathered, Common | WithData):
            _check_null(gathered.inputs, values)
            _check_summary(gathered, values)
        if "index" in values:
            screen = gathered if isinstance(gathered, Screen) else gathered.screen
            screen.doing("reading the index")
            _check_summary_of_index(screen.report, values)
        command(gathered, **values)

    declared = [*own, *(parameter for group in shared for parameter in group.values())]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in sorted(declared, key=_is_option)  # arguments first
    ]
    spelled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled.__annotations__ = {p.name: p.annotation for p in parameters}
    del spelled.__wrapped__  # inspect.signature would prefer it
    return spelled


@functools.cache
def _parameters(group: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The options of a group: read once, for many commands have it."""
    return inspect.signature(group, eval_str=True).parameters


def _check_null(inputs: Inputs, values: Mapping[str, object]) -> None:
    """Raise UsageError for `-0` if the run neither reads a list of paths nor writes one."""
    writes_paths = bool(values.get("paths_only"))
    if inputs.null and not (inputs.has_stdin or inputs.files_from or writes_paths):
        others = " or --paths-only" if "paths_only" in values else ""
        raise UsageError(f"-0 has no effect without a list of paths{others}", "leave it out")


def _check_summary(common: Common | WithData, values: Mapping[str, object]) -> None:
    """Raise OutputError if --summary names a file that the run reads or writes."""
    if common.screen.report is None:
        return
    from vitcli.jobs.apart import read_of_inputs, read_of_model, read_of_options

    models, out, html = values.get("model"), values.get("out"), values.get("html")
    place = output_place(out) if isinstance(out, str) else out  # a folder is a Path already
    if isinstance(place, Path) and isinstance(common, Common) and common.resuming.shard:
        place = common.resuming.shard.named(place)
    specs = [Path(str(spec)) for spec in (models if isinstance(models, list) else [models])]
    own = {name: Path(value) for name, value in values.items() if isinstance(value, str | Path)}
    options: dict[str, object] = {**own, "labels": common.model.labels, "head": common.model.head}
    options["words"] = common.words
    if isinstance(common, Common):
        options["texts"] = common.texts
    report.check_apart(
        common.screen.report,
        [path for path in (place, html) if isinstance(path, Path)],
        chain(
            read_of_inputs(common.inputs),
            read_of_options({k: v for k, v in options.items() if k not in ("out", "html")}),
            read_of_model([path / WEIGHTS[0] if path.is_dir() else path for path in specs]),
        ),
    )


def _check_summary_of_index(place: Path | None, values: Mapping[str, object]) -> None:
    """Raise OutputError if --summary names a file of the index, or another that the run reads or
    writes."""
    if place is None:
        return
    from vitcli.jobs.of_index import read_of_index

    lists = (values["index"], values.get("more") or [])
    specs = [str(one) for many in lists for one in (many if isinstance(many, list) else [many])]
    tables = (values.get(name) for name in ("like_pairs", "color", "vectors"))
    read = [(Path(str(table)), "read by this run") for table in tables if table is not None]
    with suppress(InputError):  # the run itself tells that a file is missing
        read += read_of_index(specs)
    outputs = (values.get(name) for name in ("out", "html"))
    report.check_apart(place, [Path(str(out)) for out in outputs if out is not None], read)


def _is_option(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is an option; an argument and the context are not."""
    return any(isinstance(part, OptionInfo) for part in get_args(parameter.annotation))
