"""The tables: every loss on both pairs of domains, over seeds."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from experiments import sweeps, tables
from experiments.domain_transfer import train
from experiments.domain_transfer.config import DEFAULT, LOSSES, UNTRAINED, Config, Loss
from experiments.domain_transfer.results import shown_scores

OUT = Path("out/domain_transfer")
Domains = Literal["man-woman", "noto-fluent"]
DOMAINS: tuple[Domains, ...] = get_args(Domains)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferTableConfig(tables.TableConfig):
    """Makes the tables: runs what has no result yet. It can be stopped at any time, and goes on."""

    results: Path = OUT / "results"
    runs: Path = OUT / "runs"
    domains: tuple[Domains, ...] = DOMAINS
    """Pairs of domains to make the table of."""
    losses: tuple[Loss, ...] = LOSSES
    """Losses to run and show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig(tables.TableConfig):
    """Tries learning rates for each loss, on the validation pairs of men and women."""

    results: Path = OUT / "results"
    runs: Path = OUT / "runs"


def settings(loss: Loss) -> Config:
    """The configuration of a loss in the tables."""
    rate, beta1 = dataclasses.replace(DEFAULT, loss=loss).adam
    return dataclasses.replace(DEFAULT, loss=loss, beta1=beta1, learning_rate=rate)


def table_runs() -> dict[str, Config]:
    """The configurations of all runs of the tables, by name."""
    return {
        f"{domains}/{loss}-seed{seed}": dataclasses.replace(
            settings(loss), domains=domains, held_out="test", seed=seed
        )
        for domains in DOMAINS
        for seed in SEEDS
        for loss in NAMES
        if loss != "identity" or seed == SEEDS[0]
    }


def make(config: TransferTableConfig) -> None:
    """Makes the tables and shows them."""
    chosen = {
        name: run
        for name, run in table_runs().items()
        if run.domains in config.domains and run.loss in config.losses
    }
    found = tables.without_diverged(tables.collect_trained(chosen, train.run, config))
    for domains in config.domains:
        rows = {
            name: [f for n, f in found.items() if n.startswith(f"{domains}/{loss}-seed")]
            for loss, name in NAMES.items()
        }
        header, cells = shown_scores({name: row for name, row in rows.items() if row})
        print(f"\n{tables.markdown([domains, *header[1:]], cells)}")
        first = [f"{domains}/{loss}-seed{SEEDS[0]}" for loss in NAMES]
        tables.write_gallery(config.runs / f"{domains}.webp", config.runs, first)
        right = {f"{figures['classifier']:.2f}" for row in rows.values() for figures in row}
        print(f"\nThe classifier is right on true held-out pictures: {', '.join(sorted(right))}.")


def tune(config: TuneConfig) -> None:
    """Makes the sweep and shows it, the best in bold."""
    print(sweeps.show(sweep(config), NAMES))


def sweep(config: TuneConfig) -> sweeps.Sweep:
    """The scores of every loss at every rate, from runs a quarter as long as the table's."""
    steps = DEFAULT.steps // 4
    losses = {loss: dataclasses.replace(settings(loss), steps=steps) for loss in TRAINED}
    return sweeps.collect(losses, train.run, config)
