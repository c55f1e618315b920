"""Read the preprocessing JSON of transformers, timm and open_clip as a `Preprocess`, and write
it."""
