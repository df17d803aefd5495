import jax.numpy as jnp
import numpy as np
import pytest

from cxjax.models.images import as_batch, crop, double, pad_to_multiple, resize
from tests.models import oracle

ORACLES = {"area": oracle.area, "bilinear": oracle.bilinear}


@pytest.fixture
def maps():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 10, 3)), jnp.float32)


@pytest.mark.parametrize("method", ["area", "bilinear"])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (7, 9), (14, 10), (13, 21)])
def test_resizing_matches_numpy(maps, method, size):
    expected = np.stack([ORACLES[method](x, *size) for x in np.float64(maps)])
    np.testing.assert_allclose(resize(maps, size, method=method), expected, rtol=0, atol=1e-6)
    one = resize(maps[0], size, method=method)
    np.testing.assert_allclose(one, expected[0], rtol=0, atol=1e-6)


def test_bilinear_resizing_starts_from_a_single_pixel(maps):
    enlarged = resize(maps[:, :1, :1], (2, 3), method="bilinear")
    np.testing.assert_array_equal(enlarged, jnp.tile(maps[:, :1, :1], (1, 2, 3, 1)))


def test_area_resizing_by_a_whole_number_takes_the_means_of_blocks(maps):
    blocks = maps[:, :6].reshape(2, 2, 3, 5, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(maps[:, :6], (2, 5), method="area"), blocks, atol=1e-6)


def test_resizing_keeps_the_type_and_refuses_an_unknown_method(maps, unchecked_types):
    half = resize(maps.astype(jnp.bfloat16), (14, 5), method="bilinear")
    assert half.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="unknown method 'cubic'; known: 'area', 'bilinear'"):
        resize(maps, (3, 3), method="cubic")


def test_doubling_repeats_each_pixel(maps):
    np.testing.assert_array_equal(double(maps), maps.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize(("multiple", "border"), [(1, (0, 0, 0, 0)), (4, (0, 1, 1, 1))])
def test_padding_repeats_the_border_and_cropping_takes_it_off(maps, multiple, border):
    top, bottom, left, right = border
    expected = np.pad(maps, ((0, 0), (top, bottom), (left, right), (0, 0)), "edge")
    padded = pad_to_multiple(maps, multiple)
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(crop(padded, 7, 10), maps)


def test_an_image_becomes_a_batch_of_at_least_single_precision(maps):
    half = as_batch(maps[0].astype(jnp.bfloat16), smallest=1, remedy="")
    assert half.shape == (1, 7, 10, 3)
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(as_batch(maps, smallest=7, remedy=""), maps)
