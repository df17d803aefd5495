"""The runner of what trains a generator: how a run begins, is resumed, and is refused."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import cli, generators, runs, training
from experiments.common.training import Task, TrainingData
from experiments.single_image_animation.__main__ import EXPERIMENT

SMOKE = EXPERIMENT.variants["smoke"]


def parse(*arguments):
    return cli.parse(EXPERIMENT, arguments)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that ended before its first checkpoint."""
    config = dataclasses.replace(SMOKE, out=tmp_path / "run")
    training._begin(config)
    return training._open_folder(config)


def test_what_a_resumed_run_changes_is_what_the_next_one_finds(folder):
    extended = parse("--resume", "--out", str(folder), "--steps", "9", "--save-every", "7")
    training._begin(extended)
    assert training._open_folder(extended) == folder
    again = parse("--resume", "--out", str(folder))
    assert (again.steps, again.save_every, again.size) == (9, 7, SMOKE.size)


def test_fewer_steps_than_were_taken_are_refused_and_change_nothing(folder):
    (folder / "checkpoints/9").mkdir(parents=True)
    before = (folder / "config.json").read_text()
    with pytest.raises(ValueError, match="has taken 9 steps already; --steps 8 is fewer"):
        training._begin(parse("--resume", "--out", str(folder), "--steps", "8"))
    assert (folder / "config.json").read_text() == before


def test_no_process_takes_on_the_number_of_another(folder):
    config = dataclasses.replace(SMOKE, out=folder, resume=True, distributed=True, process_index=0)
    training._open_folder(config)
    assert not set(generators.PROCESSES) & json.loads((folder / "config.json").read_text()).keys()
    again = parse("--resume", "--out", str(folder))
    assert (again.distributed, again.process_index) == (False, None)


def test_another_configuration_is_refused_before_the_first_checkpoint_too(folder):
    before = (folder / "config.json").read_text()
    other = parse("--resume", "--out", str(folder), "--model", "unet", "--learning-rate", "0.1")
    with pytest.raises(ValueError, match=r"--model crn, not unet, --learning-rate None, not 0\.1"):
        training._begin(other)
    assert (folder / "config.json").read_text() == before
    (folder / "config.json").write_text(before[:40])
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        parse("--resume", "--out", str(folder))


@pytest.mark.parametrize(("batch_size", "used"), [(1, 1), (2, 2), (6, 6), (9, 3), (16, 8)])
def test_as_many_devices_are_used_as_divide_the_batch(capsys, batch_size, used):
    mesh = training._begin(dataclasses.replace(SMOKE, batch_size=batch_size))
    assert mesh.size == used
    said = f"using {used} of 8 devices: --batch-size {batch_size}"
    assert (said in capsys.readouterr().out) == (used < jax.device_count())


def test_two_processes_do_not_train_in_one_folder(folder):
    resumed = parse("--resume", "--out", str(folder))
    with (
        training._locked(folder),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        training._begin(resumed)
    training._begin(resumed)


def test_a_folder_that_holds_something_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="is not an empty folder"):
        training._begin(dataclasses.replace(SMOKE, out=tmp_path))


# --- Whole runs, of a task that is as small as can be ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(generators.GeneratorConfig):
    size: int = 8
    steps: int = 2
    save_every: int = 1
    log_every: int = 1
    loss: str = "l2"

    @property
    def default_out(self):
        return Path("out/tiny") / self.loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Config):
    """The same some versions later: an option has come, and another one has gone."""

    padding: str = runs.added("edge", older="zeros")

    REMOVED: ClassVar[Mapping[str, Any]] = {"colour": "red"}


