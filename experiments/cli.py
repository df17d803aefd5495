"""The command line that every experiment has: a frozen dataclass, named variants, plain errors."""

import argparse
import dataclasses
import json
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
    commands: Mapping[str, tuple[type, Callable[[Any], object]]] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs an experiment with the options of the command line; returns the exit status.

    `--variant NAME` chooses the configuration whose fields the other options replace; the first of
    `variants` is the default. A configuration that can be resumed is, with `--resume`, that of the
    run in `--out`, or of the last run under the folder where the default's results go. A first
    argument out of `commands` runs that, with the options of its own class. What a user can get
    wrong ends in one line on standard error.
    """
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # the one sign that tyro heeds
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = commands or {}

    def call() -> None:
        if arguments and arguments[0] in commands:
            kind, command = commands[arguments[0]]
            prog = f"python -m {module} {arguments[0]}"
            command(tyro.cli(kind, args=arguments[1:], prog=prog))
        else:
            run(_parse(variants, module, description, arguments, commands))

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


def _parse(
    variants: Mapping[str, Any],
    module: str,
    description: str,
    arguments: Sequence[str],
    commands: Mapping[str, Any],
) -> Any:
    names = list(variants)
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
            raise ValueError("--resume goes on with the variant of the run; leave out --variant")
        folder = chosen.out or _last_run(config.default_out.parent)
        config = dataclasses.replace(read_config(type(config), folder), out=folder, resume=True)
    elif chosen.resume:
        rest.append("--resume")
    others = "".join(
        f"\n\n`{name} --help`: {' '.join(str(kind.__doc__).split())}"
        for name, (kind, _) in commands.items()
    )
    return tyro.cli(
        type(config),
        default=config,
        args=rest,
        prog=f"python -m {module}",
        description=f"{description}\n\n--variant {{{','.join(names)}}} chooses what the options "
        f"below start from (now {variant}).{others}",
    )


def _last_run(parent: Path) -> Path:
    runs = sorted(parent.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ValueError(f"--resume: there is no run under {parent}; name its folder by --out")
    return runs[-1].parent


def read_config(kind: type, folder: Path) -> Any:
    """The configuration of the run in a folder.

    Raises:
      ValueError: If there is none, or it is another experiment's or another version's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a run: it has no config.json")
    try:
        fields = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return from_json(kind, fields, where=path)


class Resumable(Exception):
    """A run was stopped by a signal, and can be resumed; the message says how."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


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
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=out is not None)
            return folder
        except OSError as error:
            if out is None and isinstance(error, FileExistsError) and folder.exists():
                number += 1  # of an earlier run, or of one that began just now
                folder = default.with_name(f"{default.name}-{number}")
                continue
            raise OSError(
                f"cannot make the folder {folder} ({error}); name another by --out"
            ) from error


def flag(name: str) -> str:
    """The option of a field, as the command line has it."""
    return f"--{name.replace('_', '-')}"


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it."""
    fields = dataclasses.asdict(config)
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}


def differences(found: Any, given: Any, *, ignore: Sequence[str] = ()) -> str:
    """What one configuration has and another of its kind has not, by option; empty if nothing."""
    saved, wanted = to_json(found), to_json(given)
    names = [name for name in wanted if name not in ignore and saved[name] != wanted[name]]
    return ", ".join(f"{flag(name)} {saved[name]}, not {wanted[name]}" for name in names)


def from_json(kind: type, fields: Mapping[str, Any], *, where: object) -> Any:
    """The configuration that `to_json` wrote; a ValueError says where it has unknown fields."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - set(types)):
        raise ValueError(f"{where} has fields unknown here: {', '.join(unknown)}")
    values = {}
    for name, value in fields.items():
        if isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        elif isinstance(value, str) and "Path" in types[name]:
            value = Path(value)
        values[name] = value
    return kind(**values)
