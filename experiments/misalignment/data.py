"""A noisy crop of a photograph, and clean crops of it that are shifted."""

import difflib
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxjax.data import images
from experiments.datasets import open_source
from experiments.misalignment.config import Config

_SPLITS = ("train", "test")


class Pair(NamedTuple):
    """What is cleaned, and what is shown to the losses."""

    clean: np.ndarray  # (crop, crop, 3), the source's without its noise
    noisy: np.ndarray  # (crop, crop, 3), the source; not clipped to [0, 1]
    targets: np.ndarray  # (targets, crop, crop, 3)
    offsets: np.ndarray  # (targets, 2), rows and columns from the source to each


def load_photograph(config: Config) -> images.Picture:
    """The photograph, scaled.

    Raises:
      ValueError: If there is none of that id nor such a file, or it is too small for the crop and
        its shifts.
    """
    photograph = images.resize(_read(config.photograph), longest_side=config.longest)
    height, width = photograph.shape[:2]
    needed = config.crop + 2 * config.max_shift
    if min(height, width) < needed:
        raise ValueError(
            f"--photograph {config.photograph} is {width} x {height} pixels at --longest "
            f"{config.longest}, too small for --crop {config.crop} and --max-shift "
            f"{config.max_shift}, which need {needed} each way"
        )
    return photograph


def make_pair(config: Config, photograph: images.Picture, seed: int) -> Pair:
    """Draws the source's place, its noise and the targets' offsets; the first two are the same for
    all shifts.

    Args:
      config: Settings.
      photograph: As `load_photograph` gives it, `(h, w, 3)`.
      seed: Of the draws.

    Returns:
      The pair, float32.
    """
    place, noise = (np.random.default_rng([seed, i]) for i in range(2))
    side, room = config.crop, config.max_shift
    corner = [
        int(place.integers(room, length - side - room, endpoint=True))
        for length in photograph.shape[:2]
    ]

    def cut(down: int, across: int) -> np.ndarray:
        top, left = corner[0] + down, corner[1] + across
        return images.cut(photograph, (left, top, left + side, top + side))

    clean = cut(0, 0)
    noisy = clean + config.noise * noise.normal(size=clean.shape)
    offsets = draw_offsets(config, seed)
    targets = np.stack([cut(*offset) for offset in offsets.tolist()])
    return Pair(clean, noisy.astype(np.float32), targets, offsets)


def draw_offsets(config: Config, seed: int) -> np.ndarray:
    """Rows and columns from the source to each target, `(targets, 2)`, up to the shift."""
    shifts = np.random.default_rng([seed, 2])
    return shifts.integers(-config.shift, config.shift, (config.targets, 2), endpoint=True)


def _read(name: str) -> images.Picture:
    if name == "drawn":
        return draw()
    return images.read_image(name) if Path(name).is_file() else _read_from_set(name)


@functools.lru_cache(maxsize=8)  # a grid has many runs of each
def _read_from_set(name: str) -> images.Picture:
    known = []
    for split in _SPLITS:
        source = open_source("photographs", split=split)
        for index in range(len(source)):
            example = source[index]
            if example["id"] == name:
                return np.asarray(example["image"], np.float32) / 255
            known.append(example["id"])
    by_title = {known_id.rpartition("/")[2]: known_id for known_id in known}
    titles = difflib.get_close_matches(name.rpartition("/")[2], by_title, 3, cutoff=0.5)
    close = [by_title[title] for title in titles] or known[:3]
    raise ValueError(
        f"--photograph: there is no file {name}, and no such id among the {len(known)} of the set "
        f"photographs, which has {', '.join(close)}"
    )


def draw(side: int = 128, discs: int = 60) -> images.Picture:
    """A picture of striped and plain discs, of all sizes and colours, always the same.

    Args:
      side: Its height and width.
      discs: Their number; later ones lie over earlier ones.

    Returns:
      The picture, `(side, side, 3)`.
    """
    random = np.random.default_rng(0)
    down, across = np.mgrid[:side, :side] / side
    picture = np.stack([down, across, 1 - down], axis=-1)
    for _ in range(discs):
        (top, left), radius = random.uniform(size=2), random.uniform(0.03, 0.2)
        inside = (down - top) ** 2 + (across - left) ** 2 < radius**2
        wave = np.sin(random.uniform(-60, 60) * down + random.uniform(-60, 60) * across)
        colours = random.uniform(size=(2, 3))
        stripes = np.where((wave > 0)[..., None], colours[0], colours[random.integers(2)])
        picture = np.where(inside[..., None], stripes, picture)
    return picture.astype(np.float32)
