"""Grids: named lists of runs, made by one mechanism, and the tables that are made of them.

A finished run leaves a record in its folder and is not made again, so that a grid can be stopped at
any time and resumed, by several processes too. The records that are kept beside an experiment, in
its `results.jsonl`, count as finished too.
"""

import contextlib
import dataclasses
import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments.common.environment import commit
from experiments.common.records import (
    RECORD,
    Record,
    make_record,
    read_record,
    read_records,
    write_records,
)
from experiments.common.runs import (
    CONFIG,
    Metrics,
    Resumable,
    differences,
    flag,
    read_settings,
    to_json,
    try_lock,
    write_json,
)

HOME = Path(__file__).parents[1]  # of the experiments' folders
EVIDENCE = "results.jsonl"  # in that of an experiment

Changes = Mapping[str, Mapping[str, Any]]  # what differs from a variant, by name of the run


class Finished(NamedTuple):
    """What tables and pictures of a grid are made of."""

    base: Any
    """Configuration that the runs start from."""
    configs: dict[str, Any]
    """Configurations by name, of all runs that were asked for."""
    metrics: Mapping[str, Metrics]
    """Metrics by name with `seconds`, of those that are finished and did not diverge."""
    folder: Path
    """Folder that has the folder `name` of each run that was made here."""
    diverged: frozenset[str] = frozenset()
    """Names of the runs whose loss did not stay finite."""


class Grid(NamedTuple):
    """A named list of runs, and what is made of them."""

    about: str
    """What its runs are, in a sentence, for `--help`."""
    runs: Callable[[Any], Changes]
    """`(configuration) -> what differs from it, by name of the run`."""
    show: Callable[[Finished], str]
    """Makes the tables."""
    draw: Callable[[Finished], object] | None = None
    """Writes pictures into the folder."""
    run: Callable[[Any], Metrics] | None = None
    """`(configuration) -> results`, where it is not the experiment's own."""
    variants: Mapping[str, Any] | None = None
    """Configurations by name, likewise."""
    check: Callable[[Sequence[Any]], object] | None = None
    """Refuses the configurations of runs that cannot be made here; fetches what they need."""
    also: Callable[[Any, Iterable[str]], Collection[str]] | None = None
    """`(configuration, names of runs) -> names of others` that the tables of these need, where
    several tables share a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Makes the runs that are not finished, and shows the tables."""

    out: Path
    """Folder where finished runs are kept, and those that were stopped are resumed."""
    missing: bool = True
    """Whether to make the runs that are not finished, or only to show those that are."""
    evidence: bool = True
    """Whether the runs of the experiment's results.jsonl, behind the tables of its README, count as
    finished."""
    processes: int = 1
    """Number of processes that work at the runs; more can be started by the same command."""
    only: tuple[str, ...] = ()
    """Runs to take: parts of their names, which are parted by slashes, or patterns of these. Of the
    words for one place one must match."""
    set: tuple[str, ...] = ()
    """Settings that all runs start from, as NAME=VALUE; commas part the values of a list."""
    variant: str = "default"
    """Variant that all runs start from."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"--processes must be at least 1; got {self.processes}")
        if wrong := [word for word in self.set if "=" not in word]:
            raise ValueError(f"--set takes NAME=VALUE; got {wrong[0]}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Sorts the finished runs of all grids into the experiment's results.jsonl."""

    out: Path
    """Folder where finished runs are kept."""
    results: Path
    """File to write; runs that it has already are replaced by newer ones of the same settings."""


