"""The losses of transport against NumPy loops and SciPy, and on input that breaks others."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from cxjax.losses.transport import relaxed_earth_mover_loss, sliced_wasserstein_loss
from tests import memory, sets

FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}
DRAW = jax.random.key(5)


points = functools.partial(sets.points, dtype=jnp.float64)


def sliced(x, y, **options):
    return sliced_wasserstein_loss(DRAW, x, y, **{"projections": 5, **options})


LOSSES = {
    "relaxed": functools.partial(relaxed_earth_mover_loss, block_size=4),
    "relaxed l1": functools.partial(relaxed_earth_mover_loss, block_size=4, distance="l1"),
    "sliced": sliced,
    "sliced 1": functools.partial(sliced, order=1),
}
each_loss = pytest.mark.parametrize("loss", [LOSSES["relaxed"], LOSSES["sliced"]])


# --- Values ---


def numpy_relaxed(x, y, distance, mean):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    d = np.empty((len(x), len(y)))
    for i, j in itertools.product(range(len(x)), range(len(y))):
        a, b = x[i] - mean, y[j] - mean
        if distance == "cosine":
            d[i, j] = (1 - np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) / 2
        else:
            d[i, j] = np.sum((a - b) ** 2) if distance == "l2" else np.sum(np.abs(a - b))
    forth = sum(min(d[i]) for i in range(len(x))) / len(x)
    return forth, sum(min(d[:, j]) for j in range(len(y))) / len(y)


@pytest.mark.parametrize(("n", "m"), [(37, 23), (5, 31), (1, 4), (23, 1)])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_relaxed_matches_the_equation(key, distance, n, m):
    with jax.enable_x64(True):
        x, y = points(key, n, m)
        wanted = numpy_relaxed(x, y, distance, 0)
        f = functools.partial(relaxed_earth_mover_loss, distance=distance, block_size=8)
        actual, swapped = jax.jit(lambda x, y: (f(x, y), f(y, x)))(x, y)
        assert abs(wanted[0] - wanted[1]) > 1e-3  # or either would do
        np.testing.assert_allclose(actual, max(wanted), **FLOAT64)
        np.testing.assert_allclose(swapped, max(wanted), **FLOAT64)


def test_relaxed_is_centred_as_asked(key):
    with jax.enable_x64(True):
        x, y = points(key, 12, 9)
        own = np.full(6, 0.4)
        for centering, mean in (("target", np.mean(y, axis=0)), ("none", 0), (own, own)):
            actual = relaxed_earth_mover_loss(x, y, centering=centering)
            np.testing.assert_allclose(actual, max(numpy_relaxed(x, y, "cosine", mean)), **FLOAT64)


def test_relaxed_takes_a_distance_of_ones_own_with_the_roles_exchanged(key):
    with jax.enable_x64(True):
        shapes = set()

        def distance(x, y):
            shapes.add(y.shape[0])
            return jnp.abs(x[:, None] - y[None]).sum(axis=-1)

        for n, m in ((13, 9), (9, 13)):
            x, y = points(key, n, m)
            actual = relaxed_earth_mover_loss(x, y, distance=distance, block_size=4)
            np.testing.assert_allclose(actual, max(numpy_relaxed(x, y, "l1", 0)), **FLOAT64)
        assert shapes == {9, 13}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(37, 23), (24, 16), (1, 4), (23, 1), (8, 8)])
def test_one_channel_of_order_1_is_scipys(key, n, m, weighted):
    with jax.enable_x64(True):
        x, y = points(key, n, m, 1)
        weights = [None, None]
        if weighted:
            weights = [np.random.default_rng(k).uniform(size=k) for k in (n, m)]
            weights[0][1::3], weights[1][1::4] = 0, 0
        masks = dict(zip(("x_mask", "y_mask"), weights, strict=True))
        wanted = scipy.stats.wasserstein_distance(x[:, 0], y[:, 0], *weights)
        f = jax.jit(functools.partial(sliced, order=1, **masks))
        np.testing.assert_allclose(f(x, y), wanted, **FLOAT64)


def numpy_transport(u, v, order):
    """The cheapest plan of two sets of numbers: each cut into equal pieces, paired in order."""
    pieces = np.lcm(len(u), len(v))
    u, v = (sorted(np.repeat(np.asarray(a), pieces // len(a))) for a in (u, v))
    return sum(abs(a - b) ** order for a, b in zip(u, v, strict=True)) / pieces


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(12, 9), (10, 10), (1, 7)])
def test_sliced_is_the_mean_over_directions_of_length_one(key, n, m, order):
    with jax.enable_x64(True):
        x, y = points(key, n, m, 3)
        drawn = np.asarray(jax.random.normal(DRAW, (5, 3), jnp.float64))
        directions = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        x, y = map(np.asarray, (x, y))
        wanted = [numpy_transport(x @ theta, y @ theta, order) for theta in directions]
        f = jax.jit(functools.partial(sliced, order=order))
        np.testing.assert_allclose(f(x, y), np.mean(wanted), **FLOAT64)


def test_sliced_defaults_are_the_documented_ones(key):
    x, y = points(key, 12, 9, dtype=jnp.float32)
    default = sliced_wasserstein_loss(DRAW, x, y)
    assert default == sliced(x, y, projections=64, order=2)
    assert default != sliced_wasserstein_loss(jax.random.key(6), x, y)
    np.testing.assert_allclose(jax.jit(sliced)(x, x[::-1]), 0, atol=1e-12)
    # A shift of length s costs s^2 / c on average, whatever the set.
    shift = jnp.full((1, 6), 2.0)
    many = sliced_wasserstein_loss(DRAW, x, x + shift, projections=4000)
    np.testing.assert_allclose(many, 4.0, rtol=0.1)


def test_many_points_do_not_drift_in_float32(key):
    x, y = points(key, 60_000, 40_000, 1, dtype=jnp.float32)
    wanted = scipy.stats.wasserstein_distance(np.float64(x[:, 0]), np.float64(y[:, 0]))
    np.testing.assert_allclose(sliced(x, y, order=1, projections=1), wanted, rtol=1e-5)


# --- Derivatives ---


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_gradients_match_finite_differences(key, loss):
    with jax.enable_x64(True):
        x, y = points(key, 11, 9)
        weights = np.linspace(0.5, 1.5, 9)
        f = jax.jit(functools.partial(loss, y_mask=weights))
        for gradient in jax.jit(jax.grad(f, (0, 1)))(x, y):
            assert np.abs(gradient).max() > 1e-3
        check_grads(f, (x, y), order=1, modes=["fwd", "rev"], eps=1e-6)


@each_loss
def test_copies_have_no_loss_and_no_gradient(key, loss):
    x, _ = points(key, 12, 1, dtype=jnp.float32)
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, x[::-1])
    np.testing.assert_allclose(value, 0, atol=1e-6)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, jnp.zeros_like(gradient), atol=1e-6)


# --- Masks ---


@each_loss
def test_masks_leave_out_whatever_stands_there(key, loss):
    with jax.enable_x64(True):
        x, y = points(key, 13, 11)
        x, y = map(np.array, (x, y))
        x_mask, y_mask = np.arange(13) % 3 != 0, np.arange(11) % 4 != 0
        x[0], x[3], x[6] = y[1], np.nan, np.inf
        y[0], y[4], y[8] = x[1], np.nan, -np.inf
        run = lambda f, *a: jax.jit(jax.value_and_grad(f, (0, 1)))(*a)
        masked = functools.partial(loss, x_mask=x_mask, y_mask=y_mask)
        value, gradients = run(masked, x, y)
        wanted, wanted_gradients = run(loss, x[x_mask], y[y_mask])
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want, mask in zip(gradients, wanted_gradients, (x_mask, y_mask), strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient[mask], want, **FLOAT64)
            np.testing.assert_array_equal(gradient[~mask], 0)


@each_loss
def test_weights_repeat_the_points(key, loss):
    with jax.enable_x64(True):
        x, y = points(key, 9, 8)
        counts = np.arange(9) % 4, 1 + 2 * (np.arange(8) % 2)
        repeated = [np.repeat(a, k, axis=0) for a, k in zip((x, y), counts, strict=True)]
        weighted = functools.partial(loss, x_mask=counts[0], y_mask=counts[1])
        run = lambda f, *a: jax.jit(jax.value_and_grad(f, (0, 1)))(*a)
        value, gradients = run(weighted, x, y)
        wanted, wanted_gradients = run(loss, *repeated)
        assert abs(wanted - jax.jit(loss)(x, y)) > 1e-4
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want, k in zip(gradients, wanted_gradients, counts, strict=True):
            summed = np.zeros((len(k), 6))
            np.add.at(summed, np.repeat(np.arange(len(k)), k), np.asarray(want))
            np.testing.assert_allclose(gradient, summed, **FLOAT64)


@pytest.mark.parametrize("empty", ["x_mask", "y_mask"])
@each_loss
def test_an_empty_set_has_no_loss_and_no_gradient(key, loss, empty):
    x, y = points(key, 5, 5, dtype=jnp.float32)
    f = functools.partial(loss, **{empty: np.zeros(5, bool)})
    value, gradients = jax.jit(jax.value_and_grad(f, (0, 1)))(x, y)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


# --- Dtypes, transformations, memory ---


@each_loss
def test_half_precision_inputs_are_computed_in_float32(key, loss):
    f = jax.jit(jax.value_and_grad(loss, (0, 1)))
    x, y = points(key, 12, 10, dtype=jnp.bfloat16)
    value, gradients = f(x, y)
    exact, exact_gradients = f(x.astype(jnp.float32), y.astype(jnp.float32))
    assert value.dtype == jnp.float32
    assert value == exact
    for gradient, want in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_array_equal(gradient, want.astype(jnp.bfloat16))


@each_loss
def test_a_nan_in_is_a_nan_out(key, loss):
    given = points(key, 12, 9, dtype=jnp.float32)
    f = jax.jit(loss)
    assert np.isfinite(f(*given))
    for i in range(2):
        broken = [*map(np.array, given)]
        broken[i][3, 1] = np.nan
        assert np.isnan(f(*broken))


@each_loss
@pytest.mark.parametrize("transform", ["vmap", "pmap", "shard_map"])
def test_transforms_do_not_change_value_or_gradient(key, transform, loss):
    batch = 8
    x, y = map(np.asarray, points(key, 10, 9, dtype=jnp.float32, batch=(batch,)))
    y = y[0]  # one target for all
    each = jax.value_and_grad(functools.partial(loss, y_mask=np.arange(9) != 2))
    if transform == "vmap":
        run = jax.jit(jax.vmap(each, (0, None)))
    elif transform == "pmap":
        run = jax.pmap(each, in_axes=(0, None))
    else:
        mesh = jax.make_mesh((batch,), ("data",), axis_types=(AxisType.Auto,))
        split, whole = PartitionSpec("data"), PartitionSpec()
        local = jax.vmap(each, (0, None))
        run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(split, whole), out_specs=split))
    values, gradients = run(x, y)
    one = jax.jit(each)
    for b in range(batch):
        value, gradient = one(x[b], y)
        np.testing.assert_allclose(values[b], value, rtol=1e-5)
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradients[b], gradient, rtol=1e-4, atol=1e-6)


def _temporary_bytes(f, n):
    points = jax.ShapeDtypeStruct((n, 8), jnp.float32)
    return memory.analysis(jax.grad(f, (0, 1)), points, points).temp_size_in_bytes


def test_memory_is_linear_in_the_points():
    n = 2048
    dense = lambda x, y: jnp.square(x[:, None] - y[None]).sum(axis=-1).min(axis=1).mean()
    assert _temporary_bytes(dense, n) >= n * n * 4  # the measure sees what it should see
    relaxed = functools.partial(relaxed_earth_mover_loss, block_size=64)
    for f in (relaxed, functools.partial(sliced, projections=8)):
        held = _temporary_bytes(f, n)
        assert held < n * n * 4 / 4
        assert _temporary_bytes(f, 2 * n) < 2.2 * held


# --- What a user can get wrong ---


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("loss", [relaxed_earth_mover_loss, sliced])
def test_wrong_sets_are_refused(loss):
    x = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"same number of channels.*\(3, 4\).*\(3, 5\)"):
        loss(x, jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"point sets.*\(2, 3, 4\).*reshape"):
        jax.jit(loss)(jnp.ones((2, 3, 4)), x)
    with pytest.raises(ValueError, match="floating-point arrays are needed; got uint8"):
        loss(x.astype(jnp.uint8), x)
    with pytest.raises(ValueError, match=r"y_mask must have one entry per point, shape \(3,\)"):
        loss(x, x, y_mask=np.ones(4))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (relaxed_earth_mover_loss, {"distance": "cos"}, "unknown distance 'cos'.*or a function"),
        (relaxed_earth_mover_loss, {"centering": "mean"}, r"unknown centering 'mean'.*'none'"),
        (relaxed_earth_mover_loss, {"block_size": 0}, "block_size must be a positive integer"),
        (
            relaxed_earth_mover_loss,
            {"distance": lambda x, y: jnp.ones((3, 5))},  # right in one direction alone
            r"must return float32 of shape \(5, 3\)",
        ),
        (sliced, {"order": 3}, "unknown order 3; known: 1, 2"),
        (sliced, {"projections": 0}, "projections must be a positive integer; got 0"),
        (sliced, {"projections": 2.0}, "projections must be a positive integer; got 2.0"),
    ],
)
def test_impossible_options_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(jnp.ones((3, 4)), jnp.ones((5, 4)), **options)


@pytest.mark.usefixtures("unchecked_types")
def test_a_traced_number_of_projections_is_refused():
    x = jnp.ones((3, 4))
    with pytest.raises(TypeError, match="projections must be a Python integer"):
        jax.jit(lambda k: sliced(x, x, projections=k))(5)
