"""The layouts of the vision towers of language models: AIMv2, InternViT, Perception Encoder."""
