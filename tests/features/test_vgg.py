import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from cxjax.features.vgg import (
    KERAS_STATISTICS,
    MATCONVNET_STATISTICS,
    TORCHVISION_STATISTICS,
    VGG,
    convolution_shapes,
    layer_names,
)
from tests.features import vgg_oracle

STATISTICS = {
    "torchvision": TORCHVISION_STATISTICS,
    "matconvnet": MATCONVNET_STATISTICS,
    "keras": KERAS_STATISTICS,
}


def _variables(network, weights):
    named = zip(vgg_oracle.names(network), weights, strict=True)
    return {"params": {name: {"kernel": k, "bias": jnp.asarray(b)} for name, (k, b) in named}}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(model, variables, images, layers):
    return model.apply(variables, images, layers=layers)


def _assert_close(actual, expected):
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    assert (np.asarray(expected) > 0.1 * scale).mean() > 0.01  # a dead layer would agree with all
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5 * scale)


@pytest.fixture(scope="module")
def shallow(vgg16_weights):
    return _variables("vgg16", vgg16_weights)


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_every_layer_matches_numpy(request, image, network):
    weights = request.getfixturevalue(f"{network}_weights")
    expected = vgg_oracle.forward(network, weights, vgg_oracle.prepare(image, "torchvision"))
    names = layer_names(network)
    assert set(names) == set(expected)
    features = _apply(VGG(network=network), _variables(network, weights), image, names)
    assert set(features) == set(names)
    for name in names:
        _assert_close(features[name], expected[name])


@pytest.mark.parametrize("padding", ["zero", "edge"])
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_pooling_and_padding_match_numpy(vgg16_weights, shallow, image, pooling, padding):
    expected = vgg_oracle.forward(
        "vgg16",
        vgg16_weights,
        vgg_oracle.prepare(image, "torchvision"),
        pooling,
        edge_first=padding == "edge",
    )
    model = VGG(network="vgg16", pooling=pooling, padding=padding)
    features = _apply(model, shallow, image, ("conv1_1", "conv3_1", "pool3"))
    for name, value in features.items():
        _assert_close(value, expected[name])


@pytest.mark.parametrize("convention", ["torchvision", "matconvnet", "keras"])
def test_input_statistics_match_the_files_makers(vgg16_weights, shallow, image, convention):
    prepared = vgg_oracle.prepare(image, convention)
    expected = vgg_oracle.forward("vgg16", vgg16_weights, prepared)
    model = VGG(network="vgg16", statistics=STATISTICS[convention])
    features = _apply(model, shallow, image, ("conv1_1_pre", "conv2_2"))
    for name, value in features.items():
        _assert_close(value, expected[name])


def test_keys_are_the_names_asked_for_in_their_order(shallow, image):
    layers = ("relu2_1", "conv1_1_pre", "conv2_1", "pool1")
    features = VGG(network="vgg16").apply(shallow, image, layers=layers)
    assert tuple(features) == layers
    np.testing.assert_array_equal(features["relu2_1"], features["conv2_1"])
    assert features["conv1_1_pre"].min() < 0 <= features["conv2_1"].min()


