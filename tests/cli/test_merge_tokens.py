"""`--merge-tokens`: the rows, what records them, what resumes them, and what refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vitcli
from tests.conftest import Vit
from tests.fixtures.photos import Corpus
from tests.fixtures.weights import photo
from vitcli.images.preprocess import preprocess
from vitcli.models.merging import AUTO, merged_pairs
from vitcli.models.prepare import prepare

Models = Callable[[str], Path]


def test_the_rows_are_those_of_a_network_that_merges(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    images, model = [tmp_path / f"{n}.png" for n in range(3)], tiny_model("deit-distilled")
    drawn = [photo(80 + 20 * number, 90) for number in range(3)]
    for image, file in zip(drawn, images, strict=True):
        image.save(file)
    loaded = vitcli.load(str(model))
    ready = prepare(loaded.network.with_merging(12), loaded.preprocess, "cpu")
    pixels = np.stack([preprocess(image, loaded.preprocess) for image in drawn])
    expected = ready.run(lambda network, x: network(x), pixels)
    run = ("classify", *images, "-m", model, "-j", "0", "--scores", "logit", "-k", "7")
    ended = vit(*run, "--merge-tokens", "12")
    assert ended.code == 0, ended.err
    for line, logits in zip(ended.out.splitlines(), expected, strict=True):
        for found in json.loads(line)["predictions"]:
            assert abs(found["score"] - logits[found["index"]]) < 1e-5
    assert vit(*run).out != ended.out
    rows = vitcli.classify(images, model=loaded, merge_tokens=12, scores="logit", workers=0)
    assert rows[0].predictions[0].score == pytest.approx(expected[0].max().item(), abs=1e-5)


def test_nothing_merged_is_the_run_without_the_option(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    run = ("embed", *photos.good[:3], "-m", tiny_model("vit"), "-j", "0", "-o")
    assert vit(*run, "plain.npy").code == 0
    ended = vit(*run, "none.npy", "--merge-tokens", "0")
    assert ended.code == 0, ended.err
    plain, none = (tmp_path / f"{name}.npy" for name in ("plain", "none"))
    assert plain.read_bytes() == none.read_bytes()
    assert "merge_tokens" not in json.loads((tmp_path / "none.meta.json").read_text())
    ended = vit(*run, "plain.npy", "--merge-tokens", "0", "--resume")
    assert (ended.code, "already complete" in ended.err) == (0, True)


def test_the_number_is_recorded_and_another_does_not_resume(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    run = ("embed", *photos.good[:3], "-m", tiny_model("vit"), "-j", "0", "-o", "feats.npy")
    assert vit(*run, "--merge-tokens", "5").code == 0
    assert json.loads((tmp_path / "feats.meta.json").read_text())["merge_tokens"] == 5
    ended = vit(*run, "--merge-tokens", "6", "--resume")
    assert ended.code == 1
    assert "--merge-tokens 5 (now 6)" in ended.err
    ended = vit(*run, "--resume")
    assert ended.code == 1
    assert "--merge-tokens 5 (now 0)" in ended.err
    ended = vit(*run, "--merge-tokens", "5", "--resume")
    assert (ended.code, "already complete" in ended.err) == (0, True)


def test_at_most_half_of_the_patches_are_merged(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    run = ("embed", photos.good[0], "-m", tiny_model("vit"), "-j", "0", "-o")
    for name, count in (("half.npy", "32"), ("more.npy", "9999")):
        assert vit(*run, name, "--merge-tokens", count).code == 0
    assert (tmp_path / "half.npy").read_bytes() == (tmp_path / "more.npy").read_bytes()
    assert json.loads((tmp_path / "more.meta.json").read_text())["merge_tokens"] == 32


def test_auto_follows_from_the_model_and_is_said(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    model = tiny_model("vit")
    count = merged_pairs(vitcli.load(str(model)).config, "auto")
    assert 0 < AUTO < 1
    assert 0 < count < 32
    run = ("embed", *photos.good[:2], "-m", model, "-j", "0", "-o")
    ended = vit(*run, "auto.npy", "--merge-tokens", "auto")
    assert f"--merge-tokens auto is {count} pairs of patches in each block" in ended.err
    assert vit(*run, "same.npy", "--merge-tokens", str(count)).code == 0
    assert (tmp_path / "auto.npy").read_bytes() == (tmp_path / "same.npy").read_bytes()
    assert json.loads((tmp_path / "auto.meta.json").read_text())["merge_tokens"] == count


def test_layers_and_means_are_pooled_over_all_patches(tiny_model: Models, photos: Corpus) -> None:
    model = vitcli.load(str(tiny_model("vit")))
    images = [str(path) for path in photos.good[:3]]
    first = {"model": model, "layers": 1, "pool": "mean", "norm": False, "workers": 0}
    exact = vitcli.embed(images, **first).embeddings
    merged = vitcli.embed(images, merge_tokens=20, **first).embeddings
    # The mean of the first block differs by its feed-forward alone, which reads merged tokens.
    assert 1e-4 < np.abs(exact - merged).max() < np.abs(exact).max() / 2
    two = vitcli.embed(images, model=model, layers=[0, 2], merge_tokens=20, workers=0)
    assert two.embeddings.shape == (3, 64)


def test_search_embeds_its_queries_as_the_index(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    images = photos.good[:4]
    run = ("embed", *images, "-m", tiny_model("vit"), "-j", "0", "--l2", "-o", "feats.npy")
    assert vit(*run, "--merge-tokens", "20").code == 0
    rows = vitcli.search(str(tmp_path / "feats.npy"), [str(images[2])], k=1, workers=0)
    assert rows[0].hits[0].path == str(images[2])
    assert rows[0].hits[0].score == pytest.approx(1.0, abs=1e-6)


def test_a_config_file_has_the_option(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    (tmp_path / "vit.toml").write_text("[embed]\nmerge-tokens = 7\n")
    run = ("embed", photos.good[0], "-m", tiny_model("vit"), "-j", "0", "-o", "feats.npy")
    assert vit(*run).code == 0
    assert json.loads((tmp_path / "feats.meta.json").read_text())["merge_tokens"] == 7


REFUSED = {
    "patches": (
        ("embed", "--pool", "patches", "-m", "vit"),
        "--pool patches gives each patch its vector, and --merge-tokens merges them",
    ),
    "maps": (
        ("attention", "-m", "vit"),
        "maps have a value for each patch, and --merge-tokens merges patches",
    ),
    "reconstruction": (
        ("reconstruct", "-m", "mae-pretraining"),
        "images are reconstructed by PyTorch in fp32, without --merge-tokens 4",
    ),
    "rotations": (
        ("embed", "-m", "dinov3"),
        "cannot merge tokens: each block rotates its tokens by their positions, and a merged token "
        "has several",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_every_patch_is_refused_by_name(
    vit: Vit, tiny_model: Models, photos: Corpus, case: str
) -> None:
    (command, *args, family), said = REFUSED[case]
    out = ("-o", "out.npy" if command == "embed" else "out")
    run = (command, photos.good[0], *args, tiny_model(family), *out, "-j", "0")
    ended = vit(*run, "--merge-tokens", "4")
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize("value", ["-1", "1.5", "all", ""])
def test_a_number_that_is_none_is_refused(vit: Vit, photos: Corpus, value: str) -> None:
    ended = vit("classify", photos.good[0], f"--merge-tokens={value}")
    assert ended.code == 2
    assert f"--merge-tokens {value}" in ended.err
    assert "is not a number of pairs\n  give a number, or auto" in ended.err


@pytest.mark.parametrize("value", [-1, 1.5, "all", True, None])
def test_what_is_no_number_is_refused_in_python(photos: Corpus, value: object) -> None:
    with pytest.raises(vitcli.VitError, match=f"--merge-tokens {value}"):
        vitcli.classify([str(photos.good[0])], merge_tokens=value)


def test_several_models_record_a_number_each(tiny_model: Models) -> None:
    from vitcli.jobs.job import Running
    from vitcli.jobs.loading import described_merging

    models = [vitcli.load(str(tiny_model(name))) for name in ("vit", "deit")]
    assert described_merging(models, Running(merge_tokens=40)) == {"merge_tokens": [32, 32]}
    assert described_merging(models, Running()) == {}
