"""Lists the sets of real pictures, and prepares those that are named."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.common.cli import report
from experiments.datasets import DATASETS, prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="one line for each set (the default)")
    preparing = commands.add_parser("prepare", help="fetch and prepare sets, once")
    preparing.add_argument("names", nargs="+", metavar="NAME", help=", ".join(DATASETS))
    preparing.add_argument("--data-dir", type=Path, help="default: $TFDS_DATA_DIR, else TFDS's own")
    chosen = parser.parse_args(arguments)
    if chosen.command != "prepare":
        for name, entry in DATASETS.items():
            size = f"{entry.megabytes():.1f} MB"
            count = sum(entry.examples.values())
            print(f"{name:18} {count:5} {size:>9}  {entry.summary} [{entry.licence}]")
        return 0
    return report(lambda: _prepare(chosen.names, chosen.data_dir))


def _prepare(names: Sequence[str], data_dir: Path | None) -> None:
    for name in names:
        start = time.monotonic()
        builder = prepare(name, data_dir=data_dir)
        splits = ", ".join(f"{key} {s.num_examples}" for key, s in builder.info.splits.items())
        print(f"{name}: {splits} in {builder.data_path} ({time.monotonic() - start:.1f} s)")


if __name__ == "__main__":
    sys.exit(main())
