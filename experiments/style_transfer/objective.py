"""What style transfer minimises: likeness to the target's manner and to the content's things."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

import cxjax
from cxjax.features.vgg import VGG
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
    grid = features[config.grid].shape[:2]
    resized = [
        jax.image.resize(f, (*grid, f.shape[-1]), "linear") / f.shape[-1]
        for f in (features[name] for name in config.style_layers)
    ]
    return jnp.concatenate(resized, axis=-1)


def _points(features: jax.Array) -> jax.Array:
    return features.reshape(-1, features.shape[-1])


def _style(config: Config, features: Features, target: Features) -> jax.Array:
    if config.loss == "contextual":
        if config.layers == "concatenated":
            pairs = [(concatenate(features, config), concatenate(target, config))]
        else:
            pairs = [(features[name], target[name]) for name in config.style_layers]
        losses = [
            cxjax.contextual_loss(
                _points(x),
                _points(y),
                bandwidth=config.style_bandwidth,
                direction=config.direction,
            )
            for x, y in pairs
        ]
        return jnp.stack(losses).sum()
    # The baselines, each layer relative to the target's own size: one weight suits every network.
    loss = cxjax.gram_loss if config.loss == "gram" else cxjax.perceptual_loss
    losses = [
        loss(features[name], y) / loss(jnp.zeros_like(y), y)
        for name, y in ((name, target[name]) for name in config.style_layers)
    ]
    return jnp.stack(losses).mean()


def _content(config: Config, features: Features, content: Features) -> jax.Array:
    if not config.content_layers:
        return jnp.zeros(())
    if config.loss == "contextual":
        losses = [
            cxjax.contextual_loss(
                _points(features[name]), _points(content[name]), bandwidth=config.content_bandwidth
            )
            for name in config.content_layers
        ]
        return jnp.stack(losses).sum()
    losses = [
        cxjax.perceptual_loss(features[name], y) / cxjax.perceptual_loss(jnp.zeros_like(y), y)
        for name, y in ((name, content[name]) for name in config.content_layers)
    ]
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
