"""Single-image animation: a generator that moves one still as a clip moves."""

import time
from typing import Any

import jax
import numpy as np

from cxjax.data import images
from cxjax.data.pipeline import batches
from experiments import generators
from experiments.single_image_animation import clips, results
from experiments.single_image_animation.config import Config
from experiments.single_image_animation.objective import make_loss

SHOWN = 4  # held-out frames in a sample grid


def run(config: Config) -> dict[str, Any]:
    """Trains, makes the animation of the held-out frames, and measures it; returns the figures."""
    began = time.perf_counter()
    mesh = generators.begin(config)
    frames, held_out, target = clips.read_pair(config)
    model = generators.make_model(config)
    features = generators.make_features(config, config.layers)
    loss_fn = make_loss(config, model, features, target)
    folder = generators.open_folder(config, config.default_out)
    if jax.process_index() == 0:
        print(f"results in {folder}")
        images.write_image(folder / "target.png", target)
    shown = held_out[:: max(1, len(held_out) // SHOWN)][:SHOWN]
    params = generators.train(
        config,
        folder=folder,
        mesh=mesh,
        model=model,
        loss_fn=loss_fn,
        batches=batches(
            frames,
            batch_size=config.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        hooks=[
            generators.sample_grid(model, shown, folder, every=config.sample_every, target=target)
        ],
    )
    if jax.process_index():
        return {}
    make = jax.jit(model.apply)
    result = np.clip(np.stack([make(params, frame) for frame in held_out]), 0, 1)
    return results.finish(
        config,
        folder,
        features=features,
        held_out=held_out,
        result=result,
        target=target,
        seconds=None if config.resume else time.perf_counter() - began,
    )
