"""The options of `vit finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from vitcli.cli.options.declare import Argument, Group, Option

Data = Annotated[
    str,
    Argument(
        "DATA",
        group=Group.INPUTS,
        brief="A folder with a folder per class, or a table.",
        help="A folder, zip or tars with one folder per class (optionally under train/ and val/); "
        "tars with a .cls file (the class) next to each image; or a .csv, .tsv or .jsonl with the "
        "columns path, label and optionally split.",
    ),
]
Out = Annotated[
    Path,
    Option(
        "-o", "--out", group=Group.OUTPUT, brief=True, help="Folder for the model.", metavar="DIR"
    ),
]
Val = Annotated[
    str | None,
    Option(
        "--val",
        group=Group.INPUTS,
        brief="Validation images: folder, archive or table.",
        help="Validation images: another folder, archive or table.",
        metavar="DATA",
    ),
]
ValSplit = Annotated[
    float,
    Option(
        "--val-split",
        group=Group.INPUTS,
        brief="Share for validation, without --val.",
        help="Fraction of each class used for validation, if neither DATA nor --val has any.",
        metavar="SHARE",
    ),
]
ObjectiveOpt = Annotated[
    Literal["classify", "mim"],
    Option(
        "--objective",
        group=Group.TRAINING,
        brief="classify, mim (no labels).",
        help="classify learns the labels; mim learns to fill in hidden patches, without labels.",
    ),
]
Train = Annotated[
    str | None,
    Option(
        "--train",
        group=Group.TRAINING,
        brief="head, last-N blocks, lora or full.",
        help="Parts to train: head, last-N blocks, lora, or full.",
        metavar="head|last-N|lora|full",
        show_default="chosen for the data",
    ),
]
Epochs = Annotated[
    int | None,
    Option(
        "--epochs",
        group=Group.TRAINING,
        brief=True,
        help="Number of passes over the images.",
        min=1,
        metavar="N",
        show_default="20; 50 for --train head; 100 for mim",
    ),
]
Lr = Annotated[
    float | None,
    Option(
        "--lr",
        group=Group.TRAINING,
        brief="Peak learning rate.",
        help="Peak learning rate, of the head; --layer-decay lowers it for earlier blocks.",
        min=0.0,
        metavar="RATE",
        show_default="chosen for the model",
    ),
]
Decay = Annotated[
    float | None,
    Option(
        "--weight-decay",
        group=Group.TRAINING,
        help="Weight decay of AdamW; biases and norms have none.",
        min=0.0,
        metavar="RATE",
        show_default="0.05; 0.001 for --train head",
    ),
]
LayerDecay = Annotated[
    float | None,
    Option(
        "--layer-decay",
        group=Group.TRAINING,
        help="Each block's learning rate is this factor times that of the block after it.",
        metavar="FACTOR",
        show_default="chosen for the model",
    ),
]
Warmup = Annotated[
    float | None,
    Option(
        "--warmup",
        group=Group.TRAINING,
        help="Epochs until the full learning rate.",
        min=0.0,
        metavar="EPOCHS",
        show_default="5% of --epochs",
    ),
]
BatchSize = Annotated[
    str,
    Option(
        "-b",
        "--batch-size",
        group=Group.TRAINING,
        brief="Images per batch; auto depends on --train.",
        help="Images per batch, over all devices together; auto takes 32, or 64 for --train head.",
        metavar="N|auto",
        show_default=False,
    ),
]
Accumulate = Annotated[
    int,
    Option(
        "--accumulate",
        group=Group.TRAINING,
        help="Batches per optimizer step; the effective batch is this times --batch-size.",
        min=1,
        metavar="N",
    ),
]
Clip = Annotated[
    float,
    Option(
        "--clip",
        group=Group.TRAINING,
        help="Maximum norm of the gradients; 0 turns clipping off.",
        min=0.0,
        metavar="NORM",
    ),
]
Seed = Annotated[
    int,
    Option("--seed", group=Group.TRAINING, brief=False, help="Random seed.", min=0, metavar="N"),
]
Augment = Annotated[
    Literal["none", "light", "medium", "strong"] | None,
    Option(
        "--augment",
        group=Group.TRAINING,
        brief="none, light, medium or strong changes of images.",
        help="Strength of the random changes to training images.",
        show_default="light; none for --train head",
    ),
]
Flip = Annotated[
    bool,
    Option(
        "--no-flip",
        group=Group.TRAINING,
        brief="Do not mirror images: digits, text, left and right.",
        help="Do not mirror images; for digits, text, or classes that differ in left and right.",
    ),
]
Smoothing = Annotated[
    float | None,
    Option(
        "--label-smoothing",
        group=Group.TRAINING,
        help="Share of the target that is spread over all classes.",
        metavar="SHARE",
        show_default="0.1; 0 for --train head",
    ),
]
Mixup = Annotated[
    float,
    Option(
        "--mixup",
        group=Group.TRAINING,
        help="Alpha of mixup; 0 turns it off.",
        min=0.0,
        metavar="ALPHA",
    ),
]
Cutmix = Annotated[
    float,
    Option(
        "--cutmix",
        group=Group.TRAINING,
        help="Alpha of CutMix; 0 turns it off.",
        min=0.0,
        metavar="ALPHA",
    ),
]
DropPath = Annotated[
    float,
    Option(
        "--drop-path",
        group=Group.TRAINING,
        help="Stochastic depth: drop rate of the last block.",
        min=0.0,
        metavar="RATE",
    ),
]
Ema = Annotated[
    float | None,
    Option(
        "--ema",
        group=Group.TRAINING,
        help="Decay of a moving average of the weights; the average is saved.",
        metavar="DECAY",
    ),
]
Patience = Annotated[
    int | None,
    Option(
        "--patience",
        group=Group.TRAINING,
        brief=False,
        help="Stop after N epochs without a better validation accuracy; with mim, loss.",
        min=1,
        metavar="N",
    ),
]
ClassWeights = Annotated[
    bool,
    Option(
        "--class-weights",
        group=Group.TRAINING,
        brief=False,
        help="Weight the loss so that every class counts equally.",
    ),
]
Checkpointing = Annotated[
    bool,
    Option(
        "--gradient-checkpointing",
        group=Group.SPEED,
        help="Save memory by computing activations twice; the gradients are the same.",
    ),
]
Rank = Annotated[
    int,
    Option("--lora-rank", group=Group.TRAINING, help="Rank of --train lora.", min=1, metavar="N"),
]
Alpha = Annotated[
    float,
    Option(
        "--lora-alpha",
        group=Group.TRAINING,
        help="Alpha of LoRA: its update is scaled by alpha / rank.",
        min=0.0,
        metavar="ALPHA",
    ),
]
MaskRatio = Annotated[
    float | None,
    Option(
        "--mask-ratio",
        group=Group.TRAINING,
        help="Share of patches that --objective mim hides.",
        metavar="SHARE",
        show_default="the model's own, or 0.6",
    ),
]
SaveEvery = Annotated[
    float,
    Option(
        "--save-every",
        group=Group.LONG_RUNS,
        help="Minutes between two saves within an epoch.",
        metavar="MINUTES",
    ),
]
Resume = Annotated[
    bool,
    Option(
        "--resume",
        group=Group.LONG_RUNS,
        brief=True,
        help="Continue an interrupted run.",
        env="VIT_RESUME",
    ),
]
