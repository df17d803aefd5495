"""Losses for images that are not aligned: the Contextual Loss and its family, in JAX."""
