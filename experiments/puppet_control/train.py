"""Puppet control: a generator that makes a puppet do what a driver does."""

import functools
import time
from typing import Any

import jax
import numpy as np

from cxjax.data.pipeline import batches
from experiments import generators
from experiments.puppet_control import results
from experiments.puppet_control.clips import Frames, loosely_paired, read_clips
from experiments.puppet_control.config import Config
from experiments.puppet_control.objective import layers_of, make_loss, other_networks


def run(config: Config) -> dict[str, Any]:
    """Trains, makes the puppet's frames of the held-out drivers, and scores them."""
    began = time.perf_counter()
    mesh = generators.begin(config)
    training, held_out = read_clips(config)
    if config.loss == "identity":
        if jax.process_index():
            return {}
        folder = generators.open_folder(config, config.default_out)
        return results.finish(config, folder, make=np.asarray, held_out=held_out, seconds=0.0)
    model = generators.make_model(config)
    layers = layers_of(config)
    loss_fn = make_loss(config, model, generators.make_features(config, layers) if layers else None)
    folder = generators.open_folder(config, config.default_out)
    if jax.process_index() == 0:
        print(f"results in {folder}")
    drivers = np.concatenate([clip.driver for clip in held_out])
    shown = drivers[:: max(1, len(drivers) // 6)][:6].astype(np.float32) / 255
    params = generators.train(
        config,
        folder=folder,
        mesh=mesh,
        model=model,
        others=other_networks(config),
        loss_fn=loss_fn,
        batches=batches(
            Frames(training),
            batch_size=config.batch_size,
            seed=config.seed,
            transform=loosely_paired(training, config),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        hooks=[generators.sample_grid(model, shown, folder, every=config.sample_every)],
    )
    if jax.process_index():
        return {}
    return results.finish(
        config,
        folder,
        make=functools.partial(jax.jit(model.apply), generators.generator_of(params)),
        held_out=held_out,
        seconds=None if config.resume else time.perf_counter() - began,
    )
