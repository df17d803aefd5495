r"""The reference's numbers in linear memory: one pass over blocks of source rows, own derivative.

Everything about source $i$ needs row $i$ of the distances alone. With $m_i$ the row's minimum,
$r_i = 1 / (h (m_i + \epsilon))$ and $\omega_j$ the target's weight,

$$\log \mathrm{CX}_{ij} = -r_i (d_{ij} - m_i) - \log S_i, \qquad
S_i = \sum_j \omega_j e^{-r_i (d_{ij} - m_i)},$$

so a block of rows is made, reduced to a running maximum of every column, and thrown away. The
exponents are differences of distances: near copies stay exact where $r_i$ is large.

For the derivative let $G_j$ be the cotangent of target $j$'s maximum, won by source $i(j)$,
$p_{ij} = \omega_j \mathrm{CX}_{ij}$, $G_i$ the sum of $G_j$ over the targets that $i$ won, and
$C_{ij} = G_j [i = i(j)] - G_i p_{ij}$, the cotangent of $\log \mathrm{CX}$ before its normaliser's
share is split off. Its rows sum to zero. Then

$$\frac{\partial L}{\partial d_{ij}} = -r_i C_{ij} + [j = \arg\min_k d_{ik}]\, D_i, \qquad
D_i = \frac{r_i}{m_i + \epsilon} \sum_j C_{ij} (d_{ij} - m_i).$$

When the distance is a product, $d_{ij} = u_i + l_i \cdot r_j$, the gradient of $l_i$ needs only
$V_i = \sum_j C_{ij} r_j$, that is the mean $o_i = \sum_j p_{ij} r_j$, which the forward pass keeps
at the price of one more product; there is no second pass. The gradient of the targets takes one,
and is skipped when nobody asks for it.

On a CPU the time beside the products goes into reading the block again and again. So the targets
are cut into tiles, which stay in the cache between the exponential and the second product, and
indices are looked for in a part of the block (`blocks.py`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from cxjax.distances import Distance, Factors, factor, l1, product
from cxjax.similarity.blocks import (
    Cut,
    column_maximum,
    cut_for,
    default_block_size,
    row_minimum,
    starts_of,
    tiles_of,
    varying_alike,
    whole_of,
)


class _Options(NamedTuple):
    bandwidth: float
    epsilon: float
    block_size: int  # at most n
    target_axis: str | tuple[str, ...] | None  # mesh axes that the targets are spread over


class _Masks(NamedTuple):
    """Who takes part, and how often; `None` is everybody, once."""

    sources: Bool[Array, " n"] | None
    targets: Float[Array, " m"] | None


def maximum_log_similarity(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    mean: Float[Array, " c"],
    *,
    distance: Distance,
    bandwidth: float,
    epsilon: float,
    block_size: int | None,
    present: Bool[Array, " n"] | None = None,
    weights: Float[Array, " m"] | None = None,
    target_axis: str | tuple[str, ...] | None = None,
) -> tuple[Float[Array, " m"], Int[Array, " m"]]:
    r"""For every target, $\max_i \log \mathrm{CX}_{ij}$ and the lowest source index that has it.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      mean: What the distance is taken about.
      distance: Name of a distance, or a function whose row `i` depends on row `i` of `x` alone.
      bandwidth: $h$.
      epsilon: $\epsilon$.
      block_size: Rows held at a time, at least 2; `None` chooses.
      present: Sources that take part, at least one; `None` is all.
      weights: Multiplicities of the targets, at least one of them positive; `None` is ones.
      target_axis: Mesh axes over which the targets are spread; the sources are whole everywhere.

    Returns:
      The logarithms and the indices, both `(m,)`; of targets without weight, any number.
    """
    n, m = x.shape[0], y.shape[0]
    # A block of one row is a product with a vector, which rounds equal targets differently.
    block_size = min(n, max(2, block_size or default_block_size(m)))
    options = _Options(bandwidth, epsilon, block_size, target_axis)
    masks = _Masks(present, weights)
    if callable(distance):  # not jitted: the cache would keep what it closes over
        return _by_function(x, y, masks, distance, options)
    return _by_name(x, y, mean, masks, distance, options)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _by_name(x, y, mean, masks, distance, options):
    if distance == "l1":
        return _by_function(x, y, masks, l1, options)
    x, y, mean, *_ = varying_alike(x, y, mean, *jax.tree.leaves(masks))
    return _maximum_of_products(options, masks, factor(x, y, mean, distance=distance))


def _by_function(x, y, masks, function, options):
    x, y, *_ = varying_alike(x, y, *jax.tree.leaves(masks))
    # What the function closes over becomes an argument, so that it too can be differentiated, and
    # may be traced whatever it is.
    traced = jax.make_jaxpr(function)(x[: options.block_size], y)

    def distances(x, y, constants):
        closed = jax.extend.core.ClosedJaxpr(traced.jaxpr, constants)
        return jax.extend.core.jaxpr_as_fun(closed)(x, y)[0]

    is_real = [jnp.issubdtype(jnp.result_type(c), jnp.inexact) for c in traced.consts]
    reals = [c for c, real in zip(traced.consts, is_real, strict=True) if real]
    x, y, *reals = varying_alike(x, y, *reals)
    constants = _replace_reals(traced.consts, is_real, reals)
    return _maximum_of_distances(distances, options, masks, x, y, constants)


# --- The forward pass ---


class _Columns(NamedTuple):
    """The maximum of every target so far."""

    maximum: Float[Array, " m"]  # max_i log CX_ij
    index: Int[Array, " m"]


class _Rows(NamedTuple):
    """What the derivative needs to know of every source."""

    minimum: Float[Array, " n"]
    origin: Float[Array, " n"]  # the minimum, less the offset of the row
    argmin: Int[Array, " n"]  # its place in the tiles; -1 where it is on another device
    log_sum: Float[Array, " n"]  # log S_i; infinite where the source takes no part
    mean: Float[Array, "n k"] | None = None  # o_i


# Distances less their row's offset, of the block that starts there: the offset, and the tiles.
_Block = Callable[[Int[Array, ""]], tuple[Float[Array, " b"], Sequence[Float[Array, "b _"]]]]


def _slice(array, start, options):
    """The rows of one block."""
    return jax.lax.dynamic_slice_in_dim(array, start, options.block_size)


def _rate(minimum, options):
    return 1 / (options.bandwidth * (minimum + options.epsilon))


def _exponent(tile, origin, rate):
    """-r_i (d_ij - m_i), whose last clamp is that of the distance at 0."""
    return jnp.minimum(-rate[:, None] * (tile - origin[:, None]), 0)


def _collective(reduce, array, options):
    """`reduce` over the devices that hold the targets, if there are several."""
    if options.target_axis is None:
        return array
    return varying_alike(reduce(array, options.target_axis), array)[0]


def _nearest(tiles, weights, cut, options):
    """Every row's minimum over all devices, and its place in the tiles, -1 if on another device."""
    minimum, place = row_minimum(tiles, weights, cut)
    if options.target_axis is None:
        return minimum, place
    device = jax.lax.axis_index(options.target_axis)
    devices = jax.lax.axis_size(options.target_axis)
    smallest = jax.lax.pmin(jax.lax.stop_gradient(minimum), options.target_axis)
    owner = jax.lax.pmin(jnp.where(minimum == smallest, device, devices), options.target_axis)
    is_mine = device == owner  # nobody's, if it is NaN: then the row's sum is too
    minimum = _collective(jax.lax.psum, jnp.where(is_mine, minimum, 0), options)
    return minimum, jnp.where(is_mine, place, -1)


