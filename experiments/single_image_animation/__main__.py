"""Single-image animation: one still moves as a clip does."""

import functools
import sys

from experiments import cli
from experiments.generators import ApplyConfig, apply
from experiments.single_image_animation.config import VARIANTS, Config
from experiments.single_image_animation.train import run

if __name__ == "__main__":
    sys.exit(
        cli.main(
            run,
            VARIANTS,
            module="experiments.single_image_animation",
            description=str(__doc__),
            commands={"apply": (ApplyConfig, functools.partial(apply, config_class=Config))},
        )
    )
