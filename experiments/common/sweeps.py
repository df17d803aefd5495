"""Sweeps of the learning rate: every loss of a table is tried at the same rates, by one rule."""

from collections.abc import Mapping
from typing import Any

from experiments.common import tables
from experiments.common.grids import Changes, Finished

Sweep = Mapping[str, Mapping[float, Mapping[str, float]]]  # scores by loss and rate

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of Adam
RANKED = {"psnr": -1, "ssim": -1, "lpips": 1}  # and whether less is better


def runs(losses: Mapping[Any, Mapping[str, Any]], folder: str = "") -> Changes:
    """Runs of every loss at every rate, named `folder/loss-rate`.

    Args:
      losses: What differs from the base, by loss.
      folder: First part of the names, if there is to be one.
    """
    prefix = f"{folder}/" if folder else ""
    return {
        f"{prefix}{loss}-{rate:g}": {**changes, "learning_rate": rate}
        for rate in RATES
        for loss, changes in losses.items()
    }


def collect(finished: Finished, part: str = "", folder: str = "") -> dict[Any, dict[float, dict]]:
    """The scores by loss and rate; none at all where the loss did not stay finite.

    Args:
      finished: The finished runs of a grid.
      part: Name of the scores among the metrics, if these are no scores themselves.
      folder: First part of the names of the runs, if they have one.
    """
    sweep: dict[Any, dict[float, dict]] = {}
    for name, config in finished.configs.items():
        if folder and not name.startswith(f"{folder}/"):
            continue
        by_rate = sweep.setdefault(config.loss, {})
        if name in finished.metrics:
            scores = finished.metrics[name]
            scores = scores[part] if part else scores
            by_rate[config.learning_rate] = {score: scores[score] for score in RANKED}
        elif name in finished.diverged:
            by_rate[config.learning_rate] = {}
    return sweep


def best_rates(sweep: Sweep) -> dict[Any, float]:
    """Of the rates tried for each loss the one of the best mean rank by PSNR, SSIM and LPIPS; of
    equals, that of the least LPIPS.

    One score alone would mislead: LPIPS prefers L1 the less it is trained.
    """
    best = {}
    for loss, tried in sweep.items():
        by_rate = {rate: scores for rate, scores in tried.items() if scores}
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
            scores = by_rate.get(rate)
            cell = "{psnr:.2f} / {ssim:.3f} / {lpips:.3f}".format(**scores) if scores else ""
            cell = "diverged" if scores == {} else cell
            cells += tables.bold([cell], best.get(loss) == rate)
        rows.append([names[loss], *cells])
    return tables.markdown(
        ["PSNR / SSIM / LPIPS, validation", *(f"{rate:g}" for rate in rates)], rows
    )