def _forward(
    block: _Block,
    tiles: Sequence[Float[Array, "_ k"]],
    masks: _Masks,
    n: int,
    cut: Cut,
    options: _Options,
    *,
    keep_mean: bool,
) -> tuple[_Columns, _Rows]:
    weights = None if masks.targets is None else tiles_of(masks.targets, cut)

    def visit(carry, start):
        columns, rows = carry
        offset, distances = block(start)
        smallest, argmin = _nearest(distances, weights, cut, options)
        minimum, origin = jnp.maximum(offset + smallest, 0), jnp.maximum(smallest, -offset)
        rate = _rate(minimum, options)

        total, mean = jnp.zeros_like(minimum), 0
        for k, (tile, points) in enumerate(zip(distances, tiles, strict=True)):
            e = jnp.exp(_exponent(tile, origin, rate))
            e = e if weights is None else e * weights[k][None, :]
            e = jax.lax.optimization_barrier(e)  # made once for both its uses
            total += e.sum(axis=1)
            if keep_mean:
                mean += product(e, points.T)
        total = _collective(jax.lax.psum, total, options)
        log_sum = jnp.log(total)
        if masks.sources is not None:
            log_sum = jnp.where(_slice(masks.sources, start, options), log_sum, jnp.inf)

        new_columns = []
        for tile, (maximum, index) in zip(distances, columns, strict=True):
            log_cx = _exponent(tile, origin, rate) - log_sum[:, None]
            new_maximum, new_index = column_maximum(log_cx)
            index = jnp.where(new_maximum > maximum, start + new_index, index)
            new_columns.append(_Columns(jnp.maximum(maximum, new_maximum), index))

        mean = mean / total[:, None] if keep_mean else None
        write = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
        new = _Rows(minimum, origin, argmin, log_sum, mean)
        return (new_columns, jax.tree.map(write, rows, new)), None

    like = lambda array, shape, value: jnp.full_like(array, value, shape=shape)
    columns = [
        _Columns(like(t, t.shape[:1], -jnp.inf), like(t, t.shape[:1], 0).astype(jnp.int32))
        for t in tiles
    ]
    row, k = like(tiles[0], (n,), 0), tiles[0].shape[1]
    mean = like(tiles[0], (n, k), 0) if keep_mean else None
    rows = _Rows(row, row, row.astype(jnp.int32), row, mean)
    starts = starts_of(n, options.block_size).astype(jnp.int32)
    (columns, rows), _ = jax.lax.scan(visit, (columns, rows), starts)
    return _Columns(*(whole_of(parts, cut) for parts in zip(*columns, strict=True))), rows


