import jax
import jax.numpy as jnp
import numpy as np

from cxjax.models.unet import UNet
from tests.models import oracle


def _numpy_unet(params, image, border, group_sizes):
    def module(x, name):
        for index in (1, 2):
            x = oracle.convolve(x, params[name][f"conv_{index}"])
            x = oracle.normalize(x, params[name][f"norm_{index}"], group_sizes[name])
            x = np.maximum(x, 0)
        return x

    first = module(np.pad(2 * image - 1, (*border, (0, 0)), "edge"), "down_1")
    second = module(oracle.area(first, first.shape[0] // 2, first.shape[1] // 2), "down_2")
    x = module(oracle.area(second, second.shape[0] // 2, second.shape[1] // 2), "bottom")
    x = module(np.concatenate([np.kron(x, np.ones((2, 2, 1))), second], axis=-1), "up_2")
    x = module(np.concatenate([np.kron(x, np.ones((2, 2, 1))), first], axis=-1), "up_1")
    (top, bottom), (left, right) = border
    x = x[top : x.shape[0] - bottom, left : x.shape[1] - right]
    return (oracle.convolve(x, params["out"]) + 1) / 2


def test_matches_numpy():
    model = UNet(width=12, levels=2)  # 12, 24 and 48 channels
    variables = oracle.random_parameters(model)
    image = np.random.default_rng(1).uniform(size=(9, 14, 3))
    sizes = {"down_1": 4, "down_2": 8, "bottom": 16, "up_2": 8, "up_1": 4}
    expected = _numpy_unet(variables["params"], image, ((1, 2), (1, 1)), sizes)
    with jax.enable_x64(True):
        made = jax.jit(model.apply)(jax.tree.map(np.float64, variables), image)
    assert made.dtype == np.float64
    assert expected.min() < 0  # and not clipped
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-9)


def test_channels_double_up_to_eight_times(key):
    params = jax.eval_shape(UNet(width=4, levels=5).init, key, jnp.zeros((32, 32, 3)))["params"]
    channels = {
        name: module["norm_1"]["scale"].size for name, module in params.items() if name != "out"
    }
    expected = {"down_1": 4, "down_2": 8, "down_3": 16, "down_4": 32, "down_5": 32, "bottom": 32}
    expected |= {f"up_{level}": expected[f"down_{level}"] for level in range(1, 6)}
    assert channels == expected
