"""Scores of a result, wherever it has settled among the targets, and pictures side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cxjax.data import images
from experiments.common import metrics, tables
from experiments.common.runs import Metrics
from experiments.common.tables import numbers, spread
from experiments.misalignment.config import Config, Loss
from experiments.misalignment.data import make_pair
from experiments.misalignment.objective import optimize

LABELS: Mapping[str, str] = {
    "none": "noisy input",
    "mean": "mean of targets",
    "l1": "L1",
    "l2": "L2",
    "perceptual": "perceptual",
    "contextual": "CX, cosine",
    "contextual_l2": "CX, squared L2",
    "cobi": "CoBi",
    "sliced_wasserstein": "sliced Wasserstein",
}
SCORES = {"psnr": 2, "ssim": 3, "lpips": 3}  # and the digits to show
_ACROSS = 6  # pictures of a strip


def evaluate(config: Config, photograph: images.Picture, folder: Path) -> Metrics:
    """Cleans the source with every loss, and writes the pictures that the first seed makes.

    Returns:
      By loss, what `evaluate_loss` returns.
    """
    pair = make_pair(config, photograph, config.seeds[0])
    shown = {"clean": pair.clean, "a target": pair.targets[0]}
    results: dict[str, Metrics] = {}
    for loss in config.losses:
        results[loss], pictures = evaluate_loss(config, photograph, loss)
        images.write_image(folder / f"{loss}.png", pictures[0])
        shown[LABELS[loss]] = pictures[0]
        parts = [f"{score.upper()} {spread(numbers(results[loss][score]))}" for score in SCORES]
        print(f"{loss}: {', '.join(parts)}, {sum(results[loss]['seconds']):.0f} s", flush=True)
    names = list(shown)
    lines = [names[i : i + _ACROSS] for i in range(0, len(names), _ACROSS)]
    write_strip(folder / "strip.webp", [("", {name: shown[name] for name in x}) for x in lines])
    print(show(results))
    return results


def evaluate_loss(
    config: Config, photograph: images.Picture, loss: Loss
) -> tuple[dict[str, list[float | None]], list[np.ndarray]]:
    """Optimises one loss with every seed.

    Returns:
      The scores, the last `loss` and the `seconds`, of each seed, to five digits; None stands for
      what JSON cannot hold: the loss where nothing is optimised, the PSNR of equal pictures. And
      the pictures that were made.
    """
    results: dict[str, list[float | None]] = {}
    pictures = []
    for seed in config.seeds:
        pair = make_pair(config, photograph, seed)
        image, last, seconds = optimize(config, loss, pair, seed)
        pictures.append(image)
        scores = score(config, image, pair.clean)
        for name, value in {**scores, "loss": last, "seconds": seconds}.items():
            rounded = float(f"{value:.5g}") if math.isfinite(value) else None
            results.setdefault(name, []).append(rounded)
    return results, pictures


def score(config: Config, image: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Scores of a result.

    Args:
      config: Settings; the shifts tried are those of its targets and one more pixel.
      image: Result, `(crop, crop, 3)`, in [0, 1].
      clean: The source without its noise, the same shape.

    Returns:
      PSNR, SSIM and LPIPS of the inner part at the shift of the highest PSNR, that shift (`down`,
      `across`), and the `contrast`: the standard deviation as a share of the clean picture's.
    """
    reach = config.shift + 1
    made, truth, (down, across) = best_shift(image, clean, reach=reach, border=config.border)
    functions = {"psnr": metrics.psnr, "ssim": metrics.ssim, "lpips": metrics.lpips}
    scores = {
        name: float(function(made[None], truth[None])[0]) for name, function in functions.items()
    }
    contrast = float(made.std() / truth.std())
    return {**scores, "contrast": contrast, "down": down, "across": across}


def best_shift(
    image: np.ndarray, clean: np.ndarray, *, reach: int, border: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Lays the inner part of an image over the clean picture where the PSNR is highest.

    Args:
      image: Image, `(h, w, 3)`.
      clean: Clean picture, the same shape.
      reach: Largest shift to try in each direction, at most `border`.
      border: Pixels on each side of the image that are left out, whatever the shift.

    Returns:
      The image's inner part `(h - 2 border, w - 2 border, 3)`, the part of the clean picture that
      is most like it, and where that lies: rows and columns from the inner part's own place.
    """
    height, width = image.shape[:2]
    if not 0 <= reach <= border or 2 * border >= min(height, width):
        raise ValueError(
            f"the border {border} must be at least the reach {reach} and leave something of "
            f"{image.shape}"
        )

    def window(picture, down, across):
        rows = slice(border + down, height - border + down)
        return picture[rows, border + across : width - border + across]

    inner = window(image, 0, 0)
    shifts = range(-reach, reach + 1)
    errors = {(i, j): np.square(inner - window(clean, i, j)).mean() for i in shifts for j in shifts}
    best = min(errors, key=lambda shift: errors[shift])
    return inner, window(clean, *best), best


def show(results: Mapping[str, Metrics]) -> str:
    """Scores by loss, mean and standard deviation of the seeds, as Markdown."""
    rows = []
    for loss, scores in results.items():
        cells = [spread(numbers(scores[name]), digits) for name, digits in SCORES.items()]
        places = zip(scores["down"], scores["across"], strict=True)
        where = ", ".join(f"{down:+.0f} {across:+.0f}" for down, across in places)
        rows.append([LABELS[loss], *cells, where, f"{np.mean(scores['seconds']):.1f}"])
    return tables.markdown(["", *map(str.upper, SCORES), "lies at", "seconds"], rows)


def write_strip(path: Path, rows: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Writes rows of pictures, each under its name, unless that is the name above.

    Args:
      path: File to write; its suffix is the format.
      rows: Name of each row, or "", and its pictures `(h, w, 3)` by name, all of one size.
    """
    width = max(len(pictures) for _, pictures in rows)
    inches = 1.3  # of a picture: 150 dots, half as many again as pixels of the default crop
    size = (inches * width + 0.25, (inches + 0.15) * len(rows))
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=size, dpi=115, layout=tight)
    axes = figure.subplots(len(rows), width, squeeze=False)
    above: list[str] = []
    for (row, pictures), line in zip(rows, axes, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for (name, picture), axis in zip(pictures.items(), line, strict=False):
            axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            if list(pictures) != above:
                axis.set_title(name, fontsize=8)
        line[0].set_ylabel(row, fontsize=8)
        above = list(pictures)
    figure.savefig(path, pil_kwargs={"quality": 75})
