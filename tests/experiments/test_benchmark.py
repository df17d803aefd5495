"""The benchmark runs, and measures what it says."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.benchmark import measure
from experiments.benchmark.config import VARIANTS, Config


def test_smoke_writes_a_table_with_every_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The second size has one block alone, and no reference.
    rows = measure.run(dataclasses.replace(VARIANTS["smoke"], sizes=(256, 320), dense_up_to=256))
    found = json.loads((tmp_path / "out/benchmark/benchmark.json").read_text())
    assert found["rows"] == rows
    cases = {row["case"] for row in rows}
    assert {"floor x, block 128", "blockwise x", "reference x and y", "blockwise value"} <= cases
    assert {"blockwise x, block 64", "blockwise x, block 128"} <= cases  # the sweep
    second = {row["case"] for row in rows if row["n"] == 320}
    assert {"floor x, block 64", "blockwise x, block 64", "blockwise x"} <= second
    assert not any("128" in case or "reference" in case for case in second)
    text = (tmp_path / "out/benchmark/benchmark.md").read_text()
    assert all(f"| {case} |" in text for case in cases)
    dense = {row["case"]: row["temporary_megabytes"] for row in rows if row["n"] == 256}
    assert dense["reference x"] > 256 * 256 * 4 / 1e6  # the memory measure sees the matrix


def test_the_floor_does_the_products_it_claims(key):
    x = jax.random.normal(key, (256, 8)) / 3
    y = jax.random.normal(jax.random.fold_in(key, 1), (256, 8)) / 3
    e = np.exp(np.asarray(x) @ np.asarray(y).T)
    of_x, of_y = measure.floor(128, targets_too=True)(x, y)
    np.testing.assert_allclose(of_x, e @ np.asarray(y), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_y, e.T @ np.asarray(x), rtol=1e-4, atol=1e-4)


def test_dense_is_left_out_where_it_would_not_fit():
    names = measure.cases(Config(dense_up_to=100), 256)
    assert not any(name.startswith("reference") for name in names)


def test_sizes_without_a_floor_are_refused():
    with pytest.raises(ValueError, match=r"multiples of one of the blocks.*512\); got \(100,\)"):
        Config(sizes=(100,))
    with pytest.raises(ValueError, match=r"--blocks must be one or more.*got \(\)"):
        Config(blocks=())


def test_growth_is_the_exponent_of_a_power():
    rows = [
        {"n": n, "case": "a case", "seconds": 3e-9 * n**2, "temporary_megabytes": 0.5 * n}
        for n in (128, 256, 1024)
    ]
    assert measure.growth(rows).splitlines()[-1] == "| a case | 128 | 1,024 | 2.00 | 1.00 |"