@pytest.mark.parametrize(
    ("layer", "convolutions", "pools"),
    [
        ("conv1_1_pre", 1, 0),
        ("conv1_2", 2, 0),
        ("pool1", 2, 1),
        ("relu3_2", 6, 2),
        ("pool5", 16, 5),
    ],
)
def test_stops_at_the_deepest_layer_asked_for(vgg19_weights, image, layer, convolutions, pools):
    variables = _variables("vgg19", vgg19_weights)
    jaxpr = jax.make_jaxpr(lambda x: VGG().apply(variables, x, layers=("conv1_1", layer)))(image)
    counted = [equation.primitive.name for equation in jaxpr.eqns]
    assert counted.count("conv_general_dilated") == convolutions
    assert counted.count("reduce_window_max") == pools


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_recomputed_blocks_give_the_same_and_keep_less(shallow, image, pooling):
    images = jnp.stack([jnp.asarray(image), jnp.asarray(image)[::-1]])
    layers = ("conv1_2_pre", "conv2_1", "relu3_1", "pool3")

    def features(remat):
        model = VGG(network="vgg16", pooling=pooling, remat=remat)
        return lambda variables, images: model.apply(variables, images, layers=layers)

    def kept(remat):  # bytes that wait for the backward pass, parameters aside
        pull = jax.eval_shape(
            lambda x: jax.vjp(lambda x: features(remat)(shallow, x), x)[1], images
        )
        known = {leaf.shape for leaf in jax.tree.leaves(shallow)}
        leaves = [leaf for leaf in jax.tree.leaves(pull) if leaf.shape not in known]
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    @functools.partial(jax.jit, static_argnums=0)
    def run(remat, variables, images):
        found, pull = jax.vjp(features(remat), variables, images)
        return found, pull(jax.tree.map(jnp.sin, found))

    (plain, of_plain), (again, of_again) = run(False, shallow, images), run(True, shallow, images)
    assert list(again) == list(plain)
    for one, other in zip(
        jax.tree.leaves((plain, of_plain)), jax.tree.leaves((again, of_again)), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    assert kept(True) < 0.4 * kept(False)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: features(True)(shallow, x)["pool3"].sum()))(images)
    assert str(jaxpr).count("remat2[") + str(jaxpr).count("checkpoint[") >= 3


def test_only_the_parameters_up_to_the_deepest_layer_are_needed(shallow, image):
    params = {name: shallow["params"][name] for name in ("conv1_1", "conv1_2", "conv2_1")}
    VGG(network="vgg16").apply({"params": params}, image, layers=("conv2_1",))


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_init_makes_all_parameters(key, network):
    variables = jax.eval_shape(VGG(network=network).init, key, jnp.zeros((16, 17, 3)))
    weights = vgg_oracle.random_weights(network)
    expected = dict(zip(vgg_oracle.names(network), weights, strict=True))
    assert set(variables["params"]) == set(expected)
    for name, layer in variables["params"].items():
        assert layer["kernel"].shape == expected[name][0].shape == convolution_shapes(network)[name]
        assert layer["bias"].shape == expected[name][1].shape


def test_batched_and_mapped_images_give_what_each_gives(shallow, image):
    apply = functools.partial(VGG(network="vgg16").apply, shallow, layers=("conv2_2",))
    images = np.stack([image, image[::-1], 1 - image])
    alone = np.stack([apply(x)["conv2_2"] for x in images])
    np.testing.assert_allclose(apply(images)["conv2_2"], alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(apply)(images)["conv2_2"], alone, rtol=1e-5, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_gradient_matches_finite_differences(vgg16_weights, pooling):
    with jax.enable_x64(True):
        variables = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64), _variables("vgg16", vgg16_weights)
        )
        image = jax.random.uniform(jax.random.key(3), (5, 6, 3), jnp.float64)
        weight = jax.random.normal(jax.random.key(4), (2, 3, 128), jnp.float64)
        model = VGG(network="vgg16", pooling=pooling, padding="edge")

        def loss(x):
            return jnp.sum(weight * _apply(model, variables, x, ("conv2_1",))["conv2_1"])

        assert jnp.abs(jax.grad(loss)(image)).max() > 1e-2
        # A small step: beyond it ReLUs switch.
        jax.test_util.check_grads(loss, (image,), order=1, modes=["rev"], eps=1e-7, rtol=1e-5)


