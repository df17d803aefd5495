"""Measures of two clouds: against loops, against values found elsewhere, and those kept."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image

from experiments.common import cli
from experiments.common.grids import HOME, read_evidence
from experiments.gaussians import evaluation, measures
from experiments.gaussians.__main__ import EXPERIMENT
from experiments.gaussians.config import VARIANTS, Config
from experiments.gaussians.grids import GRIDS
from experiments.gaussians.measures import MEASURES
from tests import oracle, sets

SMOKE = VARIANTS["smoke"]


@pytest.fixture(scope="module")
def kept():
    """What results.jsonl holds."""
    evidence = read_evidence("gaussians", "table", GRIDS["table"], VARIANTS)
    assert list(evidence.metrics) == list(MEASURES)
    return evidence


# Means of 200 draws, found with other code before this experiment was written. Of each cell, the
# shift and the standard deviation.
CELLS = ((0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (10, 1), (0, 2), (0, 5), (0, 10), (5, 5))
FOUND_ELSEWHERE = {
    "cosine_0.1": (0.560, 0.460, 0.310, 0.227, 0.148, 0.083, 0.552, 0.514, 0.427, 0.153),
    "cosine_0.5": (0.547, 0.450, 0.305, 0.220, 0.144, 0.081, 0.535, 0.498, 0.407, 0.144),
    "squared_l2_0.1": (0.582, 0.459, 0.263, 0.126, 0.037, 0.018, 0.410, 0.151, 0.069, 0.111),
    "squared_l2_0.5": (0.540, 0.434, 0.251, 0.122, 0.036, 0.013, 0.390, 0.151, 0.066, 0.108),
    "l2_0.5": (0.435, 0.362, 0.217, 0.105, 0.028, 0.011, 0.328, 0.132, 0.062, 0.098),
    "chamfer": (0.46, 0.60, 1.14, 2.29, 5.52, 15.31, 1.06, 4.61, 11.37, 6.10),
}


def errors_apart(name, mean, standard_error, draws):
    """By how many standard errors of their difference each cell is off, beyond the rounding."""
    wanted = np.array(FOUND_ELSEWHERE[name])
    spread = standard_error * np.sqrt(1 + draws / 200)
    rounding = 0.005 if name == "chamfer" else 0.0005
    return np.maximum(np.abs(mean - wanted) - rounding, 0) / spread


@pytest.mark.parametrize("name", FOUND_ELSEWHERE)
def test_what_is_kept_agrees_with_values_found_elsewhere(kept, name):
    metrics, config = kept.metrics[name][name], kept.configs[name]
    assert config.points == 100
    at = [[config.grid.index(value) for value in cell] for cell in CELLS]
    mean, error = (
        np.array([np.array(metrics[key])[deviation, shift] for shift, deviation in at])
        for key in ("mean", "standard_error")
    )
    assert errors_apart(name, mean, error, config.draws).max() < 5


@pytest.mark.parametrize("name", ["squared_l2_0.5", "chamfer"])
def test_a_new_run_agrees_with_values_found_elsewhere(name):
    config = Config(draws=100, seed=3)
    grid = (0.0, 1.0, 2.0, 5.0, 10.0)
    values = evaluation.expectation(MEASURES[name].function, config, grid)
    known = [cell for cell in CELLS if set(cell) <= set(grid)]

    def apart(of):
        at = [(grid.index(deviation), grid.index(shift)) for shift, deviation in known]
        mean, error = (np.array([numbers[i] for i in at]) for numbers in of)
        everything = np.zeros((2, len(CELLS))) + [[1e9], [1]]
        chosen = [CELLS.index(cell) for cell in known]
        everything[:, chosen] = mean, error
        return errors_apart(name, *everything, config.draws)[chosen]

    assert apart(values).max() < 5
    # A deviation that is taken for a variance would be seen, and so would an axis for the other.
    roots = tuple(np.sqrt(grid))
    by_variance = evaluation.expectation(MEASURES[name].function, config, roots)
    mean, error = (np.array(values), np.array(by_variance))
    mean[:, :, 0] = error[:, :, 0]  # at no shift, the deviations' roots
    assert apart(mean).max() > 10
    assert apart(np.array(values).swapaxes(1, 2)).max() > 10


def _loops(name, x, y):
    length = lambda a, b: float(np.sqrt(((a - b) ** 2).sum()))
    if name == "paired_l2":
        return sum(length(a, b) for a, b in zip(x, y, strict=True)) / len(x)
    if name == "chamfer":
        return sum(min(length(a, b) for b in y) for a in x) / len(x) + sum(
            min(length(a, b) for a in x) for b in y
        ) / len(y)
    distance, bandwidth = name.rsplit("_", 1)
    if distance == "l2":
        cx = np.zeros((len(x), len(y)))
        for i, a in enumerate(x):
            d = np.array([length(a, b) for b in y])
            w = np.exp((1 - d / (d.min() + 1e-5)) / float(bandwidth))
            cx[i] = w / w.sum()
        return cx.max(axis=0).mean()
    named = {"cosine": "cosine", "squared_l2": "l2"}[distance]
    return oracle.similarity(x, y, distance=named, bandwidth=float(bandwidth))


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_equals_loops(name):
    x, y = sets.normal(0, 9, 2), 2 * sets.normal(1, 9, 2) + [1.5, 0]
    values = MEASURES[name].function(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(values, _loops(name, x, y), rtol=1e-4)


def test_an_expectation_is_the_mean_over_the_draws():
    config = dataclasses.replace(SMOKE, points=5, draws=4)
    values = evaluation.expectation(measures.paired, config, (0.5, 2.0))
    x, y = map(np.asarray, evaluation.clouds(config))
    for row, deviation in enumerate((0.5, 2.0)):
        for column, shift in enumerate((0.5, 2.0)):
            each = [
                _loops("paired_l2", a, deviation * b + [shift, 0])
                for a, b in zip(x, y, strict=True)
            ]
            np.testing.assert_allclose(values.mean[row, column], np.mean(each), rtol=1e-5)
            error = np.std(each, ddof=1) / 2
            np.testing.assert_allclose(values.standard_error[row, column], error, rtol=1e-4)


def test_shares_and_the_way_to_the_half():
    config = Config(points=10)
    similarity, distance = MEASURES["cosine_0.5"], MEASURES["chamfer"]
    left = functools.partial(evaluation.share_left, config=config, equal=0)
    shares = left(similarity, values=np.array([0.9, 0.7, 0.3, 0.1]))
    np.testing.assert_allclose(shares, [1, 0.75, 0.25, 0], atol=1e-12)
    assert evaluation.half_way(shares, 0.5) == pytest.approx(0.75)
    np.testing.assert_allclose(left(distance, values=np.array([1.0, 2.0, 5.0])), [1, 0.75, 0])
    assert evaluation.half_way(left(similarity, values=np.array([0.9, 0.8, 0.7])), 1.0) is None


def test_smoke_writes_everything_and_gives_the_same_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results = EXPERIMENT.run(SMOKE)
    first = tmp_path / "out/gaussians/clouds"
    assert {path.name for path in first.iterdir()} == {
        *("config.json", "gaussians.webp", "results.json", "table.md")
    }
    assert json.loads((first / "results.json").read_text()) == results
    assert list(results)[: len(MEASURES)] == list(MEASURES)
    with Image.open(first / "gaussians.webp") as figure:
        assert min(figure.size) > 500
    table = (first / "table.md").read_text()
    assert table.count("\n") == 2 + 5 + 2  # its head, the cells up to 4, the two ways
    assert f"| (0, 1) | {results['cosine_0.1']['mean'][1][0]:.3f} ±" in table
    # Measure by measure.
    arguments = ["table", "--variant", "smoke", "--only", "chamfer"]
    assert cli.main(EXPERIMENT, arguments) == 0
    folder = tmp_path / "out/gaussians/grids/table"
    record = json.loads((folder / "chamfer/record.json").read_text())
    assert record["metrics"] == {"chamfer": results["chamfer"]}
    column = 1 + list(MEASURES).index("chamfer")
    of_all = [line.strip("| ").split(" | ") for line in table.splitlines()]
    shown = [
        line.strip("| ").split(" | ") for line in (folder / "table.md").read_text().splitlines()
    ]
    assert shown == [[cells[0], cells[column]] for cells in of_all]
    # Drawn from the record of that run.
    monkeypatch.setattr(evaluation, "expectation", None)
    (folder / "gaussians.webp").unlink()
    assert cli.main(EXPERIMENT, arguments) == 0
    assert (folder / "gaussians.webp").exists()
    capsys.readouterr()
    assert cli.main(EXPERIMENT, [*arguments, "--set", "seed=1"]) == 2
    assert "--seed 0, not 1" in capsys.readouterr().err
    monkeypatch.undo()
    once_more = evaluation.evaluate_measure("chamfer", SMOKE)
    assert once_more == results["chamfer"]
    other = evaluation.evaluate_measure("chamfer", dataclasses.replace(SMOKE, seed=1))
    assert other != once_more


def test_the_readme_shows_what_is_kept(kept):
    readme = (HOME / "gaussians" / "README.md").read_text()
    lines = GRIDS["table"].show(kept).splitlines()
    assert len(lines) == 2 + 10 + 2
    for line in lines:
        assert line in readme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--points", "1"], "--points must be at least 2; got 1"),
        (["--draws", "0"], "--draws must be at least 2; got 0"),
        (["--step", "0.3"], "--step must be 1 over a whole number; got 0.3"),
        (["--step", "0"], "--step must be 1 over a whole number; got 0.0"),
        (["--step", "nan"], "--step must be 1 over a whole number; got nan"),
        (["--largest", "2.5"], "--largest must be a whole number, 2 to 1000; got 2.5"),
        (["--largest", "nan"], "--largest must be a whole number, 2 to 1000; got nan"),
        (["--seed", "-1"], "--seed must be 0 to 4294967295; got -1"),
        (["--out", "{folder}"], "--out {folder} exists and is not an empty folder"),
        (["--measures", "l3"], "--measures: no measure 'l3'; known: cosine_0.1, cosine_0.5"),
        (["--measures", "chamfer", "chamfer"], "each once; got ('chamfer', 'chamfer')"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        arguments = ["--variant", "smoke", *arguments]
        try:
            status = cli.main(EXPERIMENT, arguments)
        except SystemExit as error:  # tyro, where the configuration itself refuses
            status = error.code
    assert status == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert message.format(folder=tmp_path) in printed
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing was begun
