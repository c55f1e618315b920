"""Read weight files as tensors."""
