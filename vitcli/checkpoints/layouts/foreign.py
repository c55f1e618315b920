"""Models that no layout reads: how a config or the tensors show them, what they are, what to do.

Some differ from a plain ViT in what leaves no tensor (rotary positions, the heads of a pooling,
an epsilon). So a name decides before tensors: what the config calls the model must be known here.
To support a family, take its row away and add its name to `TIMM` or `HF`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitcli.checkpoints.layouts.layout import Json, plain_names
from vitcli.errors import CheckpointError

# The names of timm's architectures that compute as our networks do, read off timm 1.0.31's models
# and the names of older versions.
_SIZES = (
    "tiny|xsmall|small|base|large|huge|giant|gigantic|giantopt|wee|little|medium|mediumd|betwixt|"
    r"so\d+m\d?"
)
_PARTS = (
    r"\d+(x1)?|clip|quickgelu|siglip|gap|map|reg\d+|plus|dinov2|tipsv2|miil|distilled|"
    "in21k|in1k|in21ft1k|dino|sam|mae|laion2b"
)
TIMM = re.compile(
    rf"vit_(deit_)?({_SIZES})(_distilled)?_patch\d+(_({_PARTS}))*"
    rf"|deit3?_({_SIZES})(_distilled)?_patch\d+_\d+(_in21ft1k)?"
    r"|swin_(tiny|small|base|large)_patch\d+_window\d+_\d+(_in22k|_in22ft1k)?|swin_s3_\w+_224"
    r"|flexivit_(small|base|large)|eva_large_patch14_(196|336)|test_vit[23]?"
)
# transformers' `model_type`s, by the layout that reads them.
HF: Mapping[str, tuple[str, ...]] = {
    "hf-vit": ("vit", "deit", "vit_mae", "vit_msn"),
    "hf-dinov2": ("dinov2", "dinov2_with_registers"),
    "hf-clip": (
        *("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
        *("clipseg", "clipseg_vision_model", "altclip", "altclip_vision_model"),
        *("chinese_clip", "chinese_clip_vision_model", "vision-text-dual-encoder"),
    ),
    "hf-siglip": ("siglip", "siglip_vision_model"),
    "hf-swin": ("swin",),
    "timm": ("timm_wrapper",),
}
_TYPES = frozenset(kind for kinds in HF.values() for kind in kinds)
# The classes of transformers, for a config without a `model_type`.
_CLASSES = re.compile(r"(ViT|DeiT|Dinov2|CLIP|MetaClip2|ChineseCLIP|AltCLIP|Siglip|Swin|Timm)[A-Z]")
# What a bare file is called where nothing else tells it from a plain ViT.
_FILES = re.compile(r"(^|[_-])(pe[_-]?(core|lang|spatial)|vit[_-]pe|rope)([_-]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a model is, and what to do; `called` is found in what a config calls it. Each of
    `tensors` is a sign of its own: names (regular expressions) that are all there, and after `!`
    names that are not. `is_sure`: no model that is read has them."""

    what: str
    called: str = ""
    tensors: tuple[str, ...] = ()
    hint: str = "it is not supported yet; vit models lists some that are"
    is_sure: bool = True


