"""Clips of drivers and puppets who do the same, and the pairs of frames that are trained on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates, zoom

from cxjax.data.pipeline import Transform
from experiments import datasets
from experiments.common.training import TrainingData
from experiments.puppet_control.config import PAIRS, Config

_VALIDATION = {
    "man-woman": ("1f646", "1f64e"),  # arms over the head, pout: as the test's, of the upper body
    "smiley-cat": ("1f63b",),
    "drawn": ("1",),
}
_TEST = {"smiley-cat": ("1f63a",), "drawn": ("3",)}  # man-woman: the set's own split
_FEELINGS = {  # cat -> smiley
    "1f639": "1f923",  # rolling with laughter
    "1f63a": "1f642",  # smiling a little
    "1f63b": "1f970",  # in love
    "1f63f": "1f622",  # crying
    "1f640": "1f631",  # screaming
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """An action: frames of the driver and of the puppet, uint8, `(t, h, w, 3)` and `(t', ...)`."""

    action: str
    driver: np.ndarray
    puppet: np.ndarray

    def matching(self, frame: int) -> int:
        """The puppet's frame at the same time: the same number where both are equally long."""
        return round(frame * (len(self.puppet) - 1) / max(1, len(self.driver) - 1))


class Clips(NamedTuple):
    """The clips to train on, and those held out."""

    training: list[Clip]
    held_out: list[Clip]

    def drivers(self) -> np.ndarray:
        """The held-out frames of the drivers, `(n, h, w, 3)`, in [0, 1]."""
        return np.concatenate([c.driver for c in self.held_out]).astype(np.float32) / 255


def read_clips(config: Config) -> Clips:
    """The clips to train on, and those held out.

    Returns:
      Of `config.held_out` `"validation"`, the training set's other actions and its validation
      actions; of `"test"`, all of the training set and the test set. Of a user's folder, all
      actions but the last, and that.

    Raises:
      ValueError: If a batch is larger than the number of pairs, or a folder's actions are not those
        of driver and puppet; what opening the set raises.
    """
    validation = _VALIDATION.get(config.pair, ())
    if config.pair not in PAIRS:
        *training, last = _own(Path(config.pair), config.size)
        test = [last]
    elif config.pair == "man-woman":
        training = _people("train", config.size)
        test = _people("test", config.size) if config.held_out == "test" else []
    else:
        clips = _drawn(config.size) if config.pair == "drawn" else _cats(config.size)
        test = [clip for clip in clips if clip.action in _TEST[config.pair]]
        training = [clip for clip in clips if clip.action not in _TEST[config.pair]]
    held_out = test
    if config.held_out == "validation" and validation:
        held_out = [clip for clip in training if clip.action in validation]
        training = [clip for clip in training if clip.action not in validation]
    if (count := sum(len(clip.driver) for clip in training)) < config.batch_size:
        raise ValueError(f"--batch-size {config.batch_size} is more than the {count} frames")
    return Clips(training, held_out)


