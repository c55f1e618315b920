"""One step and five equal those of transformers: loss, every gradient, every weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from tests.fixtures.swin import tiny_swin
from vitcli.checkpoints.load import Model, load
from vitcli.models.swin import SmallLinear
from vitcli.models.training import Attend, with_products
from vitcli.records import Preprocess
from vitcli.training.feed import Step
from vitcli.training.mixing import Mixing
from vitcli.training.objective import Classify, Normalise
from vitcli.training.optim import Optimisation, make_optimizer, make_schedule, parameter_groups
from vitcli.training.recipe import Recipe, Trained

PLAN = Preprocess((64, 64), (64, 64))
STEPS, WARMUP, LR = 5, 2, 1e-3


def batch(seed: int) -> Step:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (6, 64, 64, 3), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 7, (6,), generator=draw)
    return Step(0, seed, pixels, labels, torch.arange(6), 0)


def objective(**mixing: float) -> Classify:
    return Classify(Normalise(PLAN, torch.device("cpu")), 7, Mixing(**mixing))


def theirs(hf: nn.Module) -> dict[str, Tensor]:
    """transformers' parameters or gradients under our names."""
    return dict(hf.named_parameters())


@pytest.fixture
def pair(tiny_model: Callable[[str], Path]) -> tuple[Model, transformers.PreTrainedModel]:
    folder = tiny_model("vit")
    hf = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="sdpa")
    return load(str(folder)), hf.train()


def ours_of(hf: transformers.PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """Their weights, read into our names by saving them."""
    hf.save_pretrained(folder)
    return dict(load(str(folder)).network.state_dict())


def test_loss_and_gradients_of_one_step(
    pair: tuple[Model, transformers.PreTrainedModel], tmp_path: Path
) -> None:
    model, hf = pair
    step = batch(0)
    trained = Trained(model.network, Recipe("full"))
    outcome = objective().learn(trained.module.train(), step, 0)
    outcome.loss.backward()
    pixels = Normalise(PLAN, torch.device("cpu"))(step.inputs)
    expected = hf(pixels, labels=step.labels)
    expected.loss.backward()
    assert outcome.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    with torch.no_grad():  # their gradients in our names: written where the weights stand
        for parameter in hf.parameters():
            parameter.copy_(parameter.grad)
    gradients = ours_of(hf, tmp_path)
    assert len(trained.parameters) == len(gradients)
    for name, parameter in trained.parameters.items():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=0, msg=name)


def test_five_steps_of_adamw_and_the_schedule(
    pair: tuple[Model, transformers.PreTrainedModel], tmp_path: Path
) -> None:
    model, hf = pair
    trained = Trained(model.network, Recipe("full"))
    asked = Optimisation(lr=LR, weight_decay=0.1, warmup=WARMUP, steps=STEPS)
    ours = make_optimizer(parameter_groups(trained.parameters, trained.network, asked), asked)
    schedule = make_schedule(ours, asked)
    decays = [p for n, p in hf.named_parameters() if p.ndim > 1 and "embeddings." not in n]
    patches = [p for n, p in hf.named_parameters() if "patch_embeddings.projection.weight" in n]
    decays = [*decays, *patches]
    others = [p for p in hf.parameters() if not any(p is d for d in decays)]
    theirs = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=LR
    )
    their_schedule = transformers.get_cosine_schedule_with_warmup(theirs, WARMUP, STEPS)
    trained.module.train()
    for number in range(STEPS):
        step = batch(number)
        assert ours.param_groups[-1]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        ours.zero_grad()
        objective().learn(trained.module, step, 0).loss.backward()
        nn.utils.clip_grad_norm_(list(trained.parameters.values()), 1.0)
        ours.step()
        schedule.step()
        theirs.zero_grad()
        pixels = Normalise(PLAN, torch.device("cpu"))(step.inputs)
        hf(pixels, labels=step.labels).loss.backward()
        nn.utils.clip_grad_norm_(hf.parameters(), 1.0)
        theirs.step()
        their_schedule.step()
    expected = ours_of(hf, tmp_path)
    for name, parameter in trained.parameters.items():
        found, wanted = parameter.data, expected[name]
        if name.endswith("qkv.bias"):  # a key's bias changes nothing: its gradient is rounding
            found, wanted = (torch.cat([x[:32], x[64:]]) for x in (found, wanted))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=name)


