"""The clip that drives and the picture to be moved: read, cropped, scaled."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxjax.data import images, video
from cxjax.data.images import Box, Picture
from experiments import datasets
from experiments.common.pictures import PORTRAITS, portrait
from experiments.common.training import TrainingData
from experiments.single_image_animation.config import Config

SHOWN = 4  # held-out frames in a sample grid


class Pair(NamedTuple):
    """A clip, and the picture that shall move as it does; RGB in [0, 1]."""

    frames: np.ndarray
    """To train on, `(t, h, w, 3)`."""
    held_out: np.ndarray
    target: Picture


def read_pair(config: Config) -> Pair:
    """Reads the clip and the target, and cuts and scales them.

    Raises:
      ValueError: If a crop does not fit, or the clip is too short; what reading raises.
    """
    source_crop, target_crop = config.crops
    if config.source == "drawn":
        frames = [*draw_clip(12, config.size)[config.start : config.stop : config.every]]
    else:
        taken = {"start": config.start, "stop": config.stop, "every": config.every}
        frames = [
            _fit(frame.astype(np.float32) / 255, source_crop, config.size, "source")
            for frame in datasets.iterate(config.source, split=config.split, **taken)
        ]
    if len(frames) < config.held_out + config.batch_size:
        raise ValueError(
            f"{len(frames)} frames of {config.source}: fewer than the "
            f"{config.held_out + config.batch_size} that are needed to hold out {config.held_out} "
            f"and train on batches of {config.batch_size}; --held-out takes 3 or more"
        )
    if config.target == "drawn":
        target = 1 - draw_clip(1, config.size)[0]
    elif config.target in PORTRAITS:
        picture = portrait(None, target_crop, config.target)
        target = _fit(picture, None, config.size, "target")
    else:
        target = _fit(_read_target(config.target), target_crop, config.size, "target")
    clip = np.stack(frames)
    return Pair(clip[: -config.held_out], clip[-config.held_out :], target)


def training_data(config: Config, pair: Pair) -> TrainingData:
    """The frames of the clip, one by one."""
    shown = pair.held_out[:: max(1, len(pair.held_out) // SHOWN)][:SHOWN]
    return TrainingData(examples=pair.frames, transform=None, shown=shown, target=pair.target)


def frame_rate(config: Config) -> float:
    """Frames per second of the clip as it is taken, or those asked for; 10 where it has none."""
    if config.frames_per_second:
        return config.frames_per_second
    is_video = Path(config.source).is_file()
    return (is_video and video.frame_rate(config.source) / config.every) or 10.0


def _read_target(name: str) -> Picture:
    if "." in name or "/" in name or Path(name).is_file():
        return images.read_image(name)
    paintings = datasets.open_source("paintings")
    known = []
    for index in range(len(paintings)):
        painting = paintings[index]
        if painting["id"] == name:
            return painting["image"].astype(np.float32) / 255
        known.append(painting["id"])
    raise ValueError(
        f"--target {name} is neither a file nor a portrait ({', '.join(PORTRAITS)}) nor a "
        f"painting; those are: {', '.join(known)}"
    )


def _fit(picture: Picture, crop: Box | None, size: int, which: str) -> Picture:
    crop = crop or images.middle_square(picture)
    name = f"--{which}-crop (None: the middle)"
    part = images.cut(picture, crop, name=name, inside=f"the {which}")
    return images.resize_to(part, (size, size))


def draw_clip(frames: int, size: int) -> np.ndarray:
    """A face of discs that nods and opens its mouth: a clip of the true form, made on the spot."""
    clip = np.empty((frames, size, size, 3), np.float32)
    for number in range(frames):
        phase = 2 * np.pi * number / 8
        y, x = 0.5 + 0.06 * np.sin(phase), 0.5 + 0.1 * np.cos(phase)
        clip[number] = (0.2, 0.35, 0.6)
        clip[number][_disc(size, y, x, 0.35, 0.28)] = (0.9, 0.7, 0.55)
        for side in (-0.1, 0.1):
            clip[number][_disc(size, y - 0.1, x + side, 0.04, 0.05)] = (0.1, 0.1, 0.1)
        mouth = 0.03 + 0.05 * (1 + np.sin(phase)) / 2
        clip[number][_disc(size, y + 0.15, x, mouth, 0.1)] = (0.6, 0.1, 0.1)
    return clip


def _disc(size: int, y: float, x: float, height: float, width: float) -> np.ndarray:
    rows, columns = np.indices((size, size)) / size
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
