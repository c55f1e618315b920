"""List and clear the cache: exports, vectors, features, rates, and outputs on their way."""
