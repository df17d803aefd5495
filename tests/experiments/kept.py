"""What is kept beside an experiment, records, README and chosen settings, against each other."""

from experiments.common import grids, sweeps


def read(experiment, name):
    """All runs of a grid, from the records that are kept; there must be all."""
    grid = experiment.grids[name]
    variant = next(iter(grid.variants or experiment.variants))
    kept = grids.read_evidence(experiment.name, name, grid, experiment.variants, variant=variant)
    assert kept.configs.keys() == kept.metrics.keys() | kept.diverged
    return kept


def check_rates(sweep, chosen):
    """The sweep is whole, and the rates chosen are those that it found best."""
    assert all(len(by_rate) == len(sweeps.RATES) for by_rate in sweep.values())
    assert sweeps.best_rates(sweep) == chosen


def check_readme(experiment):
    """The README has every line of the grids' tables; returns how many these are."""
    shown = [grid.show(read(experiment, name)) for name, grid in experiment.grids.items()]
    lines = [line for text in shown for line in text.splitlines() if line.startswith("|")]
    readme = (grids.HOME / experiment.name / "README.md").read_text().splitlines()
    for line in lines:
        assert line in readme
    return len(lines)
