"""The loop of a training: steps and epochs, as events for whoever looks on.

It is a generator: it does a step and says so. What is drawn depends on the seed and the number of
the step alone, so a run that goes on from its state makes the weights of one that was never
interrupted, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitcli.errors import CheckpointError, VitError
from vitcli.training.events import EpochDone, StepDone
from vitcli.training.feed import Feed, Step
from vitcli.training.group import Group
from vitcli.training.metrics import Answers
from vitcli.training.objective import Objective
from vitcli.training.optim import (
    Average,
    Optimisation,
    make_optimizer,
    make_schedule,
    parameter_groups,
)
from vitcli.training.recipe import Trained
from vitcli.training.state import FILE, START_OVER

ADVICE = "a lower --lr, a longer --warmup, or --dtype fp32 may help"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how: `micro` images go through the network at a time; `dtype` is what autocast
    computes in, None where the module sees to it itself."""

    epochs: int
    seed: int
    optimisation: Optimisation
    device: torch.device
    micro: int | None = None
    autocast: torch.dtype | None = None
    ema: float | None = None
    patience: int | None = None
    save_every: float = 600.0  # seconds


@dataclass(slots=True)
class _Sums:
    """Running totals of the current epoch."""

    loss: float = 0.0
    right: int = 0
    images: int = 0
    seconds: float = 0.0


class Diverged(VitError):
    """The loss is no number any more."""


