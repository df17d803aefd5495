"""Tables made of many runs: each leaves a small file, and is not run again where that is.

So a table can be stopped at any time and gone on with, by several processes too.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxjax.data import images
from experiments.cli import Resumable, differences, from_json, read_config, to_json
from experiments.locks import alone

Figures = Mapping[str, Any]

DIVERGED = "diverged"  # in place of figures: the message, where the loss was not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Makes the tables: runs what has no result yet. It can be stopped at any time, and goes on."""

    results: Path
    """Folder of the runs' small files; that beside the experiment holds the README's figures."""
    runs: Path
    """Folder of the runs themselves."""
    missing: bool = True
    """Whether to run what is missing, or only to show what is there."""


def collect_trained(
    runs: Mapping[str, Any], run: Callable[[Any], Figures], config: TableConfig
) -> dict[str, Figures]:
    """As `collect`, of training runs that go on in their folder where they were stopped.

    Args:
      runs: Configurations by name, with `out` and `resume`.
      run: `(configuration) -> figures`.
      config: Where the files are.

    Returns:
      The figures by name; without `config.missing`, of the runs that have a file. A run whose loss
      is not finite has a file too, with `DIVERGED`.
    """

    wanted = runs
    has_file = {name: (config.results / f"{name}.json").exists() for name in runs}
    if not config.missing:
        runs = {name: one for name, one in runs.items() if has_file[name]}
        if wanted and not runs:
            raise ValueError(f"--results {config.results} has none of the {len(wanted)} runs")
    for name, one in runs.items():
        folder = config.runs / name
        if not has_file[name] and (folder / "config.json").exists():
            begun = read_config(type(one), folder)
            _check_same(folder, dataclasses.replace(begun, out=None, resume=False), one)

    def measure(name: str, one: Any) -> Figures:
        folder = config.runs / name
        begun = (folder / "config.json").exists()
        try:
            return run(dataclasses.replace(one, out=folder, resume=begun))
        except FloatingPointError as error:
            print(error)
            return {DIVERGED: str(error)}
        except Resumable as stopped:
            message = f"stopped in {name}, which is saved; the same command goes on with it"
            raise Resumable(message, stopped.signal) from stopped

    return collect(runs, measure, config.results)


def without_diverged(found: Mapping[str, Figures]) -> dict[str, Figures]:
    """The runs whose loss stayed finite; the others are named, for no mean has them."""
    for name, figures in found.items():
        if DIVERGED in figures:
            print(f"{name} diverged, and is in no table: {figures[DIVERGED]}")
    return {name: figures for name, figures in found.items() if DIVERGED not in figures}


def write_rows(folder: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Writes pictures of a run, a row of images `(b, h, w, 3)` each, and all in one strip.

    Args:
      folder: The run's.
      rows: What was given, what was made, and the truth if there is one, by name.
    """
    for name, row in rows.items():
        images.write_image(folder / f"{name}.png", images.strip(list(row), gap=0))
    strips = [images.strip(list(row)) for row in rows.values()]
    images.write_image(folder / "strip.png", np.concatenate(strips))


def write_gallery(path: Path, runs: Path, names: Sequence[str]) -> None:
    """Writes what several runs made of the same, under what was given, over the truth if there is
    one. Runs without pictures here are left out; if all are, nothing is written.
    """
    folders = [runs / name for name in names if (runs / name / "made.png").is_file()]
    if not folders:
        return
    rows = [folders[0] / "given.png", *(folder / "made.png" for folder in folders)]
    has_truth = (folders[0] / "truth.png").is_file()
    rows += [folders[0] / "truth.png"] if has_truth else []
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, np.concatenate([images.read_image(row) for row in rows]))
    names = ["given", *(folder.name for folder in folders), *(["truth"] if has_truth else [])]
    print(f"\n{path}, from above: {', '.join(names)}")


def collect(
    runs: Mapping[str, Any],
    measure: Callable[[str, Any], Figures],
    folder: Path,
    *,
    ignore: Sequence[str] = (),
) -> dict[str, Figures]:
    """The figures of all runs: those that have no file in the folder yet are made, in order.

    Args:
      runs: Configurations, dataclasses, by name; a name becomes that of a file.
      measure: `(name, configuration) -> figures`, which JSON can hold.
      folder: Where a `NAME.json` of each run is, or will be, with its configuration and figures.
      ignore: Fields of the configuration that may differ between a file and what is asked for.

    Returns:
      The figures by name. Runs that another process is still at are left out.

    Raises:
      ValueError: Before anything is run, if a file is damaged or of another configuration.
    """
    for name, config in runs.items():
        _read(folder / f"{name}.json", config, ignore)
    for number, (name, config) in enumerate(runs.items(), start=1):
        path = folder / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with alone(path.with_suffix(".lock")) as free:
                if not free:
                    print(f"{name}: another process is at it")
                    continue
                if not path.exists():
                    print(f"{name}: run {number} of {len(runs)}")
                    _write(path, config, measure(name, config))
    return {
        name: _read(path, config, ignore)
        for name, config in runs.items()
        if (path := folder / f"{name}.json").exists()
    }


def _write(path: Path, config: Any, figures: Figures) -> None:
    unfinished = path.with_suffix(".tmp")
    content = {"config": to_json(config), "figures": dict(figures)}
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


def _read(path: Path, config: Any, ignore: Sequence[str]) -> Figures:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        saved, figures = dict(content["config"]), content["figures"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete it to run it again") from error
    _check_same(path, from_json(type(config), saved, where=path), config, ignore)
    return figures


def _check_same(path: Path, found: Any, config: Any, ignore: Sequence[str] = ()) -> None:
    if differing := differences(found, config, ignore=ignore):
        raise ValueError(f"{path} is of a run with {differing}; name another folder, or delete it")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation (of a sample) of the figures of several seeds; a single figure
    has no spread, and none at all is empty.
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
