"""Folders of runs that an earlier version made: still shown, applied and resumed, as they were.

`fixtures/` has them, with what that version's commands made of them (`expected.json`).
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cxjax.data import images
from experiments.common import cli, runs
from experiments.single_image_animation.__main__ import EXPERIMENT
from experiments.style_transfer.config import VARIANTS

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
# Python has the filter since 3.11.4, and warns without it since 3.12.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Unpacks a run into the folder that is worked in, beside pictures to apply it to."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "given", "given")

    def unpack(name):
        with tarfile.open(FIXTURES / f"{name}.tar.gz") as archive:
            archive.extractall(**SAFELY)
        return Path(name), EXPECTED[name]

    return unpack


def _commands(texts):
    for text in texts:
        name, *arguments = text.split()
        assert name == EXPERIMENT.name
        assert cli.main(EXPERIMENT, arguments) == 0


def _check_pictures(expected):
    for name, wanted in expected.items():
        picture = 255 * images.read_image(Path(name))
        height, width = picture.shape[:2]
        assert [width, height] == wanted["size"]
        np.testing.assert_allclose(picture.mean(axis=(0, 1)), wanted["mean"], atol=0.1)
        for row, column, value in wanted["values"]:
            np.testing.assert_allclose(picture[row, column], value, atol=1.01)  # rounding


def _check_numbers(found, wanted):
    """Numbers within numbers, as far as another rounding goes."""
    if isinstance(wanted, dict):
        assert wanted.keys() <= found.keys()
        for key, value in wanted.items():
            _check_numbers(found[key], value)
    else:
        assert found == pytest.approx(wanted, rel=2e-3, abs=2e-3)


def _rows(text):
    """The names and numbers in the rows of a table."""
    rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row[:5] for row in rows if "---" not in row[0]]  # without the seconds


def test_a_run_is_shown(folder, capsys):
    run, expected = folder("animation_finished")
    assert cli.main(EXPERIMENT, ["show", str(run)]) == 0
    shown = "\n".join(expected["compare"]["stdout"])
    assert len(_rows(shown)) == 3
    assert _rows(capsys.readouterr().out) == _rows(shown)


def test_a_trained_generator_is_applied(folder):
    _, expected = folder("animation_interrupted")
    _commands(expected["apply"]["commands"])
    _check_pictures(expected["apply"]["made"])


def test_an_interrupted_run_is_resumed(folder):
    run, expected = folder("animation_interrupted")
    begun = (run / "metrics.jsonl").read_text()
    expected = expected["resumed"]
    _commands([expected["command"]])
    text = (run / "metrics.jsonl").read_text()
    assert text.startswith(begun)
    lines = [json.loads(line) for line in text[len(begun) :].splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in expected["metrics"]]
    for line, wanted in zip(lines, expected["metrics"], strict=True):
        terms = ("source", "target")  # named anew since
        _check_numbers(line, {f"loss/{n}" if n in terms else n: v for n, v in wanted.items()})
    _check_numbers(runs.read_results(run), expected["results"])
    _commands(expected["apply"]["commands"])
    _check_pictures(expected["apply"]["made"])


def test_the_settings_of_a_style_transfer_are_those_of_today(folder):
    run, expected = folder("style_finished")
    config = runs.read_config(type(VARIANTS["smoke"]), run)
    assert runs.to_json(config) == expected["config"]
    assert not runs.differences(expected["config"], VARIANTS["smoke"], ignore=("out",))
    _check_numbers(runs.read_results(run), expected["results"])
