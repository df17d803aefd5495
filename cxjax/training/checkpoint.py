"""Checkpoints of a run: saved while it goes on, proven sound before they are used.

Orbax writes each whole or not at all: a folder named by its step, with the items `state`, arrays by
name such as `params/conv1/kernel`, and `meta`, JSON: the config, the position in the data and the
record by which `cxjax.training.records` tells a damaged checkpoint.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise ImportError('checkpoints need orbax: pip install "cxjax[training]"') from error

from cxjax.options import check_integer
from cxjax.training import records
from cxjax.training.processes import fail_together, gather

_logger = logging.getLogger(__name__)


class ConfigMismatch(ValueError):
    """A folder's checkpoints were made with another config."""


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      step: Steps taken when it was saved.
      state: Its arrays, in the form that was asked for.
      data: Position in the data, as it was given to `save`.
    """

    step: int
    state: Any
    data: Any


class Checkpoints:
    """Checkpoints of one run, in a folder of a local or shared file system.

    A context manager: on leaving, the save in progress is finished. Several processes
    (`jax.distributed`) must all call each method and share the folder. Process 0 alone writes; what
    goes wrong in one process is raised in all.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        keep: int = 3,
        ignore: Collection[str] = (),
    ):
        """Opens a folder, or makes it.

        Args:
          folder: Where the checkpoints are.
          config: What the run is, as JSON can hold it (without NaN and infinity); saved with each
            checkpoint.
          keep: Number of checkpoints to keep. With 1, a damaged one is the end of the run.
          ignore: Fields of `config` that may differ from the saved ones, such as `steps`.

        Raises:
          ConfigMismatch: If the newest checkpoint was made with another config. Nothing is touched.
          ValueError: If `config` is not JSON, `keep` no positive integer, or `folder` a URL.
        """
        self.folder = Path(folder).absolute()
        self._ignore = frozenset(ignore)
        self._saving: int | None = None
        self._manager: ocp.CheckpointManager | None = None
        with fail_together():
            check_integer("keep", keep)
            if "://" in os.fspath(folder):
                where = os.fspath(folder)
                raise ValueError(f"folder must be in a mounted file system; got {where}")
            self._config = records.as_json("config", config)
            for step in records.steps_in(self.folder):
                with contextlib.suppress(records.UnsoundError):
                    self._check_config(records.read_record(self.folder / str(step)))
                    break
        with fail_together():
            if jax.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._manager = ocp.CheckpointManager(self.folder, options=_options(keep))

    def save(self, step: int, state: Any, *, data: Any = None, wait: bool = False) -> bool:
        """Saves a state: copies it to the host, and writes it while training goes on.

        Blocks while the save before is not finished, and raises what went wrong in it. The arrays
        may be donated or changed as soon as this returns.

        Args:
          step: Steps taken.
          state: Pytree of arrays, typed keys among them; over several processes, replicated.
          data: Position in the data, as JSON can hold it; the same in each process.
          wait: Whether to return only when all is on the disk.

        Returns:
          Whether it was saved: False if this step was before.

        Raises:
          FloatingPointError: If an array has a NaN or an infinity, so that the newest checkpoint
            stays a good one. A scalar may be infinite, as an optimiser's best value so far is.
          OSError: If it, or the save before, cannot be written. The older checkpoints are intact.
          ValueError: If the folder has later steps, or the state or `data` cannot be saved.
        """
        self.wait()
        step = int(step)
        saved = self._manager.all_steps() if self._manager else []
        if gather(step in saved)[0]:  # process 0 knows
            return False
        with fail_together():
            if saved and step < max(saved):
                raise ValueError(
                    f"{self.folder} holds step {max(saved)}, later than step {step}: restore from "
                    "it, or give another folder"
                )
            data = records.as_json("data", data)
            arrays, entries = records.to_save(state)
        if len(set(gather(records.json_crc(data)))) > 1:
            raise ValueError(f"data must be the same in each process; in this one it is {data}")
        record = {"config": self._config, "data": data, "arrays": entries}
        with fail_together(), self._writing(step):
            if self._manager is not None:
                items = ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    meta=ocp.args.JsonSave({"record": record, "crc": records.json_crc(record)}),
                )
                self._manager.save(step, args=items, force=True)
        self._saving = step
        if wait:
            self.wait()
        return True

    def restore(self, like: Any) -> Restored | None:
        """Reads the newest sound checkpoint.

        Those that are damaged and newer are reported to the log and moved to `unsound/` in the
        folder; nothing is deleted.

        Args:
          like: Pytree of arrays or of `ShapeDtypeStruct`s: what must have been saved, and the
            shardings to restore it to, which may be others than it was saved from.

        Returns:
          Step, state and position in the data; None if there are no checkpoints.

        Raises:
          ConfigMismatch: If it was made with another config.
          ValueError: If it is sound, but has other arrays, shapes or dtypes than `like`; if there
            are checkpoints and none is sound; or if the processes do not share the folder. Nothing
            is moved.
        """
        self.wait()
        with fail_together():
            steps = records.steps_in(self.folder)
            expected = records.flatten(like)
        if len(set(gather(records.json_crc(steps)))) > 1:
            raise ValueError(
                f"the processes must share {self.folder}; this one sees the checkpoints of steps "
                f"{steps}, and others see other ones"
            )
        if not steps:
            return None

        def select(step: int, record: dict[str, Any]) -> dict[str, Any]:
            self._check_config(record)
            records.check_fit(
                f"the checkpoint of step {step} in {self.folder}", expected, record["arrays"]
            )
            return record["arrays"]

        step, record, arrays, unsound = records.read_newest(self.folder, steps, select)
        self._move_aside(unsound)
        leaves = records.place_like(arrays, record["arrays"], expected)
        return Restored(step, jax.tree.unflatten(jax.tree.structure(like), leaves), record["data"])

    def wait(self) -> None:
        """Waits until the save in progress is on the disk.

        Raises:
          OSError: If it cannot be written. The older checkpoints are intact.
        """
        with fail_together():
            self._finish()

    def close(self) -> None:
        """Finishes the save in progress, and ends the threads.

        Raises:
          OSError: As for `wait`.
        """
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()

    def _finish(self) -> None:
        """Waits for this process's part of the save in progress."""
        step, self._saving = self._saving, None
        with self._writing(step):
            if self._manager is not None:
                self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(self, kind: Any, *exception: object) -> None:
        """Closes them; an error on its way is not hidden by one in the last save."""
        if kind is None:
            self.close()
            return
        try:  # not close(): the error may be this process's alone, and the others go on
            self._finish()
            if self._manager is not None:
                self._manager.close()
        except Exception as error:
            _logger.error("%s", error)

    def _check_config(self, record: dict[str, Any]) -> None:
        given, saved = (
            {
                name: value
                for name, value in _fields(config).items()
                if not self._ignore & {name, name.split(".")[0]}
            }
            for config in (self._config, record["config"])
        )
        if differences := records.differences(given, saved):
            raise ConfigMismatch(
                f"the checkpoints in {self.folder} were made with another config: {differences}. "
                "Resume with that config, or give another folder"
            )

    @contextlib.contextmanager
    def _writing(self, step: int | None) -> Iterator[None]:
        """Cleans up after a save that failed, and tells what the system refused as an `OSError`."""
        try:
            yield
        except Exception as error:
            if self._manager is None:
                raise
            # What was written is no use, and fills the disk.
            shutil.rmtree(self.folder / f"{step}.orbax-checkpoint-tmp", ignore_errors=True)
            self._manager.reload()  # it counts the failed step, and not those it made room for
            number = _system_error(error)
            if number is None:
                raise
            raise OSError(
                number,
                f"{os.strerror(number)}: step {step} could not be saved in {self.folder}; the "
                f"older checkpoints there are intact, the newest of step "
                f"{self._manager.latest_step()} ({type(error).__name__}: {error})",
            ) from error

    def _move_aside(self, unsound: Mapping[int, str]) -> None:
        with fail_together():
            if self._manager is None or not unsound:
                return
            for step, reason in unsound.items():
                target = self.folder / "unsound" / str(step)
                number = 0
                while target.exists():
                    number += 1
                    target = target.with_name(f"{step}-{number}")
                _logger.warning(
                    "the checkpoint of step %d in %s is unsound (%s); it is moved to %s, and an "
                    "older one is used",
                    *(step, self.folder, reason, target),
                )
                target.parent.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(target)
            self._manager.reload()


