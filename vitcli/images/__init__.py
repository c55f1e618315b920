"""Paths into pixels: list the inputs, decode, preprocess, and batch them in worker processes."""
