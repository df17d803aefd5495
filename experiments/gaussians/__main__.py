"""What the Contextual Similarity of two Gaussian clouds is on average, beside other distances."""

import sys

from experiments import cli
from experiments.gaussians import results
from experiments.gaussians.config import VARIANTS

if __name__ == "__main__":
    sys.exit(
        cli.main(
            results.run,
            VARIANTS,
            module="experiments.gaussians",
            description=str(__doc__),
        )
    )
