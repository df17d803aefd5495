"""Finished runs as lines of JSON: kept whole, sorted, and read as they were written."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.common import records

HOME = Path(records.__file__).parents[1]
KEPT = sorted(HOME.glob("*/results.jsonl"))

BASE = {"loss": "cx", "layers": ["a", "b"], "rate": None, "steps": 400}
RESULTS = {
    "whole": {"psnr": 1 / 3, "lpips": 5e-324},
    "kid": -0.1 + 0.2,
    "seconds": 60.5,
    "device": "cpu",
    "processor": "An Intel®",
    "cores": 2,
    "jax": "0.10.1",
    "jaxlib": "0.10.1",
    "python": "3.11.7",
}


def made(name="cx-seed0", grid="table", base=BASE, changes=None, results=RESULTS, **options):
    changes = {"seed": 0, "layers": ("c",)} if changes is None else changes
    known = {"grid": grid, "name": name, "base": base, "changes": changes, "commit": "abc"}
    return records.make_record(results, **known | options)


def test_a_record_has_the_metrics_apart_from_where_they_were_made():
    record = made()
    assert record.metrics == {"whole": RESULTS["whole"], "kid": RESULTS["kid"]}
    assert (record.seconds, record.device, record.cores) == (60.5, "cpu", 2)
    assert record.versions == {"jax": "0.10.1", "jaxlib": "0.10.1", "python": "3.11.7"}
    assert record.settings == {**BASE, "seed": 0, "layers": ["c"]}  # as JSON has them


def test_what_is_not_known_is_null_and_what_diverged_has_no_metrics():
    record = made(results={"kid": 1.0})
    assert (record.metrics, record.seconds, record.processor) == ({"kid": 1.0}, None, None)
    assert record.versions == dict.fromkeys(("jax", "jaxlib", "python"))
    assert made(results={}, diverged="step 7: loss is nan").metrics is None


def test_records_come_back_bit_for_bit(tmp_path):
    other = {**BASE, "steps": 10}
    kept = [
        made("b", diverged="step 7: loss is nan", results={}),
        made("a", base=other),
        made("a"),
        made("z", grid="a-grid"),
    ]
    path = tmp_path / "results.jsonl"
    records.write_records(path, kept)
    lines = list(map(json.loads, path.read_text().splitlines()))
    assert [line["base"] for line in lines[:2]] == sorted(map(records.digest, (BASE, other)))
    assert [line["settings"] for line in lines[:2]] == [
        {records.digest(base): base for base in (BASE, other)}[line["base"]] for line in lines[:2]
    ]
    assert [(line["grid"], line["name"]) for line in lines[2:]] == [
        ("a-grid", "z"),
        ("table", "a"),
        ("table", "a"),
        ("table", "b"),
    ]
    assert "diverged" in lines[-1]
    assert "diverged" not in lines[2]
    read = records.read_records(path)
    by_name = lambda record: (record.name, record.settings["steps"])
    assert sorted(read, key=by_name) == sorted(kept, key=by_name)
    written = path.read_bytes()
    records.write_records(path, reversed(read))
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_what_is_kept_of_each_experiment_is_as_it_would_be_written(tmp_path, path):
    """So nobody has changed it by hand: not a base, whose digest would be another."""
    read = records.read_records(path)
    records.write_records(tmp_path / "again.jsonl", read)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_there_are_records_to_keep():
    assert {"puppet_control", "domain_transfer"} <= {path.parent.name for path in KEPT}


def test_a_base_is_known_by_what_it_holds_and_not_by_its_order():
    assert records.digest(BASE) == records.digest(dict(reversed(BASE.items())))
    assert records.digest(BASE) != records.digest({**BASE, "steps": 401})


def test_a_file_that_is_not_there_holds_nothing(tmp_path):
    assert records.read_records(tmp_path / "results.jsonl") == []
    assert records.read_record(tmp_path) is None


def _without(line, *names):
    return json.dumps({k: v for k, v in json.loads(line).items() if k not in names})


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-9],
        lambda line: "[]",
        lambda line: _without(line, "metrics"),
        lambda line: json.dumps(json.loads(line) | {"base": "0" * 12}),
        lambda line: json.dumps(json.loads(line) | {"colour": 1}),
    ],
    ids=["cut", "another form", "lacks a field", "base unknown", "unknown field"],
)
def test_the_line_that_is_damaged_is_named(tmp_path, damage):
    path = tmp_path / "results.jsonl"
    records.write_records(path, [made("a"), made("b"), made("c")])
    lines = path.read_text().splitlines()
    lines[2] = damage(lines[2])
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 3 of .*results\.jsonl is damaged"):
        records.read_records(path)


def test_a_record_in_a_folder_comes_back_and_a_damaged_one_is_named(tmp_path):
    record = made()
    path = tmp_path / records.RECORD
    path.write_text(json.dumps(dataclasses.asdict(record)))
    assert records.read_record(tmp_path) == record
    for damaged in (path.read_text()[:-9], "[]", '{"grid": "table"}'):
        path.write_text(damaged)
        with pytest.raises(
            ValueError, match=r"record\.json is damaged .*delete it to make the run"
        ):
            records.read_record(tmp_path)


def test_numbers_that_json_lacks_are_not_kept_and_leave_what_was_there(tmp_path):
    path = tmp_path / "results.jsonl"
    records.write_records(path, [made()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_records(path, [made(results={"psnr": float("inf")})])
    assert path.read_bytes() == before
