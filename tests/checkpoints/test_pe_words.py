"""A Perception Encoder Core with words: the vectors of transformers' text transformer and of timm's
encoder, in one file of Meta's names, from images and texts to rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.clip import openai_names
from tests.fixtures.meta import perception_encoder
from tests.fixtures.two_towers import two_towers
from tests.fixtures.words import write_clip_words
from tests.models.goldens import PE, Golden

JOINT = 12


@pytest.fixture
def core(tmp_path: Path) -> tuple[str, ...]:
    """The options of a Core whose text tower is that of a `CLIPModel` with 12 outputs. Like older
    files, it has the causal mask among its tensors."""
    golden = Golden.read("core", PE)
    theirs = two_towers("clip", tmp_path / "hf", hidden_act="gelu", num_attention_heads=1)
    texts = {n: t for n, t in openai_names(theirs).items() if not n.startswith("visual.")}
    texts["text_projection"] = texts["text_projection"][:, :JOINT].contiguous()
    texts["attn_mask"] = torch.full((24, 24), -torch.inf).triu(1)
    whole = perception_encoder(golden.state)
    images = {n: t for n, t in whole.items() if n.startswith("visual.")}
    torch.save({**images, **texts}, tmp_path / "PE-Core.pt")
    write_clip_words(tmp_path / "words", "openai")
    return ("-m", "PE-Core.pt", "--num-heads", str(golden.config["traits"]["num_heads"]))


def test_texts_and_images_are_compared(core: tuple[str, ...], vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, colour in enumerate(((200, 30, 40), (20, 160, 90))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "images" / f"{number}.png")
    texts = [f"a photo of a {name}." for name in ("cat", "dog")]
    packed = "words/bpe_simple_vocab_16e6.txt.gz"
    given = (*core, "--tokenizer", packed)
    assert vit("embed", "--text", texts[0], "--text", texts[1], *given, "-o", "t.npy").code == 0
    assert vit("embed", "images", *core, "--pool", "joint", "-o", "i.npy").code == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained("hf")
    model = transformers.CLIPModel.from_pretrained("hf").eval()
    with torch.inference_mode():
        out = model.get_text_features(**tokenizer(texts, return_tensors="pt", padding=True))
    words = getattr(out, "pooler_output", out)[:, :JOINT].numpy()
    np.testing.assert_allclose(np.load("t.npy"), words, atol=1e-5)
    for tokens in (packed, "words"):
        args = ("--classes", "cat, dog", "--tokenizer", tokens, "--scores", "logit")
        ended = vit("classify", "images", *core, *args)
        assert ended.code == 0, ended.err
        images, texts_ = (v / np.linalg.norm(v, axis=1, keepdims=True)
                          for v in (np.load("i.npy"), words))  # fmt: skip
        expected = np.exp(2.5) * images @ texts_.T
        for line, row in zip(ended.out.splitlines(), expected, strict=True):
            found = {p["index"]: p["score"] for p in json.loads(line)["predictions"]}
            assert found == pytest.approx(dict(enumerate(row.tolist())), abs=1e-4)


def test_a_core_alone_names_a_tokenizer_and_a_read_only_cache_is_no_error(
    core: tuple[str, ...], vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").touch()  # a file: no folder can be made below it, whoever asks
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache" / "below"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    args = ("classify", "a.png", *core, "--classes", "cat, dog")
    bare = vit(*args)
    assert bare.code == 1 and "--tokenizer openai/clip-vit-base-patch32" in bare.err
    first, again = (vit(*args, "--tokenizer", "words") for _ in range(2))
    assert (first.code, again.code, first.out) == (0, 0, again.out), first.err


def test_the_tensors_of_a_torchscript_archive_can_be_saved(tmp_path: Path, vit: Vit) -> None:
    """OpenAI's archives: refused, and read as what the error tells the user to save."""
    theirs = two_towers("clip", tmp_path / "hf", hidden_act="quick_gelu")
    module = torch.nn.Module()
    sizes = {"input_resolution": 32, "context_length": 24, "vocab_size": 1}
    scalars = {name: torch.tensor(size) for name, size in sizes.items()}
    for name, tensor in {**openai_names(theirs), **scalars}.items():
        *path, leaf = name.split(".")
        at = module
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.register_buffer(leaf, tensor)
    torch.jit.script(module).save(str(tmp_path / "ViT-B-32.pt"))
    refused = vit("embed", "--text", "a cat", "-m", "ViT-B-32.pt", "-o", "t.npy")
    assert "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), 'model.pth')" in refused.err
    torch.save(torch.jit.load("ViT-B-32.pt", "cpu").state_dict(), "model.pth")
    files = ("--num-heads", "4", "--tokenizer", "hf")
    saved = vit("info", "model.pth", "--num-heads", "4")
    assert saved.code == 0 and "joint space: 24" in saved.out.decode()
    done = vit("embed", "--text", "a cat", "-m", "model.pth", *files, "-o", "t.npy")
    assert done.code == 0, done.err
    assert np.load("t.npy").shape == (1, 24)
