"""Grids of runs: what is finished is not made again, what is of other settings does not count."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import tyro

from experiments.common import grids, records, runs
from experiments.common.grids import Grid, GridOptions

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.RunConfig):
    seed: int = 0
    loss: str = "cx"
    steps: tuple[int, ...] = (1, 2)
    rate: float | None = None
    warm: bool = False
    weights: Path | None = None
    save_every: int = 5

    INCIDENTAL: ClassVar = (*runs.RunConfig.INCIDENTAL, "save_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Config):
    resume: bool = False

    INCIDENTAL: ClassVar = (*Config.INCIDENTAL, "resume")


def seeds(base):
    return {f"main/seed{seed}": {"seed": seed} for seed in range(3)}


def show(finished):
    return f"shown {finished.metrics}"


GRID = Grid(about="Seeds.", runs=seeds, show=show)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where experiments keep their evidence: that of `name` is none yet."""
    monkeypatch.setattr(grids, "HOME", tmp_path / "home")
    (tmp_path / "home/name").mkdir(parents=True)
    return tmp_path / "home/name"


@pytest.fixture
def make(tmp_path, home):
    """Makes a grid under `out`; keeps the configurations that were run in `make.made`."""

    def call(grid=GRID, run=None, *, name="table", variants=None, **options):
        given = GridOptions(**{"out": tmp_path / "out"} | options)
        variants = variants or {"default": Config(), "paper": Config(loss="paper")}

        def counted(config):
            call.made.append(config)
            return (run or score)(config)

        return grids.make("name", name, grid, given, variants=variants, run=counted)

    call.made = []
    return call


def score(config):
    return {"score": config.seed / 3, "seconds": 1.5, "jax": "0.10.1"}


def begin(config):
    """As the runners do: the folder has its settings before the first step."""
    config.out.mkdir(parents=True, exist_ok=True)
    runs.write_json(config.out / runs.CONFIG, runs.to_json(config))


# --- What is there ---


def test_what_is_there_is_not_made_again(make, tmp_path):
    def stopped(config):
        if config.seed == 2:
            raise KeyboardInterrupt
        return score(config)

    with pytest.raises(KeyboardInterrupt):
        make(run=stopped)
    assert [config.seed for config in make.made] == [0, 1, 2]
    make.made.clear()
    finished = make()
    folder = tmp_path / "out/table"
    assert make.made == [Config(seed=2, out=folder / "main/seed2")]
    assert finished.metrics == {
        f"main/seed{seed}": {"score": seed / 3, "seconds": 1.5} for seed in range(3)
    }
    assert list(finished.metrics) == list(seeds(None))
    assert finished.folder == folder
    assert finished.configs["main/seed1"] == Config(seed=1)
    make.made.clear()
    assert make() == finished
    assert not make.made


def test_a_finished_run_leaves_a_record_of_its_settings(make, tmp_path):
    make(only=("seed1",))
    record = records.read_record(tmp_path / "out/table/main/seed1")
    assert (record.grid, record.name) == ("table", "main/seed1")
    assert record.base == runs.to_json(Config())
    assert record.changes == {"seed": 1}
    assert record.metrics == {"score": 1 / 3}
    assert (record.seconds, record.versions["jax"]) == (1.5, "0.10.1")
    assert record.commit == grids.commit()
    assert not runs.differences(record.settings, Config(seed=1))


def test_the_tables_and_pictures_are_of_what_is_finished(make, capsys, tmp_path):
    drawn = []
    grid = GRID._replace(draw=drawn.append)
    finished = make(grid)
    assert f"shown {finished.metrics}" in capsys.readouterr().out
    assert drawn == [finished]
    assert drawn[0].folder.is_dir()


def test_a_grid_may_run_otherwise_than_its_experiment(make):
    grid = GRID._replace(
        run=lambda config: {"of": "the grid"}, variants={"tiny": Config(steps=(9,))}
    )
    finished = make(grid, pytest.fail, variant="tiny")
    assert finished.metrics["main/seed0"]["of"] == "the grid"
    assert finished.configs["main/seed0"].steps == (9,)
    with pytest.raises(ValueError, match="--variant must be one of tiny; got default"):
        make(grid)


