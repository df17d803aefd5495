"""The means of every measure over many draws of two clouds; a table and a figure of them."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.common.runs import Metrics
from experiments.common.tables import markdown
from experiments.gaussians.config import Config
from experiments.gaussians.measures import MEASURES, Measure

_DRAWS_AT_ONCE = 50  # which stay in a CPU's cache
# Shift and standard deviation of the cells that the table shows.
CELLS = ((0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (10, 1), (0, 2), (0, 5), (0, 10), (5, 5))
_COLOURS = {
    "cosine_0.5": "#0072b2",
    "squared_l2_0.5": "#d55e00",
    "l2_0.5": "#e69f00",
    "chamfer": "#009e73",
    "paired_l2": "#666666",
}


def evaluate(config: Config, folder: Path) -> dict[str, Metrics]:
    """Computes every measure's means, and writes the table and the figure.

    Returns:
      By measure, what `evaluate_measure` returns.
    """
    metrics = {}
    for number, name in enumerate(config.measures, start=1):
        print(f"{name}: measure {number} of {len(config.measures)}", flush=True)
        metrics[name] = evaluate_measure(name, config)
    write(folder, config, metrics)
    print(table(config, metrics))
    return metrics


def evaluate_measure(name: str, config: Config) -> Metrics:
    """The `mean` of a measure over the draws and its `standard_error`, in every cell: to five and
    two digits.
    """
    values = expectation(MEASURES[name].function, config)
    return {
        key: [[float(f"{value:.{digits}g}") for value in row] for row in getattr(values, key)]
        for key, digits in (("mean", 5), ("standard_error", 2))
    }


def write(folder: Path, config: Config, metrics: Mapping[str, Metrics]) -> None:
    """Writes `table.md` and the figure into a folder."""
    (folder / "table.md").write_text(table(config, metrics) + "\n")
    write_figure(folder / "gaussians.webp", config, metrics)


class Expectation(NamedTuple):
    """Rows are standard deviations of the target's cloud, columns its shifts."""

    mean: Float[np.ndarray, "deviations shifts"]
    standard_error: Float[np.ndarray, "deviations shifts"]


def clouds(config: Config) -> tuple[Float[Array, "b n 2"], Float[Array, "b n 2"]]:
    """Standard normal points for the sources and for the targets, one pair of clouds per draw."""
    shape = (config.draws, config.points, 2)
    keys = jax.random.split(jax.random.key(config.seed))
    return jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)


def expectation(
    function: Callable[[Array, Array], Array], config: Config, grid: tuple[float, ...] | None = None
) -> Expectation:
    r"""The mean of a measure over the draws, for every shift and standard deviation.

    The source is drawn from $N(0, I)$, the target from $N(\mu e, \sigma^2 I)$ with $e$ any unit
    vector: shift $\mu$ is a length, $\sigma$ a standard deviation.

    Args:
      function: Measure, `(n, 2), (m, 2) -> ()`.
      config: Number of points and draws, seed and grid.
      grid: Values of both shift and deviation; without it the configuration's.

    Returns:
      Mean and its standard error, `(deviations, shifts)`.
    """
    values = jnp.asarray(config.grid if grid is None else grid, jnp.float32)
    deviations, shifts = (v.ravel() for v in jnp.meshgrid(values, values, indexing="ij"))
    means, errors = _expectation(function, *clouds(config), deviations, shifts)
    shape = (len(values), len(values))
    return Expectation(np.asarray(means).reshape(shape), np.asarray(errors).reshape(shape))


@functools.partial(jax.jit, static_argnums=0)
def _expectation(function, x, y, deviations, shifts):
    def cell(deviation_and_shift):
        deviation, shift = deviation_and_shift
        shift = jnp.stack([shift, jnp.zeros_like(shift)])

        def of_draw(pair):
            return function(pair[0], deviation * pair[1] + shift[None, :])

        values = jax.lax.map(of_draw, (x, y), batch_size=_DRAWS_AT_ONCE)
        return values.mean(), values.std(ddof=1) / jnp.sqrt(values.size)

    return jax.lax.map(cell, (deviations, shifts))


