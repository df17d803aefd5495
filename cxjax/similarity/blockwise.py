r"""The reference's numbers in linear memory: one pass over blocks of source rows, own derivative.

Everything about source $i$ needs row $i$ of the distances alone. With $m_i$ the row's minimum and
$r_i = 1 / (h (m_i + \epsilon))$,

$$\log \mathrm{CX}_{ij} = -r_i (d_{ij} - m_i) - \log S_i, \qquad
S_i = \sum_j e^{-r_i (d_{ij} - m_i)},$$

so a block of rows is made, reduced to a running maximum of every column, and thrown away. The
exponents are differences of distances: near copies stay exact where $r_i$ is large.

For the derivative let $G_j$ be the cotangent of target $j$'s maximum, won by source $i(j)$,
$p_{ij} = \mathrm{CX}_{ij}$, $G_i$ the sum of $G_j$ over the targets that $i$ won, and
$C_{ij} = G_j [i = i(j)] - G_i p_{ij}$, the cotangent of $\log \mathrm{CX}$ before its normaliser's
share is split off. Its rows sum to zero. Then

$$\frac{\partial L}{\partial d_{ij}} = -r_i C_{ij} + [j = \arg\min_k d_{ik}]\, D_i, \qquad
D_i = \frac{r_i}{m_i + \epsilon} \sum_j C_{ij} (d_{ij} - m_i).$$

When the distance is a product, $d_{ij} = u_i + l_i \cdot r_j$, the gradient of $l_i$ needs only
$V_i = \sum_j C_{ij} r_j$, that is the mean $o_i = \sum_j p_{ij} r_j$, which the forward pass keeps
at the price of one more product; there is no second pass. The gradient of the targets takes one,
and is skipped when nobody asks for it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from cxjax.distances import Distance, Factors, factor, l1, product


class _Options(NamedTuple):
    bandwidth: float
    epsilon: float
    block_size: int  # at most n


def log_best(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    *,
    distance: Distance,
    bandwidth: float,
    epsilon: float,
    block_size: int | None,
) -> tuple[Float[Array, " m"], Int[Array, " m"]]:
    r"""For every target, $\max_i \log \mathrm{CX}_{ij}$ and the lowest source index that has it.

    Args:
      x: Source points, `(n, c)`.
      y: Target points, `(m, c)`.
      distance: Name of a distance, or a function whose row `i` depends on row `i` of `x` alone.
      bandwidth: $h$.
      epsilon: $\epsilon$.
      block_size: Rows held at a time, at least 2; `None` chooses.

    Returns:
      The logarithms and the indices, both `(m,)`.
    """
    n, m = x.shape[0], y.shape[0]
    # A block of one row is a product with a vector, which rounds equal targets differently.
    options = _Options(bandwidth, epsilon, min(n, max(2, block_size or _block_size(m))))
    if callable(distance):  # not jitted: the cache would keep what it closes over
        return _by_function(x, y, distance, options)
    return _by_name(x, y, distance, options)


def _varying_alike(*arrays):
    """Under `shard_map`, lets all vary over the mesh axes that any of them varies over.

    A loop's state would change its type if it began with one set and took in the other. A zero of
    all of them is added, rather than axes compared, whose names in JAX change from version to
    version; nothing of it remains after compilation. Of what is the same on all devices, JAX then
    sums the gradients over them.
    """
    never = jnp.zeros((), bool)
    zeros = [jnp.where(never, array.ravel()[0], 0) for array in arrays if array.size > 0]
    zero = jax.lax.stop_gradient(sum(zeros[1:], zeros[0]))
    return [array + zero.astype(array.dtype) for array in arrays]


def _block_size(m: int) -> int:
    """Rows of 8 MB together in float32, but enough of them for an efficient product."""
    return max(64, min(512, 2**21 // m))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _by_name(x, y, distance, options):
    if distance == "l1":
        return _by_function(x, y, l1, options)
    x, y = _varying_alike(x, y)
    return _best_of_products(options, factor(x, y, distance=distance))


def _by_function(x, y, function, options):
    x, y = _varying_alike(x, y)
    # What the function closes over becomes an argument, so that it too can be differentiated, and
    # may be traced whatever it is.
    traced = jax.make_jaxpr(function)(x[: options.block_size], y)

    def distances(x, y, constants):
        closed = jax.extend.core.ClosedJaxpr(traced.jaxpr, constants)
        return jax.extend.core.jaxpr_as_fun(closed)(x, y)[0]

    is_real = [jnp.issubdtype(jnp.result_type(c), jnp.inexact) for c in traced.consts]
    reals = [c for c, real in zip(traced.consts, is_real, strict=True) if real]
    x, y, *reals = _varying_alike(x, y, *reals)
    return _best_of_distances(distances, options, x, y, _joined(traced.consts, is_real, reals))


# --- The forward pass ---


class _Columns(NamedTuple):
    """The best of every target so far."""

    best: Float[Array, " m"]  # max_i log CX_ij
    index: Int[Array, " m"]


class _Rows(NamedTuple):
    """What the derivative needs to know of every source."""

    minimum: Float[Array, " n"]
    argmin: Int[Array, " n"]
    log_sum: Float[Array, " n"]  # log S_i
    mean: Float[Array, "n k"] | None = None  # o_i


def _starts(n: int, block_size: int) -> Int[Array, " blocks"]:
    """First rows of the blocks. The last block reaches back, so that none is padded."""
    return jnp.minimum(jnp.arange(0, n, block_size), n - block_size)


def _block(array, start, options):
    """The rows of one block."""
    return jax.lax.dynamic_slice_in_dim(array, start, options.block_size)


def _rate(minimum, options):
    return 1 / (options.bandwidth * (minimum + options.epsilon))


def _forward(
    distances: Callable[[Int[Array, ""]], Float[Array, "b m"]],  # of the block that starts there
    x: Float[Array, "n c"],
    y: Float[Array, "m k"],
    options: _Options,
    *,
    keep_mean: bool,
) -> tuple[_Columns, _Rows]:
    def visit(carry, start):
        columns, rows = carry
        d = distances(start)
        minimum = d.min(axis=1, keepdims=True)
        exponent = -_rate(minimum, options) * (d - minimum)
        e = jnp.exp(exponent)
        total = e.sum(axis=1, keepdims=True)
        log_cx = exponent - jnp.log(total)

        best = log_cx.max(axis=0)
        row = start + jax.lax.broadcasted_iota(start.dtype, d.shape, 0)
        index = jnp.where(log_cx == best[None, :], row, x.shape[0]).min(axis=0)
        columns = _Columns(
            jnp.maximum(columns.best, best),
            jnp.where(best > columns.best, index, columns.index),
        )

        column = jax.lax.broadcasted_iota(start.dtype, d.shape, 1)
        argmin = jnp.where(d == minimum, column, d.shape[1] - 1).min(axis=1)
        mean = product(e, y.T) / total if keep_mean else None
        new = _Rows(minimum[:, 0], argmin, jnp.log(total)[:, 0], mean)
        write = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
        return (columns, jax.tree.map(write, rows, new)), None

    per_row = jnp.zeros_like(x[:, 0])
    starts = _starts(x.shape[0], options.block_size)
    mean = jnp.zeros_like(x, shape=(x.shape[0], y.shape[1])) if keep_mean else None
    rows = _Rows(per_row, jnp.zeros_like(per_row, starts.dtype), per_row, mean)
    columns = _Columns(jnp.full_like(y[:, 0], -jnp.inf), jnp.zeros_like(y[:, 0], starts.dtype))
    (columns, rows), _ = jax.lax.scan(visit, (columns, rows), starts)
    return columns, rows


# --- The derivative, block by block ---


def _won(g: Float[Array, " m"], index: Int[Array, " m"], n: int) -> Float[Array, " n"]:
    r"""$G_i$: the cotangents of the targets that each source won."""
    return jax.ops.segment_sum(g, index, n)


def _row_gradient(slope, rows, options):
    r"""$D_i$, from $\sum_j C_{ij} d_{ij}$; a minimum that is clamped at 0 has no gradient."""
    slope = slope * _rate(rows.minimum, options) / (rows.minimum + options.epsilon)
    return jnp.where(rows.minimum <= 0, 0, slope)


def _distance_gradient(d, start, is_new, g, g_rows, columns_index, rows, options):
    """dL/dd of a block of rows, recomputed; zero in the rows that the block before had too."""
    rows = jax.tree.map(lambda whole: _block(whole, start, options), rows)
    g_rows = _block(g_rows, start, options)
    minimum = rows.minimum[:, None]
    rate = _rate(minimum, options)
    cx = jnp.exp(-rate * (d - minimum) - rows.log_sum[:, None])
    row = start + jax.lax.broadcasted_iota(start.dtype, d.shape, 0)
    c = jnp.where(columns_index[None, :] == row, g[None, :], 0) - g_rows[:, None] * cx
    to_minimum = _row_gradient((c * (d - minimum)).sum(axis=1), rows, options)
    column = jax.lax.broadcasted_iota(start.dtype, d.shape, 1)
    at_minimum = jnp.where(column == rows.argmin[:, None], to_minimum[:, None], 0)
    return jnp.where((d > 0) & is_new[:, None], at_minimum - rate * c, 0)


def _distance_gradients(add, initial, distances, g, columns, rows, n, options):
    """Folds `add(carry, start, dL/dd)` over all blocks."""
    g_rows = _won(g, columns.index, n)

    def visit(carry, position):
        start, first_new = position
        is_new = start + jnp.arange(options.block_size) >= first_new
        d = distances(start)
        d_gradient = _distance_gradient(d, start, is_new, g, g_rows, columns.index, rows, options)
        return add(carry, start, d_gradient), None

    positions = (_starts(n, options.block_size), jnp.arange(0, n, options.block_size))
    return jax.lax.scan(visit, initial, positions)[0]


# --- Distances that are products: no second pass for the sources ---


def _product_distances(factors, options):
    def distances(start):
        offset = _block(factors.offset, start, options)
        left = _block(factors.left, start, options)
        return jnp.maximum(offset[:, None] + product(left, factors.right), 0)

    return distances


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _best_of_products(options: _Options, factors: Factors):
    distances = _product_distances(factors, options)
    columns, _ = _forward(distances, factors.left, factors.right, options, keep_mean=False)
    return tuple(columns)


def _best_of_products_fwd(options, factors):
    # What nobody asks for is skipped. The structure of the residuals must not depend on that: under
    # `jit` JAX keeps one forward rule per pattern of zeros, but a single structure for them all.
    for_sources = factors.left.perturbed or factors.offset.perturbed
    for_targets = jnp.asarray(factors.right.perturbed)
    factors = Factors(*(factor.value for factor in factors))
    distances = _product_distances(factors, options)
    columns, rows = _forward(distances, factors.left, factors.right, options, keep_mean=for_sources)
    if not for_sources:
        rows = rows._replace(mean=jnp.zeros_like(factors.left))
    return tuple(columns), (factors, columns, rows, for_targets)


def _best_of_products_bwd(options, residuals, cotangents):
    factors, columns, rows, for_targets = residuals
    g = cotangents[0]
    if isinstance(g, SymbolicZero):
        return (jax.tree.map(jnp.zeros_like, factors),)
    n = factors.left.shape[0]

    v = -_won(g, columns.index, n)[:, None] * rows.mean
    v = v.at[columns.index].add(g[:, None] * factors.right)
    offset_gradient = _row_gradient((factors.left * v).sum(axis=1), rows, options)
    left_gradient = (
        offset_gradient[:, None] * factors.right[rows.argmin]
        - _rate(rows.minimum, options)[:, None] * v
    )

    def add(total, start, d_gradient):
        return total + product(d_gradient.T, _block(factors.left, start, options).T)

    right_gradient = jax.lax.cond(
        for_targets,
        lambda: _distance_gradients(
            add,
            jnp.zeros_like(factors.right),
            _product_distances(factors, options),
            g,
            columns,
            rows._replace(mean=None),
            n,
            options,
        ),
        lambda: jnp.zeros_like(factors.right),
    )
    return (Factors(offset_gradient, left_gradient, right_gradient),)


_best_of_products.defvjp(_best_of_products_fwd, _best_of_products_bwd, symbolic_zeros=True)


# --- Any other distance: a second pass, with the distance's own derivative ---


def _joined(constants, is_real, reals):
    """The constants, with the real ones replaced by `reals`."""
    remaining = iter(reals)
    return [next(remaining) if real else c for c, real in zip(constants, is_real, strict=True)]


def _function_distances(function, x, y, constants, options):
    def distances(start):
        return jnp.maximum(function(_block(x, start, options), y, constants), 0)

    return distances


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _best_of_distances(function, options, x, y, constants):
    distances = _function_distances(function, x, y, constants, options)
    return tuple(_forward(distances, x, y, options, keep_mean=False)[0])


def _best_of_distances_fwd(function, options, x, y, constants):
    distances = _function_distances(function, x, y, constants, options)
    columns, rows = _forward(distances, x, y, options, keep_mean=False)
    return tuple(columns), (x, y, constants, columns, rows)


def _best_of_distances_bwd(function, options, residuals, cotangents):
    x, y, constants, columns, rows = residuals
    is_real = [jnp.issubdtype(jnp.result_type(c), jnp.inexact) for c in constants]
    reals = [c for c, real in zip(constants, is_real, strict=True) if real]

    def with_reals(x, y, reals):
        return function(x, y, _joined(constants, is_real, reals))

    def add(total, start, d_gradient):
        x_total, *rest_total = total
        _, pullback = jax.vjp(with_reals, _block(x, start, options), y, reals)
        x_gradient, *rest = pullback(d_gradient)
        x_gradient += _block(x_total, start, options)
        x_total = jax.lax.dynamic_update_slice_in_dim(x_total, x_gradient, start, 0)
        return (x_total, *jax.tree.map(jnp.add, rest_total, rest))

    x_gradient, y_gradient, reals_gradient = _distance_gradients(
        add,
        jax.tree.map(jnp.zeros_like, (x, y, reals)),
        _function_distances(function, x, y, constants, options),
        cotangents[0],
        columns,
        rows,
        x.shape[0],
        options,
    )
    nothing = [None] * len(constants)  # no gradient of integers, masks and keys
    return x_gradient, y_gradient, _joined(nothing, is_real, reals_gradient)


_best_of_distances.defvjp(_best_of_distances_fwd, _best_of_distances_bwd)
