"""Point sets for tests: sources about 0, targets of another spread about another mean.

Drawn by NumPy: JAX would compile its generator anew for every shape and dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np


def points(key, n, m, c=6, dtype=jnp.float32, batch=()):
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x, y = (generator.standard_normal((*batch, number, c)) for number in (n, m))
    return jnp.asarray(x, dtype), jnp.asarray(0.7 * y + 0.3, dtype)


def normal(seed, *shape):
    """Standard normal numbers, float64."""
    return np.random.default_rng(seed).standard_normal(shape)
