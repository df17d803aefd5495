"""The runner of what optimises an image or points: steps of gradient descent, timed and checked.

An image is optimised from coarse to fine, as a Laplacian pyramid, by `coarse_to_fine`.
"""

import collections
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from cxjax.data.images import Picture
from experiments.common import pyramid

Optimizer = Literal["novograd", "adam", "rmsprop", "lbfgs"]
_MOMENTUM = 0.9
_KEEPING_DECAY = 0.9  # of the mean of losses by which an image is kept


def check_scales(scales: Sequence[float], steps: Sequence[int]) -> None:
    """Refuses --scales, shares of the whole size, and --steps at each of them, that do not fit."""
    if len(scales) != len(steps) or not scales:
        raise ValueError(
            "--scales and --steps need one number per scale each; "
            f"got scales {scales} and steps {steps}"
        )
    if scales[-1] != 1 or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f"--scales must lie in (0, 1] and end in 1; got {scales}")
    if min(steps) < 1:
        raise ValueError(f"--steps must be at least 1 each; got {steps}")


class Progress(NamedTuple):
    """Where a descent is after a step."""

    state: Any
    metrics: dict[str, float]
    seconds: float
    """Of all its steps so far, without compilation."""


def descend(
    step: Any,
    state: Any,
    arguments: Callable[[int], tuple],
    *,
    steps: int,
    static: tuple = (),
    bar: tqdm.tqdm | None = None,
    first: int = 0,
    advice: str = "Try a smaller --learning-rate",
) -> Iterator[Progress]:
    """Takes steps of gradient descent, and yields after each.

    Args:
      step: Jitted `(*static, state, *arguments) -> (state, metrics)`, with a metric `"loss"`.
      state: What the first step is given.
      arguments: `(number of the step, from 0) -> what else it is given`, of one shape each time.
      steps: Number of steps.
      static: Static arguments of the step.
      bar: Progress bar to move.
      first: Number of steps that came before, for messages.
      advice: What to do where the loss does not stay finite, for the message.

    Raises:
      FloatingPointError: If the loss becomes infinite or NaN; says at which step.
    """
    if bar is not None:
        bar.set_postfix_str("compiling")
    compiled = step.lower(*static, state, *arguments(0)).compile()
    if bar is not None:
        bar.set_postfix_str("")
    seconds = 0.0
    for number in range(steps):
        given = arguments(number)
        began = time.perf_counter()
        state, terms = compiled(state, *given)
        metrics = {name: float(value) for name, value in terms.items()}
        seconds += time.perf_counter() - began
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss became {metrics['loss']} at step {first + number + 1}: {metrics}. "
                f"{advice}; the pictures saved so far stand"
            )
        if bar is not None:
            bar.update()
        yield Progress(state, metrics, seconds)


class Parameters(NamedTuple):
    """What is optimised of an image."""

    pieces: list[jax.Array]
    """Its Laplacian pyramid."""
    others: Any = None
    """What is optimised beside it, such as the control points of a field that bends it."""


Objective = Callable[..., tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]]
"""`(parameters, key, *references) -> (loss, (image, metrics))`, hashable: equal ones share a
compiled program."""


class Scale(NamedTuple):
    """A size at which an image is optimised."""

    steps: int
    shape: tuple[int, ...]
    """Of the image, `(h, w, 3)`."""
    objective: Objective
    references: Callable[[], tuple]
    """Computes what the objective is given beside parameters and key."""
    drawn: bool
    """Whether the objective draws points anew at each step: losses of two steps do not compare."""
    details: Picture | jax.Array | None = None
    """What is added to the image before the first step."""


class _State(NamedTuple):
    """What a step changes."""

    step: jax.Array
    params: Parameters
    optimizer: optax.OptState
    mean_loss: tuple[jax.Array, jax.Array]  # decaying sums of the losses, and of their weights
    best_loss: jax.Array
    best_params: Parameters  # that had it
    best: jax.Array  # the image that they make


