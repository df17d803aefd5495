"""Sweeps of the learning rate: what is run, what is best, what has diverged."""

import dataclasses
from pathlib import Path

import pytest

from experiments.common import grids, runs, sweeps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.RunConfig):
    loss: str = "cx"
    learning_rate: float | None = None


@pytest.mark.parametrize(("part", "folder"), [("", ""), ("whole", "loose")])
def test_every_loss_is_tried_at_every_rate_and_may_diverge(tmp_path, capsys, part, folder):
    tried = []

    def run(config):
        tried.append((config.loss, config.learning_rate))
        if config.learning_rate > 0.02:
            raise FloatingPointError("step 7: loss is nan")
        rate = config.learning_rate
        scores = {"psnr": rate, "ssim": rate, "lpips": 0.0, "kid": 1.0}
        return {part: scores} if part else scores

    collect = lambda finished: sweeps.collect(finished, part, folder)
    losses = {"cx": {"loss": "cx"}, "l1": {"loss": "l1"}}
    grid = grids.Grid(
        about="Rates.",
        runs=lambda base: {**sweeps.runs(losses, folder), "other/cx": {}},
        show=lambda finished: sweeps.show(collect(finished), {"cx": "CX", "l1": "L1"}),
    )
    options = grids.GridOptions(out=tmp_path, only=("*-*",))
    make = lambda: grids.make(
        "none", "tune", grid, options, variants={"default": Config()}, run=run
    )
    found = collect(make())
    assert tried == [(loss, rate) for rate in sweeps.RATES for loss in ("cx", "l1")]
    said = capsys.readouterr().out
    assert "step 7: loss is nan" in said
    assert "| **0.01 / 0.010 / 0.000** | diverged |" in said
    for sweep in found.values():
        assert list(sweep) == list(sweeps.RATES)
        assert sweep[0.03] == {}
        assert sweep[0.01] == {"psnr": 0.01, "ssim": 0.01, "lpips": 0.0}
    assert sweeps.best_rates(found) == {"cx": 0.01, "l1": 0.01}
    assert collect(make()) == found
    assert len(tried) == 2 * len(sweeps.RATES)


def test_a_sweep_is_of_its_folder_and_a_rate_not_tried_yet_is_none():
    names = sweeps.runs({"cx": {}}, "loose") | sweeps.runs({"cx": {}}, "tight")
    configs = {name: Config(**changes) for name, changes in names.items()}
    scores = {"psnr": 1.0, "ssim": 1.0, "lpips": 1.0}
    tried = {name: scores for name in ("loose/cx-0.01", "loose/cx-0.03", "tight/cx-0.001")}
    finished = grids.Finished(Config(), configs, tried, Path())
    assert list(sweeps.collect(finished, folder="loose")["cx"]) == [0.01, 0.03]
    assert list(sweeps.collect(finished, folder="tight")["cx"]) == [0.001]


def test_the_best_rate_is_that_of_the_best_mean_rank():
    row = lambda *values: dict(zip(("psnr", "ssim", "lpips"), values, strict=True))
    scores = {
        1e-4: row(16.7, 0.46, 0.26),
        3e-4: row(17.0, 0.51, 0.31),
        1e-3: row(16.9, 0.53, 0.35),
        3e-3: row(16.8, 0.54, 0.34),
    }
    # Ranks: 3 + 3 + 0, 0 + 2 + 1, 1 + 1 + 3, 2 + 0 + 2.
    assert sweeps.best_rates({"l1": scores, "none": {}}) == {"l1": 3e-4}
    scores[1e-4] = row(17.1, 0.46, 0.26)  # ranks: 0 + 3 + 0, 1 + 2 + 1: of equals the less LPIPS
    scores[3e-4] = row(17.0, 0.535, 0.31)  # ranks: 1 + 1 + 1
    assert sweeps.best_rates({"l1": scores}) == {"l1": 1e-4}
    shown = sweeps.show({"l1": scores, "cx": {1e-3: row(1, 2, 3)}}, {"l1": "L1", "cx": "CX"})
    assert "| L1 | **17.10 / 0.460 / 0.260** | 17.00 / 0.535 / 0.310 |" in shown
    assert "| CX |  |  | **1.00 / 2.000 / 3.000** |  |" in shown
