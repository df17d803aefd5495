"""What a run tells while it trains: a progress bar, lines of JSON, TensorBoard files, a trace.

Process 0 alone tells it. The metrics of a step are fetched when the next one has been dispatched.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm

logger = logging.getLogger(__name__)

_TRACE_AFTER = 2  # steps of a run before a trace begins: the first compiles
_OWN_NAMES = ("step", "images_per_second", "data_wait", "not_finite")  # in lines of JSON


class Log:
    """Takes the metrics of each step, and writes their means now and then.

    A context manager: on leaving, the bar and the files are closed.
    """

    def __init__(self, folder: Path | None, *, first: int, steps: int, every: int, profile: int):
        """Opens the bar and the files."""
        self._first, self._steps, self._every = first, steps, every
        is_writer = jax.process_index() == 0
        self._bar = tqdm.tqdm(
            total=steps,
            initial=first,
            unit="step",
            disable=not is_writer or None,  # None: also where there is no terminal
        )
        self._files = Files(folder, first) if folder and is_writer else None
        self._trace = Trace(folder / "trace", profile) if folder and is_writer and profile else None
        self._interval = Interval()
        self._pending: tuple[int, Any, int] | None = None

    def __enter__(self) -> "Log":
        """The log itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes what is open."""
        self._bar.close()
        if self._trace is not None:
            self._trace.stop()
        if self._files is not None:
            self._files.close()

    def begin(self, step: int) -> None:
        """Starts or stops the trace, if it is time."""
        if self._trace is not None and self._trace.is_due(step - self._first):
            self.flush()
            self._trace.change()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of a block as waiting for data."""
        began = time.perf_counter()
        yield
        self._interval.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of a block out of the rate of the steps."""
        self.flush()
        began = time.perf_counter()
        yield
        self._interval.began += time.perf_counter() - began

    def add_step(self, step: int, metrics: Any, images: int) -> None:
        """Takes the metrics of a step that was just dispatched, and looks at those before."""
        before, self._pending = self._pending, (step, metrics, images)
        self._fetch(before)

    def flush(self) -> None:
        """Waits for the metrics of the last step."""
        before, self._pending = self._pending, None
        self._fetch(before)

    def _fetch(self, pending: tuple[int, Any, int] | None) -> None:
        if pending is None:
            return
        step, metrics, images = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_names(values)
        try:
            check_finite(step, values)
        except FloatingPointError:
            self.write(step - 1)  # what led to it
            raise
        self._interval.add(values, images)
        if step == self._first + 1:
            self._interval.restart_clock()  # that step was compiled
        self._bar.update()
        if step % self._every == 0 or step == self._steps:
            self.write(step)

    def write(self, step: int) -> None:
        """Writes the means since the last line, if there has been a step since."""
        if not self._interval.metrics:
            return
        means, speed = self._interval.means(), self._interval.speed()
        shown = [f"{name} {value:.4g}" for name, value in means.items() if is_shown(name)]
        if speed:
            shown.append(f"{speed['images_per_second']:.3g} images/s")
        text = ", ".join(shown)
        self._bar.set_postfix_str(text)
        if self._files is not None:
            if self._bar.disable:
                logger.info("step %d of %d: %s", step, self._steps, text)
            self._files.write(step, {**means, **speed})
        self._interval = Interval()

    def add_results(self, step: int, results: Mapping[str, Any]) -> None:
        """Writes results of another kind."""
        check_names(results)
        if self._files is not None:
            self._files.write(step, results)


class Interval:
    """The metrics of the steps since the last line, and the time that they took."""

    def __init__(self) -> None:
        """Begins now."""
        self.metrics: list[dict[str, float]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Forgets the time so far, and what was done in it."""
        self.images, self.waited, self.began = 0, 0.0, time.perf_counter()

    def add(self, metrics: dict[str, float], images: int) -> None:
        """Adds a step."""
        self.metrics.append(metrics)
        self.images += images

    def means(self) -> dict[str, float]:
        """The mean of each metric."""
        with np.errstate(invalid="ignore"):  # infinity and minus infinity
            return {
                name: float(np.mean([metrics[name] for metrics in self.metrics]))
                for name in self.metrics[0]
            }

    def speed(self) -> dict[str, float]:
        """How fast the steps went; empty if there was none but one that does not count."""
        if not self.images:
            return {}
        seconds = time.perf_counter() - self.began
        return {"images_per_second": self.images / seconds, "data_wait": self.waited / seconds}


