"""Puppet control: a puppet does what a driver does, learnt from frames that are not aligned."""

import functools
import sys

from experiments import cli
from experiments.apply import ApplyConfig, apply
from experiments.puppet_control import table, train
from experiments.puppet_control.config import VARIANTS, Config

COMMANDS = {
    "apply": (ApplyConfig, functools.partial(apply, config_class=Config)),
    "tune": (table.TuneConfig, table.tune),
    "table": (table.PuppetTableConfig, table.make),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            train.run,
            VARIANTS,
            module="experiments.puppet_control",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
