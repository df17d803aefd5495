"""Tables and galleries of finished runs: means, spreads, what is missing is left empty."""

import statistics

import numpy as np

from cxjax.data import images
from experiments.common import tables
from experiments.common.tables import Column, metric


def test_spread_is_the_samples():
    values = [0.1, 0.4, 0.25]
    assert tables.spread(values) == f"{sum(values) / 3:.3f} ± {statistics.stdev(values):.3f}"
    assert tables.spread([0.25], digits=1) == "0.2"
    assert tables.spread([]) == ""
    assert tables.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_row_is_the_mean_of_its_runs_and_a_row_without_any_is_left_out():
    runs = [{"whole": {"psnr": 20.0 + n}, "times": [n, 2 * n], "seconds": 60 * n} for n in (1, 2)]
    columns = [
        Column("PSNR", metric("whole", "psnr"), 2),
        Column("times", metric("times"), 1),  # of lists all numbers count
        Column("CX", metric("whole", "cx")),
        Column("none", metric("nothing", "of", "it")),
        tables.SECONDS,
    ]
    shown = tables.table("loss", {"CX": runs, "L1": [], "Gram": runs[:1]}, columns)
    assert shown.splitlines() == [
        "| loss | PSNR | times | CX | none | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| CX | 21.50 ± 0.71 | 2.2 ± 1.3 |  |  | 90 ± 42 |",
        "| Gram | 21.00 | 1.5 ± 0.7 |  |  | 60 |",
    ]


def test_a_run_whose_time_is_not_known_adds_none():
    untimed = [{"seconds": None}, {"seconds": 0.0}, {"seconds": 61.0}, {}]
    assert tables.cells(untimed, [tables.SECONDS]) == ["61"]


def test_what_is_chosen_is_bold_and_nothing_is_not():
    assert tables.bold(["1", ""]) == ["**1**", ""]
    assert tables.bold(["1"], False) == ["1"]


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
