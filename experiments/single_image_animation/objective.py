"""What the generator minimises: likeness to the one target, and to the frame it is given."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax import points
from cxjax.training.step import LossFn
from experiments.generators import Features
from experiments.single_image_animation.config import Config


def make_loss(config: Config, model: nn.Module, features: Features, target: np.ndarray) -> LossFn:
    """`L = CX(G(s), t; target layers) + w CX(G(s), s; source layers)`, mean over the batch.

    Args:
      config: Settings.
      model: Generator.
      features: Feature network, of both kinds of layers.
      target: Target, `(h, w, 3)`.

    Returns:
      The loss function of a train step, on batches with an `"image"`, `(b, h, w, 3)`.
    """
    of_target = jax.device_get(jax.jit(features)(target[None]))

    def contextual(made: Any, other: Any, layers: tuple[str, ...]) -> jax.Array:
        loss = lambda x, y: cxjax.contextual_loss(x, y, bandwidth=config.bandwidth)
        return points.over_layers(loss, made, other, weights=dict.fromkeys(layers, 1.0))

    def gram(made: Any, other: Any, layers: tuple[str, ...]) -> jax.Array:
        shares = [
            cxjax.gram_loss(made[name], other[name]) / cxjax.gram_loss(0 * other[name], other[name])
            for name in layers
        ]
        return jnp.stack(shares).sum()

    def aligned(made: Any, other: Any, layers: tuple[str, ...]) -> jax.Array:
        shares = [
            jnp.square(made[name] - other[name]).mean() / jnp.square(other[name]).mean()
            for name in layers
        ]
        return jnp.stack(shares).sum()

    # The baseline's terms are each a share of the reference's own size, so that they weigh alike.
    to_target, to_source = (
        (contextual, contextual) if config.loss == "contextual" else (gram, aligned)
    )

    def loss_fn(params, batch, key):
        made = features(cast(jax.Array, model.apply(params, batch["image"])))
        target_loss = jax.vmap(
            lambda x: to_target(x, {k: v[0] for k, v in of_target.items()}, config.target_layers)
        )(made).mean()
        source_loss = jnp.zeros(())
        if config.source_layers:
            given = jax.lax.stop_gradient(features(batch["image"]))
            source_loss = jax.vmap(lambda x, y: to_source(x, y, config.source_layers))(
                made, given
            ).mean()
        loss = target_loss + config.source_weight * source_loss
        return loss, {"target": target_loss, "source": source_loss}

    return loss_fn
