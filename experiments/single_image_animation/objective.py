"""What the generator minimises: likeness to the one target, and to the frame it is given."""

import functools
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import cxjax
from cxjax import points
from cxjax.training.step import LossFn
from experiments.generators import Features
from experiments.losses import over_batch, relative
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
    of_target = jax.device_get(jax.jit(features)(target))
    contextual = functools.partial(cxjax.contextual_loss, bandwidth=config.bandwidth)
    if config.loss == "contextual":
        to_target, to_source = contextual, contextual
    else:
        to_target, to_source = (
            functools.partial(relative, loss) for loss in (cxjax.gram_loss, cxjax.l2_loss)
        )
    target_layers = dict.fromkeys(config.target_layers, 1.0)

    def loss_fn(params, batch, key):
        made = features(cast(jax.Array, model.apply(params, batch["image"])))
        target_loss = jax.vmap(
            lambda x: points.over_layers(to_target, x, of_target, weights=target_layers)
        )(made).mean()
        source_loss = jnp.zeros(())
        if config.source_layers:
            given = jax.lax.stop_gradient(features(batch["image"]))
            source_loss = over_batch(to_source, made, given, config.source_layers)
        loss = target_loss + config.source_weight * source_loss
        return loss, {"target": target_loss, "source": source_loss}

    return loss_fn
