"""Blockwise equals the reference, in value and in gradient, and never holds the distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cxjax
from cxjax.similarity import blocks, blockwise, reference
from tests import sets

# Ragged on purpose: neither n nor m a multiple of a block, n below a block, n or m of one.
SIZES = [(16, 16, 8), (37, 23, 8), (5, 31, 8), (1, 4, 8), (23, 1, 8), (9, 40, 64)]
# Targets in slices, in tiles, and with some left over; rows in eights, and with some left over.
LARGE = [(40, 517, 36, False), (75, 1030, 37, True)]
FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}


def quartic(x, y):
    """A distance of a user's own."""
    return jnp.square(jnp.square(x[:, None, :] - y[None, :, :]).sum(axis=-1))


DISTANCES = ["cosine", "l2", "l1", quartic]


points = functools.partial(sets.points, dtype=jnp.float64)


def blockwise_best(x, y, *, block_size=8, bandwidth=0.5, **options):
    options = {"epsilon": 1e-5, "bandwidth": bandwidth, "block_size": block_size, **options}
    return blockwise.log_best(x, y, y.mean(axis=0), **options)[0]


def reference_best(x, y, *, bandwidth=0.5, distance):
    return reference.log_best(
        x, y, y.mean(axis=0), distance=distance, bandwidth=bandwidth, epsilon=1e-5
    )[0]


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(best, x, y, cotangent):
    value, pullback = jax.vjp(best, x, y)
    return value, *pullback(cotangent)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("n", "m", "block_size"), SIZES)
def test_blockwise_equals_the_reference(key, n, m, block_size, distance):
    with jax.enable_x64(True):
        x, y = points(key, n, m)
        cotangent = jax.random.normal(jax.random.fold_in(key, 1), (m,), jnp.float64)
        options = {"distance": distance, "bandwidth": 0.2}
        blocks = functools.partial(blockwise_best, block_size=block_size, **options)
        dense = functools.partial(reference_best, **options)
        actual = value_and_gradients(blocks, x, y, cotangent)
        wanted = value_and_gradients(dense, x, y, cotangent)
        assert m == 1 or np.abs(wanted[1]).max() > 1e-3  # with one target CX is 1 everywhere
        assert m == 1 or np.abs(wanted[2]).max() > 1e-3
        for a, w in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(a, w, **FLOAT64)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(("n", "m", "block_size", "tiles"), LARGE)
