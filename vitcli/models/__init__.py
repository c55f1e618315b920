"""The networks: one Vision Transformer for every family of ViT checkpoints, and a Swin.

Legend of the shapes in this package:
B batch · C channels · H, W pixels · P patch · h, w grid (h = H // P) · T prefix tokens ·
N = T + h*w tokens · D embed_dim · A heads · d = D // A · F feed-forward width · K classes.
Sizes are always (height, width).
"""
