"""Names of tensors, there and back: every layout, both spellings of transformers, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests.fixtures.tiny import FAMILIES, tiny_hf
from tests.models.goldens import NAMES, Golden
from vitcli.checkpoints.detect import layout_of
from vitcli.checkpoints.keymap import drop, fuse, rename, reshape, to_ours, to_theirs
from vitcli.checkpoints.layouts.layout import Json
from vitcli.errors import CheckpointError

State = dict[str, Tensor]


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def round_trip(state: State, config: Json | None = None) -> tuple[State, State]:
    """What the file says without prefix and dropped tensors, and what comes back of it."""
    layout = layout_of(state, config=config)
    names = layout.strip(state)
    rules = layout.rules(names)
    renamed = to_ours(names, rules)
    kept = {name: tensor for name, tensor in names.items() if name not in renamed.dropped}
    return kept, to_theirs(renamed.tensors, rules)


def saved(folder: Path) -> State:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_what_was_loaded_gives_back_every_tensor_of_transformers(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    kept, back = round_trip(saved(tiny_model(family)))
    # the teacher's student: cls_classifier is read, and written as the classifier it is
    kept = {name.replace("cls_classifier", "classifier"): t for name, t in kept.items()}
    assert same(back, kept)


def test_saving_what_was_loaded_gives_back_every_tensor_without_qkv_bias(tmp_path: Path) -> None:
    tiny_hf("vit", tmp_path, qkv_bias=False)
    kept, back = round_trip(saved(tmp_path))
    assert same(back, kept)


@pytest.mark.parametrize("name", NAMES)
def test_saving_what_was_loaded_gives_back_every_tensor_of_timm(name: str) -> None:
    golden = Golden.read(name)
    assert same(round_trip(golden.state, golden.json)[1], golden.state)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_spellings_of_transformers_are_the_same_tensors(
    family: str, tiny_model: Callable[[str], Path]
) -> None:
    folder = tiny_model(family)
    model = getattr(transformers, FAMILIES[family].model).from_pretrained(folder)
    on_disk, in_memory = saved(folder), model.state_dict()
    assert on_disk.keys() != in_memory.keys()
    ours = []
    for state in (on_disk, in_memory):
        names = layout_of(state).strip(state)
        ours.append(to_ours(names, layout_of(state).rules(names)).tensors)
    assert same(*ours)


QKV = ("query.{p}", "key.{p}", "value.{p}")
RULES = (
    rename("embed.{p}", "patch_embed.{p}", "old_embed.{p}"),
    fuse(tuple(f"layer.{{i}}.{x}" for x in QKV), "blocks.{i}.qkv.{p}", ("q.{i}", "k.{i}", "v.{i}")),
    reshape(("kernel",), "head.weight", torch.t, torch.t),
    drop("pooler.{p}", "not needed"),
)


def tensors(*names: str) -> State:
    return {name: torch.arange(4.0).reshape(2, 2) + n for n, name in enumerate(names)}


def test_parts_are_joined_in_the_order_of_the_rule_not_of_the_file() -> None:
    state = tensors("layer.7.value.weight", "layer.7.query.weight", "layer.7.key.weight")
    ours = to_ours(state, RULES).tensors
    value, query, key = state.values()
    assert ours.keys() == {"blocks.7.qkv.weight"}
    assert torch.equal(ours["blocks.7.qkv.weight"], torch.cat([query, key, value]))


def test_dropped_tensors_are_named() -> None:
    renamed = to_ours(tensors("embed.bias", "pooler.weight", "pooler.bias"), RULES)
    assert renamed.tensors.keys() == {"patch_embed.bias"}
    assert renamed.dropped == {"pooler.weight": "not needed", "pooler.bias": "not needed"}


def test_a_reshaped_tensor_comes_back_in_its_own_shape() -> None:
    state = tensors("kernel")
    ours = to_ours(state, RULES).tensors
    assert torch.equal(ours["head.weight"], state["kernel"].T)
    assert same(to_theirs(ours, RULES), state)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["surprise"], r"1 tensor of unknown name: surprise \[2, 2\]"),
        ([f"x{n}" for n in range(7)], r"7 tensors of unknown name: x0 .*, x4 \[2, 2\], \.\.\.\n"),
        (["layer.0.query.gamma"], "unknown name: layer.0.query.gamma"),
        (["layer.x.query.weight"], "unknown name: layer.x.query.weight"),
        (["embed.weights"], "unknown name: embed.weights"),
        (
            ["layer.0.query.weight", "layer.0.value.weight"],
            "blocks.0.qkv.weight is made of 3 tensors, the file has only "
            "layer.0.query.weight, layer.0.value.weight",
        ),
        (
            ["embed.weight", "old_embed.weight"],
            "old_embed.weight and embed.weight are the same tensor, patch_embed.weight",
        ),
    ],
)
def test_a_wrong_name_is_refused(names: list[str], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        to_ours(tensors(*names), RULES)


def test_a_tensor_that_the_layout_cannot_express_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"cannot express blocks.0.ls1.gamma \[2, 2\]"):
        to_theirs(tensors("blocks.0.ls1.gamma"), RULES)
