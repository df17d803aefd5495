"""VGG16 and VGG19 as feature extractors: images in, the features of named layers out.

Images are `(h w 3)` or `(b h w 3)`, RGB with values in [0, 1]. What the weights were trained on
(scale, mean, channel order) is the `InputStatistics` that the module carries, so a caller never
deals with it.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.options import check_images, check_option
from cxjax.types import AnyArray

Network = Literal["vgg16", "vgg19"]
Pooling = Literal["max", "average", "l2"]
Padding = Literal["zero", "edge"]

# Convolutions per block (configurations D and E, Table 1 of the paper), and their width.
_DEPTHS: dict[str, tuple[int, ...]] = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)
_LAST = 9  # the index of a pool, behind all convolutions of its block


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """What a set of weights expects of its input, as a map from RGB in [0, 1].

    The network sees `(scale * image - mean) / std`, then in `channel_order`.

    Attributes:
      scale: Factor that takes [0, 1] to the range of `mean`: 1 or 255.
      mean: Mean per channel, red, green, blue, in units of the scaled image.
      std: Standard deviation per channel, red, green, blue, in units of the scaled image.
      channel_order: `"rgb"`, or `"bgr"` for weights trained on images read by OpenCV or Caffe.
    """

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"


TORCHVISION_STATISTICS = InputStatistics(
    scale=1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
MATCONVNET_STATISTICS = InputStatistics(scale=255.0, mean=(123.68, 116.779, 103.939))
KERAS_STATISTICS = dataclasses.replace(MATCONVNET_STATISTICS, channel_order="bgr")


def convolution_shapes(network: Network) -> dict[str, tuple[int, int, int, int]]:
    """Names of a network's convolutions in order, with the shapes of their kernels.

    Args:
      network: `"vgg16"` or `"vgg19"`.

    Returns:
      Name to (height, width, channels in, channels out), `conv1_1` first.

    Raises:
      ValueError: If `network` is neither.
    """
    check_option("network", network, Network)
    shapes, channels = {}, 3
    for name in _stages(network):
        if name.startswith("conv"):
            block, _ = _depth(name)
            width = _WIDTHS[block - 1]
            shapes[name] = (3, 3, channels, width)
            channels = width
    return shapes


def layer_names(network: Network) -> tuple[str, ...]:
    """All names that `layers` may hold, shallowest first.

    Args:
      network: `"vgg16"` or `"vgg19"`.

    Returns:
      For each convolution `conv{block}_{index}_pre`, `conv{block}_{index}` and
      `relu{block}_{index}`, and after each block `pool{block}`.

    Raises:
      ValueError: If `network` is neither.
    """
    check_option("network", network, Network)
    names: list[str] = []
    for name in _stages(network):
        if name.startswith("conv"):
            names += [f"{name}_pre", name, name.replace("conv", "relu")]
        else:
            names.append(name)
    return tuple(names)


def check_known_layers(layers: Sequence[str], network: Network) -> None:
    """Refuses layers that a network does not have.

    Args:
      layers: Names.
      network: `"vgg16"` or `"vgg19"`.

    Raises:
      ValueError: If one is not of `layer_names(network)`; the message lists these.
    """
    known = layer_names(network)
    for name in layers:
        if name not in known:
            raise ValueError(f"{network} has no layer {name!r}; its layers: {', '.join(known)}")


class VGG(nn.Module):
    """The convolutions of VGG16 or VGG19, which return the features of the layers asked for.

    `load_vgg` makes one together with trained parameters. The parameters are
    `{"params": {"conv1_1": {"kernel": (3 3 in out), "bias": (out)}, ...}}`. Values are computed in
    the dtype that images and parameters promote to (at least float32 unless both are half), with
    the precision that `jax.default_matmul_precision` sets.

    Attributes:
      network: `"vgg16"` or `"vgg19"`.
      pooling: What is taken of each 2 x 2 cell, at stride 2 (an odd last row or column is
        dropped): `"max"` as trained, `"average"` as in the Contextual Loss's code, or `"l2"`,
        the root of the mean square.
      padding: `"zero"`, as trained, pads the input of every convolution with zeros. `"edge"` pads
        the image, the input of `conv1_1`, by repeating its border pixels, and every other
        convolution with zeros: the border of an image that is optimised then shows no frame.
      statistics: What the parameters expect of their input. It belongs to the parameters and has
        nothing to do with `pooling`.
      remat: Whether gradients compute the activations of each block again, by `jax.checkpoint`, in
        place of keeping them: the same values, less memory, the time of one more forward pass.
        XLA's compiler for CPUs undoes it.

    References:
      Simonyan and Zisserman, `Very Deep Convolutional Networks for Large-Scale Image Recognition
      <https://arxiv.org/abs/1409.1556>`_, 2014, Table 1, columns D and E.
    """

    network: Network = "vgg19"
    pooling: Pooling = "max"
    padding: Padding = "zero"
    statistics: InputStatistics = TORCHVISION_STATISTICS
    remat: bool = False

    def __post_init__(self) -> None:
        """Refuses an unknown option at once, not at the first call."""
        check_option("network", self.network, Network)
        check_option("pooling", self.pooling, Pooling)
        check_option("padding", self.padding, Padding)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Float[AnyArray, "*b h w 3"], *, layers: Sequence[str] | None = None
    ) -> dict[str, Float[Array, "..."]]:
        """Computes the features of the named layers, and nothing deeper than the deepest.

        Args:
          images: `(h w 3)` or `(b h w 3)`, floating point, RGB in [0, 1]. Values outside are not
            refused: they cannot be seen while tracing, and an optimiser may pass through them.
          layers: Names out of `layer_names(network)`. `conv3_2` and `relu3_2` are both the output
            after the ReLU, as in the papers' code; `conv3_2_pre` is the one before it; `pool3` is
            what block 4 sees. Without it, every `conv{block}_{index}`.

        Returns:
          Features `(.. h w c)` by name, with the names and the order of `layers`. Height and
          width are those of the image, halved `block - 1` times and rounded down.

        Raises:
          ValueError: If the images are of another shape or not floating point, or too small for
            a layer; if `layers` is empty, or names a layer twice or one that does not exist.
        """
        if layers is None:
            layers = tuple(convolution_shapes(self.network))
        _check_layers(layers, self.network)
        _check_images(images, layers)
        last = max(map(_depth, layers))
        run = nn.remat(VGG._block, static_argnums=(2, 3)) if self.remat else VGG._block
        features: dict[str, jax.Array] = {}
        x = _normalize(jnp.asarray(images), self.statistics)
        stages = [name for name in _stages(self.network) if _depth(name) <= last]
        for _, block in itertools.groupby(stages, key=lambda name: _depth(name)[0]):
            x, of_block = run(self, x, tuple(block), frozenset(layers))
            features |= of_block
        return {name: features[name] for name in layers}

    def _block(
        self, x: jax.Array, stages: tuple[str, ...], layers: frozenset[str]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The output of some convolutions and pools, and what of them is among the layers."""
        features: dict[str, jax.Array] = {}
        for name in stages:
            if name.startswith("conv"):
                features[f"{name}_pre"] = self._convolve(x, name)
                x = nn.relu(features[f"{name}_pre"])
                features[name.replace("conv", "relu")] = x
            else:
                x = _pool(x, self.pooling)
            features[name] = x
        return x, {name: value for name, value in features.items() if name in layers}

    def _convolve(self, x: jax.Array, name: str) -> jax.Array:
        width = _WIDTHS[_depth(name)[0] - 1]
        if self.padding == "edge" and name == "conv1_1":
            border = ((0, 0),) * (x.ndim - 3) + ((1, 1), (1, 1), (0, 0))
            return nn.Conv(width, (3, 3), padding="VALID", name=name)(jnp.pad(x, border, "edge"))
        return nn.Conv(width, (3, 3), padding="SAME", name=name)(x)


