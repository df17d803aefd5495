"""The paper's equations in the paper's order: dense, and differentiated by JAX alone.

This is the specification. Every other implementation equals it, in value and in gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cxjax.distances import Distance, pairwise


def log_best(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    *,
    distance: Distance,
    bandwidth: float,
    epsilon: float,
) -> tuple[Float[Array, " m"], Int[Array, " m"]]:
    r"""For every target, $\max_i \log \mathrm{CX}_{ij}$ and the lowest source index that has it.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      distance: Name of a distance, or a function.
      bandwidth: $h$.
      epsilon: $\epsilon$.

    Returns:
      The logarithms and the indices, both `(m,)`.
    """
    d = pairwise(x, y, distance=distance)
    # Picked by index, so that the lowest of several equal ones takes the gradient.
    d_min = jnp.take_along_axis(d, d.argmin(axis=1, keepdims=True), axis=1)
    d_relative = d / (d_min + epsilon)
    log_w = (1 - d_relative) / bandwidth
    log_cx = jax.nn.log_softmax(log_w, axis=1)  # over the targets
    index = log_cx.argmax(axis=0)
    return jnp.take_along_axis(log_cx, index[None, :], axis=0)[0], index
