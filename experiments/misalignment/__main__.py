"""Misalignment: a noisy picture is cleaned by shifted clean ones, with one loss or another."""

import sys

from experiments import cli
from experiments.misalignment import table, train, tune
from experiments.misalignment.config import VARIANTS

COMMANDS = {
    "table": (table.TableConfig, table.run),
    "tune": (tune.TuneConfig, tune.run),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            train.run,
            VARIANTS,
            module="experiments.misalignment",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
