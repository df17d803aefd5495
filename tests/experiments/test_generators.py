"""What the generator experiments share: how a run begins, goes on, and is applied."""

import dataclasses
import json

import jax
import pytest

from experiments import cli, generators
from experiments.single_image_animation.config import VARIANTS

SMOKE = VARIANTS["smoke"]


def parse(*arguments):
    return cli._parse(VARIANTS, "experiments.x", "", arguments, {})


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that ended before its first checkpoint."""
    config = dataclasses.replace(SMOKE, out=tmp_path / "run")
    generators.begin(config)
    return generators.open_folder(config, tmp_path / "default")


def test_what_a_resumed_run_changes_is_what_the_next_one_finds(folder):
    extended = parse("--resume", "--out", str(folder), "--steps", "9", "--save-every", "7")
    generators.begin(extended)
    assert generators.open_folder(extended, folder) == folder
    again = parse("--resume", "--out", str(folder))
    assert (again.steps, again.save_every, again.size) == (9, 7, SMOKE.size)


def test_fewer_steps_than_were_taken_are_refused_and_change_nothing(folder):
    (folder / "checkpoints/9").mkdir(parents=True)
    before = (folder / "config.json").read_text()
    with pytest.raises(ValueError, match="has taken 9 steps already; --steps 8 is fewer"):
        generators.begin(parse("--resume", "--out", str(folder), "--steps", "8"))
    assert (folder / "config.json").read_text() == before


def test_no_process_takes_on_the_number_of_another(folder):
    config = dataclasses.replace(SMOKE, out=folder, resume=True, distributed=True, process_index=0)
    generators.open_folder(config, folder)
    assert not generators.PROCESSES & json.loads((folder / "config.json").read_text()).keys()
    again = parse("--resume", "--out", str(folder))
    assert (again.distributed, again.process_index) == (False, None)


def test_another_configuration_is_refused_before_the_first_checkpoint_too(folder):
    before = (folder / "config.json").read_text()
    other = parse("--resume", "--out", str(folder), "--model", "unet", "--learning-rate", "0.1")
    with pytest.raises(ValueError, match=r"--model crn, not unet, --learning-rate None, not 0\.1"):
        generators.begin(other)
    assert (folder / "config.json").read_text() == before
    (folder / "config.json").write_text(before[:40])
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        parse("--resume", "--out", str(folder))


@pytest.mark.parametrize(("batch_size", "used"), [(1, 1), (2, 2), (6, 6), (9, 3), (16, 8)])
def test_as_many_devices_are_used_as_divide_the_batch(capsys, batch_size, used):
    mesh = generators.begin(dataclasses.replace(SMOKE, batch_size=batch_size))
    assert mesh.size == used
    said = f"using {used} of 8 devices: --batch-size {batch_size}"
    assert (said in capsys.readouterr().out) == (used < jax.device_count())


def test_two_processes_do_not_train_in_one_folder(folder):
    resumed = parse("--resume", "--out", str(folder))
    with (
        generators._alone(folder),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        generators.begin(resumed)
    generators.begin(resumed)


def test_a_folder_that_holds_something_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="is not an empty folder"):
        generators.begin(dataclasses.replace(SMOKE, out=tmp_path))