# --- The derivative, block by block ---


def _sum_by_source(
    g: Float[Array, " m"], index: Int[Array, " m"], n: int, options
) -> Float[Array, " n"]:
    r"""$G_i$: the cotangents of the targets that each source won."""
    return _collective(jax.lax.psum, jax.ops.segment_sum(g, index, n), options)


def _row_gradient(slope, minimum, options):
    r"""$D_i$, from $\sum_j C_{ij} d_{ij}$; a minimum that is clamped at 0 has no gradient."""
    slope = _collective(jax.lax.psum, slope, options)
    slope = slope * _rate(minimum, options) / (minimum + options.epsilon)
    return jnp.where(minimum <= 0, 0, slope)


def _cotangent(tile, rows, weight, row, g, g_rows, index, options):
    """C of a tile of a block: the cotangent of log CX, whose rows sum to zero."""
    exponent = _exponent(tile, rows.origin, _rate(rows.minimum, options))
    p = jnp.exp(exponent - rows.log_sum[:, None])
    p = p if weight is None else p * weight[None, :]
    return jnp.where(index[None, :] == row[:, None], g[None, :], 0) - g_rows[:, None] * p


def _fold(add, initial, g_rows, rows, n, options):
    """Folds `add(carry, start, row, G, rows)` over all blocks: `row` is the rows' numbers.

    In the rows that the block before had too, G is 0 and the number is none that can win.
    """

    def visit(carry, position):
        start, first_new = position
        row = start + jnp.arange(options.block_size, dtype=jnp.int32)
        is_new = row >= first_new
        part = jax.tree.map(lambda whole: _slice(whole, start, options), (g_rows, rows))
        g_block = jnp.where(is_new, part[0], 0)
        return add(carry, start, jnp.where(is_new, row, -1), g_block, part[1]), None

    positions = (starts_of(n, options.block_size), jnp.arange(0, n, options.block_size))
    positions = jax.tree.map(lambda array: array.astype(jnp.int32), positions)
    return jax.lax.scan(visit, initial, positions)[0]


