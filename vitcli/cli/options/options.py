"""The options that commands share, each declared once. `groups` combines them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.jobs.job import DEFAULT_MODEL
from vitcli.records import Decode


def _option(*names: str, help: str, env: str | None = None, **rest: Any) -> Any:
    return typer.Option(*names, help=help, envvar=env, **rest)


Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUTS...",
        show_default=False,
        help="Files, folders (recursive), tars, zips, URLs, quoted globs and {000..099}. With -, "
        "or without arguments in a pipe, paths are read from stdin.",
    ),
]
Queries = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGES...",
        show_default=False,
        help="Images to search for: files, folders, archives, URLs, quoted globs. With -, paths "
        "are read from stdin.",
    ),
]
FilesFrom = Annotated[
    str | None,
    _option("--files-from", help="Read paths from FILE, one per line; - is stdin.", metavar="FILE"),
]
Null = Annotated[
    bool,
    _option(
        "-0",
        "--null",
        help="Paths end with NUL instead of newline, in input lists and with --paths-only.",
    ),
]
FormatsOpt = Annotated[
    Literal["common", "all"],
    _option(
        "--formats",
        help="Image formats to open: the common ones, or all that Pillow knows.",
        env="VIT_FORMATS",
    ),
]
Ext = Annotated[
    list[str] | None,
    _option(
        "--ext",
        help="Take files with this suffix from folders, instead of all images; repeatable.",
        metavar="EXT",
    ),
]
AllowOutside = Annotated[
    bool,
    _option(
        "--allow-outside",
        help="Let a table or Parquet file name URLs, and files outside its own folder.",
        env="VIT_ALLOW_OUTSIDE",
    ),
]
MaxPixels = Annotated[
    str,
    _option(
        "--max-pixels",
        help="Refuse images with more than N pixels.",
        env="VIT_MAX_PIXELS",
        metavar="N",
    ),
]
ImageTimeout = Annotated[
    float,
    _option(
        "--image-timeout",
        help="Time limit for decoding one image.",
        env="VIT_IMAGE_TIMEOUT",
        min=0.001,
        metavar="SECONDS",
    ),
]

MaxErrors = Annotated[
    str | None,
    _option(
        "--max-errors",
        help="Stop when more than N images, or more than P% of them, have failed.",
        env="VIT_MAX_ERRORS",
        metavar="N|P%",
    ),
]
OnError = Literal["skip", "stop"]
OnErrorOpt = Annotated[
    OnError,
    _option(
        "--on-error",
        help="After a failed image: skip writes a row with the reason, stop ends the run.",
        env="VIT_ON_ERROR",
    ),
]

MODEL_HELP = "Hub id (org/name, org/name@revision), folder, weight file, or demo."
ModelSpec = Annotated[
    str, _option("-m", "--model", help=MODEL_HELP, env="VIT_MODEL", metavar="MODEL")
]
DEFAULT_MODELS = [DEFAULT_MODEL]
ModelSpecs = Annotated[
    list[str],
    _option(
        "-m",
        "--model",
        help=f"{MODEL_HELP} Repeat -m to average several models.",
        env="VIT_MODEL",
        metavar="MODEL",
    ),
]
Layout = Annotated[
    str | None,
    _option("--layout", help="Naming scheme of the tensors, if vit does not recognise the scheme."),
]
Labels = Annotated[
    Path | None,
    _option(
        "--labels",
        help="Class names: one per line (numbered or not), JSON, or a table.",
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
PatchSize = Annotated[
    str | None,
    _option(
        "--patch-size",
        help="Run on patches of N or HxW pixels; the patch embedding is resampled.",
        env="VIT_PATCH_SIZE",
        metavar="N|HxW",
    ),
]
MaxPatches = Annotated[
    int | None,
    _option(
        "--max-patches",
        help="How many patches an image may have, in a model for any shape (NaFlex).",
        env="VIT_MAX_PATCHES",
        metavar="N",
    ),
]
Preprocess = Annotated[
    Literal["hf", "hf-fast", "timm"] | None,
    _option(
        "--preprocess",
        help="Preprocess as this library does, not as the checkpoint says; hf-fast is transformers "
        "with its fast image processor, the default since version 5.",
        env="VIT_PREPROCESS",
    ),
]
NumHeads = Annotated[
    int | None,
    _option(
        "--num-heads", help="Number of attention heads, if the weight file does not show it.", min=1
    ),
]
Head = Annotated[
    Path | None,
    _option(
        "--head",
        help="Linear classifier from another file, such as DINO's linearweights.pth.",
        metavar="FILE",
    ),
]
Sha256 = Annotated[
    str | None,
    _option("--sha256", help="Refuse weights whose SHA-256 differs.", metavar="HEX"),
]
Drop = Annotated[
    list[str] | None,
    _option(
        "--drop",
        help="Ignore tensors that are not part of the model, such as 'criterion.*'; repeatable.",
        env="VIT_DROP",
        metavar="PATTERN",
    ),
]
NoExif = Annotated[
    bool,
    _option("--no-exif", help="Ignore the orientation in EXIF.", env="VIT_NO_EXIF"),
]
DecodeOpt = Annotated[
    Decode,
    _option(
        "--decode",
        help="fast decodes large images at a reduced size: similar pixels, not identical ones.",
        env="VIT_DECODE",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, envvar="VIT_MODEL")]
Json = Annotated[bool, _option("--json", help="Print JSON.")]
Offline = Annotated[bool, _option("--offline", help="Do not use the network.", env="VIT_OFFLINE")]

Device = Annotated[
    str,
    _option("--device", help="Device to run on: auto, cpu, cuda, cuda:N or mps.", env="VIT_DEVICE"),
]
DevicesOpt = Annotated[
    str | None,
    _option(
        "--devices",
        help="Run a process on each CUDA device of a list (all, or 0,1), and merge the outputs.",
        env="VIT_DEVICES",
        metavar="all|N,N,...",
    ),
]
RayOpt = Annotated[
    str | None,
    _option(
        "--ray",
        help="Run on the workers of a Ray cluster, at HOST:PORT or on this machine, and merge the "
        "outputs.",
        env="VIT_RAY",
        metavar="[ADDRESS]",
    ),
]
DtypeOpt = Annotated[
    DtypeName,
    _option(
        "--dtype",
        help="Precision; fp32 gives the same numbers on every machine, auto is what is fastest of "
        "fp16 on a GPU, bf16 and fp32 on a CPU.",
        env="VIT_DTYPE",
    ),
]
EngineOpt = Annotated[
    EngineName,
    _option(
        "--engine",
        help="Library that runs the model; openvino and onnx are optional packages, for CPUs.",
        env="VIT_ENGINE",
    ),
]
Compile = Annotated[
    bool, _option("--compile", help="Use torch.compile, for long runs on a GPU.", env="VIT_COMPILE")
]
QuantizeOpt = Annotated[
    Quantize | None,
    _option(
        "--quantize",
        help="Multiply matrices in int8: faster, and almost the same numbers.",
        env="VIT_QUANTIZE",
        show_default=False,
    ),
]
BatchSizeOpt = Annotated[
    str,
    _option(
        "-b",
        "--batch-size",
        help="Images per batch; auto increases it as long as that is faster.",
        env="VIT_BATCH_SIZE",
        metavar="N|auto",
    ),
]
Workers = Annotated[
    str,
    _option(
        "-j",
        "--workers",
        help="Processes that decode images; 0 decodes in the main process.",
        env="VIT_WORKERS",
        metavar="N|auto",
    ),
]
Quiet = Annotated[
    bool,
    _option("-q", "--quiet", help="Print no progress, notes or summary.", env="VIT_QUIET"),
]
NoProgress = Annotated[
    bool, _option("--no-progress", help="Show no progress bar.", env="VIT_NO_PROGRESS")
]

LogJson = Annotated[
    bool,
    _option(
        "--log-json", help="Print progress, notes and summary as JSON lines.", env="VIT_LOG_JSON"
    ),
]
SummaryFile = Annotated[
    Path | None,
    _option(
        "--summary",
        help="Write counts, speed, failures by type and the exit code to FILE, as JSON.",
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
        help="Continue an interrupted run; update a finished one with new and changed images.",
        env="VIT_RESUME",
    ),
]
RetryFailed = Annotated[
    bool,
    _option(
        "--retry-failed",
        help="With --resume: try failed images again.",
        env="VIT_RETRY_FAILED",
    ),
]
KeepMissing = Annotated[
    bool,
    _option(
        "--keep-missing",
        help="With --resume: keep the rows of deleted images.",
        env="VIT_KEEP_MISSING",
    ),
]
ShardOpt = Annotated[
    str | None,
    _option(
        "--shard",
        help="Process only part I of N, into FILE-0000I-of-0000N; vit merge joins the parts.",
        env="VIT_SHARD",
        metavar="I/N",
    ),
]


Html = Annotated[
    Path | None,
    _option(
        "--html",
        help="Write an HTML page to browse the results, in one file.",
        metavar="FILE",
    ),
]
