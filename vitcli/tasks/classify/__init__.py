"""`vit classify`."""