def _options(keep: int) -> ocp.CheckpointManagerOptions:
    """Orbax among the processes of a run as if process 0 were alone: the others never wait in it.

    Where all take part, one that fails lets the others wait for twenty minutes.
    """
    alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="0")
    return ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        create=False,
        multiprocessing_options=alone,
    )


def _system_error(error: Exception) -> int | None:
    """The system's number of an error in reading or writing; `None` for errors of another kind."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    written = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's ValueError has it so
    return int(written[1]) if written else None


def load_state(
    folder: str | os.PathLike[str], like: Any = None, *, step: int | None = None
) -> Restored:
    """Reads trained parameters, to apply a model: no optimiser is needed, and nothing is changed.

    Args:
      folder: Folder of a run's `Checkpoints`.
      like: Pytree of arrays or `ShapeDtypeStruct`s, as for `Checkpoints.restore`; without it, the
        parameters come as nested dicts of NumPy arrays.
      step: Which checkpoint; without it the newest that is sound.

    Returns:
      Step, parameters (the state's `ema` if it has one, else its `params`), position in the data.

    Raises:
      FileNotFoundError: If the folder has no checkpoint, or not that of `step`.
      ValueError: If none is sound, it has no parameters, or they do not fit `like`.
    """
    folder = Path(folder).absolute()
    steps = records.steps_in(folder)
    if not steps or step not in (None, *steps):
        which = "" if step is None else f" of step {step}"
        raise FileNotFoundError(f"no checkpoint{which} in {folder}; it has steps {steps}")
    expected = None if like is None else records.flatten(like)

    def select(step: int, record: dict[str, Any]) -> dict[str, Any]:
        parts = {entry["path"][0] for entry in record["arrays"].values()}
        part = "ema" if "ema" in parts else "params"
        if part not in parts:
            raise ValueError(f"step {step} in {folder} has neither ema nor params: {sorted(parts)}")
        entries = {n: e for n, e in record["arrays"].items() if e["path"][0] == part}
        if expected is not None:
            where = f"{part} of step {step} in {folder}"
            records.check_fit(
                where, expected, {_without_first(name): e for name, e in entries.items()}
            )
        return entries

    chosen = steps if step is None else [step]
    step, record, arrays, unsound = records.read_newest(folder, chosen, select)
    for damaged, reason in unsound.items():
        message = "the checkpoint of step %d in %s is unsound (%s); step %d is used"
        _logger.warning(message, damaged, folder, reason, step)
    entries = {_without_first(name): record["arrays"][name] for name in arrays}
    arrays = {_without_first(name): array for name, array in arrays.items()}
    if expected is not None:
        leaves = records.place_like(arrays, entries, expected)
        params = jax.tree.unflatten(jax.tree.structure(like), leaves)
    else:
        params = _nest({tuple(entries[name]["path"][1:]): arrays[name] for name in arrays})
    return Restored(step, params, record["data"])


def _without_first(name: str) -> str:
    return name.partition("/")[2]


def _nest(arrays: Mapping[tuple[str, ...], np.ndarray]) -> Any:
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        if not path:
            return array
        branch = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = array
    return tree


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The config that a run was saved with.

    Args:
      folder: Folder of a run's `Checkpoints`.

    Returns:
      That of the newest checkpoint that can be read.

    Raises:
      FileNotFoundError: If there is none.
    """
    folder = Path(folder).absolute()
    for step in records.steps_in(folder):
        with contextlib.suppress(records.UnsoundError):
            return records.read_record(folder / str(step))["config"]
    raise FileNotFoundError(f"no checkpoint with a readable config in {folder}")


def _fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, dict) and value
        fields |= _fields(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return fields
