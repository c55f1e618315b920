"""A map of images: places in the plane, clusters, distances."""
