"""The clip that drives and the picture to be moved: read, cropped, scaled."""

import jax
import numpy as np

from cxjax.data import images
from cxjax.data.images import Picture
from experiments import datasets
from experiments.single_image_animation.config import Config, Crop


def read_pair(config: Config) -> tuple[np.ndarray, np.ndarray, Picture]:
    """Training frames and held-out frames `(t, h, w, 3)`, and the target, RGB in [0, 1].

    Raises:
      ValueError: If a crop does not fit, or the clip is too short; what reading raises.
    """
    if config.source == "drawn":
        frames = draw_clip(12, config.size)
    else:
        source = datasets.open_source(config.source)
        kept = [
            _fit(source[i]["image"], config.source_crop, config, "source") for i in _all(source)
        ]
        frames = np.stack(kept)
    if len(frames) < config.held_out + config.batch_size:
        raise ValueError(
            f"{config.source} has {len(frames)} frames: too few to hold out {config.held_out} and "
            f"train on batches of {config.batch_size}"
        )
    if config.target == "drawn":
        target = 1 - draw_clip(1, config.size)[0]
    else:
        target = _fit(_read_target(config.target), config.target_crop, config, "target")
    return frames[: -config.held_out], frames[-config.held_out :], target


def _all(source) -> range:
    return range(len(source))


def _read_target(name: str) -> np.ndarray:
    if "." in name or "/" in name:
        return (images.read_image(name) * 255).round().astype(np.uint8)
    paintings = datasets.open_source("paintings")
    found = {paintings[i]["id"]: i for i in _all(paintings)}
    if name not in found:
        raise ValueError(
            f"--target {name} is neither a file nor a painting; those are: {', '.join(found)}"
        )
    return paintings[found[name]]["image"]


def _fit(image: np.ndarray, crop: Crop | None, config: Config, which: str) -> Picture:
    height, width = image.shape[:2]
    left, top, right, bottom = crop or _middle(width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"--{which}-crop {crop} does not lie inside the {which}, which is {width} x {height} "
            "pixels; `None` takes the middle"
        )
    part = image[top:bottom, left:right].astype(np.float32) / 255
    shape = (config.size, config.size, 3)
    return np.clip(np.asarray(jax.image.resize(part, shape, "lanczos3")), 0, 1)


def _middle(width: int, height: int) -> Crop:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def draw_clip(frames: int, size: int) -> np.ndarray:
    """A face of discs that nods and opens its mouth: a clip of the true form, made on the spot."""
    rows, columns = np.indices((size, size)) / size
    clip = np.empty((frames, size, size, 3), np.float32)
    for number in range(frames):
        phase = 2 * np.pi * number / 8
        y, x = 0.5 + 0.06 * np.sin(phase), 0.5 + 0.1 * np.cos(phase)
        disc = lambda dy, dx, ry, rx: (
            ((rows - y - dy) / ry) ** 2 + ((columns - x - dx) / rx) ** 2 < 1  # noqa: B023
        )
        clip[number] = (0.2, 0.35, 0.6)
        clip[number][disc(0, 0, 0.35, 0.28)] = (0.9, 0.7, 0.55)
        for side in (-0.1, 0.1):
            clip[number][disc(-0.1, side, 0.04, 0.05)] = (0.1, 0.1, 0.1)
        clip[number][disc(0.15, 0, 0.03 + 0.05 * (1 + np.sin(phase)) / 2, 0.1)] = (0.6, 0.1, 0.1)
    return clip
