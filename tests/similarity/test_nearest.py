"""Nearest neighbours against NumPy loops, in every mode of differentiation, in linear memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cxjax import distances
from cxjax.similarity.nearest import Positions, nearest
from tests import memory, sets

# Ragged on purpose: neither n nor m a multiple of a block, n below a block, n or m of one.
SIZES = [(37, 23, 8), (5, 31, 8), (1, 4, 8), (23, 1, 8)]
FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}


def quartic(x, y):
    """A distance of a user's own."""
    return jnp.square(jnp.square(x[:, None, :] - y[None, :, :]).sum(axis=-1))


DISTANCES = ["cosine", "l2", "l1", quartic]


points = functools.partial(sets.points, dtype=jnp.float64)


def places(key, n, m, p=2, dtype=jnp.float64):
    return points(jax.random.fold_in(key, 7), n, m, p, dtype=dtype)


def numpy_nearest(x, y, distance, weight=0.0, p=None, q=None):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean = sum(y) / len(y)
    cost, index = [], []
    for i in range(len(x)):
        best = np.inf, -1
        for j in range(len(y)):
            if distance == "cosine":
                a, b = x[i] - mean, y[j] - mean
                lengths = np.linalg.norm(a) * np.linalg.norm(b)
                d = 0.5 if lengths < 1e-12 else (1 - a @ b / lengths) / 2
            elif distance == "l2":
                d = np.sum((x[i] - y[j]) ** 2)
            elif distance == "l1":
                d = np.sum(np.abs(x[i] - y[j]))
            else:
                d = np.sum((x[i] - y[j]) ** 2) ** 2
            if p is not None:
                d += weight * np.linalg.norm(np.asarray(p[i]) - np.asarray(q[j]))
            best = min(best, (d, j))
        cost.append(best[0])
        index.append(best[1])
    return np.array(cost), np.array(index)


def dense_costs(x, y, p, q, *, distance, weight=0.3, present=None):
    """What JAX differentiates by itself."""
    d = distances.pairwise(x, y, y.mean(axis=0), distance=distance)
    d += weight * jnp.sqrt(jnp.square(p[:, None] - q[None]).sum(axis=-1))
    if present is not None:
        d = jnp.where(present[None, :], d, jnp.inf)
    return d.min(axis=1)


def costs(x, y, p=None, q=None, *, distance, weight=0.3, block_size=8, present=None):
    positions = None if p is None else Positions(p, q, jnp.asarray(weight, x.dtype))
    return nearest(
        x,
        y,
        y.mean(axis=0),
        distance=distance,
        block_size=block_size,
        present=present,
        positions=positions,
    )


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("n", "m", "block_size", "spatial"), [(37, 23, 8, False), *((*size, True) for size in SIZES)]
)
def test_cost_and_index_match_numpy(key, n, m, block_size, distance, spatial):
    with jax.enable_x64(True):
        x, y = points(key, n, m)
        p, q = places(key, n, m) if spatial else (None, None)
        f = functools.partial(costs, distance=distance, weight=5.0, block_size=block_size)
        cost, index = jax.jit(f)(x, y, p, q)
        wanted, wanted_index = numpy_nearest(x, y, distance, 5.0, p, q)
        np.testing.assert_array_equal(index, wanted_index)
        np.testing.assert_allclose(cost, wanted, **FLOAT64)
        if spatial and min(n, m) > 8:  # the places matter
            assert (wanted_index != numpy_nearest(x, y, distance)[1]).any()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("n", "m", "block_size"), [(37, 23, 8)])
def test_gradients_equal_those_of_all_the_costs(key, n, m, block_size, distance):
    with jax.enable_x64(True):
        arguments = *points(key, n, m), *places(key, n, m, 3)
        cotangent = sets.normal(1, n)
        f = lambda *a: costs(*a, distance=distance, block_size=block_size)[0]
        pull = lambda f: jax.jit(lambda *a: jax.vjp(f, *a)[1](cotangent))(*arguments)
        wanted = pull(functools.partial(dense_costs, distance=distance))
        for gradient, want in zip(pull(f), wanted, strict=True):
            assert np.abs(want).max() > 1e-2
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("distance", DISTANCES)
def test_derivatives_of_both_modes_match_finite_differences(key, distance):
    with jax.enable_x64(True):
        arguments = *points(key, 7, 6, 4), *places(key, 7, 6)
        weights = sets.normal(1, 7)
        f = jax.jit(lambda *a: (weights * costs(*a, distance=distance, block_size=4)[0]).sum())
        check_grads(f, arguments, order=1, modes=["fwd", "rev"], eps=1e-6)


