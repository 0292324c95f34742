"""A model's folder: where it is, what is in it, whether it may be loaded, and where it came from."""