def test_variants_are_what_runs_start_from(make):
    make(variant="paper", only=("seed2",))
    assert [(config.loss, config.seed) for config in make.made] == [("paper", 2)]
    with pytest.raises(ValueError, match="--variant must be one of default, paper; got papr"):
        make(variant="papr")


def _with(text, **fields):
    return json.dumps(json.loads(text) | fields)


OTHER = {
    "record.json": [
        (lambda text: _with(text, changes={"seed": 9}), "--seed 9, not 2"),
        (lambda text: _with(text, changes={"seed": 2, "steps": [3]}), r"--steps \[3\], not \[1"),
        (lambda text: text[:40], r"record\.json is damaged"),
    ],
    "config.json": [
        (lambda text: _with(text, seed=9), "--seed 9, not 2"),
        (lambda text: _with(text, colour=1), "--colour 1, which is no opt"),
        (lambda text: text[:40], r"config\.json is damaged"),
    ],
}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [(file, *case) for file, cases in OTHER.items() for case in cases],
)
def test_a_folder_of_other_settings_is_refused_before_any_run(
    make, tmp_path, file, change, message
):
    make(run=lambda config: begin(config) or score(config))
    folder = tmp_path / "out/table/main"
    for name in ("seed0", "seed1"):
        shutil.rmtree(folder / name)
    if file == "config.json":
        (folder / "seed2/record.json").unlink()
    path = folder / "seed2" / file
    content = change(text := path.read_text())
    assert content != text
    path.write_text(content)
    make.made.clear()
    with pytest.raises(ValueError, match=message):
        make()
    assert not make.made
    assert path.read_text() == content


def test_what_does_not_change_a_run_may_differ(make):
    finished = make()
    make.made.clear()
    again = make(set=("save_every=7",))
    assert not make.made
    assert again.metrics == finished.metrics
    with pytest.raises(ValueError, match=r"seed0 is of a run with --loss cx, not l1; name another"):
        make(set=("loss=l1",))


# --- Several processes, stops, divergence ---


def test_two_processes_share_the_runs(make, tmp_path, capsys):
    (tmp_path / "out/table/main").mkdir(parents=True)
    with runs.try_lock(tmp_path / "out/table/main/seed1.lock") as free:
        assert free
        finished = make()
    assert list(finished.metrics) == ["main/seed0", "main/seed2"]
    said = capsys.readouterr().out
    assert "main/seed1: another process is at it" in said
    assert "not finished, and in no table: main/seed1" in said
    assert len(make().metrics) == 3
    assert [config.seed for config in make.made] == [0, 2, 1]


def test_what_another_process_finished_meanwhile_is_found(make, tmp_path):
    with contextlib.ExitStack() as other:

        def run(config):
            if config.seed == 2:  # the process at seed1, which was passed over, is done by now
                other.close()
                make(run=lambda config: {"score": 7}, only=("seed1",))
            return {"score": 0}

        (tmp_path / "out/table/main").mkdir(parents=True)
        assert other.enter_context(runs.try_lock(tmp_path / "out/table/main/seed1.lock"))
        finished = make(run=run)
    assert {name: metrics["score"] for name, metrics in finished.metrics.items()} == {
        "main/seed0": 0,
        "main/seed1": 7,
        "main/seed2": 0,
    }
    assert list(finished.metrics) == list(seeds(None))


def test_what_another_process_finished_before_its_turn_is_not_made_again(make):
    def run(config):
        if config.seed == 0:
            make(run=lambda config: {"score": 7}, only=("seed1",))
        return {"score": 0}

    finished = make(run=run)
    assert [config.seed for config in make.made] == [0, 1, 2]
    assert finished.metrics["main/seed1"]["score"] == 7


def test_where_others_are_at_all_of_it_there_is_nothing_to_show(make, tmp_path, capsys):
    def refuse(finished):
        raise AssertionError("there is nothing to show")

    (tmp_path / "out/table/main").mkdir(parents=True)
    with runs.try_lock(tmp_path / "out/table/main/seed1.lock"):
        finished = make(GRID._replace(show=refuse, draw=refuse), only=("seed1",))
    assert not finished.metrics
    assert "not finished, and in no table: main/seed1" in capsys.readouterr().out


