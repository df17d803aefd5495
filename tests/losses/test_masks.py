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


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("distance", [*DISTANCES, "own"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_masked_point_takes_no_part_whatever_stands_in_it(
    key, implementation, distance, direction
):
    if distance == "own":
        distance = lambda x, y: jnp.square(x[:, None] - y[None]).sum(axis=-1) ** 0.75
    with jax.enable_x64(True):
        x, y = points(key, 13, 11)
        x_mask = jnp.arange(13) % 3 != 0  # not the first: a tie with its stand-in would hide it
        y_mask = jnp.arange(11) % 4 != 0
        # As near as can be to the others, and NaN, and infinite.
        x = x.at[3].set(y[3]).at[0].set(jnp.nan).at[6].set(jnp.inf)
        y = y.at[0].set(x[1]).at[4].set(jnp.nan).at[8].set(-jnp.inf)
        loss = functools.partial(
            cxjax.contextual_loss,
            direction=direction,
            distance=distance,
            implementation=implementation,
            **OPTIONS,
        )
        masked = functools.partial(loss, x_mask=x_mask, y_mask=y_mask)
        value, *gradients = value_and_gradients(masked, x, y)
        wanted, *wanted_gradients = value_and_gradients(loss, x[x_mask], y[y_mask])
        assert wanted > 0.1
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want, mask in zip(gradients, wanted_gradients, (x_mask, y_mask), strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient[mask], want, **FLOAT64)
            np.testing.assert_array_equal(gradient[~mask], jnp.zeros_like(gradient[~mask]))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_weight_is_a_multiplicity(key, implementation, distance, direction):
    with jax.enable_x64(True):
        x, y = points(key, 10, 9)
        x_counts, y_counts = np.arange(10) % 4, (np.arange(9) + 2) % 3 + 1
        x_from, y_from = (np.repeat(np.arange(len(c)), c) for c in (x_counts, y_counts))
        loss = functools.partial(
            cxjax.contextual_loss,
            direction=direction,
            distance=distance,
            implementation=implementation,
            **OPTIONS,
        )
        weighted = functools.partial(loss, x_mask=x_counts.astype(float), y_mask=y_counts)
        value, *gradients = value_and_gradients(weighted, x, y)
        # A gather adds the gradients of the copies up. Copies of a row share its maxima: the lowest
        # takes them, and the sum over copies is the same.
        repeated = lambda x, y: loss(x[x_from], y[y_from])
        wanted, *wanted_gradients = value_and_gradients(repeated, x, y)
        plain = loss(x, y)
        assert np.abs(plain - wanted) > 1e-3
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want in zip(gradients, wanted_gradients, strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_source_weight_says_only_whether_it_is_there(key, implementation):
    x, y = points(key, 10, 9, dtype=jnp.float32)
    f = functools.partial(cxjax.contextual_similarity, implementation=implementation)
    weights = jnp.linspace(0, 3, 10)
    np.testing.assert_array_equal(f(x, y, x_mask=weights), f(x, y, x_mask=weights > 0))
    assert f(x, y, x_mask=weights > 2) < f(x, y)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_set_has_no_loss_and_no_gradient(key, implementation, distance, direction):
    x, y = points(key, 7, 5, dtype=jnp.float32)
    x, y = x.at[2].set(jnp.nan), y.at[2].set(jnp.nan)
    f = functools.partial(
        cxjax.contextual_loss,
        direction=direction,
        distance=distance,
        implementation=implementation,
    )

    @jax.jit
    def run(x_there, y_there):
        masks = {"x_mask": x_there & (jnp.arange(7) != 2), "y_mask": y_there & (jnp.arange(5) != 2)}
        return jax.value_and_grad(functools.partial(f, **masks), (0, 1))(x, y)

    assert run(True, True)[0] > 0.1
    for there in ((False, True), (True, False), (False, False)):
        value, gradients = run(*there)
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_set_spares_the_other_the_derivative_of_a_distance(key, implementation):
    # Of a caller's own, which divides by a norm: the empty set's points are zeros.
    distance = lambda x, y: 1 - (x @ y.T) / jnp.linalg.norm(x, axis=1)[:, None]
    x, y = points(key, 7, 5, dtype=jnp.float32)
    f = functools.partial(cxjax.contextual_loss, distance=distance, implementation=implementation)
    for masks in ({"x_mask": jnp.zeros(7, bool)}, {"y_mask": jnp.zeros(5, bool)}):
        value, *gradients = value_and_gradients(functools.partial(f, **masks), x, y)
        assert value == 0
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_a_traced_negative_weight_counts_as_none(key):
    x, y = points(key, 7, 5, dtype=jnp.float32)
    f = jax.jit(lambda mask: cxjax.contextual_loss(x, y, y_mask=mask))
    weights = jnp.array([1.0, -2, 3, 1, -1])
    assert f(weights) == f(jnp.maximum(weights, 0))
    assert jnp.isnan(f(weights.at[0].set(jnp.nan)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_matches_of_masked_points(key, implementation):
    x, y = points(key, 8, 9, dtype=jnp.float32)
    x_mask, y_mask = jnp.arange(8) != 3, jnp.arange(9) % 2 == 0
    f = functools.partial(cxjax.contextual_matches, implementation=implementation)
    index, similarity = f(x, y, x_mask=x_mask, y_mask=y_mask)
    expected = oracle.pairwise_similarity(x[x_mask], y[y_mask])
    originals = np.flatnonzero(x_mask)
    np.testing.assert_array_equal(index[y_mask], originals[expected.argmax(axis=0)])
    np.testing.assert_allclose(similarity[y_mask], expected.max(axis=0), rtol=1e-3)
    np.testing.assert_array_equal(index[~y_mask], jnp.full(4, -1))
    np.testing.assert_array_equal(similarity[~y_mask], jnp.zeros(4))
    index, similarity = f(x, y, x_mask=jnp.zeros(8, bool))
    np.testing.assert_array_equal(index, jnp.full(9, -1))
    np.testing.assert_array_equal(similarity, jnp.zeros(9))


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
    x, y = points(key, 8, 9, dtype=jnp.float32)
    masks = jnp.arange(8)[None, :] < jnp.array([8, 5, 0])[:, None]
    f = functools.partial(cxjax.contextual_loss, implementation=implementation)
    batched = jax.vmap(lambda mask: jax.value_and_grad(f)(x, y, x_mask=mask))(masks)
    each = [jax.value_and_grad(f)(x, y, x_mask=mask) for mask in masks]
    for actual, want in zip(batched, zip(*each, strict=True), strict=True):
        np.testing.assert_allclose(actual, jnp.stack(want), rtol=1e-5, atol=1e-7)
    assert batched[0][2] == 0 < batched[0][0] < batched[0][1]


# --- Centring ---


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_centering(key, implementation):
    x, y = points(key, 12, 9, dtype=jnp.float32)
    mean = jnp.linspace(-0.5, 0.5, 6)
    f = functools.partial(cxjax.contextual_similarity, implementation=implementation)
    values = [
        (f(x, y, centering="target"), oracle.similarity(x, y)),
        (f(x, y, centering="none"), oracle.similarity(x, y, mean=np.zeros(6))),
        (f(x, y, centering=mean), oracle.similarity(x, y, mean=mean)),
    ]
    assert len({round(wanted, 2) for _, wanted in values}) == 3
    for actual, wanted in values:
        np.testing.assert_allclose(actual, wanted, rtol=1e-4)
    loss = functools.partial(cxjax.contextual_loss, implementation=implementation, centering=mean)
    np.testing.assert_allclose(loss(x, y, direction="reverse"), loss(y, x), rtol=1e-6)
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
