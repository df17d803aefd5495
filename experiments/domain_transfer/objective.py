"""What the generator minimises: each of the losses that the table compares."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from skimage.exposure import match_histograms

from cxjax.training.step import LossFn
from experiments.common.generators import GENERATOR, Make, make_discriminator, make_model
from experiments.common.terms import Features, adversarial, loss_of, to_target_and_source
from experiments.common.training import Networks
from experiments.domain_transfer.config import UNTRAINED, Config
from experiments.domain_transfer.data import Domains, by_kind

Comparison = Callable[[jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]

BACKWARD = "backward"  # CycleGAN's generator from target to source
DISCRIMINATORS = {"source": "source_judge", "target": "target_judge"}


def layers_of(config: Config) -> tuple[str, ...]:
    """The layers that the loss looks at."""
    if config.loss in ("cyclegan", *UNTRAINED):
        return ()
    return tuple(dict.fromkeys((*config.target_layers, *_source_layers(config))))


def _source_layers(config: Config) -> tuple[str, ...]:
    return () if config.loss == "cx_target" else config.source_layers


def other_networks(config: Config) -> dict[str, tuple[nn.Module, int]]:
    """The networks that CycleGAN trains beside the generator, with their channels."""
    if config.loss != "cyclegan":
        return {}
    discriminator = make_discriminator(config), 3
    return {
        BACKWARD: (make_model(config), 3),
        **dict.fromkeys(DISCRIMINATORS.values(), discriminator),
    }


def untrained(config: Config, domains: Domains) -> Make | None:
    """What makes a target of a source without training, if that is the loss."""
    if config.loss == "histogram":
        return _histograms(domains, config.seed)
    return np.asarray if config.loss == "identity" else None


def make_loss(config: Config, networks: Networks, domains: Domains) -> LossFn:
    """The loss of a step on `{"source", "target"}`, each `(b, h, w, 3)`, mean over the batch.

    Args:
      config: Settings; `loss` says which.
      networks: Generator, feature network of `layers_of(config)`, and CycleGAN's others.
      domains: Not needed: every loss is of a batch.

    Returns:
      The loss function of a train step. Its metrics are the terms.

    References:
      `cx`: Mechrez et al. 2018, section on unpaired domain transfer:
      L = CX(G(s), t; target layers) + CX(G(s), s; source layers). `gram`: Gatys et al. 2016.
      `cyclegan`: Zhu et al. 2017, without its optional identity term.
    """
    if config.loss == "cyclegan":
        return _cyclegan(config, networks)
    assert networks.features is not None
    compare = make_comparison(config, networks.features)

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return compare(cast(jax.Array, networks.model.apply(params, batch["source"])), batch)

    return loss_fn


def make_comparison(config: Config, features: Features) -> Comparison:
    """The losses but CycleGAN's, of what was made of a batch's sources, `(b, h, w, 3)`.

    Returns:
      `(made, batch) -> (loss, terms)`.
    """
    contextual = loss_of("contextual", bandwidth=config.bandwidth)
    gram = (loss_of("gram"), loss_of("squared"))
    losses = gram if config.loss == "gram" else (contextual, contextual)
    layers = config.target_layers, _source_layers(config)

    def compare(images: jax.Array, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        made = features(images)
        target = jax.lax.stop_gradient(features(batch["target"]))
        source = jax.lax.stop_gradient(features(batch["source"])) if layers[1] else {}
        return to_target_and_source(
            made,
            target,
            source,
            losses=losses,
            layers=layers,
            source_weight=config.source_weight,
        )

    return compare


def _cyclegan(config: Config, networks: Networks) -> LossFn:
    """Both generators and both discriminators in one loss; each has the gradient of its own."""
    l1 = loss_of("l1")

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        forward, backward = (
            lambda images, part=part: cast(jax.Array, networks.model.apply(params[part], images))
            for part in (GENERATOR, BACKWARD)
        )
        fake = {"target": forward(batch["source"]), "source": backward(batch["target"])}
        terms = {
            "cycle": l1(backward(fake["target"]), batch["source"])
            + l1(forward(fake["source"]), batch["target"])
        }
        loss = config.cycle_weight * terms["cycle"]
        for domain, name in DISCRIMINATORS.items():
            network = networks.others[name]
            pair = adversarial(network.apply, params[name], real=batch[domain], fake=fake[domain])
            terms |= {f"{term}_{domain}": value for term, value in pair.items()}
            loss = loss + sum(pair.values())
        return jnp.asarray(loss), terms

    return loss_fn


def _histograms(domains: Domains, seed: int) -> Make:
    """Gives each source the colour histogram of a random target of its kind, channel by channel."""
    generator = np.random.default_rng(seed)
    alike, kinds = by_kind(domains.target), iter(domains.held_out_source.kinds)

    def make(pictures: np.ndarray) -> np.ndarray:
        made = []
        for picture in pictures:
            target = domains.target.pictures[generator.choice(alike[next(kinds)])]
            made.append(match_histograms(picture, target / np.float32(255), channel_axis=-1))
        return np.stack(made)

    return make
