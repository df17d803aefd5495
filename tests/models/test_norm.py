import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from cxjax.models.norm import GroupNorm, InstanceNorm
from tests.models import oracle

PLAIN = {"params": {"scale": np.ones(6, np.float32), "bias": np.zeros(6, np.float32)}}


@jax.jit
def _pull_back(variables, x, cotangent):
    value, pullback = jax.vjp(lambda x: InstanceNorm().apply(variables, x), x)
    return value, pullback(cotangent)[0]


@pytest.fixture
def maps():
    generator = np.random.default_rng(0)
    spread, centre = generator.uniform(0.5, 4, (2, 1, 1, 6)), generator.normal(0, 4, (2, 1, 1, 6))
    return spread * generator.normal(size=(2, 9, 8, 6)) + centre


@pytest.mark.parametrize("group_size", [1, 2, 3, 6])
def test_matches_numpy(maps, group_size):
    generator = np.random.default_rng(1)
    layer = {"scale": generator.uniform(0.5, 2, 6), "bias": generator.normal(size=6)}
    expected = np.stack([oracle.normalize(x, layer, group_size) for x in maps])
    with jax.enable_x64(True):
        normal = GroupNorm(group_size=group_size).apply({"params": layer}, jnp.asarray(maps))
    np.testing.assert_allclose(normal, expected, rtol=0, atol=1e-12)


def test_instance_normalisation_is_of_groups_of_one_channel(maps):
    maps = jnp.asarray(maps, jnp.float32)
    expected = GroupNorm(group_size=1).apply(PLAIN, maps)
    np.testing.assert_array_equal(InstanceNorm().apply(PLAIN, maps), expected)
    assert InstanceNorm().init(jax.random.key(0), maps).keys() == PLAIN.keys()


def test_the_size_of_a_group_is_not_taken_for_the_number_of_groups(unchecked_types):
    with pytest.raises(TypeError, match="positional"):
        GroupNorm(1)


def test_one_group_has_the_statistics_of_a_layer_normalisation(maps):
    normal = np.asarray(GroupNorm(group_size=6).apply(PLAIN, jnp.asarray(maps, jnp.float32)))
    np.testing.assert_allclose(normal.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(normal.std((1, 2, 3)), 1, atol=1e-5)
    assert np.abs(normal.mean((1, 2))).min() > 0.01  # and not that of each channel
    assert np.abs(normal.mean(3)).max() > 0.1  # or of each pixel


def test_gradient_matches_finite_differences(maps):
    with jax.enable_x64(True):
        weight = np.random.default_rng(1).normal(size=maps.shape)

        def loss(x, scale):
            params = {"scale": scale, "bias": jnp.zeros(6)}
            return jnp.sum(weight * GroupNorm(group_size=2).apply({"params": params}, x))

        arguments = jnp.asarray(maps), jnp.linspace(0.5, 1.5, 6)
        jax.test_util.check_grads(jax.jit(loss), arguments, order=1, modes=["rev"], eps=1e-6)


def test_statistics_of_half_precision_are_computed_in_single(maps):
    half = jnp.asarray(maps + 30, jnp.bfloat16)
    normal = GroupNorm(group_size=6).apply(PLAIN, half)
    exact = GroupNorm(group_size=6).apply(PLAIN, half.astype(jnp.float32))
    assert normal.dtype == jnp.bfloat16
    np.testing.assert_array_equal(normal, exact.astype(jnp.bfloat16))


# Channels enough that the plain mean of equal numbers is off by more than rounding in some.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_flat_channel_becomes_0_and_passes_no_gradient_on(dtype, rounded):
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(1, 64, 64, 32))
    flat = generator.normal(size=32).reshape(1, 1, 1, 32).astype(dtype)
    own, sums = (noise > 0) * float(jnp.finfo(dtype).eps), 1e-6 * noise
    x = jnp.asarray(np.float64(flat) * (1 + rounded * own) + rounded * sums, dtype)
    variables = {"params": {"scale": np.ones(32, np.float32), "bias": np.zeros(32, np.float32)}}
    value, gradient = _pull_back(variables, x, jnp.asarray(noise, dtype))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, 0)


def test_a_single_pixel_of_the_least_contrast_is_not_flat():
    x = np.full((1, 64, 64, 6), 0.9, np.float32)
    x[0, 3, 4] += 1 / 255
    value, gradient = _pull_back(PLAIN, x, x * x)
    assert value[0, 3, 4].min() > 1
    assert np.abs(gradient).max() > 1
