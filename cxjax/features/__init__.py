"""Feature networks: images in, features of named layers out, and the weights they need."""
