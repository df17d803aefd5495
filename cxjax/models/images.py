"""What the generators share: the check of their input, resizing, padding and cropping.

Images and maps are channels last, axes counted from the right.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cxjax.options import check_images, check_option
from cxjax.types import AnyArray

Method = Literal["area", "bilinear"]


def as_batch(
    images: Float[AnyArray, "*b h w 3"], *, smallest: int, remedy: str
) -> Float[Array, "b h w 3"]:
    """Checks a generator's input, and gives it the axis of a batch and a dtype to compute with.

    Args:
      images: `(h w 3)` or `(b h w 3)`, floating point.
      smallest: Smallest height and width that the generator takes.
      remedy: What else to do about smaller ones, such as `"take fewer levels"`.

    Returns:
      `(b h w 3)`, at least float32.

    Raises:
      ValueError: If the images are of another shape, not floating point, or too small.
    """
    check_images(images)
    height, width = images.shape[-3:-1]
    if min(height, width) < smallest:
        raise ValueError(
            f"this generator needs images of at least {smallest} x {smallest} pixels; "
            f"these are {height} x {width}: enlarge them{remedy and ' or '}{remedy}"
        )
    batch = images if images.ndim == 4 else images[None]
    return jnp.asarray(batch, jnp.promote_types(images.dtype, jnp.float32))


def resize(
    x: Float[Array, "*b h w c"], size: tuple[int, int], *, method: Method
) -> Float[Array, "*b height width c"]:
    """Resizes maps by a product with one small matrix per axis, made while tracing.

    `cxjax.data.images` resizes what is read from disk, by Pillow. A network needs this one: it is
    differentiated and runs on any device, and the papers' networks average and interpolate.
    Products run in parallel and in one order on every device, forwards and backwards; gathers have
    scattered additions as their gradient.

    Args:
      x: Maps, `(h, w, c)` or `(b, h, w, c)`.
      size: Height and width wanted.
      method: `"area"`: each new pixel is the mean over the box that it covers, pixels that lie in
        part in the box counted by that part. `"bilinear"`: the centres of the first and the last
        pixel stay where they are (`align_corners=True` of TensorFlow and PyTorch), and between
        two pixels the value changes linearly.

    Returns:
      Maps of that size, in the dtype of `x`.

    Raises:
      ValueError: If `method` is neither.
    """
    check_option("method", method, Method)
    matrix = _area_matrix if method == "area" else _bilinear_matrix
    height, width = x.shape[-3:-1]
    # The default precision of TPUs rounds the weights to 8 bits: that would be seen in an image.
    if size[0] != height:
        rows = jnp.asarray(matrix(height, size[0]), x.dtype)
        x = jnp.einsum("ij,...jwc->...iwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    if size[1] != width:
        columns = jnp.asarray(matrix(width, size[1]), x.dtype)
        x = jnp.einsum("ij,...hjc->...hic", columns, x, precision=jax.lax.Precision.HIGHEST)
    return x


def _area_matrix(before: int, after: int) -> np.ndarray:
    """Row i: shares of the old pixels in the new pixel i."""
    # In units of 1 / after old pixels all edges are whole numbers, and so are the overlaps.
    new, old = np.arange(after)[:, None] * before, np.arange(before)[None] * after
    overlap = np.minimum(new + before, old + after) - np.maximum(new, old)
    return np.maximum(overlap, 0) / before


def _bilinear_matrix(before: int, after: int) -> np.ndarray:
    """Row i: weights of the old pixels at the new pixel i, a hat around each."""
    position = np.linspace(0, before - 1, after)[:, None]
    return np.maximum(1 - np.abs(position - np.arange(before)[None]), 0)


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b height width c"]:
    """Doubles height and width by repeating each pixel.

    Args:
      x: Maps, `(b, h, w, c)`.

    Returns:
      Maps `(b, 2 h, 2 w, c)`.
    """
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def pad_to_multiple(x: Float[Array, "b h w c"], multiple: int) -> Float[Array, "b height width c"]:
    """Repeats the border pixels, on both sides alike, until the sides are multiples of a number.

    Args:
      x: Maps, `(b, h, w, c)`.
      multiple: Number that is to divide height and width.

    Returns:
      Maps of the next such size, `x` itself where it is of one; `crop` takes the border off again.
    """
    border = [(-side % multiple // 2, (-side % multiple + 1) // 2) for side in x.shape[-3:-1]]
    return jnp.pad(x, ((0, 0), *border, (0, 0)), "edge")


def crop(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b height width c"]:
    """Cuts out the middle: what `pad_to_multiple` has put a border around.

    Args:
      x: Maps, `(b, h, w, c)`.
      height: Rows to keep.
      width: Columns to keep.

    Returns:
      Maps of that size.
    """
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
