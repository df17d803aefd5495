"""A U-Net: an encoder, a decoder, and between them the maps of every size.

Images are `(h w 3)` or `(b h w 3)`, RGB with values in [0, 1].
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.models.images import as_batch, crop, double, pad_to_multiple
from cxjax.models.norm import GroupNorm
from cxjax.options import check_integer
from cxjax.types import AnyArray


class UNet(nn.Module):
    """U-Net with group normalisation, whose images do not depend on the others of the batch.

    At each of `levels` sizes two convolutions, whose maps go to the decoder and, averaged 2 x 2,
    to the next size; two convolutions at the bottom; and back up, each size enlarged by repeating
    pixels, beside the encoder's maps, through two convolutions. A convolution is 3 x 3 without
    bias, followed by a group normalisation and a ReLU. A 1 x 1 convolution makes RGB of the last
    maps, and x of it is the value (x + 1) / 2: unbounded, as in `CRN`, and no residual.

    The parameters are float32, and in groups `down_1`, ..., `bottom`, ..., `up_1`, `out`.

    Attributes:
      width: Channels at the image's own size. Each halving doubles them, up to 8 times as many.
      levels: Number of halvings.
      dtype: Type to compute in, such as `jnp.bfloat16`. Without it, that of images and parameters,
        at least float32. Statistics and the last convolution are computed in float32 in any case:
        half a colour would be seen as bands.

    Raises:
      ValueError: If `width` or `levels` is not positive.

    References:
      Ronneberger, Fischer and Brox, `U-Net: Convolutional Networks for Biomedical Image
      Segmentation <https://arxiv.org/abs/1505.04597>`_, MICCAI 2015; Wu and He, `Group
      Normalization <https://arxiv.org/abs/1803.08494>`_, ECCV 2018.
      Differs from the first: padded convolutions, so that the size is kept; normalisation; average
      in place of maximum pooling; repeated pixels and a convolution in place of a transposed
      convolution, which leaves checkerboards; at most 8 times the channels.
    """

    width: int = 64
    levels: int = 4
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses a network without channels or levels at once, not at the first call."""
        for name in ("width", "levels"):
            check_integer(name, getattr(self, name))
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[AnyArray, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
        """Makes an image of each image.

        Args:
          images: `(h w 3)` or `(b h w 3)`, floating point, RGB in [0, 1]; each is computed by
            itself. Sides that `2 ** levels` does not divide are padded with their border pixels,
            and the result is cropped.

        Returns:
          As many images of the same size, at least float32. They are not clipped: clip them to
          [0, 1] to show them, not to train.

        Raises:
          ValueError: If the images are of another shape or not floating point, or smaller than
            `2 ** levels` pixels.
        """
        multiple = 2**self.levels
        batch = as_batch(images, smallest=multiple, remedy=f"take fewer levels than {self.levels}")
        x = pad_to_multiple(2 * batch - 1, multiple)
        channels = [self.width * min(2**level, 8) for level in range(self.levels + 1)]
        skips = []
        for level in range(self.levels):
            x = _Module(channels[level], self.dtype, name=f"down_{level + 1}")(x)
            skips.append(x)
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = _Module(channels[-1], self.dtype, name="bottom")(x)
        for level in reversed(range(self.levels)):
            x = jnp.concatenate([double(x), skips[level]], axis=-1)
            x = _Module(channels[level], self.dtype, name=f"up_{level + 1}")(x)
        x = crop(x, *batch.shape[1:3])
        x = nn.Conv(3, (1, 1), dtype=jnp.promote_types(x.dtype, jnp.float32), name="out")(x)
        return ((x + 1) / 2).reshape(images.shape)


class _Module(nn.Module):
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in (1, 2):
            name = f"conv_{index}"
            x = nn.Conv(self.channels, (3, 3), use_bias=False, dtype=self.dtype, name=name)(x)
            x = GroupNorm(group_size=math.gcd(self.channels, 16), name=f"norm_{index}")(x)
            x = nn.relu(x)
        return x


def small(**changes: Any) -> UNet:
    """A network for images of 128 pixels, which two cores can train.

    Args:
      **changes: Fields of `UNet` that are to differ from `width=24`.

    Returns:
      The network.

    Raises:
      ValueError: As `UNet`.
    """
    return UNet(**{"width": 24, **changes})
