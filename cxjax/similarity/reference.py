"""The paper's equations in the paper's order: dense, and differentiated by JAX alone.

This is the specification. Every other implementation equals it, in value and in gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cxjax.distances import Distance, pairwise


def maximum_log_similarity(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    mean: Float[Array, " c"],
    *,
    distance: Distance,
    bandwidth: float,
    epsilon: float,
    present: Bool[Array, " n"] | None = None,
    weights: Float[Array, " m"] | None = None,
) -> tuple[Float[Array, " m"], Int[Array, " m"]]:
    r"""For every target, $\max_i \log \mathrm{CX}_{ij}$ and the lowest source index that has it.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      mean: What the distance is taken about.
      distance: Name of a distance, or a function.
      bandwidth: $h$.
      epsilon: $\epsilon$.
      present: Sources that take part, at least one; `None` is all.
      weights: Multiplicities of the targets, at least one of them positive; `None` is ones.

    Returns:
      The logarithms and the indices, both `(m,)`; of targets without weight, any number.
    """
    d = pairwise(x, y, mean, distance=distance)
    if weights is None:
        weights = jnp.ones_like(d[0])
    has_weight = weights[None, :] > 0
    # Picked by index, so that the lowest of several equal ones takes the gradient.
    nearest = jnp.where(has_weight, d, jnp.inf).argmin(axis=1, keepdims=True)
    d_min = jnp.take_along_axis(d, nearest, axis=1)
    d_relative = d / (d_min + epsilon)
    log_w = jnp.where(has_weight, (1 - d_relative) / bandwidth, -jnp.inf)
    log_w -= jax.lax.stop_gradient(log_w.max(axis=1, keepdims=True))
    w = weights[None, :] * jnp.exp(log_w)
    log_cx = log_w - jnp.log(w.sum(axis=1, keepdims=True))  # over the targets
    if present is not None:
        log_cx = jnp.where(present[:, None], log_cx, -jnp.inf)
    index = log_cx.argmax(axis=0)
    return jnp.take_along_axis(log_cx, index[None, :], axis=0)[0], index
