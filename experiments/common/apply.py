"""A trained generator on new images: pictures, folders of pictures, videos."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from cxjax.data import images, video
from cxjax.data.sources import ImageFolder
from cxjax.training.checkpoint import load_state
from experiments.common.generators import CHECKPOINTS, GeneratorConfig, generator_of, make_model
from experiments.common.runs import read_config

MOVING = (".mp4", ".webp", ".gif")
STILL = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyConfig:
    """Applies a run's trained generator to a picture, a folder of pictures, or a video."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, with its checkpoints."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Picture, folder of pictures, or video."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """Where to write: a picture; a video, .mp4, .webp or .gif, without sound; or, for a folder, a
    folder or a video."""
    crop: images.Box | None = None
    """Left, top, right, bottom of the part of each picture to use, in pixels; without it all."""
    size: int | None = None
    """Shorter side of what the generator sees and makes, in pixels; without it the run's --size, at
    which it was trained; 0 leaves pictures as large as they are."""
    step: int | None = None
    """Checkpoint to use, by the steps it had been trained for; without it the newest."""
    frames_per_second: float | None = None
    """Frames per second of the video that is written; without it those of the one that is read, or
    25 of pictures. A GIF keeps hundredths of a second."""


def load_generator(
    folder: Path, config_class: type[GeneratorConfig], *, step: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """The trained generator of a run: `(image (h, w, 3)) -> image`, RGB in [0, 1].

    Raises:
      FileNotFoundError: If the run has no checkpoint, or not that of `step`.
      ValueError: If there is no run in the folder, or none of its checkpoints is sound.
    """
    model = make_model(read_config(config_class, folder))
    params = generator_of(load_state(folder / CHECKPOINTS, step=step).state)
    make = jax.jit(functools.partial(model.apply, params))
    return lambda picture: np.clip(np.asarray(make(picture)), 0, 1)


def command(config_class: type[GeneratorConfig]) -> tuple[type, Callable[[Any], None]]:
    """The command `apply` of an experiment with this class of settings."""
    return ApplyConfig, functools.partial(apply, config_class=config_class)


def apply(config: ApplyConfig, config_class: type[GeneratorConfig]) -> None:
    """Applies a trained generator to a picture, a folder of pictures, or a video."""
    written = _outputs(config)
    size = read_config(config_class, config.run).size if config.size is None else config.size
    generator = load_generator(config.run, config_class, step=config.step)

    def make(picture: images.Picture) -> images.Picture:
        return generator(_fit(picture, config.crop, size))

    config.output.parent.mkdir(parents=True, exist_ok=True)
    if config.output.suffix.lower() in MOVING:
        is_video = not config.input.is_dir()
        rate = config.frames_per_second or (is_video and video.frame_rate(config.input)) or 25.0
        frames = video.iterate_video(config.input) if is_video else _pictures(config.input)
        made = (make(frame.astype(np.float32) / 255) for frame in frames)
        video.write_video(config.output, made, frames_per_second=rate)
    elif written is None:
        images.write_image(config.output, make(images.read_image(config.input)))
    else:
        for path, picture in zip(written, _pictures(config.input), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write_image(path, make(picture.astype(np.float32) / 255))


def _pictures(folder: Path) -> Iterator[np.ndarray]:
    pictures = ImageFolder(folder)
    return (pictures[number]["image"] for number in range(len(pictures)))


def _fit(picture: images.Picture, crop: images.Box | None, size: int) -> images.Picture:
    """The part that is used, its shorter side as long as asked for."""
    if crop:
        picture = images.cut(picture, crop, name="--crop", inside="a picture of the input")
    return images.resize_shorter(picture, shorter_side=size) if size else picture


def _outputs(config: ApplyConfig) -> list[Path] | None:
    """The files to write for a folder of pictures; refuses, before any work, what cannot be."""
    output = config.output
    if config.size is not None and config.size < 0:
        raise ValueError(f"--size must be at least 0; got {config.size}")
    if output.exists():
        raise ValueError(f"{output} exists; name another output")
    if not config.input.exists():
        raise ValueError(f"there is no file or folder {config.input}")
    if not config.input.is_dir():
        if output.suffix.lower() not in (*MOVING, *STILL):
            raise ValueError(
                f"cannot write {output}: a picture ends in {', '.join(STILL)}, a video in "
                f"{', '.join(MOVING)}"
            )
        return None
    ids = ImageFolder(config.input).ids
    if output.suffix.lower() in MOVING:
        return None
    paths = [(output / name).with_suffix(".png") for name in ids]
    if len(set(paths)) < len(paths):  # a.png and a.jpg: the whole names tell them apart
        paths = [output / f"{name}.png" for name in ids]
    return paths