def test_cut_targets_equal_the_reference(key, monkeypatch, n, m, block_size, tiles, distance):
    if tiles:
        monkeypatch.setattr(blocks, "_CACHED_ELEMENTS", 0)
        monkeypatch.setattr(blocks, "_TILE_ELEMENTS", m * block_size // 3)
    jax.clear_caches()
    cut = blocks.cut_for(m, block_size)
    assert (cut.tiles > 1) == tiles
    assert cut.count > 1
    assert m % cut.count

    def check(x, y, mean, weights):
        options = {"distance": distance, "bandwidth": 0.2, "epsilon": 1e-2, "weights": weights}
        blocks = lambda x, y: blockwise.log_best(x, y, mean, block_size=block_size, **options)
        dense = lambda x, y: reference.log_best(x, y, mean, **options)
        taking = np.full(m, True) if weights is None else np.asarray(weights) > 0
        np.testing.assert_array_equal(blocks(x, y)[1][taking], dense(x, y)[1][taking])
        cotangent = jax.random.normal(jax.random.fold_in(key, 1), (m,), jnp.float64) * taking
        actual = value_and_gradients(lambda x, y: blocks(x, y)[0], x, y, cotangent)
        wanted = value_and_gradients(lambda x, y: dense(x, y)[0], x, y, cotangent)
        np.testing.assert_allclose(actual[0][taking], wanted[0][taking], **FLOAT64)
        for a, w in zip(actual[1:], wanted[1:], strict=True):
            assert np.abs(w).max() > 1e-3
            np.testing.assert_allclose(a, w, rtol=1e-9, atol=1e-9)

    with jax.enable_x64(True):
        weights = jnp.where(jnp.arange(m) % 5 == 0, 0, jnp.arange(m) % 3 + 1.0)
        x, y = points(key, n, m)
        if distance == "l2":  # whole numbers, exactly: ties between slices, tiles and blocks
            x, y = jnp.round(x), jnp.round(y)
        y = y.at[-1:].set(x[:1] + 0.25)  # the last, beyond the slices, is somebody's nearest
        if distance == "cosine":
            check(x, y, y.mean(axis=0), None)
        else:
            check(x, y, jnp.zeros(6), weights.at[-1].set(1))
    jax.clear_caches()


@pytest.mark.parametrize("distance", DISTANCES)
def test_indices_equal_the_reference(key, distance):
    with jax.enable_x64(True):
        x, y = points(key, 37, 23)
        options = {"distance": distance, "bandwidth": 0.5, "epsilon": 1e-5}
        _, index = blockwise.log_best(x, y, y.mean(axis=0), block_size=8, **options)
        np.testing.assert_array_equal(index, reference.log_best(x, y, y.mean(axis=0), **options)[1])
        assert len(np.unique(index)) > 5


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_the_lowest_index_wins_a_tie_and_takes_the_gradient(key, distance, block_size):
    with jax.enable_x64(True):
        x, y = points(key, 6, 7)
        x = jnp.concatenate([x, x, x])  # every winner twice more, in other blocks too
        y = jnp.concatenate([y, y])  # every nearest target twice
        options = {"distance": distance, "bandwidth": 0.5, "epsilon": 1e-5}
        _, index = blockwise.log_best(x, y, y.mean(axis=0), block_size=block_size, **options)
        assert index.max() < 6
        f = functools.partial(blockwise_best, distance=distance, block_size=block_size)
        g = functools.partial(reference_best, distance=distance)
        cotangent = jax.random.normal(key, (14,), jnp.float64)
        actual = value_and_gradients(f, x, y, cotangent)
        for a, w in zip(actual, value_and_gradients(g, x, y, cotangent), strict=True):
            np.testing.assert_allclose(a, w, **FLOAT64)


@pytest.mark.parametrize("argnums", [[(0,), (1,), (0, 1)], [(1,), (0,)]])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_each_gradient_is_right_whichever_was_asked_for_before(key, distance, argnums):
    # Under jit JAX keeps one residual structure for all patterns of zeros.
    jax.clear_caches()
    with jax.enable_x64(True):
        x, y = points(key, 21, 13)
        weights = jax.random.normal(key, (13,), jnp.float64)
        f = lambda best, x, y: (weights * best(x, y, distance=distance)).sum()
        wanted = jax.jit(jax.grad(functools.partial(f, reference_best), (0, 1)))(x, y)
        for asked in argnums:
            gradients = jax.grad(functools.partial(f, blockwise_best), asked)(x, y)
            for i, gradient in zip(asked, gradients, strict=True):
                np.testing.assert_allclose(gradient, wanted[i], **FLOAT64)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradient_matches_finite_differences(key, distance):
    with jax.enable_x64(True):
        x, y = points(key, 11, 9)
        weights = jax.random.normal(key, (9,), jnp.float64)
        f = jax.jit(lambda x, y: (weights * blockwise_best(x, y, distance=distance)).sum())
        check_grads(f, (x, y), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_second_derivatives_equal_the_reference(key, distance):
    with jax.enable_x64(True):
        x, y = points(key, 9, 7, 3)
        weights = jax.random.normal(key, (7,), jnp.float64)

        def second(best, derivative):
            f = lambda x: (weights * best(x, y, distance=distance)).sum()
            return jax.jit(derivative(f))(x)

        twice = lambda f: jax.jacrev(jax.grad(f))
        wanted = second(reference_best, twice)
        assert np.abs(wanted).max() > 1e-2
        for derivative in (twice, jax.hessian):  # which is forward mode over reverse mode
            actual = second(blockwise_best, derivative)
            np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-10)


def test_what_a_distance_closes_over_is_differentiated(key):
    with jax.enable_x64(True):
        x, y = points(key, 11, 7)

        def loss(scale, best):
            distance = lambda x, y: jnp.square(x[:, None] - y[None]) @ scale
            return best(x, y, distance=distance).sum()

        scale = jnp.linspace(0.5, 1.5, 6)
        gradient = jax.jit(jax.grad(loss), static_argnums=1)
        wanted = gradient(scale, reference_best)
        assert np.abs(wanted).max() > 1e-2
        np.testing.assert_allclose(gradient(scale, blockwise_best), wanted, **FLOAT64)


@pytest.mark.parametrize("transform", ["grad(jit)", "grad(vmap)", "grad(scan)"])
@pytest.mark.parametrize("kind", ["index", "mask", "key"])
def test_a_distance_may_close_over_traced_values_of_any_kind(key, kind, transform):
    with jax.enable_x64(True):
        x, y = points(key, 7, 5)
        value = {
            "index": jnp.arange(3),
            "mask": jnp.arange(6) < 4,
            "key": jax.random.fold_in(key, 1),
        }[kind]

        def loss(x, value, best):
            def distance(x, y):
                if kind == "key":
                    weights = jax.random.uniform(value, (6,), x.dtype)
                elif kind == "mask":
                    weights = jnp.where(value, jnp.full(6, 3.0), jnp.ones(6))
                else:
                    weights = jnp.ones(6, x.dtype).at[value].set(3)
                return jnp.square(x[:, None] - y[None]) @ weights

            return best(x, y, distance=distance).sum()

        def total(x, best):
            f = functools.partial(loss, best=best)
            if transform == "grad(jit)":
                return jax.jit(f)(x, value)
            if transform == "grad(vmap)":
                return jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), value).sum()
            return jax.lax.scan(lambda c, _: (c + f(x, value), None), 0.0, None, length=2)[0]

        wanted = jax.grad(total)(x, reference_best)
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(jax.grad(total)(x, blockwise_best), wanted, **FLOAT64)


