"""The options that commands share, each spelled once. `vitcli.cli.options.groups` gathers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.records import Decode


def _option(*names: str, help: str, env: str | None = None, **rest: Any) -> Any:
    return typer.Option(*names, help=help, envvar=env, **rest)


Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUTS...",
        show_default=False,
        help="Files, directories (recursive), tars, zips, URLs, quoted globs and {000..099}, or - "
        "for a list of paths on stdin; where none is given, what is piped in is the list.",
    ),
]
FilesFrom = Annotated[
    str | None,
    _option("--files-from", help="Read paths from FILE, one a line; - is stdin.", metavar="FILE"),
]
Null = Annotated[
    bool, _option("-0", "--null", help="Paths in a list, and those of --paths-only, end with NUL.")
]
FormatsOpt = Annotated[
    Literal["common", "all"],
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
AllowOutside = Annotated[
    bool,
    _option(
        "--allow-outside",
        help="Also open files outside the table's folder, and URLs, that a table or Parquet file "
        "names.",
        env="VIT_ALLOW_OUTSIDE",
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
OnError = Literal["skip", "stop"]
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
        help="Names of the classes: one a line (numbered or not), JSON, or a table.",
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
    Literal["hf", "timm"] | None,
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
Drop = Annotated[
    list[str] | None,
    _option(
        "--drop",
        help="Leave out tensors that are none of the model's, such as 'criterion.*'; repeatable.",
        env="VIT_DROP",
        metavar="PATTERN",
    ),
]
NoExif = Annotated[
    bool,
    _option("--no-exif", help="Do not turn images as EXIF says.", env="VIT_NO_EXIF"),
]
DecodeOpt = Annotated[
    Decode,
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
DevicesOpt = Annotated[
    str | None,
    _option(
        "--devices",
        help="A process for each of several devices: all, or 0,1 of CUDA; then they are merged.",
        env="VIT_DEVICES",
        metavar="all|N,N,...",
    ),
]
RayOpt = Annotated[
    str | None,
    _option(
        "--ray",
        help="Share the run among the workers of a Ray cluster, HOST:PORT, or of this machine; "
        "then they are merged.",
        env="VIT_RAY",
        metavar="[ADDRESS]",
    ),
]
DtypeOpt = Annotated[
    DtypeName,
    _option(
        "--dtype",
        help="Precision; fp32 gives the same numbers everywhere.",
        env="VIT_DTYPE",
    ),
]
EngineOpt = Annotated[
    EngineName,
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
