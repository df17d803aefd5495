"""The Contextual Bilateral Loss: nearest neighbours that are not looked for too far away."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from cxjax.distances import Distance, weighted_mean
from cxjax.losses.arguments import (
    Centering,
    Mask,
    block_size_of,
    center,
    comparable,
    constant_where_empty,
    non_negative,
    point_set,
    zero_where_empty,
)
from cxjax.similarity.nearest import Positions, nearest
from cxjax.types import AnyArray


def contextual_bilateral_loss(
    x: Float[AnyArray, "n c"],
    y: Float[AnyArray, "m c"],
    *,
    x_positions: Real[AnyArray, "n p"],
    y_positions: Real[AnyArray, "m p"],
    spatial_weight: float = 0.5,
    distance: Distance = "cosine",
    centering: Centering = "target",
    x_mask: Mask | None = None,
    y_mask: Mask | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    r"""Contextual Bilateral Loss (CoBi): how far the nearest target is, in features and in place.

    With $d_{ij}$ the distance of source $i$ to target $j$, and $p_i$ and $q_j$ their positions,

    $$L(x, y) = \frac{1}{n} \sum_i \min_j \left( d_{ij} + w_s \, \|p_i - q_j\|_2 \right)$$

    For pairs that are slightly misaligned: the further a match, the more it costs. The positions
    are your own, so that maps of any shape, volumes, two maps of different sizes and points drawn
    from them are all measured where they are. Memory grows with `n + m`, not with their product.

    Args:
      x: Source points, `(n, c)`, floating: the features of the image being made.
      y: Target points, `(m, c)`.
      x_positions: Where the sources are, `(n, p)`, floating or integer, with any number of axes.
      y_positions: Where the targets are, `(m, p)`, in the same coordinates.
      spatial_weight: $w_s$, a Python number, at least 0: the cost of a unit of position, in the
        distance's unit. With positions that are fractions of the image's longer side, 0.5 makes a
        match on the other side of the image as costly as features at right angles. Positions in
        pixels need a weight that is smaller by the number of pixels. 0 leaves positions out.
      distance: `"cosine"`, $(1 - \cos) / 2$ of both sets less the target's mean; `"l2"`, squared;
        `"l1"`; or a function `(b, c), (m, c) -> (b, m)` of non-negative distances, whose row `i`
        depends on row `i` of its first argument alone. It is given the points uncentred, in
        the dtype of the computation.
      centering: What both sets are taken about for the cosine distance: `"target"`, the mean of
        `y`; `"none"`; or a mean `(c,)` of your own. The other distances do not depend on it.
      x_mask: Which sources take part: boolean, or non-negative weights, `(n,)`. A weight is a
        multiplicity: 2 is the same as the source twice, in the mean.
      y_mask: Which targets take part: boolean, or non-negative weights, `(m,)`. They act as a mask
        in the minimum, and count in the centring mean. Weights are constants: they have no
        gradient. Points with zero weight and their positions are ignored, even if they are NaN. If
        no source or no target takes part, the loss is 0, and there is no gradient.
      block_size: Rows of the distances held at a time, at least 2; `None` chooses.

    Returns:
      A scalar, at least 0. The gradient flows to the features and the positions of each source and
      its nearest target, on ties the one of lowest index; that of a displacement of 0 is 0.

    Raises:
      ValueError: If a set is not `(n, c)`, is empty or not floating, the channels differ,
        positions, a mask or a mean do not fit, or an option has an unknown or impossible value.
      TypeError: If `spatial_weight` is traced: it is fixed when the program is built.

    Example:
      >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
      >>> places = jnp.array([[0.0], [0.25], [0.5]])
      >>> loss = contextual_bilateral_loss(x, x, x_positions=places, y_positions=places + 0.25)
      >>> print(f"{loss:.3f}")
      0.125

    References:
      Zhang et al., `Zoom to Learn, Learn to Zoom <https://arxiv.org/abs/1905.05169>`_, CVPR 2019:
      CoBi. The cosine distance is halved here, as in the contextual loss: a weight
      meant for $1 - \cos$ is twice ours, and so is that loss. The authors' code mixes similarities
      instead of distances, and its spatial term does not see how far a match is; this is the
      equation.
    """
    weight = non_negative("spatial_weight", spatial_weight)
    block_size = block_size_of(block_size)
    x, y = comparable(x, y, distance, centering)
    x_positions = _checked(x_positions, x, "x")
    y_positions = _checked(y_positions, y, "y")
    if x_positions.shape[1] != y_positions.shape[1]:
        raise ValueError(
            "x_positions and y_positions must have the same number of axes; got x_positions of "
            f"shape {x_positions.shape} and y_positions of shape {y_positions.shape}"
        )
    sources, targets = constant_where_empty(point_set(x, x_mask, "x"), point_set(y, y_mask, "y"))
    positions = Positions(
        point_set(x_positions, x_mask, "x").points,
        point_set(y_positions, y_mask, "y").points,
        jnp.asarray(weight, x.dtype),
    )
    cost, _ = nearest(
        sources.points,
        targets.points,
        center(targets, centering, distance),
        distance=distance,
        block_size=block_size,
        present=targets.present,
        positions=positions,
    )
    loss = weighted_mean(cost[:, None], sources.weights)[0]
    return zero_where_empty(loss, sources, targets)


def _checked(positions: Any, points: Array, name: str) -> Array:
    """The positions in the dtype of the points, once they are known to be theirs."""
    positions = jnp.asarray(positions)
    shapes = f"got {name}_positions of shape {positions.shape} and {name} of shape {points.shape}"
    if positions.ndim != 2 or positions.shape[0] != points.shape[0] or positions.shape[1] == 0:
        raise ValueError(f"{name}_positions must be (n, p), one row per point of {name}; {shapes}")
    if not any(jnp.issubdtype(positions.dtype, kind) for kind in (jnp.integer, jnp.floating)):
        raise ValueError(f"{name}_positions must be real numbers; got {positions.dtype}")
    return positions.astype(points.dtype)
