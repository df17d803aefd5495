"""Generators, images in and images out, and the discriminator that scores them."""
