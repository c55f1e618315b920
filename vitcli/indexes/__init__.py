"""Vectors that `vit embed` has written, read back in blocks: FILES → VECTORS. Without torch."""
