"""The runs behind the tables: every loss on both pairs of domains, over seeds; the sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common import sweeps, tables
from experiments.common.grids import Changes, Finished, Grid
from experiments.common.runs import Metrics
from experiments.domain_transfer.config import LOSSES, MEASURED, UNTRAINED, Config, Loss
from experiments.domain_transfer.evaluation import columns_of

SEEDS = (0, 1)
TRAINED: tuple[Loss, ...] = tuple(loss for loss in LOSSES if loss not in UNTRAINED)
NAMES: dict[Loss, str] = {
    "identity": "identity: the source itself",
    "histogram": "colour histogram of a random target",
    "gram": "Gram + features of the source",
    "cyclegan": "CycleGAN (in minutes: no fair one)",
    "cx_target": "CX without the source term",
    "cx": "CX",
}
WEIGHTS = ((1.0, 150), (0.3, 150), (0.1, 150), (1.0, 600), (0.3, 600))  # and for how many steps


def table_runs(base: Config) -> Changes:
    """Every loss on both pairs of domains, over seeds."""
    return {
        f"{domains}/{loss}-seed{seed}": _settings(loss)
        | {"domains": domains, "held_out": "test", "seed": seed}
        for domains in MEASURED
        for seed in SEEDS
        for loss in NAMES
        if loss != "identity" or seed == SEEDS[0]
    }


def tune_runs(base: Config) -> Changes:
    """Every loss at every rate, in a quarter as many steps as the table's."""
    steps = {"steps": max(1, base.steps // 4)}
    return sweeps.runs({loss: _settings(loss) | steps for loss in TRAINED})


def weight_runs(base: Config) -> Changes:
    """The source itself, and weights of the term to it."""
    tried = {
        f"cx-{weight:g}-{steps}": _settings("cx") | {"source_weight": weight, "steps": steps}
        for weight, steps in WEIGHTS
    }
    return {"identity": _settings("identity"), **tried}


def _settings(loss: Loss) -> dict[str, Any]:
    """What a loss is trained with, written out, so that a record tells it."""
    rate, beta1 = Config(loss=loss).adam
    return {"loss": loss, "learning_rate": rate, "beta1": beta1}


def show_tables(finished: Finished) -> str:
    """A table for each pair of domains."""
    parts = []
    for domains in MEASURED:
        rows = {name: _metrics(finished, f"{domains}/{loss}-seed") for loss, name in NAMES.items()}
        if any(rows.values()):
            right = {f"{run['classifier']:.2f}" for runs in rows.values() for run in runs}
            parts += [
                _table(domains, rows),
                f"The classifier is right on true held-out pictures: {', '.join(sorted(right))}.",
            ]
    return "\n\n".join(parts)


def _metrics(finished: Finished, start: str) -> list[Metrics]:
    return [run for name, run in finished.metrics.items() if name.startswith(start)]


def _table(corner: str, rows: Mapping[str, Sequence[Metrics]]) -> str:
    return tables.table(corner, rows, columns_of([run for runs in rows.values() for run in runs]))


def show_sweep(finished: Finished) -> str:
    """The sweep, the best rates in bold."""
    return sweeps.show(sweeps.collect(finished), NAMES)


def show_weights(finished: Finished) -> str:
    """The scores by weight."""
    rows = {}
    for name, metrics in finished.metrics.items():
        config = finished.configs[name]
        of_weight = f"{config.source_weight:g}, {config.steps} steps"
        rows["the source itself" if name == "identity" else of_weight] = [metrics]
    return _table("weight", rows)


def draw(finished: Finished) -> None:
    """Writes what the first seed's runs made."""
    for domains in MEASURED:
        names = [f"{domains}/{loss}-seed{SEEDS[0]}" for loss in NAMES]
        tables.write_gallery(finished.folder / f"{domains}.webp", finished.folder, names)


GRIDS = {
    "table": Grid(
        about="Every loss on both pairs of domains, over seeds.",
        runs=table_runs,
        show=show_tables,
        draw=draw,
    ),
    "tune": Grid(
        about="Learning rates for each loss, on the validation pairs of men and women.",
        runs=tune_runs,
        show=show_sweep,
    ),
    "weights": Grid(
        about="Weights of the term to the source, on the validation pairs of men and women.",
        runs=weight_runs,
        show=show_weights,
    ),
}
