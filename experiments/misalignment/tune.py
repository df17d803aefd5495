"""The settings of each loss, chosen on a photograph that the table does not have."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.misalignment.config import OPTIMIZED, VARIANTS, Config, Loss, check_distinct
from experiments.misalignment.figures import LABELS
from experiments.misalignment.pairs import load_photograph
from experiments.misalignment.train import measure, numbers

# The two slowest move a pixel by at most 0.15 in 300 steps, the noise's standard deviation: some of
# the noise stays, whatever the loss would have. They are run to show what that does.
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
SLOWEST = 0.003  # of those that are chosen from
OTHERS: dict[Loss, tuple[str, tuple[float, ...]]] = {
    "contextual": ("bandwidth", (0.1, 0.5)),
    "contextual_l2": ("bandwidth", (0.1, 0.5)),
    "cobi": ("spatial_weight", (0.1, 0.5)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Tries learning rates, and bandwidths or spatial weights, on another photograph."""

    results: Path
    """Folder of the runs' small files: what it has is not run again."""
    photograph: str = "erase/crab"
    """Photograph to tune on: an id of the training split of the set `photographs`, or a file."""
    losses: tuple[Loss, ...] = OPTIMIZED
    """Losses to tune."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds, at least 0, whose mean score counts."""

    def __post_init__(self) -> None:
        check_distinct(self, "losses", "seeds")
        if bad := [loss for loss in self.losses if loss not in OPTIMIZED]:
            raise ValueError(f"--losses: {bad[0]!r} cannot be tuned; known: {', '.join(OPTIMIZED)}")


def runs_of(config: TuneConfig) -> dict[str, Config]:
    """The runs by name of file."""
    runs = {}
    for loss in config.losses:
        name, values = OTHERS.get(loss, ("", (0.0,)))
        for value in values:
            for rate in RATES:
                settings: dict[str, Any] = {"learning_rate": rate} | ({name: value} if name else {})
                label = "-".join(f"{key}{number:g}" for key, number in settings.items())
                runs[f"{loss}/{label}"] = dataclasses.replace(
                    VARIANTS["default"],
                    photograph=config.photograph,
                    losses=(loss,),
                    seeds=config.seeds,
                    **settings,
                )
    return runs


def chosen(runs: Mapping[str, Config], found: Mapping[str, Mapping[str, Any]]) -> dict[Loss, str]:
    """The name of each loss's run of the lowest mean LPIPS, the slowest rates aside."""
    best: dict[Loss, str] = {}
    for name, run in runs.items():
        loss = run.losses[0]
        if name not in found or run.learning_rate is None or run.learning_rate < SLOWEST:
            continue
        if loss not in best or _mean(found[name], "lpips") < _mean(found[best[loss]], "lpips"):
            best[loss] = name
    return best


def run(config: TuneConfig) -> str:
    """Runs what is missing, prints what was found and returns it, the chosen in bold."""
    runs = runs_of(config)
    photograph = load_photograph(next(iter(runs.values())))
    found = tables.collect(
        runs, lambda _, run: measure(run, photograph, run.losses[0])[0], config.results
    )
    best = set(chosen(runs, found).values())
    rows = []
    for name, figures in found.items():
        run = runs[name]
        other, _ = OTHERS.get(run.losses[0], ("", ()))
        cells = [
            LABELS[run.losses[0]],
            f"{run.learning_rate:g}",
            f"{other.replace('_', ' ')} {getattr(run, other):g}" if other else "",
            *(f"{_mean(figures, k):.{n}f}" for k, n in (("psnr", 2), ("ssim", 3), ("lpips", 3))),
        ]
        rows.append([f"**{cell}**" if name in best and cell else cell for cell in cells])
    header = ["loss", "learning rate", "", "PSNR", "SSIM", "LPIPS"]
    printed = tables.markdown(header, rows)
    print(printed)
    return printed


def _mean(figures: Mapping[str, Any], score: str) -> float:
    return float(np.mean(numbers(figures[score])))
