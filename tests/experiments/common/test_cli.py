"""The command line of every experiment: variants, grids and commands by name, plain endings."""

import dataclasses
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.common import cli, grids, runs
from experiments.common.environment import machine

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runs.RunConfig):
    number: int = 1
    """A number."""
    resume: bool = False
    """Whether to resume."""

    @property
    def default_out(self):
        return Path("out/name") / f"number{self.number}"


@dataclasses.dataclass(frozen=True)
class Words:
    """Counts words."""

    words: tuple[str, ...] = ()
    """What to count."""


VARIANTS = {"default": Config(), "paper": Config(number=7)}
GRIDS = {
    "table": grids.Grid(
        about="Numbers, side by side.",
        runs=lambda base: {f"plus{n}": {"number": base.number + n} for n in range(2)},
        show=lambda finished: f"numbers {finished.metrics}",
    )
}


def experiment(run, commands=None, grids=GRIDS):
    return cli.Experiment(
        name="name",
        description="What it does.",
        variants=VARIANTS,
        run=run,
        grids=grids,
        commands=commands or {},
    )


def call(arguments, run, **options):
    return cli.main(experiment(run, **options), arguments)


def test_a_variant_is_what_the_options_start_from():
    seen = []
    assert call([], seen.append) == 0
    assert call(["--variant", "paper"], seen.append) == 0
    assert call(["--variant=paper", "--out", "a"], seen.append) == 0
    assert call(["--number", "3", "--variant", "paper"], seen.append) == 0
    assert seen == [
        Config(),
        Config(number=7),
        Config(number=7, out=Path("a")),
        Config(number=3),
    ]


def test_a_first_word_that_names_a_command_calls_it():
    seen = []
    commands = {"count": (Words, seen.append)}
    assert call(["count", "--words", "a", "b"], pytest.fail, commands=commands) == 0
    assert seen == [Words(words=("a", "b"))]


@pytest.mark.parametrize("first", [["table"], ["grid", "table"]], ids=str)
def test_a_grid_is_made_by_its_name_with_and_without_the_word_grid(
    tmp_path, monkeypatch, capsys, first
):
    monkeypatch.chdir(tmp_path)
    made = []

    def run(config):
        made.append((config.number, config.out))
        return {"twice": 2 * config.number}

    assert call(first, run) == 0
    folder = Path("out/name/grids/table")
    assert made == [(1, folder / "plus0"), (2, folder / "plus1")]
    assert "'twice': 4" in capsys.readouterr().out
    assert call([*first, "--variant", "paper", "--out", "other"], run) == 0
    assert made[2:] == [(7, Path("other/table/plus0")), (8, Path("other/table/plus1"))]


def test_export_writes_beside_the_experiment_unless_told_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(["table"], lambda config: {"number": config.number}) == 0
    assert call(["export", "--results", "here.jsonl"], pytest.fail) == 0
    assert "here.jsonl: 2 runs, 2 of them from out/name/grids" in capsys.readouterr().out
    assert len(Path("here.jsonl").read_text().splitlines()) == 3
    with pytest.raises(SystemExit):
        call(["export", "--help"], pytest.fail)
    assert "experiments/name/results.jsonl" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [["grid"], ["grid", "tabel"]], ids=str)
def test_a_grid_that_is_none_lists_those_there_are(capsys, arguments):
    assert call(arguments, pytest.fail) == 2
    said = capsys.readouterr().err
    assert "name a grid of name, such as `grid NAME`:\n  table: Numbers, side by side." in said


@pytest.mark.parametrize("word", ["grid", "export", "table"])
def test_an_experiment_without_grids_knows_none_of_their_words(capsys, word):
    with pytest.raises(SystemExit) as end:
        call([word], pytest.fail, grids={})
    assert end.value.code == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("wrong"), 2, "error: wrong\n"),
        (OSError("no disk"), 2, "error: no disk\n"),
        (FloatingPointError("nan"), 2, "error: nan\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (runs.Resumable("resume it by --resume", 15), 143, "resume it by --resume\n"),
    ],
    ids=repr,
)
def test_an_error_ends_in_one_line(capsys, error, status, said):
    def run(_):
        raise error

    assert call([], run) == status
    assert capsys.readouterr().err == said


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        call([], lambda _: 1 / 0)


def _begin(folder, config):
    folder.mkdir(parents=True)
    runs.write_json(folder / runs.CONFIG, runs.to_json(config))


def test_resume_takes_the_settings_of_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []
    assert call(["--resume"], seen.append) == 2
    assert "there is no run under out/name; name its folder" in capsys.readouterr().err
    for number in (3, 4):
        _begin(Path(f"out/name/run{number}"), Config(number=number))
    for last in (4, 3):  # the last that was begun, whatever its name
        os.utime(f"out/name/run{last}/config.json", (3e9 - last, 3e9 - last))
        assert call(["--resume"], seen.append) == 0
        assert seen.pop() == Config(number=last, resume=True, out=Path(f"out/name/run{last}"))
    assert call(["--resume", "--out", "out/name/run4", "--number", "5"], seen.append) == 0
    assert seen == [Config(number=5, resume=True, out=Path("out/name/run4"))]
    assert call(["--resume", "--variant", "paper"], seen.append) == 2
    assert "leave out --variant" in capsys.readouterr().err
    assert call(["--resume", "--out", "nowhere"], seen.append) == 2
    assert "nowhere is not the folder of a run" in capsys.readouterr().err


def test_what_the_library_logs_is_shown_plainly(monkeypatch):
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s:%(message)s"))
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(logging.getLogger("cxjax"), "level", logging.WARNING)
    cli.show_log()
    record = logging.makeLogRecord({"msg": "downloading 2 MB"})
    assert handler.format(record) == "downloading 2 MB"
    assert logging.getLogger("cxjax").level == logging.INFO


# --- Compiled programs ---


@pytest.fixture
def compilation(monkeypatch, tmp_path):
    """JAX's settings of its cache as a user has them, given back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("CXJAX_CACHE", str(tmp_path))
    monkeypatch.delenv(cli.CACHE_SWITCH, raising=False)
    jax.config.update(names[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_by_machine_unless_that_is_turned_off(compilation, tmp_path, monkeypatch):
    monkeypatch.setenv(cli.CACHE_SWITCH, "0")
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.delenv(cli.CACHE_SWITCH)
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled" / machine())


def test_a_cache_that_the_user_has_set_up_stays(compilation):
    jax.config.update("jax_compilation_cache_dir", "mine")
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "mine"


def test_a_second_run_compiles_nothing_that_the_first_did(tmp_path):
    code = """
from experiments.common import cli  # before JAX, as every experiment does
import jax
cli.keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))).block_until_ready()
print(sum(event.endswith("/cache_hits") for event in hits) > 0)
"""
    known = {"PYTHONPATH": str(ROOT), "CXJAX_CACHE": str(tmp_path)}
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | known
    environment.pop(cli.CACHE_SWITCH, None)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        for _ in range(2)
    ]
    assert [run.stdout for run in said] == ["False\n", "True\n"]
    assert said[1].stderr == ""  # what XLA reports of a program from the cache is kept quiet
