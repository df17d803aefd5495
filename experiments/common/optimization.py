"""The runner of what optimises an image or points: steps of gradient descent, timed and checked."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tqdm


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
    bar: tqdm.tqdm | None = None,
    first: int = 0,
) -> Iterator[Progress]:
    """Takes steps of gradient descent, and yields after each.

    Args:
      step: Jitted `(state, *arguments) -> (state, metrics)`, with a metric `"loss"`.
      state: What the first step is given.
      arguments: `(number of the step, from 0) -> what else it is given`, of one shape each time.
      steps: Number of steps.
      bar: Progress bar to move.
      first: Number of steps that came before, for messages.

    Raises:
      FloatingPointError: If the loss becomes infinite or NaN; says at which step.
    """
    compiled = step.lower(state, *arguments(0)).compile()
    seconds = 0.0
    for number in range(steps):
        given = arguments(number)
        began = time.perf_counter()
        state, terms = compiled(state, *given)
        metrics = {name: float(value) for name, value in terms.items()}
        seconds += time.perf_counter() - began
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss became {metrics['loss']} at step {first + number + 1}: {metrics}. Try a "
                "smaller --learning-rate; the pictures saved so far stand"
            )
        if bar is not None:
            bar.update()
        yield Progress(state, metrics, seconds)