_NORMS = r"!norm\.(weight|bias) !fc_norm\.(weight|bias)"
_HF_DINOV3 = (
    r"(.*\.)?embeddings\.patch_embeddings\.weight "
    r"(.*\.)?layer\.0\.attention\.q_proj\.weight"
)
_OTHER_FILE = "the backbone is another file: give that one, and this one with --head"
# The first row that fits is taken.
ROWS: tuple[Foreign, ...] = (
    # Files that are mistaken for a backbone.
    Foreign(
        "a linear classifier alone, as DINO's evaluation trains it on the class tokens of a "
        "backbone's last blocks",
        tensors=(r"linear\.weight",),
        hint=_OTHER_FILE,
    ),
    Foreign(
        "one layer alone, such as DINOv2's linear heads",
        tensors=("weight",),
        hint=_OTHER_FILE,
    ),
    Foreign(
        "a LoRA adapter, as PEFT saves it: what is added to a model, not one",
        tensors=(r".*\.lora_[AB]\..*",),
        hint="merge it and save the model: merge_and_unload().save_pretrained(...)",
    ),
    Foreign(
        "MAE's linear probe: a batch norm stands before its classifier",
        tensors=(r"head\.0\.running_mean",),
        hint="give the pre-trained or the fine-tuned file",
    ),
    Foreign(
        "a checkpoint of MoCo v3's pre-training (an encoder, its momentum encoder and a predictor)",
        tensors=(r"(base|momentum)_encoder\..*",),
        hint="its ViT-S has 12 heads, which the file does not say: save base_encoder alone, and "
        "give it with --num-heads 12",
    ),
    # Families of Vision Transformers that compute otherwise.
    Foreign("a ConvNeXt of DINOv3's, a convolutional network", "dinov3_?convnext"),
    Foreign(
        "a DINOv3 (or LingBot, EUPE): it has rotary positions (RoPE) instead of a table",
        "dinov3|lingbot|eupe",
        (
            "storage_tokens",
            r"rope_embed\.periods",
            r"reg_token blocks\.0\.gamma_1 !pos_embed",
            _HF_DINOV3,
        ),
    ),
    Foreign(
        "a Perception Encoder: it has rotary positions (RoPE), and its pooling has heads of its "
        "own",
        r"^vit_pe_|(^|/)pe[-_](core|lang|spatial|vision)|perception_?(encoder|lm)|^pe_",
        (
            r"(visual\.)?attn_pool\.probe",
            r"(visual\.)?class_embedding (visual\.)?ln_pre\.weight !(visual\.)?ln_post\.weight"
            r" !(visual\.)?proj",
        ),
    ),
    Foreign(
        "a Perception Encoder, by its pooling behind a norm before the blocks: it has rotary "
        "positions (RoPE), which leave no tensor",
        tensors=(
            r"(visual\.trunk\.)?attn_pool\.latent (visual\.trunk\.)?norm_pre\.weight "
            r"!(visual\.trunk\.)?patch_embed\.proj\.bias",
        ),
        hint="if it is no Perception Encoder, --layout timm reads it as a plain ViT",
        is_sure=False,
    ),
    Foreign(
        "a Vision Transformer with rotary positions (RoPE-ViT)",
        r"(^|_)rope(_|$|vit)",
        (r"rope\.freqs", r"freqs patch_embed\.proj\.weight", "freqs_cis"),
    ),
    Foreign(
        "an AIMv2: it has RMS norms and no biases",
        "aimv2",
        (
            r"patch_embed\.norm\.weight blocks\.0\.mlp\.fc1_g\.weight",
            r"(.*\.)?embeddings\.rms_norm\.weight",
            r"preprocessor\.patchifier\..*",
        ),
    ),
    Foreign(
        "an EVA: its attention has other biases, EVA-02 also rotary positions (RoPE)",
        r"^eva(0\d|_|-?clip|$)|^EVA0",
        (
            r"(.*\.)?blocks\.0\.mlp\.fc1_g\.weight",
            r"(.*\.)?blocks\.0\.mlp\.w1\.weight",
            r"(.*\.)?rope\.freqs_cos",
            r"(.*\.)?blocks\.0\.attn\.q_bias !(.*\.)?blocks\.0\.attn\.relative_position_bias_table"
            r" !(.*\.)?rel_pos_bias\.relative_position_bias_table",
        ),
    ),
    Foreign(
        "a BEiT or data2vec: it adds a table of relative positions to its attention",
        "beit|data2vec|^dit$",
        (
            r"(.*\.)?encoder\.layer\.0\.lambda_1 (.*\.)?encoder\.layer\.0\.lambda_2",
            r"blocks\.0\.attn\.relative_position_bias_table",
            r"rel_pos_bias\.relative_position_bias_table",
            r"blocks\.0\.attn\.norm\.weight blocks\.0\.mlp\.norm\.weight",
        ),
    ),
    Foreign("an I-JEPA: a ViT without class token", "i_?jepa"),
    Foreign("a V-JEPA, a model of videos", "v_?jepa|^vjepa"),
    Foreign(
        "a RADIO: it has several class tokens and no final norm",
        "radio",
        (r"(.*\.)?patch_generator\..*",),
    ),
    Foreign(
        "an InternViT: it has no final norm",
        r"intern_?vit|vit_intern|intern_?vl",
        (r"(.*\.)?encoder\.layers\.0\.ls1 (.*\.)?encoder\.layers\.0\.attn\.qkv\.weight",),
    ),
    Foreign(
        "a ViT without a final norm, as RADIO, InternViT and PE-Spatial are",
        tensors=(rf"patch_embed\.proj\.weight blocks\.0\.attn\.qkv\.weight {_NORMS}",),
        hint="it is not supported; if the model has a norm, the file is not whole",
        is_sure=False,
    ),
    Foreign("a TIPSv2 in transformers' names", "tips", hint="timm/vit_base_patch14_reg1_tipsv2"),
    Foreign(
        "a model with images of any shape (NaFlex)",
        "naflex|siglip2",
        (r"embeds\.proj\.weight",),
        "SigLIP 2's models of a fixed resolution are: google/siglip2-base-patch16-224",
    ),
    Foreign("an MLCD: a CLIP with rotary positions (RoPE)", "mlcd"),
    Foreign("a Pixio: it has eight class tokens", "pixio"),
    Foreign(
        "a Swin Transformer V2, which computes its attention otherwise",
        "swin_?v2|swinv2",
        (r".*\.(attn|attention|self)\.(logit_scale|(cpb|continuous_position_bias|meta)_mlp\..+)",),
        "give a Swin of the first version",
    ),
    Foreign(
        "a hybrid: a ResNet stands before the Vision Transformer (R50+ViT)",
        r"^vit_\w+_(r\d+_s\d+|resnet\d+d)_|vit[-_]hybrid",
        ("(.*/)?conv_root/kernel", r"patch_embed\.backbone\..*"),
        "give a plain ViT",
    ),
    Foreign("a ViT whose norms stand behind its sublayers", r"_rpn_"),
    Foreign(
        "a ViT of parallel or other blocks", r"^vit_(\w+_)?(xp|18x2|pwee|dwee|dpwee|dlittle)(_|$)"
    ),
    Foreign(
        "a ViT with relative positions",
        "^vit_s?relpos",
        (r"blocks\.0\.attn\.rel_pos\..*", r"rel_pos\.relative_position_bias_table"),
    ),
    Foreign(
        "the image encoder of a SAM: it has windows and relative positions",
        r"^sam(\d|_|vit|$)|edgetam",
        (r"(.*\.)?(blocks|layers)\.0\.attn\.rel_pos_[hw]",),
    ),
    Foreign(
        "a Hiera: it pools its tokens stage by stage",
        "hiera",
        (r"(.*\.)?pos_embed_win(dow)?", r"(.*\.)?blocks\.\d+\.proj\.weight"),
    ),
    Foreign("a CaiT: its heads talk, and its last blocks are the class token's", "^cait",
            (r"blocks_token_only\..*",)),
    Foreign(
        "a ConvNeXt, a convolutional network",
        "convnext",
        (
            r"(.*\.)?stages\.0\.blocks\.0\.(conv_)?dw(conv)?\.weight",
            r"(.*\.)?stages\.0\.layers\.0\.dwconv\.weight",
            r"(.*\.)?downsample_layers\.0\.0\.weight",
        ),
    ),
    Foreign(
        "a ResNet, a convolutional network",
        r"^resnet|^(wide_|se_?)?resnext?|regnet|^bit$",
        (
            r"(.*\.)?layer1\.0\.conv1\.weight",
            r"(.*\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        ),
    ),
    Foreign(
        "a convolutional network",
        "efficientnet|mobilenet|densenet|^vgg|inception|ghostnet",
        (r"(.*\.)?conv_stem\.weight", r"(.*\.)?features\.0(\.0)?\.weight"),
    ),
)  # fmt: skip


def check_named(config: Json, *, forced: bool = False) -> bool:
    """Whether the config names a model that we know; False where it names none. Raises
    CheckpointError for one that no layout reads, and, unless a layout is asked for (`forced`),
    for a name that says nothing to us."""
    names = list(_named(config))
    for field, name, is_known in names:
        if is_known:
            continue
        for row in ROWS:
            if row.called and re.search(row.called, name, re.IGNORECASE):
                raise CheckpointError(f"{field} is {name}: this is {row.what}", row.hint)
        if not forced:
            raise CheckpointError(
                f"{field} is {name}, which no layout knows",
                "its tensors alone do not say how it computes; if it computes as a plain model of "
                "a layout does, --layout NAME reads it as that",
            )
    return bool(names)


def _named(config: Json) -> Iterator[tuple[str, str, bool]]:
    """What a config calls its model: the field, the name, and whether we know it."""
    section = config.get("model_cfg") or config
    vision = section.get("vision_cfg") if isinstance(section, Mapping) else None
    trunk = vision.get("timm_model_name") if isinstance(vision, Mapping) else None
    inner = config.get("pretrained_cfg")
    tagged = inner.get("architecture") if isinstance(inner, Mapping) else None
    named = config.get("architecture") or tagged
    for field, value in (("architecture", named), ("timm_model_name", trunk)):
        if isinstance(value, str) and value:
            name = value.removeprefix("hf-hub:").removeprefix("timm/").split(".")[0]
            yield field, name, bool(TIMM.fullmatch(name))
    kind, classes = config.get("model_type"), config.get("architectures")
    if isinstance(kind, str) and kind:
        yield "model_type", kind, kind in _TYPES
    elif isinstance(classes, list) and classes and not config.get("architecture"):
        name = str(classes[0])
        yield "architectures", name, bool(_CLASSES.match(name))


def check_tensors(
    state: Mapping[str, Tensor], *, named: bool = False, forced: bool = False
) -> None:
    """Raise CheckpointError for what is no model that we read. What only may be another one passes
    where a config names it (`named`) or a layout is asked for (`forced`)."""
    stripped = {plain: name for name, plain in plain_names(state).items()}
    for row in ROWS:
        if (named or forced) and not row.is_sure:
            continue
        for signs in row.tensors:
            found = _shown(signs, stripped)
            if found is not None:
                shape = list(state[stripped[found]].shape)
                raise CheckpointError(f"this is {row.what} ({stripped[found]} {shape})", row.hint)


def _shown(signs: str, names: Collection[str]) -> str | None:
    """The first name of the sign, where all of it is there."""
    shown = None
    for sign in signs.split():
        pattern = re.compile(sign.removeprefix("!"))
        found = next((name for name in names if pattern.fullmatch(name)), None)
        if (found is None) != sign.startswith("!"):
            return None
        shown = shown or found
    return shown


def check_file(file: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for a bare file that may be another model than its tensors show: one
    that is called so, or one with DeiT-III's names in a form that DeiT-III is not published in."""
    if match := _FILES.search(file.stem):
        raise CheckpointError(
            f"{file.name} is called {match[2]}: its model may have rotary positions (RoPE), which "
            "leave no tensor",
            "if it is a plain ViT, --layout timm reads it (or deit, dinov2)",
        )
    if "blocks.0.gamma_1" in names and file.suffix in (".safetensors", ".bin"):
        raise CheckpointError(
            f"{file.name} may be a DeiT-III or a RoPE-ViT: both have these tensors "
            "(blocks.0.gamma_1), and no config.json says which",
            "give the folder with its config.json; --layout deit reads it as a DeiT-III",
        )
