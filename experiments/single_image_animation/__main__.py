"""Single-image animation: one still moves as a clip does."""

import functools
import sys

from experiments import cli
from experiments.apply import ApplyConfig, apply
from experiments.single_image_animation import frame_by_frame, results, shapes, train
from experiments.single_image_animation.config import VARIANTS, Config

COMMANDS = {
    "apply": (ApplyConfig, functools.partial(apply, config_class=Config)),
    "frame-by-frame": (frame_by_frame.FrameByFrameConfig, frame_by_frame.run),
    "compare": (results.CompareConfig, results.compare),
    "shapes": (shapes.ShapesConfig, shapes.run),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            train.run,
            VARIANTS,
            module="experiments.single_image_animation",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
