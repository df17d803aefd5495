"""Time and memory of the Contextual Loss, blockwise and dense, beside what no code can avoid."""

import sys

from experiments import cli
from experiments.benchmark import measure, step, traffic
from experiments.benchmark.config import VARIANTS

COMMANDS = {
    "step": (step.StepConfig, step.run),
    "traffic": (traffic.TrafficConfig, traffic.run),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            measure.run,
            VARIANTS,
            module="experiments.benchmark",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
