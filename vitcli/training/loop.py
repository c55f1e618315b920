"""The training loop: a generator that yields an event after each step and each epoch.

Every random draw depends only on the seed and the number of the step, so a resumed run ends with
the same weights, bit for bit, as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
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
from vitcli.training.state_check import misfit

ADVICE = "a lower --lr, a longer --warmup, or --dtype fp32 may help"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The length, the optimisation and the saves of a training. `micro` images go through the
    network at a time, None for all; `autocast` is the dtype of torch.autocast, None for fp32 or if
    the module casts by itself; `save_every` is in seconds."""

    epochs: int
    seed: int
    optimisation: Optimisation
    device: torch.device
    micro: int | None = None
    autocast: torch.dtype | None = None
    ema: float | None = None
    patience: int | None = None
    save_every: float = 600.0


@dataclass(slots=True)
class _Sums:
    """Running totals of the current epoch."""

    loss: float = 0.0
    right: int = 0
    images: int = 0
    seconds: float = 0.0


class Diverged(VitError):
    """The loss or the weights became NaN or infinite."""


@dataclass(slots=True)
class Trainer:
    """Trains `trained.module` on the steps of `feed`.

    The first process calls `save` with the state after each epoch and every `plan.save_every`
    seconds, and `best` after each epoch whose score on the held-out images is the best so far. The
    score is the accuracy, or without `higher_is_better` minus the loss. Each process calls `judged`
    with the number of held-out images that it has computed.
    """

    trained: Trained
    feed: Feed
    objective: Objective
    plan: TrainingPlan
    save: Callable[[dict[str, Any]], None]
    best: Callable[[], None]
    group: Group = Group()
    judged: Callable[[int], None] = lambda images: None
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
        plan, optimisation = self.plan, self.plan.optimisation
        groups = parameter_groups(self.trained.parameters, self.trained.network, optimisation)
        self._optimizer = make_optimizer(groups, optimisation)
        self._schedule = make_schedule(self._optimizer, optimisation)
        self._scaler = torch.amp.GradScaler(
            plan.device.type, enabled=plan.autocast == torch.float16
        )
        self._average = Average(self.trained.parameters, plan.ema) if plan.ema else None
        self._module = self.trained.module
        if self.group.size > 1:
            ids = [plan.device.index] if plan.device.type == "cuda" else None
            self._module = DistributedDataParallel(self._module, device_ids=ids)

    def run(self) -> Iterator[StepDone | EpochDone]:
        """Train to the last epoch or until `plan.patience` runs out. When `stops` returns True,
        save the state, set `is_stopped` and return."""
        plan, steps = self.plan, self.feed.order.steps
        saved = time.monotonic()
        self.trained.module.train()
        feed = self.feed.steps(self.epoch, self.step, plan.epochs)
        while self.epoch < plan.epochs and not self._has_stalled():
            if self.step < steps:
                before = time.monotonic()
                lr = self._take(next(feed))
                self._sums.seconds += time.monotonic() - before
                self.step += 1
                yield self._step_done(lr)
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
        """Take one optimizer step and return its learning rate."""
        plan, clip = self.plan, self.plan.optimisation.clip
        torch.manual_seed(_seed_of(plan.seed, step.epoch, step.number, self.group.rank))
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
        if clip is not None:
            nn.utils.clip_grad_norm_(list(self.trained.parameters.values()), clip)
        lr = float(self._optimizer.param_groups[-1]["lr"])
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update(self._global_step)
        self._count(losses, len(step.labels))
        return lr

    def _count(self, losses: Tensor, images: int) -> None:
        """Add the loss and the right answers of a step to the sums. Raise Diverged for a loss that
        is not finite."""
        own = torch.stack((losses[0] * images, losses[1], losses.new_tensor(images)))
        loss, right, images = self.group.total(own).tolist()
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {self.step + 1}",
                ADVICE,
            )
        sums = self._sums
        sums.loss += loss
        sums.right += int(right)
        sums.images += int(images)

    @property
    def _global_step(self) -> int:
        """The number of the step, counted from 0 at the beginning of the training."""
        return self.epoch * self.feed.order.steps + self.step

    def _unsynced(self, is_unsynced: bool) -> AbstractContextManager[None]:
        if is_unsynced and isinstance(self._module, DistributedDataParallel):
            return self._module.no_sync()
        return nullcontext()

    def _cast(self) -> AbstractContextManager[Any]:
        if self.plan.autocast is None:
            return nullcontext()
        return torch.autocast(self.plan.device.type, dtype=self.plan.autocast)

    def _step_done(self, lr: float) -> StepDone:
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
        """The accuracy so far on this epoch's augmented training images; None without classes."""
        return self._sums.right / self._sums.images if self.higher_is_better else None

    def _end_epoch(self) -> EpochDone:
        sums = self._sums
        if self._average is not None:
            self._average.swap()
        loss, answers = self.evaluate()
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
            self._global_step,
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
        """Raise Diverged if the last step of the epoch broke the model, before it is saved as the
        best one."""
        if not math.isfinite(held_out_loss):
            what = f"the loss of the held-out images is {held_out_loss}"
        elif not all(bool(p.isfinite().all()) for p in self.trained.parameters.values()):
            what = "some weights are NaN or infinite"
        else:
            return
        raise Diverged(f"{what} after epoch {self.epoch + 1}", ADVICE)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, Answers | None]:
        """Return the loss and the answers on the held-out images, or NaN and None without any. Each
        process computes a share of them."""
        module = self.trained.module
        module.eval()
        own: list[tuple[NDArray[Any], ...]] = []
        done = 0
        for inputs, labels, places in self.feed.held_out():
            with self._cast():
                judged = self.objective.judge(module, inputs, labels, places)
            parts = (places, labels, judged.losses, judged.best, judged.scores)
            own.append(tuple(part.numpy() for part in parts))
            done += len(labels)
            self.judged(done)
        module.train()
        batches = [batch for part in self.group.gather(own) for batch in part]
        if not any(len(batch[0]) for batch in batches):
            return math.nan, None
        columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
        order = np.argsort(columns[0])
        truth, losses, best, scores = (column[order] for column in columns[1:])
        return float(losses.mean()), Answers(best, scores.astype(np.float64), truth)

    def _has_stalled(self) -> bool:
        """Whether the last `plan.patience` epochs were no better than the best before them."""
        patience = self.plan.patience
        return patience is not None and self.epoch - self.best_epoch >= patience > 0

    def _save(self) -> None:
        if self.group.is_first:
            self.save(self.state())

    def state(self) -> dict[str, Any]:
        """The state that `restore` reads."""
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
            "answers": self.answers and [torch.from_numpy(x) for x in self.answers.arrays],
            "sums": asdict(self._sums),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state`. Raises CheckpointError for the state of another run."""
        parameters = [p.detach() for g in self._optimizer.param_groups for p in g["params"]]
        why = misfit(self.state(), state, parameters, self.plan.epochs, self.feed.order.steps)
        if why is not None:
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


def _parts(step: Step, size: int | None) -> list[Step]:
    """Divide a step into parts of `size` images."""
    if size is None or size >= len(step.labels):
        return [step]
    return [
        replace(
            step,
            inputs=step.inputs[at : at + size],
            labels=step.labels[at : at + size],
            places=step.places[at : at + size],
            first=step.first + at,
        )
        for at in range(0, len(step.labels), size)
    ]


def _seed_of(*parts: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
