"""`vit finetune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.parse import parse_workers
from vitcli.cli.screen.exit import ended_with, start_workers
from vitcli.cli.screen.training import TrainingScreen
from vitcli.errors import ExitCode
from vitcli.jobs.job import DEFAULT_MODEL, Running
from vitcli.processes import rank_of


def _number(name: str, help: str, **rest: Any) -> Any:
    return typer.Option(name, help=help, show_default=False, **rest)


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder, zip or tars with one folder per class (optionally under train/ and val/); "
        "tars with a .cls file (the class) next to each image; or a .csv, .tsv or .jsonl with the "
        "columns path, label and optionally split.",
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the model.", metavar="DIR")]
Val = Annotated[
    str | None,
    typer.Option("--val", help="Validation images: another folder, archive or table."),
]
ValSplit = Annotated[
    float,
    typer.Option(
        "--val-split",
        help="Fraction of each class used for validation, if neither DATA nor --val has any.",
    ),
]
ObjectiveOpt = Annotated[
    Literal["classify", "mim"],
    typer.Option(
        "--objective",
        help="classify learns the labels; mim learns to fill in hidden patches, without labels.",
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        "--train",
        help="Parts to train: head, last-N blocks, lora, or full.",
        metavar="head|last-N|lora|full",
        show_default=False,
    ),
]
Epochs = Annotated[int | None, _number("--epochs", "Number of passes over the images.", min=1)]
Lr = Annotated[
    float | None,
    _number(
        "--lr",
        "Peak learning rate, of the head; --layer-decay lowers it for earlier blocks.",
        min=0.0,
    ),
]
Decay = Annotated[
    float | None,
    _number("--weight-decay", "Weight decay of AdamW; biases and norms have none.", min=0.0),
]
LayerDecay = Annotated[
    float | None,
    _number(
        "--layer-decay",
        "Each block's learning rate is this factor times that of the block after it.",
    ),
]
Warmup = Annotated[
    float | None, _number("--warmup", "Epochs until the full learning rate.", min=0.0)
]
BatchSize = Annotated[
    int | None, _number("--batch-size", "Images per batch, over all devices together.", min=1)
]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate",
        help="Batches per optimizer step; the effective batch is this times --batch-size.",
        min=1,
    ),
]
Clip = Annotated[
    float,
    typer.Option("--clip", help="Maximum norm of the gradients; 0 turns clipping off.", min=0.0),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.", min=0)]
Augment = Annotated[
    Literal["none", "light", "medium", "strong"] | None,
    typer.Option(
        "--augment", help="Strength of the random changes to training images.", show_default=False
    ),
]
Flip = Annotated[
    bool,
    typer.Option(
        "--no-flip",
        help="Do not mirror images; for digits, text, or classes that differ in left and right.",
    ),
]
Smoothing = Annotated[
    float | None,
    _number("--label-smoothing", "Share of the target that is spread over all classes."),
]
Mixup = Annotated[float, typer.Option("--mixup", help="Alpha of mixup; 0 turns it off.", min=0.0)]
Cutmix = Annotated[
    float, typer.Option("--cutmix", help="Alpha of CutMix; 0 turns it off.", min=0.0)
]
DropPath = Annotated[
    float,
    typer.Option("--drop-path", help="Stochastic depth: drop rate of the last block.", min=0.0),
]
Ema = Annotated[
    float | None,
    _number("--ema", "Decay of a moving average of the weights; the average is saved."),
]
Patience = Annotated[
    int | None,
    _number(
        "--patience",
        "Stop after N epochs without a better validation accuracy; with mim, loss.",
        min=1,
    ),
]
ClassWeights = Annotated[
    bool,
    typer.Option("--class-weights", help="Weight the loss so that every class counts equally."),
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        "--gradient-checkpointing",
        help="Save memory by computing activations twice; the gradients are the same.",
    ),
]
Rank = Annotated[int, typer.Option("--lora-rank", help="Rank of --train lora.", min=1)]
Alpha = Annotated[
    float,
    typer.Option(
        "--lora-alpha", help="Alpha of LoRA: its update is scaled by alpha / rank.", min=0.0
    ),
]
MaskRatio = Annotated[
    float | None, _number("--mask-ratio", "Share of patches that --objective mim hides.")
]
SaveEvery = Annotated[
    float,
    typer.Option("--save-every", help="Minutes between two saves within an epoch."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted run.", envvar="VIT_RESUME")
]


def training_screen(
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
    log_json: o.LogJson = False,
    summary: o.SummaryFile = None,
) -> TrainingScreen:
    """Return the screen of the run. Under torchrun, only the first process reports."""
    is_first = rank_of(os.environ).is_first
    return TrainingScreen(
        quiet=quiet or not is_first,
        progress=not no_progress,
        log_json=log_json,
        report=summary if is_first else None,
    )


def training_device(
    device: o.Device = "auto",
    dtype: o.DtypeOpt = "fp32",
    compile: o.Compile = False,
    workers: o.Workers = "auto",
) -> Running:
    """Return the device, precision, compilation and workers of the training."""
    return Running(device=device, dtype=dtype, compile=compile, workers=parse_workers(workers))


@g.spelled_with(g.reading, g.model_options, training_device, training_screen)
def finetune(
    common: g.WithData,
    data: Data,
    out: Out,
    model: o.ModelSpec = DEFAULT_MODEL,
    val: Val = None,
    val_split: ValSplit = 0.2,
    objective: ObjectiveOpt = "classify",
    train: Train = None,
    epochs: Epochs = None,
    lr: Lr = None,
    weight_decay: Decay = None,
    layer_decay: LayerDecay = None,
    warmup: Warmup = None,
    batch_size: BatchSize = None,
    accumulate: Accumulate = 1,
    clip: Clip = 1.0,
    seed: Seed = 0,
    augment: Augment = None,
    no_flip: Flip = False,
    label_smoothing: Smoothing = None,
    mixup: Mixup = 0.0,
    cutmix: Cutmix = 0.0,
    drop_path: DropPath = 0.0,
    ema: Ema = None,
    patience: Patience = None,
    class_weights: ClassWeights = False,
    gradient_checkpointing: Checkpointing = False,
    lora_rank: Rank = 8,
    lora_alpha: Alpha = 16.0,
    mask_ratio: MaskRatio = None,
    save_every: SaveEvery = 10.0,
    overwrite: o.Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train a model on your own labels.

    Options without a default are chosen for the data and the machine, and the choice is printed.
    With several devices: torchrun --nproc-per-node N -m vitcli finetune ...

    Examples:

    vit finetune flowers/ --out run/

    vit finetune flowers/ --out run/ -m facebook/dinov2-base --train head

    vit finetune photos/ --out run/ -m facebook/vit-mae-base --objective mim
    """
    screen = common.screen
    assert isinstance(screen, TrainingScreen)
    with screen:
        start_workers(common.running)
        from vitcli.tasks.finetune import finetune as task
        from vitcli.tasks.finetune.job import FinetuneJob, TrainingOptions

        training = TrainingOptions(
            objective=objective,
            train=train,
            epochs=epochs,
            lr=lr,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            warmup=warmup,
            batch_size=batch_size,
            accumulate=accumulate,
            clip=clip,
            seed=seed,
            val_split=val_split,
            augment=augment,
            flip=not no_flip,
            smoothing=label_smoothing,
            mixup=mixup,
            cutmix=cutmix,
            drop_path=drop_path,
            ema=ema,
            patience=patience,
            class_weights=class_weights,
            checkpointing=gradient_checkpointing,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            mask_ratio=mask_ratio,
            save_every=save_every,
        )
        job = FinetuneJob(
            data=data,
            out=out,
            model=model,
            val=val,
            inputs=common.inputs,
            options=common.model,
            running=common.running,
            training=training,
            overwrite=overwrite,
            resume=resume,
            config=current().text,
        )
        done = task.finetune(job, screen)
        screen.ended(done, out)
    if (code := ended_with(done.summary)) is not ExitCode.OK:
        raise typer.Exit(code)
