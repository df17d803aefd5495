"""Heat maps of the measures, and how each falls along the two axes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.gaussians.config import Config
from experiments.gaussians.measures import MEASURES, share_left

_CURVES = {
    "cosine_0.5": "#0072b2",
    "squared_l2_0.5": "#d55e00",
    "l2_0.5": "#e69f00",
    "chamfer": "#009e73",
    "paired_l2": "#666666",
}


def write(path: Path, config: Config, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the figure: a heat map per measure, and two panels of curves."""
    means = {name: np.asarray(figures["mean"]) for name, figures in found.items()}
    figure = Figure(figsize=(11, 9.6), layout="constrained")
    panels = figure.subplots(3, 3).ravel()
    for panel, (name, mean) in zip(panels, means.items(), strict=False):
        _heat_map(figure, panel, config, name, mean)
    one = config.steps_per_unit
    shift, deviation = panels[-2:]
    curves = {name: means[name] for name in _CURVES if name in means}
    _curves(shift, config, {name: mean[one] for name, mean in curves.items()}, 0)
    shift.set(title="along the shift, at $\\sigma = 1$", xlabel="shift $\\mu$")
    shift.legend(frameon=False, fontsize=8, loc="upper right")
    _curves(deviation, config, {name: mean[:, 0] for name, mean in curves.items()}, one)
    deviation.set(title="along the deviation, at $\\mu = 0$", xlabel="deviation $\\sigma$")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88, "method": 6})


def _heat_map(figure: Figure, panel, config: Config, name: str, mean: np.ndarray) -> None:
    measure = MEASURES[name]
    half = config.step / 2
    image = panel.imshow(
        mean,
        origin="lower",
        extent=(-half, config.largest + half, -half, config.largest + half),
        cmap="viridis" if measure.is_similarity else "viridis_r",
        vmin=0,
        vmax=0.6 if measure.is_similarity else None,
    )
    figure.colorbar(image, ax=panel, shrink=0.9)
    panel.plot(0, 1, "+", color="black", markersize=9)  # where the clouds are alike
    panel.set(title=measure.title, xlabel="shift $\\mu$", ylabel="deviation $\\sigma$")
    panel.set(xticks=_ticks(config), yticks=_ticks(config))


def _curves(panel, config: Config, values: Mapping[str, np.ndarray], equal: int) -> None:
    for name, line in values.items():
        share = share_left(MEASURES[name], config, line, equal)
        panel.plot(
            config.grid, share, color=_CURVES[name], label=MEASURES[name].title.split(", h")[0]
        )
    panel.axhline(0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
    panel.set(xlim=(0, config.largest), ylim=(0, 1.3), ylabel="share left (CX: h = 0.5)")
    panel.set(xticks=_ticks(config))


def _ticks(config: Config) -> list[float]:
    return [config.largest * i / 5 for i in range(6)]
