"""Files into models: find a checkpoint, read its tensors, recognise its layout, build and check.

resolve (spec → files) → tensors (files → state dict) → layouts (whose names are these?) →
keymap (their names → ours) → load (build, check, ready to use).
"""
