"""The options that commands share, each spelled once. A command's signature reads as a list of
nouns; the defaults stand there."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from vitcli.cli.screen import Screen
from vitcli.errors import UsageError
from vitcli.records import Limits
from vitcli.runs.asked import Resuming, parse_shard, shard_of_environment
from vitcli.tasks.job import DEFAULT_BATCH_SIZE, BatchSize, Inputs, ModelOptions, Running
from vitcli.tasks.tolerance import Tolerance


class Preprocessing(StrEnum):
    HF = "hf"
    TIMM = "timm"


class Formats(StrEnum):
    COMMON = "common"
    ALL = "all"


class Decoding(StrEnum):
    EXACT = "exact"
    FAST = "fast"


class OnError(StrEnum):
    SKIP = "skip"
    STOP = "stop"


class Dtype(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    AUTO = "auto"


class Engine(StrEnum):
    TORCH = "torch"
    OPENVINO = "openvino"
    ONNX = "onnx"


class Quantize(StrEnum):
    INT8 = "int8"


def _option(*names: str, help: str, env: str | None = None, **rest: Any) -> Any:
    return typer.Option(*names, help=help, envvar=env, **rest)


STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def output_file(out: Path | None) -> Path | None:
    """None for standard output, under whatever name: a file behind it is written on, as the shell
    has opened it, and not replaced."""
    return None if str(out) in STANDARD_OUTPUT else out


Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUTS...",
        show_default=False,
        help="Files, directories (recursive), quoted globs, or - for a list of paths on stdin.",
    ),
]
FilesFrom = Annotated[
    str | None,
    _option("--files-from", help="Read paths from FILE, one a line.", metavar="FILE"),
]
Null = Annotated[
    bool, _option("-0", "--null", help="Paths in a list, and those of --paths-only, end with NUL.")
]
FormatsOpt = Annotated[
    Formats,
    _option("--formats", help="Image formats that are opened.", env="VIT_FORMATS"),
]
Ext = Annotated[
    list[str] | None,
    _option(
        "--ext",
        help="Suffix to take from directories, instead of the usual ones; repeatable.",
        metavar="EXT",
    ),
]
MaxPixels = Annotated[
    str,
    _option(
        "--max-pixels",
        help="Refuse images of more pixels, such as 89.5M.",
        env="VIT_MAX_PIXELS",
        metavar="N",
    ),
]
ImageTimeout = Annotated[
    float,
    _option(
        "--image-timeout",
        help="Seconds one image may take to decode.",
        env="VIT_IMAGE_TIMEOUT",
        min=0.001,
        metavar="SECONDS",
    ),
]

MaxErrors = Annotated[
    str | None,
    _option(
        "--max-errors",
        help="Stop when more images than N, or more than P% of them, have failed.",
        env="VIT_MAX_ERRORS",
        metavar="N|P%",
    ),
]
OnErrorOpt = Annotated[
    OnError,
    _option(
        "--on-error",
        help="skip goes on, with a row that says why; stop ends at the first image that fails.",
        env="VIT_ON_ERROR",
    ),
]

MODEL_HELP = "Hub id (org/name, org/name@revision), directory, weight file, or demo."
ModelSpec = Annotated[
    str, _option("-m", "--model", help=MODEL_HELP, env="VIT_MODEL", metavar="MODEL")
]
ModelSpecs = Annotated[
    list[str],
    _option(
        "-m",
        "--model",
        help=f"{MODEL_HELP} Several are averaged.",
        env="VIT_MODEL",
        metavar="MODEL",
    ),
]
Layout = Annotated[
    str | None,
    _option("--layout", help="Naming scheme of the tensors, where it is not recognised."),
]
Labels = Annotated[
    Path | None,
    _option(
        "--labels",
        help="Names of the classes: one a line, or JSON.",
        env="VIT_LABELS",
        metavar="FILE",
    ),
]
ImageSize = Annotated[
    str | None,
    _option(
        "--image-size",
        help="Run at N or HxW pixels; position embeddings are interpolated.",
        env="VIT_IMAGE_SIZE",
        metavar="N|HxW",
    ),
]
Preprocess = Annotated[
    Preprocessing | None,
    _option(
        "--preprocess",
        help="Preprocess as this library does, whatever the checkpoint says.",
        env="VIT_PREPROCESS",
    ),
]
NumHeads = Annotated[
    int | None,
    _option("--num-heads", help="Attention heads, where a bare file does not tell.", min=1),
]
Head = Annotated[
    Path | None,
    _option(
        "--head",
        help="A linear classifier in a file of its own, as DINO's linearweights.pth.",
        metavar="FILE",
    ),
]
Sha256 = Annotated[
    str | None,
    _option("--sha256", help="Refuse weights that do not have this hash.", metavar="HEX"),
]
NoExif = Annotated[
    bool,
    _option("--no-exif", help="Do not turn images as EXIF says.", env="VIT_NO_EXIF"),
]
Decode = Annotated[
    Decoding,
    _option(
        "--decode",
        help="fast reads large pictures at a fraction of their size: close pixels, not equal ones.",
        env="VIT_DECODE",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, envvar="VIT_MODEL")]
Json = Annotated[bool, _option("--json", help="Print JSON.")]
Offline = Annotated[bool, _option("--offline", help="Never touch the network.", env="VIT_OFFLINE")]

Device = Annotated[
    str,
    _option("--device", help="auto, cpu, cuda, cuda:N or mps.", env="VIT_DEVICE"),
]
DtypeOpt = Annotated[
    Dtype,
    _option(
        "--dtype",
        help="Precision; fp32 gives the same numbers everywhere.",
        env="VIT_DTYPE",
    ),
]
EngineOpt = Annotated[
    Engine,
    _option(
        "--engine",
        help="What runs the model; openvino and onnx are extras, for CPUs.",
        env="VIT_ENGINE",
    ),
]
Compile = Annotated[
    bool, _option("--compile", help="torch.compile, for long runs on a GPU.", env="VIT_COMPILE")
]
QuantizeOpt = Annotated[
    Quantize | None,
    _option(
        "--quantize",
        help="Matrix products on bytes: faster, and nearly the same numbers.",
        env="VIT_QUANTIZE",
        show_default=False,
    ),
]
BatchSizeOpt = Annotated[
    str,
    _option(
        "-b",
        "--batch-size",
        help="Images at a time; auto grows for as long as that is faster.",
        env="VIT_BATCH_SIZE",
        metavar="N|auto",
    ),
]
Workers = Annotated[
    str,
    _option(
        "-j",
        "--workers",
        help="Processes that decode, or auto; 0 decodes in the main one.",
        env="VIT_WORKERS",
        metavar="N|auto",
    ),
]
Quiet = Annotated[
    bool,
    _option("-q", "--quiet", help="No progress, notes or summary.", env="VIT_QUIET"),
]
NoProgress = Annotated[
    bool, _option("--no-progress", help="No progress bar.", env="VIT_NO_PROGRESS")
]

LogJson = Annotated[
    bool,
    _option("--log-json", help="Progress, notes and summary as JSON lines.", env="VIT_LOG_JSON"),
]
SummaryFile = Annotated[
    Path | None,
    _option(
        "--summary",
        help="Write counts, speed, failures by kind and exit code to FILE, as JSON.",
        env="VIT_SUMMARY",
        metavar="FILE",
    ),
]

Overwrite = Annotated[
    bool,
    _option("--overwrite", help="Replace an existing output.", env="VIT_OVERWRITE"),
]


Resume = Annotated[
    bool,
    _option(
        "--resume",
        help="Go on with an interrupted run; of a finished one, do only new and changed images.",
        env="VIT_RESUME",
    ),
]
RetryFailed = Annotated[
    bool,
    _option(
        "--retry-failed",
        help="With --resume: try the images again that had failed.",
        env="VIT_RETRY_FAILED",
    ),
]
KeepMissing = Annotated[
    bool,
    _option(
        "--keep-missing",
        help="With --resume: keep the rows of images that are gone.",
        env="VIT_KEEP_MISSING",
    ),
]
ShardOpt = Annotated[
    str | None,
    _option(
        "--shard",
        help="Do part I of N only, into FILE-0000I-of-0000N; vit merge joins them.",
        env="VIT_SHARD",
        metavar="I/N",
    ),
]


Html = Annotated[
    Path | None,
    _option(
        "--html",
        help="Write a page to look through, of one file that needs no network.",
        metavar="FILE",
    ),
]


def parse_pixels(text: str) -> int:
    """`89.5M`, `2e6`, `1G` -> a number of pixels."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kMG]?)", text.strip())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise UsageError(f"--max-pixels {text}", "give a number such as 89.5M")
    return int(number * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """`384` or `224x160` (height x width) -> (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", text.strip())
    if match is None or "0" in (match[1].lstrip("0") or "0", (match[2] or "1").lstrip("0") or "0"):
        raise UsageError(f"--image-size {text}", "give a number, or HEIGHTxWIDTH such as 224x160")
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def parse_batch_size(text: str) -> BatchSize:
    """`auto`, or a number."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UsageError(f"--batch-size {text}", "give a number of images, or auto")
    return int(text)


def parse_workers(text: str) -> int | None:
    """`auto` -> None, or a number."""
    if text == "auto":
        return None
    if not text.isdigit():
        raise UsageError(f"--workers {text}", "give a number of processes, or auto")
    return int(text)


def parse_layers(text: str) -> tuple[int, ...]:
    """`3,6,-1` -> (3, 6, -1)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--layers {text}", "give numbers such as 3,6,-1") from None


def parse_tolerance(max_errors: str | None, on_error: OnError) -> Tolerance:
    """Stopping at the first failure is to bear none."""
    if on_error is OnError.STOP and max_errors is not None:
        raise UsageError("--max-errors and --on-error stop contradict each other", "use one")
    if on_error is OnError.STOP:
        return Tolerance(count=0)
    return Tolerance.parse(max_errors) if max_errors is not None else Tolerance()


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
    formats: FormatsOpt = Formats.COMMON,
    ext: Ext = None,
    max_pixels: MaxPixels = "89.5M",
    image_timeout: ImageTimeout = 60.0,
) -> Inputs:
    """How the images of a data set are found and read."""
    return Inputs(
        formats=formats.value,
        extensions=tuple(ext or ()),
        limits=Limits(parse_pixels(max_pixels), image_timeout),
    )


def inputs(
    paths: Paths = None,
    files_from: FilesFrom = None,
    null: Null = False,
    formats: FormatsOpt = Formats.COMMON,
    ext: Ext = None,
    max_pixels: MaxPixels = "89.5M",
    image_timeout: ImageTimeout = 60.0,
    max_errors: MaxErrors = None,
    on_error: OnErrorOpt = OnError.SKIP,
) -> Inputs:
    """Which images."""
    return replace(
        reading(formats, ext, max_pixels, image_timeout),
        paths=check_paths(paths, files_from),
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
    no_exif: NoExif = False,
    decode: Decode = Decoding.EXACT,
    offline: Offline = False,
) -> ModelOptions:
    """What overrides the checkpoint's own word."""
    return ModelOptions(
        layout=layout,
        labels=labels,
        image_size=parse_image_size(image_size),
        preprocess=preprocess.value if preprocess else None,
        num_heads=num_heads,
        head=head,
        sha256=sha256,
        exif=not no_exif,
        decode=decode.value,
        offline=offline,
    )


def running(
    device: Device = "auto",
    dtype: DtypeOpt = Dtype.FP32,
    engine: EngineOpt = Engine.TORCH,
    quantize: QuantizeOpt = None,
    compile: Compile = False,
    batch_size: BatchSizeOpt = str(DEFAULT_BATCH_SIZE),
    workers: Workers = "auto",
) -> Running:
    """On what, and how much at a time."""
    return Running(
        device=device,
        dtype=dtype.value,
        engine=engine.value,
        quantize=quantize.value if quantize else None,
        compile=compile,
        batch_size=parse_batch_size(batch_size),
        workers=parse_workers(workers),
    )


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


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first argument is `Common`, spelled with all the shared options."""
    return _spelled(command, (overwrite, inputs, model_options, running, screen), Common)


def with_resuming(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_common`, for a command whose output a later run can take up."""
    groups = (overwrite, inputs, model_options, running, screen, resuming)
    return _spelled(command, groups, Common)


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
        read = [
            group(**{name: values.pop(name) for name in names})
            for group, names in zip(groups, shared, strict=True)
        ]
        command(gather(*read), **values)

    declared = [*own, *(parameter for group in shared for parameter in group.values())]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in sorted(declared, key=_is_option)  # arguments first
    ]
    spelled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled.__annotations__ = {p.name: p.annotation for p in parameters}
    del spelled.__wrapped__  # it would be asked for its signature
    return spelled


def _is_option(parameter: inspect.Parameter) -> bool:
    return isinstance(get_args(parameter.annotation)[1], OptionInfo)


def check_paths(paths: list[str] | None, files_from: str | None) -> tuple[str, ...]:
    """There must be something to read, and a terminal is no list of paths."""
    if not paths and files_from is None:
        raise UsageError(
            "no images are given", "name files or directories, or - for a list on stdin"
        )
    if "-" in (paths or ()) and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "paths expected on stdin", "pipe them in: find photos -name '*.jpg' | vit ... -"
        )
    return tuple(paths or ())
