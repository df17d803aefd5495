"""Point sets for tests: sources about 0, targets of another spread about another mean."""

import jax
import jax.numpy as jnp


def points(key, n, m, c=6, dtype=jnp.float32):
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (n, c), dtype)
    return x, 0.7 * jax.random.normal(key_y, (m, c), dtype) + 0.3
