"""Gradient descent on the pixels of the source."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.misalignment.config import OPTIMIZED, Config, Loss, Objective
from experiments.misalignment.objective import make_loss, vgg
from experiments.misalignment.pairs import Pair


class Result(NamedTuple):
    """A picture that a loss made of a source."""

    image: np.ndarray  # (crop, crop, 3), clipped to [0, 1]
    loss: float  # mean over the last turn of all targets; NaN where nothing was optimised
    seconds: float  # of the steps, without compilation


def optimize(config: Config, loss: Loss, pair: Pair, seed: int) -> Result:
    """Optimises the pixels of the source.

    Args:
      config: Settings; what is None there is the loss's tuned value.
      loss: Which loss; `none` and `mean` optimise nothing.
      pair: Source and targets.
      seed: Of the directions that the sliced Wasserstein loss draws.

    Raises:
      FloatingPointError: If the loss became infinite or NaN.
    """
    if loss not in OPTIMIZED:
        image = pair.noisy if loss == "none" else pair.targets.mean(axis=0)
        return Result(np.clip(image, 0, 1), math.nan, 0.0)
    config = config.of(loss)
    fields = [field.name for field in dataclasses.fields(Objective)]
    step = _make_step(loss, Objective(**{name: getattr(config, name) for name in fields}))
    image = jnp.asarray(pair.noisy)
    opt_state = _adam(config.learning_rate, config.steps).init(image)
    targets = [jnp.asarray(target) for target in pair.targets]
    params = vgg()[1] if loss == "perceptual" else None
    rest = (params, jax.random.key(seed), config.learning_rate, config.steps)

    jax.block_until_ready(step(image, opt_state, targets[0], *rest))  # compiles
    began = time.perf_counter()
    values = []
    for i in range(config.steps):
        image, opt_state, value = step(image, opt_state, targets[i % len(targets)], *rest)
        values.append(value)
    jax.block_until_ready(image)
    seconds = time.perf_counter() - began
    last = float(np.mean(values[-len(targets) :]))
    if not math.isfinite(last):
        raise FloatingPointError(
            f"the loss {loss} became {last} in {config.steps} steps; try a smaller --learning-rate"
        )
    return Result(np.clip(np.asarray(image), 0, 1), last, seconds)


def _adam(learning_rate: Any, steps: Any) -> optax.GradientTransformation:
    return optax.adam(lambda count: learning_rate * (1 + jnp.cos(jnp.pi * count / steps)) / 2)


@functools.cache
def _make_step(loss: Loss, objective: Objective) -> Callable[..., Any]:
    """One step, compiled once for all pictures, rates and numbers of steps. A `lax.scan` over the
    steps would make the perceptual loss several times slower: XLA's CPU convolutions are slow in
    loops.
    """
    loss_fn = make_loss(loss, objective)

    @jax.jit
    def step(image, opt_state, target, params, key, learning_rate, steps):
        key = jax.random.fold_in(key, opt_state[0].count)
        value, gradient = jax.value_and_grad(loss_fn)(image, target, params, key)
        updates, opt_state = _adam(learning_rate, steps).update(gradient, opt_state)
        return cast(jax.Array, optax.apply_updates(image, updates)), opt_state, value

    return step
