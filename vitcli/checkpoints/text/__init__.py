"""The text towers of checkpoints, their tokenizers, and the vectors of texts."""