class Files:
    """`metrics.jsonl` and `tensorboard/` in a folder."""

    def __init__(self, folder: Path, first: int):
        """Opens them."""
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "metrics.jsonl"
        drop_lines_after(self._lines, first)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
        self._warned: set[str] = set()

    def write(self, step: int, results: Mapping[str, Any]) -> None:
        """Writes scalars to both, and pictures to TensorBoard.

        JSON has neither NaN nor infinity: of such a scalar the line has null, and its name in
        `not_finite`; TensorBoard has no point, and the log one warning.
        """
        line, not_finite = {}, []
        for name, result in results.items():
            if np.ndim(result) == 3:
                picture = np.clip(np.asarray(result, np.float32), 0, 1)
                self._board.add_image(name, picture, step, dataformats="HWC")
            elif math.isfinite(value := float(result)):
                line[name] = value
                self._board.add_scalar(name, value, step)
            else:
                line[name] = None
                not_finite.append(name)
                if name not in self._warned:
                    logger.warning("step %d: %s is %s, written as null", step, name, value)
                    self._warned.add(name)
        if line:
            extra = {"not_finite": not_finite} if not_finite else {}
            with self._lines.open("a") as lines:
                lines.write(json.dumps({"step": step, **line, **extra}, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self._board.close()


class Trace:
    """A trace of a few steps, for Perfetto or XProf."""

    def __init__(self, folder: Path, count: int):
        """Says what to trace."""
        self._folder, self._count, self._is_running = folder, count, False

    def is_due(self, number: int) -> bool:
        """Whether the trace begins or ends before a step."""
        begins = number == _TRACE_AFTER + 1
        ends = self._is_running and number == _TRACE_AFTER + self._count + 1
        return begins or ends

    def change(self) -> None:
        """Begins the trace, or ends it."""
        if self._is_running:
            self.stop()
        else:
            jax.profiler.start_trace(str(self._folder))
            self._is_running = True

    def stop(self) -> None:
        """Ends the trace, if it is running."""
        if self._is_running:
            jax.profiler.stop_trace()
            self._is_running = False


def is_shown(name: str) -> bool:
    """Whether a metric is shown in the progress bar: no group's gradient, no `part/of/a/name`."""
    return "/" not in name or name.startswith("loss/")


def must_be_finite(name: str) -> bool:
    """Whether a metric is the loss, one of its terms, or the norm of a gradient."""
    return name.split("/")[0] in ("loss", "grad_norm")


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Refuses a step whose loss, terms or gradients are not finite."""
    bad = [name for name in metrics if must_be_finite(name) and not math.isfinite(metrics[name])]
    if not bad:
        return
    groups = [name.split("/", 1)[1] for name in bad if not is_shown(name)]
    values = ", ".join(f"{name} = {metrics[name]}" for name in bad if is_shown(name))
    raise FloatingPointError(
        f"step {step}: {values or bad[0]}; gradients that are not finite: "
        f"{', '.join(groups) or 'none'}. Nothing was saved after it. A smaller learning rate or "
        "optax.clip_by_global_norm may help; jax.config.update('jax_debug_nans', True) finds the "
        "operation"
    )


def check_names(results: Mapping[str, Any]) -> None:
    """Refuses results that would stand in a line of JSON in place of the log's own."""
    if reserved := [name for name in results if name in _OWN_NAMES]:
        raise ValueError(f"metrics with names of the log's own: {reserved}; give them other names")


def drop_lines_after(path: Path, step: int) -> None:
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
