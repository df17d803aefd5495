"""Tables and galleries of finished runs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxjax.data import images
from experiments.common.runs import Metrics


class Column(NamedTuple):
    """A column of a table."""

    title: str
    value: Callable[[Metrics], Any]
    """`(metrics of a run) -> number, numbers, or None`."""
    digits: int = 3


def metric(*path: str) -> Callable[[Metrics], Any]:
    """A function that takes a metric out of a run's: a key, or keys of metrics within metrics."""

    def take(metrics: Metrics) -> Any:
        value: Any = metrics
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return take


SECONDS = Column("seconds", lambda metrics: metrics.get("seconds") or None, 0)


def table(corner: str, rows: Mapping[str, Sequence[Metrics]], columns: Sequence[Column]) -> str:
    """A table of means: a row of runs by its name, mean ± standard deviation in each column.

    Args:
      corner: Heading of the names.
      rows: Metrics of the runs of each row; a row without any is left out.
      columns: What to show of them.

    Returns:
      Markdown.
    """
    filled = [[name, *cells(runs, columns)] for name, runs in rows.items() if runs]
    return markdown([corner, *(column.title for column in columns)], filled)


def cells(runs: Sequence[Metrics], columns: Sequence[Column]) -> list[str]:
    """Mean ± standard deviation over the runs, in each column."""
    return [spread(numbers(map(column.value, runs)), column.digits) for column in columns]


def numbers(values: Any) -> list[float]:
    """The numbers among values and lists of values; None stands for none."""
    flat: list[float] = []
    for value in values:
        if isinstance(value, list | tuple):
            flat += numbers(value)
        elif value is not None:
            flat.append(value)
    return flat


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation (of a sample) of several values; a single one has no spread, and
    none at all is empty.
    """
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def bold(texts: Sequence[str], chosen: bool = True) -> list[str]:
    """Cells in bold, if they are chosen and not empty."""
    return [f"**{text}**" if chosen and text else text for text in texts]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
