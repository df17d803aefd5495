"""Points of pictures, and for each target its source by one rule or another."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax import distances, points
from cxjax.data.images import Picture
from cxjax.features.vgg import Network
from cxjax.points import Points
from experiments.correspondences.config import PointsConfig, stride

FeatureFn = Callable[[Picture], Points]
Index = np.ndarray  # source of each target, (m,)


def make_features(config: PointsConfig) -> FeatureFn:
    """A function from a picture to points, with positions in pixels, by a config's layers.

    What is left over of the sides beyond a multiple of the layers' stride plays no part.
    """
    return _make_features(config.network, config.weights, config.layers)


@functools.cache  # one compilation for all runs of a grid
def _make_features(network: Network, weights: Path | None, layers: tuple[str, ...]) -> FeatureFn:
    model, params = cxjax.load_vgg(network, path=weights, pooling="average", padding="edge")
    cell = max(map(stride, layers))

    @jax.jit
    def extract(params, image):
        maps = cast(dict[str, jax.Array], model.apply(params, image, layers=layers))
        joined = points.concatenate(maps, layers=layers)
        return points.flatten(joined, cell_size=stride(layers[0]))

    def features(image: Picture) -> Points:
        height, width = (side // cell * cell for side in image.shape[:2])
        if not (height and width):
            size = f"{image.shape[1]} x {image.shape[0]} px"
            raise ValueError(f"a picture of {size} is too small for {', '.join(layers)}")
        return extract(params, image[:height, :width])

    return features


def match(
    x: Points,
    y: Points,
    *,
    bandwidths: Sequence[float],
    spatial_weights: Sequence[float],
    size: int,
) -> dict[str, Index]:
    r"""For each target its source, by every rule; all with one distance and one centring.

    With $d_{ij}$ the cosine distance of source $i$ to target $j$ about the targets' mean, nearest
    neighbours have $\arg\min_i d_{ij}$, the Contextual Similarity $\arg\max_i
    \mathrm{CX}_{ij}$, and CoBi $\arg\min_i (d_{ij} + w_s |p_i - q_j|)$. That is CoBi from target
    to source, where its loss looks for a target of every source.

    Args:
      x: Source points, `(n, c)`, and their positions in pixels, `(n, 2)`.
      y: Target points, `(m, c)`.
      bandwidths: $h$ of the Contextual Similarity, one rule each.
      spatial_weights: $w_s$ of CoBi, one rule each, for positions as shares of the side.
      size: The pictures' side in pixels.

    Returns:
      The index of each target's source, `(m,)`, by the rule's name.
    """
    d = distances.pairwise(x.points, y.points, y.points.mean(axis=0), distance="cosine")
    matches = {"nearest neighbour": d.argmin(axis=0)}
    for h in bandwidths:
        matches[f"CX, h = {h}"], _ = cxjax.contextual_matches(x.points, y.points, bandwidth=h)
    for weight in spatial_weights:
        apart = distances.pairwise(x.positions, y.positions, y.positions[0], distance="l2")
        matches[f"CoBi, w = {weight}"] = (d + weight / size * jnp.sqrt(apart)).argmin(axis=0)
    return {name: np.asarray(index) for name, index in matches.items()}


def used(index: Index) -> float:
    """Different sources as a share of the targets: 1 if no two targets have one source."""
    return len(np.unique(index)) / len(index)
