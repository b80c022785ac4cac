"""A Space to try a model in."""