def training_data(config: Config, clips: Clips) -> TrainingData:
    """The drivers' frames, each with a puppet's frame that is not aligned with it."""
    drivers = clips.drivers()
    return TrainingData(
        examples=Frames(clips.training),
        transform=loosely_paired(clips.training, config),
        shown=drivers[:: max(1, len(drivers) // 6)][:6],
    )


def _own(folder: Path, size: int) -> list[Clip]:
    """The clips of a user's folder, in the order of their names."""
    clips: list[dict[str, Path]] = []
    for character in ("driver", "puppet"):
        if not (folder / character).is_dir():
            raise ValueError(f"--pair {folder} has no folder {character}")
        paths = sorted(path for path in (folder / character).iterdir() if path.name[0] != ".")
        clips.append({path.stem if path.is_file() else path.name: path for path in paths})
        if len(clips[-1]) < len(paths):
            raise ValueError(f"{folder / character} has two clips of one name")
    drivers, puppets = clips
    if unpaired := sorted(set(drivers) ^ set(puppets)):
        raise ValueError(
            f"--pair {folder} has {', '.join(unpaired)} of one character alone; driver and puppet "
            "need clips of the same names"
        )
    if len(drivers) < 2:
        raise ValueError(
            f"--pair {folder} needs at least two actions, one to train on and one held out; cut "
            "longer clips in two"
        )
    read = lambda path: np.stack([datasets.middle(f, size) for f in datasets.iterate(str(path))])
    return [
        Clip(action=action, driver=read(drivers[action]), puppet=read(puppets[action]))
        for action in drivers
    ]


def _people(split: str, size: int) -> list[Clip]:
    frames = _frames("fluent_animations", split, size)
    actions = dict.fromkeys(action for action, _ in frames)
    clips = []
    for action in actions:
        driver, puppet = frames[action, "man"], frames[action, "woman"]
        length = min(len(driver), len(puppet))  # one clip of one has a frame more
        clips.append(Clip(action=action, driver=driver[:length], puppet=puppet[:length]))
    return clips


def _cats(size: int) -> list[Clip]:
    smileys = _frames("fluent_animations", "smileys", size, set(_FEELINGS.values()))
    cats = _frames("fluent_animations", "cats", size)
    return [
        Clip(action=cat, driver=smileys[smiley, "smiley"], puppet=cats[cat, "cat"])
        for cat, smiley in _FEELINGS.items()
    ]


def _frames(
    name: str, split: str, size: int, wanted: set[str] | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Clips by action and character, in the order of their names."""
    source = datasets.open_source(name, split=split)
    clips: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for number in range(len(source)):
        example = source[number]
        if wanted and example["action"] not in wanted:
            continue
        clip = clips.setdefault((example["action"], example["character"]), {})
        clip[int(example["frame"])] = datasets.middle(example["image"], size)
    return {
        key: np.stack([frames[number] for number in sorted(frames)])
        for key, frames in sorted(clips.items())
    }


def _drawn(size: int, actions: int = 4, frames: int = 6) -> list[Clip]:
    """A disc that goes its way, with a hat of another colour: clips of the true form."""
    rows, columns = np.indices((size, size)) / size
    clips = []
    for action in range(actions):
        pair = []
        for skin, hat in (((240, 190, 60), (40, 90, 220)), ((240, 190, 60), (150, 60, 200))):
            clip = np.full((frames, size, size, 3), 255, np.uint8)
            for number in range(frames):
                phase = 2 * np.pi * number / frames
                y = 0.55 + 0.08 * np.sin(phase * (1 + action % 2))
                x = 0.5 + 0.04 * (action - 1.5) * np.cos(phase)
                clip[number][np.hypot(rows - y, columns - x) < 0.25] = skin
                clip[number][(abs(rows - y + 0.25) < 0.08) & (abs(columns - x) < 0.2)] = hat
            pair.append(clip)
        clips.append(Clip(action=str(action), driver=pair[0], puppet=pair[1]))
    return clips


class Frames:
    """The drivers' frames of several clips, as the source of a pipeline of batches."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips = clips
        self._places = [(c, f) for c, clip in enumerate(clips) for f in range(len(clip.driver))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        clip, frame = self._places[index]
        return {"driver": self._clips[clip].driver[frame], "clip": clip, "frame": frame}


def loosely_paired(clips: Sequence[Clip], config: Config) -> Transform:
    """Gives each driver's frame a puppet's frame that is not aligned with it.

    Args:
      clips: The clips that `Frames` reads.
      config: How far the puppet is off in time, by how much it is shifted and warped.

    Returns:
      What `batches` calls for each example: adds `"puppet"`, `(h, w, 3)` in [0, 1], white where
      the frame was moved away.
    """

    def transform(example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        clip = clips[example.pop("clip")]
        late = int(generator.integers(-config.jitter, config.jitter + 1))
        frame = min(max(0, clip.matching(example.pop("frame")) + late), len(clip.puppet) - 1)
        shift = generator.integers(-config.shift, config.shift + 1, size=2).astype(np.float64)
        puppet = clip.puppet[frame].astype(np.float32) / 255
        field = config.warp * generator.normal(size=(2, 4, 4))
        return example | {"puppet": displace(puppet, shift, field)}

    return transform


def displace(picture: np.ndarray, shift: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Moves the pixels of a picture.

    Args:
      picture: `(h, w, 3)`.
      shift: Rows and columns to move all by, `(2,)`.
      field: What to add to it at the knots of a coarse grid over the picture, `(2, a, b)`, smooth
        in between; in pixels.

    Returns:
      `(h, w, 3)`: what is at p comes from p - shift - field; white where that lies outside.
    """
    height, width = picture.shape[:2]
    scale = height / field.shape[1], width / field.shape[2]
    smooth = np.array([zoom(knots, scale, order=3, mode="nearest") for knots in field])
    where = np.indices((height, width)) - shift[:, None, None] - smooth
    channels = [
        map_coordinates(picture[..., c], where, order=1, mode="grid-constant", cval=1.0)
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)
