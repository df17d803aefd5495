"""What the Contextual Similarity of two Gaussian clouds is on average, beside other distances."""

import functools
import sys

from experiments.common import cli, runs
from experiments.gaussians.config import VARIANTS
from experiments.gaussians.evaluation import evaluate
from experiments.gaussians.grids import GRIDS

EXPERIMENT = cli.Experiment(
    name="gaussians",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(runs.run, lambda config: functools.partial(evaluate, config)),
    grids=GRIDS,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
