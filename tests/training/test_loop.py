"""The loop and what it is made of, against plain arithmetic: parts, averages, patience, mixing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.checkpoints.load import load
from vitcli.models.layers import DropPath
from vitcli.records import Preprocess
from vitcli.training.events import EpochDone
from vitcli.training.feed import Order, Step
from vitcli.training.loop import Diverged, Trainer, TrainingPlan
from vitcli.training.mixing import Mixing, mix, soft_cross_entropy, targets
from vitcli.training.objective import Classify, Normalise
from vitcli.training.optim import Optimisation, class_weights
from vitcli.training.recipe import Recipe, Trained

CPU = torch.device("cpu")
PLAN = Preprocess((64, 64), (64, 64))


@dataclass
class Noise:
    """12 images of noise, 6 a step; 6 others are held out."""

    order: Order = field(default_factory=lambda: Order(12, 6, 0))
    held: int = 6

    def images(self, seed: int, count: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (count, 64, 64, 3), generator=draw, dtype=torch.uint8)
        return pixels, torch.randint(0, 7, (count,), generator=draw)

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        pixels, labels = self.images(0, 12)
        for e in range(epoch, epochs):
            for s in range(step if e == epoch else 0, self.order.steps):
                at = torch.from_numpy(self.order.places(e, s))
                yield Step(e, s, pixels[at], labels[at], at, 0)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if self.held:
            yield (*self.images(1, self.held), torch.arange(self.held))


def trainer(network: nn.Module, *, lr: float = 1e-3, epochs: int = 2, **plan: Any) -> Trainer:
    return Trainer(
        Trained(network, Recipe("full")),
        Noise(),
        Classify(Normalise(PLAN, CPU), 7, Mixing(mixup=0.3, cutmix=0.7)),
        TrainingPlan(
            epochs=epochs,
            seed=0,
            optimisation=Optimisation(lr=lr, steps=2 * epochs),
            device=CPU,
            **plan,
        ),
        save=lambda state: None,
        best=lambda: None,
    )


@pytest.fixture
def network(tiny_model: Callable[[str], Path]) -> Callable[[], nn.Module]:
    return lambda: load(str(tiny_model("vit"))).network


def test_a_step_in_parts_is_the_step(network: Callable[[], nn.Module]) -> None:
    """--accumulate, and what a CPU takes at a time: also where neighbours are mixed."""
    whole, parts = trainer(network()), trainer(network(), micro=2)
    for one, other in zip(whole.run(), parts.run(), strict=True):
        name = "train_loss" if isinstance(one, EpochDone) else "loss"
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-5)
    for name, parameter in whole.trained.parameters.items():
        if name.endswith("qkv.bias"):
            continue  # a key's bias changes nothing: its gradient is rounding, which AdamW scales
        torch.testing.assert_close(
            parts.trained.parameters[name], parameter, atol=1e-4, rtol=0, msg=name
        )


def test_the_average_is_the_formulas(network: Callable[[], nn.Module]) -> None:
    """It begins as the weights are, and its first steps count for more."""
    training = trainer(network(), ema=0.3)
    wanted = training.trained.parameters["head.weight"].detach().clone()
    best = []
    training.best = lambda: best.append(training.trained.tensors()["head.weight"].clone())
    steps = 0
    for event in training.run():
        if not isinstance(event, EpochDone):
            decay = min(0.3, (1 + steps) / (10 + steps))
            current = training.trained.parameters["head.weight"].detach()
            wanted = decay * wanted + (1 - decay) * current
            steps += 1
            last = current.clone()
        elif event.is_best:
            torch.testing.assert_close(best[-1], wanted)
    assert steps == 4
    torch.testing.assert_close(training.state()["ema"]["head.weight"], wanted)
    assert torch.equal(training.trained.parameters["head.weight"], last)


def test_patience_ends_what_gets_no_better(network: Callable[[], nn.Module]) -> None:
    training = trainer(network(), lr=0.0, epochs=9, patience=2)
    epochs = [event for event in training.run() if isinstance(event, EpochDone)]
    assert [epoch.is_best for epoch in epochs] == [True, False, False]


def test_a_loss_that_is_no_number_ends_it_with_advice(network: Callable[[], nn.Module]) -> None:
    broken = network()
    with torch.no_grad():
        broken.head.bias[0] = torch.inf
    with pytest.raises(Diverged, match=r"the loss became nan in epoch 1, step 1\n.*--lr"):
        list(trainer(broken).run())


@pytest.mark.parametrize(
    ("held", "told"), [(6, "of the held-out images is nan"), (0, "weights are NaN")]
)
def test_what_the_last_step_of_an_epoch_has_broken_is_not_kept(
    network: Callable[[], nn.Module], held: int, told: str
) -> None:
    best: list[int] = []
    training = trainer(network(), lr=torch.inf, epochs=1)
    training.feed = Noise(Order(12, 12, 0), held)
    training.best = lambda: best.append(training.epoch)
    with pytest.raises(Diverged, match=rf"{told}.* after epoch 1\n.*--lr"):
        list(training.run())
    assert best == [] and training.history == []


def test_mixed_pictures_have_the_labels_of_their_shares() -> None:
    """Mixup: one share for pixels and targets; CutMix: the share is that of the pixels."""
    pixels = torch.zeros(6, 3, 20, 30)
    pixels[1::2] = 1.0
    target = targets(torch.tensor([0, 1] * 3), 2, 0.0)
    for mixing in (Mixing(mixup=0.8), Mixing(cutmix=1.0)):
        mixed, soft = mix(pixels, target, mixing, (0, 1, 2), 0)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft[:, 1])
        assert len(set(soft[:, 1].tolist())) > 3
        is_cut = mixing.cutmix > 0
        assert (set(mixed.unique().tolist()) == {0.0, 1.0}) is is_cut
        parts = [
            mix(pixels[at : at + 2], target[at : at + 2], mixing, (0, 1, 2), at)
            for at in range(0, 6, 2)
        ]
        assert torch.equal(torch.cat([part[0] for part in parts]), mixed)


def test_classes_of_few_images_weigh_more() -> None:
    """Weights are scikit-learn's `balanced`, the loss is torch's without its division."""
    weights = class_weights([1, 3, 8])
    assert weights.tolist() == pytest.approx([12 / 3, 12 / 9, 12 / 24])
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    found = soft_cross_entropy(logits, targets(labels, 3, 0.0), weights)
    expected = F.cross_entropy(logits, labels, weights, reduction="none").mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_stochastic_depth_grows_and_leaves_whole_images_out(
    network: Callable[[], nn.Module],
) -> None:
    trained = Trained(network(), Recipe("full"), drop_path=0.5)
    layers = [m for m in trained.module.modules() if isinstance(m, DropPath)]
    assert [m.rate for m in layers] == pytest.approx(torch.linspace(0, 0.5, len(layers)).tolist())
    torch.manual_seed(0)
    rows = layers[-1].train()(torch.ones(400, 2, 3)).flatten(1)
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert (rows == rows[:, :1]).all()
    assert rows.mean().item() == pytest.approx(1, abs=0.15)
    assert torch.equal(layers[-1].eval()(torch.ones(2, 2)), torch.ones(2, 2))
