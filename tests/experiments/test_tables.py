"""Tables of many runs: what is there is not run again, what differs is refused before any run."""

import dataclasses
import json
import statistics

import pytest

from experiments import tables
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


def test_spread_is_the_samples(runs):
    values = [0.1, 0.4, 0.25]
    assert tables.spread(values) == f"{sum(values) / 3:.3f} ± {statistics.stdev(values):.3f}"
    assert tables.spread([0.25], digits=1) == "0.2"
    assert tables.spread([]) == ""
    assert tables.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
