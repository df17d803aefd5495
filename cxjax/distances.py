"""Distances between every pair of two point sets, and the one matrix product they all go through.

Points are rows: `x` holds `n` source points and `y` holds `m` target points of `c` channels, both
in the dtype of the computation (float32 or float64).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DistanceName = Literal["cosine", "l2", "l1"]
DistanceFunction = Callable[[Array, Array], Array]
Distance = DistanceName | DistanceFunction


def product(x: Float[Array, "n c"], y: Float[Array, "m c"]) -> Float[Array, "n m"]:
    """Inner products of the rows of `x` with the rows of `y`, in full precision.

    Every product of the similarities goes through here. The default precision of a GPU (TF32) or
    a TPU (bfloat16) turns the distance of exact matches into noise, and the loss into NaN or a
    wrong value.

    Args:
      x: Points, `(n, c)`.
      y: Points, `(m, c)`.

    Returns:
      The products, `(n, m)`.
    """
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


class Factors(NamedTuple):
    """A distance written as a product: `d_ij = max(0, offset_i + left_i . right_j)`.

    Attributes:
      offset: One number per source point, `(n,)`.
      left: Vectors of the source points, `(n, k)`.
      right: Vectors of the target points, `(m, k)`.
    """

    offset: Float[Array, " n"]
    left: Float[Array, "n k"]
    right: Float[Array, "m k"]


def weighted_mean(
    points: Float[Array, "n c"],
    weights: Float[Array, " n"] | None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, " c"]:
    """Mean of points that count as often as their weights say.

    Args:
      points: Points, `(n, c)`.
      weights: Multiplicities, `(n,)`, not all zero; `None` is ones.
      axis_name: Mesh axes that the points are spread over, inside `shard_map` or `pmap`.

    Returns:
      The mean, `(c,)`.
    """
    if weights is None:
        mean = points.mean(axis=0)
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    total, count = (points * weights[:, None]).sum(axis=0), weights.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / count


def factor(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    mean: Float[Array, " c"],
    *,
    distance: Literal["cosine", "l2"],
) -> Factors:
    r"""Writes the cosine or the squared L2 distance as one product and a clamp.

    Both are taken about `mean`, in the paper the target's: there
    $d_{ij} = (1 - \cos(x_i - \mu_y, y_j - \mu_y)) / 2$, halved as in the authors' code. Squared L2
    is the same about any point, and cancels least about that one.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      mean: The point taken as the origin, `(c,)`.
      distance: `"cosine"` or `"l2"`.

    Returns:
      The factors.

    References:
      Mechrez et al., ECCV 2018; `create_using_dotP` and `create_using_L2` of the authors' code,
      whose mean runs over the batch too: per image here, as in the paper.
    """
    x, y = x - mean[None, :], y - mean[None, :]
    if distance == "cosine":
        # What is left of a point that equals the mean is rounding noise, without a direction.
        noise = 8 * jnp.finfo(y.dtype).eps * jnp.sqrt((mean * mean).sum())
        offset = jnp.full_like(x[:, 0], 0.5)
        return Factors(offset, -0.5 * _unit(x, noise), _unit(y, noise))
    right = jnp.concatenate([y, (y * y).sum(axis=1, keepdims=True)], axis=1)
    left = jnp.concatenate([-2 * x, jnp.ones_like(x[:, :1])], axis=1)
    return Factors((x * x).sum(axis=1), left, right)


def _unit(x: Float[Array, "n c"], noise: Float[Array, ""]) -> Float[Array, "n c"]:
    """Rows scaled to length one; a row no longer than `noise` is zero, and so is its gradient."""
    squared = (x * x).sum(axis=1, keepdims=True)
    is_zero = squared <= jnp.maximum(noise * noise, jnp.finfo(x.dtype).tiny)
    return jnp.where(is_zero, 0, x) / jnp.sqrt(jnp.where(is_zero, 1, squared))


def absolute(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Absolute values, whose gradient at 0 is 0: `jnp.abs` gives 1 there.

    Features after a ReLU are 0 in both images at many places, and would be pushed one way.

    Args:
      x: Any array.

    Returns:
      `|x|`.
    """
    return x * jnp.sign(x)


def l1(x: Float[Array, "n c"], y: Float[Array, "m c"]) -> Float[Array, "n m"]:
    r"""L1 distances, $d_{ij} = \sum_c |x_{ic} - y_{jc}|$.

    Args:
      x: Points, `(n, c)`.
      y: Points, `(m, c)`.

    Returns:
      The distances, `(n, m)`.
    """

    # One channel at a time, rematerialised in the derivative: never an (n, m, c) array.
    @jax.checkpoint
    def add_channel(total, channels):
        x_c, y_c = channels
        return total + absolute(x_c[:, None] - y_c[None, :]), None

    first = absolute(x[:, :1] - y[:, :1].T)
    total, _ = jax.lax.scan(add_channel, first, (x[:, 1:].T, y[:, 1:].T))
    return total


def pairwise(
    x: Float[Array, "n c"], y: Float[Array, "m c"], mean: Float[Array, " c"], *, distance: Distance
) -> Float[Array, "n m"]:
    """All distances at once, clamped at 0, with zero gradient where they are clamped.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      mean: The point taken as the origin, `(c,)`; it matters to the cosine distance alone.
      distance: `"cosine"`, `"l2"` (squared), `"l1"`, or a function of `x` and `y`.

    Returns:
      The distances, `(n, m)`.
    """
    if callable(distance):
        distances = distance(x, y)
    elif distance == "l1":
        distances = l1(x, y)
    else:
        offset, left, right = factor(x, y, mean, distance=distance)
        distances = offset[:, None] + product(left, right)
    return jnp.where(distances <= 0, 0, distances)  # a NaN stays a NaN


def matched(
    x: Float[Array, "n c"],
    y: Float[Array, "n c"],
    mean: Float[Array, " c"],
    *,
    distance: DistanceName,
) -> Float[Array, " n"]:
    r"""Distances of the pairs $(x_i, y_i)$: what `pairwise` has on its diagonal.

    Written as differences, which do not cancel where a pair is nearly equal: with $u$ and $v$ the
    unit vectors, $(1 - u \cdot v) / 2 = |u - v|^2 / 4$.

    Args:
      x: Source points, `(n, c)`.
      y: The target point of each, `(n, c)`.
      mean: The point taken as the origin, `(c,)`; it matters to the cosine distance alone.
      distance: `"cosine"`, `"l2"` (squared) or `"l1"`.

    Returns:
      The distances, `(n,)`, at least 0.
    """
    if distance == "l1":
        return absolute(x - y).sum(axis=1)
    if distance == "l2":
        return jnp.square(x - y).sum(axis=1)
    factors = factor(x, y, mean, distance=distance)
    u, v = -2 * factors.left, factors.right
    # A point without direction is at 1/2 from all: its vector is zero, not of length one.
    missing = (u == 0).all(axis=1).astype(u.dtype) + (v == 0).all(axis=1).astype(v.dtype)
    return (jnp.square(u - v).sum(axis=1) + missing) / 4