# --- Distances that are products: no second pass for the sources ---


def _product_block(offset, left, tiles, options: _Options) -> _Block:
    def block(start):
        rows = _slice(left, start, options)
        return _slice(offset, start, options), [product(rows, tile) for tile in tiles]

    return block


def _forward_of_products(options, masks, factors: Factors, *, keep_mean):
    n, m = factors.left.shape[0], factors.right.shape[0]
    cut = cut_for(m, options.block_size)
    tiles = tiles_of(factors.right, cut)
    block = _product_block(factors.offset, factors.left, tiles, options)
    return tiles, *_forward(block, tiles, masks, n, cut, options, keep_mean=keep_mean)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _maximum_of_products(options: _Options, masks: _Masks, factors: Factors):
    return tuple(_forward_of_products(options, masks, factors, keep_mean=False)[1])


def _maximum_of_products_fwd(options, masks, factors):
    # What nobody asks for is skipped. The structure of the residuals must not depend on that: under
    # `jit` JAX keeps one forward rule per pattern of zeros, but a single structure for them all.
    for_sources = factors.left.perturbed or factors.offset.perturbed
    for_targets = jnp.asarray(factors.right.perturbed)
    is_primal = lambda leaf: hasattr(leaf, "perturbed")
    masks, factors = jax.tree.map(lambda primal: primal.value, (masks, factors), is_leaf=is_primal)
    tiles, columns, rows = _forward_of_products(options, masks, factors, keep_mean=for_sources)
    if not for_sources:
        rows = rows._replace(mean=jnp.zeros_like(factors.left))
    # The tiles instead of the targets: one copy of them is enough.
    return tuple(columns), (masks, factors.left, tiles, columns, rows, for_targets)


def _maximum_of_products_bwd(options, residuals, cotangents):
    masks, left, tiles, columns, rows, for_targets = residuals
    g, n = cotangents[0], left.shape[0]
    cut = cut_for(columns.maximum.shape[0], options.block_size)
    if isinstance(g, SymbolicZero):
        g = jnp.zeros_like(columns.maximum)
    g_rows = _sum_by_source(g, columns.index, n, options)

    v = -g_rows[:, None] * rows.mean
    for g_tile, index, tile in zip(
        tiles_of(g, cut), tiles_of(columns.index, cut), tiles, strict=True
    ):
        v = v.at[index].add(g_tile[:, None] * tile)
    to_minimum = _row_gradient((left * v).sum(axis=1), rows.minimum, options)
    if options.target_axis is not None:
        to_minimum = jnp.where(rows.argmin < 0, 0, to_minimum)  # one device alone passes it on
    nearest = jnp.concatenate(tiles)[rows.argmin]
    left_gradient = to_minimum[:, None] * nearest - _rate(rows.minimum, options)[:, None] * v

    right_gradient = jax.lax.cond(
        for_targets,
        lambda: _targets_gradient(
            left, tiles, masks, g, g_rows, columns, rows, to_minimum, options
        ),
        lambda: jnp.zeros_like(left, shape=(g.shape[0], left.shape[1])),
    )
    return None, Factors(to_minimum, left_gradient, right_gradient)


