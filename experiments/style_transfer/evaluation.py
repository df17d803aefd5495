"""Pictures and scores of a finished run: by features that no method here optimises, AlexNet's.

The methods optimise VGG's features, and would be their own judges.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax.data import images
from experiments.common import metrics
from experiments.common.runs import Metrics
from experiments.common.terms import loss_of
from experiments.style_transfer import masks
from experiments.style_transfer.data import Pictures

_LAYERS = 3  # convolutions whose features make a style
_DEEP = 5  # the convolution whose self-similarity is the content's


def finish(
    folder: Path, pictures: Pictures, image: np.ndarray | jax.Array, *, size: int
) -> Metrics:
    """Writes the result, and a strip of content, target and result; returns their total variation.

    Args:
      folder: The run's.
      pictures: What it was given.
      image: What it made, in any size.
      size: Longest side of what is written, in pixels.
    """
    content, target = (images.resize(picture, longest_side=size) for picture in pictures[:2])
    result = np.clip(jax.image.resize(image, content.shape, "cubic"), 0, 1)
    shown = {"content": content, "target": target, "result": result}
    images.write_image(folder / "result.png", result)
    images.write_image(folder / "strip.png", images.strip(list(shown.values())))
    variation = {name: float(cxjax.total_variation(shown[name])) for name in shown}
    return {"total_variation": variation}


def summary(results: Metrics) -> str:
    """The metrics of a run, in two lines."""
    last, variation = results["last_step"], results["total_variation"]
    if last["step"] == 0:
        return "no step was finished: result.png is the start"
    return (
        f"loss {last['loss']:.3f} (style {last['style']:.3f}, content {last['content']:.3f}) in "
        f"{results['seconds']:.0f} s, of which {last['seconds']:.0f} s optimising\n"
        "total variation: " + ", ".join(f"{name} {value:.4f}" for name, value in variation.items())
    )


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


def score(result: images.Picture, pictures: Pictures) -> Scores:
    """Scores a result.

    Args:
      result: `(h, w, 3)`.
      pictures: The content, of the same size, the target, and their regions if they are known.

    Returns:
      The scores.
    """
    made, kept, wanted = (_maps(p) for p in (result, pictures.content, pictures.target))
    pairs = list(zip(made[:_LAYERS], wanted[:_LAYERS], strict=True))
    sets = [tuple(maps.reshape(-1, maps.shape[-1]) for maps in pair) for pair in pairs]
    deep = [maps[_DEEP - 1].reshape(-1, maps[_DEEP - 1].shape[-1]) for maps in (made, kept)]
    regions = pictures.regions
    return Scores(
        lpips=float(metrics.lpips(result[None], pictures.content[None])[0]),
        self_similarity=float(loss_of("self_similarity")(*deep)),
        contextual=_mean(loss_of("contextual"), sets),
        relaxed_earth_mover=_mean(loss_of("relaxed_earth_mover"), sets),
        gram=_mean(loss_of("gram"), pairs),
        noise=float(cxjax.total_variation(result) / cxjax.total_variation(pictures.target)),
        semantics=None if regions is None else _semantics(made[1], wanted[1], *regions),
    )


def _maps(picture: images.Picture) -> list[jax.Array]:
    return [jnp.asarray(maps[0]) for maps in metrics.alexnet_maps(picture[None])]


def _mean(loss: Any, pairs: Any) -> float:
    return float(np.mean([float(loss(*pair)) for pair in pairs]))


def _semantics(
    made: jax.Array, wanted: jax.Array, of_content: np.ndarray, of_target: np.ndarray
) -> float:
    """As many places of each region of the target, so that none is nearest for being large."""
    x, y = (np.asarray(maps.reshape(-1, maps.shape[-1]), np.float64) for maps in (made, wanted))
    at_x, at_y = (
        masks.resize(regions, (maps.shape[0], maps.shape[1])).reshape(-1)
        for regions, maps in ((of_content, made), (of_target, wanted))
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
