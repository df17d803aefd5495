"""The matches between two pictures drawn, and how many are right where the truth is known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

import cxjax
from cxjax.data import images
from cxjax.data.matches import draw_matches
from cxjax.points import Points
from experiments.common.runs import Metrics
from experiments.correspondences.config import Config, WarpsConfig
from experiments.correspondences.data import read_warped
from experiments.correspondences.matching import FeatureFn, Index, match, used
from experiments.correspondences.warp import Warp

_GAP = 12


def evaluate(
    config: Config,
    pictures: tuple[images.Picture, images.Picture],
    x: Points,
    y: Points,
    folder: Path,
) -> Metrics:
    """Matches the points of two pictures, and draws the strongest matches: the paper's Fig. 3, with
    nearest neighbours below.
    """
    _, similarity = cxjax.contextual_matches(x.points, y.points, bandwidth=config.bandwidth)
    matches = match(x, y, bandwidths=[config.bandwidth], spatial_weights=[], size=config.size)
    scale = config.drawn_size / config.size
    large = [images.resize(picture, longest_side=config.drawn_size) for picture in pictures]
    above, below = (  # CX above nearest neighbours, of the same targets
        draw_matches(
            *large,
            x_positions=np.asarray(x.positions) * scale,
            y_positions=np.asarray(y.positions) * scale,
            index=matches[name],
            similarity=np.asarray(similarity),
            strongest=config.strongest,
            apart=config.apart * config.drawn_size,
            gap=_GAP,
            line_width=config.drawn_size / 256,
        )
        for name in sorted(matches)
    )
    white = np.ones((_GAP, above.shape[1], 3), np.float32)
    images.write_image(folder / "matches.png", np.concatenate([above, white, below]))
    metrics = {
        "similarity": float(similarity.mean()),
        "same source by both, share of the targets": float(np.equal(*matches.values()).mean()),
        "points": [len(x.points), len(y.points)],
        "sources used, as a share of the targets": {n: used(i) for n, i in matches.items()},
    }
    print(f"{folder}/matches.png: CX above, nearest neighbours below")
    print(json.dumps(metrics, indent=1))
    return metrics


def evaluate_warps(config: WarpsConfig, features: FeatureFn, folder: Path) -> Metrics:
    """Scores all warps of a photograph; writes no pictures.

    Returns:
      What `score` returns, each number a list of those of the seeds, to four digits.
    """
    (name,), (condition,) = config.photographs, config.conditions
    rules = {"bandwidths": config.bandwidths, "spatial_weights": config.spatial_weights}
    scores = []
    for seed in range(config.seeds):
        source, target, warp = read_warped(name, condition, size=config.size, seed=seed)
        x, y = features(source), features(target)
        matches = match(x, y, **rules, size=config.size)
        scores.append(score(x, y, matches, warp, config.radii))
    return _listed(scores)


def _listed(values: list[Any]) -> Any:
    """The scores of several seeds as one: each number a list of numbers, to four digits."""
    if isinstance(values[0], dict):
        return {key: _listed([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [_listed(list(value)) for value in zip(*values, strict=True)]
    return [round(value, 4) for value in values]


def score(
    x: Points, y: Points, matches: Mapping[Any, Index], warp: Warp, radii: Sequence[float]
) -> dict[str, Any]:
    """Shares of matches within each radius of the truth, by rule, between two bounds.

    Targets whose true place lies outside the source are left out. `any source` is the share that a
    source drawn at random has on average, `best source` that of the source nearest to the truth: a
    grid has one only every few pixels.

    Args:
      x: Source points and positions in pixels.
      y: Target points.
      matches: Source of each target by rule, as `match` returns it.
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
    errors = {
        name: np.linalg.norm(sources[index] - truth, axis=1)[inside]
        for name, index in matches.items()
    }
    within = lambda values: [float((values <= radius).mean()) for radius in radii]
    share = {"any source": within(sources_to_truth)}
    share |= {name: within(error) for name, error in errors.items()}
    share["best source"] = within(sources_to_truth.min(axis=0))
    crowd = {}
    for name, error in errors.items():
        targets_of = np.bincount(matches[name][inside])[matches[name][inside]]
        right = error <= radii[middle(radii)]
        groups = {"wrong": targets_of[~right], "right": targets_of[right]}
        crowd[name] = {key: float(g.mean()) if len(g) else 0.0 for key, g in groups.items()}
    moved = np.linalg.norm(truth - targets, axis=1)[inside]
    return {
        "share": share,
        "used": {name: used(index[inside]) for name, index in matches.items()},
        "crowd": crowd,
        "displacement": {"mean": float(moved.mean()), "largest": float(moved.max())},
        "inside": float(inside.mean()),
    }


def middle(radii: Sequence[float]) -> int:
    """Which of the radii lies in the middle."""
    return sorted(range(len(radii)), key=radii.__getitem__)[len(radii) // 2]
