"""One photograph, one shift, all losses: pictures side by side and a small table."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import tables
from experiments.cli import check_folder, make_folder, to_json
from experiments.misalignment import figures
from experiments.misalignment.config import Config, Loss
from experiments.misalignment.optimize import optimize
from experiments.misalignment.pairs import load_photograph, make_pair
from experiments.misalignment.scores import scores

_ACROSS = 6  # pictures of a strip
Figures = dict[str, list[float | None]]  # by score, one number for each seed


def run(config: Config) -> dict[Loss, Figures]:
    """Cleans the source with every loss, writes pictures and figures, and returns the figures."""
    check_folder(config.out)
    photograph = load_photograph(config)
    name = f"{Path(config.photograph).stem}-shift{config.shift}"
    out = make_folder(config.out, Path("out/misalignment") / name)
    (out / "config.json").write_text(json.dumps(to_json(config), indent=1) + "\n")
    print(f"results in {out}")
    pair = make_pair(config, photograph, config.seeds[0])
    shown = {"clean": pair.clean, "a target": pair.targets[0]}
    found: dict[Loss, Figures] = {}
    for loss in config.losses:
        found[loss], images = measure(config, photograph, loss)
        shown[figures.LABELS[loss]] = images[0]
        print(f"{loss}: {_line(found[loss])}")
    names = list(shown)
    lines = [names[i : i + _ACROSS] for i in range(0, len(names), _ACROSS)]
    strip = [("", {name: shown[name] for name in line}) for line in lines]
    figures.write_strip(out / "strip.webp", strip)
    results = {"figures": found, "device": jax.devices()[0].device_kind}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(found))
    return found


def measure(config: Config, photograph: np.ndarray, loss: Loss) -> tuple[Figures, list[np.ndarray]]:
    """Optimises one loss with every seed; returns the figures and the resulting pictures."""
    found: Figures = {}
    images = []
    for seed in config.seeds:
        pair = make_pair(config, photograph, seed)
        result = optimize(config, loss, pair, seed)
        images.append(result.image)
        row: dict[str, Any] = scores(config, result.image, pair.clean)
        for name, value in {**row, "loss": result.loss, "seconds": result.seconds}.items():
            # JSON has no NaN: null is the loss of what was not optimised.
            found.setdefault(name, []).append(None if math.isnan(value) else float(f"{value:.5g}"))
    return found, images


def table(found: dict[Loss, Figures]) -> str:
    """Scores by loss, mean and standard deviation of the seeds, as Markdown."""
    rows = []
    for loss, row in found.items():
        cells = [tables.spread(numbers(row[score]), digits) for score, digits in figures.SCORES]
        where = ", ".join(f"{down:+d} {across:+d}" for down, across in _shifts(row))
        rows.append(
            [figures.LABELS[loss], *cells, where, f"{np.mean(numbers(row['seconds'])):.1f}"]
        )
    names = [score.upper() for score, _ in figures.SCORES]
    return tables.markdown(["", *names, "lies at", "seconds"], rows)


def numbers(values: list[float | None]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if value is not None]


def _shifts(row: Figures) -> list[tuple[int, int]]:
    pairs = zip(numbers(row["down"]), numbers(row["across"]), strict=True)
    return [(int(down), int(across)) for down, across in pairs]


def _line(row: Figures) -> str:
    parts = [f"{score.upper()} {np.mean(numbers(row[score])):.3f}" for score, _ in figures.SCORES]
    return f"{', '.join(parts)}, {sum(numbers(row['seconds'])):.0f} s"
