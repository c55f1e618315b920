"""`vit finetune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vitcli.cli.commands.training_screen import TrainingScreen
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options.parse import parse_workers
from vitcli.cli.screen.exit import ended_with, start_workers
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
        help="Folder, tars or zip with a folder for each class (or train/ and val/ with such "
        "folders), tars with .cls beside the images, or a .csv, .tsv or .jsonl of path, label and "
        "perhaps split.",
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Directory for the model.", metavar="DIR")]
Val = Annotated[
    str | None,
    typer.Option("--val", help="Images to hold out, in a folder, archive or table of their own."),
]
ValSplit = Annotated[
    float, typer.Option("--val-split", help="Share of each class to hold out, where DATA has none.")
]
ObjectiveOpt = Annotated[
    Literal["classify", "mim"],
    typer.Option("--objective", help="Learn classes, or (mim) to fill in what is hidden."),
]
Train = Annotated[
    str | None,
    typer.Option(
        "--train",
        help="What is trained: head, last-N blocks, lora, or full. Chosen by data and machine.",
        metavar="head|last-N|lora|full",
        show_default=False,
    ),
]
Epochs = Annotated[int | None, _number("--epochs", "Times that every image is seen.", min=1)]
Lr = Annotated[float | None, _number("--lr", "Learning rate of the last layer.", min=0.0)]
Decay = Annotated[float | None, _number("--weight-decay", "AdamW's, on matrices only.", min=0.0)]
LayerDecay = Annotated[
    float | None,
    _number("--layer-decay", "Factor of the learning rate from a block to the one below it."),
]
Warmup = Annotated[
    float | None, _number("--warmup", "Epochs until the learning rate is reached.", min=0.0)
]
BatchSize = Annotated[
    int | None, _number("--batch-size", "Images of a batch, on all devices together.", min=1)
]
Accumulate = Annotated[
    int, typer.Option("--accumulate", help="Batches whose gradients make one step.", min=1)
]
Clip = Annotated[
    float, typer.Option("--clip", help="Largest norm of the gradients; 0 leaves them.", min=0.0)
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.", min=0)]
Augment = Annotated[
    Literal["none", "light", "medium", "strong"] | None,
    typer.Option("--augment", help="How much training images are changed.", show_default=False),
]
Flip = Annotated[
    bool,
    typer.Option("--no-flip", help="Do not mirror images: for text, digits, left and right."),
]
Smoothing = Annotated[float | None, _number("--label-smoothing", "Share spread over all classes.")]
Mixup = Annotated[float, typer.Option("--mixup", help="Alpha of mixup; 0 is off.", min=0.0)]
Cutmix = Annotated[float, typer.Option("--cutmix", help="Alpha of CutMix; 0 is off.", min=0.0)]
DropPath = Annotated[
    float, typer.Option("--drop-path", help="Stochastic depth: rate of the last block.", min=0.0)
]
Ema = Annotated[
    float | None, _number("--ema", "Average the weights with this decay, and keep the average.")
]
Patience = Annotated[
    int | None, _number("--patience", "Stop after N epochs that are not better.", min=1)
]
ClassWeights = Annotated[
    bool, typer.Option("--class-weights", help="Give every class the same say.")
]
Checkpointing = Annotated[
    bool,
    typer.Option("--gradient-checkpointing", help="Less memory for more time, the same gradients."),
]
Rank = Annotated[int, typer.Option("--lora-rank", help="Rank of --train lora.", min=1)]
Alpha = Annotated[float, typer.Option("--lora-alpha", help="Scale of --train lora.", min=0.0)]
MaskRatio = Annotated[
    float | None, _number("--mask-ratio", "Share of patches that --objective mim hides.")
]
SaveEvery = Annotated[
    float,
    typer.Option("--save-every", help="Minutes after which the state is saved within an epoch."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run.", envvar="VIT_RESUME")
]


def training_screen(
    quiet: o.Quiet = False,
    no_progress: o.NoProgress = False,
    log_json: o.LogJson = False,
    summary: o.SummaryFile = None,
) -> TrainingScreen:
    """What is told of the run; of several processes the first tells."""
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
    """On what it is trained."""
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
    """Train a model on your labels: a folder for each class in, a model directory out.

    What is not said is chosen by the data and the machine, and said. Several devices:
    torchrun --nproc-per-node N -m vitcli finetune ...

    Examples:

    vit finetune flowers/ --out run/

    vit finetune flowers/ --out run/ -m facebook/dinov2-base --train head

    vit finetune photos/ --out run/ -m facebook/vit-mae-base --objective mim
    """
    screen = common.screen
    assert isinstance(screen, TrainingScreen)
    with screen:
        start_workers(common.running)
        from vitcli.tasks.finetune.finetune import finetune as run
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
        )
        done = run(job, screen)
        screen.ended(done, out)
    if (code := ended_with(done.summary)) is not ExitCode.OK:
        raise typer.Exit(code)
