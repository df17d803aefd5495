"""A run: its settings as JSON, the folder it writes to, and what it leaves there."""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from experiments.common.environment import environment

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Metrics = Mapping[str, Any]

CONFIG = "config.json"  # in a run's folder, from its start
RESULTS = "results.json"  # and from its end


class Resumable(Exception):
    """A run was stopped by a signal, and can be resumed; the message says how."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of a run: a subclass has one field per option, documented below it."""

    out: Path | None = None
    """Folder for the results, new or empty; without it a new one under out/."""

    INCIDENTAL: ClassVar[tuple[str, ...]] = ("out",)
    """Options that do not change what a run computes."""
    REMOVED: ClassVar[Mapping[str, Any]] = {}
    """Options of earlier versions, each with the value by which a run was as it would be today."""

    @property
    def default_out(self) -> Path:
        """Where results go if --out does not say."""
        raise NotImplementedError


def added(default: Any, *, older: Any) -> Any:
    """A field that is younger than some records: these count as having had the value `older`."""
    return dataclasses.field(default=default, metadata={"older": older})


def flag(name: str) -> str:
    """The option of a field, as the command line has it."""
    return f"--{name.replace('_', '-')}"


def check_numbers(
    config: Any, *names: str, least: float = 0, above: bool = False, most: float = math.inf
) -> None:
    """Refuses fields that are not finite or out of range; None stands for none.

    Args:
      config: The settings.
      names: Fields: numbers, or tuples of numbers.
      least: Smallest value; with `above`, the value that all must exceed.
      above: Whether `least` itself is refused.
      most: Largest value.

    Raises:
      ValueError: Names the option, the range and the value.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            too_low = number <= least if above else number < least
            if not math.isfinite(number) or too_low or number > most:
                bound = "positive" if above and not least else f"at least {least}"
                if most < math.inf:
                    bound = f"{least} to {most}"
                raise ValueError(f"{flag(name)} must be {bound}; got {number}")


def check_distinct(config: Any, *names: str) -> None:
    """Refuses an empty list, and one that names something twice."""
    for name in names:
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{flag(name)} needs one or more, each once; got {values}")


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it."""
    fields = dataclasses.asdict(config)
    as_text = {name: str(v) if isinstance(v, Path) else v for name, v in fields.items()}
    return json.loads(json.dumps(as_text))


def from_json(kind: type, fields: Mapping[str, Any], *, where: object) -> Any:
    """The configuration that `to_json` wrote, by this or an earlier version.

    Raises:
      ValueError: If it has a field that no version had, or lacks one whose older value is not
        known; says `where`.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    removed = getattr(kind, "REMOVED", {})
    if unknown := sorted(set(fields) - set(known) - set(removed)):
        raise ValueError(f"{where} has fields unknown here: {', '.join(unknown)}")
    incidental = getattr(kind, "INCIDENTAL", ())
    unsaved = {name: known[name].default for name in incidental if name in known}
    fields = {**unsaved, **_older(kind), **fields}
    if missing := sorted(set(known) - set(fields)):
        raise ValueError(f"{where} lacks the fields {', '.join(missing)}")
    values = {}
    for name in known:
        value = fields[name]
        if isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        elif isinstance(value, str) and "Path" in str(known[name].type):
            value = Path(value)
        values[name] = value
    return kind(**values)


def varying(kind: type) -> tuple[str, ...]:
    """The options that not every version of this class has."""
    return (*_older(kind), *getattr(kind, "REMOVED", {}))


def _older(kind: type) -> dict[str, Any]:
    fields = dataclasses.fields(kind)
    return {field.name: field.metadata["older"] for field in fields if "older" in field.metadata}


def differences(saved: Mapping[str, Any], config: Any, *, ignore: Sequence[str] = ()) -> str:
    """What settings that were saved have and a configuration has not, by option.

    Args:
      saved: Settings as `to_json` wrote them, in this version or an earlier one.
      config: The configuration that is wanted.
      ignore: Fields that may differ.

    Returns:
      Such as `"--steps 5, not 10"`; empty if nothing differs. A saved field that is no option any
      more, and a field that was saved nowhere, differ unless the class says what they count as.
    """
    wanted = to_json(config)
    older = _older(type(config))
    removed = getattr(type(config), "REMOVED", {})
    differing = []
    for name, value in wanted.items():
        before = saved.get(name, older.get(name, "unknown"))
        if name not in ignore and json.loads(json.dumps(before)) != value:
            differing.append(f"{flag(name)} {before}, not {value}")
    for name in set(saved) - set(wanted) - set(ignore):
        if name not in removed or saved[name] != removed[name]:
            differing.append(f"{flag(name)} {saved[name]}, which is no option any more")
    return ", ".join(differing)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder, as JSON.

    Raises:
      ValueError: If there are none, or they are damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_config(kind: type, folder: Path) -> Any:
    """The configuration of the run in a folder; a ValueError if it is none of this `kind`."""
    return from_json(kind, read_settings(folder), where=folder / CONFIG)


def check_folder(out: Path | None) -> None:
    """Refuses, before any work, a folder for results that holds something or cannot be written."""
    if out is None:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder; name another")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"--out {out} cannot be made: {nearest} is not a folder to write in")


def make_folder(out: Path | None, default: Path) -> Path:
    """A new folder for results: `out`, else `default`, numbered if it is taken."""
    check_folder(out)
    folder, number = out or default, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=out is not None)
            return folder
        except OSError as error:
            if out is None and isinstance(error, FileExistsError) and folder.exists():
                number += 1  # of an earlier run, or of one that began just now
                folder = default.with_name(f"{default.name}-{number}")
                continue
            raise OSError(
                f"cannot make the folder {folder} ({error}); name another by --out"
            ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; a number that is not finite becomes null."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")
    unfinished.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(folder: Path, metrics: Metrics, *, seconds: float | None) -> dict[str, Any]:
    """Writes the metrics of a run that has ended, with the hardware and versions; returns them.

    `seconds` is None where a run was resumed, and not all of its time is known.
    """
    results = {**metrics, "seconds": seconds, **environment()}
    write_json(folder / RESULTS, results)
    return results


def read_results(folder: Path) -> dict[str, Any]:
    """The results of the run in a folder; a ValueError if it has none."""
    if not (folder / RESULTS).is_file():
        raise ValueError(f"{folder} has no {RESULTS}: it is no run, or one that has not ended")
    return json.loads((folder / RESULTS).read_text())


def run(prepare: Callable[[Any], Callable[[Path], Metrics]], config: RunConfig) -> dict[str, Any]:
    """Carries out a run: `prepare` reads and checks all, what it returns works in a new folder.

    Args:
      prepare: `(configuration) -> (folder) -> metrics`.
      config: The settings.

    Returns:
      The metrics, with seconds, hardware and versions.
    """
    began = time.perf_counter()
    check_folder(config.out)
    work = prepare(config)
    folder = make_folder(config.out, config.default_out)
    write_json(folder / CONFIG, to_json(config))
    print(f"results in {folder}")
    metrics = work(folder)
    return write_results(folder, metrics, seconds=time.perf_counter() - began)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Locks a file, which is made; whether it worked: no other process holds it.

    Always true where the system or the file system has no locks.
    """
    if fcntl is None:
        yield True
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks, as some that hosts share
            pass
        yield True
