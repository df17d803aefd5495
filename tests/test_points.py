"""Maps as points: against NumPy loops, and maps whose channels are their own positions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import cxjax
from cxjax import points
from tests import memory
from tests.sets import normal

SHAPES = [(7,), (5, 3), (3, 5), (1, 4), (2, 3, 4)]


def positions_of(shape, cell_size=1.0, offset=0.0):
    """Centres one by one, the last axis fastest."""
    size, start = (np.broadcast_to(value, len(shape)) for value in (cell_size, offset))
    cells = itertools.product(*map(range, shape))
    return np.array([(np.array(cell) + 0.5) * size + start for cell in cells])


def own_positions(shape):
    """A map whose channels are the positions of its cells, made without `cxjax.points`."""
    return positions_of(shape).reshape(*shape, -1).astype(np.float32)


# --- Positions ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_positions_are_those_of_the_flattened_map(shape):
    found, positions = points.flatten(own_positions(shape))
    np.testing.assert_array_equal(found, positions)
    assert positions.dtype == jnp.float32
    np.testing.assert_array_equal(points.grid_positions(shape), positions_of(shape))


@pytest.mark.parametrize(
    ("cell_size", "offset"), [(4, 0), (2.5, -1), ((4, 2), (0.5, 100)), ([1, 3], 7)]
)
def test_cell_size_and_offset(cell_size, offset):
    options = {"cell_size": cell_size, "offset": offset}
    found = points.flatten(jnp.ones((5, 3, 2)), **options).positions
    np.testing.assert_allclose(found, positions_of((5, 3), cell_size, offset), rtol=1e-6)
    np.testing.assert_allclose(points.grid_positions((5, 3), **options), found)


def test_layers_patches_and_pixels_lie_in_one_system():
    """A cell that covers some pixels, and a patch of them, lie at their mean."""
    pixels = own_positions((12, 20))
    pooled = pixels.reshape(3, 4, 5, 4, 2).mean(axis=(1, 3)).reshape(-1, 2)
    np.testing.assert_allclose(points.grid_positions((3, 5), cell_size=4), pooled, rtol=1e-6)
    x, x_positions = points.patches(pixels, size=4, stride=4)
    np.testing.assert_allclose(x_positions, pooled, rtol=1e-6)
    np.testing.assert_allclose(x.reshape(-1, 16, 2).mean(axis=1), pooled, rtol=1e-6)


# --- Sampling ---


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_sampled_points_keep_their_coordinates_and_never_repeat(key, wrap):
    x = points.flatten(own_positions((11, 6)))
    y = points.flatten(own_positions((11, 6)) + 100)
    x, y = wrap(functools.partial(points.sample_pair, count=40))(key, x, y)
    assert x.points.shape == y.positions.shape == (40, 2)
    np.testing.assert_array_equal(x.points, x.positions)
    np.testing.assert_array_equal(y.points - 100, y.positions)
    np.testing.assert_array_equal(x.positions, y.positions)  # the same indices in both
    assert len(np.unique(x.positions, axis=0)) == 40
    assert set(map(tuple, np.asarray(x.positions))) < set(map(tuple, positions_of((11, 6))))


@pytest.mark.parametrize(
    ("n", "m", "count", "kept"),
    [
        *((30, 50, None, 30), (50, 30, None, 30), (50, 30, 20, 20), (30, 50, 40, 30)),
        *((30, 30, None, 30), (30, 30, 30, 30), (30, 30, 31, 30), (1, 9, 5, 1)),
    ],
)
def test_both_sets_come_down_to_the_same_number(key, n, m, count, kept):
    x, y = np.arange(n, dtype=np.float32)[:, None], np.arange(m, dtype=np.float32)[:, None]
    for given, found in zip((x, y), points.sample_pair(key, x, y, count=count), strict=True):
        assert found.shape == (kept, 1)
        assert len(np.unique(found)) == kept
        if len(given) == kept:  # nothing is drawn, and the order stays
            np.testing.assert_array_equal(found, given)
        else:
            assert set(found.ravel().tolist()) < set(given.ravel().tolist())


def test_by_default_the_authors_number_is_drawn(key):
    x = jnp.arange(66 * 65.0)[:, None]
    assert points.sample_pair(key, x, x)[0].shape == (4225, 1)
    np.testing.assert_array_equal(points.sample_pair(key, x[:4225], x[:4225])[0], x[:4225])


def test_every_point_is_as_likely(key):
    x, y = jnp.arange(12.0)[:, None], jnp.arange(9.0)[:, None]
    keys = jax.random.split(key, 1000)
    found = jax.vmap(lambda key: points.sample_pair(key, x, y, count=4))(keys)
    for drawn, n in zip(found, (12, 9), strict=True):
        counts = np.bincount(np.asarray(drawn).astype(int).ravel(), minlength=n)
        deviation = np.sqrt(1000 * 4 / n * (1 - 4 / n))
        np.testing.assert_allclose(counts, 1000 * 4 / n, atol=5 * deviation)
    # Two sets of different numbers are drawn from apart: no index is bound to one of the other.
    together = np.mean(np.asarray(found[0][:, 0, 0]) == np.asarray(found[1][:, 0, 0]))
    np.testing.assert_allclose(together, 1 / 12, atol=0.03)


def test_the_key_decides_alone(key):
    x = points.flatten(own_positions((9, 8)))
    draw = functools.partial(points.sample_pair, x=x, y=x, count=20)
    for first, second in zip(jax.tree.leaves(draw(key)), jax.tree.leaves(draw(key)), strict=True):
        np.testing.assert_array_equal(first, second)
    other = draw(jax.random.fold_in(key, 1))[0].positions
    assert not np.array_equal(draw(key)[0].positions, other)


def test_vmap_draws_for_each_example_with_its_key(key):
    keys = jax.random.split(key, 3)
    maps = jax.random.normal(key, (3, 4, 5, 2))
    draw = lambda key, x: points.sample_pair(key, points.flatten(x), points.flatten(-x), count=7)
    x, y = jax.vmap(draw)(keys, maps)
    np.testing.assert_array_equal(x.points, -y.points)
    for i in range(3):
        np.testing.assert_array_equal(x.points[i], draw(keys[i], maps[i])[0].points)
    assert not np.array_equal(x.positions[0], x.positions[1])


def test_one_set_is_drawn_from_as_the_first_of_a_pair(key):
    x = points.flatten(own_positions((9, 8)))
    drawn, pair = points.sample(key, x, count=20), points.sample_pair(key, x, x, count=20)
    np.testing.assert_array_equal(drawn.points, drawn.positions)
    np.testing.assert_array_equal(drawn.positions, pair[0].positions)
    assert not np.array_equal(points.sample(jax.random.key(1), x, count=20).points, drawn.points)
    for count in (72, 100, 4225):  # nothing is drawn, and the order stays
        np.testing.assert_array_equal(points.sample(key, x, count=count).points, x.points)
    assert points.sample(key, jnp.zeros((66 * 65, 1))).shape == (4225, 1)


def test_masks_are_drawn_along_and_gradients_reach_the_drawn_alone(key):
    x, mask = jnp.arange(10.0)[:, None], jnp.arange(10) % 3 == 0
    (drawn, drawn_mask), bare = points.sample_pair(key, (x, mask), x, count=4)
    np.testing.assert_array_equal(drawn_mask, np.asarray(drawn[:, 0]) % 3 == 0)
    np.testing.assert_array_equal(drawn, bare)
    gradient = jax.grad(lambda x: points.sample_pair(key, x, x, count=4)[0].sum())(x)
    np.testing.assert_array_equal(
        gradient[:, 0], np.isin(np.arange(10), np.asarray(drawn)).astype(np.float32)
    )


# --- Patches ---


def patches_of(image, size, stride):
    h, w, _ = image.shape
    found, positions = [], []
    for i in range(0, h - size + 1, stride):
        for j in range(0, w - size + 1, stride):
            found.append(image[i : i + size, j : j + size].reshape(-1))
            positions.append((i + size / 2, j + size / 2))
    return np.array(found), np.array(positions)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [
        *(((7, 11, 3), 3, 1), ((11, 7, 3), 3, 2), ((8, 8, 1), 4, 4), ((9, 6, 2), 2, 3)),
        *(((5, 9, 3), 5, 2), ((5, 5, 3), 5, 1), ((4, 6, 3), 1, 1)),
    ],
)
def test_patches_match_loops(wrap, shape, size, stride):
    image = jnp.asarray(normal(0, *shape), jnp.float32)
    found = wrap(functools.partial(points.patches, size=size, stride=stride))(image)
    expected, positions = patches_of(np.asarray(image), size, stride)
    np.testing.assert_array_equal(found.points, expected)
    np.testing.assert_array_equal(found.positions, positions)


def test_patches_batch_and_keep_the_dtype(key):
    images = jax.random.normal(key, (2, 6, 7, 3), jnp.bfloat16)
    found = jax.vmap(functools.partial(points.patches, size=3, stride=2))(images)
    assert found.points.dtype == jnp.bfloat16
    for i in range(2):
        np.testing.assert_array_equal(found.points[i], patches_of(np.asarray(images[i]), 3, 2)[0])


def test_gradients_of_patches():
    """A pixel's gradient is the sum of its patches' cotangents."""
    image = jnp.asarray(normal(0, 7, 10, 2), jnp.float32)
    patches = jax.jit(functools.partial(points.patches, size=4, stride=3))
    found, pullback = jax.vjp(lambda image: patches(image).points, image)
    cotangent = jnp.asarray(normal(1, *found.shape), jnp.float32)
    numbers = np.arange(image.size).reshape(image.shape)
    expected = np.zeros(image.size, np.float32)
    np.add.at(expected, patches_of(numbers, 4, 3)[0].ravel(), np.asarray(cotangent).ravel())
    np.testing.assert_allclose(pullback(cotangent)[0].ravel(), expected, atol=1e-6)
    check_grads(lambda image: jnp.sin(patches(image).points), (image,), 1, rtol=0.02)


def test_patches_hold_little_more_than_they_return():
    """At stride 4 the stride-1 set would be 16 times the result."""
    image = jnp.zeros((256, 256, 3))

    def bytes_at(stride):
        patches = lambda image: points.patches(image, size=8, stride=stride).points
        held = memory.analysis(patches, image)
        return held.temp_size_in_bytes + held.output_size_in_bytes

    result = 63 * 63 * 8 * 8 * 3 * 4
    assert bytes_at(1) > 15 * result  # the measure sees what it should see
    assert result <= bytes_at(4) < 2 * result


# --- Several layers ---


def lines_between(values, count):
    """Linear interpolation of a line of values, each at the middle of its cell, clamped."""
    at = (np.arange(count) + 0.5) / count * len(values) - 0.5
    return np.interp(at, np.arange(len(values)), values)


@pytest.mark.parametrize("scaling", ["channels", "none"])
def test_concatenation_matches_interpolation(key, scaling):
    fine = np.asarray(jax.random.normal(key, (9, 8, 2)))
    coarse = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (4, 3, 5)))
    features = {"conv1_1": fine, "conv2_1": coarse}
    resized = np.apply_along_axis(lines_between, 0, coarse, 9)
    resized = np.apply_along_axis(lines_between, 1, resized, 8)
    divisors = (2, 5) if scaling == "channels" else (1, 1)
    found = points.concatenate(features, scaling=scaling)
    assert found.shape == (9, 8, 7)
    np.testing.assert_allclose(found[..., :2], fine / divisors[0], rtol=1e-6)
    np.testing.assert_allclose(found[..., 2:], resized / divisors[1], atol=1e-5)
    # Names give the order, and the grid.
    names = ("conv2_1", "conv1_1")
    swapped = points.concatenate(features, layers=names, grid="conv1_1", scaling=scaling)
    np.testing.assert_array_equal(swapped, jnp.roll(found, 5, axis=-1))
    assert points.concatenate(features, layers=names).shape == (4, 3, 7)
    assert points.concatenate(features, layers=["conv2_1"]).shape == (4, 3, 5)


def test_concatenation_smooths_what_it_makes_smaller_unless_told():
    checks = (np.indices((15, 15)).sum(axis=0) % 2)[..., None].astype(np.float32)
    features = {"conv1_1": checks, "conv3_1": np.zeros((5, 5, 1), np.float32)}
    joined = functools.partial(points.concatenate, features, grid="conv3_1")
    np.testing.assert_allclose(joined(antialias=False)[..., :1], checks[1::3, 1::3], atol=1e-5)
    assert np.abs(joined()[..., 0] - 0.5).max() < 0.2


@pytest.mark.parametrize("axes", [1, 3])
def test_concatenation_of_signals_and_volumes(key, axes):
    ramp = jnp.arange(4.0).reshape(4, *[1] * axes)  # rises along the first axis
    coarse = jnp.broadcast_to(ramp, (4, *[3] * (axes - 1), 2))
    fine = jnp.ones((9, *[6] * (axes - 1), 1))
    found = points.concatenate({"fine": fine, "coarse": coarse})
    expected = np.broadcast_to(
        lines_between(np.arange(4.0), 9).reshape(9, *[1] * axes) / 2, (*fine.shape[:-1], 2)
    )
    np.testing.assert_allclose(found[..., 1:], expected, atol=1e-6)


def test_layers_are_compared_each_with_its_weight(key):
    keys = jax.random.split(key, 4)
    x = {"a": jax.random.normal(keys[0], (4, 5, 6)), "b": jax.random.normal(keys[1], (3, 2, 8))}
    y = {"b": jax.random.normal(keys[2], (5, 4, 8)), "a": jax.random.normal(keys[3], (3, 3, 6))}
    x["more"] = jnp.ones((2, 2, 1))  # without a weight it plays no part
    loss = functools.partial(cxjax.contextual_loss, bandwidth=0.3, implementation="reference")
    one = jax.jit(loss)
    terms = [
        one(x[name].reshape(-1, c), y[name].reshape(-1, c)) for name, c in (("a", 6), ("b", 8))
    ]
    both = functools.partial(points.over_layers, one, x, y)
    np.testing.assert_allclose(both(weights={"a": 1}), terms[0], rtol=1e-6)
    expected = 0.5 * terms[0] + 3 * terms[1]
    np.testing.assert_allclose(both(weights={"a": 0.5, "b": 3.0}), expected, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda w: both(weights=w)))({"a": 0.5, "b": 3.0})
    np.testing.assert_allclose([gradient["a"], gradient["b"]], terms, rtol=1e-5)


def test_layers_of_a_batch_under_vmap(key):
    x = {"a": jax.random.normal(key, (2, 4, 5, 6))}
    l2 = lambda x, y: jnp.square(x - y).mean()
    each = jax.vmap(lambda x, y: points.over_layers(l2, x, y, weights={"a": 2.0}))
    y = {"a": jnp.zeros((2, 4, 5, 6))}
    np.testing.assert_allclose(each(x, y), 2 * jnp.square(x["a"]).mean(axis=(1, 2, 3)), rtol=1e-6)


# --- What a user can get wrong ---

ONE = {"a": jnp.ones((2, 3, 4))}
MEAN = lambda x, y: (x.mean() - y.mean()) ** 2
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: points.grid_positions(()), r"cells along each axis.*got \(\)"),
        (
            lambda: points.grid_positions((3, 0)),
            "each axis of shape must be a positive integer; got 0",
        ),
        (
            lambda: points.grid_positions((3, 2.0)),
            r"each axis of shape must be a positive integer; got 2\.0",
        ),
        (lambda: points.grid_positions((3, 2), cell_size=0), "cell_size must be positive; got 0"),
        (lambda: points.grid_positions((3, 2), cell_size=(1, 2, 3)), "one for each of the 2 axes"),
        (lambda: points.grid_positions((3, 2), offset=(1,)), "offset must be a number, or one for"),
        (lambda: points.flatten(jnp.ones(3)), r"\(n, c\) or \(h, w, c\) or .*got shape \(3,\)"),
        (lambda: points.flatten(jnp.ones((1, 2, 2, 2, 3))), r"got shape \(1, 2, 2, 2, 3\).*vmap"),
        (lambda: points.flatten(jnp.ones((0, 2, 3))), r"not be empty; got shape \(0, 2, 3\)"),
        (lambda: points.flatten(jnp.ones((2, 2, 3), int)), r"floating-point; got int32.*/ 255"),
        (lambda: points.sample(KEY, jnp.ones((3, 2)), count=None), "positive integer; got None"),
        (lambda: points.sample(KEY, jnp.ones((3, 2, 4))), "x must.*flatten"),
        (
            lambda: points.sample_pair(KEY, jnp.ones((3, 2)), jnp.ones((3, 2)), count=0),
            "count.*got 0",
        ),
        (
            lambda: points.sample_pair(KEY, jnp.ones((3, 2)), jnp.ones((3, 2)), count=True),
            "got True",
        ),
        (lambda: points.sample_pair(KEY, jnp.ones((3, 2)), jnp.ones((3, 2)), count=2.0), "got 2.0"),
        (lambda: points.sample_pair(KEY, jnp.ones((3, 2, 4)), jnp.ones((6, 4))), "x must.*flatten"),
        (
            lambda: points.sample_pair(KEY, jnp.ones((3, 2)), jnp.ones((0, 2))),
            r"y must.*got \(0, 2\)",
        ),
        (
            lambda: points.sample_pair(KEY, (jnp.ones((3, 2)), jnp.ones(4)), jnp.ones((3, 2))),
            r"one row per point; got \(3, 2\), \(4,\)",
        ),
        (lambda: points.sample_pair(KEY, (), jnp.ones((3, 2))), "x must hold.*got nothing"),
        (lambda: points.patches(jnp.ones((4, 9, 3)), size=5), r"\(4, 9, 3\).*at most 4"),
        (lambda: points.patches(jnp.ones((9, 4, 3)), size=5), r"\(9, 4, 3\).*at most 4"),
        (lambda: points.patches(jnp.ones((9, 9)), size=5), r"must be \(h, w, c\).*\(9, 9\)"),
        (lambda: points.patches(jnp.ones((9, 9, 3), np.uint8), size=5), "got uint8.*/ 255"),
        (lambda: points.patches(jnp.ones((9, 9, 3)), size=0), "size must be a positive integer"),
        (lambda: points.patches(jnp.ones((9, 9, 3)), size=2, stride=1.5), "stride must be.*1.5"),
        (lambda: points.concatenate({}), "no layer to concatenate"),
        (lambda: points.concatenate(ONE, layers=[]), "no layer to concatenate"),
        (lambda: points.concatenate(ONE, layers=["a", "b"]), "no layer 'b' in features.*'a'"),
        (lambda: points.concatenate(ONE, layers=["a", "a"]), "named twice"),
        (lambda: points.concatenate(ONE, grid="b"), "no layer 'b' in the layers to.*known: 'a'"),
        (
            lambda: points.concatenate(ONE, scaling="channel"),
            "scaling 'channel'; known: 'channels'",
        ),
        (lambda: points.concatenate({"a": jnp.ones(3)}), r"a must be .*got shape \(3,\)"),
        (
            lambda: points.concatenate({**ONE, "b": jnp.ones((2, 4))}),
            r"same number of axes; got a \(2, 3, 4\), b \(2, 4\)",
        ),
        (lambda: points.over_layers(MEAN, ONE, ONE, weights={}), "at least one layer"),
        (lambda: points.over_layers(MEAN, ONE, {}, weights={"a": 1}), "no layer 'a' in y"),
        (
            lambda: points.over_layers(MEAN, ONE, ONE, weights={"a": 1, "conv9": 0}),
            "no layer 'conv9' in x; known: 'a'",
        ),
        (
            lambda: points.over_layers(MEAN, ONE, {"a": jnp.ones((2, 3, 1))}, weights={"a": 1}),
            r"a must have the same number of channels.*\(2, 3, 4\).*\(2, 3, 1\)",
        ),
        (
            lambda: points.over_layers(MEAN, {"a": jnp.ones((2, 2, 3, 4))}, ONE, weights={"a": 1}),
            r"x\['a'\] must be \(n, c\) or \(h, w, c\).*vmap",
        ),
        (lambda: points.over_layers(MEAN, ONE, ONE, weights={"a": np.ones(2)}), "weight of a"),
        (
            lambda: points.over_layers(lambda x, y: x - y, ONE, ONE, weights={"a": 1}),
            "must return a scalar array; for a",
        ),
    ],
)
def test_mistakes_are_answered_with_what_was_given(unchecked_types, call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
