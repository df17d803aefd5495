"""Which point of one picture the Contextual Similarity matches with which of another."""

import sys

from experiments import cli
from experiments.correspondences import draw, table
from experiments.correspondences.config import VARIANTS

COMMANDS = {"table": (table.TableConfig, table.run)}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            draw.run,
            VARIANTS,
            module="experiments.correspondences",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
