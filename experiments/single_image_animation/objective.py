"""What the generator minimises: likeness to the one target, and to the frame it is given."""

from typing import cast

import jax

from cxjax.training.step import LossFn
from experiments.common.terms import loss_of, to_target_and_source
from experiments.common.training import Networks
from experiments.single_image_animation.config import Config
from experiments.single_image_animation.data import Pair


def layers_of(config: Config) -> tuple[str, ...]:
    """The layers that the loss looks at."""
    return tuple(dict.fromkeys((*config.target_layers, *config.source_layers)))


def make_loss(config: Config, networks: Networks, pair: Pair) -> LossFn:
    """`L = CX(G(s), t; target layers) + w CX(G(s), s; source layers)`, mean over the batch.

    Args:
      config: Settings.
      networks: Generator, and feature network of both kinds of layers.
      pair: Whose target is t.

    Returns:
      The loss function of a train step, on batches with an `"image"`, `(b, h, w, 3)`.
    """
    features = networks.features
    assert features is not None
    target = jax.device_get(jax.jit(features)(pair.target))
    contextual = loss_of("contextual", bandwidth=config.bandwidth)
    gram = (loss_of("gram"), loss_of("squared"))

    def loss_fn(params, batch, key):
        made = features(cast(jax.Array, networks.model.apply(params, batch["image"])))
        given = batch["image"]
        return to_target_and_source(
            made,
            target,
            jax.lax.stop_gradient(features(given)) if config.source_layers else {},
            losses=gram if config.loss == "gram" else (contextual, contextual),
            layers=(config.target_layers, config.source_layers),
            source_weight=config.source_weight,
        )

    return loss_fn
