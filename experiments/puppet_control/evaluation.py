"""What is made of the held-out drivers: pictures and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation

from experiments.common import metrics, tables
from experiments.common.generators import Make, make_all
from experiments.common.runs import Metrics
from experiments.common.tables import Column, metric
from experiments.common.training import Networks
from experiments.puppet_control.config import Config
from experiments.puppet_control.data import Clip, Clips

SHOWN = 8  # held-out frames in a strip
_DIFFERS = 0.1  # of the range of a channel
_GROWN = 2  # pixels

BY_SETS = (Column("LPIPS to the nearest frame", metric("nearest")), Column("KID", metric("kid")))


def evaluate(config: Config, networks: Networks, clips: Clips, make: Make, folder: Path) -> Metrics:
    """Writes what is made of the held-out drivers, and returns its scores."""
    drivers = clips.drivers()
    made = make_all(make, drivers)
    shown = np.linspace(0, len(drivers) - 1, SHOWN).round().astype(int)
    rows = {"given": drivers[shown], "made": made[shown]}
    if config.pair == "smiley-cat":
        scores: Metrics = score_by_sets(made, clips.held_out)
    else:
        # Of a user's clips the driver's and the puppet's can differ in length.
        matching = [c.puppet[c.matching(f)] for c in clips.held_out for f in range(len(c.driver))]
        truth = np.stack(matching).astype(np.float32) / 255
        scores = score(drivers, made, truth)
        rows["truth"] = truth[shown]
    tables.write_rows(folder, rows)
    return scores


def columns_of(part: str, prefix: str = "") -> list[Column]:
    """Columns of the scores of whole pictures (`"whole"`) or of the region that differs."""
    digits = {"psnr": 2, "ssim": 3, "lpips": 3}
    return [
        Column(f"{prefix if name == 'psnr' else ''}{name.upper()}", metric(part, name), number)
        for name, number in digits.items()
    ]


def show(results: Mapping[str, Metrics]) -> str:
    """The scores of one or more runs, as a table."""
    several = len(results) > 1
    if not any("whole" in metrics for metrics in results.values()):
        rows = {name if several else "": [metrics] for name, metrics in results.items()}
        return tables.table("", rows, BY_SETS)
    rows = [
        [f"{name}, {part}" if several else part, *tables.cells([metrics], columns_of(part))]
        for name, metrics in results.items()
        for part in ("whole", "region")
    ]
    return tables.markdown(["", "PSNR", "SSIM", "LPIPS"], rows)


def score(drivers: np.ndarray, made: np.ndarray, truth: np.ndarray) -> Metrics:
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
    functions = {"psnr": metrics.psnr, "ssim": metrics.ssim, "lpips": metrics.lpips}
    scores = {
        name: {
            key: float(np.nanmean(function(made, truth, part)))
            for key, function in functions.items()
        }
        for name, part in (("whole", None), ("region", where))
    }
    return {**scores, "share": float(where.mean())}


def region(drivers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where two sets of images differ: by a tenth of the range in any channel, and 2 pixels on."""
    differs = np.abs(drivers - truth).max(axis=-1) > _DIFFERS
    return np.stack([binary_dilation(pixels, iterations=_GROWN) for pixels in differs])


def score_by_sets(made: np.ndarray, held_out: Sequence[Clip]) -> dict[str, float]:
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