def _targets_gradient(left, tiles, masks, g, g_rows, columns, rows, to_minimum, options):
    """One more pass; what flows to the nearest targets is added apart from it."""
    cut = cut_for(g.shape[0], options.block_size)
    weights = [None] * len(tiles) if masks.targets is None else tiles_of(masks.targets, cut)
    g_tiles, indices = tiles_of(g, cut), tiles_of(columns.index, cut)

    def add(totals, start, row, g_block, part):
        block = _slice(left, start, options)
        scaled = -_rate(part.minimum, options)[:, None] * block
        new_totals = []
        for total, tile, weight, g_tile, index in zip(
            totals, tiles, weights, g_tiles, indices, strict=True
        ):
            c = _cotangent(product(block, tile), part, weight, row, g_tile, g_block, index, options)
            new_totals.append(total + product(c.T, scaled.T))
        return new_totals

    initial = jax.tree.map(jnp.zeros_like, tiles)
    totals = _fold(add, initial, g_rows, rows._replace(mean=None), left.shape[0], options)
    total = jnp.concatenate(totals).at[rows.argmin].add(to_minimum[:, None] * left)
    ends = np.cumsum([tile.shape[0] for tile in tiles])[:-1]
    return whole_of(jnp.split(total, ends), cut)


_maximum_of_products.defvjp(_maximum_of_products_fwd, _maximum_of_products_bwd, symbolic_zeros=True)


# --- Any other distance: a second pass, with the distance's own derivative ---


def _replace_reals(constants, is_real, reals):
    """The constants, with the real ones replaced by `reals`."""
    remaining = iter(reals)
    return [next(remaining) if real else c for c, real in zip(constants, is_real, strict=True)]


def _function_block(function, x, y, constants, options) -> _Block:
    def block(start):
        distances = function(_slice(x, start, options), y, constants)
        return jnp.zeros_like(distances[:, 0]), [distances]

    return block


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _maximum_of_distances(function, options, masks, x, y, constants):
    block = _function_block(function, x, y, constants, options)
    return tuple(_forward(block, [y], masks, x.shape[0], Cut(1, 1), options, keep_mean=False)[0])


def _maximum_of_distances_fwd(function, options, masks, x, y, constants):
    block = _function_block(function, x, y, constants, options)
    columns, rows = _forward(block, [y], masks, x.shape[0], Cut(1, 1), options, keep_mean=False)
    return tuple(columns), (masks, x, y, constants, columns, rows)


def _maximum_of_distances_bwd(function, options, residuals, cotangents):
    masks, x, y, constants, columns, rows = residuals
    g = cotangents[0]
    is_real = [jnp.issubdtype(jnp.result_type(c), jnp.inexact) for c in constants]
    reals = [c for c, real in zip(constants, is_real, strict=True) if real]

    def with_reals(x, y, reals):
        return function(x, y, _replace_reals(constants, is_real, reals))

    def add(total, start, row, g_block, part):
        x_total, *rest_total = total
        d, pullback = jax.vjp(with_reals, _slice(x, start, options), y, reals)
        c = _cotangent(d, part, masks.targets, row, g, g_block, columns.index, options)
        difference = jnp.maximum(d, 0) - part.minimum[:, None]
        to_minimum = _row_gradient((c * difference).sum(axis=1), part.minimum, options)
        column = jax.lax.broadcasted_iota(jnp.int32, d.shape, 1)
        at_minimum = jnp.where(column == part.argmin[:, None], to_minimum[:, None], 0)
        d_gradient = at_minimum - _rate(part.minimum, options)[:, None] * c
        x_gradient, *rest = pullback(jnp.where(d > 0, d_gradient, 0))
        x_gradient += _slice(x_total, start, options)
        x_total = jax.lax.dynamic_update_slice_in_dim(x_total, x_gradient, start, 0)
        return (x_total, *jax.tree.map(jnp.add, rest_total, rest))

    initial = jax.tree.map(jnp.zeros_like, (x, y, reals))
    g_rows = _sum_by_source(g, columns.index, x.shape[0], options)
    x_gradient, y_gradient, reals_gradient = _fold(add, initial, g_rows, rows, x.shape[0], options)
    nothing = [None] * len(constants)  # no gradient of integers, masks and keys
    return None, x_gradient, y_gradient, _replace_reals(nothing, is_real, reals_gradient)


_maximum_of_distances.defvjp(_maximum_of_distances_fwd, _maximum_of_distances_bwd)
