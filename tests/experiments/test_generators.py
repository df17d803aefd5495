"""What the generator experiments share: how a run begins, goes on, and is applied."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from cxjax.data import images, video
from experiments import cli, generators
from experiments.single_image_animation.config import VARIANTS, Config

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
    with pytest.raises(
        ValueError, match=r"--model crn, not unet, --learning-rate 0\.0005, not 0\.1"
    ):
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


# --- What was trained, on other images ---


@pytest.fixture
def apply(monkeypatch, tmp_path):
    """Applies a generator that makes negatives."""
    monkeypatch.setattr(generators, "load_generator", lambda *_, **__: lambda picture: 1 - picture)

    def call(given, output, **options):
        config = generators.ApplyConfig(
            run=tmp_path, input=tmp_path / given, output=tmp_path / output, **options
        )
        generators.apply(config, Config)
        return tmp_path / output

    return call


def test_pictures_of_one_name_do_not_take_each_others_place(apply, tmp_path):
    pixels = np.full((4, 5, 3), 51, np.uint8)
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("a.png", "a.bmp", "deep/b.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    made = apply("in", "new/made")
    found = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.png"))
    assert found == ["a.bmp.png", "a.png.png", "deep/b.png.png"]
    np.testing.assert_allclose(images.read_image(made / found[0]), 0.8, atol=0.003)


def test_a_video_keeps_its_rate(apply, tmp_path):
    frames = np.linspace(0, 1, 5 * 8 * 8 * 3, dtype=np.float32).reshape(5, 8, 8, 3)
    video.write_video(tmp_path / "clip.webp", frames, frames_per_second=12.5, quality=100)
    assert video.frame_rate(apply("clip.webp", "made.webp")) == 12.5
    made = apply("clip.webp", "quick.webp", frames_per_second=50.0)
    assert video.frame_rate(made) == 50
    np.testing.assert_allclose(video.read_video(made), 1 - frames, atol=0.05)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(apply, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("the generator was loaded")

    monkeypatch.setattr(generators, "load_generator", load)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot write .*made\.avi: .* a video in \.mp4, \.webp"):
        apply("a.png", "made.avi")
    with pytest.raises(ValueError, match=r"a\.png exists; name another output"):
        apply("a.png", "a.png")
    with pytest.raises(ValueError, match="there is no file or folder"):
        apply("b.png", "c.png")
