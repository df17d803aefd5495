"""Unpaired domain transfer: men to women, one way of drawing to another, learnt without pairs."""

import functools
import sys

from experiments.common import apply, cli, training
from experiments.domain_transfer import answers, data, evaluation, objective
from experiments.domain_transfer.config import VARIANTS, Config
from experiments.domain_transfer.grids import GRIDS

TASK = training.Task(
    read=data.read_domains,
    training=data.training_data,
    layers=objective.layers_of,
    others=objective.other_networks,
    make_loss=objective.make_loss,
    untrained=objective.untrained,
    evaluate=evaluation.evaluate,
    show=evaluation.show,
)
EXPERIMENT = cli.Experiment(
    name="domain_transfer",
    description=str(__doc__),
    variants=VARIANTS,
    run=functools.partial(training.run, TASK),
    grids=GRIDS,
    commands={
        "apply": apply.command(Config),
        "show": training.show_command(TASK),
        "terms": (answers.TermsConfig, answers.show),
    },
)

if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
