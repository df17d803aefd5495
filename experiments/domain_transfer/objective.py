"""What the generator minimises: each of the losses that the table compares."""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

import cxjax
from cxjax.models import patchgan
from cxjax.training.step import LossFn
from experiments.domain_transfer.config import Config
from experiments.generators import GENERATOR, Features, make_model
from experiments.losses import adversarial, over_batch, relative

Comparison = Callable[[jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]

BACKWARD = "backward"  # CycleGAN's generator from target to source
JUDGES = {"source": "source_judge", "target": "target_judge"}


def layers_of(config: Config) -> tuple[str, ...]:
    """The layers that the loss looks at."""
    if config.loss in ("cyclegan", "identity", "histogram"):
        return ()
    of_source = () if config.loss == "cx_target" else config.source_layers
    return tuple(dict.fromkeys((*config.target_layers, *of_source)))


def other_networks(config: Config) -> dict[str, tuple[nn.Module, int]]:
    """The networks that CycleGAN trains beside the generator, with their channels."""
    if config.loss != "cyclegan":
        return {}
    judge = patchgan.small() if config.small else patchgan.PatchGAN()
    return {BACKWARD: (make_model(config), 3), **{name: (judge, 3) for name in JUDGES.values()}}


def make_loss(config: Config, model: nn.Module, features: Features | None) -> LossFn:
    """The loss of a step on `{"source", "target"}`, each `(b, h, w, 3)`, mean over the batch.

    Args:
      config: Settings; `loss` says which.
      model: Generator.
      features: Feature network of `layers_of(config)`, if there are any.

    Returns:
      The loss function of a train step. Its metrics are the terms.

    References:
      `cx`: Mechrez et al. 2018, section on unpaired domain transfer:
      L = CX(G(s), t; target layers) + CX(G(s), s; source layers). `gram`: Gatys et al. 2016.
      `cyclegan`: Zhu et al. 2017, without its optional identity term.
    """
    if config.loss == "cyclegan":
        return _cyclegan(config, model, other_networks(config))
    assert features is not None
    compare = make_comparison(config, features)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return compare(cast(jax.Array, model.apply(params, batch["source"])), batch)

    return loss_fn


def make_comparison(config: Config, features: Features) -> Comparison:
    """The losses but CycleGAN's, of what was made of a batch's sources, `(b, h, w, 3)`.

    Returns:
      `(made, batch) -> (loss, terms)`.
    """
    contextual = functools.partial(cxjax.contextual_loss, bandwidth=config.bandwidth)
    to_target, to_source = contextual, contextual
    if config.loss == "gram":
        to_target, to_source = (
            functools.partial(relative, loss) for loss in (cxjax.gram_loss, cxjax.l2_loss)
        )

    def compare(images: jax.Array, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        made = features(images)
        target = jax.lax.stop_gradient(features(batch["target"]))
        terms = {"target": over_batch(to_target, made, target, config.target_layers)}
        loss = terms["target"]
        if config.loss != "cx_target":
            source = jax.lax.stop_gradient(features(batch["source"]))
            terms["source"] = over_batch(to_source, made, source, config.source_layers)
            loss = loss + config.source_weight * terms["source"]
        return loss, terms

    return compare


def _cyclegan(config: Config, model: nn.Module, others: dict[str, tuple[nn.Module, int]]) -> LossFn:
    """Both generators and both discriminators in one loss; each has the gradient of its own."""

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward, backward = (
            lambda images, part=part: cast(jax.Array, model.apply(params[part], images))
            for part in (GENERATOR, BACKWARD)
        )
        fake = {"target": forward(batch["source"]), "source": backward(batch["target"])}
        terms = {
            "cycle": cxjax.l1_loss(backward(fake["target"]), batch["source"])
            + cxjax.l1_loss(forward(fake["source"]), batch["target"])
        }
        loss = config.cycle_weight * terms["cycle"]
        for domain, judge in JUDGES.items():
            found = adversarial(
                others[judge][0].apply, params[judge], real=batch[domain], fake=fake[domain]
            )
            terms |= {f"{name}_{domain}": value for name, value in found.items()}
            loss = loss + sum(found.values())
        return jnp.asarray(loss), terms

    return loss_fn
