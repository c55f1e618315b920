"""`vit search`: the rows of an index that are nearest to images, texts, other rows or vectors."""
