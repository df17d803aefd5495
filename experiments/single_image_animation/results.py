"""What is kept of an animation: pictures, figures, and the table that compares several."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cxjax.data import images, video
from experiments.generators import FIGURES, Features, write_figures
from experiments.single_image_animation import clips, measures
from experiments.single_image_animation.config import Config


def finish(
    config: Config,
    folder: Path,
    *,
    features: Features,
    held_out: np.ndarray,
    result: np.ndarray,
    target: np.ndarray,
    seconds: float | None,
) -> dict[str, Any]:
    """Writes pictures and figures of what was made of the held-out frames; returns the figures."""
    write_animation(folder, held_out, result, frames_per_second=clips.frame_rate(config))
    figures = judge(config, features, held_out, result, target)
    figures = write_figures(folder, figures, seconds=seconds)
    print(table({folder.name: figures}))
    return figures


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


def judge(
    config: Config,
    features: Features,
    held_out: np.ndarray,
    result: np.ndarray,
    target: np.ndarray,
) -> dict[str, Any]:
    """The figures of a result, and the source's own for comparison."""
    motion = measures.flow(held_out)
    look = measures.make_look(features, target)
    boxes = config.boxes
    carried = measures.motion_carried(motion, measures.flow(result), boxes)
    return {
        "boxes": {name: list(box) for name, box in boxes.items()},
        # JSON has no NaN: null is the motion of a source that stands still.
        "motion": {name: None if np.isnan(value) else value for name, value in carried.items()},
        "flicker": measures.flicker(result, held_out, motion),
        "look": look(result),
        "source": {
            "flicker": measures.flicker(held_out, held_out, motion),
            "look": look(held_out),
        },
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Figures as a Markdown table, a row per run, under the source's own."""
    first = next(iter(results.values()))
    names = [f"motion, {name}" for name in first["motion"]]
    names += ["CX to target", "Gram to target", "flicker", "seconds"]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    source = {"motion": dict.fromkeys(first["motion"], 1.0), **first["source"]}
    for name, row in {"source": source, **results}.items():
        values = [*row["motion"].values(), *row["look"].values(), row["flicker"]]
        seconds = f"{row['seconds']:.0f}" if row.get("seconds") else ""
        cells = [name, *("" if v is None else f"{v:.3f}" for v in values), seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Shows the figures of several runs as one table."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of one or more runs on the same clip and target."""


def compare(config: CompareConfig) -> None:
    """Shows the figures of several runs as one table.

    Raises:
      ValueError: If a folder has no results, or the runs are not of one clip and target.
    """
    results = {}
    for folder in config.runs:
        if not (folder / FIGURES).is_file():
            raise ValueError(f"{folder} has no {FIGURES}: it is no run, or one that has not ended")
        results[str(folder)] = json.loads((folder / FIGURES).read_text())
    if not results:
        raise ValueError("name the folder of at least one run")
    sources = {name: _source_figures(figures) for name, figures in results.items()}
    first = next(iter(sources))
    for name, figures in sources.items():
        if not np.allclose(figures, sources[first], rtol=1e-3):
            raise ValueError(
                f"{name} and {first} are not of the same clip, target and layers: the source "
                "itself has other figures"
            )
        if results[name].get("boxes") != results[first].get("boxes"):
            raise ValueError(f"{name} and {first} measured motion in other boxes")
    print(table(results))


def _source_figures(figures: dict[str, Any]) -> list[float]:
    source = figures["source"]
    return [source["flicker"], *source["look"].values()]
