"""Which point of one picture the Contextual Similarity matches with which of another."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.common import cli, runs
from experiments.correspondences.config import VARIANTS, Config
from experiments.correspondences.data import read_pictures
from experiments.correspondences.evaluation import evaluate
from experiments.correspondences.grids import GRIDS
from experiments.correspondences.matching import make_features


def prepare(config: Config) -> Callable[[Path], runs.Metrics]:
    """Reads two pictures and finds their points; what it returns matches and draws them."""
    pictures = read_pictures(config)
    x, y = map(make_features(config), pictures)
    return functools.partial(evaluate, config, pictures, x, y)


EXPERIMENT = cli.Experiment(
    name="correspondences",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(runs.run, prepare),
    grids=GRIDS,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
