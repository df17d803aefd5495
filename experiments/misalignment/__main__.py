"""Misalignment: a noisy picture is cleaned by shifted clean ones, with one loss or another."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.common import cli, runs
from experiments.misalignment.config import VARIANTS, Config
from experiments.misalignment.data import load_photograph
from experiments.misalignment.evaluation import evaluate
from experiments.misalignment.grids import GRIDS


def prepare(config: Config) -> Callable[[Path], runs.Metrics]:
    """Reads the photograph; what it returns cleans a crop of it with every loss."""
    return functools.partial(evaluate, config, load_photograph(config))


EXPERIMENT = cli.Experiment(
    name="misalignment",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(runs.run, prepare),
    grids=GRIDS,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
