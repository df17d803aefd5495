"""The loop around a train step: data, progress, curves, checkpoints, and a clean end."""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from cxjax.training import devices
from cxjax.training.checkpoint import Checkpoints
from cxjax.training.state import TrainState
from cxjax.training.step import TrainStep

logger = logging.getLogger(__name__)

_PROFILE_AFTER = 2  # steps of a run before a trace begins: the first compiles


@runtime_checkable
class Batches(Protocol):
    """An iterator over batches whose position can be saved, such as a grain `DatasetIterator`."""

    def __next__(self) -> Any:
        """The next batch, a pytree of arrays `(b, ...)`."""

    def get_state(self) -> Any:
        """The position.

        Returns:
          What JSON can hold.
        """

    def set_state(self, state: Any, /) -> None:
        """Goes to a position.

        Args:
          state: What `get_state` returned.
        """


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
        was spent waiting for `batches`.
      hooks: Evaluations and sample grids.
      profile: Number of steps to write a trace of, for Perfetto or XProf.

    Returns:
      The state after the last step.

    Raises:
      ValueError: If a number of steps is out of range, or processes were given the same examples.
      FloatingPointError: If a metric is not finite: names step, metric and group of layers. The
        newest checkpoint is from before it.
      Stopped: After SIGINT or SIGTERM, when the state is saved. A second SIGINT interrupts at once.
    """
    _check_counts(steps=steps, save_every=save_every, log_every=log_every, profile=profile)
    if checkpoints is not None and (restored := checkpoints.restore(state)) is not None:
        state = restored.state
        batches.set_state(restored.data)
    first = int(state.step)
    if first > steps:
        raise ValueError(f"the run has taken {first} steps already; --steps {steps} is fewer")
    if first:
        found = (
            f"{checkpoints.folder if checkpoints else 'the state'} is at step {first} of {steps}"
        )
        logger.info("%s: %s", found, "nothing is left to do" if first == steps else "going on")
    key = devices.replicate(key, mesh)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_Stop())
        record = stack.enter_context(_Record(folder, first, steps, log_every))
        if first == 0:
            record.call(hooks, 0, state)
        for number in range(first + 1, steps + 1):
            record.profile(number - first, profile)
            began = time.perf_counter()
            batch = _next(batches, number)
            if number == first + 1:
                _check_shares(batch)
            size = len(jax.tree.leaves(batch)[0]) * jax.process_count()
            batch = devices.split(batch, mesh)
            waited = time.perf_counter() - began
            state, metrics = step_fn(state, batch, key)
            record.step(number, metrics, size, waited)
            stopping = stop.asked(number)
            last = number == steps
            due = [hook for hook in hooks if last or number % hook.every == 0]
            if due and not stopping:
                record.call(due, number, state)
            if checkpoints is not None and (stopping or last or number % save_every == 0):
                record.flush()  # a state is saved once the metrics that led to it are known good
                data = batches.get_state()
                checkpoints.save(number, state, data=data, wait=bool(stopping or last))
            if stopping:
                record.flush()
                record.write(number)
            if due and stopping:  # only now: whoever asked to stop may not wait for it
                record.call(due, number, state)
            if stopping and not last:
                raise Stopped(number, stopping, checkpoints and checkpoints.folder)
        record.flush()
    return state


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


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < (name != "profile"):
            raise ValueError(f"{name} must be at least {int(name != 'profile')}; got {count}")


class _Stop:
    """Turns SIGINT and SIGTERM into a question that the loop asks after each step."""

    def __enter__(self) -> "_Stop":
        self._number = 0
        self._before = {}
        self._shared = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            # On several hosts JAX itself watches for SIGTERM, and agrees on a step to stop at.
            for number in (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._shared or (self._number and number == signal.SIGINT):
            raise KeyboardInterrupt
        self._number = number

    def asked(self, step: int) -> int:
        """The signal that came, or 0."""
        if self._shared:
            return signal.SIGTERM * multihost_utils.reached_preemption_sync_point(step)
        return self._number


class _Record:
    """Metrics on their way from the device to the progress bar, the file and TensorBoard."""

    def __init__(self, folder: Any, first: int, steps: int, log_every: int):
        self._folder = Path(folder) if folder and jax.process_index() == 0 else None
        self._first, self._steps, self._every = first, steps, log_every
        self._pending: tuple[int, Any, int, float] | None = None
        self._tracing = False

    def __enter__(self) -> "_Record":
        self._bar = tqdm.tqdm(
            total=self._steps,
            initial=self._first,
            unit="step",
            disable=jax.process_index() != 0 or None,  # None: also where there is no terminal
        )
        self._board = None
        if self._folder is not None:
            from tensorboardX import SummaryWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            self._lines = self._folder / "metrics.jsonl"
            _cut(self._lines, self._first)
            board = self._folder / "tensorboard"
            self._board = SummaryWriter(str(board), purge_step=self._first + 1)
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        if self._tracing:
            jax.profiler.stop_trace()
        if self._board is not None:
            self._board.close()

    def _start(self) -> None:
        self._since: list[dict[str, float]] = []
        self._images, self._waited = 0, 0.0
        self._began = time.perf_counter()

    def step(self, step: int, metrics: Any, size: int, waited: float) -> None:
        """Takes the metrics of a step that was just dispatched, and looks at the one before."""
        before, self._pending = self._pending, (step, metrics, size, waited)
        self._take(before)

    def flush(self) -> None:
        """Waits for the metrics of the last step."""
        before, self._pending = self._pending, None
        self._take(before)

    def _take(self, pending: tuple[int, Any, int, float] | None) -> None:
        if pending is None:
            return
        step, metrics, size, waited = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        try:
            _check_finite(step, values)
        except FloatingPointError:
            self.write(step - 1)  # what led to it
            raise
        self._since.append(values)
        self._images += size
        self._waited += waited
        self._bar.update()
        if step % self._every == 0 or step == self._steps:
            self.write(step)

    def write(self, step: int) -> None:
        """Writes the means since the last line, if there has been a step since."""
        if not self._since:
            return
        seconds = time.perf_counter() - self._began
        names = self._since[0]
        means = {name: float(np.mean([found[name] for found in self._since])) for name in names}
        rate = self._images / seconds
        shown = [f"{name} {means[name]:.4g}" for name in means if "/" not in name]
        told = ", ".join([*shown, f"{rate:.3g} images/s"])
        self._bar.set_postfix_str(told)
        if self._bar.disable and self._folder is not None:
            logger.info("step %d of %d: %s", step, self._steps, told)
        self.add(step, {**means, "images_per_second": rate, "data_wait": self._waited / seconds})
        self._start()

    def call(self, hooks: Sequence[Hook], step: int, state: TrainState) -> None:
        """Calls hooks, outside the time that the step's own rate is measured in."""
        self.flush()
        began = time.perf_counter()
        for hook in hooks:
            self.add(step, hook.call(state))
        self._began += time.perf_counter() - began

    def add(self, step: int, results: Mapping[str, Any]) -> None:
        """Writes scalars, and pictures `(h, w, 3)`."""
        if self._folder is None or self._board is None:
            return
        scalars = {}
        for name, value in results.items():
            if np.ndim(value) == 3:
                picture = np.clip(np.asarray(value, np.float32), 0, 1)
                self._board.add_image(name, picture, step, dataformats="HWC")
            else:
                scalars[name] = float(value)
                self._board.add_scalar(name, scalars[name], step)
        if scalars:
            with self._lines.open("a") as lines:
                lines.write(json.dumps({"step": step, **scalars}) + "\n")

    def profile(self, taken: int, count: int) -> None:
        """Begins or ends the trace, if it is time."""
        if not count or self._folder is None:
            return
        if taken == _PROFILE_AFTER + 1:
            self.flush()
            jax.profiler.start_trace(str(self._folder / "trace"))
            self._tracing = True
        elif self._tracing and taken == _PROFILE_AFTER + count + 1:
            self.flush()
            jax.profiler.stop_trace()
            self._tracing = False


def _check_finite(step: int, values: Mapping[str, float]) -> None:
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if not bad:
        return
    groups = [name.split("/", 1)[1] for name in bad if name.startswith("grad_norm/")]
    named = ", ".join(f"{name} = {values[name]}" for name in bad if "/" not in name)
    raise FloatingPointError(
        f"step {step}: {named or bad[0]}; gradients that are not finite: "
        f"{', '.join(groups) or 'none'}. Nothing was saved after it. A smaller learning rate or "
        "optax.clip_by_global_norm may help; jax.config.update('jax_debug_nans', True) finds the "
        "operation"
    )


def _cut(path: Path, step: int) -> None:
    """Drops the lines of steps that a resumed run will take again; all, if it begins anew."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut short
            if json.loads(line)["step"] <= step and step:
                lines.append(line + "\n")
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(lines))
    unfinished.replace(path)
