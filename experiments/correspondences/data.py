"""The pictures that are matched: two portraits or a user's own, and photographs that are warped."""

import numpy as np

from cxjax.data import images
from experiments.common.pictures import Photograph, photograph, portrait
from experiments.correspondences.config import Condition, Config
from experiments.correspondences.warp import Warp, draw_warp, recoloured, warped_pair

_MARGIN = 1.25  # sides of the whole photograph, of which the source is the middle


def read_pictures(config: Config) -> tuple[images.Picture, images.Picture]:
    """The pictures of the sources and of the targets."""
    x = portrait(config.x, config.x_crop, "astronaut")
    y = portrait(config.y, config.y_crop, "grace_hopper")
    x, y = (images.resize(picture, longest_side=config.size) for picture in (x, y))
    return x, y


def read_warped(
    name: Photograph, condition: Condition, *, size: int, seed: int
) -> tuple[images.Picture, images.Picture, Warp]:
    """The middle of a photograph, what a warp of this seed makes of it, and the warp."""
    generator = randomness(name, seed)
    warp = draw_warp(generator, size)
    source, target = warped_pair(photograph(name, shortest_side=round(_MARGIN * size)), warp)
    return source, recoloured(generator, target) if condition == "recoloured" else target, warp


def randomness(name: Photograph, seed: int) -> np.random.Generator:
    """Draws warp and light: others for each photograph, so that none is tuned on that is scored."""
    return np.random.default_rng([seed, *name.encode()])
