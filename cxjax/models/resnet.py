"""The residual generator of Johnson et al. in the form that CycleGAN gave it.

Images are `(h w 3)` or `(b h w 3)`, RGB with values in [0, 1].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.models.images import as_batch, crop, double, pad_to_multiple
from cxjax.models.norm import InstanceNorm
from cxjax.options import check_integer
from cxjax.types import AnyArray

_SMALLEST = 8  # two pixels at a quarter of the size: what a reflection needs


class ResNet(nn.Module):
    """Residual generator: two halvings, residual blocks at a quarter of the size, two doublings.

    A 7 x 7 convolution to `width` channels; two 3 x 3 convolutions of stride 2, each doubling the
    channels; `blocks` times two 3 x 3 convolutions whose result is added to their input; two
    doublings of the size by repeated pixels, each followed by a 3 x 3 convolution that halves the
    channels; a 7 x 7 convolution to RGB, and x of it is the value (tanh(x) + 1) / 2. Each
    convolution reflects its input at the border; each but the last has no bias and is followed by
    an instance normalisation with a gain and a shift per channel, and, but for the second one of a
    block, by a ReLU.

    The parameters are float32, and in groups `first`, `down_1`, `down_2`, `block_1`, ..., `up_2`,
    `up_1`, `last`.

    Attributes:
      width: Channels at the image's own size.
      blocks: Number of residual blocks. CycleGAN takes 9 for images of 256 pixels, 6 for 128.
      dtype: Type to compute in, such as `jnp.bfloat16`. Without it, that of images and parameters,
        at least float32. Statistics and the last convolution are computed in float32 in any case:
        half a colour would be seen as bands.

    Raises:
      ValueError: If `width` is not positive, or `blocks` negative.

    References:
      Johnson, Alahi and Fei-Fei, `Perceptual Losses for Real-Time Style Transfer and
      Super-Resolution <https://arxiv.org/abs/1603.08155>`_, ECCV 2016; Zhu et al., `Unpaired
      Image-to-Image Translation using Cycle-Consistent Adversarial Networks
      <https://arxiv.org/abs/1703.10593>`_, ICCV 2017.
      Differs from the second: repeated pixels and a convolution in place of transposed
      convolutions, which leave checkerboards; reflection in place of zeros where the size changes;
      gain and shift in the normalisation in place of a bias before it, which it would remove.
    """

    width: int = 64
    blocks: int = 9
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers at once, not at the first call."""
        check_integer("width", self.width)
        check_integer("blocks", self.blocks, least=0)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[AnyArray, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
        """Makes an image of each image.

        Args:
          images: `(h w 3)` or `(b h w 3)`, floating point, RGB in [0, 1]; each is computed by
            itself. Sides that 4 does not divide are padded with their border pixels, and the
            result is cropped.

        Returns:
          As many images of the same size with values in [0, 1], at least float32.

        Raises:
          ValueError: If the images are of another shape or not floating point, or smaller than 8
            pixels.
        """
        batch = as_batch(images, smallest=_SMALLEST, remedy="")
        x = pad_to_multiple(2 * batch - 1, 4)
        x = _Layer(self.width, self.dtype, size=7, name="first")(x)
        for level in (1, 2):
            channels = self.width * 2**level
            x = _Layer(channels, self.dtype, stride=2, name=f"down_{level}")(x)
        for index in range(1, self.blocks + 1):
            x = _Block(4 * self.width, self.dtype, name=f"block_{index}")(x)
        for level in (2, 1):
            channels = self.width * 2 ** (level - 1)
            x = _Layer(channels, self.dtype, name=f"up_{level}")(double(x))
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        x = nn.Conv(3, (7, 7), padding="VALID", dtype=dtype, name="last")(_reflect(x, 3))
        return crop((jnp.tanh(x) + 1) / 2, *batch.shape[1:3]).reshape(images.shape)


class _Layer(nn.Module):
    channels: int
    dtype: Any
    size: int = 3
    stride: int = 1
    active: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.channels,
            (self.size, self.size),
            strides=self.stride,
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(_reflect(x, self.size // 2))
        x = InstanceNorm(name="norm")(x)
        return nn.relu(x) if self.active else x


class _Block(nn.Module):
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        change = _Layer(self.channels, self.dtype, name="layer_1")(x)
        return x + _Layer(self.channels, self.dtype, active=False, name="layer_2")(change)


def _reflect(x: jax.Array, border: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), "reflect")


def small(**changes: Any) -> ResNet:
    """A network for images of 128 pixels, which two cores can train.

    Args:
      **changes: Fields of `ResNet` that are to differ from `width=32, blocks=4`.

    Returns:
      The network.

    Raises:
      ValueError: As `ResNet`.
    """
    return ResNet(**{"width": 32, "blocks": 4, **changes})
