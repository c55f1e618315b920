"""The options that commands share, each declared once. `groups` combines them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from vitcli.cli.options.declare import Argument, Group, Option
from vitcli.engines import DtypeName, EngineName, Quantize
from vitcli.errors import UsageError
from vitcli.jobs.job import DEFAULT_MODEL
from vitcli.records import Decode

Paths = Annotated[
    list[str] | None,
    Argument(
        "INPUTS...",
        group=Group.INPUTS,
        brief="Files, folders, tars, zips, URLs, quoted globs; - reads a list of paths from stdin.",
        help="Files, folders (recursive), tars, zips, URLs, quoted globs and {000..099}. With -, "
        "or without arguments in a pipe, paths are read from stdin.",
    ),
]
Queries = Annotated[
    list[str] | None,
    Argument(
        "IMAGES...",
        group=Group.INPUTS,
        brief="Images to search for: files, folders, URLs.",
        help="Images to search for: files, folders, archives, URLs, quoted globs. With -, paths "
        "are read from stdin.",
    ),
]
FilesFrom = Annotated[
    str | None,
    Option(
        "--files-from",
        group=Group.INPUTS,
        help="Read paths from FILE, one a line; - is stdin.",
        metavar="FILE",
    ),
]
Null = Annotated[
    bool,
    Option(
        "-0",
        "--null",
        group=Group.INPUTS,
        help="Paths in the list end with NUL, not newline: find ... -print0 | vit ... -0",
    ),
]
NullInAndOut = Annotated[
    bool,
    Option(
        "-0",
        "--null",
        group=Group.INPUTS,
        help="Paths end with NUL, not newline: those of a list, and those of --paths-only.",
    ),
]
FormatsOpt = Annotated[
    Literal["common", "all"],
    Option(
        "--formats",
        group=Group.INPUTS,
        help="Image formats to open: the common ones, or all that Pillow knows.",
        env="VIT_FORMATS",
    ),
]
Ext = Annotated[
    list[str] | None,
    Option(
        "--ext",
        group=Group.INPUTS,
        help="Take files with this suffix from folders, instead of all images; repeatable.",
        metavar="EXT",
    ),
]
AllowOutside = Annotated[
    bool,
    Option(
        "--allow-outside",
        group=Group.INPUTS,
        help="Let a table or Parquet file name URLs, and files outside its own folder.",
        env="VIT_ALLOW_OUTSIDE",
    ),
]
MaxPixels = Annotated[
    str,
    Option(
        "--max-pixels",
        group=Group.INPUTS,
        help="Refuse images with more than N pixels.",
        env="VIT_MAX_PIXELS",
        metavar="N",
    ),
]
ImageTimeout = Annotated[
    float,
    Option(
        "--image-timeout",
        group=Group.INPUTS,
        help="Time limit for decoding one image, in seconds.",
        env="VIT_IMAGE_TIMEOUT",
        min=0.001,
        metavar="SECONDS",
    ),
]

MaxErrors = Annotated[
    str | None,
    Option(
        "--max-errors",
        group=Group.LONG_RUNS,
        help="Stop when more than N images, or more than P% of them, have failed.",
        env="VIT_MAX_ERRORS",
        metavar="N|P%",
    ),
]
OnError = Literal["skip", "stop"]
OnErrorOpt = Annotated[
    OnError,
    Option(
        "--on-error",
        group=Group.LONG_RUNS,
        help="After a failed image: skip writes a row with the reason, stop ends the run.",
        env="VIT_ON_ERROR",
    ),
]

MODEL_HELP = "Hub id (org/name, org/name@revision), folder, weight file, or demo."
ModelSpec = Annotated[
    str,
    Option(
        "-m",
        "--model",
        group=Group.MODEL,
        brief="Hub id, folder, weight file, or demo.",
        help=MODEL_HELP,
        env="VIT_MODEL",
        metavar="MODEL",
    ),
]
DEFAULT_MODELS = [DEFAULT_MODEL]
ModelSpecs = Annotated[
    list[str],
    Option(
        "-m",
        "--model",
        group=Group.MODEL,
        brief="Hub id, folder, weight file, or demo; repeat to average.",
        help=f"{MODEL_HELP} Repeat -m to average several models.",
        env="VIT_MODEL",
        metavar="MODEL",
    ),
]
Layout = Annotated[
    str | None,
    Option(
        "--layout",
        group=Group.MODEL,
        help="Naming scheme of the tensors, if vit does not recognise it.",
        metavar="NAME",
    ),
]
Labels = Annotated[
    Path | None,
    Option(
        "--labels",
        group=Group.MODEL,
        help="Class names: one a line (numbered or not), JSON, or a table.",
        env="VIT_LABELS",
        metavar="FILE",
    ),
]
ImageSize = Annotated[
    str | None,
    Option(
        "--image-size",
        group=Group.MODEL,
        brief="Size at which the model sees the images.",
        help="Run at N or HxW pixels; position embeddings are interpolated.",
        env="VIT_IMAGE_SIZE",
        metavar="N|HxW",
    ),
]
PatchSize = Annotated[
    str | None,
    Option(
        "--patch-size",
        group=Group.MODEL,
        help="Run on patches of N or HxW pixels; the patch embedding is resampled.",
        env="VIT_PATCH_SIZE",
        metavar="N|HxW",
    ),
]
MaxPatches = Annotated[
    int | None,
    Option(
        "--max-patches",
        group=Group.MODEL,
        help="How many patches an image may have, in a model for any shape (NaFlex).",
        env="VIT_MAX_PATCHES",
        metavar="N",
    ),
]
Preprocess = Annotated[
    Literal["hf", "hf-fast", "timm"] | None,
    Option(
        "--preprocess",
        group=Group.MODEL,
        help="Preprocess as this library does, not as the checkpoint says; hf-fast is transformers "
        "with its fast image processor, the default since version 5.",
        env="VIT_PREPROCESS",
    ),
]
NumHeads = Annotated[
    int | None,
    Option(
        "--num-heads",
        group=Group.MODEL,
        help="Number of attention heads, if the weight file does not show it.",
        metavar="N",
        min=1,
    ),
]
Head = Annotated[
    Path | None,
    Option(
        "--head",
        group=Group.MODEL,
        help="Linear classifier from another file, such as DINO's linearweights.pth.",
        metavar="FILE",
    ),
]
Sha256 = Annotated[
    str | None,
    Option(
        "--sha256", group=Group.MODEL, help="Refuse weights whose SHA-256 differs.", metavar="HEX"
    ),
]
Drop = Annotated[
    list[str] | None,
    Option(
        "--drop",
        group=Group.MODEL,
        help="Ignore tensors that are not part of the model, such as 'criterion.*'; repeatable.",
        env="VIT_DROP",
        metavar="PATTERN",
    ),
]
NoExif = Annotated[
    bool,
    Option(
        "--no-exif", group=Group.MODEL, help="Ignore the orientation in EXIF.", env="VIT_NO_EXIF"
    ),
]
DecodeOpt = Annotated[
    Decode,
    Option(
        "--decode",
        group=Group.SPEED,
        help="fast decodes large images at a reduced size: similar pixels, not identical ones.",
        env="VIT_DECODE",
    ),
]
ModelArgument = Annotated[
    str | None, Argument("MODEL", group=Group.MODEL, help="The model, as for -m.")
]
Json = Annotated[bool, Option("--json", group=Group.OUTPUT, brief=True, help="Print JSON.")]
Offline = Annotated[
    bool, Option("--offline", group=Group.MODEL, help="Do not use the network.", env="VIT_OFFLINE")
]

Device = Annotated[
    str,
    Option(
        "--device",
        group=Group.SPEED,
        brief="auto (a GPU, if any), cpu, cuda, cuda:N or mps.",
        help="Device to run on: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.",
        env="VIT_DEVICE",
        metavar="NAME",
        show_default=False,
    ),
]
DevicesOpt = Annotated[
    str | None,
    Option(
        "--devices",
        group=Group.SPEED,
        help="Run a process on each CUDA device of a list (all, or 0,1), and merge the outputs.",
        env="VIT_DEVICES",
        metavar="all|N,N,...",
    ),
]
RayOpt = Annotated[
    str | None,
    Option(
        "--ray",
        group=Group.SPEED,
        help="Run on the workers of a Ray cluster, at HOST:PORT or on this machine, and merge the "
        "outputs.",
        env="VIT_RAY",
        metavar="[ADDRESS]",
    ),
]
DtypeOpt = Annotated[
    DtypeName,
    Option(
        "--dtype",
        group=Group.SPEED,
        brief="fp32, bf16, fp16 or auto.",
        help="Precision; fp32 gives the same numbers on every machine, auto is what is fastest of "
        "fp16 on a GPU, bf16 and fp32 on a CPU.",
        env="VIT_DTYPE",
    ),
]
EngineOpt = Annotated[
    EngineName,
    Option(
        "--engine",
        group=Group.SPEED,
        help="Library that runs the model; openvino and onnx are optional packages, for CPUs.",
        env="VIT_ENGINE",
    ),
]
Compile = Annotated[
    bool,
    Option(
        "--compile",
        group=Group.SPEED,
        help="Use torch.compile, for long runs on a GPU.",
        env="VIT_COMPILE",
    ),
]
QuantizeOpt = Annotated[
    Quantize | None,
    Option(
        "--quantize",
        group=Group.SPEED,
        help="Multiply matrices in int8: faster, and almost the same numbers.",
        env="VIT_QUANTIZE",
        show_default=False,
    ),
]
MergeTokensOpt = Annotated[
    str,
    Option(
        "--merge-tokens",
        group=Group.SPEED,
        help="Merge the N most similar pairs of patches in each block: less work, and close "
        "results; auto leaves 65 % of the multiply-adds.",
        env="VIT_MERGE_TOKENS",
        metavar="N|auto",
    ),
]
BatchSizeOpt = Annotated[
    str,
    Option(
        "-b",
        "--batch-size",
        group=Group.SPEED,
        brief="Images per batch.",
        help="Images per batch; auto increases it as long as that is faster.",
        env="VIT_BATCH_SIZE",
        metavar="N|auto",
    ),
]
Workers = Annotated[
    str,
    Option(
        "-j",
        "--workers",
        group=Group.SPEED,
        brief=False,
        help="Processes that decode images; 0 decodes in the main process.",
        env="VIT_WORKERS",
        metavar="N|auto",
    ),
]
Quiet = Annotated[
    bool,
    Option(
        "-q",
        "--quiet",
        group=Group.TALK,
        brief=True,
        help="Print no progress, notes or summary.",
        env="VIT_QUIET",
    ),
]
NoProgress = Annotated[
    bool,
    Option("--no-progress", group=Group.TALK, help="Show no progress bar.", env="VIT_NO_PROGRESS"),
]

LogJson = Annotated[
    bool,
    Option(
        "--log-json",
        group=Group.TALK,
        help="Print progress, notes and summary as JSON lines.",
        env="VIT_LOG_JSON",
    ),
]
SummaryFile = Annotated[
    Path | None,
    Option(
        "--summary",
        group=Group.TALK,
        help="Write counts, speed, failures by type and the exit code to FILE, as JSON.",
        env="VIT_SUMMARY",
        metavar="FILE",
    ),
]

Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        group=Group.OUTPUT,
        brief=True,
        help="Replace an existing output.",
        env="VIT_OVERWRITE",
    ),
]


Resume = Annotated[
    bool,
    Option(
        "--resume",
        group=Group.LONG_RUNS,
        brief="Continue an interrupted run, update a finished one.",
        help="Continue an interrupted run; update a finished one with new and changed images.",
        env="VIT_RESUME",
    ),
]
RetryFailed = Annotated[
    bool,
    Option(
        "--retry-failed",
        group=Group.LONG_RUNS,
        help="With --resume: try failed images again.",
        env="VIT_RETRY_FAILED",
    ),
]
KeepMissing = Annotated[
    bool,
    Option(
        "--keep-missing",
        group=Group.LONG_RUNS,
        help="With --resume: keep the rows of deleted images.",
        env="VIT_KEEP_MISSING",
    ),
]
ShardOpt = Annotated[
    str | None,
    Option(
        "--shard",
        group=Group.LONG_RUNS,
        brief="Take part I of N only; vit merge joins the parts.",
        help="Process only part I of N, into FILE-0000I-of-0000N; vit merge joins the parts.",
        env="VIT_SHARD",
        metavar="I/N",
    ),
]


NOT_PAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".csv", ".tsv", ".parquet", ".npy", ".pdf")


def page_file(value: Path | None) -> Path | None:
    """Refuse a page with the suffix of something else: `--html photo.jpg` is a slip."""
    if value is not None and value.suffix.lower() in NOT_PAGES:
        raise UsageError(f"--html {value} is not the name of a page", "end it in .html")
    return value


Html = Annotated[
    Path | None,
    Option(
        "--html",
        group=Group.OUTPUT,
        brief="Write a page to browse the results.",
        help="Write an HTML page to browse the results, in one file.",
        metavar="FILE",
        callback=page_file,
    ),
]