def test_l2_pooling_has_a_finite_gradient_where_all_is_zero(shallow):
    params = {
        name: {"kernel": layer["kernel"], "bias": jnp.full_like(layer["bias"], -1e3)}
        for name, layer in shallow["params"].items()
    }
    model = VGG(network="vgg16", pooling="l2")

    def loss(x):
        return model.apply({"params": params}, x, layers=("pool1",))["pool1"].sum()

    # The ReLU before would hide a NaN in the result, but not from somebody who looks for NaNs.
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(loss)(jnp.full((4, 4, 3), 0.5))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_l2_pooling_does_not_overflow_in_half_precision(shallow):
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.float16), shallow)
    model = VGG(network="vgg16", pooling="l2", statistics=MATCONVNET_STATISTICS)
    image = jnp.ones((8, 8, 3), jnp.float16)
    features = model.apply(half, image, layers=("conv1_2", "pool1"))
    assert features["pool1"].dtype == jnp.float16
    assert features["conv1_2"].max() > 256  # whose square float16 does not hold
    assert jnp.isfinite(features["pool1"]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_images_are_computed_in_the_parameters_float32(shallow, image, dtype):
    features = VGG(network="vgg16").apply(shallow, jnp.asarray(image, dtype), layers=("conv2_1",))
    exact = VGG(network="vgg16").apply(shallow, image, layers=("conv2_1",))["conv2_1"]
    assert features["conv2_1"].dtype == jnp.float32
    np.testing.assert_allclose(features["conv2_1"], exact, rtol=0, atol=0.02 * exact.max())


def test_half_images_are_centred_in_float32(shallow, image):
    """In bfloat16 255 x - 124 would be right to 0.5; here it is right to 1 % of a small range."""
    model = VGG(network="vgg16", statistics=MATCONVNET_STATISTICS)
    mean = np.float32([0.485, 0.458, 0.408])
    half = jnp.asarray(mean + 0.02 * (image - image.mean((0, 1))), jnp.bfloat16)
    features = model.apply(shallow, half, layers=("conv1_1_pre",))["conv1_1_pre"]
    exact = model.apply(shallow, half.astype(jnp.float32), layers=("conv1_1_pre",))["conv1_1_pre"]
    np.testing.assert_allclose(features, exact, rtol=0, atol=0.01 * np.abs(exact).max())


def test_float64_images_stay_float64(shallow, image):
    with jax.enable_x64(True):
        features = VGG(network="vgg16").apply(shallow, np.float64(image), layers=("conv1_1",))
    assert features["conv1_1"].dtype == np.float64


@pytest.mark.parametrize(
    ("layer", "smallest"), [("conv1_2", 1), ("pool1", 2), ("conv3_3", 4), ("conv5_1", 16)]
)
def test_images_down_to_the_smallest_are_taken_and_below_it_refused(shallow, layer, smallest):
    apply = functools.partial(VGG(network="vgg16").apply, shallow, layers=("conv1_1", layer))
    features = jax.eval_shape(apply, jnp.ones((smallest, smallest, 3)))
    assert features[layer].shape[:2] == (1, 1)
    if smallest > 1:
        message = (
            f"'{layer}' needs .* {smallest} x {smallest} .* are {smallest + 3} x {smallest - 1}"
        )
        with pytest.raises(ValueError, match=message):
            apply(jnp.ones((smallest + 3, smallest - 1, 3)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("conv3_4",), r"vgg16 has no layer 'conv3_4'; its layers: conv1_1_pre, conv1_1,.*, pool5"),
        (("conv1_1", "fc6"), "vgg16 has no layer 'fc6'"),
        (("conv1_1", "conv2_1", "conv1_1"), "names 'conv1_1' more than once"),
        ((), "layers is empty"),
        ("conv1_1", r"\('conv1_1',\), not the string"),
    ],
)
def test_wrong_layers_are_refused(shallow, image, layers, message):
    with pytest.raises(ValueError, match=message):
        VGG(network="vgg16").apply(shallow, image, layers=layers)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((8, 3), np.float32), r"\(h w 3\) or \(b h w 3\).*\(8, 3\)"),
        (np.ones((1, 1, 8, 8, 3), np.float32), r"\(1, 1, 8, 8, 3\)"),
        (np.ones((8, 8, 4), np.float32), r"RGB last; theirs is \(8, 8, 4\)"),
        (np.ones((3, 8, 8), np.float32), r"\(3, 8, 8\)"),
        (np.ones((8, 8, 3), np.uint8), "uint8; divide 8-bit images by 255"),
    ],
)
def test_wrong_images_are_refused(unchecked_types, shallow, wrap, images, message):
    apply = functools.partial(VGG(network="vgg16").apply, shallow, layers=("conv1_1",))
    with pytest.raises(ValueError, match=message):
        wrap(apply)(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "vgg11"}, "network 'vgg11'; known: 'vgg16', 'vgg19'"),
        ({"pooling": "mean"}, "pooling 'mean'; known: 'max', 'average', 'l2'"),
        ({"padding": "same"}, "padding 'same'; known: 'zero', 'edge'"),
    ],
)
def test_unknown_options_are_refused_at_once(unchecked_types, options, message):
    with pytest.raises(ValueError, match=message):
        VGG(**options)
