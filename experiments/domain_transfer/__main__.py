"""Unpaired domain transfer: men to women, one way of drawing to another, learnt without pairs."""

import functools
import sys

from experiments import cli
from experiments.apply import ApplyConfig, apply
from experiments.domain_transfer import table, terms, train, weights
from experiments.domain_transfer.config import VARIANTS, Config

COMMANDS = {
    "apply": (ApplyConfig, functools.partial(apply, config_class=Config)),
    "tune": (table.TuneConfig, table.tune),
    "table": (table.TransferTableConfig, table.make),
    "terms": (terms.TermsConfig, terms.show),
    "weights": (weights.WeightsConfig, weights.make),
}

if __name__ == "__main__":
    sys.exit(
        cli.main(
            train.run,
            VARIANTS,
            module="experiments.domain_transfer",
            description=str(__doc__),
            commands=COMMANDS,
        )
    )
