"""`vit evaluate`."""
