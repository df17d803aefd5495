"""Generators: images in, images out."""
