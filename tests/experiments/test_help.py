"""What `--help` says of every option of every experiment and of its commands."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/config.py"))


def _help(capsys, variants, commands, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(
            pytest.fail,
            variants,
            module="experiments.name",
            description="",
            commands=commands,
            arguments=[*arguments, "--help"],
        )
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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_tells_meaning_and_default_of_every_option(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "1000")
    module = importlib.import_module(f"experiments.{name}.__main__")
    commands = getattr(module, "COMMANDS", {})
    cases = [(["--variant", v], type(config), config) for v, config in module.VARIANTS.items()]
    cases += [([command], kind, kind) for command, (kind, _) in commands.items()]
    for arguments, kind, values in cases:
        printed = _help(capsys, module.VARIANTS, commands, *arguments)
        options = _options(printed)
        assert "\x1b" not in printed
        if isinstance(values, type):
            assert kind.__doc__.split()[0] in printed, f"{name} {arguments} does not say what it is"
        fields = dataclasses.fields(kind)
        assert len(options) == len(fields) + 1  # and --help
        for option, text in options:
            meaning = re.sub(r"\((default: .*|required)\)$", "", text).strip()
            assert len(meaning.split()) > 1, f"{name} {arguments} {option} has no meaning"
        texts = {option.split(" ")[0].rstrip(","): text for option, text in options}
        for field in fields:
            value = getattr(values, field.name, None)
            ends = f"(default: {_shown(value)})" if hasattr(values, field.name) else "(required)"
            text = texts.get(cli.flag(field.name), ends)  # those without a flag show no name
            assert text.endswith(ends), f"{name} {arguments} {field.name}: {text}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bare:
    number: int = 1
    text: str = "a"
    """Something said."""


def test_an_option_without_a_docstring_is_seen(capsys):
    assert _options(_help(capsys, {"default": Bare()}, {}))[1:] == [
        ("--number INT", "(default: 1)"),
        ("--text STR", "Something said. (default: a)"),
    ]


@pytest.mark.parametrize("sign", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_has_colour_unless_it_is_not_wanted(capsys, monkeypatch, sign):
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **sign}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert ("\x1b" in _help(capsys, {"default": Bare()}, {})) == (not sign)


def test_help_in_a_pipe_has_no_escape_codes():
    run = subprocess.run(
        [sys.executable, "-m", "experiments.gaussians", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": ""},
    )
    assert "\x1b" not in run.stdout + run.stderr
    assert "(default: 100)" in run.stdout