def table(config: Config, metrics: Mapping[str, Metrics]) -> str:
    """Mean and standard error at some cells; and how far from (0, 1) half of a measure is left."""
    cells = [cell for cell in CELLS if max(cell) <= config.largest]
    header = ["(shift, deviation)", *map(str, cells), "half-way: shift", "deviation less 1"]
    rows = []
    for name, values in metrics.items():
        mean, error = (np.asarray(values[key]) for key in ("mean", "standard_error"))
        at = [
            (round(s * config.steps_per_unit), round(m * config.steps_per_unit)) for m, s in cells
        ]
        row = [f"{mean[index]:.3f} ± {error[index]:.3f}" for index in at]
        unit = config.steps_per_unit
        for line in (mean[unit], mean[unit:, 0]):
            way = half_way(share_left(MEASURES[name], config, line, 0), config.step)
            row.append("never" if way is None else f"{way:.1f}")
        rows.append([MEASURES[name].title, *row])
    # Read down rather than across: there are more cells than measures.
    first, *others = map(list, zip(header, *rows, strict=True))
    return markdown(first, others)


def share_left(
    measure: Measure, config: Config, values: Float[np.ndarray, " k"], equal: int
) -> Float[np.ndarray, " k"]:
    """How much of a measure is left along a line of the grid: 1 where the clouds are alike.

    CX is 0 at its least, 1 / m, where nothing is matched with anything. A distance has no largest
    value, and is 0 at the end of the line.

    Args:
      measure: The measure.
      config: Its settings.
      values: Its means along the line, `(k,)`.
      equal: Where on the line the clouds are alike.

    Returns:
      Shares, `(k,)`.
    """
    end = 1 / config.points if measure.is_similarity else values[-1]
    return (values - end) / (values[equal] - end)


def half_way(shares: Float[np.ndarray, " k"], step: float) -> float | None:
    """Where shares that begin at 1 first come to 1/2; None if they never do."""
    below = np.flatnonzero(shares <= 0.5)
    if len(below) == 0:
        return None
    after, before = below[0], below[0] - 1
    return float(step * (before + (shares[before] - 0.5) / (shares[before] - shares[after])))


def write_figure(path: Path, config: Config, metrics: Mapping[str, Metrics]) -> None:
    """Writes the figure: a heat map per measure, and two panels of curves."""
    means = {name: np.asarray(values["mean"]) for name, values in metrics.items()}
    figure = Figure(figsize=(11, 9.6), layout="constrained")
    panels = figure.subplots(3, 3).ravel()
    for panel, (name, mean) in zip(panels, means.items(), strict=False):
        _draw_heat_map(figure, panel, config, name, mean)
    for panel in panels[len(means) : -2]:
        panel.set_axis_off()
    unit = config.steps_per_unit
    shift, deviation = panels[-2:]
    curves = {name: means[name] for name in _COLOURS if name in means}
    _draw_curves(shift, config, {name: mean[unit] for name, mean in curves.items()}, 0)
    shift.set(title="along the shift, at $\\sigma = 1$", xlabel="shift $\\mu$")
    if curves:
        shift.legend(frameon=False, fontsize=8, loc="upper right")
    _draw_curves(deviation, config, {name: mean[:, 0] for name, mean in curves.items()}, unit)
    deviation.set(title="along the deviation, at $\\mu = 0$", xlabel="deviation $\\sigma$")
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88, "method": 6})


def _draw_heat_map(figure: Figure, panel, config: Config, name: str, mean: np.ndarray) -> None:
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


def _draw_curves(panel, config: Config, values: Mapping[str, np.ndarray], equal: int) -> None:
    for name, line in values.items():
        share = share_left(MEASURES[name], config, line, equal)
        panel.plot(
            config.grid, share, color=_COLOURS[name], label=MEASURES[name].title.split(", h")[0]
        )
    panel.axhline(0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
    panel.set(xlim=(0, config.largest), ylim=(0, 1.3), ylabel="share left (CX: h = 0.5)")
    panel.set(xticks=_ticks(config))


def _ticks(config: Config) -> list[float]:
    return [config.largest * i / 5 for i in range(6)]
