"""Losses between two images, or their features: arrays in, scalar out.

Options are keyword-only. A point set is `(n, c)`: `n` points of `c` channels, in any order; a
feature map `(h, w, c)`, a signal `(t, c)` or a volume `(d, h, w, c)` is one after
`reshape(-1, c)`. One pair per call; `jax.vmap` gives a batch. NumPy arrays are accepted.
Half-precision inputs are computed in float32 and give a float32 loss; the gradient comes back in
the input's dtype, where one too large for float16 is float16's largest number. Forward mode needs
inputs of another dtype than float16.
"""
