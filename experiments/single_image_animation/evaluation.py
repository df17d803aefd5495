"""What is kept of an animation: pictures, metrics, and the table that compares several."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cxjax import points
from cxjax.data import images, video
from experiments.common import tables
from experiments.common.generators import Make
from experiments.common.runs import Metrics
from experiments.common.terms import Features, loss_of
from experiments.common.training import Networks
from experiments.single_image_animation import motion
from experiments.single_image_animation.config import Config
from experiments.single_image_animation.data import Pair, frame_rate


def evaluate(config: Config, networks: Networks, pair: Pair, make: Make, folder: Path) -> Metrics:
    """Writes what is made of the held-out frames, and returns its metrics."""
    result = np.clip(np.stack([make(frame) for frame in pair.held_out]), 0, 1)
    assert networks.features is not None
    return evaluate_frames(config, networks.features, pair, result, folder)


def evaluate_frames(
    config: Config, features: Features, pair: Pair, result: np.ndarray, folder: Path
) -> Metrics:
    """The same of frames that were made, by whatever means, `(t, h, w, 3)`."""
    images.write_image(folder / "target.png", pair.target)
    write_animation(folder, pair.held_out, result, frames_per_second=frame_rate(config))
    return score(config, features, pair, result)


def write_animation(
    folder: Path, held_out: np.ndarray, result: np.ndarray, *, frames_per_second: float
) -> None:
    """Writes source | result as a WebP and a strip of some frames."""
    pairs = np.stack([images.strip([a, b]) for a, b in zip(held_out, result, strict=True)])
    rate = frames_per_second
    video.write_video(folder / "animation.webp", pairs, frames_per_second=rate)
    video.write_video(folder / "result.webp", result, frames_per_second=rate, quality=100)
    some = range(0, len(pairs), max(1, len(pairs) // 6))
    rows = [images.strip([clip[i] for i in some]) for clip in (held_out, result)]
    images.write_image(folder / "strip.png", np.concatenate(rows))


def score(config: Config, features: Features, pair: Pair, result: np.ndarray) -> Metrics:
    """The metrics of a result, and the source's own for comparison."""
    field = motion.flow(pair.held_out)
    look = make_look(features, pair.target)
    boxes = config.boxes
    carried = motion.motion_carried(field, motion.flow(result), boxes)
    return {
        "boxes": {name: list(box) for name, box in boxes.items()},
        # JSON has no NaN: null is the motion of a source that stands still.
        "motion": {name: None if np.isnan(value) else value for name, value in carried.items()},
        "flicker": motion.flicker(result, pair.held_out, field),
        "look": look(result),
        "source": {
            "flicker": motion.flicker(pair.held_out, pair.held_out, field),
            "look": look(pair.held_out),
        },
    }


def make_look(features: Features, target: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """Makes a function that tells the distance of frames' look from the target's.

    Args:
      features: `(image (h, w, 3)) -> {layer: map}`.
      target: Picture, `(h, w, 3)`.

    Returns:
      `(frames (t, h, w, 3)) -> distances`, means over the frames: `"contextual"`, the Contextual
      Loss to the target, summed over the layers (bandwidth 0.5); `"gram"`, the Gram loss as a share
      of the target's own, mean over the layers.
    """
    of_target = jax.jit(features)(target)
    each = dict.fromkeys(of_target, 1.0)

    @jax.jit
    def distances(frame, of_target):
        of_frame = features(frame)
        compare = functools.partial(points.over_layers, x=of_frame, y=of_target, weights=each)
        return {
            "contextual": compare(loss_of("contextual")),
            "gram": compare(loss_of("gram")) / len(each),
        }

    def look(frames: np.ndarray) -> dict[str, float]:
        values = [jax.device_get(distances(frame, of_target)) for frame in frames]
        return {name: float(np.mean([value[name] for value in values])) for name in values[0]}

    return look


def show(results: Mapping[str, Metrics]) -> str:
    """Metrics as a Markdown table, a row per run, under the source's own.

    Raises:
      ValueError: If the runs are not of one clip and target.
    """
    first, metrics = next(iter(results.items()))
    for name, other in results.items():
        if not np.allclose(_of_source(other), _of_source(metrics), rtol=1e-3):
            raise ValueError(
                f"{name} and {first} are not of the same clip, target and layers: the source "
                "itself has other metrics"
            )
        if other.get("boxes") != metrics.get("boxes"):
            raise ValueError(f"{name} and {first} measured motion in other boxes")
    source = {"motion": dict.fromkeys(metrics["motion"], 1.0), **metrics["source"]}
    rows = []
    for name, row in {"source": source, **results}.items():
        values = [*row["motion"].values(), *row["look"].values(), row["flicker"]]
        seconds = f"{row['seconds']:.0f}" if row.get("seconds") else ""
        rows.append([name, *("" if v is None else f"{v:.3f}" for v in values), seconds])
    names = [f"motion, {name}" for name in metrics["motion"]]
    return tables.markdown(
        ["", *names, "CX to target", "Gram to target", "flicker", "seconds"], rows
    )


def _of_source(metrics: Mapping[str, Any]) -> list[float]:
    return [metrics["source"]["flicker"], *metrics["source"]["look"].values()]
