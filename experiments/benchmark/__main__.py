"""Time and memory of the Contextual Loss, blockwise and dense, beside what no code can avoid."""

import sys

from experiments import cli
from experiments.benchmark.config import VARIANTS
from experiments.benchmark.measure import run

if __name__ == "__main__":
    sys.exit(cli.main(run, VARIANTS, module="experiments.benchmark", description=str(__doc__)))