def make(
    experiment: str,
    name: str,
    grid: Grid,
    options: GridOptions,
    *,
    variants: Mapping[str, Any],
    run: Callable[[Any], Metrics],
) -> Finished:
    """Makes the runs of a grid that are not finished, prints its tables and writes its pictures.

    Args:
      experiment: Name of the experiment.
      name: That of the grid.
      grid: The grid.
      options: Where runs are kept, and which to make.
      variants: The experiment's variants.
      run: The experiment's run.

    Returns:
      What is finished.

    Raises:
      ValueError: Before any run: if an option or a setting does not exist, a folder holds a run of
        other settings, or nothing is finished and nothing shall be made.
    """
    base, changes, configs = _asked_for(grid, options, variants)
    folder = options.out / name
    evidence = read_records(HOME / experiment / EVIDENCE) if options.evidence else []
    records = _finished(name, configs, folder, evidence)
    missing = [key for key in configs if key not in records]
    if missing and options.missing:
        for key in missing:
            _check_begun(folder / key, configs[key])
        if grid.check is not None:
            grid.check([configs[key] for key in missing])
        with _workers(experiment, name, options):
            for number, key in enumerate(missing, start=1):
                print(f"{key}: run {number} of {len(missing)}", flush=True)
                about = {"grid": name, "name": key, "base": to_json(base), "changes": changes[key]}
                _make_run(folder / key, configs[key], grid.run or run, **about)
        records = _finished(name, configs, folder, evidence)
    elif not records:
        raise ValueError(
            f"none of the {len(configs)} runs of the grid {name} is finished in {options.out}"
        )
    if left := [key for key in configs if key not in records]:
        print(f"not finished, and in no table: {', '.join(left)}")
    for key, record in records.items():
        if record.diverged:
            print(f"{key} diverged, and is in no table: {record.diverged}")
    finished = _of_records(base, configs, records, folder)
    if records:  # none are where other processes are at all of them
        print(f"\n{grid.show(finished)}")
    if records and grid.draw is not None:
        folder.mkdir(parents=True, exist_ok=True)
        grid.draw(finished)
    return finished


def read_evidence(
    experiment: str, name: str, grid: Grid, variants: Mapping[str, Any], **options: Any
) -> Finished:
    """The runs of a grid that are kept beside the experiment, for tests and for other tables."""
    given = GridOptions(out=Path(), **options)
    base, _, configs = _asked_for(grid, given, variants)
    records = _matching(name, configs, read_records(HOME / experiment / EVIDENCE))
    return _of_records(base, configs, records, Path())


def _of_records(
    base: Any, configs: dict[str, Any], records: Mapping[str, Record], folder: Path
) -> Finished:
    metrics = {
        name: {"seconds": records[name].seconds, **metrics}
        for name in configs
        if name in records and (metrics := records[name].metrics) is not None
    }
    return Finished(base, configs, metrics, folder, frozenset(records) - frozenset(metrics))


def export(options: ExportOptions) -> None:
    """Sorts the finished runs of a folder into a `results.jsonl`."""
    made = [
        record
        for path in sorted(options.out.glob(f"**/{RECORD}"))
        if (record := read_record(path.parent)) is not None
    ]
    if not made:
        raise ValueError(f"{options.out} has no finished run")
    key = lambda record: (record.grid, record.name, sorted(map(str, record.settings.items())))
    known = {str(key(record)): record for record in (*read_records(options.results), *made)}
    write_records(options.results, known.values())
    print(f"{options.results}: {len(known)} runs, {len(made)} of them from {options.out}")


def _asked_for(
    grid: Grid, options: GridOptions, variants: Mapping[str, Any]
) -> tuple[Any, dict[str, Mapping[str, Any]], dict[str, Any]]:
    """The base, and by name what each run differs in and its configuration."""
    base = _base(options, grid.variants or variants)
    changes = _changes(grid, base, options.only)
    return base, changes, {n: dataclasses.replace(base, **change) for n, change in changes.items()}


def _base(options: GridOptions, variants: Mapping[str, Any]) -> Any:
    if options.variant not in variants:
        raise ValueError(f"--variant must be one of {', '.join(variants)}; got {options.variant}")
    config, arguments = variants[options.variant], []
    known = [field.name for field in dataclasses.fields(config)]
    for word in options.set:
        name, _, value = word.partition("=")
        if name.replace("-", "_") not in known:
            raise ValueError(f"--set {word} is no setting; known: {', '.join(known)}")
        if value.lower() in ("true", "false"):
            arguments.append(flag(name) if value.lower() == "true" else flag(f"no-{name}"))
        else:
            arguments += [flag(name), *value.split(",")]
    return tyro.cli(type(config), default=config, args=arguments) if arguments else config


