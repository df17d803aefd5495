"""The formats in which VGG16 and VGG19 weights are published, and their porting to ours."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from cxjax.features.pickles import open_flax_pickle, open_torch
from cxjax.features.readers import Entry, open_keras, open_matlab, open_safetensors
from cxjax.features.vgg import (
    KERAS_STATISTICS,
    MATCONVNET_STATISTICS,
    TORCHVISION_STATISTICS,
    InputStatistics,
    Network,
    convolution_shapes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How one kind of file holds a network.

    Attributes:
      open: Opens a file as a table of entries.
      keys: Keys of kernel and bias for each convolution, given the network and the file's keys.
      kernel_axes: Order of the kernels' axes in the file.
      statistics: What these weights expect of their input.
    """

    open: Callable[[Path], contextlib.AbstractContextManager[Mapping[str, Entry]]]
    keys: Callable[[Network, Collection[str]], dict[str, tuple[str, str]]]
    kernel_axes: Literal["oihw", "hwio"]
    statistics: InputStatistics


def read_weights(
    path: Path, network: Network
) -> tuple[dict[str, dict[str, np.ndarray]], InputStatistics]:
    """Reads a network's convolutions from a file of any of the known formats.

    Args:
      path: The file; its ending names the format (`FORMATS`).
      network: The network that it is to hold.

    Returns:
      `{"conv1_1": {"kernel": (3 3 in out), "bias": (out)}, ...}` in float32, and what the weights
      expect of their input.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it is damaged, or holds something else than is asked for.
      ImportError: If the package that reads the format is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} ends in {path.suffix!r}; known endings: {', '.join(FORMATS)}")
    weights = {}
    with kind.open(path) as entries:
        keys = _check_keys(path, kind, network, entries)
        for name, shape in convolution_shapes(network).items():
            height, width, channels, features = shape
            kernel_key, bias_key = keys[name]
            if kind.kernel_axes == "oihw":
                kernel = _read(path, entries, kernel_key, (features, channels, height, width))
                kernel = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
            else:
                kernel = _read(path, entries, kernel_key, shape)
            bias = _read(path, entries, bias_key, (features,))
            weights[name] = {"kernel": kernel, "bias": bias}
    return weights, kind.statistics


def torchvision_keys(network: Network) -> dict[str, tuple[str, str]]:
    """Keys of the convolutions in torchvision's and timm's files: places in a `Sequential`.

    Args:
      network: `"vgg16"` or `"vgg19"`.

    Returns:
      Keys of kernel and bias for each convolution.
    """
    keys, place, last_block = {}, 0, "1"
    for name in convolution_shapes(network):
        block = name[len("conv")]
        place += block != last_block  # the pool between them
        last_block = block
        keys[name] = (f"features.{place}.weight", f"features.{place}.bias")
        place += 2  # itself and its ReLU
    return keys


def _flax_keys(network: Network, _: Collection[str]) -> dict[str, tuple[str, str]]:
    names = convolution_shapes(network)
    layers = [f"{network.upper()}_0/Conv_{index}" for index in range(len(names))]
    return {
        name: (f"{layer}/kernel", f"{layer}/bias")
        for name, layer in zip(names, layers, strict=True)
    }


def _matlab_keys(network: Network, _: Collection[str]) -> dict[str, tuple[str, str]]:
    return {name: (f"{name} weights", f"{name} biases") for name in convolution_shapes(network)}


def _keras_keys(network: Network, entries: Collection[str]) -> dict[str, tuple[str, str]]:
    newer = any(key.endswith("/kernel:0") for key in entries)  # since Keras 2
    kernel, bias = ("/kernel:0", "/bias:0") if newer else ("_W_1:0", "_b_1:0")
    keys = {}
    for name in convolution_shapes(network):
        layer = name.replace("conv", "block").replace("_", "_conv")
        keys[name] = (f"{layer}/{layer}{kernel}", f"{layer}/{layer}{bias}")
    return keys


def _check_keys(
    path: Path, kind: Format, network: Network, entries: Mapping[str, Entry]
) -> dict[str, tuple[str, str]]:
    """The file's keys; refuses a file of the other network, and one that lacks something."""
    keys = kind.keys(network, entries)
    own = [key for pair in keys.values() for key in pair]
    (other,) = (name for name in get_args(Network) if name != network)
    others = [key for pair in kind.keys(other, entries).values() for key in pair]
    has_own = any(key in entries for key in own if key not in others)
    if all(key in entries for key in others) and not has_own:
        raise ValueError(f"{path} holds the weights of {other}, not of {network}")
    for key in own:
        if key not in entries:
            some = ", ".join(list(entries)[:4]) or "nothing"
            raise ValueError(f"{path} has no {key!r}, which {network} needs; it holds {some}, ...")
    for key in others:
        if key in entries and key not in own:  # else 19 layers would pass for 16
            raise ValueError(f"{path} holds {key!r} too, which {network} does not have")
    return keys


def _read(path: Path, entries: Mapping[str, Entry], key: str, shape: tuple[int, ...]) -> np.ndarray:
    if entries[key].shape != shape:
        raise ValueError(
            f"{key!r} in {path} has shape {entries[key].shape}; it should have {shape}"
        )
    array = entries[key].read()
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{key!r} in {path} is {array.dtype}; weights are floating point")
    return np.array(array, np.float32, order="C")


_TORCH = Format(
    open=open_torch,
    keys=lambda network, _: torchvision_keys(network),
    kernel_axes="oihw",
    statistics=TORCHVISION_STATISTICS,
)
_KERAS = Format(open=open_keras, keys=_keras_keys, kernel_axes="hwio", statistics=KERAS_STATISTICS)
FORMATS = {
    ".safetensors": dataclasses.replace(_TORCH, open=open_safetensors),
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".mat": Format(
        open=open_matlab, keys=_matlab_keys, kernel_axes="hwio", statistics=MATCONVNET_STATISTICS
    ),
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".ckpt": Format(
        open=open_flax_pickle,
        keys=_flax_keys,
        kernel_axes="hwio",
        statistics=TORCHVISION_STATISTICS,
    ),
}
