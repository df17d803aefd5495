"""The Contextual Loss against NumPy loops, and under JAX's transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

import cxjax
from cxjax.similarity import blockwise
from tests import oracle
from tests.sets import normal, points

IMPLEMENTATIONS = ["reference", "blockwise"]


# --- Values ---


@pytest.mark.parametrize(("n", "m"), [(16, 16), (37, 23), (1, 4), (23, 1)])
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_similarity_matches_the_equations(key, implementation, distance, n, m):
    with jax.enable_x64(True):
        x, y = points(key, n, m, dtype=jnp.float64)
        options = {"distance": distance, "bandwidth": 0.3, "epsilon": 1e-3}
        f = functools.partial(
            cxjax.contextual_similarity, implementation=implementation, block_size=8, **options
        )
        actual = jax.jit(f)(x, y)
        np.testing.assert_allclose(actual, oracle.similarity(x, y, **options), rtol=1e-10)


def test_defaults_are_the_documented_ones(key):
    x, y = points(key, 20, 30)
    expected = oracle.similarity(x, y, distance="cosine", bandwidth=0.5, epsilon=1e-5)
    np.testing.assert_allclose(cxjax.contextual_similarity(x, y), expected, rtol=1e-4)
    np.testing.assert_allclose(cxjax.contextual_loss(x, y), -np.log(expected), rtol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_directions(key, implementation):
    x, y = points(key, 12, 17)
    loss = functools.partial(cxjax.contextual_loss, implementation=implementation)
    forth, back = -np.log(oracle.similarity(x, y)), -np.log(oracle.similarity(y, x))
    assert abs(forth - back) > 0.1
    wanted = {"paper": forth, "reverse": back, "symmetric": (forth + back) / 2}
    actual = jax.jit(lambda x, y: {name: loss(x, y, direction=name) for name in wanted})(x, y)
    for name in wanted:
        np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_matches_are_the_argmax_and_its_value(key, implementation):
    x, y = points(key, 20, 31)
    f = functools.partial(cxjax.contextual_matches, implementation=implementation)
    index, similarity = jax.jit(f)(x, y)
    expected = oracle.pairwise_similarity(x, y)
    np.testing.assert_array_equal(index, expected.argmax(axis=0))
    np.testing.assert_allclose(similarity, expected.max(axis=0), rtol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mode_collapse_is_seen(key, implementation):
    # Every source a copy of one target: of m targets one is matched.
    y = np.asarray(points(key, 1, 64, 32)[1])
    collapsed = np.tile(y[:1], (64, 1))
    f = functools.partial(cxjax.contextual_loss, implementation=implementation)
    np.testing.assert_allclose(jax.jit(f)(collapsed, y), np.log(64), rtol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equal_coordinates_have_no_l1_gradient(key, implementation):
    # Features after a ReLU: many coordinates are 0 in both.
    x, y = (np.maximum(a, 0) for a in points(key, 12, 9))
    x[:, 2], y[:, 2] = 0, 0
    f = functools.partial(cxjax.contextual_loss, distance="l1", implementation=implementation)
    gradient = jax.jit(jax.grad(f))(x, y)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_array_equal(np.asarray(gradient)[:, 2], 0)


# --- Derivatives ---


@pytest.mark.parametrize("direction", ["paper", "reverse", "symmetric"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_matches_finite_differences(key, implementation, direction):
    with jax.enable_x64(True):
        x, y = points(key, 11, 9, dtype=jnp.float64)
        f = functools.partial(
            cxjax.contextual_loss, implementation=implementation, direction=direction
        )
        assert np.abs(jax.jit(jax.grad(f))(x, y)).max() > 1e-2
        check_grads(jax.jit(f), (x, y), order=1, modes=["rev"], eps=1e-6)


def test_second_order_by_reverse_mode_twice(key):
    with jax.enable_x64(True):
        x, y = points(key, 6, 5, 3, jnp.float64)
        check_grads(jax.jit(cxjax.contextual_loss), (x, y), order=2, modes=["rev"], eps=1e-6)


def test_forward_mode_says_what_to_do(key):
    x, y = points(key, 6, 5)
    with pytest.raises(TypeError, match="forward-mode") as error:
        jax.jvp(cxjax.contextual_loss, (x, y), (x, y))
    assert "implementation='reference'" in error.value.__notes__[0]
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.jit(cxjax.contextual_loss), (x, y), (x, y))
    f = functools.partial(cxjax.contextual_loss, implementation="reference")
    assert jnp.isfinite(jax.jit(lambda x, y: jax.jvp(f, (x, y), (x, y))[1])(x, y))


# --- Transformations ---


@functools.cache
def _exact_symmetric_gradients():
    """Of batches, in float64: compiled once for all transforms."""
    f = functools.partial(cxjax.contextual_loss, direction="symmetric", implementation="reference")
    return jax.jit(jax.vmap(jax.grad(f, (0, 1))))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("transform", ["jit", "vmap", "sharded", "pmap", "shard_map"])
def test_transforms_do_not_change_value_or_gradient(key, implementation, transform):
    batch = 8
    x, y = map(np.asarray, points(key, 10, 9, batch=(batch,)))
    f = functools.partial(
        cxjax.contextual_loss, direction="symmetric", implementation=implementation, block_size=4
    )
    each = jax.value_and_grad(f, (0, 1))
    mesh = jax.make_mesh((batch,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    if transform == "jit":
        one = jax.jit(each)
        run = lambda x, y: jax.tree.map(lambda *a: np.stack(a), *map(one, x, y))
    elif transform == "vmap":
        run = jax.vmap(jax.jit(each))
    elif transform == "sharded":
        sharding = NamedSharding(mesh, spec)
        run = jax.jit(jax.vmap(each), in_shardings=sharding, out_shardings=sharding)
    elif transform == "pmap":
        run = jax.pmap(each)
    else:
        run = jax.jit(jax.shard_map(jax.vmap(each), mesh=mesh, in_specs=spec, out_specs=spec))
    values, gradients = run(x, y)
    for b in range(batch):
        expected = -np.log(oracle.similarity(x[b], y[b])) - np.log(oracle.similarity(y[b], x[b]))
        np.testing.assert_allclose(values[b], expected / 2, rtol=1e-3)
    with jax.enable_x64(True):
        wanted = _exact_symmetric_gradients()(x.astype(np.float64), y.astype(np.float64))
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("split", ["x", "y"])
@pytest.mark.parametrize("distance", ["cosine", "l1", "own"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_set_split_over_devices_and_the_other_on_all(key, implementation, distance, split):
    if distance == "own":
        distance = lambda x, y: jnp.square(jnp.square(x[:, None] - y[None]).sum(axis=-1))
    batch = 8
    f = functools.partial(
        cxjax.contextual_loss, distance=distance, implementation=implementation, block_size=4
    )
    x, y = points(key, 10, 9)
    steps = np.linspace(0.5, 2, batch, dtype=np.float32).reshape(-1, 1, 1)
    many = steps + np.asarray(x if split == "x" else y)
    pair = (many, y) if split == "x" else (x, many)
    axes, spec = (0, None) if split == "x" else (None, 0), PartitionSpec("data")
    specs = (spec, PartitionSpec()) if split == "x" else (PartitionSpec(), spec)
    mesh = jax.make_mesh((batch,), ("data",), axis_types=(AxisType.Auto,))
    losses = jax.shard_map(jax.vmap(f, axes), mesh=mesh, in_specs=specs, out_specs=spec)
    # The gradient of what is shared sums over the devices.
    weights = np.linspace(-1, 1, batch, dtype=np.float32)

    def run(losses):
        total = lambda x, y: (weights * losses(x, y)).sum()
        return jax.jit(jax.value_and_grad(total, (0, 1)))(*pair)

    value, gradients = run(losses)
    wanted, wanted_gradients = run(jax.vmap(f, axes))
    np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    for gradient, want in zip(gradients, wanted_gradients, strict=True):
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5)


def test_the_same_shapes_compile_once(key):
    x, y = points(key, 10, 9)
    traces = []

    @jax.jit
    def step(x, y):
        traces.append(None)
        return jax.value_and_grad(cxjax.contextual_loss)(x, y)

    step(x, y)
    before = blockwise._by_name._cache_size()
    step(2 * x, y)
    cxjax.contextual_loss(x, y)
    first = blockwise._by_name._cache_size()
    cxjax.contextual_loss(3 * x, y)
    assert len(traces) == 1
    assert blockwise._by_name._cache_size() == first <= before + 1


# --- Precision ---


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_inputs_are_computed_in_float32(key, implementation, dtype):
    x, y = points(key, 12, 10, dtype=dtype)
    f = jax.jit(
        jax.value_and_grad(functools.partial(cxjax.contextual_loss, implementation=implementation))
    )
    value, gradient = f(x, y)
    exact, exact_gradient = f(x.astype(jnp.float32), y.astype(jnp.float32))
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert value == exact
    np.testing.assert_array_equal(gradient, exact_gradient.astype(dtype))


def test_numpy_and_mixed_dtypes_are_accepted(key):
    x, y = points(key, 12, 10)
    wanted = cxjax.contextual_loss(x, y)
    assert cxjax.contextual_loss(np.asarray(x), np.asarray(y)) == wanted
    mixed = cxjax.contextual_loss(x, y.astype(jnp.bfloat16))
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed, wanted, rtol=5e-2)


@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
@pytest.mark.parametrize("bandwidth", [0.1, 0.5])
def test_near_copies_have_no_loss_and_no_gradient(distance, bandwidth):
    y, noise = normal(0, 2, 40, 128).astype(np.float32)
    f = functools.partial(cxjax.contextual_loss, distance=distance, bandwidth=bandwidth)
    run = jax.jit(jax.value_and_grad(f, (0, 1)))
    for size in np.float32([0.0, 1e-7, 1e-5, 1e-3]):
        value, gradients = run(y + size * noise, y)
        assert 0 <= value < 1e-6, size
        for gradient in gradients:
            np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("distance", ["cosine", "l2", "l1"])
def test_a_nan_in_is_a_nan_out(key, distance, implementation):
    x, y = map(np.array, points(key, 12, 9))
    f = jax.jit(
        functools.partial(
            cxjax.contextual_loss, distance=distance, implementation=implementation, block_size=4
        )
    )
    assert jnp.isfinite(f(x, y))
    for a in (x, y):
        whole, a[3, 1] = a[3, 1], np.nan
        assert jnp.isnan(f(x, y))
        a[3, 1] = whole


# --- What a user can get wrong ---

CONTEXTUAL = [cxjax.contextual_similarity, cxjax.contextual_loss, cxjax.contextual_matches]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize("loss", CONTEXTUAL)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((3, 4), (3, 5), r"same number of channels.*\(3, 4\).*\(3, 5\)"),
        ((3, 4), (5,), r"point sets \(n, c\) and \(m, c\).*\(3, 4\).*\(5,\)"),
        ((2, 3, 4), (3, 4), r"point sets.*\(2, 3, 4\).*reshape"),
        ((0, 4), (3, 4), r"at least one point.*\(0, 4\)"),
        ((3, 0), (3, 0), r"at least one point and one channel.*\(3, 0\)"),
    ],
)
def test_wrong_shapes_are_refused(loss, wrap, x, y, message):
    with pytest.raises(ValueError, match=message):
        wrap(loss)(jnp.ones(x), jnp.ones(y))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("loss", CONTEXTUAL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosin"}, "unknown distance 'cosin'.*'cosine', 'l2', 'l1' or a function"),
        ({"implementation": "dense"}, "unknown implementation 'dense'.*'blockwise', 'reference'"),
        ({"bandwidth": 0.0}, "bandwidth must be a positive number; got 0.0"),
        ({"bandwidth": float("nan")}, "bandwidth must be a positive number; got nan"),
        ({"bandwidth": "wide"}, "bandwidth must be a positive number; got 'wide'"),
        ({"epsilon": -1e-5}, "epsilon must be a positive number; got -1e-05"),
        ({"block_size": 0}, "block_size must be a positive integer or None; got 0"),
        ({"block_size": 1.5}, "block_size must be a positive integer or None; got 1.5"),
        ({"block_size": True}, "block_size must be a positive integer or None; got True"),
        ({"epsilon": 1e-30}, "bandwidth 0.5 and epsilon 1e-30 are too small together for float32"),
    ],
)
def test_impossible_options_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(jnp.ones((3, 4)), jnp.ones((3, 4)), **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("distance", "found"),
    [
        (lambda x, y: jnp.abs(x - y).sum(axis=1), r"float32 of shape \(3,\)"),
        (lambda x, y: x @ y.T > 0, r"bool of shape \(3, 3\)"),
        (lambda x, y: 0.5, r"float32 of shape \(\)"),
    ],
)
def test_a_distance_function_of_another_shape_is_refused(implementation, distance, found):
    with pytest.raises(ValueError, match=rf"must return float32 of shape \(3, 3\).*{found}"):
        cxjax.contextual_loss(
            jnp.ones((3, 4)), jnp.ones((3, 4)), distance=distance, implementation=implementation
        )


@pytest.mark.usefixtures("unchecked_types")
def test_numbers_of_numpy_are_numbers(key):
    x, y = points(key, 6, 5)
    loss = cxjax.contextual_loss(x, y, bandwidth=np.float32(0.5), block_size=np.int64(4))
    np.testing.assert_allclose(loss, cxjax.contextual_loss(x, y, bandwidth=0.5), rtol=1e-6)


@pytest.mark.usefixtures("unchecked_types")
def test_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="unknown direction 'both'.*'paper', 'reverse'"):
        cxjax.contextual_loss(jnp.ones((3, 4)), jnp.ones((3, 4)), direction="both")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", ["bandwidth", "epsilon"])
def test_traced_options_are_refused(name):
    f = lambda value: cxjax.contextual_loss(jnp.ones((3, 4)), jnp.ones((3, 4)), **{name: value})
    with pytest.raises(TypeError, match=f"{name} must be a Python number"):
        jax.jit(f)(0.5)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("loss", CONTEXTUAL)
def test_integers_are_refused(loss):
    with pytest.raises(ValueError, match="floating-point arrays are needed; got uint8 and float32"):
        loss(jnp.ones((3, 4), jnp.uint8), jnp.ones((3, 4)))
