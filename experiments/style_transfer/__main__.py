"""Semantic style transfer: a picture takes on another's style, thing by thing."""

import sys

from experiments.common import cli
from experiments.style_transfer.config import VARIANTS
from experiments.style_transfer.grids import GRIDS
from experiments.style_transfer.stylize import run

EXPERIMENT = cli.Experiment(
    name="style_transfer",
    description=str(__doc__),
    variants=VARIANTS,
    run=run,
    grids=GRIDS,
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
