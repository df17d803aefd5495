"""An image as a Laplacian pyramid: the parameters that style transfer optimises.

With pixels as parameters every frequency is as easy to change as any other, and much of what the
features do not see becomes noise. In a pyramid the coarse levels move many pixels together.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def split(image: jax.Array, levels: int) -> list[jax.Array]:
    """Details of `image` `(h, w, 3)`, finest first, and the coarse rest; at most `levels` arrays.

    A level that would be smaller than two pixels is not made.
    """
    pieces = []
    while len(pieces) < levels - 1 and min(image.shape[:2]) >= 4:
        shape = ((image.shape[0] + 1) // 2, (image.shape[1] + 1) // 2, image.shape[2])
        coarse = jax.image.resize(image, shape, "linear")
        pieces.append(image - jax.image.resize(coarse, image.shape, "linear"))
        image = coarse
    return [*pieces, jnp.asarray(image)]


def merge(pieces: Sequence[jax.Array]) -> jax.Array:
    """The image whose pyramid this is."""
    *details, image = pieces
    for detail in reversed(details):
        image = detail + jax.image.resize(image, detail.shape, "linear")
    return image
