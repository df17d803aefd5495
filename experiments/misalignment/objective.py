"""The losses of a picture and one target, and gradient descent on the picture's pixels."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cxjax
from experiments.common.optimization import descend
from experiments.common.terms import loss_of
from experiments.misalignment.config import OPTIMIZED, Config, Loss, Objective
from experiments.misalignment.data import Pair

LossFn = Callable[[jax.Array, jax.Array, Any, jax.Array], jax.Array]


def make_loss(loss: Loss, objective: Objective) -> LossFn:
    """A function `(image (h, w, 3), target (h, w, 3), parameters, key) -> scalar`.

    Args:
      loss: Name of a loss that can be optimised; the perceptual one needs `vgg()[1]` as parameters.
      objective: Its settings, with no None that the loss uses.

    Raises:
      ValueError: If the name is not that of a loss.
    """
    if loss in ("l1", "l2"):
        of_pixels = loss_of(loss)
        return lambda image, target, params, key: of_pixels(image, target)
    if loss == "perceptual":
        return functools.partial(_perceptual, objective.layers)
    bandwidth = {"bandwidth": objective.bandwidth}
    terms = {
        "contextual": ("contextual", bandwidth),
        "contextual_l2": ("contextual", {**bandwidth, "distance": "l2"}),
        "cobi": ("contextual_bilateral", {"spatial_weight": objective.spatial_weight}),
        "sliced_wasserstein": ("sliced_wasserstein", {"projections": objective.projections}),
    }
    if loss not in terms:
        raise ValueError(f"{loss!r} is not a loss to optimise")
    name, options = terms[loss]
    of_points = loss_of(name, **options)

    def of_patches(image, target, params, key):
        del params
        x, y = (
            cxjax.points.patches(picture, size=objective.patch, stride=objective.stride)
            for picture in (image, target)
        )
        if loss == "sliced_wasserstein":
            return of_points(key, x.points, y.points)
        places = {}
        if loss == "cobi":
            sets = {"x_positions": x, "y_positions": y}
            places = {name: patches.positions / len(image) for name, patches in sets.items()}
        return of_points(x.points, y.points, **places)

    return of_patches


def _perceptual(layers, image, target, params, key):
    del key
    model, _ = vgg()
    x, y = (model.apply(params, picture, layers=layers) for picture in (image, target))
    return jnp.stack([loss_of("perceptual")(x[layer], y[layer]) for layer in layers]).mean()


@functools.cache
def vgg() -> tuple[Any, Any]:
    """VGG16 and its parameters."""
    return cxjax.load_vgg("vgg16", pooling="average", padding="edge")


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
    config = dataclasses.replace(config, **config.tuned(loss))
    fields = [field.name for field in dataclasses.fields(Objective)]
    step = make_step(loss, Objective(**{name: getattr(config, name) for name in fields}))
    image, targets = jnp.asarray(pair.noisy), [jnp.asarray(target) for target in pair.targets]
    state = image, adam(config.learning_rate, config.steps).init(image)
    params = vgg()[1] if loss == "perceptual" else None
    rest = (params, jax.random.key(seed), config.learning_rate, config.steps)
    arguments = lambda number: (targets[number % len(targets)], *rest)
    steps = descend(step, state, arguments, steps=config.steps)
    try:
        turn = collections.deque(steps, maxlen=len(targets))  # the last one
    except FloatingPointError as error:
        raise FloatingPointError(f"{loss}: {error}") from error
    image, _ = turn[-1].state
    last = np.array([progress.metrics["loss"] for progress in turn], np.float32).mean()
    return Result(np.clip(np.asarray(image), 0, 1), float(last), turn[-1].seconds)


def adam(learning_rate: Any, steps: Any) -> optax.GradientTransformation:
    """Adam, its learning rate falling to 0 by a cosine over the steps."""
    return optax.adam(lambda count: learning_rate * (1 + jnp.cos(jnp.pi * count / steps)) / 2)


@functools.cache
def make_step(loss: Loss, objective: Objective) -> Callable[..., Any]:
    """One step, compiled once for all pictures, rates and numbers of steps. A `lax.scan` over the
    steps would make the perceptual loss several times slower: XLA's CPU convolutions are slow in
    loops.

    Returns:
      Jitted `((image, state of Adam), target, params, key, learning_rate, steps) -> (the same two,
      {"loss": scalar})`.
    """
    loss_fn = make_loss(loss, objective)

    @jax.jit
    def step(state, target, params, key, learning_rate, steps):
        image, opt_state = state
        key = jax.random.fold_in(key, opt_state[0].count)
        value, gradient = jax.value_and_grad(loss_fn)(image, target, params, key)
        updates, opt_state = adam(learning_rate, steps).update(gradient, opt_state)
        return (optax.apply_updates(image, updates), opt_state), {"loss": value}

    return step
