"""`vit finetune`."""

from __future__ import annotations

import os

import typer

from vitcli.cli.config.current import current
from vitcli.cli.options import groups as g
from vitcli.cli.options import options as o
from vitcli.cli.options import training as t
from vitcli.cli.options.parse import parse_batch_size, parse_workers
from vitcli.cli.screen.exit import ended_with, start_workers
from vitcli.cli.screen.training import TrainingScreen
from vitcli.errors import ExitCode
from vitcli.jobs.job import DEFAULT_MODEL, Running
from vitcli.processes import rank_of


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


of_one_size = g.adapted(g.model_options, without=("max_patches",))


@g.spelled_with(g.reading, of_one_size, training_device, training_screen)
def finetune(
    common: g.WithData,
    data: t.Data,
    out: t.Out,
    model: o.ModelSpec = DEFAULT_MODEL,
    val: t.Val = None,
    val_split: t.ValSplit = 0.2,
    objective: t.ObjectiveOpt = "classify",
    train: t.Train = None,
    epochs: t.Epochs = None,
    lr: t.Lr = None,
    weight_decay: t.Decay = None,
    layer_decay: t.LayerDecay = None,
    warmup: t.Warmup = None,
    batch_size: t.BatchSize = "auto",
    accumulate: t.Accumulate = 1,
    clip: t.Clip = 1.0,
    seed: t.Seed = 0,
    augment: t.Augment = None,
    no_flip: t.Flip = False,
    label_smoothing: t.Smoothing = None,
    mixup: t.Mixup = 0.0,
    cutmix: t.Cutmix = 0.0,
    drop_path: t.DropPath = 0.0,
    ema: t.Ema = None,
    patience: t.Patience = None,
    class_weights: t.ClassWeights = False,
    gradient_checkpointing: t.Checkpointing = False,
    lora_rank: t.Rank = 8,
    lora_alpha: t.Alpha = 16.0,
    mask_ratio: t.MaskRatio = None,
    save_every: t.SaveEvery = 10.0,
    overwrite: o.Overwrite = False,
    resume: t.Resume = False,
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
    images = parse_batch_size(batch_size)
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
            batch_size=None if images == "auto" else images,
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
