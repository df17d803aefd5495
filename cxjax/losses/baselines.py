"""The losses that the paper compares with: of aligned arrays, of second moments, of neighbours."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxjax.distances import absolute
from cxjax.losses.arguments import as_arrays, check_floating
from cxjax.options import check_option
from cxjax.types import AnyArray

Reduction = Literal["mean", "paper"]


def l1_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""L1 loss of aligned images.

    Args:
      x: An image or any array.
      y: The target, of the same shape.
      reduction: `"mean"`, the mean absolute difference; `"paper"`, the 1-norm $\|x - y\|_1$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the shapes differ, are empty or not floating, or the reduction is unknown.

    Example:
      >>> print(l1_loss(jnp.ones((2, 2, 3)), jnp.zeros((2, 2, 3)), reduction="paper"))
      12.0

    References:
      Mechrez et al., ECCV 2018: the baseline $\|G(s) - t\|_1$.
    """
    difference = absolute(_difference(x, y, reduction))
    return difference.mean() if reduction == "mean" else difference.sum()


def l2_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""L2 loss of aligned images.

    Args:
      x: An image or any array.
      y: The target, of the same shape.
      reduction: `"mean"`, the mean squared difference; `"paper"`, the 2-norm $\|x - y\|_2$, whose
        gradient at `x == y` is 0 here.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: As `l1_loss`.

    Example:
      >>> print(l2_loss(jnp.full((2, 2), 3.0), jnp.zeros((2, 2)), reduction="paper"))
      6.0

    References:
      Mechrez et al., ECCV 2018: the baseline $\|G(s) - t\|_2$.
    """
    squared = jnp.square(_difference(x, y, reduction))
    if reduction == "mean":
        return squared.mean()
    total = squared.sum()
    return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))


def perceptual_loss(
    x: Float[AnyArray, "*shape"], y: Float[AnyArray, "*shape"], *, reduction: Reduction = "mean"
) -> Float[Array, ""]:
    r"""Perceptual loss: L1 of the features of aligned images.

    Args:
      x: Features of the image being made, of any shape, such as one layer of VGG.
      y: Features of the target, of the same shape.
      reduction: `"mean"`, the mean absolute difference; `"paper"`, the 1-norm
        $\|\Phi(x) - \Phi(y)\|_1$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: As `l1_loss`.

    Example:
      >>> print(perceptual_loss(jnp.ones((4, 8)), jnp.zeros((4, 8))))
      1.0

    References:
      Johnson et al., ECCV 2016 (with squared differences); the 1-norm as in Mechrez et al.,
      ECCV 2018, and Chen & Koltun, ICCV 2017.
    """
    return l1_loss(x, y, reduction=reduction)


def gram_loss(
    x: Float[AnyArray, "*positions c"],
    y: Float[AnyArray, "*other_positions c"],
    *,
    reduction: Reduction = "mean",
) -> Float[Array, ""]:
    r"""Gram loss: difference of the features' second moments, whatever their positions.

    $$\mathrm{Gram}(x) = \sum_i x_i x_i^\top$$

    Args:
      x: Features of the image being made, `(h, w, c)` or `(n, c)`.
      y: Features of the target, of as many channels; the positions may differ in number from those
        of `x`, as in `(n, c)` and `(m, c)`.
      reduction: `"mean"`, the mean squared difference of the Gram matrices, each divided by `h w c`
        of its own features; `"paper"`, the squared Frobenius norm
        $\|\mathrm{Gram}(x) - \mathrm{Gram}(y)\|_F^2$.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the channels differ, an array is empty, not floating or has fewer than two
        axes, or the reduction is unknown.

    Example:
      >>> print(gram_loss(jnp.ones((4, 4, 2)), jnp.zeros((3, 2)), reduction="paper"))
      1024.0

    References:
      Gatys et al., CVPR 2016; the formula as in Mechrez et al., ECCV 2018.
    """
    check_option("reduction", reduction, Reduction)
    x, y = as_arrays(x, y)
    check_floating(x, y)
    if min(x.ndim, y.ndim) < 2 or 0 in (x.size, y.size) or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            "x and y must be features (h, w, c) or (n, c) with the same number of channels and at "
            f"least one position; got x of shape {x.shape} and y of shape {y.shape}"
        )
    difference = _gram(x, reduction) - _gram(y, reduction)
    squared = jnp.square(difference)
    return squared.mean() if reduction == "mean" else squared.sum()


def _gram(features: Array, reduction: Reduction) -> Array:
    points = features.reshape(-1, features.shape[-1])
    gram = jnp.matmul(points.T, points, precision=jax.lax.Precision.HIGHEST)
    return gram / points.size if reduction == "mean" else gram


def total_variation(image: Float[AnyArray, "*batch h w c"]) -> Float[Array, ""]:
    r"""Total variation: the mean squared difference of neighbours, rows plus columns.

    Args:
      image: One image `(h, w, c)` or several. A direction with a single pixel adds nothing.

    Returns:
      A scalar, at least 0.

    Raises:
      ValueError: If the image has fewer than three axes, is empty or not floating.

    Example:
      >>> print(total_variation(jnp.array([[0.0, 1.0], [0.0, 1.0]])[..., None]))
      1.0

    References:
      The squared form of Johnson et al., ECCV 2016, as means rather than sums, so that its weight
      does not depend on the image's size.
    """
    (image,) = as_arrays(image)
    check_floating(image)
    if image.ndim < 3 or image.size == 0:
        raise ValueError(f"image must be (h, w, c) or (..., h, w, c); got shape {image.shape}")
    down = jnp.square(jnp.diff(image, axis=-3))
    across = jnp.square(jnp.diff(image, axis=-2))
    return down.sum() / max(down.size, 1) + across.sum() / max(across.size, 1)


def _difference(x: AnyArray, y: AnyArray, reduction: Reduction) -> Array:
    check_option("reduction", reduction, Reduction)
    x, y = as_arrays(x, y)
    if x.shape != y.shape or x.size == 0:
        raise ValueError(
            "x and y must have the same shape and not be empty; "
            f"got x of shape {x.shape} and y of shape {y.shape}"
        )
    check_floating(x, y)
    return x - y
