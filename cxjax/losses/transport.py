"""Losses that ask what it costs to carry one set of features over into the other."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cxjax.distances import Distance, absolute, product, weighted_mean
from cxjax.losses.arguments import (
    Centering,
    Mask,
    as_arrays,
    block_size_of,
    center,
    check_distances,
    check_points,
    comparable,
    constant_where_empty,
    point_set,
    zero_where_empty,
)
from cxjax.options import check_integer, check_option
from cxjax.similarity.nearest import nearest
from cxjax.types import AnyArray

Order = Literal[1, 2]


def relaxed_earth_mover_loss(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    distance: Distance = "cosine",
    centering: Centering = "none",
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Relaxed earth mover's distance: the larger of two one-sided relaxations.

    With $d_{ij}$ the distance of source $i$ to target $j$,

    $$L(x, y) = \max\left( \frac{1}{n} \sum_i \min_j d_{ij}, \;
    \frac{1}{m} \sum_j \min_i d_{ij} \right)$$

    Each is the cost of moving all of one set when the other can take any amount: a lower bound of
    the earth mover's distance. Memory grows with `n + m`, not with their product.

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      distance: `"cosine"`, $(1 - \cos) / 2$; `"l2"`, squared; `"l1"`; or a symmetric function
        `(b, c), (m, c) -> (b, m)` of non-negative distances, whose row `i` depends on row `i` of
        its first argument alone. For the second transport it is called with the roles exchanged,
        as `distance(y, x)`. It is given the points uncentred, in the dtype of the computation.
      centering: What both sets are taken about for the cosine distance, in both transports:
        `"none"`, as in the paper; `"target"`, the mean of `y`; or a mean `(c,)` of your own. The
        other distances do not depend on it.
      x_mask: Which sources take part: boolean, or non-negative weights, `(n,)`. A weight is a
        multiplicity: 2 is the same as the point twice, in the means.
      y_mask: The same for the targets, `(m,)`. Weights are constants: they have no gradient. Points
        with zero weight are ignored, even if they are NaN. If no source or no target takes part,
        the loss is 0, and there is no gradient.
      block_size: Rows of the distances held at a time, at least 2; `None` chooses.

    Returns:
      A scalar, at least 0. The gradient is that of the larger one, and flows to each point
      and its nearest; of several nearest, the one of lowest index.

    Raises:
      ValueError: If a set is not `(n, c)`, is empty or not floating, the channels differ, a mask
        or a mean does not fit, or an option has an unknown or impossible value.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> print(f"{relaxed_earth_mover_loss(x, -x):.3f}")
      0.618

    References:
      Kolkin et al., `Style Transfer by Relaxed Optimal Transport and Self-Similarity
      <https://arxiv.org/abs/1904.12785>`_, CVPR 2019: the relaxed EMD. The cosine
      distance is halved here, as in the contextual loss, and so is the loss.
    """
    block_size = block_size_of(block_size)
    x, y = comparable(x, y, distance, centering)
    if callable(distance):
        check_distances(jax.eval_shape(distance, y, x), y, x)
    sources, targets = constant_where_empty(point_set(x, x_mask, "x"), point_set(y, y_mask, "y"))
    mean = center(targets, centering, distance)

    def transport(start, end):
        cost, _ = nearest(
            start.points,
            end.points,
            mean,
            distance=distance,
            block_size=block_size,
            present=end.present,
        )
        return weighted_mean(cost[:, None], start.weights)[0]

    loss = jnp.maximum(transport(sources, targets), transport(targets, sources))
    return zero_where_empty(loss, sources, targets)