def _changes(grid: Grid, base: Any, words: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    changes = grid.runs(base)
    selected = _select(changes, words)
    also = grid.also(base, selected) if grid.also else ()
    return {name: changes[name] for name in changes if name in selected or name in also}


def _select(changes: Changes, words: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The runs whose names match: of the words that match parts at the same places, one must."""
    parts = {name: name.split("/") for name in changes}
    alternatives: dict[frozenset[int], list[str]] = {}
    for word in words:
        places = frozenset().union(*(_places(names, [word]) for names in parts.values()))
        if not places:
            known = dict.fromkeys(part for names in parts.values() for part in names)
            raise ValueError(f"--only {word} is no part of a run's name; known: {', '.join(known)}")
        alternatives.setdefault(places, []).append(word)
    selected = {
        name: changes[name]
        for name, names in parts.items()
        if all(_places(names, given) for given in alternatives.values())
    }
    if not selected:
        raise ValueError(f"--only {' '.join(words)} leaves no run")
    return selected


def _places(names: Sequence[str], words: Sequence[str]) -> set[int]:
    """The places of the parts of a name that one of the words matches."""
    matches = lambda part: any(fnmatch.fnmatchcase(part, word) for word in words)
    return {place for place, part in enumerate(names) if matches(part)}


def _finished(
    name: str, configs: Mapping[str, Any], folder: Path, evidence: Sequence[Record]
) -> dict[str, Record]:
    """The finished runs: those in the folder, and of the others those of the evidence."""
    here = {key: record for key in configs if (record := read_record(folder / key)) is not None}
    for key, record in here.items():
        _check_same(folder / key, record.settings, configs[key])
    return {**_matching(name, configs, evidence), **here}


def _matching(
    name: str, configs: Mapping[str, Any], evidence: Sequence[Record]
) -> dict[str, Record]:
    """The records whose settings are known to be those of the configurations."""
    return {
        record.name: record
        for record in evidence
        if record.grid == name
        and (config := configs.get(record.name)) is not None
        and not differences(record.settings, config, ignore=config.INCIDENTAL)
    }


def _check_begun(folder: Path, config: Any) -> None:
    if (folder / CONFIG).exists():
        _check_same(folder, read_settings(folder), config)


def _check_same(folder: Path, saved: Mapping[str, Any], config: Any) -> None:
    if differing := differences(saved, config, ignore=config.INCIDENTAL):
        raise ValueError(f"{folder} is of a run with {differing}; name another --out, or delete it")


@contextlib.contextmanager
def _workers(experiment: str, name: str, options: GridOptions) -> Iterator[None]:
    """Other processes that work at the same runs; they end with what is done beside them."""
    command = [sys.executable, "-m", f"experiments.{experiment}", name]
    command += ["--out", str(options.out), "--variant", options.variant]
    command += [] if options.evidence else ["--no-evidence"]
    command += ["--only", *options.only] if options.only else []
    command += ["--set", *options.set] if options.set else []
    others = options.processes - 1
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(others)]
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.wait()


def _make_run(
    folder: Path,
    config: Any,
    run: Callable[[Any], Metrics],
    *,
    name: str,
    **about: Any,
) -> None:
    """Makes one run, unless another process is at it or has finished it meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with try_lock(folder.with_name(f"{folder.name}.lock")) as free:
        if not free:
            print(f"{name}: another process is at it")
            return
        if (folder / RECORD).exists():
            return
        begun = (folder / CONFIG).exists()
        resume = {"resume": begun} if hasattr(config, "resume") else {}
        if begun and not resume:
            shutil.rmtree(folder)  # what an earlier process began and did not finish
        results, diverged = {}, None
        try:
            results = run(dataclasses.replace(config, out=folder, **resume))
        except FloatingPointError as error:
            print(error)
            diverged = str(error)
        except Resumable as stopped:
            message = f"stopped in {name}, which is saved; the same command resumes it"
            raise Resumable(message, stopped.signal) from stopped
        record = make_record(results, name=name, commit=commit(), diverged=diverged, **about)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, dataclasses.asdict(record))
