"""The runs behind the tables: every loss at every shift on three photographs; the sweep."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxjax.data import images
from experiments.common import tables
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.tables import Column, numbers
from experiments.misalignment.config import (
    LOSSES,
    OPTIMIZED,
    VARIANTS,
    Config,
    Loss,
    TableConfig,
)
from experiments.misalignment.data import load_photograph, make_pair
from experiments.misalignment.evaluation import LABELS, SCORES, write_strip

TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "contrast": "contrast"}
_DIGITS = {**SCORES, "contrast": 2}
_AXES = {"psnr": "PSNR, dB (higher is better)", "ssim": "SSIM (higher)", "lpips": "LPIPS (lower)"}
_GREYS = {"none": "silver", "mean": "black"}
_PSNR_SHOWN = 40.0  # decibels: above, a result is exact to the eye, and the curves would be flat

# The two slowest rates move a pixel by at most 0.15 in 300 steps, the noise's standard deviation:
# some of the noise stays, whatever the loss would have. They are run to show what that does.
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
SLOWEST = 0.003  # of those that are chosen from
OTHERS: dict[Loss, tuple[str, tuple[float, ...]]] = {
    "contextual": ("bandwidth", (0.1, 0.5)),
    "contextual_l2": ("bandwidth", (0.1, 0.5)),
    "cobi": ("spatial_weight", (0.1, 0.5)),
}

Rows = dict[Loss, list[dict[str, Any]]]  # scores of the finished runs of each loss


# --- The table ---


def table_runs(base: TableConfig) -> Changes:
    """A run for each loss, shift and photograph, loss by loss."""
    if base.photograph or base.shift:
        raise ValueError("the table has several: say --set photographs=... and --set shifts=...")
    return {
        name_of(loss, photograph, shift): {
            "losses": (loss,),
            "shift": shift,
            "photograph": photograph,
            **base.tuned(loss),
        }
        for loss in base.losses
        for shift in base.shifts
        for photograph in base.photographs
    }


def name_of(loss: Loss, photograph: str, shift: int) -> str:
    """The name of a run of the table."""
    return f"{loss}/{Path(photograph).stem}-shift{shift:02d}"


def rows_of(finished: Finished) -> Rows:
    """The scores of the finished runs by loss, each with its `shift` and its `photograph`."""
    rows: Rows = {}
    for name, config in finished.configs.items():
        if name in finished.metrics:
            (loss,) = config.losses
            where = {"shift": config.shift, "photograph": config.photograph}
            rows.setdefault(loss, []).append({**finished.metrics[name][loss], **where})
    return rows


def show_table(finished: Finished) -> str:
    """The tables: one for each score, mean and standard deviation over photographs and seeds; how
    often each loss has a lower LPIPS than L1; LPIPS by photograph at the last shift; and the times.
    """
    rows = rows_of(finished)
    labelled = {LABELS[loss]: runs for loss, runs in rows.items()}
    shifts = _asked(finished, "shift")
    parts = [
        tables.table(title, labelled, [_column(score, f"{x} px", shift=x) for x in shifts])
        for score, title in TITLES.items()
    ]
    if "l1" in rows:
        cells = [[LABELS[loss], *(_better(rows, loss, x) for x in shifts)] for loss in rows]
        parts.append(tables.markdown(["LPIPS below L1's", *(f"{x} px" for x in shifts)], cells))
    last = [
        _column("lpips", Path(name).stem.replace("_", " "), shift=shifts[-1], photograph=name)
        for name in _asked(finished, "photograph")
    ]
    parts.append(tables.table(f"LPIPS at {shifts[-1]} px", labelled, last))
    times = {label: [s for run in runs for s in run["seconds"]] for label, runs in labelled.items()}
    each = [f"{label} {np.mean(s):.1f} ({len(s)} runs)" for label, s in times.items()]
    return "\n\n".join([*parts, f"Seconds a run: {', '.join(each)}."])


def _asked(finished: Finished, field: str) -> list[Any]:
    """The values of a field among the runs that were asked for, in their order."""
    return list(dict.fromkeys(getattr(config, field) for config in finished.configs.values()))


def _column(score: str, title: str, **where: Any) -> Column:
    """A score of the runs that have these settings."""
    chosen = lambda run: all(run[key] == value for key, value in where.items())
    return Column(title, lambda run: run[score] if chosen(run) else None, _DIGITS[score])


def _better(rows: Rows, loss: Loss, shift: int) -> str:
    """How often a loss has a lower LPIPS than L1. The sources are compared one by one: they differ
    more than the losses do. Empty where not all runs of both are finished.
    """
    ours, theirs = (
        {run["photograph"]: run["lpips"] for run in rows[name] if run["shift"] == shift}
        for name in (loss, "l1")
    )
    if loss == "l1" or not ours or ours.keys() != theirs.keys():
        return ""
    pairs = [pair for key in ours for pair in zip(ours[key], theirs[key], strict=True)]
    return f"{sum(mine < other for mine, other in pairs)} of {len(pairs)}"


def draw(finished: Finished) -> None:
    """Writes the curves of the scores, and a strip of each photograph whose pictures are here."""
    draw_curves(finished, finished.folder / "curves.webp")
    for photograph in _asked(finished, "photograph"):
        _draw_strip(finished, photograph)
    print(f"pictures in {finished.folder}")


def draw_curves(finished: Finished, path: Path) -> None:
    """Draws the mean of each score against the shift, a line for each loss."""
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(SCORES))
    for axis, score in zip(axes, SCORES, strict=True):
        for loss, runs in rows_of(finished).items():
            shifts = sorted({run["shift"] for run in runs})
            means = [_mean(runs, score, shift) for shift in shifts]
            optimized = loss in OPTIMIZED
            colour = f"C{OPTIMIZED.index(loss)}" if optimized else _GREYS[loss]
            style = "-" if optimized else "--"
            axis.plot(shifts, means, style, color=colour, marker="o", ms=3, label=LABELS[loss])
            axis.set_xticks(shifts)
        axis.set(xlabel="shift of the targets, pixels", title=_AXES[score])
        axis.grid(alpha=0.3)
    means = [y for line in axes[0].lines for y in line.get_ydata() if np.isfinite(y)]
    axes[0].set_ylim(min(means, default=0) - 1, _PSNR_SHOWN)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, pil_kwargs={"quality": 75})


def _mean(runs: Sequence[Mapping[str, Any]], score: str, shift: int | None = None) -> float:
    """The mean over runs and seeds; NaN, which no curve shows, where there is none."""
    values = numbers(run[score] for run in runs if shift is None or run["shift"] == shift)
    return float(np.mean(values)) if values else np.nan


def _draw_strip(finished: Finished, photograph: str) -> None:
    """A row for each shift, the same source in all; only shifts of which all pictures are here."""
    rows = []
    for shift in _asked(finished, "shift"):
        names = {
            config.losses[0]: name
            for name, config in finished.configs.items()
            if (config.photograph, config.shift) == (photograph, shift)
        }
        paths = {
            LABELS[loss]: finished.folder / name / f"{loss}.png"
            for loss, name in names.items()
            if loss in OPTIMIZED
        }
        if paths and all(path.exists() for path in paths.values()):
            config = dataclasses.replace(finished.base, photograph=photograph, shift=shift)
            clean = make_pair(config, load_photograph(config), config.seeds[0]).clean
            made = {label: images.read_image(path) for label, path in paths.items()}
            rows.append((f"{shift} px", {"clean": clean, **made}))
    if rows:
        write_strip(finished.folder / f"{Path(photograph).stem}.webp", rows)


# --- The sweep ---


def tune_runs(base: Config) -> Changes:
    """Every loss at every rate, and at every value of the other setting that it has."""
    if wrong := [loss for loss in base.losses if loss not in OPTIMIZED]:
        raise ValueError(f"--losses: {wrong[0]!r} cannot be tuned; known: {', '.join(OPTIMIZED)}")
    runs = {}
    for loss in base.losses:
        other, values = OTHERS.get(loss, ("", (0.0,)))
        for value in values:
            for rate in RATES:
                settings = {"learning_rate": rate} | ({other: value} if other else {})
                label = "-".join(f"{key}{number:g}" for key, number in settings.items())
                runs[f"{loss}/{label}"] = {"losses": (loss,), **settings}
    return runs


def chosen(finished: Finished) -> dict[Loss, str]:
    """The name of each loss's run of the lowest mean LPIPS, the slowest rates aside."""
    lpips: dict[Loss, dict[str, float]] = {}
    for name, metrics in finished.metrics.items():
        config = finished.configs[name]
        if config.learning_rate >= SLOWEST:
            (loss,) = config.losses
            lpips.setdefault(loss, {})[name] = _mean([metrics[loss]], "lpips")
    return {loss: min(by_name, key=by_name.__getitem__) for loss, by_name in lpips.items()}