def _products_run(monkeypatch, f, *args):
    """How many products of blocks a call executes, not merely contains."""
    runs = []
    count = lambda: runs.append(None)
    plain = blockwise.product

    def counting(x, y):
        jax.debug.callback(count)
        return plain(x, y)

    monkeypatch.setattr(blockwise, "product", counting)
    jax.clear_caches()
    jax.block_until_ready(f(*args))
    jax.effects_barrier()
    monkeypatch.undo()
    jax.clear_caches()
    return len(runs)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_gradients_nobody_asks_for_cost_nothing(key, monkeypatch, wrap):
    x, y = points(key, 16, 16, dtype=jnp.float32)
    f = lambda x, y: blockwise_best(x, y, distance="cosine", block_size=8).sum()
    blocks = 2
    assert _products_run(monkeypatch, wrap(f), x, y) == 1 * blocks
    # The targets' gradient is that of the sources too: their mean centres both.
    assert _products_run(monkeypatch, wrap(jax.grad(f, (0, 1))), x, y) == 4 * blocks
    assert _products_run(monkeypatch, wrap(jax.grad(f, 0)), x, y) == 2 * blocks


def _temporary_bytes(best, x, y, **options):
    f = lambda x, y: best(x, y, **options).sum()
    compiled = jax.jit(jax.grad(f, (0, 1))).lower(x, y).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_blockwise_never_holds_the_distance_matrix(key, distance):
    n = 2048
    x, y = points(key, n, n, 8, dtype=jnp.float32)
    matrix = n * n * x.dtype.itemsize
    # The measure sees what it should see.
    assert _temporary_bytes(reference_best, x, y, distance=distance) >= matrix
    assert _temporary_bytes(blockwise_best, x, y, distance=distance, block_size=64) < matrix / 4


def test_memory_is_linear(key):
    def bytes_at(n):
        x, y = points(key, n, n, 8, dtype=jnp.float32)
        return _temporary_bytes(blockwise_best, x, y, distance="cosine", block_size=64)

    assert bytes_at(4096) < 2.2 * bytes_at(2048)


@pytest.mark.parametrize(
    ("n", "argnums", "megabytes"),
    [(4096, 0, 32), (16_384, 0, 80), (16_384, (0, 1), 100), (65_536, (0, 1), 500)],
)
def test_memory_at_full_resolution(n, argnums, megabytes):
    points = jax.ShapeDtypeStruct((n, 256), jnp.float32)  # compiled, not run
    run = jax.jit(jax.value_and_grad(cxjax.contextual_loss, argnums))
    stats = run.lower(points, points).compile().memory_analysis()
    assert stats.temp_size_in_bytes < megabytes * 1e6
