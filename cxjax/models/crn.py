"""The cascaded refinement network that the Contextual Loss paper trains.

Images are `(h w 3)` or `(b h w 3)`, RGB with values in [0, 1].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.models.images import as_batch, resize
from cxjax.models.norm import GroupNorm
from cxjax.options import check_integer
from cxjax.types import AnyArray

_COARSEST = 4  # width at the first level of an image of the network's own size
_WIDE = 128  # from this width on there are half as many channels


class CRN(nn.Module):
    """Cascaded refinement network: the image from coarse to fine, each level seeing the input.

    The first module sees the input averaged down to a few pixels; every other one sees the input
    at twice that size, and what the module before has made, enlarged (bilinear, corners aligned).
    A module is twice a 3 x 3 convolution without bias, a layer normalisation over height, width
    and channels with a gain and a shift per channel, and a leaky ReLU of slope 0.2. A 1 x 1
    convolution makes RGB of the last module's features, and x of it is the value (x + 1) / 2.

    The network has an own width, `4 * 2 ** (levels - 1)`, after whose levels the modules are
    called: `module_4`, `module_8`, and so on; but it takes images of any size and shape. Level k
    from the last is `ceil(h / 2 ** k)` by `ceil(w / 2 ** k)`, the last one the image itself.

    The parameters are float32, and in groups `module_4`, ..., `out`.

    Attributes:
      levels: Number of modules. The default 7 is for images about 256 pixels wide, 6 for 128.
      reduction: Divisor r of the channels, which are 1024 / r in modules narrower than 128 and
        512 / r in the others, rounded down. The paper's "smaller CRN" has 2 and 24.28 million
        parameters (with 7 levels), the original 1 and 96.92 million.
      dtype: Type to compute in, such as `jnp.bfloat16`. Without it, that of images and parameters,
        at least float32. Statistics and the last convolution are computed in float32 in any case:
        half a colour would be seen as bands.

    Raises:
      ValueError: If `levels` is not positive, or `reduction` leaves no channel.

    References:
      Chen and Koltun, `Photographic Image Synthesis with Cascaded Refinement Networks
      <https://arxiv.org/abs/1707.09405>`_, ICCV 2017; Mechrez et al., `The Contextual Loss for
      Image Transformation with Non-Aligned Data <https://arxiv.org/abs/1803.02077>`_, ECCV 2018.
      Differs from the authors' code: the input is centred, 255 x - 127.5 in place of 255 x; the
      layer normalisation is `GroupNorm` with one group, its epsilon 1e-5; the levels follow from
      the image, in place of a width and a ratio.
    """

    levels: int = 7
    reduction: int = 2
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses a network without modules or channels at once, not at the first call."""
        check_integer("levels", self.levels)
        if not 1 <= self.reduction <= 512:
            raise ValueError(f"reduction must be from 1 to 512, not {self.reduction}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[AnyArray, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
        """Makes an image of each image.

        Args:
          images: `(h w 3)` or `(b h w 3)`, floating point, RGB in [0, 1]; each is computed by
            itself.

        Returns:
          As many images of the same size, at least float32. They are not clipped: clip them to
          [0, 1] to show them, not to train.

        Raises:
          ValueError: If the images are of another shape or not floating point, or smaller than
            `2 ** (levels - 1)` pixels.
        """
        remedy = f"take fewer levels than {self.levels}"
        batch = as_batch(images, smallest=2 ** (self.levels - 1), remedy=remedy)
        # The authors' range: beside features of size 1 it decides how much a module heeds the
        # image. Unlike theirs it is centred, so that black is not 0, which would leave a black
        # frame without any feature, and zeros around the image are grey. Small networks learned
        # the identity better so: L1 0.030 after 300 steps, 0.038 uncentred (0.029 with 2 x - 1).
        inputs = 255 * batch - 127.5
        height, width = batch.shape[1:3]
        x = None
        for level in range(self.levels):
            shrink = 2 ** (self.levels - 1 - level)
            size = -(-height // shrink), -(-width // shrink)
            seen = resize(inputs, size, method="area")
            if x is not None:
                x = resize(x, size, method="bilinear")
                seen = jnp.concatenate([x, seen.astype(x.dtype)], axis=-1)
            nominal = _COARSEST * 2**level
            channels = (1024 if nominal < _WIDE else 512) // self.reduction
            x = _Module(channels, self.dtype, name=f"module_{nominal}")(seen)
        assert x is not None  # there is a level
        x = _convolution(3, 1, jnp.promote_types(x.dtype, jnp.float32), bias=True, name="out")(x)
        return ((x + 1) / 2).reshape(images.shape)


class _Module(nn.Module):
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index in (1, 2):
            x = _convolution(self.channels, 3, self.dtype, bias=False, name=f"conv_{index}")(x)
            x = GroupNorm(group_size=self.channels, name=f"norm_{index}")(x)
            x = nn.leaky_relu(x, 0.2)
        return x


def _convolution(channels: int, size: int, dtype: Any, *, bias: bool, name: str) -> nn.Conv:
    init = nn.initializers.glorot_uniform()  # TF-Slim's default, and so the authors'
    return nn.Conv(channels, (size, size), dtype=dtype, use_bias=bias, kernel_init=init, name=name)


def small(**changes: Any) -> CRN:
    """A network of 0.65 million parameters for images of 128 pixels, which two cores can train.

    Args:
      **changes: Fields of `CRN` that are to differ from `levels=6, reduction=12`.

    Returns:
      The network.

    Raises:
      ValueError: As `CRN`.
    """
    return CRN(**{"levels": 6, "reduction": 12, **changes})
