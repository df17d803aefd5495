"""What holds of every generator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxjax.models import crn, patchgan, resnet, unet
from cxjax.training import records
from tests.models import oracle

MODULES = {"crn": crn, "unet": unet, "resnet": resnet}
TINY = {
    "crn": crn.CRN(levels=3, reduction=200),
    "unet": unet.UNet(width=4, levels=2),
    "resnet": resnet.ResNet(width=4, blocks=1),
}
RESNET_LAYERS = ("first", "down_1", "down_2", "block_1/layer_1", "block_1/layer_2", "up_2", "up_1")
every_model = pytest.mark.parametrize("name", list(TINY))


@functools.cache
def _parameters(name):
    return oracle.random_parameters(TINY[name])


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, variables, images):
    return model.apply(variables, images)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model, variables, images, cotangent):
    return jax.grad(lambda v: jnp.sum(cotangent * model.apply(v, images)))(variables)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(2, 13, 10, 3)).astype(np.float32)


@every_model
def test_each_image_of_a_batch_is_computed_by_itself(name, images):
    batch = _apply(TINY[name], _parameters(name), images)
    assert batch.shape == images.shape
    alone = _apply(TINY[name], _parameters(name), images[0])
    np.testing.assert_allclose(batch[0], alone, rtol=0, atol=1e-5)
    assert np.abs(batch[0] - batch[1]).max() > 0.01
    images[1] = 1 - images[1] ** 2
    np.testing.assert_array_equal(_apply(TINY[name], _parameters(name), images)[0], batch[0])


def _norms(*names):
    return {f"{name}/norm_{index}" for name in names for index in (1, 2)}


# Saved states are read by these names.
@pytest.mark.parametrize(
    ("model", "convolutions", "norms"),
    [
        (
            TINY["crn"],
            {f"module_{width}/conv_{index}" for width in (4, 8, 16) for index in (1, 2)} | {"out"},
            _norms("module_4", "module_8", "module_16"),
        ),
        (
            TINY["unet"],
            {
                *(
                    f"{part}_{level}/conv_{i}"
                    for part in ("down", "up")
                    for level in (1, 2)
                    for i in (1, 2)
                ),
                *("bottom/conv_1", "bottom/conv_2", "out"),
            },
            _norms("down_1", "down_2", "bottom", "up_1", "up_2"),
        ),
        (
            TINY["resnet"],
            {f"{part}/conv" for part in RESNET_LAYERS} | {"last"},
            {f"{part}/norm" for part in RESNET_LAYERS},
        ),
        (
            patchgan.PatchGAN(width=4, layers=2),
            {"conv_1", "conv_2", "conv_3", "conv_4"},
            {"norm_2", "norm_3"},
        ),
    ],
    ids=["crn", "unet", "resnet", "patchgan"],
)
def test_the_parameters_keep_their_names(model, convolutions, norms):
    names = records.flatten(jax.eval_shape(model.init, jax.random.key(0), np.zeros((32, 32, 3))))
    with_bias = {"out", "last", "conv_1", "conv_4"} & convolutions
    expected = {f"params/{name}/kernel" for name in convolutions}
    expected |= {f"params/{name}/{kind}" for name in norms for kind in ("scale", "bias")}
    assert set(names) == expected | {f"params/{name}/bias" for name in with_bias}


@every_model
def test_half_precision_is_close_and_its_images_are_not_in_bands(name, images):
    model = TINY[name].clone(dtype=jnp.bfloat16)
    exact = _apply(TINY[name], _parameters(name), images)
    half = _apply(model, _parameters(name), images)
    assert half.dtype == exact.dtype == jnp.float32
    error = np.abs(half - exact)
    assert 1e-4 < error.mean() < 0.02
    assert error.max() < 0.1
    assert (half != half.astype(jnp.bfloat16)).mean() > 0.5
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}


@every_model
def test_every_parameter_has_a_gradient_and_a_flat_image_a_bounded_one(name, images):
    cotangent = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    variables = _parameters(name)
    gradient = _gradient(TINY[name], variables, images, cotangent)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert 0 < jnp.abs(leaf).max() < 1e3, jax.tree_util.keystr(path)
    for grey in (0, 0.3, 0.5, 1):
        flat = np.full_like(images, grey)
        for leaf in jax.tree.leaves(_gradient(TINY[name], variables, flat, cotangent)):
            assert jnp.abs(leaf).max() < 1e3, grey


@every_model
def test_half_images_are_computed_in_single_precision(name, images):
    half = jax.eval_shape(TINY[name].apply, _parameters(name), jnp.asarray(images, jnp.bfloat16))
    assert half.dtype == jnp.float32


@every_model
@pytest.mark.parametrize("size", [(8, 8), (9, 31)])
def test_images_keep_their_size(name, size):
    for shape in ((*size, 3), (3, *size, 3)):
        made = jax.eval_shape(TINY[name].apply, _parameters(name), np.ones(shape, np.float32))
        assert made.shape == shape


@pytest.mark.parametrize(
    ("model", "smallest", "remedy"),
    [
        (crn.CRN(levels=5), 16, "enlarge them or take fewer levels than 5$"),
        (unet.UNet(levels=3), 8, "enlarge them or take fewer levels than 3$"),
        (resnet.ResNet(), 8, "enlarge them$"),
    ],
)
def test_images_down_to_the_smallest_are_taken_and_below_it_refused(model, smallest, remedy, key):
    jax.eval_shape(model.init, key, np.ones((smallest, smallest, 3), np.float32))
    message = (
        f"(?m){smallest} x {smallest} pixels; these are {smallest + 3} x {smallest - 1}: {remedy}"
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, key, np.ones((smallest + 3, smallest - 1, 3), np.float32))


@every_model
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((16, 3), np.float32), r"\(h w 3\) or \(b h w 3\).*\(16, 3\)"),
        (np.ones((1, 1, 16, 16, 3), np.float32), r"\(1, 1, 16, 16, 3\)"),
        (np.ones((16, 16, 4), np.float32), r"RGB last; theirs is \(16, 16, 4\)"),
        (np.ones((16, 16, 3), np.uint8), "uint8; divide 8-bit images by 255"),
    ],
)
def test_wrong_images_are_refused(unchecked_types, key, name, images, message):
    with pytest.raises(ValueError, match=message):
        TINY[name].init(key, images)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crn", {"levels": 0}, "levels must be a positive integer; got 0"),
        ("crn", {"reduction": 0}, "reduction must be from 1 to 512, not 0"),
        ("crn", {"reduction": 513}, "reduction must be from 1 to 512, not 513"),
        ("unet", {"width": 0}, "width must be a positive integer; got 0"),
        ("unet", {"levels": 0}, "levels must be a positive integer; got 0"),
        ("resnet", {"width": 0}, "width must be a positive integer; got 0"),
        ("resnet", {"blocks": -1}, "blocks must be an integer of at least 0; got -1"),
    ],
)
def test_impossible_numbers_are_refused_at_once(name, options, message):
    with pytest.raises(ValueError, match=message):
        MODULES[name].small(**options)


@pytest.mark.parametrize(
    ("name", "parameters"), [("crn", 647_837), ("unet", 2_757_075), ("resnet", 1_376_067)]
)
def test_the_small_networks_take_changes(key, name, parameters):
    shapes = jax.eval_shape(MODULES[name].small().init, key, np.ones((128, 128, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    half = MODULES[name].small(dtype=jnp.bfloat16)
    assert half == MODULES[name].small().clone(dtype=jnp.bfloat16)
    with pytest.raises(TypeError, match="depth"):
        MODULES[name].small(depth=3)
