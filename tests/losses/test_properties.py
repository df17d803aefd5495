"""What must hold of the Contextual Loss for every pair of sets, looked for by hypothesis.

The points are small whole numbers: many of them equal, collinear or opposite, and no two so close
that rounding decides between them.
"""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.extra.numpy import arrays

import cxjax

N, M, C = 7, 6, 3  # one shape: each property compiles once
CLOSE = {"rtol": 1e-6, "atol": 1e-6}

point_sets = lambda n: arrays(np.float64, (n, C), elements=st.integers(-4, 4).map(float))
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["reference", "blockwise"])
DISTANCES = pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])


def check(examples=25):
    """Deterministic, and without a time limit: the first example compiles."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@functools.cache
def compiled(implementation="blockwise", **options):
    return jax.jit(
        functools.partial(
            cxjax.contextual_loss, implementation=implementation, block_size=4, **options
        )
    )


def loss(x, y, **options):
    with jax.enable_x64(True):
        return float(compiled(**options)(jnp.asarray(x), jnp.asarray(y)))


@IMPLEMENTATIONS
@DISTANCES
@check()
@given(x=point_sets(N), y=point_sets(M), data=st.data())
def test_the_order_of_points_does_not_matter(implementation, distance, x, y, data):
    x_order = data.draw(st.permutations(range(N)))
    y_order = data.draw(st.permutations(range(M)))
    options = {"implementation": implementation, "distance": distance}
    wanted = loss(x, y, **options)
    np.testing.assert_allclose(loss(x[x_order], y, **options), wanted, **CLOSE)
    np.testing.assert_allclose(loss(x, y[y_order], **options), wanted, **CLOSE)


@IMPLEMENTATIONS
@check()
@given(x=point_sets(N), y=point_sets(M), scale=st.floats(0.01, 100))
def test_the_cosine_distance_knows_no_scale(implementation, x, y, scale):
    options = {"implementation": implementation}
    np.testing.assert_allclose(
        loss(scale * x, scale * y, **options), loss(x, y, **options), **CLOSE
    )


@IMPLEMENTATIONS
@DISTANCES
@check()
@given(x=point_sets(N), y=point_sets(M))
def test_the_similarity_is_above_0_and_at_most_1(implementation, distance, x, y):
    value = loss(x, y, implementation=implementation, distance=distance)
    assert 0 <= value < np.inf


@IMPLEMENTATIONS
@DISTANCES
@check()
@given(x=point_sets(M), y=point_sets(M))
def test_nothing_is_more_like_a_set_than_itself(implementation, distance, x, y):
    # But for a target at the mean, which has no direction: the cosine distance is 1/2 from all.
    assume(distance != "cosine" or (np.abs(y - y.mean(axis=0)).max(axis=1) > 1e-9).all())
    options = {"implementation": implementation, "distance": distance}
    itself = loss(y, y, **options)
    assert itself <= loss(x, y, **options) + 1e-6
    if len(np.unique(y, axis=0)) == M and distance != "cosine":
        assert itself < 1e-6


@IMPLEMENTATIONS
@DISTANCES
@check(10)
@given(seed=st.integers(0, 2**31))
def test_mixing_towards_the_target_lowers_the_loss(implementation, distance, seed):
    # From half way on: before, mixing shrinks the points more than it turns them.
    x, y = np.random.default_rng(seed).standard_normal((2, 24, 16))
    options = {"implementation": implementation, "distance": distance}
    losses = [loss((1 - t) * x + t * y, y, **options) for t in (0, 0.5, 0.625, 0.75, 0.875, 1)]
    assert (np.diff(losses) < 1e-9).all(), losses
    assert losses[0] > losses[-1] + 0.5


@IMPLEMENTATIONS
@check(10)
@given(x=arrays(np.float64, (3, N, C), elements=st.integers(-4, 4).map(float)), y=point_sets(M))
def test_a_loss_does_not_depend_on_its_batch(implementation, x, y):
    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(compiled(implementation=implementation), (0, None)))
        values = batch(jnp.asarray(x), jnp.asarray(y))
    alone = [loss(x_, y, implementation=implementation) for x_ in x]
    np.testing.assert_allclose(values, alone, **CLOSE)


@IMPLEMENTATIONS
@DISTANCES
@check()
@given(x=point_sets(N), y=point_sets(M))
def test_the_symmetric_direction_is_symmetric(implementation, distance, x, y):
    options = {"implementation": implementation, "distance": distance, "direction": "symmetric"}
    np.testing.assert_allclose(loss(x, y, **options), loss(y, x, **options), **CLOSE)
