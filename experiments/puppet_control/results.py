"""What is made of the held-out drivers: pictures and scores."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from experiments import generators, metrics, tables
from experiments.puppet_control.clips import Clip
from experiments.puppet_control.config import Config

SHOWN = 8  # held-out frames in a strip
_DIFFERS = 0.1  # of the range of a channel
_GROWN = 2  # pixels


def finish(
    config: Config,
    folder: Path,
    *,
    make: Callable[[np.ndarray], np.ndarray],
    held_out: Sequence[Clip],
    seconds: float | None,
) -> dict[str, Any]:
    """Writes what is made of the held-out drivers, and its scores; returns these."""
    drivers = np.concatenate([clip.driver for clip in held_out]).astype(np.float32) / 255
    made = generators.make_all(make, drivers)
    shown = np.linspace(0, len(drivers) - 1, SHOWN).round().astype(int)
    rows = {"given": drivers[shown], "made": made[shown]}
    if config.pair == "smiley-cat":
        figures: dict[str, Any] = judge_by_sets(made, held_out)
    else:
        # Of a user's clips the driver's and the puppet's can differ in length.
        matching = [c.puppet[c.matching(f)] for c in held_out for f in range(len(c.driver))]
        truth = np.stack(matching).astype(np.float32) / 255
        figures = judge(drivers, made, truth)
        rows["truth"] = truth[shown]
    tables.write_rows(folder, rows)
    figures = generators.write_figures(folder, figures, seconds=seconds)
    print(_shown(figures))
    return figures


def _shown(figures: Mapping[str, Any]) -> str:
    if "whole" not in figures:
        header, cells = ["LPIPS to the nearest frame", "KID"], [figures["nearest"], figures["kid"]]
        return tables.markdown(header, [[f"{cell:.3f}" for cell in cells]])
    rows = [
        [name, f"{part['psnr']:.2f}", f"{part['ssim']:.3f}", f"{part['lpips']:.3f}"]
        for name, part in (("whole", figures["whole"]), ("region", figures["region"]))
    ]
    return tables.markdown(["", "PSNR", "SSIM", "LPIPS"], rows)


def judge(drivers: np.ndarray, made: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Scores against the true frames: of whole pictures, and where driver and truth differ.

    Args:
      drivers: The drivers' frames, `(b, h, w, 3)`, in [0, 1].
      made: What was made of them.
      truth: The puppet's true frames.

    Returns:
      `"whole"` and `"region"`, each with `"psnr"`, `"ssim"` and `"lpips"`, means over the frames,
      and `"share"`, that of the region.
    """
    where = region(drivers, truth)
    figures: dict[str, Any] = {}
    for name, part in (("whole", None), ("region", where)):
        scores = {"psnr": metrics.psnr, "ssim": metrics.ssim, "lpips": metrics.lpips}
        figures[name] = {
            score: float(np.nanmean(function(made, truth, part)))
            for score, function in scores.items()
        }
    return figures | {"share": float(where.mean())}


def region(drivers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where two sets of images differ: by a tenth of the range in any channel, and 2 pixels on."""
    differs = np.abs(drivers - truth).max(axis=-1) > _DIFFERS
    return np.stack([binary_dilation(one, iterations=_GROWN) for one in differs])


def judge_by_sets(made: np.ndarray, held_out: Sequence[Clip]) -> dict[str, float]:
    """Scores where no frame is the true one: against the puppet's frames of the same action.

    Returns:
      `"nearest"`, the mean of LPIPS to the nearest of these frames; `"kid"` of the two sets.
    """
    nearest, start = [], 0
    truth = np.concatenate([clip.puppet for clip in held_out]).astype(np.float32) / 255
    for clip in held_out:
        puppets = clip.puppet.astype(np.float32) / 255
        for picture in made[start : start + len(clip.driver)]:
            distances = metrics.lpips(np.broadcast_to(picture, puppets.shape), puppets)
            nearest.append(float(distances.min()))
        start += len(clip.driver)
    return {"nearest": float(np.mean(nearest)), "kid": metrics.kid(made, truth)}
