"""How many matches are right, where the truth is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from cxjax.points import Points
from experiments.correspondences.matching import Index, used
from experiments.correspondences.warp import Warp


def score(
    x: Points, y: Points, found: Mapping[str, Index], warp: Warp, radii: Sequence[float]
) -> dict[str, Any]:
    """Shares of matches within each radius of the truth, by rule, between two bounds.

    Targets whose true place lies outside the source are left out. `any source` is the share that a
    source drawn at random has on average, `best source` that of the source nearest to the truth: a
    grid has one only every few pixels.

    Args:
      x: Source points and positions in pixels.
      y: Target points.
      found: Source of each target by rule, as `match` returns it.
      warp: Where in the source each place of the target is from.
      radii: How far from the truth a match may be, in pixels.

    Returns:
      `share`, rule -> one share per radius; `used`, rule -> different sources per target;
      `crowd`, rule -> targets that have the same source, on average over the matches that are
      wrong and right by the middle radius, 0 where there are none; `displacement`: mean and
      largest, in pixels; `inside`: targets that count, as a share.
    """
    sources, targets = (np.asarray(p.positions, np.float64) for p in (x, y))
    truth = warp(targets)
    inside = ((truth >= 0) & (truth <= warp.size)).all(axis=1)
    sources_to_truth = cdist(sources, truth[inside])
    errors = {name: np.linalg.norm(sources[i] - truth, axis=1)[inside] for name, i in found.items()}
    within = lambda values: [float((values <= radius).mean()) for radius in radii]
    share = {"any source": within(sources_to_truth)}
    share |= {name: within(error) for name, error in errors.items()}
    share["best source"] = within(sources_to_truth.min(axis=0))
    crowd = {}
    for name, error in errors.items():
        targets_of = np.bincount(found[name][inside])[found[name][inside]]
        right = error <= radii[middle(radii)]
        groups = {"wrong": targets_of[~right], "right": targets_of[right]}
        crowd[name] = {key: float(g.mean()) if len(g) else 0.0 for key, g in groups.items()}
    moved = np.linalg.norm(truth - targets, axis=1)[inside]
    return {
        "share": share,
        "used": {name: used(index[inside]) for name, index in found.items()},
        "crowd": crowd,
        "displacement": {"mean": float(moved.mean()), "largest": float(moved.max())},
        "inside": float(inside.mean()),
    }


def middle(radii: Sequence[float]) -> int:
    """Which of the radii lies in the middle."""
    return sorted(range(len(radii)), key=radii.__getitem__)[len(radii) // 2]
