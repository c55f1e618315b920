"""Token ids are those of transformers, open_clip and SentencePiece; wrong files are refused."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub import constants
from numpy.typing import NDArray

from tests.fixtures.hub import FakeHub
from tests.fixtures.lines import check_sums, lines
from tests.fixtures.words import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    spiece_model,
    write_clip_words,
    write_mt5_words,
    write_siglip2_words,
    write_siglip_words,
    write_xlm_v_words,
)
from vitcli import errors
from vitcli.checkpoints.resolve import Checkpoint, resolve
from vitcli.checkpoints.text.files import CONFIG, tokenizer_files
from vitcli.checkpoints.text.recipe import TokenRecipe, token_recipe
from vitcli.checkpoints.text.tokenizer import Encoded, Tokenizer, read_tokenizer
from vitcli.errors import CheckpointError, InputError, ModelNotFound, UsageError, VitError
from vitcli.records import TextClean

LINES = lines()
WRITERS: dict[str, Callable[[Path], int]] = {
    "clip": write_clip_words,
    "clip in two files": lambda folder: write_clip_words(folder, "vocab"),
    "openai": lambda folder: write_clip_words(folder, "openai"),
    "siglip": write_siglip_words,
    "siglip2": write_siglip2_words,
    "siglip2 model": lambda folder: write_siglip2_words(folder, "model"),
    "metaclip2": write_xlm_v_words,
}
TYPES = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip", "metaclip2": "metaclip_2"}


def recipe_of(kind: str, size: int, **changes: Any) -> TokenRecipe:
    """What the tower of a tiny tokenizer reads, by transformers' config."""
    name = kind.split()[0]
    config = {"model_type": TYPES[name]} if name in TYPES else {}
    length = 64 if name.startswith("siglip") else 77
    sizes: dict[str, Any] = {"context_length": length, "vocab_size": size, "causal": length == 77}
    return token_recipe(config, **(sizes | changes))


def read(folder: Path, recipe: TokenRecipe, clean: TextClean | None = None) -> Tokenizer:
    checkpoint = Checkpoint("tiny", (folder / "model.safetensors",))
    return read_tokenizer(tokenizer_files(checkpoint, recipe, offline=True), recipe, clean)


def written(kind: str, folder: Path, clean: TextClean | None = None) -> Tokenizer:
    return read(folder, recipe_of(kind, WRITERS[kind](folder)), clean)


