"""The command line that every experiment has: a frozen dataclass, named variants, plain errors."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro


def main(
    run: Callable[[Any], object],
    variants: Mapping[str, Any],
    *,
    module: str,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs an experiment with the options of the command line; returns the exit status.

    `--variant NAME` chooses the configuration whose fields the other options replace; the first of
    `variants` is the default. What a user can get wrong ends in one line on standard error.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cxjax").setLevel(logging.INFO)  # what is downloaded, and how much
    names = list(variants)
    parser = argparse.ArgumentParser(prog=f"python -m {module}", add_help=False, allow_abbrev=False)
    parser.add_argument("--variant", choices=names, default=names[0])
    chosen, rest = parser.parse_known_args(arguments)
    config = variants[chosen.variant]
    try:
        run(
            tyro.cli(
                type(config),
                default=config,
                args=rest,
                prog=f"python -m {module}",
                description=f"{description}\n\n--variant {{{','.join(names)}}} chooses what the "
                f"options below start from (now {chosen.variant}).",
            )
        )
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def check_folder(out: Path | None) -> None:
    """Refuses, before any work, a folder for results that holds something or cannot be written."""
    if out is None:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty folder; name another")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"--out {out} cannot be made: {nearest} is not a folder to write in")


def make_folder(out: Path | None, default: Path) -> Path:
    """A new folder for results: `out`, else `default`, numbered if it is taken."""
    check_folder(out)
    folder, number = out or default, 1
    while out is None and folder.exists():
        number += 1
        folder = default.with_name(f"{default.name}-{number}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder} ({error}); name another by --out"
        ) from error
    return folder


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it."""
    fields = dataclasses.asdict(config)
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}
