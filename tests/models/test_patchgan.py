import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxjax.models import patchgan
from tests.models import oracle


def _convolve(x, layer, stride):
    kernel = np.float64(layer["kernel"])
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = ((side - 4) // stride + 1 for side in x.shape[:2])
    out = np.empty((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + 4, j * stride : j * stride + 4]
            out[i, j] = np.tensordot(patch, kernel, 3)
    return out + layer.get("bias", 0)


def _variables(model, channels):
    given = lambda key, image: model.init(key, jnp.zeros((*image.shape[:-1], channels)))
    return oracle.random_parameters(type("Given", (), {"init": staticmethod(given)}))


@pytest.mark.parametrize(("layers", "channels"), [(1, 3), (2, 6)])
def test_matches_numpy(layers, channels):
    model = patchgan.PatchGAN(width=2, layers=layers)
    variables = _variables(model, channels)
    images = np.random.default_rng(1).uniform(size=(2, 21, 26, channels))
    with jax.enable_x64(True):
        scores = jax.jit(model.apply)(jax.tree.map(np.float64, variables), images)
    params = variables["params"]
    for image, found in zip(images, scores, strict=True):
        x = 2 * image - 1
        for index in range(1, layers + 2):
            x = _convolve(x, params[f"conv_{index}"], 2 if index <= layers else 1)
            if index > 1:
                x = oracle.normalize(x, params[f"norm_{index}"], 1)
            x = np.where(x > 0, x, 0.2 * x)
        expected = _convolve(x, params[f"conv_{layers + 2}"], 1)[..., 0]
        assert expected.std() > 0.02
        np.testing.assert_allclose(found, expected, atol=1e-9)
    alone = jax.jit(model.apply)(variables, np.float32(images[0]))
    np.testing.assert_allclose(alone, scores[0], atol=1e-4)


def test_has_the_layers_and_the_size_of_the_published_network(key):
    params = jax.eval_shape(patchgan.PatchGAN().init, key, jnp.zeros((256, 256, 3)))["params"]
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    gains_and_shifts = 2 * (128 + 256 + 512)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == convolutions + gains_and_shifts
    score = jax.eval_shape(patchgan.PatchGAN().apply, {"params": params}, jnp.zeros((256, 256, 3)))
    assert score.shape == (30, 30)  # of the patches of 70 pixels


def test_what_cannot_be_judged_is_refused(key, unchecked_types):
    model = patchgan.small()
    with pytest.raises(ValueError, match=r"at least 12 pixels; these are 11 x 40"):
        model.init(key, jnp.zeros((11, 40, 3)))
    assert model.init_with_output(key, jnp.zeros((12, 40, 3)))[0].shape == (1, 8)
    with pytest.raises(ValueError, match=r"floating point, not \(40, 40, 3\) uint8"):
        model.init(key, jnp.zeros((40, 40, 3), jnp.uint8))
    with pytest.raises(ValueError, match="layers must be a positive integer; got 0"):
        patchgan.PatchGAN(layers=0)
