"""What `--help` says of every option of every experiment and of its commands."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.common import cli
from experiments.common.grids import ExportOptions, GridOptions
from experiments.common.runs import flag

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/config.py"))


def _help(capsys, experiment, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(experiment, [*arguments, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def _options(printed):
    """`(option and its kind, text)` of each in the boxes, which are of spaces in ASCII."""
    options = []
    for line in re.findall(r"^[│ ] (.*) [│ ]$", printed, re.MULTILINE):
        if not line.startswith(" "):  # else it goes on with the option above
            options.append("")
        options[-1] += line.rstrip() + "  "
    parts = [re.split(r" {2,}", option.strip(), maxsplit=1) for option in options]
    return [(part[0], " ".join(" ".join(part[1:]).split())) for part in parts]


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cases(experiment):
    """`(arguments, what they are the options of, class, values)` of all that has options."""
    for name, config in experiment.variants.items():
        yield ["--variant", name], experiment.description, type(config), config
    for name, (kind, _) in experiment.commands.items():
        yield [name], kind.__doc__, kind, kind
    out = Path("out") / experiment.name / "grids"
    for name, grid in experiment.grids.items():
        variant = next(iter(grid.variants or experiment.variants))
        options = GridOptions(out=out, variant=variant)
        yield [name], grid.about, GridOptions, options
    if experiment.grids:
        results = ROOT / "experiments" / experiment.name / "results.jsonl"
        options = ExportOptions(out=out, results=results)
        yield ["export"], ExportOptions.__doc__, ExportOptions, options


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_tells_meaning_and_default_of_every_option(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "1000")
    experiment = importlib.import_module(f"experiments.{name}.__main__").EXPERIMENT
    for arguments, about, kind, values in _cases(experiment):
        printed = _help(capsys, experiment, *arguments)
        options = _options(printed)
        assert "\x1b" not in printed
        assert about.split("\n")[0] in printed, f"{name} {arguments} does not say what it is"
        fields = dataclasses.fields(kind)
        assert len(options) == len(fields) + 1  # and --help
        for option, text in options:
            meaning = re.sub(r"\((default: .*|required)\)$", "", text).strip()
            assert len(meaning.split()) > 1, f"{name} {arguments} {option} has no meaning"
        texts = {option.split(" ")[0].rstrip(","): text for option, text in options}
        for field in fields:
            value = getattr(values, field.name, None)
            ends = f"(default: {_shown(value)})" if hasattr(values, field.name) else "(required)"
            text = texts.get(flag(field.name), ends)  # those without a flag show no name
            assert text.endswith(ends), f"{name} {arguments} {field.name}: {text}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_names_every_command_and_grid(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "1000")
    experiment = importlib.import_module(f"experiments.{name}.__main__").EXPERIMENT
    printed = _help(capsys, experiment)
    for word in (*experiment.commands, *experiment.grids):
        assert f"{word} --help" in printed
    if experiment.grids:
        assert cli.main(experiment, ["grid"]) == 2  # which lists them
        said = capsys.readouterr().err
        assert all(f"  {name}: {grid.about}" in said for name, grid in experiment.grids.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bare:
    number: int = 1
    text: str = "a"
    """Something said."""


BARE = cli.Experiment("bare", "Bare.", {"default": Bare()}, pytest.fail)


def test_an_option_without_a_docstring_is_seen(capsys):
    assert _options(_help(capsys, BARE))[1:] == [
        ("--number INT", "(default: 1)"),
        ("--text STR", "Something said. (default: a)"),
    ]


@pytest.mark.parametrize("sign", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_has_colour_unless_it_is_not_wanted(capsys, monkeypatch, sign):
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **sign}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert ("\x1b" in _help(capsys, BARE)) == (not sign)


def test_help_in_a_pipe_has_no_escape_codes():
    run = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": ""},
    )
    assert "\x1b" not in run.stdout + run.stderr
    assert "(default: 16384)" in run.stdout
