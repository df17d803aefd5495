"""The animation end to end on a drawn clip: trained, stopped, resumed, applied, measured."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.filters import gaussian

from cxjax.data import images, video
from experiments.common import apply as application
from experiments.common import cli, generators, runs
from experiments.common.pictures import photograph, portrait
from experiments.common.training import Networks, ShowConfig
from experiments.single_image_animation import data, evaluation, frame_by_frame, motion, shapes
from experiments.single_image_animation.__main__ import EXPERIMENT
from experiments.single_image_animation.config import VARIANTS, Config
from experiments.single_image_animation.objective import make_loss

ROOT = Path(__file__).parents[2]
SMOKE = VARIANTS["smoke"]
SMALL = dataclasses.replace(SMOKE, size=16)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of the command line that got SIGTERM after its first checkpoint, and what it said."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "experiments.single_image_animation", "--variant", "smoke"]
    command += [
        "--steps",
        "100000",
        "--ema-decay",
        "0.9",
        "--batch-size",
        "8",
        "--size",
        str(SMALL.size),
    ]
    known = {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    run = subprocess.Popen(
        command, cwd=folder, env=os.environ | known, stderr=subprocess.PIPE, text=True
    )
    out = folder / "out/single_image_animation/drawn-drawn-contextual"
    deadline = time.monotonic() + 120
    while not any(p.name.isdigit() for p in (out / "checkpoints").glob("*")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    return out, run.returncode, said


def test_a_stopped_run_says_how_to_resume_it(stopped):
    out, status, said = stopped
    assert status == 128 + signal.SIGTERM
    assert f"resume it by --resume --out {out.relative_to(out.parents[2])}" in said
    assert "Traceback" not in said


def main(*arguments):
    return cli.main(EXPERIMENT, arguments)


@pytest.fixture(scope="module")
def resumed(stopped):
    """The same run resumed, on eight devices in place of one."""
    out, _, _ = stopped
    last = max(int(p.name) for p in (out / "checkpoints").glob("*") if p.name.isdigit())
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.chdir(out.parents[2]):
        assert main("--resume", "--steps", str(last + 3)) == 0
    return out, last, said.getvalue()


def test_the_resumed_run_ends_with_everything(resumed):
    out, last, said = resumed
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, last + 4))
    results = json.loads((out / "results.json").read_text())
    assert {"motion", "look", "flicker", "source"} <= results.keys()
    assert results["seconds"] is None  # the first part's are not known
    assert "| drawn-drawn-contextual |" in said
    frames = video.read_video(out / "animation.webp")
    assert frames.shape == (SMALL.held_out, SMALL.size, 2 * SMALL.size + 4, 3)
    assert (out / "samples/step000000.png").is_file()


def test_the_trained_generator_is_applied(resumed, tmp_path):
    out, _, _ = resumed
    _, held_out, _ = data.read_pair(SMALL)
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(held_out[:2]):
        pixels = (frame * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png")
    apply = lambda given, to: application.apply(
        application.ApplyConfig(run=out, input=given, output=to), Config
    )
    apply(tmp_path / "in", tmp_path / "made")
    made = np.asarray(Image.open(tmp_path / "made/0.png"), np.float32) / 255
    strip = np.asarray(Image.open(out / "strip.png"), np.float32) / 255
    # The same up to the eight bits that the inputs were saved with.
    assert np.abs(made - strip[SMALL.size :, : SMALL.size]).mean() < 0.005
    assert np.abs(made - held_out[0]).mean() > 0.1
    video.write_video(tmp_path / "clip.gif", held_out, frames_per_second=5)
    apply(tmp_path / "clip.gif", tmp_path / "made.webp")
    assert len(video.read_video(tmp_path / "made.webp")) == len(held_out)
    with pytest.raises(ValueError, match="made exists; name another output"):
        apply(tmp_path / "in", tmp_path / "made")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        application.apply(
            application.ApplyConfig(run=tmp_path, input=out, output=tmp_path / "b"), Config
        )


def test_the_baseline_makes_each_frame_on_its_own(resumed, tmp_path, capsys):
    out, _, _ = resumed
    config = frame_by_frame.FrameByFrameConfig(
        run=out, out=tmp_path / "frames", scales=(1.0,), steps=(3,)
    )
    metrics = frame_by_frame.run(config)
    trained = json.loads((out / "results.json").read_text())
    assert metrics["source"] == trained["source"]
    assert metrics["look"]["contextual"] < metrics["source"]["look"]["contextual"]
    _, held_out, _ = data.read_pair(SMALL)
    strip = np.asarray(Image.open(tmp_path / "frames/strip.png"), np.float32) / 255
    for number, frame in enumerate(held_out):
        left = number * (SMALL.size + 4)
        made = strip[SMALL.size :, left : left + SMALL.size]
        assert 0.002 < np.abs(made - frame).mean() < 0.1  # its own content, a few steps away
    capsys.readouterr()
    assert main("show", str(out), str(tmp_path / "frames")) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "source",
        str(out),
        str(tmp_path / "frames"),
    ]
    assert float(rows[-1].split("|")[-2]) > 0


def test_a_source_that_stands_still_has_no_metric_of_its_motion(face):
    features = generators.make_features(SMOKE, ("conv1_2",))
    still = np.repeat(face[:1], 3, axis=0)
    metrics = evaluation.score(SMOKE, features, data.Pair(still, still, 1 - still[0]), still)
    assert metrics["motion"] == {"whole": None}
    json.dumps(metrics, allow_nan=False)
    assert evaluation.show({"a": metrics}).splitlines()[-1].startswith("| a |  | ")


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    metrics = {"motion": {"whole": 0.5}, "flicker": 0.1, "look": {"contextual": 1.0, "gram": 0.2}}
    for name, flicker in (("a", 0.01), ("b", 0.02)):
        source = {"flicker": flicker, "look": {"contextual": 2.0, "gram": 0.5}}
        (tmp_path / name).mkdir()
        written = json.dumps({**metrics, "source": source, "seconds": 1})
        (tmp_path / name / "results.json").write_text(written)
    _, command = EXPERIMENT.commands["show"]
    show = lambda *names: command(ShowConfig(runs=tuple(tmp_path / name for name in names)))
    show("a")
    head = json.loads((tmp_path / "a/results.json").read_text())
    (tmp_path / "head").mkdir()
    (tmp_path / "head/results.json").write_text(
        json.dumps({**head, "boxes": {"head": [0, 0, 1, 1]}})
    )
    with pytest.raises(ValueError, match="measured motion in other boxes"):
        show("a", "head")
    with pytest.raises(ValueError, match="b and .*a are not of the same clip"):
        show("a", "b")
    with pytest.raises(ValueError, match=r"c has no results.json"):
        show("a", "c")
    with pytest.raises(ValueError, match="at least one run"):
        show()


def test_the_grid_compares_the_losses_and_shows_the_source_itself(tmp_path, capsys):
    asked = []

    def run(config):
        asked.append((config.loss, config.source_weight))
        if config.loss == "gram":
            raise FloatingPointError("step 7: loss is nan")
        look = {"contextual": config.source_weight, "gram": 0.2}
        metrics = {"motion": {"whole": 0.5}, "flicker": 0.1, "look": look}
        return {**metrics, "source": {"flicker": 0.0, "look": look | {"contextual": 2.0}}}

    experiment = EXPERIMENT._replace(run=run)
    arguments = ["table", "--out", str(tmp_path), "--variant", "smoke"]
    assert cli.main(experiment, arguments) == 0
    assert asked == [("contextual", 1.0), ("gram", 1.0), ("contextual", 0.3)]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "source",
        "contextual",
        "source_weight-0.3",
    ]
    assert cli.main(experiment, [*arguments, "--only", "gram"]) == 0  # diverged: none to compare
    assert "| source |" not in capsys.readouterr().out


def test_another_configuration_is_not_resumed(resumed, capsys):
    out, last, _ = resumed
    before = sorted((p, p.stat().st_mtime) for p in out.rglob("*") if p.is_file())
    resume = ("--resume", "--out", str(out), "--steps", str(last + 9))
    assert main(*resume, "--learning-rate", "0.1") == 2
    assert "--learning-rate None, not 0.1" in capsys.readouterr().err
    assert main(*resume, "--variant", "smoke") == 2
    assert "leave out --variant" in capsys.readouterr().err
    assert sorted((p, p.stat().st_mtime) for p in out.rglob("*") if p.is_file()) == before


def test_the_settings_survive_being_written():
    config = dataclasses.replace(SMOKE, weights=Path("a.pth"), head=(0.1, 0.2, 0.3, 0.4))
    written = json.loads(json.dumps(runs.to_json(config)))
    assert runs.from_json(Config, written, where="here") == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_layers": ("conv9_1",)}, "vgg16 has no layer 'conv9_1'"),
        ({"bandwidth": 0.0}, "--bandwidth must be positive; got 0.0"),
        ({"start": 5, "stop": 5}, "no frames in start=5, stop=5, every=1"),
        ({"every": 0}, "no frames in start=0, stop=None, every=0"),
        ({"held_out": 1}, "--held-out must be at least 3"),
        ({"head": (0.5, 0, 0.2, 1)}, "--head is left, top, right, bottom"),
        ({"learning_rate": float("nan")}, "--learning-rate must be positive"),
        ({"distributed": True}, "--distributed needs --out"),
        ({"ema_decay": 1.0}, r"--ema-decay must lie in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **options)


def test_an_animation_is_as_fast_as_its_video(tmp_path):
    clip = tmp_path / "clip.webp"
    video.write_video(clip, data.draw_clip(6, 32), frames_per_second=20)
    config = dataclasses.replace(SMOKE, source=str(clip), every=2)
    assert data.frame_rate(config) == 10
    assert data.frame_rate(dataclasses.replace(config, every=1)) == 20
    assert data.frame_rate(dataclasses.replace(config, frames_per_second=7.0)) == 7
    assert data.frame_rate(SMOKE) == 10


def test_clips_that_do_not_fit_are_refused(tmp_path):
    message = "12 frames of drawn: fewer than the 13 that are needed to hold out 11 and train"
    with pytest.raises(ValueError, match=message):
        data.read_pair(dataclasses.replace(SMOKE, held_out=11))
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    given = dataclasses.replace(SMOKE, target=str(tmp_path / "a.png"), target_crop=(10, 10, 50, 20))
    with pytest.raises(ValueError, match="--target-crop .* which is 40 x 30 pixels"):
        data.read_pair(given)


def test_some_frames_of_a_long_clip_are_taken(tmp_path):
    frames = data.draw_clip(20, 32)
    video.write_video(tmp_path / "a.webp", frames, frames_per_second=10, quality=100)
    (tmp_path / "folder").mkdir()
    for number, frame in enumerate(frames):
        images.write_image(tmp_path / f"folder/{number:02}.png", frame)
    for source in ("a.webp", "folder"):
        given = dataclasses.replace(SMOKE, source=str(tmp_path / source), start=3, stop=18, every=2)
        training, held_out, _ = data.read_pair(given)
        off = np.abs([*training, *held_out] - frames[3:18:2]).mean((1, 2, 3))
        assert off.max() < 0.03 < np.abs(frames[1:] - frames[:-1]).mean((1, 2, 3)).min()
    drawn = dataclasses.replace(SMOKE, every=2)
    np.testing.assert_array_equal(
        np.concatenate(data.read_pair(drawn)[:2]), data.draw_clip(12, SMOKE.size)[::2]
    )


def test_a_users_own_clip_moves_a_painting_of_the_set(tmp_path, monkeypatch):
    frames = data.draw_clip(6, 40)
    (tmp_path / "clip/scene2").mkdir(parents=True)
    for number, frame in enumerate(frames):
        images.write_image(tmp_path / f"clip/scene2/{number}.png", frame)
    rows, columns = np.mgrid[:50, :30]
    pixels = np.stack([4 * rows, 8 * columns, 255 - 4 * rows], axis=-1).astype(np.uint8)
    paintings = [{"id": "Other", "image": 0 * pixels}, {"id": "Lemur", "image": pixels}]
    original = data.datasets.open_source
    known = lambda name, **options: paintings if name == "paintings" else original(name, **options)
    monkeypatch.setattr(data.datasets, "open_source", known)
    given = dataclasses.replace(
        SMOKE,
        source=str(tmp_path / "clip"),
        split="scene2",
        source_crop=(0, 8, 32, 40),
        target="Lemur",
        held_out=3,
    )
    training, held_out, target = data.read_pair(given)
    np.testing.assert_allclose(training, frames[:3, 8:40, :32], atol=0.003)
    np.testing.assert_allclose(held_out, frames[3:, 8:40, :32], atol=0.003)
    middle = pixels[10:40] / 255  # a square of the width, where no crop is given
    np.testing.assert_allclose(target[::31, ::31], middle[::29, ::29], atol=0.03)
    with pytest.raises(ValueError, match=r"grace_hopper\) nor a painting; those are: Other, Lemur"):
        data.read_pair(dataclasses.replace(given, target="Nobody"))


def test_the_built_in_clip_and_painting_are_cut_and_others_are_not():
    first, others = VARIANTS["default"], {"source": "a.mp4", "target": "b.png"}
    assert first.crops == ((34, 2, 144, 112), (70, 10, 270, 210))
    assert set(first.boxes) == {"head", "brow", "mouth"}
    own = dataclasses.replace(first, **others)
    assert (own.crops, own.boxes) == ((None, None), {})
    mouth = dataclasses.replace(own, mouth=(0.2, 0.5, 0.6, 0.9), source_crop=(0, 0, 9, 9))
    assert (mouth.crops[0], mouth.boxes) == ((0, 0, 9, 9), {"mouth": (0.2, 0.5, 0.6, 0.9)})
    assert dataclasses.replace(first, source_crop=(0, 0, 99, 99)).boxes == {}


def test_a_portrait_of_an_installed_package_is_the_target():
    given = dataclasses.replace(SMOKE, target="grace_hopper")
    _, _, target = data.read_pair(given)
    head_and_shoulders = portrait(None, None, "grace_hopper")
    wanted = images.resize_to(head_and_shoulders, (SMOKE.size, SMOKE.size))
    np.testing.assert_array_equal(target, wanted)
    _, _, part = data.read_pair(dataclasses.replace(given, target_crop=(100, 50, 300, 250)))
    assert np.abs(part - target).mean() > 0.05


# --- Motion that is known ---


@pytest.fixture(scope="module")
def face():
    return data.draw_clip(8, 48)


def test_motion_is_carried_by_another_look_and_not_by_noise(face):
    field = motion.flow(face)
    boxes = {"head": (0.2, 0.1, 0.9, 0.9), "mouth": (0.4, 0.55, 0.8, 0.8)}
    painted = 1 - face**1.5 * np.float32([0.3, 0.9, 0.6])
    same = motion.motion_carried(field, motion.flow(painted), boxes)
    assert same["whole"] > 0.8
    assert same["head"] > 0.9
    assert same["mouth"] > 0.4
    noise = np.random.default_rng(0).normal(0, 0.05, face.shape).astype(np.float32)
    still = motion.motion_carried(field, motion.flow(face[:1] + noise), boxes)
    assert max(abs(still["whole"]), abs(still["mouth"])) < 0.2
    backwards = motion.motion_carried(field, -field, boxes)
    assert max(backwards.values()) < -0.99
    assert np.isnan(motion.motion_carried(0 * field, field)["whole"])


def test_flow_is_that_of_a_shift():
    rng = np.random.default_rng(1)
    noise = gaussian(rng.normal(size=(48, 48)), 2, mode="wrap")
    texture = (noise - noise.min()) / np.ptp(noise)
    frames = np.stack([np.roll(texture, (i, -2 * i), (0, 1)) for i in range(3)])
    found = motion.flow(np.repeat(frames[..., None], 3, axis=-1))
    inside = found[:, :, 8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inside, axis=(0, 2, 3)), (1, -2), atol=0.2)


def test_a_box_follows_what_is_in_it():
    field = np.zeros((3, 2, 20, 20))
    field[:, 0], field[:, 1] = 2, -1
    boxes = motion.track(field, (0.5, 0.1, 0.8, 0.4))
    assert [(y.start, x.start) for y, x in boxes] == [(2, 10), (4, 9), (6, 8)]
    assert all(y.stop - y.start == 6 and x.stop - x.start == 6 for y, x in boxes)


@pytest.fixture(scope="module")
def cat():
    return photograph("chelsea", shortest_side=96)[:, :96]


def test_landmarks_follow_the_clip(cat):
    shifts = np.arange(4)
    clip = np.stack([np.roll(cat, shift, axis=(0, 1)) for shift in shifts])
    places = shapes.follow([(50, 40), (60, 70), (99, 99)], motion.flow(clip))
    per_cent = 100 * shifts / len(cat)
    np.testing.assert_allclose(places[:, 0, 0], 50 + per_cent, atol=0.6)
    np.testing.assert_allclose(places[:, 1, 1], 70 + per_cent, atol=0.6)
    assert places.max() < 100


def test_shapes_that_stay_have_moved_no_part_of_the_way_and_shifted_ones_a_known_part(cat):
    clip = np.stack([cat, cat])
    assert shapes.measure(clip, clip).share == pytest.approx(0, abs=1e-3)
    darker = 0.1 + 0.7 * clip[..., ::-1] ** 1.5
    assert shapes.measure(clip, darker).share == pytest.approx(0, abs=0.03)
    down, across = 2, 4
    shifted = shapes.measure(clip, np.roll(darker, (down, across), axis=(1, 2)))
    ways = 100 * np.array([across, down]) / len(cat)
    wanted = np.subtract(shapes.TARGET_LANDMARKS, shapes.LANDMARKS)
    expected = (ways * wanted).sum() / np.square(wanted).sum()
    assert shifted.share == pytest.approx(expected, abs=0.05)
    assert shifted.share > 0.1


def test_shapes_are_known_of_finished_runs_of_the_first_command(resumed, tmp_path, monkeypatch):
    run, _, _ = resumed
    with pytest.raises(ValueError, match="has --source drawn, not carphone"):
        shapes.run(shapes.ShapesConfig(runs=(run,)))
    monkeypatch.setitem(shapes.VARIANTS, "default", VARIANTS["smoke"])
    printed = shapes.run(shapes.ShapesConfig(runs=(run,)))
    assert printed.splitlines()[0] == "|  | share | shape share | moved | wanted |"
    assert printed.splitlines()[2].startswith(f"| {run.name} | ")
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(ValueError, match="has no result.webp: the run has not ended"):
        shapes.run(shapes.ShapesConfig(runs=(tmp_path,)))
    with pytest.raises(ValueError, match="at least one run"):
        shapes.run(shapes.ShapesConfig(runs=()))


def test_flicker_is_what_motion_does_not_explain(face):
    field = motion.flow(face)
    own = motion.flicker(face, face, field)
    gain = np.random.default_rng(0).uniform(0.9, 1.1, (len(face), 1, 1, 1))
    flickering = motion.flicker((face * gain).astype(np.float32), face, field)
    assert own < 0.01 < 0.02 < flickering


def test_look_tells_the_target_from_another(face):
    features = generators.make_features(SMOKE, ("conv1_2", "conv2_1"))
    target = 1 - face[0]
    look = evaluation.make_look(features, target)
    near, far = look(1 - face[1:3]), look(face[1:3])
    assert near["contextual"] < far["contextual"]
    assert near["gram"] < 0.1 * far["gram"]


def test_networks_in_half_precision_give_nearly_the_same_loss_in_float32():
    pair = data.read_pair(SMALL)
    batch = {"image": pair.frames[:2]}
    found = {}
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(SMALL, precision=precision)
        model = generators.make_model(config)
        features = generators.make_features(config, ("conv1_2", "conv2_1"))
        loss_fn = make_loss(config, Networks(model, features, {}), pair)
        params = jax.jit(model.init)(jax.random.key(0), pair.frames[0])
        found[precision], _ = jax.jit(loss_fn)(params, batch, jax.random.key(1))
        assert found[precision].dtype == jnp.float32
    assert 0 < abs(found["float32"] - found["bfloat16"]) < 0.02 * found["float32"]
