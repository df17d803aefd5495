"""What the generator minimises: each of the losses that the table compares."""

import functools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

import cxjax
from cxjax.models import patchgan
from cxjax.training.step import LossFn
from experiments.generators import Features, generator_of
from experiments.losses import adversarial, over_batch, relative
from experiments.puppet_control.config import Config

DISCRIMINATOR = "discriminator"


def layers_of(config: Config) -> tuple[str, ...]:
    """The layers that the loss looks at."""
    if config.loss in ("l1", "pix2pix", "identity"):
        return ()
    deep = config.deep_layers if config.loss == "cx_perceptual" else ()
    return tuple(dict.fromkeys((*config.layers, *deep)))


def other_networks(config: Config) -> dict[str, tuple[nn.Module, int]]:
    """The discriminator that pix2pix trains beside the generator, with its channels: those of the
    driver's frame and of a puppet's.
    """
    if config.loss != "pix2pix":
        return {}
    return {DISCRIMINATOR: (patchgan.small() if config.small else patchgan.PatchGAN(), 6)}


def make_loss(config: Config, model: nn.Module, features: Features | None) -> LossFn:
    """The loss of a step on pairs `{"driver", "puppet"}`, each `(b, h, w, 3)`, mean over the batch.

    Args:
      config: Settings; `loss` says which.
      model: Generator.
      features: Feature network of `layers_of(config)`, if there are any.

    Returns:
      The loss function of a train step. Its metrics are the terms.

    References:
      `cx_perceptual`: Mechrez et al. 2018, section on puppet control; here the perceptual term is a
      share of the target's own size. `pix2pix`: Isola et al. 2017 with least squares, as in
      CycleGAN (Zhu et al. 2017), in place of the cross entropy.
    """
    contextual = functools.partial(cxjax.contextual_loss, bandwidth=config.bandwidth)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        made = cast(jax.Array, model.apply(generator_of(params), batch["driver"]))
        terms: dict[str, jax.Array] = {}
        weights = {"l1": config.l1_weight if config.loss == "pix2pix" else 1.0}
        if config.loss != "perceptual":
            weights["perceptual"] = config.perceptual_weight
        if features is not None:
            of_made = features(made)
            of_puppet = jax.lax.stop_gradient(features(batch["puppet"]))
            compare = functools.partial(over_batch, made=of_made, given=of_puppet)
            perceptual = functools.partial(relative, cxjax.perceptual_loss)
            if config.loss in ("cx", "cx_perceptual"):
                terms["contextual"] = compare(contextual, layers=config.layers)
            if config.loss == "cx_perceptual":
                terms["perceptual"] = compare(perceptual, layers=config.deep_layers)
            if config.loss in ("perceptual", "l1_perceptual"):
                terms["perceptual"] = compare(perceptual, layers=config.layers)
            if config.loss == "gram":
                terms["gram"] = compare(
                    functools.partial(relative, cxjax.gram_loss), layers=config.layers
                )
        if config.loss in ("l1", "l1_perceptual", "pix2pix"):
            terms["l1"] = cxjax.l1_loss(made, batch["puppet"])
        if config.loss == "pix2pix":
            real, fake = (
                jnp.concatenate([batch["driver"], image], axis=-1)
                for image in (batch["puppet"], made)
            )
            judge, _ = other_networks(config)[DISCRIMINATOR]
            terms |= adversarial(judge.apply, params[DISCRIMINATOR], real=real, fake=fake)
        loss = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        return jnp.asarray(loss), terms

    return loss_fn
