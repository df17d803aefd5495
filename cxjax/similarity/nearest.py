r"""The nearest target of every source, in linear memory, differentiable in every mode.

The index of the nearest target is a constant almost everywhere, so that the cost of a source is a
function of two points alone. The search holds a block of rows of the costs and has no derivative;
the cost of the pairs that it found is computed again, pair by pair, and JAX differentiates that.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cxjax.distances import Distance, DistanceFunction, DistanceName, factor, l1, matched, product
from cxjax.similarity.blocks import default_block_size, first_index, starts_of, varying_alike


class Positions(NamedTuple):
    """Where the points are, and what a unit of Euclidean distance there adds to the cost."""

    sources: Float[Array, "n p"]
    targets: Float[Array, "m p"]
    weight: Float[Array, ""]


def nearest(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    mean: Float[Array, " c"],
    *,
    distance: Distance,
    block_size: int | None,
    present: Bool[Array, " m"] | None = None,
    positions: Positions | None = None,
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    r"""For every source, $\min_j (d_{ij} + w |p_i - q_j|)$ and the lowest target index that has it.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      mean: What the distance is taken about.
      distance: Name of a distance, or a function whose row `i` depends on row `i` of `x` alone.
      block_size: Rows held at a time, at least 2; `None` chooses.
      present: Targets that take part, at least one; `None` is all.
      positions: $p$, $q$ and $w$; `None` leaves the term out.

    Returns:
      The costs and the indices, both `(n,)`.
    """
    # A block of one row is a product with a vector, which rounds equal targets differently.
    block_size = min(x.shape[0], max(2, block_size or default_block_size(y.shape[0])))
    if callable(distance):  # not jitted: the cache would keep what it closes over
        return _by_function(x, y, present, positions, distance, block_size)
    return _by_name(x, y, mean, present, positions, distance, block_size)


def _all_varying_alike(*trees):
    leaves, structure = jax.tree.flatten(trees)
    return jax.tree.unflatten(structure, varying_alike(*leaves))


def _by_blocks(function: Callable, rows: Any, n: int, block_size: int) -> Any:
    """A function of rows, one block of them at a time: its results are those of all rows."""
    starts = starts_of(n, block_size)
    index = starts[:, None] + jnp.arange(block_size)[None, :]
    results = jax.lax.map(function, jax.tree.map(lambda array: array[index], rows))
    again = starts.shape[0] * block_size - n  # rows that the last two blocks share
    return jax.tree.map(lambda r: jnp.concatenate([r[:-1].ravel(), r[-1, again:]]), results)


# --- The two kinds of distance ---


@functools.partial(jax.jit, static_argnums=(5, 6))
def _by_name(x, y, mean, present, positions, distance, block_size):
    x, y, mean, present, positions = _all_varying_alike(x, y, mean, present, positions)
    fixed = jax.lax.stop_gradient((x, y, mean, positions))
    index = _search(*fixed, present, distance, block_size)
    cost = matched(x, y[index], mean, distance=distance)
    return cost + _spatial(positions, index), index


def _search(x, y, mean, positions, present, distance: DistanceName, block_size):
    """The lowest index of the smallest cost of every source."""
    if distance == "l1":
        rows, distances = x, lambda x: l1(x, y)
    else:
        offset, left, right = factor(x, y, mean, distance=distance)
        rows = offset, left
        distances = lambda rows: rows[0][:, None] + product(rows[1], right)

    def visit(block):
        rows, places = block
        return _cheapest(jnp.maximum(distances(rows), 0), places, positions, present)

    places = None if positions is None else positions.sources
    return _by_blocks(visit, (rows, places), x.shape[0], block_size)


def _by_function(x, y, present, positions, distance: DistanceFunction, block_size):
    """Row `i` of such a distance may use all of `y`: the derivative makes each block anew."""
    x, y, present, positions = _all_varying_alike(x, y, present, positions)
    fixed = jax.lax.stop_gradient(positions)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop's body is no common expression
    def visit(block):
        rows, places = block
        distances = distance(rows, y)
        distances = jnp.where(distances <= 0, 0, distances)
        index = _cheapest(jax.lax.stop_gradient(distances), places, fixed, present)
        return jnp.take_along_axis(distances, index[:, None], axis=1)[:, 0], index

    places = None if positions is None else fixed.sources
    cost, index = _by_blocks(visit, (x, places), x.shape[0], block_size)
    return cost + _spatial(positions, index), index


# --- The parts of a cost ---


def _cheapest(distances, places, positions: Positions | None, present):
    """The lowest index of the smallest cost of every row of a block; a NaN is the smallest."""
    costs = distances
    if positions is not None:
        squares = [
            jnp.square(p[:, None] - q[None, :])
            for p, q in zip(places.T, positions.targets.T, strict=True)
        ]
        costs += positions.weight * jnp.sqrt(sum(squares[1:], squares[0]))
    if present is not None:
        costs = jnp.where(present[None, :], costs, jnp.inf)
    is_smallest = (costs <= costs.min(axis=1, keepdims=True)) | jnp.isnan(costs)
    if present is not None:  # all costs of a row may be infinite
        is_smallest &= present[None, :]
    return first_index(is_smallest, 1)


def _spatial(positions: Positions | None, index):
    """What the displacement of every source from its target costs: no gradient where it is 0."""
    if positions is None:
        return 0
    displacement = positions.sources - positions.targets[index]
    squared = jnp.square(displacement).sum(axis=1)
    is_zero = squared == 0
    return positions.weight * jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))
