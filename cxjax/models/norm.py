"""The normalisation of all generators."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPSILON = 1e-5
_SUMS = 1e-5  # rounding of the sums that made a value, as a share of the values of the layer


class GroupNorm(nn.Module, kw_only=True):
    """Group normalisation: each group of channels of each image to mean 0 and variance 1.

    Mean and variance are over height, width and the group's channels, then comes a gain and a shift
    per channel. With all channels in one group it is layer normalisation.

    A group that does not vary but by rounding, such as a channel of a one-coloured image, becomes
    its shift and passes no gradient on. Its gradient would be divided by the root of epsilon, and
    over the ten or twenty normalisations of a generator it would overflow: one black frame would
    stop a training run.

    Statistics are computed in float32, the result is of the type of the input. The parameters are
    `scale` and `bias`, `(c)`, float32.

    Attributes:
      group_size: Channels in a group, a divisor of the number of channels. Flax and PyTorch ask
        for the number of groups.

    References:
      Wu and He, `Group Normalization <https://arxiv.org/abs/1803.08494>`_, ECCV 2018.
    """

    group_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalises maps.

        Args:
          x: Maps, `(b, h, w, c)`.

        Returns:
          Maps of the same shape and type.
        """
        channels = x.shape[-1]
        groups = (*x.shape[:-1], channels // self.group_size, self.group_size)
        grouped = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(groups)
        axes = (1, 2, 4)
        mean = grouped.mean(axes, keepdims=True)
        # A sum of many equal numbers, one after the other, is wrong by more than their rounding.
        mean += jax.lax.stop_gradient((grouped - mean).mean(axes, keepdims=True))
        centred = grouped - mean
        variance = (centred * centred).mean(axes, keepdims=True)
        own = jnp.finfo(x.dtype).eps * mean
        sums = _SUMS**2 * (mean * mean + variance).mean(3, keepdims=True)
        varies = variance > own * own + sums
        inverse = 1 / jnp.sqrt(jnp.where(varies, variance, 1.0) + _EPSILON)
        normal = (centred * jnp.where(varies, inverse, 0.0)).reshape(x.shape)
        scale = self.param("scale", nn.initializers.ones, (channels,)).reshape(1, 1, 1, channels)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).reshape(1, 1, 1, channels)
        return (normal * scale + bias).astype(x.dtype)


class InstanceNorm(GroupNorm, kw_only=True):
    """Instance normalisation: `GroupNorm` with each channel in a group of its own.

    Attributes:
      group_size: 1.

    References:
      Ulyanov, Vedaldi and Lempitsky, `Instance Normalization: The Missing Ingredient for Fast
      Stylization <https://arxiv.org/abs/1607.08022>`_, 2016.
    """

    group_size: int = 1
