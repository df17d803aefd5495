"""Semantic style transfer: a picture takes on another's manner, thing by thing."""

import sys

from experiments import cli
from experiments.style_transfer import compare, study
from experiments.style_transfer.config import VARIANTS
from experiments.style_transfer.train import run

COMMANDS = {
    "compare": (compare.CompareConfig, compare.run),
    "study": (study.StudyConfig, study.run),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            run,
            VARIANTS,
            module="experiments.style_transfer",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
