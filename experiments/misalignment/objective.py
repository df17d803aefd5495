"""The losses, as functions of the picture that is optimised and of one target."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import cxjax
from experiments.common.terms import loss_of
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
        of_pixels = loss_of(loss)
        return lambda image, target, params, key: of_pixels(image, target)
    if loss == "perceptual":
        return functools.partial(_perceptual, objective.layers)
    bandwidth = {"bandwidth": objective.bandwidth}
    terms = {
        "contextual": ("contextual", bandwidth),
        "contextual_l2": ("contextual", {**bandwidth, "distance": "l2"}),
        "cobi": ("contextual_bilateral", {"spatial_weight": objective.spatial_weight}),
        "sliced_wasserstein": ("sliced_wasserstein", {"projections": objective.projections}),
    }
    if loss not in terms:
        raise ValueError(f"{loss!r} is not a loss to optimise")
    name, options = terms[loss]
    of_points = loss_of(name, **options)

    def of_patches(image, target, params, key):
        del params
        x, y = (
            cxjax.points.patches(picture, size=objective.patch, stride=objective.stride)
            for picture in (image, target)
        )
        if loss == "sliced_wasserstein":
            return of_points(key, x.points, y.points)
        places = {}
        if loss == "cobi":
            sets = {"x_positions": x, "y_positions": y}
            places = {name: patches.positions / len(image) for name, patches in sets.items()}
        return of_points(x.points, y.points, **places)

    return of_patches


def _perceptual(layers, image, target, params, key):
    del key
    model, _ = vgg()
    x, y = (model.apply(params, picture, layers=layers) for picture in (image, target))
    return jnp.stack([loss_of("perceptual")(x[layer], y[layer]) for layer in layers]).mean()


@functools.cache
def vgg() -> tuple[Any, Any]:
    """VGG16 and its parameters."""
    return cxjax.load_vgg("vgg16", pooling="average", padding="edge")
