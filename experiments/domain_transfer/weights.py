"""The weight of the term to the source: whether with less of it the Contextual Loss leaves that."""

import dataclasses
from pathlib import Path

from experiments import tables
from experiments.domain_transfer import train
from experiments.domain_transfer.config import Config
from experiments.domain_transfer.results import shown_scores
from experiments.domain_transfer.table import OUT, settings

TRIED = ((1.0, 150), (0.3, 150), (0.1, 150), (1.0, 600), (0.3, 600))  # and for how many steps
IDENTITY = "source_weight/identity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsConfig(tables.TableConfig):
    """Tries weights of the term to the source, on the validation pairs of men and women."""

    results: Path = OUT / "results"
    runs: Path = OUT / "runs"


def weight_runs() -> dict[str, Config]:
    """The configurations of all runs, by name."""
    runs = {IDENTITY: settings("identity")}
    for weight, steps in TRIED:
        runs[f"source_weight/cx-{weight:g}-{steps}"] = dataclasses.replace(
            settings("cx"), source_weight=weight, steps=steps
        )
    return runs


def make(config: WeightsConfig) -> None:
    """Makes the table and shows it."""
    runs = weight_runs()
    found = tables.without_diverged(tables.collect_trained(runs, train.run, config))
    rows = {
        "the source itself"
        if name == IDENTITY
        else f"{runs[name].source_weight:g}, {runs[name].steps} steps": [figures]
        for name, figures in found.items()
    }
    header, cells = shown_scores(rows)
    print(f"\n{tables.markdown(['weight', *header[1:]], cells)}")