def test_a_run_that_diverges_does_not_end_the_grid(make, capsys):
    def run(config):
        if config.seed == 1:
            raise FloatingPointError("step 7: loss is nan")
        return score(config)

    for _ in range(2):  # made, and read again
        finished = make(run=run)
        assert list(finished.metrics) == ["main/seed0", "main/seed2"]
        assert finished.diverged == {"main/seed1"}
        said = "main/seed1 diverged, and is in no table: step 7: loss is nan"
        assert said in capsys.readouterr().out
    assert len(make.made) == 3


def test_a_run_that_was_stopped_is_resumed_in_its_folder(make, tmp_path):
    asked = []

    def run(config):
        asked.append((config.seed, config.resume, config.out))
        begin(config)
        if len(asked) == 2:
            raise runs.Resumable("resume it by --resume", 15)
        return {"score": config.seed}

    options = {"run": run, "variants": {"default": Training()}, "only": ("seed[01]",)}
    with pytest.raises(
        runs.Resumable, match=r"stopped in main/seed1.* the same command resumes"
    ) as end:
        make(**options)
    assert end.value.signal == 15
    finished = make(**options)
    folders = [tmp_path / "out/table/main" / f"seed{seed}" for seed in range(2)]
    assert asked == [(0, False, folders[0]), (1, False, folders[1]), (1, True, folders[1])]
    assert [metrics["score"] for metrics in finished.metrics.values()] == [0, 1]


def test_a_run_that_cannot_be_resumed_begins_anew(make, tmp_path):
    def run(config):
        assert not config.out.exists()
        begin(config)
        (config.out / "half.png").touch()
        if len(make.made) == 2:
            raise KeyboardInterrupt
        return score(config)

    with pytest.raises(KeyboardInterrupt):
        make(run=run)
    finished = make(run=run)
    assert [config.seed for config in make.made] == [0, 1, 1, 2]
    assert len(finished.metrics) == 3


def test_runs_that_cannot_be_made_are_refused_before_any_is(make):
    checked = []

    def check(configs):
        checked.append([config.seed for config in configs])
        raise ValueError("no weights")

    make(only=("seed1",))
    with pytest.raises(ValueError, match="no weights"):
        make(GRID._replace(check=check))
    assert checked == [[0, 2]]  # what is finished needs none
    assert len(make.made) == 1
    make(GRID._replace(check=check), missing=False)
    assert len(checked) == 1


def test_without_missing_ones_nothing_is_made(make, capsys):
    with pytest.raises(ValueError, match="none of the 3 runs of the grid table is finished in"):
        make(missing=False)
    make(only=("seed1",))
    finished = make(missing=False)
    assert list(finished.metrics) == ["main/seed1"]
    assert len(make.made) == 1
    assert "not finished, and in no table: main/seed0, main/seed2" in capsys.readouterr().out


# --- Evidence ---


def keep(home, made=seeds, base=None, score=7, *, grid="table", drop=(), **fields):
    """Writes the evidence of a grid: of settings that lack what is in `drop` and have `fields`."""
    settings = {**runs.to_json(base or Config()), **fields}
    settings = {name: value for name, value in settings.items() if name not in drop}
    about = {"grid": grid, "base": settings, "commit": "abc"}
    kept = [
        records.make_record({"score": score, "seconds": 9.0}, name=name, changes=changes, **about)
        for name, changes in made(base).items()
    ]
    records.write_records(home / grids.EVIDENCE, kept)


def test_the_evidence_counts_as_finished_unless_told(make, home, tmp_path):
    keep(home)
    finished = make()
    assert not make.made
    assert finished.metrics == {name: {"score": 7, "seconds": 9.0} for name in seeds(None)}
    assert not (tmp_path / "out").exists()
    assert make(missing=False) == finished
    with pytest.raises(ValueError, match="none of the 3 runs"):
        make(missing=False, evidence=False)
    anew = make(evidence=False)
    assert len(make.made) == 3
    assert anew.metrics["main/seed1"]["score"] == 1 / 3
    assert make().metrics["main/seed1"]["score"] == 1 / 3  # what was made here goes before
    read = grids.read_evidence("name", "table", GRID, {"default": Config()})
    assert read == finished._replace(folder=Path())


