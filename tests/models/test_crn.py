import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxjax.models.crn import CRN
from tests.models import oracle


def _numpy_crn(params, image, sizes):
    """The network as the papers describe it, widths 4, 8, ... in the modules' names."""
    seen, x = 255 * image - 127.5, None
    for level, size in enumerate(sizes):
        module = params[f"module_{4 * 2**level}"]
        small = oracle.area(seen, *size)
        x = small if x is None else np.concatenate([oracle.bilinear(x, *size), small], axis=-1)
        for index in (1, 2):
            x = oracle.convolve(x, module[f"conv_{index}"])
            x = oracle.normalize(x, module[f"norm_{index}"], x.shape[-1])
            x = np.where(x > 0, x, 0.2 * x)
    return (oracle.convolve(x, params["out"]) + 1) / 2


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((11, 18), [(3, 5), (6, 9), (11, 18)]), ((16, 12), [(4, 3), (8, 6), (16, 12)])],
)
def test_matches_numpy(shape, sizes):
    model = CRN(levels=3, reduction=150)
    variables = oracle.random_parameters(model)
    image = np.random.default_rng(1).uniform(size=(*shape, 3))
    expected = _numpy_crn(variables["params"], image, sizes)
    with jax.enable_x64(True):
        made = jax.jit(model.apply)(jax.tree.map(np.float64, variables), image)
    assert made.dtype == np.float64
    assert expected.min() < 0  # and not clipped
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("reduction", "millions"), [(2, 24.28), (1, 96.92)])
def test_has_the_published_number_of_parameters(key, reduction, millions):
    image = jnp.zeros((256, 256, 3))
    params = jax.eval_shape(CRN(reduction=reduction).init, key, image)["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == millions
    assert set(params) == {f"module_{4 * 2**level}" for level in range(7)} | {"out"}
    channels = {
        name: module["norm_2"]["bias"].size for name, module in params.items() if name != "out"
    }
    assert channels["module_4"] == channels["module_64"] == 1024 // reduction
    assert channels["module_128"] == channels["module_256"] == 512 // reduction
