"""What the experiments' baselines share beside the losses of cxjax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def relative(
    loss: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, y: jax.Array
) -> jax.Array:
    """A loss as a share of the reference's own size, so that one weight suits every layer.

    Args:
      loss: Loss of two sets of features.
      x: Features of the image being made.
      y: Features of the reference.

    Returns:
      `loss(x, y) / loss(0, y)`.
    """
    return loss(x, y) / loss(jnp.zeros_like(y), y)
