"""Sweeps of the learning rate: every loss of a table is tried at the same rates, by one rule."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments import tables

Sweep = Mapping[str, Mapping[float, Mapping[str, float]]]  # scores by loss and rate

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of Adam
RANKED = {"psnr": -1, "ssim": -1, "lpips": 1}  # and whether less is better


def collect(
    losses: Mapping[Any, Any],
    run: Callable[[Any], tables.Figures],
    config: tables.TableConfig,
    *,
    part: str | None = None,
    folder: str = "tuning",
) -> Sweep:
    """The scores of every loss at every rate; what has no file yet is run.

    Args:
      losses: Configuration of each loss, with a `learning_rate` that the sweep sets.
      run: `(configuration) -> figures`.
      config: Where the files are.
      part: Name of the scores among the figures, if these are no scores themselves.
      folder: Where the runs are, under those of all runs and results.

    Returns:
      The scores by loss and rate, of those that are run; none at all where the loss was not finite.
    """
    names = {(loss, rate): f"{folder}/{loss}-{rate:g}" for rate in RATES for loss in losses}
    runs = {
        name: dataclasses.replace(losses[loss], learning_rate=rate)
        for (loss, rate), name in names.items()
    }
    found = tables.collect_trained(runs, run, config)

    def scores(figures: tables.Figures) -> dict[str, float]:
        if tables.DIVERGED in figures:
            return {}
        of_part = figures[part] if part else figures
        return {name: of_part[name] for name in RANKED}

    sweep: dict[Any, dict[float, dict[str, float]]] = {loss: {} for loss in losses}
    for (loss, rate), name in names.items():
        if name in found:
            sweep[loss][rate] = scores(found[name])
    return sweep


def best_rates(sweep: Sweep) -> dict[str, float]:
    """Of the rates tried for each loss the one of the best mean rank by PSNR, SSIM and LPIPS; of
    equals, that of the least LPIPS.

    One score alone would mislead: LPIPS prefers L1 the less it is trained.
    """
    best = {}
    for loss, found in sweep.items():
        by_rate = {rate: scores for rate, scores in found.items() if scores}
        ranks = dict.fromkeys(by_rate, 0)
        for score, sign in RANKED.items():
            ordered = sorted(by_rate, key=lambda rate: sign * by_rate[rate][score])
            for rank, rate in enumerate(ordered):
                ranks[rate] += rank
        if by_rate:
            best[loss] = min(by_rate, key=lambda rate: (ranks[rate], by_rate[rate]["lpips"]))
    return best


def show(sweep: Sweep, names: Mapping[Any, str]) -> str:
    """A sweep as a table, a row for each loss by its name, the best rate in bold."""
    best, rows = best_rates(sweep), []
    rates = sorted({rate for by_rate in sweep.values() for rate in by_rate})
    for loss, by_rate in sweep.items():
        cells = []
        for rate in rates:
            if row := by_rate.get(rate):
                cell = f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['lpips']:.3f}"
            else:
                cell = tables.DIVERGED if rate in by_rate else ""
            cells.append(f"**{cell}**" if best.get(loss) == rate else cell)
        rows.append([names[loss], *cells])
    header = ["PSNR / SSIM / LPIPS, validation", *(f"{rate:g}" for rate in rates)]
    return tables.markdown(header, rows)