def test_second_derivatives_match_finite_differences(key):
    with jax.enable_x64(True):
        arguments = points(key, 7, 6, 4)
        weights = sets.normal(1, 7)
        f = jax.jit(lambda *a: (weights * costs(*a, distance="cosine", block_size=4)[0]).sum())
        check_grads(f, arguments, order=2, modes=["rev"], eps=1e-6, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_lowest_index_wins_a_tie(key, distance, block_size):
    with jax.enable_x64(True):
        x, y = points(key, 11, 7)
        y = np.concatenate([y, y])
        f = jax.jit(functools.partial(costs, distance=distance, block_size=block_size))
        _, index = f(x, y)
        assert index.max() < 7


@pytest.mark.parametrize("distance", DISTANCES)
def test_targets_that_take_no_part_are_no_candidates(key, distance):
    with jax.enable_x64(True):
        x, y = map(np.array, points(key, 13, 9))
        present = jnp.asarray(np.arange(9) % 2 == 1)
        y[::2] = x[:5]  # the nearest of all
        f = jax.jit(functools.partial(costs, distance=distance))
        _, index = f(x, y, present=present)
        assert (np.asarray(index) % 2 == 1).all()


def test_targets_that_take_no_part_are_no_candidates_where_all_costs_overflow():
    with jax.enable_x64(True):
        huge = jnp.full((3, 6), 5e307)
        _, index = costs(huge, -huge, distance="l1", present=jnp.array([False, False, True]))
        np.testing.assert_array_equal(index, 2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_no_displacement_has_no_gradient(key, distance):
    x, y = points(key, 6, 6, dtype=jnp.float32)
    p = jnp.zeros((6, 2))
    f = lambda p, q: costs(x, y, p, q, distance=distance)[0].sum()
    for gradient in jax.jit(jax.grad(f, (0, 1)))(p, p):
        np.testing.assert_array_equal(gradient, jnp.zeros((6, 2)))


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_near_copies_are_as_exact_in_float32(distance, noise):
    y, offsets = sets.normal(0, 2, 20, 32).astype(np.float32)
    y = 3 + y
    x = y + np.float32(noise) * offsets
    cost, index = jax.jit(functools.partial(costs, distance=distance))(x, y)
    np.testing.assert_array_equal(index, np.arange(20))
    np.testing.assert_allclose(cost, numpy_nearest(x, y, distance)[0], rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_matched_is_the_diagonal_of_all_pairs(key, distance):
    with jax.enable_x64(True):
        x, y = map(np.array, points(key, 12, 12))
        mean = y.mean(axis=0)
        x[:2], y[1:3] = mean, mean
        weights = sets.normal(1, 12)
        pairs = lambda *a: (weights * distances.matched(*a, distance=distance)).sum()
        all_pairs = functools.partial(distances.pairwise, distance=distance)
        diagonal = lambda *a: (weights * jnp.diagonal(all_pairs(*a))).sum()
        actual = jax.jit(jax.value_and_grad(pairs, (0, 1, 2)))(x, y, mean)
        wanted = jax.jit(jax.value_and_grad(diagonal, (0, 1, 2)))(x, y, mean)
        for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, w, **FLOAT64)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_nan_in_is_a_nan_out(key, distance):
    given = *points(key, 12, 9, dtype=jnp.float32), *places(key, 12, 9, dtype=jnp.float32)

    @jax.jit
    def f(x, y, p, q):
        options = {"distance": distance, "block_size": 4}
        positions = Positions(p, q, jnp.asarray(0.3))
        return nearest(x, y, jnp.zeros(6), positions=positions, **options)[0]

    assert np.isfinite(f(*given)).all()
    for k in range(4):
        broken = [*map(np.array, given)]
        broken[k][3, 1] = np.nan
        nans = np.isnan(f(*broken))
        assert nans.all() if k in (1, 3) else nans[3] & (nans.sum() == 1)


def test_what_a_distance_closes_over_is_differentiated(key):
    with jax.enable_x64(True):
        x, y = points(key, 11, 7)
        places_ = jnp.zeros((11, 1)), jnp.zeros((7, 1))

        def loss(scale, f):
            distance = lambda x, y: jnp.square(x[:, None] - y[None]) @ scale
            return f(x, y, *places_, distance=distance)

        scale = jnp.linspace(0.5, 1.5, 6)
        actual = jax.jit(jax.grad(lambda s: loss(s, costs)[0].sum()))(scale)
        wanted = jax.jit(jax.grad(lambda s: loss(s, dense_costs).sum()))(scale)
        assert np.abs(wanted).max() > 1e-2
        np.testing.assert_allclose(actual, wanted, **FLOAT64)


def _temporary_bytes(f, *arguments):
    total = lambda *a: f(*a).sum()
    return memory.analysis(jax.grad(total, (0, 1, 2, 3)), *arguments).temp_size_in_bytes


def product_distance(x, y):
    """One of a user's own that holds no more than its result."""
    return jnp.square(distances.product(x, y))


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1", product_distance])
def test_the_matrix_is_never_held(distance):
    n = 2048
    shapes = [jax.ShapeDtypeStruct((n, c), jnp.float32) for c in (8, 8, 2, 2)]
    matrix = n * n * 4
    dense = functools.partial(dense_costs, distance=distance)
    blocks = lambda *a: costs(*a, distance=distance, block_size=64)[0]
    assert _temporary_bytes(dense, *shapes) >= matrix  # the measure sees what it should see
    assert _temporary_bytes(blocks, *shapes) < matrix / 4