def show_tune(finished: Finished) -> str:
    """The mean scores of all runs, those of the chosen settings in bold."""
    best = chosen(finished).values()
    rows = []
    for name, metrics in finished.metrics.items():
        config = finished.configs[name]
        (loss,) = config.losses
        other, _ = OTHERS.get(loss, ("", ()))
        cells = [
            LABELS[loss],
            f"{config.learning_rate:g}",
            f"{other.replace('_', ' ')} {getattr(config, other):g}" if other else "",
            *(f"{_mean([metrics[loss]], score):.{digits}f}" for score, digits in SCORES.items()),
        ]
        rows.append(tables.bold(cells, name in best))
    return tables.markdown(["loss", "learning rate", "", *map(str.upper, SCORES)], rows)


# --- Both ---


def check(configs: Sequence[Config]) -> None:
    """Reads every photograph, and refuses those that are not there or too small."""
    for config in {config.photograph: config for config in configs}.values():
        load_photograph(config)


def _table_base(config: Config, **options: Any) -> TableConfig:
    """Photograph and shift are none: each run has its own."""
    own = {"photograph": "", "shift": 0, "losses": LOSSES, "seeds": (0, 1, 2)}
    return TableConfig(**{**vars(config), **own, **options})


_TUNED = {"losses": OPTIMIZED, "seeds": (0, 1)}
GRIDS = {
    "table": Grid(
        about="Every loss at every shift, on three photographs with three seeds each. `--set "
        "photographs=FILE,FILE shifts=2,4 losses=l1,cobi seeds=0` chooses others.",
        runs=table_runs,
        show=show_table,
        draw=draw,
        variants={
            "default": _table_base(VARIANTS["default"]),
            "paper": _table_base(VARIANTS["paper"]),
            "smoke": _table_base(VARIANTS["smoke"], photographs=("drawn",), shifts=(0, 2)),
        },
        check=check,
    ),
    "tune": Grid(
        about="Learning rates for each loss, and bandwidths or spatial weights where it has them, "
        "on a photograph that the table does not have.",
        runs=tune_runs,
        show=show_tune,
        variants={
            "default": dataclasses.replace(VARIANTS["default"], photograph="erase/crab", **_TUNED),
            "smoke": dataclasses.replace(VARIANTS["smoke"], **_TUNED),
        },
        check=check,
    ),
}
