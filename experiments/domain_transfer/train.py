"""Unpaired domain transfer: a generator from one domain to another, learnt without pairs."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from skimage.exposure import match_histograms

from cxjax.data.pipeline import batches
from experiments import generators
from experiments.domain_transfer import results
from experiments.domain_transfer.config import UNTRAINED, Config
from experiments.domain_transfer.domains import (
    Domains,
    Sources,
    by_kind,
    random_targets,
    read_domains,
)
from experiments.domain_transfer.objective import layers_of, make_loss, other_networks

SHOWN = 6  # sources in a sample grid


def run(config: Config) -> dict[str, Any]:
    """Trains, makes targets of the held-out sources, and scores them."""
    began = time.perf_counter()
    mesh = generators.begin(config)
    domains = read_domains(config)
    finish = functools.partial(results.finish, config, domains=domains)
    if config.loss in UNTRAINED:
        if jax.process_index():
            return {}
        folder = generators.open_folder(config, config.default_out)
        make = _histograms(domains, config.seed) if config.loss == "histogram" else np.asarray
        return finish(folder, make=make, seconds=0.0)
    model = generators.make_model(config)
    layers = layers_of(config)
    loss_fn = make_loss(config, model, generators.make_features(config, layers) if layers else None)
    folder = generators.open_folder(config, config.default_out)
    if jax.process_index() == 0:
        print(f"results in {folder}")
    few = range(0, len(domains.held_out_source), max(1, len(domains.held_out_source) // SHOWN))
    shown = np.stack([domains.held_out_source.pictures[i] for i in few][:SHOWN]) / np.float32(255)
    params = generators.train(
        config,
        folder=folder,
        mesh=mesh,
        model=model,
        others=other_networks(config),
        loss_fn=loss_fn,
        batches=batches(
            Sources(domains.source),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=random_targets(domains.target),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        hooks=[generators.sample_grid(model, shown, folder, every=config.sample_every)],
    )
    if jax.process_index():
        return {}
    return finish(
        folder,
        make=functools.partial(jax.jit(model.apply), generators.generator_of(params)),
        seconds=None if config.resume else time.perf_counter() - began,
    )


def _histograms(domains: Domains, seed: int) -> Callable[[np.ndarray], np.ndarray]:
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
