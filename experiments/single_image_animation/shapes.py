"""How far a generator moves the shapes of the frames towards those of the still."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cxjax.data.video import read_video
from experiments.common import tables
from experiments.common.deformation import Deformation, deformation, ways_of
from experiments.common.runs import differences, read_config, to_json
from experiments.single_image_animation import data, motion
from experiments.single_image_animation.config import VARIANTS, Config

# Eyes, tip of the nose, corners of the mouth, chin, cheeks at the nose, top and right of the hair,
# of the first command's first held-out frame and of its still: across and down, per cent.
LANDMARKS = (
    *((16, 57.5), (34, 46.5), (33, 60), (28, 74), (41.5, 65), (36, 87), (5, 58), (49, 56)),
    *((16, 13), (38, 28)),
)
TARGET_LANDMARKS = (
    *((30.5, 49), (49.5, 48.5), (37.5, 63), (31.5, 69.5), (45, 70), (43, 82), (24, 60), (58.5, 60)),
    *((48, 13), (74, 30)),
)
_PICTURES = ("source", "split", "start", "stop", "every", "held_out", "target")
_CROPS = ("source_crop", "target_crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Shows how far the shapes of several runs moved towards the still's."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of one or more runs of the first command's clip and still, where landmarks are known;
    loss, weights, layers and size may differ."""


def follow(landmarks: Sequence[tuple[float, float]], flow: np.ndarray) -> np.ndarray:
    """Where landmarks of the first frame are in every frame.

    Args:
      landmarks: Across and down, per cent, `(k, 2)`.
      flow: From each frame to the next, rows then columns in pixels, `(t - 1, 2, h, w)`.

    Returns:
      `(t, k, 2)`, as the landmarks; none leaves the frame.
    """
    height, width = flow.shape[-2:]
    size = np.array([width, height])
    places = [np.array(landmarks, float) / 100 * size]
    for field in flow:
        moved = ways_of(100 * places[-1] / size, np.moveaxis(field, 0, -1))
        places.append(np.clip(places[-1] + moved, 0, size - 1))
    return 100 * np.stack(places) / size


def measure(held_out: np.ndarray, result: np.ndarray) -> Deformation:
    """The deformation from each held-out frame to what was made of it, mean over the frames.

    Args:
      held_out: Frames of the first command's clip, `(t, h, w, 3)`.
      result: What was made of them, the same shape.

    Returns:
      Shares of the way to the still's shapes, and the ways in per cent of the side.
    """
    by_frame = [
        deformation(
            frame,
            made,
            landmarks=landmarks,
            target_landmarks=np.array(TARGET_LANDMARKS),
            target_shape=(1, 1),  # the still is a square
        )
        for frame, made, landmarks in zip(
            held_out, result, follow(LANDMARKS, motion.flow(held_out)), strict=True
        )
    ]
    return Deformation(*np.mean(by_frame, axis=0).tolist())


def run(config: ShapesConfig) -> str:
    """Prints a table with a row for each run, and returns it.

    Raises:
      ValueError: If a folder is no run that has ended, or one of other pictures.
    """
    if not config.runs:
        raise ValueError("name the folder of at least one run")
    configs = {folder: read_config(Config, folder) for folder in config.runs}
    first = VARIANTS["default"]
    known = {name: getattr(first, name) for name in _PICTURES}
    known |= dict(zip(_CROPS, first.crops, strict=True))
    for folder, of_run in configs.items():
        cut = dataclasses.replace(of_run, **dict(zip(_CROPS, of_run.crops, strict=True)))
        if differing := differences(to_json(cut), dataclasses.replace(cut, **known)):
            raise ValueError(f"{folder} has {differing}; landmarks are known for the latter alone")
        if not (folder / "result.webp").is_file():
            raise ValueError(f"{folder} has no result.webp: the run has not ended")
    rows = []
    for folder, of_run in configs.items():
        held_out = data.read_pair(of_run).held_out
        shares = measure(held_out, read_video(folder / "result.webp"))
        rows.append([folder.name, *(f"{value:.3f}" for value in shares)])
    headings = [name.replace("_", " ") for name in Deformation._fields]
    print(table := tables.markdown(["", *headings], rows))
    return table
