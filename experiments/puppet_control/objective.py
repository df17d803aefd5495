"""What the generator minimises: each of the losses that the table compares."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cxjax.training.step import LossFn
from experiments.common.generators import Make, generator_of, make_discriminator
from experiments.common.terms import adversarial, loss_of, over_batch
from experiments.common.training import Networks
from experiments.puppet_control.config import Config, Loss
from experiments.puppet_control.data import Clips

DISCRIMINATOR = "discriminator"
# The terms of each loss; that to the puppet's deep features is perceptual too.
TERMS: dict[Loss, tuple[str, ...]] = {
    "cx": ("contextual",),
    "cx_perceptual": ("contextual", "deep_perceptual"),
    "l1": ("l1",),
    "l1_perceptual": ("perceptual", "l1"),
    "perceptual": ("perceptual",),
    "gram": ("gram",),
    "pix2pix": ("l1", "adversarial"),
    "identity": (),
}
_OF_FEATURES = ("contextual", "perceptual", "gram")


def layers_of(config: Config) -> tuple[str, ...]:
    """The layers that the loss looks at."""
    terms = TERMS[config.loss]
    shallow = config.layers if any(term in _OF_FEATURES for term in terms) else ()
    deep = config.deep_layers if "deep_perceptual" in terms else ()
    return tuple(dict.fromkeys((*shallow, *deep)))


def other_networks(config: Config) -> dict[str, tuple[nn.Module, int]]:
    """The discriminator that pix2pix trains beside the generator, with its channels: those of the
    driver's frame and of a puppet's.
    """
    return {DISCRIMINATOR: (make_discriminator(config), 6)} if config.loss == "pix2pix" else {}


def untrained(config: Config, clips: Clips) -> Make | None:
    """What makes a puppet's frame of a driver's without training, if that is the loss."""
    return np.asarray if config.loss == "identity" else None


def make_loss(config: Config, networks: Networks, clips: Clips) -> LossFn:
    """The loss of a step on pairs `{"driver", "puppet"}`, each `(b, h, w, 3)`, mean over the batch.

    Args:
      config: Settings; `loss` says which.
      networks: Generator, feature network of `layers_of(config)`, and discriminator.
      clips: Not needed: every loss is of a batch.

    Returns:
      The loss function of a train step. Its metrics are the terms.

    References:
      `cx_perceptual`: Mechrez et al. 2018, section on puppet control; here the perceptual term is a
      share of the target's own size. `pix2pix`: Isola et al. 2017 with least squares, as in
      CycleGAN (Zhu et al. 2017), in place of the cross entropy.
    """
    names = TERMS[config.loss]
    options = {"contextual": {"bandwidth": config.bandwidth}}
    weights = {
        "l1": config.l1_weight if "adversarial" in names else 1.0,
        "perceptual": 1.0 if config.loss == "perceptual" else config.perceptual_weight,
    }

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        made = cast(jax.Array, networks.model.apply(generator_of(params), batch["driver"]))
        terms: dict[str, jax.Array] = {}
        if networks.features is not None:
            of_made = networks.features(made)
            of_puppet = jax.lax.stop_gradient(networks.features(batch["puppet"]))
            for name in filter(_OF_FEATURES.__contains__, names):
                loss = loss_of(name, **options.get(name, {}))
                terms[name] = over_batch(loss, of_made, of_puppet, config.layers)
            if "deep_perceptual" in names:
                loss = loss_of("perceptual")
                terms["perceptual"] = over_batch(loss, of_made, of_puppet, config.deep_layers)
        if "l1" in names:
            terms["l1"] = loss_of("l1")(made, batch["puppet"])
        if "adversarial" in names:
            real, fake = (
                jnp.concatenate([batch["driver"], image], axis=-1)
                for image in (batch["puppet"], made)
            )
            network = networks.others[DISCRIMINATOR]
            terms |= adversarial(network.apply, params[DISCRIMINATOR], real=real, fake=fake)
        loss = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        return jnp.asarray(loss), terms

    return loss_fn