@dataclass(slots=True)
class Trainer:
    """Trains `trained.module` on what `feed` gives.

    `save` is given the state after each epoch and from time to time, `best` is called when the
    held-out images have never been answered better; both by the first process alone.
    """

    trained: Trained
    feed: Feed
    objective: Objective
    plan: Plan
    save: Callable[[dict[str, Any]], None]
    best: Callable[[], None]
    group: Group = Group()
    stops: Callable[[], bool] = lambda: False
    higher_is_better: bool = True
    epoch: int = 0
    step: int = 0  # in the epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -math.inf
    answers: Answers | None = None
    is_stopped: bool = False
    _sums: _Sums = field(default_factory=_Sums)
    _module: nn.Module = field(init=False)
    _optimizer: torch.optim.AdamW = field(init=False)
    _schedule: torch.optim.lr_scheduler.LambdaLR = field(init=False)
    _scaler: torch.amp.GradScaler = field(init=False)
    _average: Average | None = field(init=False)

    def __post_init__(self) -> None:
        plan, asked = self.plan, self.plan.optimisation
        groups = parameter_groups(self.trained.parameters, self.trained.network, asked)
        self._optimizer = make_optimizer(groups, asked)
        self._schedule = make_schedule(self._optimizer, asked)
        self._scaler = torch.amp.GradScaler(
            plan.device.type, enabled=plan.autocast == torch.float16
        )
        self._average = Average(self.trained.parameters, plan.ema) if plan.ema else None
        self._module = self.trained.module
        if self.group.size > 1:
            ids = [plan.device.index] if plan.device.type == "cuda" else None
            self._module = DistributedDataParallel(self._module, device_ids=ids)

    def run(self) -> Iterator[StepDone | EpochDone]:
        """To the last epoch, to the end of patience, or until `stops` says so: then the state is
        saved and `is_stopped`."""
        plan, steps = self.plan, self.feed.order.steps
        saved = time.monotonic()
        self.trained.module.train()
        feed = self.feed.steps(self.epoch, self.step, plan.epochs)
        while self.epoch < plan.epochs and not self._is_patient():
            if self.step < steps:
                before = time.monotonic()
                done = self._take(next(feed))
                self._sums.seconds += time.monotonic() - before
                self.step += 1
                yield self._said(done)
            if self.step == steps:
                yield self._end_epoch()
                self._save()
                saved = time.monotonic()
            if self.group.any(self.stops(), plan.device):
                self.is_stopped = True
                self._save()
                return
            if time.monotonic() - saved > plan.save_every:
                self._save()
                saved = time.monotonic()

    def _take(self, step: Step) -> float:
        """One step of the optimizer; the learning rate that it had."""
        plan = self.plan
        total = self.plan.optimisation
        torch.manual_seed(_number(plan.seed, step.epoch, step.number, self.group.rank))
        self._optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(2, device=plan.device, dtype=torch.float64)
        parts = _parts(step, plan.micro)
        for number, part in enumerate(parts):
            share = len(part.labels) / len(step.labels)
            with self._unsynced(number + 1 < len(parts)), self._cast():
                outcome = self.objective.learn(self._module, part, plan.seed)
                self._scaler.scale(outcome.loss * share).backward()  # type: ignore[no-untyped-call]
            losses += torch.stack((outcome.loss.detach() * share, outcome.right)).double()
        self._scaler.unscale_(self._optimizer)
        if total.clip is not None:
            nn.utils.clip_grad_norm_(list(self.trained.parameters.values()), total.clip)
        lr = float(self._optimizer.param_groups[-1]["lr"])
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update(self._number)
        self._count(losses, len(step.labels))
        return lr

    def _count(self, losses: Tensor, images: int) -> None:
        loss, right = self.group.total(losses).tolist()
        loss /= self.group.size
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {self.step + 1}",
                ADVICE,
            )
        sums = self._sums
        sums.loss += loss * images * self.group.size
        sums.right += int(right)
        sums.images += images * self.group.size

    @property
    def _number(self) -> int:
        """The global number of the step."""
        return self.epoch * self.feed.order.steps + self.step

    def _unsynced(self, is_unsynced: bool) -> AbstractContextManager[None]:
        if is_unsynced and isinstance(self._module, DistributedDataParallel):
            return self._module.no_sync()
        return nullcontext()

    def _cast(self) -> AbstractContextManager[Any]:
        if self.plan.autocast is None:
            return nullcontext()
        return torch.autocast(self.plan.device.type, dtype=self.plan.autocast)

    def _said(self, lr: float) -> StepDone:
        sums = self._sums
        return StepDone(
            self.epoch + 1,
            self.step,
            self.feed.order.steps,
            sums.loss / sums.images,
            self._accuracy(),
            lr,
            sums.images / max(sums.seconds, 1e-9),
        )

    def _accuracy(self) -> float | None:
        """The accuracy on the augmented training images of this epoch so far."""
        return self._sums.right / self._sums.images if self.higher_is_better else None

    def _end_epoch(self) -> EpochDone:
        sums = self._sums
        if self._average is not None:
            self._average.swap()
        loss, answers = self.judge()
        self._check_finite(loss if answers else 0.0)
        score = (answers.accuracy() if self.higher_is_better else -loss) if answers else math.nan
        is_best = answers is None or score > self.best_score
        if is_best:
            self.best_score, self.best_epoch, self.answers = score, self.epoch + 1, answers
            if self.group.is_first:
                self.best()
        if self._average is not None:
            self._average.swap()
        is_classes = answers is not None and self.higher_is_better
        done = EpochDone(
            self.epoch + 1,
            self._number,
            sums.loss / sums.images,
            self._accuracy(),
            loss if answers else None,
            answers.accuracy() if answers and is_classes else None,
            answers.accuracy(5) if answers and is_classes else None,
            float(self._optimizer.param_groups[-1]["lr"]),
            sums.images / max(sums.seconds, 1e-9),
            sums.seconds,
            is_best,
        )
        self.history.append(asdict(done))
        self.epoch, self.step, self._sums = self.epoch + 1, 0, _Sums()
        return done

    def _check_finite(self, held_out_loss: float) -> None:
        """What the last step of an epoch has broken must not become the best model."""
        if not math.isfinite(held_out_loss):
            what = f"the loss of the held-out images is {held_out_loss}"
        elif not all(bool(p.isfinite().all()) for p in self.trained.parameters.values()):
            what = "some weights are no numbers"
        else:
            return
        raise Diverged(f"{what} after epoch {self.epoch + 1}", ADVICE)

    @torch.no_grad()
    def judge(self) -> tuple[float, Answers | None]:
        """The loss of what is held out, and its answers; all processes do their part."""
        module = self.trained.module
        module.eval()
        mine: list[tuple[NDArray[Any], ...]] = []
        for inputs, labels, places in self.feed.held_out():
            with self._cast():
                verdict = self.objective.judge(module, inputs, labels, places)
            parts = (places, labels, verdict.losses, verdict.best, verdict.scores)
            mine.append(tuple(part.numpy() for part in parts))
        module.train()
        everything = [row for part in self.group.gather(mine) for row in part]
        if not any(len(row[0]) for row in everything):
            return math.nan, None
        order = np.argsort(np.concatenate([row[0] for row in everything]))
        truth, lost, best, scores = (
            np.concatenate(column)[order] for column in list(zip(*everything, strict=True))[1:]
        )
        return float(lost.mean()), Answers(best, scores.astype(np.float64), truth)

    def _is_patient(self) -> bool:
        """Whether there has been no better epoch for too long."""
        patience = self.plan.patience
        return patience is not None and self.epoch - self.best_epoch >= patience > 0

    def _save(self) -> None:
        if self.group.is_first:
            self.save(self.state())

    def state(self) -> dict[str, Any]:
        """Everything to go on with. What is drawn follows from the seed and the step's number."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "parameters": {n: p.detach().cpu() for n, p in self.trained.parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._average.values if self._average else None,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "answers": None
            if self.answers is None
            else [
                torch.from_numpy(x)
                for x in (self.answers.best, self.answers.scores, self.answers.truth)
            ],
            "sums": asdict(self._sums),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave. Raises CheckpointError for the state of another run."""
        if (why := self._misfit(state)) is not None:
            raise CheckpointError(f"last/{FILE} is not the state of this run: {why}", START_OVER)
        for name, value in state["parameters"].items():
            self.trained.parameters[name].copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            for name, value in state["ema"].items():
                self._average.values[name].copy_(value)
        self.epoch, self.step = state["epoch"], state["step"]
        self.history = state["history"]
        self.best_epoch, self.best_score = state["best_epoch"], state["best_score"]
        if state["answers"] is not None:
            self.answers = Answers(*(x.numpy() for x in state["answers"]))
        self._sums = _Sums(**state["sums"])

    def _misfit(self, state: Mapping[str, Any]) -> str | None:
        """What does not fit this training in a state, whoever has written it."""
        ours = self.state()
        if missing := sorted(ours.keys() - state.keys()):
            return f"it has no {missing[0]}"
        epochs, steps = self.plan.epochs, self.feed.order.steps
        for name, most in (("epoch", epochs), ("step", steps), ("best_epoch", epochs)):
            if type(state[name]) is not int or not 0 <= state[name] <= most:
                return f"{name} is {str(state[name])[:40]}, at most {most}"
        for name in ("parameters", "schedule", "scaler", "sums", "ema", "best_score"):
            if not _is_like(ours[name], state[name]):
                return f"its {name} are of another shape"
        known = {field.name for field in fields(EpochDone)}
        history = state["history"]
        if not isinstance(history, list) or len(history) != state["epoch"]:
            return "its history is not that of its epochs"
        for row in history:
            is_row = isinstance(row, dict) and row.keys() == known
            if not is_row or not all(isinstance(v, int | float | None) for v in row.values()):
                return "its history is of another shape"
        optimizer = state["optimizer"]
        if not isinstance(optimizer, dict) or not _is_like(
            ours["optimizer"]["param_groups"], optimizer.get("param_groups")
        ):
            return "its optimizer is of another shape"
        return self._misfit_of_moments(optimizer.get("state")) or _misfit_of_answers(
            state["answers"]
        )

    def _misfit_of_moments(self, moments: object) -> str | None:
        every = [p for group in self._optimizer.param_groups for p in group["params"]]
        if moments == {}:
            return None
        if not isinstance(moments, dict) or moments.keys() != set(range(len(every))):
            return "its optimizer is of other parameters"
        for number, parameter in enumerate(every):
            of = moments[number]
            pair = (of.get("exp_avg"), of.get("exp_avg_sq")) if isinstance(of, dict) else ()
            if not pair or not all(_is_like(parameter.detach(), moment) for moment in pair):
                return "its optimizer is of other parameters"
            if not _is_like(torch.zeros(()), of.get("step")):
                return "its optimizer has no steps"
        return None