def test_what_the_evidence_lacks_is_made(make, home):
    keep(home, lambda base: {"main/seed1": {"seed": 1}})
    finished = make()
    assert [config.seed for config in make.made] == [0, 2]
    scores = [metrics["score"] for metrics in finished.metrics.values()]
    assert scores == [0, 7, 2 / 3]


@pytest.mark.parametrize(
    "settings",
    [{"loss": "l1"}, {"steps": [3]}, {"grid": "tune"}, {"drop": ("rate",)}, {"colour": "red"}],
    ids=str,
)
def test_evidence_of_other_settings_is_not_used(make, home, settings):
    """Such as that of a default which has changed since, or of a field whose value is not known."""
    keep(home, **settings)
    assert make().metrics["main/seed1"]["score"] == 1 / 3
    assert len(make.made) == 3


def test_a_changed_default_is_a_new_base_beside_the_old_one(make, home, tmp_path):
    keep(home, base=Config(loss="l1"))
    make()
    grids.export(grids.ExportOptions(out=tmp_path / "out", results=home / grids.EVIDENCE))
    lines = [json.loads(line) for line in (home / grids.EVIDENCE).read_text().splitlines()]
    assert sorted(line["settings"]["loss"] for line in lines if "settings" in line) == ["cx", "l1"]
    for loss, expected in (("cx", 1 / 3), ("l1", 7)):
        base = {"default": Config(loss=loss)}
        of = grids.read_evidence("name", "table", GRID, base)
        assert of.metrics["main/seed1"]["score"] == expected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Config):
    """The same some versions later: an option has come, and another one has gone."""

    padding: str = runs.added("edge", older="zeros")

    REMOVED: ClassVar[Mapping[str, Any]] = {"colour": "red"}


def test_older_evidence_counts_as_what_is_declared_of_it(make, home):
    later = {"default": Later(), "older": Later(padding="zeros")}
    keep(home)  # without the later option
    assert make(variants=later, variant="older").metrics["main/seed1"]["score"] == 7
    assert not make.made
    assert make(variants=later).metrics["main/seed1"]["score"] == 1 / 3
    assert {config.padding for config in make.made} == {"edge"}


@pytest.mark.parametrize(("colour", "used"), [("red", True), ("blue", False)])
def test_an_option_that_has_gone_leaves_records_readable(make, home, tmp_path, colour, used):
    keep(home, padding="edge", colour=colour)
    assert len(records.read_records(home / grids.EVIDENCE)) == 3
    finished = make(variants={"default": Later()})
    assert (finished.metrics["main/seed1"]["score"] == 7) == used
    assert len(make.made) == (0 if used else 3)
    results = home / grids.EVIDENCE
    if not used:  # both are kept
        grids.export(grids.ExportOptions(out=tmp_path / "out", results=results))
        assert len(records.read_records(results)) == 6


def test_evidence_that_is_damaged_is_named_before_any_run(make, home):
    keep(home)
    path = home / grids.EVIDENCE
    path.write_text(path.read_text().replace('"grid"', '"gird"', 1))
    with pytest.raises(ValueError, match=r"line 2 of .*results\.jsonl is damaged"):
        make()
    assert not make.made


# --- Which runs, of which settings ---

NAMES = ("main/cx-seed0", "main/cx-seed1", "main/l1-seed0", "shift/cx-0", "shift/main", "alone")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ((), NAMES),
        (("main",), [*NAMES[:3], "shift/main"]),
        (("cx-*",), ["main/cx-seed0", "main/cx-seed1", "shift/cx-0"]),
        (("cx-*", "l1-*"), ["main/cx-seed0", "main/cx-seed1", "main/l1-seed0", "shift/cx-0"]),
        (("shift", "cx-*"), ["shift/cx-0"]),
        (("shift", "alone"), ["shift/cx-0", "shift/main", "alone"]),
        (("main", "cx-*"), ["main/cx-seed0", "main/cx-seed1"]),
        (("*-seed0", "mai?"), ["main/cx-seed0", "main/l1-seed0"]),
        (("alone",), ["alone"]),
    ],
    ids=str,
)
def test_words_for_one_place_are_alternatives(make, words, chosen):
    grid = GRID._replace(runs=lambda base: {name: {} for name in NAMES})
    assert list(make(grid, only=words).metrics) == list(chosen)


