"""Preprocessing JSON of transformers, timm and open_clip into a `Preprocess`, and back."""
