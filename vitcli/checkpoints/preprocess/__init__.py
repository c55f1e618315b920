"""Read the preprocessing JSON of transformers, timm and open_clip; write that of the first two."""