def sliced_wasserstein_loss(
    key: PRNGKeyArray,
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    projections: int = 64,
    order: Order = 2,
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
) -> Float[Array, ""]:
    r"""Sliced Wasserstein distance: transport along random directions, where it is exact.

    With $F_{\theta \cdot x}^{-1}(t)$ the quantile function of the sources' projections on the
    direction $\theta$,

    $$L(x, y) = \frac{1}{P} \sum_\theta \int_0^1
    \left| F_{\theta \cdot x}^{-1}(t) - F_{\theta \cdot y}^{-1}(t) \right|^p dt$$

    The integral is exact for sets of any two sizes and weights: the functions are constant between
    the cumulative weights of either set. If both sets have one size and no weights, it is the mean
    of $|a_k - b_k|^p$ over the sorted projections. Memory grows with `projections * (n + m)`.

    Args:
      key: Draws the directions, uniform on the unit sphere. A new key in every step makes the
        gradient an unbiased one of the loss over all directions.
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      projections: $P$, the number of directions, a positive Python integer.
      order: $p$: 2, the squared 2-Wasserstein distance $W_2^2$, smooth where the sets meet; or 1,
        the earth mover's distance $W_1$, in the features' own unit.
      x_mask: Which sources take part: boolean, or non-negative weights, `(n,)`. A weight is a
        multiplicity: 2 is the same as the point twice. The weights of each set are divided by their
        sum.
      y_mask: The same for the targets, `(m,)`. Weights are constants: they have no gradient. Points
        with zero weight are ignored, even if they are NaN. If no source or no target takes part,
        the loss is 0, and there is no gradient.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If a set is not `(n, c)`, is empty or not floating, the channels differ, a mask
        does not fit, or an option has an unknown or impossible value.
      TypeError: If `projections` is traced: it is fixed when the program is built; or by JAX, if
        `key` is not a key.

    Example:
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> loss = sliced_wasserstein_loss(jax.random.key(0), x, x + 0.5, order=1)
      >>> print(f"{loss:.3f}")
      0.500

    References:
      Bonneel et al., `Sliced and Radon Wasserstein Barycenters of Measures
      <https://doi.org/10.1007/s10851-014-0506-3>`_, 2015; as a loss on the features of images,
      with sorting and $p = 2$, Heitz et al., `A Sliced Wasserstein Loss for Neural Texture
      Synthesis <https://arxiv.org/abs/2006.07229>`_, CVPR 2021.
    """
    check_option("order", order, Order)
    projections = check_integer("projections", projections)
    x, y = as_arrays(x, y)
    check_points(x, y)
    sources, targets = point_set(x, x_mask, "x"), point_set(y, y_mask, "y")
    directions = jax.random.normal(key, (projections, x.shape[1]), x.dtype)
    directions /= jnp.sqrt(jnp.square(directions).sum(axis=1, keepdims=True))
    loss = _mean_transport(
        product(directions, sources.points),
        product(directions, targets.points),
        jnp.ones_like(x[:, 0]) if sources.weights is None else sources.weights,
        jnp.ones_like(y[:, 0]) if targets.weights is None else targets.weights,
        order,
    )
    return zero_where_empty(loss, sources, targets)


@functools.partial(jax.jit, static_argnums=4)
def _mean_transport(
    u: Float[Array, "projections n"],
    v: Float[Array, "projections m"],
    u_weights: Float[Array, " n"],
    v_weights: Float[Array, " m"],
    order: Order,
) -> Float[Array, ""]:
    transport = functools.partial(_transport, order=order)
    return jax.vmap(transport, (0, 0, None, None))(u, v, u_weights, v_weights).mean()


def _transport(u, v, u_weights, v_weights, *, order: Order):
    """The Wasserstein distance of two weighted sets of numbers, to the power of its order."""
    n, m = u.shape[0], v.shape[0]
    u, u_levels = _quantiles(u, u_weights)
    v, v_levels = _quantiles(v, v_weights)
    # Between two levels of either set both quantile functions are constant. There, the index of
    # the one is the number of its levels below. Integer weights give equal levels exactly; where
    # rounding or a tie puts an index one off, the step is no wider than that rounding.
    levels = jnp.concatenate([u_levels, v_levels])
    order_of_levels = jnp.argsort(levels)
    levels = levels[order_of_levels]
    widths = jnp.diff(levels, prepend=jnp.zeros_like(levels[:1]))
    is_u = order_of_levels < n
    u_below = jnp.cumsum(is_u) - is_u
    v_below = jnp.arange(n + m) - u_below
    difference = u[jnp.minimum(u_below, n - 1)] - v[jnp.minimum(v_below, m - 1)]
    cost = absolute(difference) if order == 1 else jnp.square(difference)
    return (widths * cost).sum()


def _quantiles(values, weights):
    """The sorted values, and the share of the weights up to each of them."""
    order = jnp.argsort(jax.lax.stop_gradient(values))
    cumulative = jnp.cumsum(weights[order])
    return values[order], cumulative / cumulative[-1]