def _stages(network: Network) -> list[str]:
    """The convolutions and the pools in the order of the computation."""
    stages = []
    for block, depth in enumerate(_DEPTHS[network], start=1):
        stages += [f"conv{block}_{index}" for index in range(1, depth + 1)] + [f"pool{block}"]
    return stages


def _depth(name: str) -> tuple[int, int]:
    """Block and index of a layer, which order the layers."""
    if name.startswith("pool"):
        return int(name.removeprefix("pool")), _LAST
    block, index = name.removesuffix("_pre")[len("conv") :].split("_")  # relu is as long
    return int(block), int(index)


def _check_layers(layers: Sequence[str], network: Network) -> None:
    if isinstance(layers, str):
        raise ValueError(f"layers must be several names, ({layers!r},), not the string {layers!r}")
    if not layers:
        raise ValueError("layers is empty; name at least one, such as ('conv3_2',)")
    check_known_layers(layers, network)
    if len(set(layers)) < len(layers):
        twice = next(name for name in layers if list(layers).count(name) > 1)
        raise ValueError(f"layers names {twice!r} more than once: {tuple(layers)}")


def _check_images(images: AnyArray, layers: Sequence[str]) -> None:
    check_images(images)
    height, width = images.shape[-3:-1]
    for name in layers:
        block, index = _depth(name)
        smallest = 2**block if index == _LAST else 2 ** (block - 1)
        if min(height, width) < smallest:
            raise ValueError(
                f"layer {name!r} needs images of at least {smallest} x {smallest} pixels; "
                f"these are {height} x {width}"
            )


def _normalize(images: jax.Array, statistics: InputStatistics) -> jax.Array:
    dtype = jnp.promote_types(images.dtype, jnp.float32)  # 255 * x - mean in half loses the image
    shape = (1,) * (images.ndim - 1) + (3,)
    mean = jnp.asarray(statistics.mean, dtype).reshape(shape)
    std = jnp.asarray(statistics.std, dtype).reshape(shape)
    x = (statistics.scale * images.astype(dtype) - mean) / std
    if statistics.channel_order == "bgr":
        x = x[..., ::-1]
    return x.astype(images.dtype)


def _pool(x: jax.Array, pooling: Pooling) -> jax.Array:
    if pooling == "max":
        return nn.max_pool(x, (2, 2), strides=(2, 2))
    if pooling == "average":
        return nn.avg_pool(x, (2, 2), strides=(2, 2))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # squares overflow float16
    mean = nn.avg_pool(wide * wide, (2, 2), strides=(2, 2))
    positive = mean > 0  # the root's slope at 0 is infinite; where all four are 0, it is to be 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, mean, 1.0)), 0.0).astype(x.dtype)
