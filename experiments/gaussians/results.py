"""Runs every measure, and makes a figure and a table of them."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli import check_folder, make_folder, to_json
from experiments.gaussians import figure
from experiments.gaussians.config import Config
from experiments.gaussians.measures import MEASURES, expectation, half_way, share_left
from experiments.tables import collect, markdown

# Shift and standard deviation of the cells that the table shows.
CELLS = ((0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (10, 1), (0, 2), (0, 5), (0, 10), (5, 5))


def run(config: Config) -> dict[str, Mapping[str, Any]]:
    """Runs all measures that have no file yet, and writes the figure and the table."""
    began = time.perf_counter()
    check_folder(config.out)
    if config.results is not None and config.results.exists() and not config.results.is_dir():
        raise ValueError(f"--results {config.results} is not a folder")
    out = make_folder(config.out, Path("out/gaussians"))
    print(f"results in {out}")
    (out / "config.json").write_text(json.dumps(to_json(config), indent=1) + "\n")
    settings = dataclasses.replace(config, out=None, results=None)  # no paths in the files
    runs = dict.fromkeys(MEASURES, settings)
    found = collect(runs, _measure, config.results or out / "results")
    shown = table(config, found)
    (out / "table.md").write_text(shown + "\n")
    figure.write(out / "gaussians.webp", config, found)
    print(f"{shown}\n{time.perf_counter() - began:.0f} s in all")
    return found


def _measure(name: str, config: Config) -> dict[str, Any]:
    found = expectation(MEASURES[name].function, config)
    return {
        key: [[float(f"{value:.{digits}g}") for value in row] for row in getattr(found, key)]
        for key, digits in (("mean", 5), ("standard_error", 2))
    }


def table(config: Config, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and standard error at some cells; and how far from (0, 1) half of a measure is left."""
    cells = [cell for cell in CELLS if max(cell) <= config.largest]
    header = ["(shift, deviation)", *map(str, cells), "half-way: shift", "deviation less 1"]
    rows = []
    for name, figures in found.items():
        mean, error = (np.asarray(figures[key]) for key in ("mean", "standard_error"))
        at = [
            (round(s * config.steps_per_unit), round(m * config.steps_per_unit)) for m, s in cells
        ]
        row = [f"{mean[index]:.3f} ± {error[index]:.3f}" for index in at]
        one = config.steps_per_unit
        for line in (mean[one], mean[one:, 0]):
            way = half_way(share_left(MEASURES[name], config, line, 0), config.step)
            row.append("never" if way is None else f"{way:.1f}")
        rows.append([MEASURES[name].title, *row])
    # Read down rather than across: there are more cells than measures.
    return markdown(*_transposed(header, rows))


def _transposed(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    first, *others = (list(line) for line in zip(header, *rows, strict=True))
    return first, others
