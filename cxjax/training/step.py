"""The pure train step: one function for one device, for `pmap`, for `shard_map` and for shardings.

Not jitted: the caller chooses, or `cxjax.training.devices` does.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer, Key, PRNGKeyArray

from cxjax.training.state import Optimizer, TrainState, layer_groups
from cxjax.types import AnyArray

Metrics = dict[str, Any]  # scalars
LossFn = Callable[[Any, Any, PRNGKeyArray], tuple[Array, Metrics]]
TrainStep = Callable[[TrainState, Any, PRNGKeyArray], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFn,
    optimizer: Optimizer,
    *,
    axis_name: str | None = None,
    ema_decay: float | None = None,
) -> TrainStep:
    """Makes a pure function that takes one step of gradient descent.

    Args:
      loss_fn: `(params, batch, key) -> (loss, metrics)`: a scalar, the mean over the batch, and a
        dict of scalars. Terms of the loss are named `loss/<term>`: `cxjax.training.loop.train`
        stops where one is not finite, and logs any other metric as it is. The key is
        `fold_in(key, state.step)`, the same on every device; what is drawn per example should come
        from `example_keys`, so that it does not depend on how many devices there are.
      optimizer: Any optax optimiser, of a chain with clipping and schedules as well.
        `optax.MultiSteps(optimizer, k)` accumulates the gradients of k steps.
      axis_name: Name of the mapped axis over which the batch is split, under `jax.pmap` or
        `jax.shard_map(..., check_vma=False)`: gradients and metrics are averaged over it, which is
        right where every device has equally many examples. None where one program sees the whole
        batch: on one device, or under `jax.jit` with shardings.
      ema_decay: Decay of the moving average of the parameters, in [0, 1), per update of theirs:
        under `optax.MultiSteps` it moves when they do, every k-th step. The state must be made with
        `ema=True`. None keeps none.

    Returns:
      `(state, batch, key) -> (state, metrics)`. The metrics are those of `loss_fn` and the step's
      own: `loss`, `grad_norm`, and, per group of layers, `grad_norm/<group>`.

    Raises:
      ValueError: If `ema_decay` lies outside [0, 1). The step itself raises one while it is traced
        if state and `ema_decay` disagree, if the loss is not a scalar, if a metric's name is taken.
    """
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1); got {ema_decay}")

    def checked_loss(params: Any, batch: Any, key: PRNGKeyArray) -> tuple[Array, Metrics]:
        loss, metrics = loss_fn(params, batch, key)
        if jnp.shape(loss) != ():
            raise ValueError(
                "the loss must be a scalar, the mean over the batch; its shape is "
                f"{jnp.shape(loss)}"
            )
        return loss, dict(metrics)

    def train_step(state: TrainState, batch: Any, key: PRNGKeyArray) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay is None):
            raise ValueError(
                f"ema_decay is {ema_decay}, but the state "
                f"{'has no' if state.ema is None else 'has a'} moving average; give both: "
                "TrainState.create(..., ema=True) and make_train_step(..., ema_decay=0.999)"
            )
        key = jax.random.fold_in(key, state.step)
        (loss, metrics), grads = jax.value_and_grad(checked_loss, has_aux=True)(
            state.params, batch, key
        )
        own = {"loss": loss}
        if axis_name is not None:
            grads, metrics, own = jax.lax.pmean((grads, metrics, own), axis_name)
        own["grad_norm"] = optax.tree.norm(grads)
        for name, group in layer_groups(grads).items():
            own[f"grad_norm/{name}"] = optax.tree.norm(group)
        if reserved := sorted(
            name for name in metrics if name in own or name.startswith("grad_norm/")
        ):
            raise ValueError(f"loss_fn returns metrics with the step's own names: {reserved}")
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - ema_decay)
            if (updated := _has_updated(state.opt_state, opt_state)) is not None:
                ema = jax.tree.map(lambda new, old: jnp.where(updated, new, old), ema, state.ema)
        state = TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return state, {**metrics, **own}

    return train_step


def _has_updated(before: Any, after: Any) -> Array | None:
    """Whether an `optax.MultiSteps` in the optimiser has updated; None if there is none."""
    is_multi = lambda node: isinstance(node, optax.MultiStepsState)
    nodes = zip(*(jax.tree.leaves(tree, is_leaf=is_multi) for tree in (before, after)), strict=True)
    counts = [(old.gradient_step, new.gradient_step) for old, new in nodes if is_multi(old)]
    return jnp.stack([old != new for old, new in counts]).any() if counts else None


def example_keys(key: PRNGKeyArray, index: Integer[AnyArray, "b"]) -> Key[Array, "b"]:
    """A key for each example, the same however the batch is split over devices.

    Args:
      key: Key that `loss_fn` was given.
      index: The examples' indices in the whole batch or in the whole stream, `(b,)`, which travel
        with the batch; `cxjax.data.pipeline.batches` gives each example its `"index"`.

    Returns:
      Keys, `(b,)`.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
