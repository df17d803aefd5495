"""Pictures moved by a known smooth warp, so that the true matches are known."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from cxjax.data.images import Picture

Points = Float[np.ndarray, "n 2"]  # rows and columns in pixels, from the outer edge of the first

_TURN = np.deg2rad(15)  # all four are the largest; each is drawn evenly up to it
_STRETCH = 1.2
_SHIFT = 0.06  # of the picture's side
_BEND = 0.05
_KNOTS = 5  # of the bend, along each side


class Warp(NamedTuple):
    """Where in the source the content of each place of the target is: an affine map and a bend."""

    size: int
    matrix: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, " 2"]
    bend: Float[np.ndarray, "2 knots knots"]

    def __call__(self, places: Points) -> Points:
        """The true places in the source of these places in the target, `(n, 2)`, in pixels."""
        middle = self.size / 2
        knots = places.T / self.size * (_KNOTS - 1)
        bend = np.stack([ndimage.map_coordinates(b, knots, mode="nearest") for b in self.bend])
        return (places - middle) @ self.matrix.T + middle + self.shift + bend.T


def draw_warp(generator: np.random.Generator, size: int) -> Warp:
    """Draws a warp of a square picture of this side."""
    turn = generator.uniform(-_TURN, _TURN)
    stretch = _STRETCH ** generator.uniform(-1, 1, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = generator.uniform(-_SHIFT, _SHIFT, 2) * size
    bend = generator.uniform(-_BEND, _BEND, (2, _KNOTS, _KNOTS)) * size
    return Warp(size, rotation * stretch[None, :], shift, bend)


def sample(
    picture: Shaped[np.ndarray, "h w c"], places: Points, *, order: int = 1
) -> Shaped[np.ndarray, "n c"]:
    """Values of a picture at places in pixels; beyond its border, those of the border."""
    at = places.T - 0.5  # to the pixels' centres, which SciPy counts from
    channels = np.moveaxis(picture, -1, 0)
    values = [ndimage.map_coordinates(c, at, order=order, mode="nearest") for c in channels]
    return np.stack(values, axis=-1)


def pixel_centres(size: int) -> Points:
    """Places of all pixels of a square picture, row by row."""
    axis = np.arange(size) + 0.5
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def warped_pair(picture: Picture, warp: Warp) -> tuple[Picture, Picture]:
    """The middle of a picture, and what a warp makes of it.

    What the warp brings in from beyond the middle is there in the picture, as far as it goes.

    Args:
      picture: Picture, no side smaller than the warp's size.
      warp: The warp.

    Returns:
      Source and target, both `(size, size, 3)`; the target shows at each place what the source
      shows at `warp(place)`.
    """
    size = warp.size
    corner = [(side - size) // 2 for side in picture.shape[:2]]
    source = picture[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
    values = sample(picture, warp(pixel_centres(size)) + np.array(corner)[None, :])
    return source, np.clip(values.reshape(size, size, 3), 0, 1).astype(np.float32)


def recoloured(generator: np.random.Generator, picture: Picture) -> Picture:
    """The picture under another light: each colour's own exponent and gain, and noise."""
    exponent = 1.3 ** generator.uniform(-1, 1, (1, 1, 3))
    gain = generator.uniform(0.8, 1.1, (1, 1, 3))
    noise = 0.02 * generator.standard_normal(picture.shape)
    return np.clip(gain * picture**exponent + noise, 0, 1).astype(np.float32)
