"""`vit bench`."""
