"""Sweeps of the learning rate: what is run, what is best, what has diverged."""

import dataclasses
from pathlib import Path

import pytest

from experiments import sweeps, tables


@dataclasses.dataclass(frozen=True)
class Run:
    loss: str
    learning_rate: float = 0.0
    out: Path | None = None
    resume: bool = False


@pytest.fixture
def config(tmp_path):
    return tables.TableConfig(results=tmp_path / "results", runs=tmp_path / "runs")


def test_every_loss_is_tried_at_every_rate_and_may_diverge(config, capsys):
    tried = []

    def run(one):
        tried.append((one.loss, one.learning_rate))
        if one.learning_rate > 0.02:
            raise FloatingPointError("step 7: loss is nan")
        rate = one.learning_rate
        scores = {"psnr": rate, "ssim": rate, "lpips": 0.0, "kid": 1.0}
        return {"whole": scores} if one.loss == "l1" else scores

    cx = sweeps.collect({"cx": Run("cx")}, run, config)
    l1 = sweeps.collect({"l1": Run("l1")}, run, config, part="whole")
    assert tried == [(loss, rate) for loss in ("cx", "l1") for rate in sweeps.RATES]
    assert "step 7: loss is nan" in capsys.readouterr().out
    for sweep in (cx["cx"], l1["l1"]):
        assert sweep[0.03] == {}
        assert sweep[0.01] == {"psnr": 0.01, "ssim": 0.01, "lpips": 0.0}
    assert sweeps.best_rates(cx) == {"cx": 0.01}
    assert "| **0.01 / 0.010 / 0.000** | diverged |" in sweeps.show(cx, {"cx": "CX"})
    again = sweeps.collect({"cx": Run("cx")}, run, config)
    assert again == cx
    assert len(tried) == 2 * len(sweeps.RATES)


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
