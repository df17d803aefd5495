"""Figures: results side by side with their names, and scores against the shift."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from experiments.misalignment.config import OPTIMIZED, Loss

LABELS: dict[Loss, str] = {
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
SCORES = (("psnr", 2), ("ssim", 3), ("lpips", 3))  # and the digits to show
_GREYS = {"none": "silver", "mean": "black"}
_BETTER = {"psnr": "PSNR, dB (higher is better)", "ssim": "SSIM (higher)", "lpips": "LPIPS (lower)"}
_PSNR_SHOWN = 40.0  # decibels: above, a result is exact to the eye, and the curves would be flat


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
    _save(figure, path)


def write_curves(
    path: Path, scores: Mapping[Loss, Mapping[int, Mapping[str, list[float]]]]
) -> None:
    """Draws the mean of each score against the shift, a line for each loss.

    Args:
      path: File to write.
      scores: Numbers by loss, shift and score.
    """
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(SCORES))
    for axis, (score, _) in zip(axes, SCORES, strict=True):
        for loss, by_shift in scores.items():
            shifts = sorted(by_shift)
            means = [np.mean(by_shift[shift][score]) for shift in shifts]
            optimized = loss in OPTIMIZED
            colour = f"C{OPTIMIZED.index(loss)}" if optimized else _GREYS[loss]
            style = "-" if optimized else "--"
            axis.plot(shifts, means, style, color=colour, marker="o", ms=3, label=LABELS[loss])
            axis.set_xticks(shifts)
        axis.set(xlabel="shift of the targets, pixels", title=_BETTER[score])
        axis.grid(alpha=0.3)
    lowest = min(np.mean(one["psnr"]) for by_shift in scores.values() for one in by_shift.values())
    axes[0].set_ylim(lowest - 1, _PSNR_SHOWN)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    Image.open(drawn).convert("RGB").save(path, quality=75)
