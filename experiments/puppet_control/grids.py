"""The runs behind the tables: every loss on the same pairs, over seeds and shifts; the sweeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common import sweeps, tables
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.tables import metric
from experiments.puppet_control.config import CHOSEN_ALIGNED, LOSSES, Config, Loss
from experiments.puppet_control.evaluation import BY_SETS, columns_of

SEEDS = (0, 1, 2)
SHIFTS = (0, 2, 4, 8)  # pixels of 64; 0 is the aligned control
ALIGNED = {"shift": 0, "jitter": 0, "warp": 0.0}
TRAINED: tuple[Loss, ...] = tuple(loss for loss in LOSSES if loss != "identity")
SHIFTED: tuple[Loss, ...] = ("cx", "l1", "l1_perceptual", "perceptual", "gram")
NAMES: dict[Loss, str] = {
    "identity": "identity: the driver's own frame",
    "l1": "L1",
    "l1_perceptual": "L1 + 0.1 perceptual",
    "perceptual": "perceptual",
    "gram": "Gram",
    "pix2pix": "pix2pix: 100 L1 + adversarial",
    "cx": "CX",
    "cx_perceptual": "CX + 0.1 perceptual",
}


def table_runs(base: Config) -> Changes:
    """The runs of the tables: `main`, `cat`, `shift` and `aligned`."""
    test = {loss: _settings(loss) | {"held_out": "test"} for loss in NAMES}
    runs: dict[str, Mapping[str, Any]] = {}
    for seed in SEEDS:
        for loss, changes in test.items():
            if loss != "identity" or seed == 0:
                runs[f"main/{loss}-seed{seed}"] = changes | {"seed": seed}
    for loss, changes in test.items():
        runs[f"cat/{loss}"] = changes | {"pair": "smiley-cat"}
    for shift in SHIFTS:
        for loss in SHIFTED:
            runs[f"shift/{loss}-{shift}"] = test[loss] | ALIGNED | {"shift": shift}
    for seed in SEEDS:
        for loss, rate in CHOSEN_ALIGNED.items():
            changes = test[loss] | ALIGNED | {"learning_rate": rate, "seed": seed}
            runs[f"aligned/{loss}-seed{seed}"] = changes
    return runs


def tune_runs(base: Config) -> Changes:
    """Every loss at every rate, in half as many steps: on loose pairs, and on aligned ones."""
    steps = {"steps": max(1, base.steps // 2)}
    loose = {loss: _settings(loss) | steps for loss in TRAINED}
    aligned = {loss: _settings(loss) | steps | ALIGNED for loss in CHOSEN_ALIGNED}
    return {**sweeps.runs(loose, "loose"), **sweeps.runs(aligned, "aligned")}


def _settings(loss: Loss) -> dict[str, Any]:
    """What a loss is trained with, written out, so that a record tells it."""
    rate, beta1 = Config(loss=loss).adam
    return {"loss": loss, "learning_rate": rate, "beta1": beta1}


def show_tables(finished: Finished) -> str:
    """The losses over seeds, from smileys to cats, over shifts, and on aligned pairs."""
    parts = {
        "main": lambda: _over_seeds(finished, "main", "loss"),
        "cat": lambda: tables.table("smiley to cat", _rows(finished, "cat/{}"), BY_SETS),
        "shift": lambda: _over_shifts(finished),
        "aligned": lambda: _over_seeds(finished, "aligned", "aligned pairs"),
    }
    there = {name.split("/")[0] for name in finished.metrics}
    return "\n\n".join(show() for part, show in parts.items() if part in there)


def _rows(finished: Finished, pattern: str) -> dict[str, list[Mapping[str, Any]]]:
    """The metrics of each loss, by its name in the tables."""
    return {
        name: [
            metrics
            for run, metrics in finished.metrics.items()
            if run.split("-seed")[0] == pattern.format(loss)
        ]
        for loss, name in NAMES.items()
    }


def _over_seeds(finished: Finished, part: str, title: str) -> str:
    columns = [*columns_of("whole"), *columns_of("region", "region: "), tables.SECONDS]
    return tables.table(title, _rows(finished, f"{part}/{{}}"), columns)


def _over_shifts(finished: Finished) -> str:
    rows = []
    for score, digits in (("lpips", 3), ("psnr", 2)):
        for loss in SHIFTED:
            values = [_shifted(finished, loss, shift, score) for shift in SHIFTS]
            cells = ["" if value is None else f"{value:.{digits}f}" for value in values]
            rows.append([f"{score.upper()}, {NAMES[loss]}", *cells])
    return tables.markdown(["shift by up to", *(f"{shift} px" for shift in SHIFTS)], rows)


def _shifted(finished: Finished, loss: Loss, shift: int, score: str) -> float | None:
    return metric(f"shift/{loss}-{shift}", "whole", score)(finished.metrics)


def show_sweeps(finished: Finished) -> str:
    """The sweep on loose pairs, and that on aligned ones."""
    parts = [sweep_of(finished, folder) for folder in ("loose", "aligned")]
    return "\n\n".join(sweeps.show(sweep, NAMES) for sweep in parts if sweep)


def sweep_of(finished: Finished, folder: str) -> sweeps.Sweep:
    """The scores by loss and rate of one of the two sweeps."""
    return sweeps.collect(finished, part="whole", folder=folder)


def draw(finished: Finished) -> None:
    """Writes what the first seed's runs made, and the curves over shifts."""
    folder = finished.folder
    for part, pattern in (("main", f"main/{{}}-seed{SEEDS[0]}"), ("cat", "cat/{}")):
        names = [pattern.format(loss) for loss in NAMES]
        tables.write_gallery(folder / f"{part}.webp", folder, names)
    draw_shifts(finished, folder / "shift.webp")


def draw_shifts(finished: Finished, path: Path) -> None:
    """Draws LPIPS against the shift, a line for each loss whose runs are all there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for loss in SHIFTED:
        scores = [_shifted(finished, loss, shift, "lpips") for shift in SHIFTS]
        if None not in scores:
            axes.plot(SHIFTS, tables.numbers(scores), marker="o", label=NAMES[loss])
    if not axes.lines:
        return
    axes.set(xlabel="largest shift in training, pixels of 64", ylabel="LPIPS, held-out actions")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=130)


GRIDS = {
    "table": Grid(
        about="The losses over seeds, from smileys to cats, over shifts, and on aligned pairs.",
        runs=table_runs,
        show=show_tables,
        draw=draw,
    ),
    "tune": Grid(
        about="Learning rates for each loss, on the validation actions.",
        runs=tune_runs,
        show=show_sweeps,
    ),
}
