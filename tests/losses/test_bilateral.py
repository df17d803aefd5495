"""CoBi against NumPy loops, where it must see displacement, and on input that breaks others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from cxjax.losses.bilateral import contextual_bilateral_loss
from tests.sets import points

FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}


def sets(key, n, m, p=2, dtype=jnp.float64, batch=()):
    places = points(jax.random.fold_in(key, 7), n, m, p, dtype, batch)
    return *points(key, n, m, 6, dtype, batch), *places


def loss(x, y, p, q, **options):
    return contextual_bilateral_loss(x, y, x_positions=p, y_positions=q, **options)


def numpy_loss(x, y, p, q, *, distance="cosine", weight=0.5, mean=None):
    x, y, p, q = (np.asarray(a, np.float64) for a in (x, y, p, q))
    mean = sum(y) / len(y) if mean is None else mean
    total = 0.0
    for x_i, p_i in zip(x, p, strict=True):
        costs = []
        for y_j, q_j in zip(y, q, strict=True):
            if distance == "cosine":
                a, b = x_i - mean, y_j - mean
                d = (1 - np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)) / 2
            else:
                d = np.sum((x_i - y_j) ** 2) if distance == "l2" else np.sum(np.abs(x_i - y_j))
            costs.append(d + weight * np.sqrt(np.sum((p_i - q_j) ** 2)))
        total += min(costs)
    return total / len(x)


@pytest.mark.parametrize(("n", "m", "axes"), [(37, 23, 2), (5, 31, 3)])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_matches_the_equation(key, distance, n, m, axes):
    with jax.enable_x64(True):
        given = sets(key, n, m, axes)
        for weight in (0.0, 0.2):
            actual = loss(*given, distance=distance, spatial_weight=weight, block_size=8)
            wanted = numpy_loss(*given, distance=distance, weight=weight)
            np.testing.assert_allclose(actual, wanted, **FLOAT64)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 1)])
def test_sets_of_one_point(key, n, m):
    mean = np.full(6, 0.1)
    with jax.enable_x64(True):
        given = sets(key, n, m)
        wanted = numpy_loss(*given, mean=mean)
        np.testing.assert_allclose(loss(*given, centering=mean), wanted, **FLOAT64)


def test_defaults_and_centring_are_the_documented_ones(key):
    given = sets(key, 20, 30, dtype=jnp.float32)
    np.testing.assert_allclose(loss(*given), numpy_loss(*given), rtol=1e-5)
    none = numpy_loss(*given, mean=np.zeros(6))
    assert abs(none - numpy_loss(*given)) > 1e-3
    np.testing.assert_allclose(loss(*given, centering="none"), none, rtol=1e-5)


def test_gradients_match_finite_differences(key):
    with jax.enable_x64(True):
        given = sets(key, 11, 9)
        f = jax.jit(functools.partial(loss, block_size=4))
        for gradient in jax.jit(jax.grad(f, (0, 1, 2, 3)))(*given):
            assert np.abs(gradient).max() > 1e-3
        check_grads(f, given, order=1, modes=["fwd", "rev"], eps=1e-6)


# --- Displacement ---


def _picture(key, height, width, c=8):
    """A smooth random map, whose neighbours are alike as those of a photograph are."""
    noise = np.asarray(jax.random.normal(key, (height, width, c)), np.float64)
    for axis in (0, 1):
        noise = sum(np.roll(noise, k, axis) * np.exp(-(k**2) / 8) for k in range(-6, 7))
    return noise / noise.std()


def _grid(height, width):
    return np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_displacement_is_seen_and_costs_the_more_the_further(key, axis):
    height, width = 20, 28  # in pixels, and not square
    canvas = jnp.asarray(_picture(key, height + 8, width + 8), jnp.float32)
    crop = lambda shift: jax.lax.dynamic_slice(
        canvas, (shift, 0, 0) if axis == 0 else (0, shift, 0), (height, width, 8)
    ).reshape(-1, 8)
    pixels = _grid(height, width)
    seen = pixels[:, axis] < (height, width)[axis] - 8  # what all the shifted ones show
    f = functools.partial(loss, p=pixels, q=pixels, x_mask=seen)
    shifts = [0, 1, 2, 4, 8]
    losses = [float(f(crop(s), crop(0), spatial_weight=0.01)) for s in shifts]
    assert losses[0] < 1e-6
    assert np.all(np.diff(losses) > 0.005)
    assert np.all(np.array(losses) <= 0.01 * np.array(shifts) + 1e-6)  # never above the true match
    # Without positions the content is the same, wherever it is.
    plain = [float(f(crop(s), crop(0), spatial_weight=0.0)) for s in shifts]
    np.testing.assert_allclose(plain, 0, atol=1e-6)


def test_maps_that_are_not_square_are_measured_along_both_axes():
    # Two features that occur once each; the nearest place is known.
    y = np.zeros((3, 7, 2), np.float32)
    y[..., 0] = 1
    y[2, 6] = [0, 1]
    x = np.zeros((1, 2), np.float32)
    x[0, 1] = 1
    value = loss(
        x,
        y.reshape(-1, 2),
        np.array([[0, 0]]),
        _grid(3, 7),
        spatial_weight=0.01,
        centering="none",
    )
    np.testing.assert_allclose(value, 0.01 * np.sqrt(2**2 + 6**2), rtol=1e-6)


def test_points_that_are_drawn_keep_their_places(key):
    # Sampling the same places of both, in another order, leaves a copy a copy.
    picture = _picture(key, 12, 17).reshape(-1, 8).astype(np.float32)
    places = _grid(12, 17)
    drawn = np.asarray(jax.random.choice(key, len(places), (50,), replace=False))
    shuffled = drawn[::-1]
    same = loss(picture[drawn], picture[shuffled], places[drawn], places[shuffled])
    assert 0 <= same < 1e-6
    lost = loss(picture[drawn], picture[shuffled], places[:50], places[:50])
    assert lost > 0.05


# --- Masks ---


@pytest.mark.parametrize("distance", ["cosine", "l1", "own"])
def test_masks_leave_out_whatever_stands_there(key, distance):
    if distance == "own":
        distance = lambda x, y: jnp.square(x[:, None] - y[None]).sum(axis=-1)
    with jax.enable_x64(True):
        x, y, p, q = sets(key, 13, 11)
        x, y, p, q = map(np.array, (x, y, p, q))
        x_mask, y_mask = np.arange(13) % 3 != 0, np.arange(11) % 4 != 0
        x[0], x[3], p[6] = np.nan, np.inf, np.nan
        y[0], y[4] = x[1], np.nan
        q[0], q[8] = p[1], np.nan
        y[1], q[1] = x[2] + 0.1, p[2] + 0.1  # the first to take part is near
        f = functools.partial(loss, distance=distance, block_size=4)
        masked = functools.partial(f, x_mask=x_mask, y_mask=y_mask)
        run = lambda f, *a: jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*a)
        value, gradients = run(masked, x, y, p, q)
        wanted, wanted_gradients = run(f, x[x_mask], y[y_mask], p[x_mask], q[y_mask])
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        masks = (x_mask, y_mask, x_mask, y_mask)
        for gradient, want, mask in zip(gradients, wanted_gradients, masks, strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient[mask], want, **FLOAT64)
            np.testing.assert_array_equal(gradient[~mask], 0)


def test_weights_repeat_the_points(key):
    with jax.enable_x64(True):
        x, y, p, q = sets(key, 9, 8)
        x_weights, y_weights = np.arange(9) % 3, 1 + np.arange(8) % 2
        repeated = [np.repeat(a, x_weights, axis=0) for a in (x, p)]
        repeated += [np.repeat(a, y_weights, axis=0) for a in (y, q)]
        x_, p_, y_, q_ = repeated
        weighted = functools.partial(loss, x_mask=x_weights, y_mask=y_weights)
        value, gradient = jax.jit(jax.value_and_grad(weighted))(x, y, p, q)
        wanted, wanted_gradient = jax.jit(jax.value_and_grad(loss))(x_, y_, p_, q_)
        assert abs(jax.jit(loss)(x, y, p, q) - wanted) > 1e-3
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        summed = np.zeros((9, 6))
        np.add.at(summed, np.repeat(np.arange(9), x_weights), np.asarray(wanted_gradient))
        np.testing.assert_allclose(gradient, summed, **FLOAT64)


@pytest.mark.parametrize("empty", ["x_mask", "y_mask"])
def test_an_empty_set_has_no_loss_and_no_gradient(key, empty):
    x, y, p, q = sets(key, 5, 5, dtype=jnp.float32)
    f = functools.partial(loss, **{empty: np.zeros(5, bool)})
    value, gradients = jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(x, y, p, q)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


# --- Dtypes and transformations ---


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_inputs_are_computed_in_float32(key, dtype):
    given = sets(key, 12, 10, dtype=dtype)
    f = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
    value, gradients = f(*given)
    exact, exact_gradients = f(*(a.astype(jnp.float32) for a in given))
    assert value.dtype == jnp.float32
    assert value == exact
    for gradient, want in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_array_equal(gradient, want.astype(dtype))


def test_a_nan_in_is_a_nan_out(key):
    given = sets(key, 12, 9, dtype=jnp.float32)
    f = jax.jit(functools.partial(loss, block_size=4))
    assert np.isfinite(f(*given))
    for i in range(4):
        broken = [*map(np.array, given)]
        broken[i][3, 1] = np.nan
        assert np.isnan(f(*broken))


@pytest.mark.parametrize("distance", ["cosine", "l1", "own"])
@pytest.mark.parametrize("transform", ["vmap", "pmap", "shard_map"])
def test_transforms_do_not_change_value_or_gradient(key, transform, distance):
    if distance == "own":
        distance = lambda x, y: jnp.square(x[:, None] - y[None]).sum(axis=-1)
    batch = 8
    x, y, p, q = map(np.asarray, sets(key, 10, 9, dtype=jnp.float32, batch=(batch,)))
    y, q = y[0], q[0]  # one target for all
    f = functools.partial(loss, distance=distance, block_size=4, y_mask=np.arange(9) != 2)
    each = jax.value_and_grad(f, (0, 2))
    axes = (0, None, 0, None)
    if transform == "vmap":
        run = jax.jit(jax.vmap(each, axes))
    elif transform == "pmap":
        run = jax.pmap(each, in_axes=axes)
    else:
        mesh = jax.make_mesh((batch,), ("data",), axis_types=(AxisType.Auto,))
        split, whole = PartitionSpec("data"), PartitionSpec()
        run = jax.jit(
            jax.shard_map(
                jax.vmap(each, axes),
                mesh=mesh,
                in_specs=(split, whole, split, whole),
                out_specs=split,
            )
        )
    values, gradients = run(x, y, p, q)
    one = jax.jit(each)
    for b in range(batch):
        value, wanted = one(x[b], y, p[b], q)
        np.testing.assert_allclose(values[b], value, rtol=1e-5)
        for gradient, want in zip(gradients, wanted, strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient[b], want, rtol=1e-4, atol=1e-6)


# --- What a user can get wrong ---


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ((3, 2), (4, 2), r"y_positions must be \(n, p\).*\(4, 2\) and y of shape \(5, 4\)"),
        ((3,), (5, 2), r"x_positions must be \(n, p\).*shape \(3,\) and x of shape \(3, 4\)"),
        ((3, 0), (5, 2), r"x_positions must be \(n, p\).*shape \(3, 0\)"),
        ((3, 2), (5, 3), r"same number of axes.*\(3, 2\).*\(5, 3\)"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_positions_of_another_shape_are_refused(wrap, p, q, message):
    with pytest.raises(ValueError, match=message):
        wrap(loss)(jnp.ones((3, 4)), jnp.ones((5, 4)), jnp.ones(p), jnp.ones(q))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_weight": -0.1}, "spatial_weight must be a non-negative number; got -0.1"),
        ({"spatial_weight": np.inf}, "spatial_weight must be a non-negative number; got inf"),
        ({"spatial_weight": np.nan}, "spatial_weight must be a non-negative number; got nan"),
        ({"spatial_weight": "far"}, "spatial_weight must be a non-negative number; got 'far'"),
        ({"distance": "cosin"}, "unknown distance 'cosin'.*'cosine', 'l2', 'l1' or a function"),
        ({"distance": lambda x, y: x[:, 0]}, r"must return float32 of shape \(3, 5\)"),
        ({"centering": "source"}, r"unknown centering 'source'.*or a mean \(c,\)"),
        ({"centering": np.ones(3)}, r"floating mean of shape \(4,\)"),
        ({"block_size": 0}, "block_size must be a positive integer or None; got 0"),
        ({"x_mask": np.ones(5)}, r"x_mask must have one entry per point, shape \(3,\)"),
        ({"y_mask": -np.ones(5)}, "y_mask must not be negative"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        loss(jnp.ones((3, 4)), jnp.ones((5, 4)), jnp.ones((3, 2)), jnp.ones((5, 2)), **options)


@pytest.mark.usefixtures("unchecked_types")
def test_other_types_are_refused():
    x, p = jnp.ones((3, 4)), jnp.ones((3, 2))
    with pytest.raises(TypeError, match="spatial_weight must be a Python number"):
        jax.jit(lambda w: loss(x, x, p, p, spatial_weight=w))(0.5)
    with pytest.raises(ValueError, match="x_positions must be real numbers; got complex64"):
        loss(x, x, p * 1j, p)
    with pytest.raises(ValueError, match="floating-point arrays are needed; got uint8"):
        loss(x.astype(jnp.uint8), x, p, p)
    with pytest.raises(ValueError, match=r"same number of channels.*\(3, 4\).*\(3, 5\)"):
        loss(x, jnp.ones((3, 5)), p, p)
    with pytest.raises(TypeError, match="x_positions"):
        contextual_bilateral_loss(x, x, y_positions=p)
