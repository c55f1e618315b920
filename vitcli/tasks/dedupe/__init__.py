"""`vit dedupe`."""