def test_label_smoothing_is_torchs(pair: tuple[Model, transformers.PreTrainedModel]) -> None:
    model, _ = pair
    step = batch(1)
    outcome = objective(smoothing=0.1).learn(model.network, step, 0)
    logits = model.network(Normalise(PLAN, torch.device("cpu"))(step.inputs))
    expected = nn.functional.cross_entropy(logits, step.labels, label_smoothing=0.1)
    assert outcome.loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_checkpointing_gives_the_same_gradients_for_less_memory(
    tiny_model: Callable[[str], Path],
) -> None:
    kept, gradients = [], []
    for checkpointing in (False, True):
        model = load(str(tiny_model("vit")))
        trained = Trained(model.network, Recipe("full"), checkpointing=checkpointing)
        saved = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective().learn(trained.module.train(), batch(0), 0).loss
        loss.backward()
        kept.append(saved)
        gradients.append({n: p.grad.clone() for n, p in trained.parameters.items()})
    assert kept[1] < kept[0] / 4
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_onednns_products_give_torchs_gradients(
    tiny_model: Callable[[str], Path], dtype: torch.dtype, allowed: float
) -> None:
    network = load(str(tiny_model("vit"))).network.requires_grad_(True)
    pixels = torch.randn(3, 3, 64, 48)
    found = []
    for module in (network, with_products(network, dtype)):
        network.zero_grad()
        module(pixels).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in network.named_parameters()})
    for name, expected in found[0].items():
        delta = (found[1][name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert delta < allowed, name


def test_attention_by_products_is_torchs_and_so_are_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vitcli.models.onednn.SCORES", 2 * 7 * 7)  # two heads at once, of five
    qkv = torch.randn(3, 5, 7, 4, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.scaled_dot_product_attention(*qkv)
    torch.testing.assert_close(Attend.apply(qkv), expected, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(Attend.apply, (qkv,))


def test_lora_begins_as_the_model_and_merges_into_it(tiny_model: Callable[[str], Path]) -> None:
    model = load(str(tiny_model("vit")))
    pixels = torch.randn(2, 3, 64, 64)
    before = model.network(pixels)
    trained = Trained(model.network, Recipe("lora", rank=4, alpha=8.0), seed=3)
    torch.testing.assert_close(trained.module(pixels), before, atol=1e-5, rtol=0)
    assert {n.rpartition(".")[2] for n in trained.parameters} == {
        "lora_a",
        "lora_b",
        "weight",
        "bias",
    }
    assert all(n.startswith(("blocks.", "head.")) for n in trained.parameters)
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    expected = trained.module(pixels)
    model.network.load_state_dict(trained.tensors())
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(model.network(pixels), expected, atol=1e-5, rtol=0)


def test_layers_below_learn_more_slowly(tiny_model: Callable[[str], Path]) -> None:
    """Rates by name, as BEiT and MAE have them: decay ** (depth + 1 - layer)."""
    trained = Trained(load(str(tiny_model("vit"))).network, Recipe("full"))
    asked = Optimisation(lr=1.0, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(trained.parameters, trained.network, asked)
    rates = {n: (g["lr"], g["weight_decay"]) for g in groups for n in g["names"]}
    assert rates.keys() == trained.parameters.keys()
    assert rates["head.weight"] == (1.0, 0.3) and rates["head.bias"] == (1.0, 0.0)
    assert rates["norm.weight"] == (1.0, 0.0)
    assert rates["blocks.2.attn.qkv.weight"] == (0.5, 0.3)
    assert rates["blocks.0.norm1.weight"] == (0.125, 0.0)
    assert rates["patch_embed.proj.weight"] == (0.0625, 0.3)
    assert rates["pos_embed"] == rates["cls_token"] == (0.0625, 0.0)


def test_last_n_trains_the_last_blocks_norm_and_head(tiny_model: Callable[[str], Path]) -> None:
    trained = Trained(load(str(tiny_model("vit"))).network, Recipe("last", blocks=1))
    assert {n.split(".")[0] for n in trained.parameters} == {"blocks", "norm", "head"}
    assert {n.split(".")[1] for n in trained.parameters if n.startswith("blocks")} == {"2"}


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of 2, 3 and 2 blocks."""
    folder = tmp_path_factory.mktemp("models") / "swin"
    tiny_swin("SwinForImageClassification", folder)
    return folder


def test_every_parameter_of_a_swin_learns_at_the_rate_that_timm_gives_it(swin: Path) -> None:
    """`param_groups_layer_decay` over SwinTransformer's `group_matcher` and `no_weight_decay`."""
    trained = Trained(load(str(swin)).network, Recipe("full"))
    asked = Optimisation(lr=1.0, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(trained.parameters, trained.network, asked)
    assert sorted(n for g in groups for n in g["names"]) == sorted(trained.parameters)
    rates = {n: (g["lr"], g["weight_decay"]) for g in groups for n in g["names"]}
    assert rates["head.weight"] == (1.0, 0.3) and rates["norm.weight"] == (1.0, 0.0)
    for layer, block in enumerate(("0.0", "0.1", "1.0", "1.1", "1.2", "2.0", "2.1"), start=1):
        name = "layers.{}.blocks.{}".format(*block.split("."))
        assert rates[f"{name}.attn.qkv.weight"] == (0.5 ** (8 - layer), 0.3)
        assert rates[f"{name}.attn.relative_position_bias_table"] == (0.5 ** (8 - layer), 0.0)
    assert rates["layers.0.downsample.reduction.weight"] == (0.5**5, 0.3)
    assert rates["layers.1.downsample.norm.weight"] == (0.5**2, 0.0)
    assert rates["patch_embed.proj.weight"] == (0.5**8, 0.3)
    assert rates["patch_norm.weight"] == (0.5**8, 0.0)


@pytest.fixture(scope="module")
def swin_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "swin_v2"
    tiny_swin("Swinv2ForImageClassification", folder)
    return folder


def test_the_position_mlp_and_the_scales_of_a_swin_v2_have_no_weight_decay(swin_v2: Path) -> None:
    """timm's `no_weight_decay`; and no product on oneDNN kernels takes the place of the MLP."""
    trained = Trained(load(str(swin_v2)).network, Recipe("full"), dtype=torch.bfloat16)
    asked = Optimisation(lr=1.0, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(trained.parameters, trained.network, asked)
    decays = {n: group["weight_decay"] for group in groups for n in group["names"]}
    attention = "layers.1.blocks.2.attn."
    assert decays[attention + "qkv.weight"] == 0.3
    for name in ("logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight", "q_bias", "v_bias"):
        assert decays[attention + name] == 0.0
    assert type(trained.module.get_submodule(attention + "cpb_mlp.2")) is SmallLinear


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_last_n_of_a_swin_trains_its_last_blocks_norm_and_head(swin: Path, blocks: int) -> None:
    network = load(str(swin)).network
    trained = Trained(network, Recipe("last", blocks=blocks))
    expected = ["layers.2.blocks.1.", "layers.2.blocks.0.", "layers.1.blocks.2."][:blocks]
    expected += ["layers.1.downsample."] * (blocks > 1) + ["norm.", "head."]
    assert trained.parameters.keys() == {
        name for name, _ in network.named_parameters() if name.startswith(tuple(expected))
    }


@pytest.mark.parametrize("version", ["swin", "swin_v2"])
def test_lora_is_added_to_every_linear_map_of_a_swins_blocks(
    version: str, request: pytest.FixtureRequest
) -> None:
    model = load(str(request.getfixturevalue(version)))
    pixels = torch.randn(2, 3, 64, 64)
    before = model.network(pixels)
    trained = Trained(model.network, Recipe("lora", rank=4, alpha=8.0), seed=3)
    torch.testing.assert_close(trained.module(pixels), before, atol=1e-5, rtol=0)
    maps = {n.rpartition(".")[0] for n in trained.parameters if n.endswith("lora_b")}
    assert len(maps) == 7 * 4 and all(".blocks." in name for name in maps)
    assert not any("cpb_mlp" in name for name in maps)
    assert {n for n in trained.parameters if "lora" not in n} == {"head.weight", "head.bias"}
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    expected = trained.module(pixels)
    model.network.load_state_dict(trained.tensors())
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(model.network(pixels), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["vit", "mae-pretraining", "vit-mim"])
def test_every_parameter_of_a_vit_and_its_decoder_is_in_one_group(
    tiny_model: Callable[[str], Path], family: str
) -> None:
    model = load(str(tiny_model(family)), keep_decoder=True)
    network = model.reconstruction or model.network
    trained = Trained(network, Recipe("full"))
    asked = Optimisation(lr=1.0, weight_decay=0.3, layer_decay=0.5)
    groups = parameter_groups(trained.parameters, network, asked)
    assert sorted(n for g in groups for n in g["names"]) == sorted(trained.parameters)
    for group in groups:
        for name in group["names"]:
            own = name.removeprefix("encoder.")
            block = own.split(".")[1] if own.startswith("blocks.") else None
            first = own.split(".")[0] in ("patch_embed", "pos_embed", "cls_token")
            power = 0 if block is None else 3 - int(block)
            assert group["lr"] == 0.5 ** (4 if first else power), name
            is_token = own.split(".")[-1] in ("cls_token", "pos_embed", "mask_token")
            decays = dict(network.named_parameters())[name].ndim > 1 and not is_token
            assert group["weight_decay"] == 0.3 * decays, name
