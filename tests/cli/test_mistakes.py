"""The mistakes of a newcomer: each is answered in at most two lines, which name the way out."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vit
from vitcli import errors
from vitcli.checkpoints.catalogue import nearest, timm_id

EXAMPLES = Path(__file__).parents[2] / "examples"

# What is typed in a folder with photos/, run/, two/ (folders of classes) and some files; the exit
# code, and what the answer says.
MISTAKES = """
vit clasify photos | 2 | did you mean: vit classify photos
vit photos | 2 | vit classify photos
vit predict photos -m demo | 2 | vit classify photos -m demo
vit version | 2 | vit --version
vit -m demo classify photos | 2 | vit classify photos -m demo
vit frobnicate | 2 | it has classify, embed
vit models pul demo | 2 | vit models pull demo
vit classify photos --modle demo | 2 | did you mean --model?
vit classify photos --topk 3 | 2 | did you mean --top-k?
vit classify photos --gpu | 2 | did you mean --device?
vit classify photos --epochs 3 | 2 | an option of vit finetune
vit classify photos -format csv | 2 | write --format
vit classify photos –model demo | 2 | --model
vit classify photos -m | 2 | -m MODEL
vit classify photos --quiet=yes | 2 | --quiet takes no value
vit classify photos -k 0 | 2 | give 1 or more
vit classify photos -k five | 2 | -k five is not a whole number
vit classify photos --format cvs | 2 | did you mean --format csv?
vit classify photos --dtype float16 | 2 | did you mean --dtype fp16?
vit classify photos --engine onnxruntime | 2 | did you mean --engine onnx?
vit embed photos --pool meen | 2 | did you mean --pool mean?
vit finetune two -o run --lr fast | 2 | --lr fast is not a number
vit finetune two -m demo | 2 | vit finetune needs -o DIR
vit finetune two run -m demo | 2 | vit finetune two -m demo -o run
vit convert demo | 2 | vit convert needs DST
vit search | 2 | vit search feats.npy
vit classify demo | 2 | vit classify photos -m demo
vit classify weights.pth photos | 2 | vit classify photos -m weights.pth
vit embed photos feats.npy -m demo | 2 | vit embed photos -m demo -o feats.npy
vit classify photos labels.csv -m demo | 2 | vit classify photos -m demo -o labels.csv
vit map index.npy map.html | 2 | vit map index.npy -o map.html
vit search index.npy a.jpg page.html | 2 | vit search index.npy a.jpg --html page.html
vit classify my photos -m demo | 2 | vit classify 'my photos' -m demo
vit info demo photos extra | 2 | quote a name with spaces
vit classify photos -m dmo | 1 | did you mean demo?
vit classify photos -m dinov2-base | 1 | did you mean facebook/dinov2-base?
vit classify photos -m google/vit-base-patch16-225 --offline | 1 | vit-base-patch16-224?
vit classify photos -m vit_base_patch16_224 --offline | 1 | timm/vit_base_patch16_224.augreg2
vit classify photos -m facebook/dinov3-vitb16-pretrain-lvd1689m --offline | 1 | timm/vit_base
vit classify photos -m https://huggingface.co/google/vit-base-patch16-224 | 1 | give the hub id
vit classify photos -m ./weight.pth | 1 | did you mean weights.pth?
vit classify photos -m photos/digit-0-0036.png | 1 | a picture, not a model
vit classify photos -m photos | 1 | photos holds images, not a model
vit classify photo -m demo | 3 | did you mean photos?
vit classify C:\\\\photos -m demo | 3 | a path of Windows
vit classify photos/*.bmp -m demo | 1 | photos holds digit-0-0036.png
vit classify empty -m demo | 1 | no images in empty
vit classify notes.txt -m demo | 3 | not an image
vit classify --files-from note.txt -m demo | 1 | did you mean notes.txt?
vit classify photos -m demo -o labels.xlsx | 2 | known are jsonl, csv
vit classify photos -m demo -o notes.csv | 1 | --overwrite replaces it
vit classify photos -m demo -o new/labels.csv | 1 | mkdir -p new
vit classify photos -m demo -o empty | 1 | a file in it
vit classify photos -m demo --device cuda | 1 | --device cpu
vit classify photos -m demo --device gpu | 1 | known are auto, cpu, cuda
vit classify photos -m demo --labels notes.txt | 1 | give 10 names, one per line
vit classify photos -m demo --labels note.txt | 1 | did you mean notes.txt?
vit classify photos -m demo --classes cat,dog | 2 | vit models --for words
vit classify photos -m demo --image-size 30 | 2 | the nearest is 32x32
vit classify photos -m demo --image-size 32*32 | 2 | HEIGHTxWIDTH
vit classify photos -m demo --threshold 50 | 2 | no score is above 1
vit classify photos -m demo --shard 0/4 -o a.csv | 2 | such as 1/4
vit classify photos -m demo --shard 1/4 | 2 | name it with --out FILE
vit classify photos -m demo --resume | 2 | --out
vit classify photos -m demo --batch-size 0 | 2 | 1 or more
vit classify photos -m demo -o a.csv --resume --overwrite | 2 | leave out one of them
vit embed photos -m demo -o f.npy --resume --overwrite | 2 | leave out one of them
vit attention photos -m demo -o maps --resume --overwrite | 2 | leave out one of them
vit dedupe index.npy -o twins.csv --resume --overwrite | 2 | leave out one of them
vit finetune two -o run -m demo --resume --overwrite | 2 | leave out one of them
vit classify photos -m demo --select 'label = "cat"' | 2 | label >>>= "cat"
vit embed photos -m demo -o f.npy --layer 99 | 2 | the model has 4 blocks
vit embed photos -m demo -o f.npy --layers 1-3 | 2 | such as 3,6,-1
vit embed photos -m demo -o f.npy --pool map | 2 | --pool cls
vit embed photos -m demo -o f.csv | 2 | known are npy
vit search feats.npy a.jpg | 1 | vit embed IMAGES -o feats.npy
vit search photos a.jpg | 1 | vit embed photos -o feats.npy
vit dedupe photos | 1 | vit embed photos -o feats.npy
vit merge 'feats-*.npy' -o feats.npy | 1 | feats-
vit finetune tow -o run -m demo | 1 | did you mean two?
vit finetune photos -o run -m demo | 1 | expected DATA/<class>/*.jpg
vit finetune one -o run -m demo | 1 | two classes or more
vit finetune two -o run -m demo --val other | 1 | must have the same names
vit finetune two -o run -m demo --val-split 20 | 2 | a share below 1
vit evaluate two -m demo | 1 | its 10 labels are
vit attention photos -m demo | 2 | --out DIR
vit convert demo out --to onx | 2 | did you mean --to onnx?
vit bench demo photos | 2 | vit bench demo --on photos
vit convert -m demo out --to hf | 2 | for example: vit convert
vit convert demo out | 2 | vit convert needs --to hf|timm|onnx
vit classify photos --help-al | 2 | did you mean --help-all?
vit classify photos -m demo --html page.jpg | 2 | end it in .html
vit classify photos -m demo -o page.html | 2 | --html FILE writes a page
vit classify photos -m demo --batch-size zero | 2 | zero is not a number of images
vit classify photos -m demo --image-size abc | 2 | abc is not a size
vit classify photos -m demo --max-errors lots | 2 | lots is not a number of images
vit classify photos -m demo -j many | 2 | many is not a number of processes
vit classify photos -m demo --config none.toml | 2 | there is no config file none.toml
vit classify photos -m demo --summary new/run.json | 1 | mkdir -p new
vit classify photos -m demo --summary photos/digit-0-0036.png | 1 | give --summary another file
vit embed photos -m demo -o f.npy --layers x | 2 | x is not a list of layers
vit dedupe index.npy -m demo | 2 | for example: vit dedupe feats.npy
vit map index.npy -o map.pdf | 2 | map.pdf is not a known format
vit models pull demo | 1 | no download is needed
vit info index.npy | 1 | give a .safetensors, .pth, .bin or .npz
vit finetune two -o run -m demo --train heads | 2 | known are head, full, lora
vit finetune two -o notes.txt -m demo | 1 | name a folder with --out
vit finetune two -o run -m demo --lora-rank 4 --train full | 2 | add --train lora
vit evaluate two -m demo -o notes.txt | 1 | name a folder with --out
vit evaluate two --preds note.jsonl | 1 | note.jsonl (--preds)
vit evaluate two --preds other.jsonl | 1 | vit classify DATA -m MODEL -o preds.jsonl
vit cache --clear everything | 2 | everything is nothing that can be cleared
"""
OTHER_ROW = {"path": "x.jpg", "predictions": [{"label": "cat", "index": 0, "score": 1.0}]}
ROWS = [tuple(map(str.strip, line.split(" | "))) for line in MISTAKES.strip().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A newcomer's folder."""
    shutil.copytree(EXAMPLES, tmp_path / "photos")
    for name in ("two/cat", "two/dog", "one/cat", "other/zebra"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / "digit-0-0036.png", tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "my photos").mkdir()
    (tmp_path / "notes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.csv").write_text("cat,dog\n")
    (tmp_path / "other.jsonl").write_text(json.dumps(OTHER_ROW) + "\n")
    (tmp_path / "weights.pth").write_bytes(b"x")
    np.save(tmp_path / "index.npy", np.zeros((1, 2), np.float32))
    return tmp_path


@pytest.mark.parametrize(("typed", "code", "answer"), ROWS, ids=[row[0][4:50] for row in ROWS])
def test_a_mistake_is_answered_with_the_way_out(
    vit: Vit, folder: Path, typed: str, code: str, answer: str
) -> None:
    ended = vit(*shlex.split(typed)[1:])
    said = [line for line in ended.err.splitlines() if " images done, " not in line]
    assert ended.code == int(code), ended.err
    assert answer in "\n".join(said), ended.err
    assert 1 <= len(said) <= 2 and said[0].startswith("vit: "), ended.err


def test_a_model_among_the_images_is_understood(vit: Vit, folder: Path) -> None:
    plain = vit("classify", "photos", "-m", "demo")
    ended = vit("classify", "demo", "photos")
    assert (ended.code, ended.out) == (0, plain.out)
    assert ended.err.splitlines()[0] == "vit: demo is a model: it is taken as -m demo"
    assert vit("classify", "demo", "photos", "-q").err == ""
    shutil.copytree(folder / "photos", folder / "demo")
    assert len(vit("classify", "demo", "photos", "-m", "demo").out.splitlines()) == 20


def test_a_value_from_the_environment_is_named_as_such(
    vit: Vit, folder: Path, monkeypatch: pytest.MonkeyPatch, clean_env: dict[str, str]
) -> None:
    clean_env["VIT_TOP_K"] = ""
    monkeypatch.setenv("VIT_TOP_K", "many")
    ended = vit("classify", "photos")
    del clean_env["VIT_TOP_K"]
    assert ended.err.startswith("vit: VIT_TOP_K=many is not a whole number\n")


def test_a_missing_extra_is_named_in_one_way() -> None:
    line = "pip install 'vitcli[text]', or in a checkout pip install -e '.[text]'"
    assert errors.installing("text") == line


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("vit_base_patch16_224", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        ("vit_base_patch16_224.dino", "timm/vit_base_patch16_224.dino"),
        ("vit_base_patch16_224_in21k", "timm/vit_base_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224.", None),
        ("resnet50", None),
        ("google/vit-base-patch16-224", None),
    ],
)
def test_names_of_timm_are_models(name: str, full: str | None) -> None:
    assert timm_id(name) == full


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("Google/ViT-Base-Patch16-224", "google/vit-base-patch16-224"),
        ("dinov2-base@main", "facebook/dinov2-base"),
        ("gogle/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("facebook/dinov2-bas", "facebook/dinov2-base"),
        ("vit_base_patch16_244", "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        ("demo2", "demo"),
        ("org/flowers", None),
    ],
)
def test_the_nearest_model_is_named(spec: str, near: str | None) -> None:
    assert nearest(spec) == near
