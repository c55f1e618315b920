"""Models that no layout reads: how to recognise them, and a hint for the user.

Some differ from a plain ViT only in parts without tensors (rotary positions, the number of heads of
a pooling, an epsilon), so the model's name in the config is checked before the tensors. To support
a family, remove its row and add its name to its layout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of model and its signs. `called` is a regular expression for its name in a config.

    Each of `tensors` is a sign: regular expressions that must each match a tensor name, or with `!`
    match none. `is_sure`: no model that vitcli reads has these signs.
    """

    what: str
    called: str = ""
    tensors: tuple[str, ...] = ()
    hint: str = "it is not supported yet; vit models lists some that are"
    is_sure: bool = True


_NORMS = r"!norm\.(weight|bias) !fc_norm\.(weight|bias)"
_RADIO = "RADIOs that are plain ViTs are supported: nvidia/C-RADIOv3-B, nvidia/C-RADIOv4-H"
_OTHER_FILE = "the backbone is another file: give that one, and this one with --head"
# The first row that matches is used.
ROWS: tuple[Foreign, ...] = (
    # Files that people mistake for a backbone.
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
        "a LoRA adapter, as PEFT saves it: an addition to a model, not a model",
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
    # Families of Vision Transformers that compute something else.
    Foreign("a ConvNeXt of DINOv3's, a convolutional network", "dinov3_?convnext"),
    Foreign(
        "a DINOv3 (or LingBot, EUPE) of a kind that no layout reads",
        "dinov3|lingbot|eupe",
    ),
    Foreign(
        "a DINOv3 whose class token and patches have norms of their own",
        tensors=(r"cls_norm\.weight rope_embed\.periods",),
    ),
    Foreign(
        "a Perception Encoder of a kind that is not known, or a part of one for language or video",
        r"^vit_pe_|(^|/)pe[-_](core|lang|spatial|vision)|perception_?(encoder|lm)|^pe_",
    ),
    Foreign(
        "a Perception Encoder, by its pooling and a norm before the blocks: it has rotary "
        "positions (RoPE), which leave no tensor",
        tensors=(
            r"(visual\.trunk\.)?attn_pool\.latent (visual\.trunk\.)?norm_pre\.weight "
            r"!(visual\.trunk\.)?patch_embed\.proj\.bias",
        ),
        hint="if it is not a Perception Encoder, --layout timm reads it as a plain ViT",
        is_sure=False,
    ),
    Foreign(
        "a Vision Transformer with rotary positions (RoPE-ViT)",
        r"(^|_)rope(_|$|vit)",
        (r"freqs patch_embed\.proj\.weight", "freqs_cis"),
    ),
    Foreign("an AIMv2 of a kind that is not known", "aimv2"),
    Foreign("an EVA-02 E, whose norms come after its sublayers", r"^eva02_enormous"),
    Foreign(
        "a Sapiens2: it has norms of queries and keys, and grouped keys",
        "sapiens2",
        (
            r"blocks\.0\.attn\.q_norm\.weight reg_token",
            r"storage_tokens blocks\.0\.attn\.wq\.weight",
        ),
    ),
    Foreign("an EVA of a kind that no layout reads", r"^eva(0\d|_|-?clip|$)|^EVA0"),
    Foreign(
        "an EVA-CLIP of 8 or 18 billion parameters: it has RMS norms, and no biases in attention",
        tensors=(
            r"visual\.blocks\.0\.norm1\.weight !visual\.blocks\.0\.norm1\.bias"
            r" !visual\.blocks\.0\.attn\.q_bias",
        ),
    ),
    Foreign(
        "a BEiT-3 of images and texts, in Microsoft's own names",
        "beit-?3",
        (r"beit3\.encoder\.layers\.0\..*", r"beit3\.vision_embed\..*"),
        "timm has its part for images: timm/beit3_base_patch16_224.in22k_ft_in1k",
    ),
    Foreign("a V-JEPA, a model of videos", "v_?jepa|^vjepa"),
    Foreign(
        "an E-RADIO, a hybrid of convolutions and attention",
        "e-?radio",
        (r"radio_model\.model\.levels\.0\..*",),
        _RADIO,
    ),
    Foreign(
        "a RADIO of DINOv2's code, as RADIO-g is: its patches have a bias",
        tensors=(r"(.*\.)?inner\.patch_generator\.embedder\.weight",),
        hint=_RADIO,
    ),
    Foreign(
        "a RADIO v1 or v2, with norms inside the feed-forward",
        tensors=(r"radio_model\.model\.blocks\.0\.mlp\.norm\.weight",),
        hint=_RADIO,
    ),
    Foreign(
        "a training checkpoint of NVIDIA's RADIO, without the config of its sizes",
        tensors=(r"(.*\.)?base_model\.patch_generator\..*",),
        hint="the hub has the same model with a config.json: nvidia/C-RADIOv4-H",
    ),
    Foreign("a RADIO of a kind that is not known", "^(?!naflex).*radio"),
    Foreign("an InternViT of a kind that is not known", r"intern_?vit|vit_intern|intern_?vl"),
    Foreign(
        "a ViT without a final norm, as RADIO, InternViT and PE-Spatial are; no config names it",
        tensors=(rf"patch_embed\.proj\.weight blocks\.0\.attn\.qkv\.weight {_NORMS}",),
        hint="give the folder with config.json; if the model has a norm, the file is not whole",
        is_sure=False,
    ),
    Foreign(
        "a model with images of any shape (NaFlex) in timm's names",
        "naflex",
        (r"embeds\.proj\.weight",),
        "transformers has SigLIP 2's: google/siglip2-base-patch16-naflex",
    ),
    Foreign("an MLCD: a CLIP with rotary positions (RoPE)", "mlcd"),
    Foreign(
        "timm's own variant of Swin V2, which computes its biases and norms in another way",
        "swin_?v2_cr",
        (r".*\.attn\.meta_mlp\..+",),
        "give a Swin V2 of Microsoft's weights: swinv2_tiny_window8_256.ms_in1k",
    ),
    Foreign(
        "a Swin in torchvision's names",
        "^swin_(v2_)?[tsbl]$",
        (r"(.*\.)?features\.1\.0\.attn\.relative_position_index",),
        "timm and transformers have the same models: timm/swinv2_tiny_window8_256.ms_in1k",
    ),
    Foreign(
        "a hybrid: a ResNet stands before the Vision Transformer (R50+ViT)",
        r"^vit_\w+_(r\d+_s\d+|resnet\d+d)_|vit[-_]hybrid",
        ("(.*/)?conv_root/kernel", r"patch_embed\.backbone\..*"),
        "give a plain ViT",
    ),
    Foreign("a ViT whose norms come after its sublayers", r"_rpn_"),
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
    Foreign(
        "a CaiT: it has talking heads, and its last blocks update the class token alone",
        "^cait",
        (r"blocks_token_only\..*",),
    ),
    Foreign(
        "a ConvNeXt, a convolutional network",
        "convnext",
        (
            r"(.*\.)?stages\.0\.blocks\.0\.(conv_)?dw(conv)?\.weight",
            r"(.*\.)?stages\.0\.layers\.0\.(dw|depthwise_)conv\.weight",
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
