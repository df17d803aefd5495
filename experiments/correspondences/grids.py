"""The runs behind the tables of right matches: photographs under smooth warps; the sweep."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import runs
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.tables import markdown, metric, spread
from experiments.correspondences.config import WarpsConfig
from experiments.correspondences.evaluation import evaluate_warps, middle
from experiments.correspondences.matching import make_features

LAYERS = ("conv3_2", "conv4_2")


def prepare(config: WarpsConfig) -> Callable[[Path], runs.Metrics]:
    """Loads the network; what it returns scores the warps of a photograph."""
    return functools.partial(evaluate_warps, config, make_features(config))


def warps_runs(base: WarpsConfig) -> Changes:
    """A run for each condition and photograph."""
    return {
        f"{photograph}-{condition}": {"photographs": (photograph,), "conditions": (condition,)}
        for condition in base.conditions
        for photograph in base.photographs
    }


def show(finished: Finished) -> str:
    """Four Markdown tables: matches of all photographs together, of each on its own, what is gained
    over nearest neighbours, and how often a source is used.

    A number is the mean over the seeds with its standard deviation; of all photographs together,
    each seed's is itself the mean over the photographs.
    """
    groups: dict[str, list[runs.Metrics]] = {}
    for name, metrics in finished.metrics.items():
        groups.setdefault(finished.configs[name].conditions[0], []).append(metrics)
    every = list(finished.metrics.values())
    rules, baseline, *others = every[0]["share"], *every[0]["used"]
    at = middle(finished.base.radii)
    within = f"within {finished.base.radii[at]:g} px"

    together, each, gains, sources = [], [], [], []
    for rule in rules:
        shares = [seeds for group in groups.values() for seeds in _mean(group, "share", rule)]
        together.append([rule, *map(spread, shares)])
        each.append([rule, *(spread(metrics["share"][rule][at]) for metrics in every)])
    for rule in others:
        row = [rule]
        for group in groups.values():
            gain = [np.subtract(m["share"][rule][at], m["share"][baseline][at]) for m in group]
            row.append(spread(np.mean(gain, axis=0).tolist()))
            row.append(f"{(np.ravel(gain) > 0).sum()} of {np.size(gain)}")
        gains.append(row)
    for rule in (baseline, *others):
        row = [rule]
        for group in groups.values():
            row.append(spread(_mean(group, "used", rule), 2))
            row += [spread(_mean(group, "crowd", rule, part), 1) for part in ("wrong", "right")]
        sources.append(row)

    radii = [f"{name}, {radius:g} px" for name in groups for radius in finished.base.radii]
    better = [title for c in groups for title in (f"{c}, less {baseline}", "pairs where better")]
    titles = ("sources used", "targets of a source, if wrong", "if right")
    crowds = [f"{condition}, {title}" for condition in groups for title in titles]
    moved, largest = (
        np.concatenate([metrics["displacement"][key] for metrics in every])
        for key in ("mean", "largest")
    )
    parts = [
        markdown(["matches within", *radii], together),
        markdown([within, *finished.metrics], each),
        markdown([within, *better], gains),
        markdown([within, *crowds], sources),
        f"Displacement: {moved.mean():.1f} px on average, {largest.max():.1f} at most, of "
        f"{finished.base.size}.",
    ]
    return "\n\n".join(parts)


def _mean(group: Sequence[runs.Metrics], *keys: str) -> list[Any]:
    """Of each seed, and each radius if there are several, the mean over the photographs."""
    return np.mean([metric(*keys)(metrics) for metrics in group], axis=0).tolist()


def _grid(about: str, variants: Mapping[str, WarpsConfig]) -> Grid:
    run = functools.partial(runs.run, prepare)
    return Grid(about=about, runs=warps_runs, show=show, run=run, variants=variants)


GRIDS = {
    "table": _grid(
        "Right matches on three photographs, by nearest neighbours, CX and CoBi. `--set "
        "photographs=rocket bandwidths=0.3 radii=4,8 seeds=2`, for example, chooses others.",
        {
            "default": WarpsConfig(layers=LAYERS),
            "smoke": WarpsConfig(
                photographs=("chelsea",),
                seeds=2,
                size=48,
                layers=("conv2_2",),
                bandwidths=(0.2,),
                radii=(2.0, 4.0, 8.0),
            ),
        },
    ),
    "sweep": _grid(
        "Bandwidths and spatial weights on a photograph that the table does not have.",
        {
            "default": WarpsConfig(
                layers=LAYERS,
                photographs=("rocket",),
                bandwidths=(0.05, 0.1, 0.2, 0.5, 1.0),
                spatial_weights=(0.1, 0.25, 0.5, 1.0, 2.0),
                seeds=3,
            ),
        },
    ),
}
