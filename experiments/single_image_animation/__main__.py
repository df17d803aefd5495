"""Single-image animation: one still moves as a clip does."""

import functools
import sys

from experiments.common import apply, cli, training
from experiments.single_image_animation import data, evaluation, frame_by_frame, objective, shapes
from experiments.single_image_animation.config import VARIANTS, Config
from experiments.single_image_animation.grids import GRIDS

TASK = training.Task(
    read=data.read_pair,
    training=data.training_data,
    layers=objective.layers_of,
    make_loss=objective.make_loss,
    evaluate=evaluation.evaluate,
    show=evaluation.show,
)
EXPERIMENT = cli.Experiment(
    name="single_image_animation",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(training.run, TASK),
    grids=GRIDS,
    commands={
        "apply": apply.command(Config),
        "show": training.show_command(TASK),
        "frame-by-frame": (frame_by_frame.FrameByFrameConfig, frame_by_frame.run),
        "shapes": (shapes.ShapesConfig, shapes.run),
    },
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
