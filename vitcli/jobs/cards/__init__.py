"""The card of a model that vit has written."""