def test_a_grid_may_need_others_than_those_asked_for(make):
    """Such as the one that all are compared with."""
    grid = GRID._replace(
        also=lambda base, selected: {"main/seed0"} if len(selected) == 1 else set()
    )
    assert list(make(grid, only=("seed2",)).metrics) == ["main/seed0", "main/seed2"]
    assert list(make(grid, only=("seed[12]",)).metrics) == ["main/seed1", "main/seed2"]


def test_words_that_match_nothing_are_refused(make):
    message = r"--only seed7 is no part of a run's name; known: main, seed0, seed1, seed2"
    with pytest.raises(ValueError, match=message):
        make(only=("seed0", "seed7"))
    grid = GRID._replace(runs=lambda base: {"a/b": {}, "c/d": {}})
    with pytest.raises(ValueError, match="--only a d leaves no run"):
        make(grid, only=("a", "d"))
    assert not make.made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("seed=4", "loss=l1"), {"seed": 4, "loss": "l1"}),
        (("steps=3,4,5",), {"steps": (3, 4, 5)}),
        (("rate=1e-3",), {"rate": 1e-3}),
        (("rate=None",), {"rate": None}),
        (("warm=true",), {"warm": True}),
        (("warm=False",), {"warm": False}),
        (("save-every=9",), {"save_every": 9}),
        (("weights=a=b.pth",), {"weights": Path("a=b.pth")}),
    ],
    ids=str,
)
def test_settings_are_set_for_all_runs(make, words, expected):
    grid = GRID._replace(runs=lambda base: {"a": {}, "b": {"warm": True}})
    make(grid, set=words, only=("a",), variants={"default": Config(rate=0.5, warm=True)})
    (config,) = make.made
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("seed",), "--set takes NAME=VALUE; got seed"),
        (("speed=3",), "--set speed=3 is no setting; known: out, seed, loss, steps, rate"),
    ],
)
def test_settings_that_do_not_exist_are_refused(make, words, message):
    with pytest.raises(ValueError, match=message):
        make(set=words)
    assert not make.made


def test_a_value_of_another_kind_is_refused(make, capsys):
    with pytest.raises(SystemExit) as end:
        make(set=("seed=three",))
    assert end.value.code == 2
    assert "three" in capsys.readouterr().err
    assert not make.made


def test_no_process_is_too_few():
    with pytest.raises(ValueError, match="--processes must be at least 1; got 0"):
        GridOptions(out=Path(), processes=0)


# --- Export ---


def test_export_sorts_the_finished_runs_of_all_grids(make, home, tmp_path, capsys):
    keep(home, lambda base: {"main/seed1": {"seed": 1}, "gone": {"seed": 9}})
    make(evidence=False)
    make(name="a-grid", only=("seed0",))
    make.made.clear()
    options = grids.ExportOptions(out=tmp_path / "out", results=home / grids.EVIDENCE)
    grids.export(options)
    assert f"{options.results}: 5 runs, 4 of them from {options.out}" in capsys.readouterr().out
    kept = records.read_records(options.results)
    assert [(record.grid, record.name) for record in kept] == [
        ("a-grid", "main/seed0"),
        ("table", "gone"),
        *(("table", f"main/seed{seed}") for seed in range(3)),
    ]
    assert kept[3].metrics == {"score": 1 / 3}  # the newer of the same settings
    assert kept[1].metrics == {"score": 7}
    written = options.results.read_bytes()
    grids.export(options)
    assert options.results.read_bytes() == written
    shutil.rmtree(tmp_path / "out")
    finished = make()
    assert not make.made  # what was exported counts as finished
    assert finished.metrics["main/seed2"] == {"score": 2 / 3, "seconds": 1.5}


def test_export_without_a_finished_run_is_refused(home, tmp_path):
    with pytest.raises(ValueError, match="out has no finished run"):
        grids.export(grids.ExportOptions(out=tmp_path / "out", results=home / grids.EVIDENCE))
    assert not (home / grids.EVIDENCE).exists()


