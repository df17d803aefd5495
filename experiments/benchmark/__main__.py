"""Time and memory of the Contextual Loss, blockwise and dense, beside what no code can avoid."""

import sys

from experiments.benchmark import measure, step, traffic
from experiments.benchmark.config import VARIANTS, StepConfig, TrafficConfig
from experiments.common import cli

EXPERIMENT = cli.Experiment(
    name="benchmark",
    description=str(__doc__),
    variants=VARIANTS,
    run=measure.run,
    commands={"step": (StepConfig, step.run), "traffic": (TrafficConfig, traffic.run)},
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
