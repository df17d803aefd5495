"""The discriminator of pix2pix and CycleGAN, which scores patches, not whole images.

Images are `(h w c)` or `(b h w c)` with values in [0, 1].
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.models.norm import InstanceNorm
from cxjax.options import check_integer
from cxjax.types import AnyArray


class PatchGAN(nn.Module):
    """A convolutional network with a score for each of many overlapping patches of an image.

    `layers` convolutions of stride 2, the first to `width` channels, each next one to twice as
    many, up to 8 times as many; one more of stride 1 with twice as many; and one to a single
    channel. All are 4 x 4 with a border of one zero. Between the first and the last comes an
    instance normalisation with a gain and a shift per channel; a leaky ReLU (0.2) follows all but
    the last. With 3 layers a score sees a patch of 70 pixels, with 2 one of 34, with 1 one of 16.

    The parameters are float32, and in groups `conv_1`, `norm_2`, `conv_2`, ...

    Attributes:
      width: Channels after the first convolution.
      layers: Number of convolutions of stride 2.
      dtype: Type to compute in, such as `jnp.bfloat16`. Without it, that of images and parameters,
        at least float32. The last convolution is computed in float32 in any case.

    Raises:
      ValueError: If `width` or `layers` is not positive.

    References:
      Isola, Zhu, Zhou and Efros, `Image-to-Image Translation with Conditional Adversarial Networks
      <https://arxiv.org/abs/1611.07004>`_, CVPR 2017; Zhu et al., `Unpaired Image-to-Image
      Translation using Cycle-Consistent Adversarial Networks <https://arxiv.org/abs/1703.10593>`_,
      ICCV 2017.
      Differs from the second: gain and shift in the normalisation in place of a bias before it,
      which it would remove.
    """

    width: int = 64
    layers: int = 3
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers at once, not at the first call."""
        for name in ("width", "layers"):
            check_integer(name, getattr(self, name))
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[AnyArray, "*b h w c"]) -> Float[Array, "*b y x"]:
        """Scores patches.

        Args:
          images: `(h w c)` or `(b h w c)`, floating point, values in [0, 1]; a condition, such as
            the image that was translated, stands in further channels.

        Returns:
          A score per patch, of any size, at least float32.

        Raises:
          ValueError: If the images are of another shape or not floating point, or smaller than
            `3 * 2 ** layers` pixels.
        """
        if images.ndim not in (3, 4) or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                "images must be (h w c) or (b h w c) and floating point, not "
                f"{images.shape} {images.dtype}"
            )
        height, width = images.shape[-3:-1]
        smallest = 3 * 2**self.layers  # each of the last two convolutions takes off a pixel
        if min(height, width) < smallest:
            raise ValueError(
                f"{self.layers} layers of stride 2 need images of at least {smallest} pixels; "
                f"these are {height} x {width}: take fewer layers, or enlarge them"
            )
        x = jnp.asarray(images if images.ndim == 4 else images[None])
        x = 2 * x.astype(jnp.promote_types(x.dtype, jnp.float32)) - 1
        for index in range(1, self.layers + 2):
            channels = self.width * min(2 ** (index - 1), 8)
            stride = 2 if index <= self.layers else 1
            x = nn.Conv(
                channels,
                (4, 4),
                strides=stride,
                padding=1,
                use_bias=index == 1,
                dtype=self.dtype,
                name=f"conv_{index}",
            )(x)
            if index > 1:
                x = InstanceNorm(name=f"norm_{index}")(x)
            x = nn.leaky_relu(x, 0.2)
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        x = nn.Conv(1, (4, 4), padding=1, dtype=dtype, name=f"conv_{self.layers + 2}")(x)
        return x[..., 0].reshape(*images.shape[:-3], *x.shape[1:3])


def small(**changes: Any) -> PatchGAN:
    """A network for images of 64 pixels, which two cores can train.

    Args:
      **changes: Fields of `PatchGAN` that are to differ from `width=32, layers=2`.

    Returns:
      The network.

    Raises:
      ValueError: As `PatchGAN`.
    """
    return PatchGAN(**{"width": 32, "layers": 2, **changes})
