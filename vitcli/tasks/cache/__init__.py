"""List and clear the cache: exports, vectors of texts, features, and outputs on their way."""
