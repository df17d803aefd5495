"""Scores of a stylised picture, by features that no recipe here optimises: AlexNet's.

The recipes optimise VGG's features, and would be their own judges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax.data import images
from experiments import metrics
from experiments.losses import relative, self_similarity_loss
from experiments.style_transfer import masks

_LAYERS = 3  # convolutions whose features make a manner
_DEEP = 5  # the convolution whose self-similarity is the content's


class Scores(NamedTuple):
    """Content and style are distances, noise a ratio, semantics a share."""

    lpips: float
    """Of content and result."""
    self_similarity: float
    """Difference of the self-similarities of content and result, 0 to 2."""
    contextual: float
    """Contextual Loss of result and target, mean over the first three layers."""
    relaxed_earth_mover: float
    """Their relaxed earth mover's distance, of 1 - cos, the same mean."""
    gram: float
    """Their Gram loss as a share of the target's own, the same mean."""
    noise: float
    """Total variation of the result over that of the target."""
    semantics: float | None
    """Share of the result's places nearest to the like region of the target, mean over regions."""


def score(
    result: images.Picture,
    content: images.Picture,
    target: images.Picture,
    regions: tuple[np.ndarray, np.ndarray] | None = None,
) -> Scores:
    """Scores a result.

    Args:
      result: `(h, w, 3)`.
      content: `(h, w, 3)`.
      target: `(h', w', 3)`.
      regions: The number of each pixel's region, `(h, w)` of the content and `(h', w')` of the
        target, if they are known.

    Returns:
      The scores.
    """
    made, kept, wanted = (_maps(picture) for picture in (result, content, target))
    pairs = list(zip(made[:_LAYERS], wanted[:_LAYERS], strict=True))
    sets = [tuple(found.reshape(-1, found.shape[-1]) for found in pair) for pair in pairs]
    deep = [maps[_DEEP - 1].reshape(-1, maps[_DEEP - 1].shape[-1]) for maps in (made, kept)]
    return Scores(
        lpips=float(metrics.lpips(result[None], content[None])[0]),
        self_similarity=float(self_similarity_loss(*deep)),
        contextual=_mean(cxjax.contextual_loss(*pair) for pair in sets),
        relaxed_earth_mover=_mean(2 * cxjax.relaxed_earth_mover_loss(*pair) for pair in sets),
        gram=_mean(relative(cxjax.gram_loss, *pair) for pair in pairs),
        noise=float(cxjax.total_variation(result) / cxjax.total_variation(target)),
        semantics=None if regions is None else _semantics(made[1], wanted[1], *regions),
    )


def _maps(picture: images.Picture) -> list[jax.Array]:
    return [jnp.asarray(found[0]) for found in metrics.alexnet_maps(picture[None])]


def _mean(values) -> float:
    return float(np.mean([float(value) for value in values]))


def _semantics(
    made: jax.Array, wanted: jax.Array, of_content: np.ndarray, of_target: np.ndarray
) -> float:
    """As many places of each region of the target, so that none is nearest for being large."""
    x, y = (np.asarray(found.reshape(-1, found.shape[-1]), np.float64) for found in (made, wanted))
    at_x, at_y = (
        masks.resize(regions, (found.shape[0], found.shape[1])).reshape(-1)
        for regions, found in ((of_content, made), (of_target, wanted))
    )
    numbers = np.unique(at_x)
    fewest = min((at_y == number).sum() for number in numbers)
    random = np.random.default_rng(0)
    chosen = np.concatenate(
        [random.choice(np.flatnonzero(at_y == number), fewest, replace=False) for number in numbers]
    )
    mean = y[chosen].mean(axis=0)
    x, y = (a - mean for a in (x, y[chosen]))
    x, y = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9) for a in (x, y))
    nearest = at_y[chosen][np.argmax(x @ y.T, axis=1)]
    return float(np.mean([(nearest[at_x == number] == number).mean() for number in numbers]))
