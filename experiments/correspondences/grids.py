"""The runs behind the tables of right matches: photographs under smooth warps; the sweep."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import runs
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.tables import markdown, spread
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
    of: dict[str, list[runs.Metrics]] = {}
    for name, metrics in finished.metrics.items():
        of.setdefault(finished.configs[name].conditions[0], []).append(metrics)
    first = next(iter(finished.metrics.values()))
    rules, baseline, *others = first["share"], *first["used"]
    at = middle(finished.base.radii)
    within = f"within {finished.base.radii[at]:g} px"

    together, gains, sources = [], [], []
    for rule in rules:
        shares = [_mean([m["share"][rule] for m in group]) for group in of.values()]
        together.append([rule, *(spread(seeds) for by_radius in shares for seeds in by_radius)])
    for rule in others:
        row = [rule]
        for group in of.values():
            gain = [np.subtract(m["share"][rule][at], m["share"][baseline][at]) for m in group]
            better = f"{(np.ravel(gain) > 0).sum()} of {np.size(gain)}"
            row += [spread(_mean(gain)), better]
        gains.append(row)
    for rule in (baseline, *others):
        row = [rule]
        for group in of.values():
            row.append(spread(_mean([m["used"][rule] for m in group]), 2))
            row += [
                spread(_mean([m["crowd"][rule][part] for m in group]), 1)
                for part in ("wrong", "right")
            ]
        sources.append(row)
    alone = finished.metrics.values()
    each = [[rule, *(spread(m["share"][rule][at]) for m in alone)] for rule in rules]

    mean, largest = (
        np.concatenate([m["displacement"][key] for m in alone]) for key in ("mean", "largest")
    )
    radii = [f"{condition}, {radius:g} px" for condition in of for radius in finished.base.radii]
    better = [part for c in of for part in (f"{c}, less {baseline}", "pairs where better")]
    crowds = [
        f"{c}, {part}"
        for c in of
        for part in ("sources used", "targets of a source, if wrong", "if right")
    ]
    return "\n\n".join(
        [
            markdown(["matches within", *radii], together),
            markdown([within, *finished.metrics], each),
            markdown([within, *better], gains),
            markdown([within, *crowds], sources),
            f"Displacement: {mean.mean():.1f} px on average, {largest.max():.1f} at most, of "
            f"{finished.base.size}.",
        ]
    )


def _mean(metrics: Sequence[Any]) -> list[Any]:
    """Of each seed, and each radius if there are several, the mean over the photographs."""
    return np.mean(metrics, axis=0).tolist()


def _grid(about: str, variants: Mapping[str, WarpsConfig]) -> Grid:
    run = functools.partial(runs.run, prepare)
    return Grid(about=about, runs=warps_runs, show=show, run=run, variants=variants)


GRIDS = {
    "table": _grid(
        "Right matches on three photographs, by nearest neighbours, CX and CoBi; others by --set "
        "photographs=..., bandwidths=..., spatial_weights=... and so on.",
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