# --- Real processes ---


def test_other_processes_are_given_the_same_options(make, monkeypatch, tmp_path):
    commands, waited = [], []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

        def wait(self):
            waited.append(len(make.made))

    monkeypatch.setattr(grids, "subprocess", SimpleNamespace(Popen=Process, DEVNULL=None))
    options = {"only": ("main", "seed1"), "set": ("rate=0.5",), "variant": "paper"}
    make(processes=3, evidence=False, **options)
    assert len(commands) == 2
    assert waited == [1, 1]  # once what is done beside them is done
    module, *arguments = commands[0][2:]
    assert (commands[0][:2], module) == ([sys.executable, "-m"], "experiments.name")
    kind = GridOptions(out=Path())
    given = tyro.cli(GridOptions, default=kind, args=arguments[1:])
    assert arguments[0] == "table"
    assert given == GridOptions(out=tmp_path / "out", evidence=False, **options)


FAKE = """
import dataclasses, signal, sys, time
from pathlib import Path
from experiments.common import cli, grids, runs

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.RunConfig):
    seed: int = 0
    factor: int = 1

def stop(number, frame):
    raise runs.Resumable("resume it", number)

def run(config):  # as training does, it can be asked to stop
    signal.signal(signal.SIGTERM, stop)
    begun = config.out.parent / f"begun{config.seed}"
    begun.touch()
    deadline = time.monotonic() + 60
    while len(list(begun.parent.glob("begun*"))) < 2 or Path("wait").exists():
        assert time.monotonic() < deadline, "nobody works beside this process"
        time.sleep(0.02)
    return {"score": config.factor * config.seed}

EXPERIMENT = cli.Experiment(
    name="fake", description="Fake.", variants={"default": Config()}, run=run,
    grids={"table": grids.Grid(
        about="Seeds.",
        runs=lambda base: {f"seed{seed}": {"seed": seed} for seed in range(4)},
        show=lambda finished: f"shown {finished.metrics}",
    )},
)
if __name__ == "__main__":
    sys.exit(cli.main(EXPERIMENT))
"""


@pytest.fixture
def fake(tmp_path):
    """A folder where `python -m experiments.fake` is an experiment, beside those of this clone."""
    (tmp_path / "experiments/fake").mkdir(parents=True)
    init = f"__path__.append({str(ROOT / 'experiments')!r})\n"
    (tmp_path / "experiments/__init__.py").write_text(init)
    (tmp_path / "experiments/fake/__main__.py").write_text(FAKE)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.fake", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    return start


def test_several_processes_work_at_one_grid(fake, tmp_path):
    """Each run waits for another one to have begun, which in one process would never be."""
    options = ("--processes", "2", "--set", "factor=10", "--only", "seed[0-2]", "--out", "here")
    said, errors = fake("table", *options).communicate(timeout=120)
    assert not errors
    folder = tmp_path / "here/table"
    made = {path.parent.name for path in folder.glob("*/record.json")}
    assert made == {"seed0", "seed1", "seed2"}
    finished = {f"seed{seed}": {"seconds": None, "score": 10 * seed} for seed in range(3)}
    assert said.endswith(f"\nshown {finished}\n")
    assert "another process is at it" in said or said.count("run ") == 3


def test_processes_end_with_the_one_that_started_them(fake, tmp_path):
    (tmp_path / "wait").touch()
    main = fake("table", "--processes", "2", "--out", "here")
    begun = tmp_path / "here/table"
    deadline = time.monotonic() + 60
    while len(list(begun.glob("begun*"))) < 2:
        assert main.poll() is None, main.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    main.terminate()  # it alone, as a program that stops it would
    _, errors = main.communicate(timeout=60)  # until the other has closed what it writes to, too
    assert main.returncode == 128 + signal.SIGTERM
    assert errors.count("which is saved; the same command resumes it") == 2
    assert not list(begun.glob("*/record.json"))
    (tmp_path / "wait").unlink()
    said, _ = fake("table", "--out", "here").communicate(timeout=60)  # nobody is at a run
    assert said.count("'score'") == 4
