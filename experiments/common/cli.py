"""The command line that every experiment has: options of a dataclass, variants, grids, errors."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

from cxjax.features.weights import cache_folder
from experiments.common.environment import machine
from experiments.common.grids import (
    EVIDENCE,
    HOME,
    ExportOptions,
    Finished,
    Grid,
    GridOptions,
    export,
    make,
)
from experiments.common.runs import CONFIG, Resumable, RunConfig, read_config

CACHE_SWITCH = "CXJAX_COMPILATION_CACHE"


class Experiment(NamedTuple):
    """What an experiment declares, in its `__main__.py`."""

    name: str
    """That of its folder."""
    description: str
    variants: Mapping[str, Any]
    """Configurations by name, the default first."""
    run: Callable[[Any], Any]
    """`(configuration) -> results`."""
    grids: Mapping[str, Grid] = {}
    """The sets of runs behind its tables."""
    commands: Mapping[str, tuple[type, Callable[[Any], object]]] = {}
    """What else it does: name -> class of the options, and what to call with them."""


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Runs an experiment with the options of the command line; returns the exit status.

    `--variant NAME` chooses the configuration whose fields the other options replace. A
    configuration that can be resumed is, with `--resume`, that of the run in `--out`, or of the
    last run under the folder where the default's results go. A first argument that names a command
    or a grid, or is `grid` or `export`, runs that. What a user can get wrong ends in one line on
    standard error.
    """
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # the one sign that tyro heeds
    given = sys.argv[1:] if arguments is None else list(arguments)

    def call() -> None:
        keep_compiled_programs()
        first, rest = (given[0], given[1:]) if given else ("", [])
        prog = f"python -m experiments.{experiment.name} {first}"
        if first in experiment.commands:
            kind, command = experiment.commands[first]
            command(tyro.cli(kind, args=rest, prog=prog))
        elif experiment.grids and first == "export":
            folders = ExportOptions(
                out=_grids_folder(experiment), results=HOME / experiment.name / EVIDENCE
            )
            export(tyro.cli(ExportOptions, default=folders, args=rest, prog=prog))
        elif experiment.grids and first in ("grid", *experiment.grids):
            make_grid(experiment, rest if first == "grid" else given)
        else:
            experiment.run(parse(experiment, given))

    return report(call)


def report(call: Callable[[], object]) -> int:
    """Calls, shows what cxjax logs, and ends what a user can get wrong in one line.

    Returns:
      The exit status.
    """
    show_log()
    try:
        call()
    except Resumable as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def show_log() -> None:
    """Shows what cxjax logs, such as what is downloaded, and how much."""
    logging.basicConfig()
    for handler in logging.root.handlers:  # orbax sets one up when it is imported
        handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("cxjax").setLevel(logging.INFO)


def keep_compiled_programs() -> None:
    """Keeps compiled programs in JAX's persistent cache, so that a second run compiles nothing.

    They go to the folder for caches; `CXJAX_COMPILATION_CACHE=0` keeps none, and a cache that the
    user has set up stays.
    """
    config: Any = jax.config
    if os.environ.get(CACHE_SWITCH) == "0" or config.jax_compilation_cache_dir:
        return
    # Of each kind of processor its own: a home folder may be shared, and a CPU's programs are not.
    folder = cache_folder() / "compiled" / machine()
    config.update("jax_compilation_cache_dir", str(folder))
    config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def make_grid(experiment: Experiment, arguments: Sequence[str]) -> Finished:
    """Makes the grid that the first argument names, and shows its tables.

    Raises:
      ValueError: If there is no such grid; lists those that there are.
    """
    name = arguments[0] if arguments else ""
    if name not in experiment.grids:
        known = "".join(f"\n  {key}: {grid.about}" for key, grid in experiment.grids.items())
        raise ValueError(f"name a grid of {experiment.name}, such as `grid NAME`:{known}")
    grid = experiment.grids[name]
    names = list(grid.variants or experiment.variants)
    options = tyro.cli(
        GridOptions,
        default=GridOptions(out=_grids_folder(experiment), variant=names[0]),
        args=arguments[1:],
        prog=f"python -m experiments.{experiment.name} {name}",
        description=f"{grid.about} Makes what is not finished, and shows the tables. It can be "
        "stopped at any time, and the same command resumes it.",
    )
    run, variants = experiment.run, experiment.variants
    return make(experiment.name, name, grid, options, variants=variants, run=run)


def _grids_folder(experiment: Experiment) -> Path:
    return Path("out") / experiment.name / "grids"


def parse(experiment: Experiment, arguments: Sequence[str]) -> Any:
    """The configuration that the options say."""
    variants, names = experiment.variants, list(experiment.variants)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--variant", choices=names)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen, rest = parser.parse_known_args(arguments)
    variant = chosen.variant or names[0]
    config = variants[variant]
    rest += ["--out", str(chosen.out)] if chosen.out else []
    if chosen.resume and hasattr(config, "resume"):
        if chosen.variant:
            raise ValueError("--resume takes the variant of the run; leave out --variant")
        folder = chosen.out or _last_run(config)
        config = dataclasses.replace(read_config(type(config), folder), out=folder, resume=True)
    elif chosen.resume:
        rest.append("--resume")
    others = {name: str(kind.__doc__) for name, (kind, _) in experiment.commands.items()}
    others |= {name: grid.about for name, grid in experiment.grids.items()}
    listed = "".join(f"\n\n`{name} --help`: {' '.join(t.split())}" for name, t in others.items())
    return tyro.cli(
        type(config),
        default=config,
        args=rest,
        prog=f"python -m experiments.{experiment.name}",
        description=f"{experiment.description}\n\n--variant {{{','.join(names)}}} chooses what the "
        f"options below start from (now {variant}).{listed}",
    )


def _last_run(config: RunConfig) -> Path:
    parent = config.default_out.parent
    runs = sorted(parent.glob(f"*/{CONFIG}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ValueError(f"--resume: there is no run under {parent}; name its folder by --out")
    return runs[-1].parent
