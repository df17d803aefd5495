"""What style transfer minimises: likeness to the target's manner and to the content's things."""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

import cxjax
from cxjax import points
from cxjax.features.vgg import VGG
from experiments.losses import relative
from experiments.style_transfer.config import Config

Features = dict[str, jax.Array]


def layers(config: Config) -> tuple[str, ...]:
    """All layers that the objective looks at."""
    return tuple(dict.fromkeys((*config.style_layers, *config.content_layers)))


def features_of(config: Config, model: VGG, params: Any, image: jax.Array) -> Features:
    """Their features of an image."""
    return cast(Features, model.apply(params, image, layers=layers(config)))


def concatenate(features: Features, config: Config) -> jax.Array:
    """The style layers as one, each resized to the grid's layer and divided by its channels."""
    return points.concatenate(features, layers=config.style_layers, grid=config.grid)


def _style(config: Config, features: Features, target: Features) -> jax.Array:
    if config.loss == "contextual":
        contextual = functools.partial(
            cxjax.contextual_loss, bandwidth=config.style_bandwidth, direction=config.direction
        )
        if config.layers == "concatenated":
            x, y = (points.flatten(concatenate(found, config)) for found in (features, target))
            return contextual(x.points, y.points)
        weights = dict.fromkeys(config.style_layers, 1.0)
        return points.over_layers(contextual, features, target, weights=weights)
    loss = cxjax.gram_loss if config.loss == "gram" else cxjax.perceptual_loss
    losses = [relative(loss, features[name], target[name]) for name in config.style_layers]
    return jnp.stack(losses).mean()


def _content(config: Config, features: Features, content: Features) -> jax.Array:
    if not config.content_layers:
        return jnp.zeros(())
    if config.loss == "contextual":
        contextual = functools.partial(cxjax.contextual_loss, bandwidth=config.content_bandwidth)
        weights = dict.fromkeys(config.content_layers, 1.0)
        return points.over_layers(contextual, features, content, weights=weights)
    loss = cxjax.perceptual_loss
    losses = [relative(loss, features[name], content[name]) for name in config.content_layers]
    return jnp.stack(losses).mean()


def make_objective(
    config: Config, model: VGG
) -> Callable[[jax.Array, Any, Features, Features], tuple[jax.Array, dict[str, jax.Array]]]:
    """`(image, parameters, features of target, of content) -> (loss, its terms)`."""

    def objective(image, params, target, content):
        features = features_of(config, model, params, image)
        grey = image.mean(axis=-1, keepdims=True)
        terms = {
            "style": _style(config, features, target),
            "content": _content(config, features, content),
            "tv": cxjax.total_variation(image),
            "chroma_tv": cxjax.total_variation(image - grey),
            "range": jnp.square(image - jnp.clip(image, 0, 1)).mean(),
        }
        loss = (
            terms["style"]
            + config.content_weight * terms["content"]
            + config.tv_weight * terms["tv"]
            + config.chroma_tv_weight * terms["chroma_tv"]
            + config.range_weight * terms["range"]
        )
        return loss, {"loss": loss, **terms}

    return objective
