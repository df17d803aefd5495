"""Puppet control: a puppet does what a driver does, learnt from frames that are not aligned."""

import functools
import sys

from experiments.common import apply, cli, training
from experiments.puppet_control import data, evaluation, objective
from experiments.puppet_control.config import VARIANTS, Config
from experiments.puppet_control.grids import GRIDS

TASK = training.Task(
    read=data.read_clips,
    training=data.training_data,
    layers=objective.layers_of,
    others=objective.other_networks,
    make_loss=objective.make_loss,
    untrained=objective.untrained,
    evaluate=evaluation.evaluate,
    show=evaluation.show,
)
EXPERIMENT = cli.Experiment(
    name="puppet_control",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(training.run, TASK),
    grids=GRIDS,
    commands={"apply": apply.command(Config), "show": training.show_command(TASK)},
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
