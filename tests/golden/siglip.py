"""Writes siglip.json: the answers of a tiny SigLIP whose tokenizer is SiglipTokenizer, by the
zero-shot pipeline and `get_text_features` of transformers.

Run by hand, in an environment with transformers and sentencepiece:

    python -m tests.golden.siglip
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers

from tests.checkpoints.files import edit_json
from tests.fixtures.two_towers import three_images, two_towers

CLASSES = (
    "cat",
    "A red-CAR!",
    "naïve café",
    "鳥 great_auk",
    "½ ﬁne Ｗｉｄｅ",
    "a </s> b",
    "my 3 birds",
)
TEXTS = (*CLASSES, "x" * 300, "a photo of a cat. " * 20)


@torch.inference_mode()
def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = two_towers("siglip", folder)
        # as in the published files: the tower has no mask
        edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids"])
        tokenizer = transformers.SiglipTokenizer.from_pretrained(folder)
        processor = transformers.SiglipImageProcessorPil.from_pretrained(folder)
    asked = transformers.pipeline(
        "zero-shot-image-classification",
        **{"model": model, "tokenizer": tokenizer, "image_processor": processor, "device": "cpu"},
    )
    scores = []
    for image in three_images():
        rows = asked(image, candidate_labels=list(CLASSES), hypothesis_template="a photo of a {}.")
        found = {row["label"]: row["score"] for row in rows}
        scores.append([found[name] for name in CLASSES])
    ids = tokenizer(
        list(TEXTS), padding="max_length", max_length=64, truncation=True, return_tensors="pt"
    ).input_ids
    texts = model.get_text_features(input_ids=ids).pooler_output
    about = {"transformers": transformers.__version__, "classes": CLASSES, "texts": TEXTS}
    rounded = [[round(number, 7) for number in row] for row in texts.tolist()]
    content = json.dumps({**about, "scores": scores, "vectors": rounded}, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(content + "\n", "utf-8")


if __name__ == "__main__":
    main()
