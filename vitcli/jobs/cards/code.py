"""Write the lines of a model card that run the model, with transformers and with timm."""

from __future__ import annotations

from collections.abc import Sequence

from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocess.hf import FAST
from vitcli.records import Preprocess


def with_transformers(
    model: Model, class_name: str, name: str, *, has_text: bool, has_tokenizer: bool
) -> str:
    """The lines for transformers, for a model in the folder `name`, with or without a text tower
    and its tokenizer."""
    has_words = has_text and has_tokenizer
    classes = sorted(["AutoImageProcessor", class_name, *["AutoTokenizer"] * has_words])
    lines = [
        "import torch",
        "from PIL import Image",
        f"from transformers import {', '.join(classes)}",
        "",
        f"processor = AutoImageProcessor.from_pretrained({name!r})",
        f"model = {class_name}.from_pretrained({name!r})",
        'inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")',
    ]
    if model.preprocess.resizer != "pillow":
        lines.insert(0, _about_torchvision(model.preprocess))
    if has_words:
        padding = f'padding="max_length", max_length={model.text_config.context_length}'
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
            'texts = ["a photo of a cat", "a photo of a dog"]',
            f'inputs |= tokenizer(texts, {padding}, truncation=True, return_tensors="pt")',
        ]
    run = "model.get_image_features" if has_text and not has_words else "model"
    lines += ["with torch.inference_mode():", f"    outputs = {run}(**inputs)"]
    if model.labels:
        lines += _answers(model, "outputs.logits", "model.config.id2label")
    elif has_words:
        lines.append("print(outputs.logits_per_image)  # a row per image, a column per text")
    elif has_text:
        lines.append("print(outputs.pooler_output.shape)")
    elif class_name.endswith("ForMaskedImageModeling"):
        lines.append("print(outputs.reconstruction.shape)")
    elif class_name.endswith("ForPreTraining"):
        lines.append("print(outputs.logits.shape)  # the pixels of each patch")
    else:
        lines.append("print(outputs.last_hidden_state.shape)")
    return "\n".join(lines)


def _about_torchvision(plan: Preprocess) -> str:
    """The comment about an image processor that resizes with torchvision. Transformers 5 has one
    with Pillow, too, for all processors but those of DINOv3 and TIPSv2."""
    if plan.varies or plan.crop == FAST:
        return "# pip install torchvision: without it, transformers makes slightly other pixels"
    return "# pip install torchvision: the image processor of this model needs it"


def with_timm(model: Model, name: str) -> str:
    """The lines for timm, for a model in the folder `name`."""
    lines = [
        "import timm",
        "import torch",
        "from PIL import Image",
        "",
        f"model = timm.create_model({'local-dir:' + name!r}, pretrained=True).eval()",
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config)",
        'pixels = transform(Image.open("photo.jpg").convert("RGB"))[None]',
        "with torch.inference_mode():",
        "    outputs = model(pixels)",
    ]
    if model.labels:
        lines += _answers(model, "outputs", 'model.pretrained_cfg["label_names"]')
    else:
        lines.append("print(outputs.shape)")
    return "\n".join(lines)


def _answers(model: Model, logits: str, labels: str) -> Sequence[str]:
    """The lines that print the answers of a classifier."""
    match model.score_function:
        case "softmax":
            return [f"print({labels}[{logits}.argmax().item()])"]
        case "sigmoid":
            scores = f"enumerate({logits}[0].sigmoid().tolist())"
            return [f"print({{{labels}[i]: score for i, score in {scores}}})"]
        case "none":
            return [f"print({logits}[0].tolist())"]