def tiny(order=None):
    """A task without a feature network; says in `order` what it is asked for."""
    order = [] if order is None else order
    say = lambda word, value: order.append(word) or value

    def make_loss(config, networks, pictures):
        assert networks.features is None

        def loss_fn(params, batch, key):
            made = networks.model.apply(params, batch["image"])
            loss = jnp.square(made - pictures.mean()).mean()
            return loss, {"own": loss}

        return say("loss", loss_fn)

    def evaluate(config, networks, pictures, make, folder):
        assert runs.read_config(type(config), folder).size == config.size
        return say("evaluate", {"mean": float(np.mean(make(pictures[:2])))})

    return Task(
        read=lambda config: say("read", np.random.default_rng(0).uniform(size=(4, 8, 8, 3)) / 2),
        training=lambda config, pictures: TrainingData(
            examples=pictures.astype(np.float32), transform=None, shown=pictures[:1]
        ),
        layers=lambda config: (),
        make_loss=make_loss,
        untrained=lambda config, pictures: np.zeros_like if config.loss == "none" else None,
        evaluate=evaluate,
        show=lambda results: f"shown {list(results)}",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that was trained, what it returned, and the order of its parts."""
    out, order = tmp_path_factory.mktemp("tiny") / "run", []
    results = training.run(tiny(order), Config(out=out))
    return out, results, order


def test_a_run_reads_trains_and_evaluates_in_this_order(trained):
    out, results, order = trained
    assert order == ["read", "loss", "evaluate"]
    assert runs.read_results(out) == results
    assert results["seconds"] > 0
    assert 0 < results["mean"] < 1
    assert runs.read_config(Config, out) == Config(out=out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/own" in line] == [1, 2]
    assert (out / "samples/step000002.png").is_file()


def test_what_trains_nothing_is_evaluated_alike_and_takes_no_time(tmp_path, capsys):
    order = []
    results = training.run(tiny(order), Config(loss="none", out=tmp_path / "none"))
    assert order == ["read", "evaluate"]
    assert (results["mean"], results["seconds"]) == (0, 0)
    assert "shown ['none']" in capsys.readouterr().out
    assert not (tmp_path / "none/checkpoints").exists()


def test_a_run_from_before_an_option_is_resumed_as_what_it_was(trained, tmp_path):
    """Its checkpoints, too, were made without the option that has come, and with one that went."""
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    settings = runs.read_settings(out) | {"colour": "red"}
    runs.write_json(out / runs.CONFIG, settings)
    experiment = cli.Experiment("tiny", "Tiny.", {"default": Later()}, lambda config: config)
    config = cli.parse(experiment, ["--resume", "--out", str(out), "--steps", "3"])
    assert config.padding == "zeros"
    with pytest.raises(ValueError, match="was begun with --padding zeros, not edge; leave these"):
        training.run(tiny(), dataclasses.replace(config, padding="edge"))
    results = training.run(tiny(), config)
    assert results["seconds"] is None  # the first part's are not known
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/own" in line] == [1, 2, 3]
    again = cli.parse(experiment, ["--resume", "--out", str(out)])
    training._begin(again)  # and once more, now with the option


def test_a_run_that_is_asked_to_stop_says_how_to_resume_it(tmp_path):
    config, drawn = Config(out=tmp_path / "run", steps=1000, save_every=1000), []

    def transform(example, generator):
        drawn.append(example)
        if len(drawn) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return example

    task = tiny()
    data = lambda *given: task.training(*given)._replace(transform=transform)
    with pytest.raises(runs.Resumable, match=r"resume it by --resume --out .*run$") as stopped:
        training.run(task._replace(training=data), config)
    assert stopped.value.signal == signal.SIGTERM
    (last,) = (int(path.name) for path in (config.out / "checkpoints").glob("[0-9]*"))
    assert 0 < last < 1000
    assert not (config.out / "results.json").exists()


def test_several_runs_are_shown_as_one_table(trained, tmp_path, capsys):
    out, _, _ = trained
    kind, show = training.show_command(tiny())
    show(kind(runs=(out,)))
    assert capsys.readouterr().out == f"shown ['{out}']\n"
    with pytest.raises(ValueError, match="name the folder of at least one run"):
        show(kind(runs=()))
    with pytest.raises(ValueError, match=r"has no results\.json"):
        show(kind(runs=(out, tmp_path)))
