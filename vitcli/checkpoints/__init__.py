"""Load models from files.

resolve (spec → files) → tensors (files → state dict) → detect (state dict → layout) →
keymap (the layout's names → vitcli's) → build (state dict → network) → load (all of it).
"""
