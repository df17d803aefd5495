"""The losses, as functions of the picture that is optimised and of one target."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import cxjax
from experiments.losses import relative
from experiments.misalignment.config import Loss, Objective

LossFn = Callable[[jax.Array, jax.Array, Any, jax.Array], jax.Array]


def make_loss(loss: Loss, objective: Objective) -> LossFn:
    """A function `(image (h, w, 3), target (h, w, 3), parameters, key) -> scalar`.

    Args:
      loss: Name of a loss that can be optimised; the perceptual one needs `vgg()[1]` as parameters.
      objective: Its settings, with no None that the loss uses.

    Raises:
      ValueError: If the name is not that of a loss.
    """
    if loss in ("l1", "l2"):
        pixels = cxjax.l1_loss if loss == "l1" else cxjax.l2_loss
        return lambda image, target, params, key: pixels(image, target)
    if loss == "perceptual":
        return functools.partial(_perceptual, objective.layers)
    if loss not in ("contextual", "contextual_l2", "cobi", "sliced_wasserstein"):
        raise ValueError(f"{loss!r} is not a loss to optimise")

    def of_patches(image, target, params, key):
        del params
        x, y = (
            cxjax.points.patches(one, size=objective.patch, stride=objective.stride)
            for one in (image, target)
        )
        if loss == "sliced_wasserstein":
            return cxjax.sliced_wasserstein_loss(
                key, x.points, y.points, projections=objective.projections
            )
        if loss == "cobi":
            assert objective.spatial_weight is not None
            return cxjax.contextual_bilateral_loss(
                x.points,
                y.points,
                x_positions=x.positions / len(image),
                y_positions=y.positions / len(image),
                spatial_weight=objective.spatial_weight,
            )
        assert objective.bandwidth is not None
        distance = "l2" if loss == "contextual_l2" else "cosine"
        return cxjax.contextual_loss(
            x.points, y.points, bandwidth=objective.bandwidth, distance=distance
        )

    return of_patches


def _perceptual(layers, image, target, params, key):
    del key
    model, _ = vgg()
    x, y = (model.apply(params, one, layers=layers) for one in (image, target))
    return jnp.stack([relative(cxjax.perceptual_loss, x[k], y[k]) for k in layers]).mean()


@functools.cache
def vgg() -> tuple[Any, Any]:
    """VGG16 and its parameters."""
    return cxjax.load_vgg("vgg16", pooling="average", padding="edge")
