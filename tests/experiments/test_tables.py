"""Tables of many runs: what is there is not run again, what differs is refused before any run."""

import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from cxjax.data import images
from experiments import cli, tables
from experiments.locks import alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    steps: tuple[int, ...] = (1, 2)
    out: str = "here"


@pytest.fixture
def runs():
    return {f"main/seed{seed}": Config(seed=seed) for seed in range(3)}


def test_what_is_there_is_not_run_again(tmp_path, runs):
    made = []

    def measure(name, config):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(name)
        return {"score": config.seed / 3}

    with pytest.raises(KeyboardInterrupt):
        tables.collect(runs, measure, tmp_path)
    assert made == ["main/seed0", "main/seed1"]
    made.clear()
    found = tables.collect(runs, measure, tmp_path)
    assert made == ["main/seed2"]
    assert found == {name: {"score": config.seed / 3} for name, config in runs.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"config": {"seed": 9, "steps": [1, 2], "out": "x"}, "figures": {}}', "--seed 9, not 2"),
        ('{"config": {"steps": [1, 2], "out": "x"}, "figures": {}}', "--seed 0, not 2"),
        ('{"config": {"se', "damaged"),
        ("[]", "damaged"),
        ('{"config": {"seed": 2, "colour": 1}, "figures": {}}', "fields unknown here: colour"),
    ],
)
def test_a_file_of_something_else_is_refused_before_any_run(tmp_path, runs, content, message):
    path = tmp_path / "main" / "seed2.json"
    path.parent.mkdir()
    path.write_text(content)
    made = []
    with pytest.raises(ValueError, match=message):
        tables.collect(runs, lambda name, config: made.append(name), tmp_path, ignore=("out",))
    assert not made
    assert path.read_text() == content


def test_ignored_fields_may_differ_and_others_not(tmp_path):
    tables.collect({"a": Config(out="here")}, lambda *_: {"score": 1}, tmp_path)
    other = {"a": Config(out="there")}
    assert tables.collect(other, lambda *_: {}, tmp_path, ignore=("out",)) == {"a": {"score": 1}}
    with pytest.raises(ValueError, match="--out here, not there"):
        tables.collect(other, lambda *_: {}, tmp_path)


def test_two_processes_share_the_runs(tmp_path, runs):
    (tmp_path / "main").mkdir()
    with alone(tmp_path / "main" / "seed1.lock") as free:
        assert free
        found = tables.collect(runs, lambda name, config: {"score": 0}, tmp_path)
    assert list(found) == ["main/seed0", "main/seed2"]
    assert json.loads((tmp_path / "main" / "seed0.json").read_text())["config"]["seed"] == 0
    assert len(tables.collect(runs, lambda name, config: {"score": 1}, tmp_path)) == 3


def test_what_another_process_finished_meanwhile_is_found(tmp_path, runs):
    def measure(name, config):
        if name == "main/seed2":  # the process at seed1, which was passed over, is done by now
            lock.__exit__(None, None, None)
            tables.collect({"main/seed1": Config(seed=1)}, lambda *_: {"score": 7}, tmp_path)
        return {"score": 0}

    (tmp_path / "main").mkdir()
    lock = alone(tmp_path / "main" / "seed1.lock")
    assert lock.__enter__()
    found = tables.collect(runs, measure, tmp_path)
    assert {name: figures["score"] for name, figures in found.items()} == {
        "main/seed0": 0,
        "main/seed1": 7,
        "main/seed2": 0,
    }
    assert list(found) == list(runs)


def test_spread_is_the_samples(runs):
    values = [0.1, 0.4, 0.25]
    assert tables.spread(values) == f"{sum(values) / 3:.3f} ± {statistics.stdev(values):.3f}"
    assert tables.spread([0.25], digits=1) == "0.2"
    assert tables.spread([]) == ""
    assert tables.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Config):
    resume: bool = False
    out: Path | None = None


def test_a_run_that_diverges_does_not_end_the_table(tmp_path, capsys):
    runs = {f"seed{seed}": Training(seed=seed) for seed in range(3)}
    config = tables.TableConfig(results=tmp_path / "results", runs=tmp_path / "runs")

    def run(one):
        if one.seed == 1:
            raise FloatingPointError("step 7: loss is nan")
        return {"score": one.seed}

    for _ in range(2):  # made, and read again
        found = tables.without_diverged(tables.collect_trained(runs, run, config))
        assert found == {"seed0": {"score": 0}, "seed2": {"score": 2}}
        assert "seed1 diverged, and is in no table: step 7: loss is nan" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_in_its_folder(tmp_path):
    """As `generators` does: the folder has its configuration before the first step."""
    runs = {f"main/seed{seed}": Training(seed=seed) for seed in range(2)}
    config = tables.TableConfig(results=tmp_path / "results", runs=tmp_path / "runs")
    asked = []

    def run(one):
        asked.append((one.seed, one.resume, one.out))
        one.out.mkdir(parents=True, exist_ok=True)
        (one.out / "config.json").write_text(json.dumps(cli.to_json(one)))
        if len(asked) == 2:
            raise cli.Resumable("go on with --resume", 15)
        return {"score": one.seed}

    with pytest.raises(cli.Resumable, match=r"stopped in main/seed1.* the same command goes on"):
        tables.collect_trained(runs, run, config)
    found = tables.collect_trained(runs, run, config)
    folders = [tmp_path / "runs" / name for name in runs]
    assert asked == [(0, False, folders[0]), (1, False, folders[1]), (1, True, folders[1])]
    assert found == {"main/seed0": {"score": 0}, "main/seed1": {"score": 1}}

    (tmp_path / "results/main/seed1.json").unlink()
    others = {name: dataclasses.replace(one, steps=(3,)) for name, one in runs.items()}
    del others["main/seed0"]
    with pytest.raises(ValueError, match=r"runs/main/seed1 is of a run with --steps \(1, 2\), not"):
        tables.collect_trained(others, run, config)
    assert len(asked) == 3


def test_nothing_to_show_is_said(tmp_path):
    config = tables.TableConfig(results=tmp_path / "none", runs=tmp_path, missing=False)
    with pytest.raises(ValueError, match=r"--results .*none has none of the 1 runs"):
        tables.collect_trained({"a": Training()}, lambda one: {}, config)


def test_a_gallery_has_what_was_given_above_and_the_truth_below(tmp_path, capsys):
    shade = lambda value: np.full((2, 4, 4, 3), value, np.float32)
    for name, value in (("a", 0.25), ("b", 0.5)):
        (tmp_path / name).mkdir()
        rows = {"given": shade(0.0), "made": shade(value), "truth": shade(1.0)}
        tables.write_rows(tmp_path / name, rows)
    tables.write_gallery(tmp_path / "all.png", tmp_path, ["a", "none", "b"])
    picture = images.read_image(tmp_path / "all.png")
    np.testing.assert_allclose(picture[::4, 0, 0], [0, 0.25, 0.5, 1], atol=0.01)
    assert "given, a, b, truth" in capsys.readouterr().out
    assert images.read_image(tmp_path / "a/strip.png").shape == (12, 12, 3)
    tables.write_gallery(tmp_path / "nothing.png", tmp_path, ["none"])
    assert not (tmp_path / "nothing.png").exists()