def changed(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text("utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), "utf-8")


def differing(found: NDArray[Any], expected: NDArray[Any]) -> list[str]:
    return [LINES[i] for i in range(len(LINES)) if not np.array_equal(found[i], expected[i])]


@pytest.mark.parametrize("kind", ["clip", "clip in two files", "siglip2", "metaclip2"])
def test_ids_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    tokenizer = written(kind, tmp_path, "hf")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": TYPES[kind.split()[0]]}))
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    length = tokenizer.context_length
    expected = original(LINES, padding="max_length", truncation=True, max_length=length)
    encoded = tokenizer.encode(LINES)
    assert encoded.ids.dtype == np.int64
    assert differing(encoded.ids, np.array(expected.input_ids)) == []
    whole = original(LINES).input_ids
    assert list(encoded.cut) == [i for i, ids in enumerate(whole) if len(ids) > length]
    assert (tokenizer.eos_id, tokenizer.pad_id) == (original.eos_token_id, original.pad_token_id)


def test_mt5s_tokenizer_has_no_token_before_a_text(tmp_path: Path) -> None:
    """That of facebook/metaclip-2-mt5-worldwide-*, and google/mt5-base in open_clip's JSON."""
    size = write_mt5_words(tmp_path)
    sizes: dict[str, Any] = {"context_length": 77, "vocab_size": size, "causal": True, "eos_id": 1}
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = original(LINES, padding="max_length", truncation=True, max_length=77).input_ids
    tokenizer = read(tmp_path, token_recipe({"model_type": "metaclip_2"}, **sizes))
    assert differing(tokenizer.encode(LINES).ids, np.array(expected)) == []
    name = {"hf_tokenizer_name": "google/mt5-base", "tokenizer_kwargs": {"clean": "canonicalize"}}
    recipe = token_recipe({"model_cfg": {"text_cfg": {"context_length": 77, **name}}}, **sizes)
    write_siglip_words(tmp_path / "alone")
    (tmp_path / "alone" / CONFIG).write_text("{}")  # spiece.model alone, of the same pieces
    expected = original("a cat", padding="max_length", max_length=77).input_ids
    for folder in (tmp_path, tmp_path / "alone"):
        assert read(folder, recipe).encode(["A cat!"]).ids[0].tolist() == expected


def test_siglip_2_of_naflex_is_lower_cased(tmp_path: Path) -> None:
    size = write_siglip2_words(tmp_path)
    recipe = token_recipe(
        {"model_type": "siglip2"}, context_length=64, vocab_size=size, causal=False
    )
    original = transformers.Siglip2Tokenizer.from_pretrained(tmp_path, padding_side="right")
    expected = original(LINES, padding="max_length", truncation=True, max_length=64).input_ids
    assert differing(read(tmp_path, recipe, "hf").encode(LINES).ids, np.array(expected)) == []


@pytest.mark.parametrize(
    ("kind", "clean", "golden"),
    [
        ("openai", None, "open_clip lower"),
        ("clip", "open_clip", "open_clip lower"),
        ("openai", "canonical", "open_clip canonicalize"),
        ("openai", "whitespace", "open_clip whitespace"),
        ("siglip", "hf", "siglip hf"),
        ("siglip", None, "siglip canonical"),
        ("siglip2 model", None, "gemma canonical"),
        ("siglip2", None, "gemma canonical"),
    ],
)
def test_ids_are_those_of_other_libraries(
    kind: str, clean: Any, golden: str, tmp_path: Path
) -> None:
    sums = np.load(Path(__file__).parents[1] / "golden" / "tokens.npz")[golden]
    if clean == "whitespace":
        options = {"context_length": 77, "tokenizer_kwargs": {"clean": clean}}
        config = {"model_cfg": {"text_cfg": options}}
        size = WRITERS[kind](tmp_path)
        recipe = token_recipe(config, context_length=77, vocab_size=size, causal=True)
        ids = read(tmp_path, recipe).encode(LINES).ids
    else:
        ids = written(kind, tmp_path, clean).encode(LINES).ids
    if kind == "clip":  # transformers pads with the end, open_clip with 0
        is_end = ids == ids.max()
        ids = np.where(is_end & (is_end.cumsum(axis=1) > 1), 0, ids)
    assert differing(check_sums(ids), sums) == []


def test_none_leaves_texts_to_the_tokenizer(tmp_path: Path) -> None:
    kinds = {kind: written(kind, tmp_path / kind, "none") for kind in ("clip", "siglip")}
    plain, loud = (kinds["siglip"].encode([text]).ids for text in ("a cat", "A cat!"))
    assert not np.array_equal(plain, loud)
    plain, loud = (kinds["clip"].encode([text]).ids for text in ("a cat", "A  cat"))
    assert np.array_equal(plain, loud)  # its own normaliser lower-cases


def test_a_sentencepiece_model_may_keep_spaces(tmp_path: Path) -> None:
    """Without remove_extra_whitespaces, SiglipTokenizer makes ▁ of a text without letters."""
    pieces = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    pieces += [("▁", -1.0, NORMAL), ("a", -1.0, NORMAL)]
    model: dict[str, Any] = {"model_type": 1, "unk": 2, "bos": -1, "eos": 1, "pad": 0}
    for keep_spaces, blank in ((False, [1, 1]), (True, [3, 1])):
        packed = spiece_model(pieces, dummy_prefix=True, keep_spaces=keep_spaces, **model)
        (tmp_path / "spiece.model").write_bytes(packed)
        ids = read(tmp_path, recipe_of("siglip", 5), "hf").encode(["!!!", "a", "</s>a"]).ids
        assert ids[:, :2].tolist() == [blank, [3, 4], [1, 4]]


def test_an_open_clip_tokenizer_of_another_kind_is_read_as_it_is(tmp_path: Path) -> None:
    """CLIPA: BERT's tokenizer, the separator becomes padding."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "photo"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    original = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    original.save_pretrained(tmp_path)
    options = {"clean": "lower", "strip_sep_token": True}
    text = {"context_length": 8, "hf_tokenizer_name": "bert", "tokenizer_kwargs": options}
    recipe = token_recipe(
        {"model_cfg": {"text_cfg": text}}, context_length=8, vocab_size=9, causal=False
    )
    texts = ["A photo", "cats" * 9, "a " * 9]
    padded = original(
        [text.lower() for text in texts], padding="max_length", truncation=True, max_length=8
    )
    expected = np.array(padded.input_ids)
    found = read(tmp_path, recipe).encode(texts)
    assert np.array_equal(found.ids, np.where(expected == 3, 0, expected))
    assert found.cut == (2,)


def test_an_open_clip_model_may_have_the_clip_tokenizer_of_transformers(tmp_path: Path) -> None:
    size = write_clip_words(tmp_path)
    text = {"context_length": 16, "hf_tokenizer_name": "openai/clip-vit-base-patch32"}
    recipe = token_recipe(
        {"model_cfg": {"text_cfg": text}}, context_length=16, vocab_size=size, causal=True
    )
    original = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    cleaned = ["a cat's <|endoftext|> e\u0301", "A photo"]
    padded = original(cleaned, padding="max_length", truncation=True, max_length=16).input_ids
    found = read(tmp_path, recipe).encode(["  a cat&#39;s  <|endoftext|> e\u0301", "A  photo"])
    assert np.array_equal(found.ids, np.array(padded))


def test_a_tower_without_room_for_a_text_is_refused(tmp_path: Path) -> None:
    size = write_clip_words(tmp_path)
    recipe = recipe_of("clip", size, context_length=2)
    assert "2 tokens have no room for a text" in refusal(lambda: read(tmp_path, recipe))


def refusal(action: Callable[[], object], kind: type[VitError] = CheckpointError) -> str:
    with pytest.raises(kind) as raised:
        action()
    return str(raised.value)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        ("siglip2", CONFIG, {"padding_side": "left"}, "padding_side is left"),
        ("siglip2", CONFIG, {"model_max_length": 16}, "model_max_length is 16"),
        ("siglip2", CONFIG, {"pad_token": "<hole>"}, "no token <hole>"),
        ("siglip2", CONFIG, {"pad_token": 3}, "pad_token is 3"),
        ("siglip2", CONFIG, {"tokenizer_class": "CLIPTokenizer"}, "names CLIPTokenizer"),
        ("siglip2", "tokenizer.json", {"model": {}}, "is not a tokenizer"),
        ("clip", "tokenizer.json", {"added_tokens": [{"id": 3, "content": "q"}]}, "the id 3"),
        ("clip", CONFIG, {"eos_token": "<end>"}, "no token <end>"),
        ("clip", CONFIG, {"added_tokens_decoder": {"1": 5}}, "the added token 5"),
    ],
)
def test_a_file_that_is_wrong_is_named(
    kind: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    size = WRITERS[kind](tmp_path)
    changed(tmp_path / file, **changes)
    assert message in refusal(lambda: read(tmp_path, recipe_of(kind, size), "hf"))


def test_a_tokenizer_with_other_ends_is_refused_unless_the_config_has_the_familys(
    tmp_path: Path,
) -> None:
    size = write_siglip2_words(tmp_path)
    recipe = recipe_of("siglip2", size)
    expected = read(tmp_path, recipe).encode(["a cat"]).ids
    special = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    ids = {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}
    parts = {"single": [special, text], "pair": [special, text], "special_tokens": ids}
    template = {"type": "TemplateProcessing", **parts}
    changed(tmp_path / "tokenizer.json", post_processor=template)
    assert np.array_equal(read(tmp_path, recipe).encode(["a cat"]).ids, expected)
    changed(tmp_path / CONFIG, add_bos_token=None, add_eos_token=None)
    message = refusal(lambda: read(tmp_path, recipe))
    assert "puts <bos> TEXT together, and the text tower was trained on TEXT <eos>" in message


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    size = write_clip_words(tmp_path)
    small, large = recipe_of("clip", size - 1), recipe_of("clip", size + 46)
    assert f"has {size} tokens, and the text tower {size - 1}" in refusal(
        lambda: read(tmp_path, small)
    )
    assert read(tmp_path, large).notes == (
        f"the tokenizer has {size} tokens, and the text tower {size + 46}: the others are not used",
    )
    other = recipe_of("clip", size, eos_id=2)
    assert "the text tower looks for id 2" in refusal(lambda: read(tmp_path, other))
    siglip = recipe_of("siglip", size)
    assert "is CLIP's BPE, and the text tower needs a Unigram model or" in refusal(
        lambda: read(tmp_path, siglip)
    )


def test_files_of_two_models_in_a_folder_are_refused(tmp_path: Path) -> None:
    size = write_clip_words(tmp_path)
    write_clip_words(tmp_path, "vocab")
    recipe = recipe_of("clip", size)
    assert read(tmp_path, recipe).source == "tokenizer.json of tiny"
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "more": size}), "utf-8")
    message = refusal(lambda: read(tmp_path, recipe))
    assert f"has {size} tokens, and vocab.json next to it {size + 1}" in message


def test_texts_that_cannot_be_encoded_are_named(tmp_path: Path) -> None:
    size = write_siglip_words(tmp_path)
    tokenizer = read(tmp_path, recipe_of("siglip", size))
    assert "'a \\udce9' is not valid UTF-8" in refusal(
        lambda: tokenizer.encode(["a \udce9"]), InputError
    )
    assert tokenizer.encode([]).ids.shape == (0, 64)


def test_reserved_tokens_beyond_the_table_are_not_for_texts(tmp_path: Path) -> None:
    """SigLIP's multilingual models: 250,000 rows for the 250,100 pieces of mT5."""
    pieces = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    pieces += [("▁", -1.0, NORMAL), ("a", -1.0, NORMAL), ("▁<extra_id_0>", -2.0, NORMAL)]
    numbers = {"model_type": 1, "unk": 2, "bos": -1, "eos": 1, "pad": 0}
    (tmp_path / "spiece.model").write_bytes(spiece_model(pieces, dummy_prefix=True, **numbers))
    tokenizer = read(tmp_path, recipe_of("siglip", 5), "none")
    assert tokenizer.encode(["a a"]).ids[0, :5].tolist() == [3, 4, 3, 4, 1]
    assert "has the token ▁<extra_id_0>, whose id is 5" in refusal(
        lambda: tokenizer.encode(["a", "<extra_id_0>"]), InputError
    )


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "siglip2 model", "openai", "clip"])
def test_a_damaged_file_is_refused(kind: str, tmp_path: Path) -> None:
    size = WRITERS[kind](tmp_path)
    recipe = recipe_of(kind, size)
    read(tmp_path, recipe)
    file = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" + whole, b"{}", b"[" * 100_000):
        file.write_bytes(damaged)
        assert file.name in refusal(lambda: read(tmp_path, recipe))


@pytest.mark.parametrize(
    ("pieces", "changes", "message"),
    [
        ([("<unk>", 0.0, UNKNOWN)] * 2, {}, "has the piece '<unk>' twice"),
        ([("a", 0.0, NORMAL)], {}, "has 0 pieces for what it does not know"),
        ([("<unk>", float("nan"), UNKNOWN)], {}, "score nan"),
        ([("<unk>", 0.0, 9)], {}, "of kind 9"),
        ([], {}, "has no pieces"),
        ([("<unk>", 0.0, UNKNOWN)], {"model_type": 3}, "its model_type is 3"),
        ([("<unk>", 0.0, UNKNOWN)], {"charsmap": b"\4\0\0\0abcd\0"}, "charsmap is damaged"),
        (
            [("<unk>", 0.0, UNKNOWN), ("</s>", 0.0, CONTROL)],
            {"bytes_too": True},
            "model with bytes",
        ),
    ],
)
def test_an_odd_sentencepiece_model_is_refused(
    pieces: list[tuple[str, float, int]], changes: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    numbers = {"model_type": 1, "unk": 0, "bos": -1, "eos": 1, "pad": 0, "dummy_prefix": True}
    (tmp_path / "spiece.model").write_bytes(spiece_model(pieces, **(numbers | changes)))
    assert message in refusal(lambda: read(tmp_path, recipe_of("siglip", 50)))


def test_what_open_clips_json_asks_for_is_honoured_or_refused() -> None:
    def recipe(**text: Any) -> TokenRecipe:
        sizes: dict[str, Any] = {"context_length": 64, "vocab_size": 9, "causal": False}
        return token_recipe({"model_cfg": {"text_cfg": {"context_length": 64, **text}}}, **sizes)

    siglip = recipe(
        hf_tokenizer_name="timm/ViT-B-16-SigLIP", tokenizer_kwargs={"clean": "canonicalize"}
    )
    assert (siglip.family, siglip.default_clean) == ("siglip", "open_clip")
    assert siglip.open_clip_clean == "canonicalize"
    worldwide = recipe(hf_tokenizer_name="facebook/xlm-v-base")
    assert (worldwide.family, worldwide.open_clip_clean) == ("metaclip2", "whitespace")
    for text, message in (
        ({"context_length": 32}, "context_length is 32"),
        ({"tokenizer_mode": "clips"}, "tokenizer_mode is clips"),
        ({"tokenizer_kwargs": {"language": "fr"}}, "only clean and strip_sep_token"),
        ({"tokenizer_kwargs": {"clean": "no"}}, "clean is no, not one of"),
    ):
        assert message in refusal(lambda text=text: recipe(**text))


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = write_clip_words(tmp_path)
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    message = refusal(lambda: read(tmp_path, recipe_of("clip", size)), UsageError)
    assert message.startswith("a text tower needs tokenizers: pip install 'vitcli[text]', or in a ")
    assert message.endswith("checkout pip install -e '.[text]'")


def test_a_tokenizer_can_be_named(tmp_path: Path) -> None:
    size = write_clip_words(tmp_path / "words", "openai")
    recipe = recipe_of("openai", size)
    bare = Checkpoint("bare.pt", (tmp_path / "bare.pt",))

    def encoded(tokenizer: str | None) -> Encoded:
        files = tokenizer_files(bare, recipe, tokenizer=tokenizer, offline=True)
        return read_tokenizer(files, recipe).encode(["a cat"])

    message = refusal(lambda: encoded(None))
    assert "give CLIP's with --tokenizer openai/clip-vit-base-patch32" in message
    packed = tmp_path / "words" / "bpe_simple_vocab_16e6.txt.gz"
    renamed = packed.rename(packed.with_name("bpe.txt.gz"))
    assert np.array_equal(
        encoded(str(renamed)).ids[0, :4], [size - 2, *encoded(str(renamed)).ids[0, 1:3], size - 1]
    )
    assert "no tokenizer in" in refusal(lambda: encoded(str(tmp_path / "words")), ModelNotFound)
    assert "there is no ./q" in refusal(lambda: encoded("./q"), ModelNotFound)
    assert "is not in the cache" in refusal(lambda: encoded("org/none"), ModelNotFound)
    (tmp_path / "words" / "a.txt").touch()
    odd = str(tmp_path / "words" / "a.txt")
    assert "is not a tokenizer" in refusal(lambda: encoded(odd), ModelNotFound)


def test_a_tokenizer_is_downloaded_only_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = write_clip_words(tmp_path / "words")
    for folder in ("words", "bare"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (tmp_path / folder / name).write_text("{}")
    recipe = recipe_of("clip", size)
    with FakeHub() as fake:
        fake.add("org/words", tmp_path / "words")
        fake.add("org/bare", tmp_path / "bare")
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        checkpoint = resolve("org/words")
        assert not list(tmp_path.glob("hub/**/tokenizer*"))
        offline = refusal(lambda: tokenizer_files(checkpoint, recipe, offline=True), ModelNotFound)
        assert offline.startswith("no tokenizer of org/words: org/words@")
        files = tokenizer_files(checkpoint, recipe, offline=False)
        assert read_tokenizer(files, recipe).source == "tokenizer.json of org/words"
        before = len(fake.requests)
        assert tokenizer_files(resolve("org/words", offline=True), recipe, offline=True) == files
        assert len(fake.requests) == before
        bare = resolve("org/bare")
        assert "org/bare on the hub has no tokenizer" in refusal(
            lambda: tokenizer_files(bare, recipe, offline=False)
        )
        named = tokenizer_files(bare, recipe, tokenizer="org/words", offline=True)
        assert named.vocabularies == files.vocabularies


def test_the_scores_of_pieces_are_32_bit_numbers(tmp_path: Path) -> None:
    size = write_siglip_words(tmp_path)
    file = tmp_path / "spiece.model"
    file.write_bytes(file.read_bytes().replace(b"\x15" + struct.pack("<f", -4.0), b"\x10\x04", 1))
    assert "score" in refusal(lambda: read(tmp_path, recipe_of("siglip", size)))
