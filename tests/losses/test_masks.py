"""Masks are leaving points out, weights are repeating them: in value and in gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cxjax
from tests import oracle, sets

IMPLEMENTATIONS = ["reference", "blockwise"]
DIRECTIONS = ["paper", "reverse", "symmetric"]
DISTANCES = ["cosine", "l2", "l1"]
FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}
OPTIONS = {"bandwidth": 0.3, "epsilon": 1e-3, "block_size": 4}


points = functools.partial(sets.points, dtype=jnp.float64)


def value_and_gradients(f, x, y):
    value, gradients = jax.jit(jax.value_and_grad(f, (0, 1)))(x, y)
    return value, *gradients


def every_direction(loss):
    """Values and gradients by direction, to be one program: three compile for longer."""
    each = {d: jax.value_and_grad(functools.partial(loss, direction=d), (0, 1)) for d in DIRECTIONS}
    return lambda x, y: {direction: f(x, y) for direction, f in each.items()}


@pytest.mark.parametrize("distance", [*DISTANCES, "own"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_masked_point_takes_no_part_whatever_stands_in_it(key, implementation, distance):
    if distance == "own":
        distance = lambda x, y: jnp.square(x[:, None] - y[None]).sum(axis=-1) ** 0.75
    with jax.enable_x64(True):
        x, y = map(np.array, points(key, 13, 11))
        x_mask = np.arange(13) % 3 != 0  # not the first: a tie with its stand-in would hide it
        y_mask = np.arange(11) % 4 != 0
        # As near as can be to the others, and NaN, and infinite.
        x[3], x[0], x[6] = y[3], np.nan, np.inf
        y[0], y[4], y[8] = x[1], np.nan, -np.inf
        loss = functools.partial(
            cxjax.contextual_loss, distance=distance, implementation=implementation, **OPTIONS
        )
        masked = functools.partial(loss, x_mask=x_mask, y_mask=y_mask)
        found = jax.device_get(jax.jit(every_direction(masked))(x, y))
        left = jax.device_get(jax.jit(every_direction(loss))(x[x_mask], y[y_mask]))
        masks = x_mask, y_mask
        for direction in DIRECTIONS:
            (value, gradients), (wanted, wanted_gradients) = found[direction], left[direction]
            assert wanted > 0.1
            np.testing.assert_allclose(value, wanted, **FLOAT64, err_msg=direction)
            for gradient, want, mask in zip(gradients, wanted_gradients, masks, strict=True):
                assert np.abs(want).max() > 1e-3
                np.testing.assert_allclose(gradient[mask], want, **FLOAT64, err_msg=direction)
                np.testing.assert_array_equal(gradient[~mask], 0, err_msg=direction)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_weight_is_a_multiplicity(key, implementation, distance):
    with jax.enable_x64(True):
        x, y = points(key, 10, 9)
        x_counts, y_counts = np.arange(10) % 4, (np.arange(9) + 2) % 3 + 1
        x_from, y_from = (np.repeat(np.arange(len(c)), c) for c in (x_counts, y_counts))
        loss = functools.partial(
            cxjax.contextual_loss, distance=distance, implementation=implementation, **OPTIONS
        )
        weighted = functools.partial(loss, x_mask=x_counts.astype(float), y_mask=y_counts)
        # A gather adds the gradients of the copies up. Copies of a row share its maxima: the lowest
        # takes them, and the sum over copies is the same.
        repeated = lambda x, y, **options: loss(x[x_from], y[y_from], **options)
        plain = lambda x, y: {d: loss(x, y, direction=d) for d in DIRECTIONS}
        together = lambda *functions: jax.jit(lambda x, y: [f(x, y) for f in functions])(x, y)
        found, copies, plain = together(every_direction(weighted), every_direction(repeated), plain)
        for direction in DIRECTIONS:
            (value, gradients), (wanted, wanted_gradients) = found[direction], copies[direction]
            assert np.abs(plain[direction] - wanted) > 1e-3
            np.testing.assert_allclose(value, wanted, **FLOAT64, err_msg=direction)
            for gradient, want in zip(gradients, wanted_gradients, strict=True):
                assert np.abs(want).max() > 1e-3
                np.testing.assert_allclose(gradient, want, **FLOAT64, err_msg=direction)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_source_weight_says_only_whether_it_is_there(key, implementation):
    x, y = points(key, 10, 9, dtype=jnp.float32)
    similarity = functools.partial(cxjax.contextual_similarity, implementation=implementation)
    f = jax.jit(lambda weights: similarity(x, y, x_mask=weights))
    weights = np.linspace(0, 3, 10, dtype=np.float32)
    np.testing.assert_array_equal(f(weights), f(np.float32(weights > 0)))
    np.testing.assert_array_equal(f(weights), f(weights > 0))
    assert f(weights > 2) < f(np.full(10, True))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_set_has_no_loss_and_no_gradient(key, implementation, distance):
    x, y = map(np.array, points(key, 7, 5, dtype=jnp.float32))
    x[2], y[2] = np.nan, np.nan
    f = functools.partial(cxjax.contextual_loss, distance=distance, implementation=implementation)

    @jax.jit
    def run(x_there, y_there):
        masks = {"x_mask": x_there & (jnp.arange(7) != 2), "y_mask": y_there & (jnp.arange(5) != 2)}
        return every_direction(functools.partial(f, **masks))(x, y)

    assert all(value > 0.1 for value, _ in run(True, True).values())
    for there in ((False, True), (True, False), (False, False)):
        for direction, (value, gradients) in run(*there).items():
            assert value == 0, direction
            for gradient in gradients:
                np.testing.assert_array_equal(gradient, 0, err_msg=direction)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_set_spares_the_other_the_derivative_of_a_distance(key, implementation):
    # Of a caller's own, which divides by a norm: the empty set's points are zeros.
    distance = lambda x, y: 1 - (x @ y.T) / jnp.linalg.norm(x, axis=1)[:, None]
    x, y = points(key, 7, 5, dtype=jnp.float32)
    f = functools.partial(cxjax.contextual_loss, distance=distance, implementation=implementation)
    for masks in ({"x_mask": np.zeros(7, bool)}, {"y_mask": np.zeros(5, bool)}):
        value, *gradients = value_and_gradients(functools.partial(f, **masks), x, y)
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


def test_a_traced_negative_weight_counts_as_none(key):
    x, y = points(key, 7, 5, dtype=jnp.float32)
    f = jax.jit(lambda mask: cxjax.contextual_loss(x, y, y_mask=mask))
    weights = jnp.array([1.0, -2, 3, 1, -1])
    assert f(weights) == f(jnp.maximum(weights, 0))
    assert jnp.isnan(f(weights.at[0].set(jnp.nan)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_matches_of_masked_points(key, implementation):
    x, y = points(key, 8, 9, dtype=jnp.float32)
    x_mask, y_mask = np.arange(8) != 3, np.arange(9) % 2 == 0
    matches = functools.partial(cxjax.contextual_matches, implementation=implementation)
    f = jax.jit(lambda x_mask, y_mask: matches(x, y, x_mask=x_mask, y_mask=y_mask))
    index, similarity = map(np.asarray, f(x_mask, y_mask))
    expected = oracle.pairwise_similarity(np.asarray(x)[x_mask], np.asarray(y)[y_mask])
    originals = np.flatnonzero(x_mask)
    np.testing.assert_array_equal(index[y_mask], originals[expected.argmax(axis=0)])
    np.testing.assert_allclose(similarity[y_mask], expected.max(axis=0), rtol=1e-3)
    np.testing.assert_array_equal(index[~y_mask], -1)
    np.testing.assert_array_equal(similarity[~y_mask], 0)
    index, similarity = f(np.zeros(8, bool), np.full(9, True))
    np.testing.assert_array_equal(index, np.full(9, -1))
    np.testing.assert_array_equal(similarity, np.zeros(9))
    index, similarity = jax.jit(lambda: matches(x, y, x_mask=np.zeros(8, bool)))()
    np.testing.assert_array_equal(index, np.full(9, -1))
    np.testing.assert_array_equal(similarity, np.zeros(9))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_loss_per_target_is_differentiable(key, implementation):
    with jax.enable_x64(True):
        x, y = points(key, 8, 9)
        f = functools.partial(cxjax.contextual_matches, implementation=implementation)
        mean = lambda x, y: -jnp.log(f(x, y)[1].mean())
        wanted = value_and_gradients(cxjax.contextual_loss, x, y)
        for actual, want in zip(value_and_gradients(mean, x, y), wanted, strict=True):
            np.testing.assert_allclose(actual, want, **FLOAT64)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masks_under_vmap(key, implementation):
    with jax.enable_x64(True):
        x, y = points(key, 8, 9)
        masks = np.arange(8)[None, :] < np.array([8, 5, 0])[:, None]
        f = functools.partial(cxjax.contextual_loss, implementation=implementation)
        one = lambda mask: jax.value_and_grad(f)(x, y, x_mask=mask)
        batched = jax.jit(jax.vmap(one))(masks)
        each = list(map(jax.jit(one), masks))
    for actual, want in zip(batched, zip(*each, strict=True), strict=True):
        np.testing.assert_allclose(actual, np.stack(want), **FLOAT64)
    values = np.asarray(batched[0])
    assert values[2] == 0 < values[0] < values[1]


# --- Centring ---


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_centering(key, implementation):
    x, y = points(key, 12, 9, dtype=jnp.float32)
    mean = np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    similarity = functools.partial(cxjax.contextual_similarity, implementation=implementation)
    f = lambda x, y, **options: jax.jit(functools.partial(similarity, **options))(x, y)
    values = [
        (f(x, y, centering="target"), oracle.similarity(x, y)),
        (f(x, y, centering="none"), oracle.similarity(x, y, mean=np.zeros(6))),
        (f(x, y, centering=mean), oracle.similarity(x, y, mean=mean)),
    ]
    assert len({round(wanted, 2) for _, wanted in values}) == 3
    for actual, wanted in values:
        np.testing.assert_allclose(actual, wanted, rtol=1e-4)
    loss = functools.partial(cxjax.contextual_loss, implementation=implementation, centering=mean)
    both = jax.jit(lambda x, y: (loss(x, y, direction="reverse"), loss(y, x)))
    np.testing.assert_allclose(*both(x, y), rtol=1e-6)
    for distance in ("l2", "l1"):
        np.testing.assert_allclose(
            f(x, y, centering=mean, distance=distance), f(x, y, distance=distance), rtol=1e-6
        )


def test_a_given_mean_is_differentiated(key):
    with jax.enable_x64(True):
        x, y = points(key, 12, 9)
        gradient = lambda f: jax.jit(jax.grad(f, (0, 1)))(x, y)
        wanted = gradient(lambda x, y: cxjax.contextual_loss(x, y))
        actual = gradient(lambda x, y: cxjax.contextual_loss(x, y, centering=y.mean(axis=0)))
        for a, w in zip(actual, wanted, strict=True):
            np.testing.assert_allclose(a, w, **FLOAT64)


# --- What a user can get wrong ---


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"x_mask": jnp.ones(4)},
            r"x_mask must have one entry per point.*\(3,\).*\(3, 4\).*\(4,\)",
        ),
        ({"y_mask": jnp.ones((5, 1))}, r"y_mask must have one entry per point.*got shape \(5, 1\)"),
        ({"x_mask": jnp.array([1.0, -1, 0])}, "x_mask must not be negative; .* is -1"),
        ({"x_mask": jnp.array([1.0, jnp.nan, 0])}, "x_mask must not be negative; .* is nan"),
        ({"x_mask": jnp.array([1.0, jnp.inf, 0])}, "x_mask must be finite; .* is inf"),
        ({"centering": [0.0, 1.0]}, r"floating mean of shape \(4,\).*got float64 of shape \(2,\)"),
        ({"distance": np.ones(3)}, "unknown distance array.*'cosine', 'l2', 'l1' or a function"),
        ({"axis_name": 3}, "axis_name must name a mesh axis.*got 3"),
        ({"y_mask": jnp.ones(5, complex)}, "y_mask must be boolean, or non-negative.*complex64"),
        ({"centering": "source"}, r"unknown centering 'source'.*'target', 'none' or a mean \(c,\)"),
        ({"centering": jnp.ones(3)}, r"floating mean of shape \(4,\).*got float32 of shape \(3,\)"),
        ({"centering": jnp.ones(4, int)}, r"floating mean.*got int32 of shape \(4,\)"),
        ({"axis_name": "i", "implementation": "reference"}, "axis_name needs .*'blockwise'"),
    ],
)
@pytest.mark.parametrize(
    "loss", [cxjax.contextual_similarity, cxjax.contextual_loss, cxjax.contextual_matches]
)
def test_wrong_masks_and_means_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(jnp.ones((3, 4)), jnp.ones((5, 4)), **options)
