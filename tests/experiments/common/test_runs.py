"""A run's settings and folder: what is written, read again, compared and never overwritten."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from experiments.common import runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.RunConfig):
    seed: int = 0
    layers: tuple[str, ...] = ("a", "b")
    boxes: tuple[tuple[int, int], ...] = ((1, 2), (3, 4))
    weights: Path | None = None
    rate: float | None = None
    save_every: int = 5
    padding: str = runs.added("edge", older="zeros")

    INCIDENTAL: ClassVar = (*runs.RunConfig.INCIDENTAL, "save_every")
    REMOVED: ClassVar[Mapping[str, Any]] = {"colour": "red"}

    @property
    def default_out(self):
        return Path("out/default")


# --- Settings ---


def test_settings_survive_being_written():
    config = Config(seed=3, weights=Path("a.pth"), out=Path("b"), rate=1e-3, boxes=((5, 6),))
    written = json.loads(json.dumps(runs.to_json(config)))
    assert runs.from_json(Config, written, where="here") == config


def test_settings_of_earlier_versions_are_read_as_what_they_were():
    written = runs.to_json(Config(seed=3))
    older = {k: v for k, v in written.items() if k not in ("padding", "save_every", "out")}
    read = runs.from_json(Config, older | {"colour": "red"}, where="here")
    assert read == Config(seed=3, padding="zeros")  # of the others it does not matter
    with pytest.raises(ValueError, match="here has fields unknown here: shade"):
        runs.from_json(Config, written | {"shade": 1}, where="here")
    del written["rate"], written["seed"]
    with pytest.raises(ValueError, match="here lacks the fields rate, seed"):
        runs.from_json(Config, written, where="here")


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({}, ""),
        ({"seed": 4}, "--seed 4, not 0"),
        ({"layers": ["a"]}, "--layers ['a'], not ['a', 'b']"),
        ({"save_every": 9, "out": "there"}, ""),
        ({"padding": None}, "--padding zeros, not edge"),  # left out: the older value
        ({"rate": None}, "--rate unknown, not None"),
        ({"colour": "red"}, ""),
        ({"colour": "blue"}, "--colour blue, which is no option any more"),
        ({"shade": 1}, "--shade 1, which is no option any more"),
        ({"seed": 4, "layers": ["a"]}, "--seed 4, not 0, --layers ['a'], not ['a', 'b']"),
    ],
    ids=str,
)
def test_what_differs_is_told_by_option(saved, said):
    settings = runs.to_json(Config()) | saved
    for name in ("padding", "rate"):
        if name in saved:
            del settings[name]
    found = runs.differences(settings, Config(), ignore=Config.INCIDENTAL)
    assert found == said


def test_an_older_version_is_that_of_its_own_value():
    """So a record from before `padding` is of the runs that are given its older value."""
    settings = runs.to_json(Config())
    del settings["padding"]
    assert not runs.differences(settings, Config(padding="zeros"))


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (0, {"least": 1}, "--save-every must be at least 1; got 0"),
        (0, {"above": True}, "--save-every must be positive; got 0"),
        (9, {"most": 8}, "--save-every must be 0 to 8; got 9"),
        (float("nan"), {}, "--save-every must be at least 0; got nan"),
        (float("inf"), {}, "--save-every must be at least 0; got inf"),
        ((1, -1), {}, "--save-every must be at least 0; got -1"),
        (None, {"least": 1}, None),
        ((1, 2), {"least": 1}, None),
    ],
)
def test_numbers_out_of_range_are_refused(value, options, message):
    config = Config(save_every=value)
    if message is None:
        runs.check_numbers(config, "save_every", **options)
    else:
        with pytest.raises(ValueError, match=message):
            runs.check_numbers(config, "save_every", **options)


def test_a_list_names_each_once():
    runs.check_distinct(Config(), "layers")
    for layers in ((), ("a", "a")):
        with pytest.raises(ValueError, match="--layers needs one or more, each once"):
            runs.check_distinct(Config(layers=layers), "layers")


# --- Folders ---


def test_results_never_go_where_something_is(tmp_path):
    default = tmp_path / "out/name"
    assert runs.make_folder(None, default) == default
    assert runs.make_folder(None, default).name == "name-2"
    assert runs.make_folder(None, default).name == "name-3"
    given = tmp_path / "given"
    assert runs.make_folder(given, default) == given
    assert runs.make_folder(given, default) == given  # still empty
    (given / "picture").touch()
    with pytest.raises(ValueError, match="given exists and is not an empty folder"):
        runs.make_folder(given, default)
    with pytest.raises(ValueError, match=r"out cannot be made: .*picture is not a folder to write"):
        runs.check_folder(given / "picture/out")


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runs.os, "access", lambda path, mode: Path(path) != tmp_path
    )  # root may all
    with pytest.raises(ValueError, match="cannot be made: .* is not a folder to write in"):
        runs.check_folder(tmp_path / "a/b")
    monkeypatch.undo()
    runs.check_folder(tmp_path / "a/b")
    assert not (tmp_path / "a").exists()


def test_a_link_to_nowhere_is_an_error_and_not_a_search_for_ever(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="cannot make the folder .*another by --out"):
        runs.make_folder(None, tmp_path / "out/run")


def test_what_is_written_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.json"
    runs.write_json(path, {"a": [1, 0.1]})
    assert json.loads(path.read_text()) == {"a": [1, 0.1]}
    before = path.read_text()
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})
    assert path.read_text() == before


def test_a_run_has_settings_from_its_start_and_results_from_its_end(tmp_path, capsys):
    config, order = Config(seed=3, out=tmp_path / "run"), []

    def prepare(given):
        order.append("prepare")
        assert not given.out.exists()

        def work(folder):
            order.append("work")
            assert runs.read_config(Config, folder) == config
            with pytest.raises(ValueError, match=r"run has no results\.json: it is no run, or one"):
                runs.read_results(folder)
            return {"score": 0.1}

        return work

    results = runs.run(prepare, config)
    assert order == ["prepare", "work"]
    assert runs.read_results(config.out) == results
    assert results["score"] == 0.1
    assert results["seconds"] > 0
    assert {"device", "processor", "cores", "jax", "jaxlib", "python"} < results.keys()
    assert capsys.readouterr().out == f"results in {config.out}\n"
    with pytest.raises(ValueError, match="is not an empty folder"):
        runs.run(prepare, config)
    assert order == ["prepare", "work"]  # refused before any work


def test_a_folder_of_no_run_or_a_damaged_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no config\.json"):
        runs.read_config(Config, tmp_path)
    for damaged in ('{"seed": 1', "[1]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            runs.read_config(Config, tmp_path)


# --- Locks ---


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "a.lock"
    code = "import sys; from experiments.common.runs import try_lock; from pathlib import Path\n"
    code += "with try_lock(Path(sys.argv[1])) as free: print(free)"
    other = lambda: (
        subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        ).stdout
    )
    with runs.try_lock(path) as free:
        assert free
        with runs.try_lock(path) as second:
            assert not second
        assert other() == "False\n"
    assert other() == "True\n"


def test_without_locks_in_the_system_every_process_is_free(tmp_path, monkeypatch):
    with runs.try_lock(tmp_path / "a") as free, runs.try_lock(tmp_path / "b"):
        assert free
        monkeypatch.setattr(runs, "fcntl", None)
        with runs.try_lock(tmp_path / "a") as second:
            assert second


def test_numbers_that_are_not_finite_become_null(tmp_path):
    given = {"psnr": float("inf"), "by_seed": [1.0, float("nan")], "inner": {"x": -float("inf")}}
    runs.write_json(tmp_path / "a.json", given)
    written = json.loads((tmp_path / "a.json").read_text())
    assert written == {"psnr": None, "by_seed": [1.0, None], "inner": {"x": None}}
    assert not list(tmp_path.glob("*.tmp"))
