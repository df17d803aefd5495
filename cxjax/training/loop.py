"""The loop around a train step: data, progress, curves, checkpoints, and a clean end."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from cxjax.options import check_integer
from cxjax.training import devices
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.logs import Log
from cxjax.training.state import TrainState
from cxjax.training.step import TrainStep
from cxjax.types import Batches

logger = logging.getLogger(__name__)


class Hook(NamedTuple):
    """What is to be done now and then during training.

    Attributes:
      every: Steps between two calls; it is also called before the first step and after the last.
      call: `(state) -> results`: scalars, which join the metrics, and pictures `(h, w, 3)`, which
        go to TensorBoard. It must not keep the state's arrays, which the next step reuses.
    """

    every: int
    call: Callable[[TrainState], Mapping[str, Any]]


class Stopped(Exception):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      step: Steps taken.
      signal: Number of the signal.
    """

    def __init__(self, step: int, number: int, folder: Path | None):
        """Says at which step, why, and whether the run can be resumed.

        Args:
          step: Steps taken.
          number: Number of the signal.
          folder: Where the run was saved; `None` if it was not.
        """
        kept = f"; all is saved in {folder}" if folder else "; nothing was saved: no checkpoints"
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}{kept}")
        self.step = step
        self.signal = number


def train(
    step_fn: TrainStep,
    state: TrainState,
    batches: Batches,
    *,
    key: PRNGKeyArray,
    steps: int,
    mesh: Mesh,
    folder: str | os.PathLike[str] | None = None,
    checkpoints: Checkpoints | None = None,
    save_every: int = 1000,
    log_every: int = 10,
    hooks: Sequence[Hook] = (),
    profile: int = 0,
) -> TrainState:
    """Trains until `state.step` is `steps`, from the newest checkpoint if there is one.

    A resumed run equals the uninterrupted one bit for bit, on the same devices. The next step is
    dispatched before the metrics of the last are fetched. Process 0 alone writes.

    The loss, its terms and the gradients must be finite: the metrics `loss`, `loss/<term>`,
    `grad_norm` and `grad_norm/<group>`. Other metrics, and the results of hooks, need not be, such
    as the infinite PSNR of equal images: `metrics.jsonl` has null for such a value, and its name in
    `not_finite`; the log has one warning per name.

    Args:
      step_fn: From `make_parallel_step`, on the same mesh.
      state: State to begin with, replicated over the mesh; the checkpoint's takes its place.
      batches: Iterator over this process's part of each batch.
      key: Key of the run; each step folds its number in.
      steps: Steps to take in all.
      mesh: Mesh from `make_mesh`.
      folder: Where `metrics.jsonl`, `tensorboard/` and `trace/` go; without it nowhere.
      checkpoints: Where the run is saved; without it nowhere.
      save_every: Steps between checkpoints; the last step is always saved.
      log_every: Steps between lines of `metrics.jsonl`, and points of the curves. Each holds the
        means since the last one, `images_per_second` and `data_wait`, the share of the time that
        was spent waiting for `batches`. Both leave out the first step, which is compiled.
      hooks: Evaluations and sample grids.
      profile: Number of steps to write a trace of, for Perfetto or XProf.

    Returns:
      The state after the last step.

    Raises:
      ValueError: If a number of steps is out of range, the batches end or do not divide over the
        devices, processes were given the same examples, or a metric has a name of the log's own.
      FloatingPointError: If the loss, a term or a gradient is not finite: names step, metric and
        group of layers. The newest checkpoint is from before it.
      Stopped: After SIGINT or SIGTERM, when the state is saved. A second SIGINT interrupts at once.
    """
    counts = {"steps": steps, "save_every": save_every, "log_every": log_every}
    for name, count in counts.items():
        check_integer(name, count)
    check_integer("profile", profile, least=0)
    if checkpoints is not None and (restored := checkpoints.restore(state)) is not None:
        state = restored.state
        batches.set_state(restored.data)
    first = int(state.step)
    if first > steps:
        raise ValueError(f"the run has taken {first} steps already; steps={steps} is fewer")
    if first:
        rest = "nothing is left to do" if first == steps else "resuming"
        source = checkpoints.folder if checkpoints else "the state"
        logger.info("%s is at step %d of %d: %s", source, first, steps, rest)
    key = devices.replicate(key, mesh)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_StopSignals())
        where = Path(folder) if folder else None
        log = Log(where, first=first, steps=steps, every=log_every, profile=profile)
        stack.enter_context(log)
        if first == 0:
            _call(hooks, 0, state, log)
        for number in range(first + 1, steps + 1):
            log.begin(number)
            with log.waiting():
                batch = _next(batches, number)
                if number == first + 1:
                    _check_shares(batch)
                batch = devices.split(batch, mesh)
            state, metrics = step_fn(state, batch, key)
            log.add_step(number, metrics, images=len(jax.tree.leaves(batch)[0]))
            stopping = stop.signal_at(number)
            last = number == steps
            due = [hook for hook in hooks if last or number % hook.every == 0]
            if due and not stopping:
                _call(due, number, state, log)
            if checkpoints is not None and (stopping or last or number % save_every == 0):
                log.flush()  # a state is saved once the metrics that led to it are known good
                data = batches.get_state()
                checkpoints.save(number, state, data=data, wait=bool(stopping or last))
            if stopping:
                log.flush()
                log.write(number)
            if due and stopping:  # hooks run last: the process may be killed before they end
                _call(due, number, state, log)
            if stopping and not last:
                raise Stopped(number, stopping, checkpoints and checkpoints.folder)
        log.flush()
    return state


def _call(hooks: Sequence[Hook], step: int, state: TrainState, log: Log) -> None:
    with log.paused():
        for hook in hooks:
            log.add_results(step, hook.call(state))


def _next(batches: Batches, number: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"the batches ended before step {number}; repeat them") from None


def _check_shares(batch: Any) -> None:
    """Refuses processes that were given the same examples, where the batch tells which they are."""
    if jax.process_count() > 1 and isinstance(batch, Mapping) and "index" in batch:
        indices = multihost_utils.process_allgather(batch["index"])
        if len(np.unique(indices)) < np.size(indices):
            raise ValueError(
                "the processes were given the same examples: make batches with "
                "process_index=jax.process_index() and process_count=jax.process_count()"
            )


class _StopSignals:
    """Turns SIGINT and SIGTERM into a question that the loop asks after each step."""

    def __enter__(self) -> "_StopSignals":
        self._number = 0
        self._before = {}
        self._shared = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            # On several hosts JAX itself watches for SIGTERM, and agrees on a step to stop at.
            for number in (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self._shared or (self._number and number == signal.SIGINT):
            raise KeyboardInterrupt
        self._number = number

    def signal_at(self, step: int) -> int:
        """The signal that came, or 0."""
        if self._shared:
            return signal.SIGTERM * multihost_utils.reached_preemption_sync_point(step)
        return self._number
