import jax
import jax.numpy as jnp
import numpy as np

from cxjax.models.resnet import ResNet
from tests.models import oracle


def _numpy_resnet(params, image, border):
    def layer(x, weights, stride=1):
        x = oracle.convolve(x, weights["conv"], stride=stride, mode="reflect")
        return oracle.normalize(x, weights["norm"], 1)

    x = np.pad(2 * image - 1, (*border, (0, 0)), "edge")
    x = np.maximum(layer(x, params["first"]), 0)
    for name in ("down_1", "down_2"):
        x = np.maximum(layer(x, params[name], stride=2), 0)
    for name in ("block_1", "block_2"):
        change = np.maximum(layer(x, params[name]["layer_1"]), 0)
        x = x + layer(change, params[name]["layer_2"])
    for name in ("up_2", "up_1"):
        x = np.maximum(layer(np.kron(x, np.ones((2, 2, 1))), params[name]), 0)
    x = np.tanh(oracle.convolve(x, params["last"], mode="reflect"))
    (top, bottom), (left, right) = border
    return (x[top : x.shape[0] - bottom, left : x.shape[1] - right] + 1) / 2


def test_matches_numpy():
    model = ResNet(width=3, blocks=2)
    variables = oracle.random_parameters(model)
    image = np.random.default_rng(1).uniform(size=(9, 14, 3))
    expected = _numpy_resnet(variables["params"], image, ((1, 2), (1, 1)))
    with jax.enable_x64(True):
        made = jax.jit(model.apply)(jax.tree.map(np.float64, variables), image)
    assert made.dtype == np.float64
    assert expected.std() > 0.1
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-9)


def test_has_the_layers_and_the_size_of_the_nine_block_network(key):
    params = jax.eval_shape(ResNet().init, key, jnp.zeros((256, 256, 3)))["params"]
    blocks = {f"block_{index}" for index in range(1, 10)}
    assert set(params) == {"first", "down_1", "down_2", *blocks, "up_2", "up_1", "last"}
    convolutions = 147 * 64 + 9 * (64 * 128 + 128 * 256) * 2 + 18 * 9 * 256**2 + 147 * 64 + 3
    gains_and_shifts = 2 * (64 + 128 + 256 + 18 * 256 + 128 + 64)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == convolutions + gains_and_shifts
