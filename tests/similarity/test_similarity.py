"""Blockwise equals the reference, in value and in gradient, and never holds the distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cxjax
from cxjax.similarity import blocks, blockwise, reference
from tests import memory, sets

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


def blockwise_pair(x, y, *, block_size=8, bandwidth=0.5, **options):
    options = {"epsilon": 1e-5, "bandwidth": bandwidth, "block_size": block_size, **options}
    return blockwise.maximum_log_similarity(x, y, y.mean(axis=0), **options)


def reference_pair(x, y, *, bandwidth=0.5, distance):
    return reference.maximum_log_similarity(
        x, y, y.mean(axis=0), distance=distance, bandwidth=bandwidth, epsilon=1e-5
    )


def blockwise_best(x, y, **options):
    return blockwise_pair(x, y, **options)[0]


def reference_best(x, y, **options):
    return reference_pair(x, y, **options)[0]


@functools.partial(jax.jit, static_argnums=0)
def all_of(pair, x, y, cotangent):
    """The indices where nothing is differentiated, the value and both gradients: one program."""
    index = pair(x, y)[1]
    value, pullback = jax.vjp(lambda x, y: pair(x, y)[0], x, y)
    return index, value, *pullback(cotangent)


@pytest.mark.parametrize(("n", "m", "block_size"), SIZES)
def test_blockwise_equals_the_reference(key, n, m, block_size):
    with jax.enable_x64(True):
        x, y = points(key, n, m)
        cotangent = sets.normal(1, m)

        def of_all_distances(pair, **options):  # one program, which compiles faster than four
            pairs = [
                functools.partial(pair, distance=d, bandwidth=0.2, **options) for d in DISTANCES
            ]
            return jax.jit(lambda x, y: [all_of(pair, x, y, cotangent) for pair in pairs])(x, y)

        blocks = of_all_distances(blockwise_pair, block_size=block_size)
        dense = of_all_distances(reference_pair)
        for distance, (index, *actual), (wanted_index, *wanted) in zip(
            DISTANCES, blocks, dense, strict=True
        ):
            assert m == 1 or np.abs(wanted[1]).max() > 1e-3  # with one target CX is 1 everywhere
            assert m == 1 or np.abs(wanted[2]).max() > 1e-3
            for a, w in zip(actual, wanted, strict=True):
                np.testing.assert_allclose(a, w, **FLOAT64, err_msg=str(distance))
            if m > 1:  # one target's winner is any of the sources
                np.testing.assert_array_equal(index, wanted_index, err_msg=str(distance))
            if min(n, m) > 16:
                assert len(np.unique(index)) > 5, distance


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize(("n", "m", "block_size", "tiles"), LARGE)
def test_cut_targets_equal_the_reference(key, monkeypatch, n, m, block_size, tiles, distance):
    if tiles:
        monkeypatch.setattr(blocks, "_CACHED_ELEMENTS", 0)
        monkeypatch.setattr(blocks, "_TILE_ELEMENTS", m * block_size // 3)
    blockwise._by_name.clear_cache()  # compiled for another cut, perhaps
    cut = blocks.cut_for(m, block_size)
    assert (cut.tiles > 1) == tiles
    assert cut.count > 1
    assert m % cut.count

    def check(x, y, mean, weights):
        options = {"distance": distance, "bandwidth": 0.2, "epsilon": 1e-2, "weights": weights}
        blocks = lambda x, y: blockwise.maximum_log_similarity(
            x, y, mean, block_size=block_size, **options
        )
        dense = lambda x, y: reference.maximum_log_similarity(x, y, mean, **options)
        has_weight = np.full(m, True) if weights is None else np.asarray(weights) > 0
        cotangent = sets.normal(1, m) * has_weight
        index, value, *actual = map(np.asarray, all_of(blocks, x, y, cotangent))
        wanted_index, wanted_value, *wanted = map(np.asarray, all_of(dense, x, y, cotangent))
        np.testing.assert_array_equal(index[has_weight], wanted_index[has_weight])
        np.testing.assert_allclose(value[has_weight], wanted_value[has_weight], **FLOAT64)
        for a, w in zip(actual, wanted, strict=True):
            assert np.abs(w).max() > 1e-3
            np.testing.assert_allclose(a, w, rtol=1e-9, atol=1e-9)

    with jax.enable_x64(True):
        weights = np.where(np.arange(m) % 5 == 0, 0, np.arange(m) % 3 + 1.0)
        weights[-1] = 1
        x, y = map(np.array, points(key, n, m))
        if distance == "l2":  # whole numbers, exactly: ties between slices, tiles and blocks
            x, y = np.round(x), np.round(y)
        y[-1] = x[0] + 0.25  # the last, beyond the slices, is somebody's nearest
        if distance == "cosine":
            check(x, y, jnp.asarray(y.mean(axis=0)), None)
        else:
            check(x, y, jnp.zeros(6), jnp.asarray(weights))
    blockwise._by_name.clear_cache()


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_the_lowest_index_wins_a_tie_and_takes_the_gradient(key, distance, block_size):
    with jax.enable_x64(True):
        x, y = points(key, 6, 7)
        x = np.concatenate([x, x, x])  # every winner twice more, in other blocks too
        y = np.concatenate([y, y])  # every nearest target twice
        f = functools.partial(blockwise_pair, distance=distance, block_size=block_size)
        g = functools.partial(reference_pair, distance=distance)
        cotangent = sets.normal(1, 14)
        index, *actual = all_of(f, x, y, cotangent)
        assert index.max() < 6
        _, *wanted = all_of(g, x, y, cotangent)
        for a, w in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(a, w, **FLOAT64)


@pytest.mark.parametrize("argnums", [[(0,), (1,), (0, 1)], [(1,), (0,)]])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_each_gradient_is_right_whichever_was_asked_for_before(key, distance, argnums):
    # Under jit JAX keeps one residual structure for all patterns of zeros.
    jax.clear_caches()
    with jax.enable_x64(True):
        x, y = points(key, 21, 13)
        weights = sets.normal(1, 13)
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
        weights = sets.normal(1, 9)
        f = jax.jit(lambda x, y: (weights * blockwise_best(x, y, distance=distance)).sum())
        check_grads(f, (x, y), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_second_derivatives_equal_the_reference(key, distance):
    with jax.enable_x64(True):
        x, y = points(key, 9, 7, 3)
        weights = sets.normal(1, 7)

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
def test_a_distance_may_close_over_traced_values_of_any_kind(key, transform):
    with jax.enable_x64(True):
        x, y = points(key, 7, 5)
        values = jnp.arange(3), jnp.asarray(np.arange(6) < 4), jax.random.key(1)

        def loss(x, values, best):
            index, mask, key = values

            def distance(x, y):
                weights = jax.random.uniform(key, (6,), x.dtype) + jnp.where(mask, 2.0, 1.0)
                return jnp.square(x[:, None] - y[None]) @ weights.at[index].add(3)

            return best(x, y, distance=distance).sum()

        def total(x, best):
            f = functools.partial(loss, best=best)
            if transform == "grad(jit)":
                return jax.jit(f)(x, values)
            if transform == "grad(vmap)":
                return jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), values).sum()
            return jax.lax.scan(lambda c, _: (c + f(x, values), None), 0.0, None, length=2)[0]

        wanted = jax.jit(jax.grad(functools.partial(total, best=reference_best)))(x)
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
    blockwise._by_name.clear_cache()
    jax.block_until_ready(f(*args))
    jax.effects_barrier()
    monkeypatch.undo()
    blockwise._by_name.clear_cache()
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
    return memory.analysis(jax.grad(f, (0, 1)), x, y).temp_size_in_bytes


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
    run = jax.value_and_grad(cxjax.contextual_loss, argnums)
    assert memory.analysis(run, points, points).temp_size_in_bytes < megabytes * 1e6