def _misfit_of_answers(answers: object) -> str | None:
    if answers is None:
        return None
    if isinstance(answers, list) and len(answers) == 3 and all(map(torch.is_tensor, answers)):
        best, scores, truth = (tuple(part.shape) for part in answers)
        if len(best) == 2 and best == scores and truth == best[:1]:
            return None
    return "its answers are of another shape"


def _is_like(ours: object, theirs: object) -> bool:
    """Whether a value has the shape and the type of ours, down to its last part."""
    match ours:
        case Tensor():
            return (
                isinstance(theirs, Tensor)
                and theirs.shape == ours.shape
                and theirs.dtype == ours.dtype
            )
        case dict():
            return (
                isinstance(theirs, dict)
                and ours.keys() == theirs.keys()
                and all(_is_like(value, theirs[name]) for name, value in ours.items())
            )
        case list() | tuple():
            return (
                isinstance(theirs, list | tuple)
                and len(ours) == len(theirs)
                and all(map(_is_like, ours, theirs))
            )
        case bool() | str() | None:
            return type(ours) is type(theirs)
        case int() | float():
            return isinstance(theirs, int | float) and not isinstance(theirs, bool)
    return type(ours) is type(theirs)


def _parts(step: Step, size: int | None) -> list[Step]:
    """A step's images, `size` at a time."""
    if size is None or size >= len(step.labels):
        return [step]
    return [
        Step(
            step.epoch,
            step.number,
            step.inputs[at : at + size],
            step.labels[at : at + size],
            step.places[at : at + size],
            step.first + at,
        )
        for at in range(0, len(step.labels), size)
    ]


def _number(*parts: int) -> int:
    """A seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