def coarse_to_fine(
    scales: Sequence[Scale],
    image: Picture | jax.Array,
    *,
    levels: int,
    optimizer: Optimizer,
    learning_rate: float,
    seed: int,
    others: Any = None,
    quiet: bool = False,
) -> Iterator[tuple[np.ndarray, dict[str, float]]]:
    """Optimises an image at one size after the other; yields after every step.

    Args:
      scales: The sizes.
      image: Where to start, `(h, w, 3)`.
      levels: Levels of the Laplacian pyramid; 1 optimises the pixels themselves.
      optimizer: Which one.
      learning_rate: Of the first step at each size; not for L-BFGS.
      seed: Of the points that the objective draws.
      others: What is optimised beside the image.
      quiet: Whether to hide the progress bar.

    Yields:
      The best image of this size so far, and the metrics, with the number of the step, from 1, that
      of the size, from 0, and the `seconds` of all steps, without compilation. The best is that of
      the lowest loss; where points are drawn anew, that of the lowest mean of the losses up to it,
      of which recent ones weigh most: one lucky draw is not the best.

    Raises:
      FloatingPointError: If the loss does not stay finite.
    """
    seconds, done = 0.0, 0
    key = jax.random.key(seed)
    lbfgs = optimizer == "lbfgs"
    advice = "Try another --optimizer" if lbfgs else "Try a smaller --learning-rate"
    total = sum(scale.steps for scale in scales)
    with tqdm.tqdm(total=total, unit="step", dynamic_ncols=True, disable=quiet or None) as bar:
        for number, scale in enumerate(scales):
            bar.set_description(f"{scale.shape[1]} x {scale.shape[0]} px")
            image = jax.image.resize(image, scale.shape, "cubic")
            if scale.details is not None:
                image = image + scale.details
            image = jnp.clip(image, 0, 1)
            params = Parameters(pyramid.split(image, levels), others)
            state = _start(make_optimizer(optimizer, learning_rate, 0.0), params, image, done)
            angle = np.float32(np.pi) * np.float32(1 / scale.steps)
            decay = np.float32(_KEEPING_DECAY if scale.drawn else 0)
            given = (key, angle, decay, *scale.references())
            for progress in descend(
                _step,
                state,
                lambda _, given=given: given,
                steps=scale.steps,
                static=(scale.objective, optimizer, learning_rate),
                bar=bar,
                first=done,
                advice=advice,
            ):
                state, metrics = progress.state, progress.metrics
                shown = [name for name in ("loss", "style", "content") if name in metrics]
                bar.set_postfix({name: f"{metrics[name]:.3f}" for name in shown})
                metrics = {"step": int(state.step), "stage": number, **metrics}
                metrics["seconds"] = seconds + progress.seconds
                yield np.asarray(state.best), metrics
            done, seconds = done + scale.steps, metrics["seconds"]
            image, others = pyramid.merge(state.best_params.pieces), state.best_params.others


def last_image(steps: Iterator[tuple[np.ndarray, dict[str, float]]]) -> Picture:
    """What `coarse_to_fine` ends with, clipped to [0, 1]."""
    image, _ = collections.deque(steps, maxlen=1).pop()
    return np.clip(image, 0, 1)


def make_optimizer(
    name: Optimizer, learning_rate: float, angle: Any
) -> optax.GradientTransformationExtraArgs:
    """NovoGrad, made to move every level by the learning rate, root mean square; or another.

    Args:
      name: Which one.
      learning_rate: That of the first step. It falls to a tenth by a cosine; RMSprop's stays, and
        L-BFGS has none.
      angle: Pi over the number of steps.
    """

    def schedule(count: Any) -> jax.Array:
        # As `optax.cosine_decay_schedule`, whose number of steps is fixed at trace time.
        cosine = 0.5 * (1 + jnp.cos(jnp.minimum(count * angle, jnp.pi)))
        return learning_rate * (0.9 * cosine + 0.1)

    if name == "lbfgs":  # finds the length of its steps itself
        optimizer = optax.lbfgs(memory_size=10)
    elif name == "rmsprop":
        optimizer = optax.rmsprop(learning_rate, decay=0.99)
    elif name == "adam":
        optimizer = optax.adam(schedule)
    else:
        optimizer = optax.chain(
            optax.scale_by_novograd(b1=_MOMENTUM, b2=0.9),
            optax.stateless_with_tree_map(
                lambda update, _: (1 - _MOMENTUM) * math.sqrt(jnp.size(update)) * update
            ),
            optax.scale_by_learning_rate(schedule),
        )
    return optax.with_extra_args_support(optimizer)


def _start(
    optimizer: optax.GradientTransformation, params: Parameters, image: jax.Array, done: int
) -> _State:
    zero = jnp.zeros(())
    state = _State(
        step=jnp.asarray(done),
        params=params,
        optimizer=optimizer.init(params),
        mean_loss=(zero, zero),
        best_loss=jnp.asarray(jnp.inf),
        best_params=params,
        best=image,
    )
    return jax.tree.map(jnp.array, state)  # copies, for a step takes its arguments over


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _step(
    objective: Objective,
    name: Optimizer,
    learning_rate: float,
    state: _State,
    key: jax.Array,
    angle: jax.Array,
    decay: jax.Array,
    *references: Any,
) -> tuple[_State, dict[str, jax.Array]]:
    """A step, compiled once for all images of a size."""
    # L-BFGS compares losses of several steps, which must be of the same points.
    key = jax.random.fold_in(key, 0 if name == "lbfgs" else state.step)
    loss_fn = lambda params: objective(params, key, *references)
    (loss, (image, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = make_optimizer(name, learning_rate, angle).update(
        grads,
        state.optimizer,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_fn(params)[0],
    )
    losses, weights = (
        decay * total + (1 - decay) * new
        for total, new in zip(state.mean_loss, (loss, 1.0), strict=True)
    )
    mean = losses / weights
    better = mean < state.best_loss
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, better))
    state = _State(
        step=state.step + 1,
        params=cast(Parameters, optax.apply_updates(state.params, updates)),
        optimizer=opt_state,
        mean_loss=(losses, weights),
        best_loss=jnp.where(better, mean, state.best_loss),
        best_params=choose(state.params, state.best_params),
        best=choose(image, state.best),
    )
    return state, metrics
