"""The naming schemes of published checkpoints: a file and a row of `LAYOUTS` for each."""

from __future__ import annotations

from vitcli.checkpoints.layouts import (
    dinov3,
    google,
    hf_beit,
    hf_clip,
    hf_dinov2,
    hf_dinov3,
    hf_pixio,
    hf_siglip,
    hf_swin,
    hf_tips,
    hf_vit,
    meta,
    open_clip_timm,
    openai,
    swin,
    timm,
    timm_beit,
    timm_eva,
    timm_swin,
    torchvision,
)
from vitcli.checkpoints.layouts.layout import Layout
from vitcli.checkpoints.layouts.towers import eva, hf_aimv2, hf_internvit, hf_siglip2, pe, timm_aimv2

LAYOUTS: tuple[Layout, ...] = (
    hf_vit.LAYOUT,
    hf_beit.LAYOUT,
    hf_dinov2.LAYOUT,
    hf_dinov3.LAYOUT,
    hf_clip.LAYOUT,
    hf_siglip.LAYOUT,
    hf_siglip2.LAYOUT,
    hf_swin.LAYOUT,
    hf_pixio.LAYOUT,
    hf_aimv2.LAYOUT,
    hf_internvit.LAYOUT,
    openai.OPENAI,
    openai.OPEN_CLIP,
    pe.LAYOUT,
    open_clip_timm.LAYOUT,
    timm.LAYOUT,
    timm_beit.LAYOUT,
    timm_aimv2.LAYOUT,
    timm_eva.LAYOUT,
    *meta.LAYOUTS,
    eva.LAYOUT,
    dinov3.LAYOUT,
    timm_swin.LAYOUT,
    swin.LAYOUT,
    google.LAYOUT,
    torchvision.LAYOUT,
    hf_tips.LAYOUT,
)
