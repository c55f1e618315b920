"""`vit attention`."""
