"""Puppet control end to end on drawn clips: pairs, losses, training, scores, the table."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cxjax
from cxjax.data import images, pipeline, video
from experiments.common import apply as application
from experiments.common import cli, generators, sweeps
from experiments.common.training import Networks
from experiments.puppet_control import data, evaluation, grids, objective
from experiments.puppet_control.__main__ import EXPERIMENT
from experiments.puppet_control.config import CHOSEN, CHOSEN_ALIGNED, LOSSES, VARIANTS, Config
from tests.experiments import kept

SMOKE = VARIANTS["smoke"]
TRAINED = [loss for loss in LOSSES if loss != "identity"]


@pytest.fixture(scope="module")
def drawn():
    return data.read_clips(SMOKE)


# --- Data ---


def test_held_out_actions_are_trained_on_only_for_the_table():
    validation = data.read_clips(SMOKE)
    test = data.read_clips(dataclasses.replace(SMOKE, held_out="test"))
    actions = [[[clip.action for clip in part] for part in parts] for parts in (validation, test)]
    assert actions == [[["0", "2"], ["1"]], [["0", "1", "2"], ["3"]]]


def _emoji(split):
    """Frames as `fluent_animations` has them, shuffled; a woman's clip is a frame longer."""
    actions = {"train": ("1f646", "1f64e", "1f6b6"), "test": ("1f937",)}.get(split)
    found = []
    for action in actions or ():
        for character, level in (("man", 100), ("woman", 200)):
            for frame in range(3 + (character == "woman")):
                pixels = np.full((256, 256, 3), level + 10 * frame, np.uint8)
                about = {"action": action, "character": character, "frame": frame}
                found.append({"image": pixels, **about})
    for cat, smiley in data._FEELINGS.items():
        for frame in range(5 if split == "cats" else 9):
            pixels = np.full((256, 256, 3), 10 * frame, np.uint8)
            if split == "cats":
                about = {"action": cat, "character": "cat", "frame": frame}
            else:
                about = {"action": smiley, "character": "smiley", "frame": frame}
            if split in ("cats", "smileys"):
                found.append({"image": pixels, **about})
    found += [{"image": found[0]["image"], "action": "1f600", "character": "smiley", "frame": 0}]
    np.random.default_rng(0).shuffle(found)
    return [e for e in found if split == "smileys" or e["action"] != "1f600"]


def test_people_and_cats_are_paired_by_what_they_do(monkeypatch):
    monkeypatch.setattr(data.datasets, "open_source", lambda name, split: _emoji(split))
    people = dataclasses.replace(SMOKE, pair="man-woman")
    training, held_out = data.read_clips(people)
    assert [clip.action for clip in training] == ["1f6b6"]
    assert [clip.action for clip in held_out] == ["1f646", "1f64e"]
    assert training[0].driver.shape == training[0].puppet.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(training[0].driver[:, 0, 0, 0], [100, 110, 120])
    np.testing.assert_array_equal(training[0].puppet[:, 0, 0, 0], [200, 210, 220])
    training, held_out = data.read_clips(dataclasses.replace(people, held_out="test"))
    assert (len(training), [clip.action for clip in held_out]) == (3, ["1f937"])
    cats = dataclasses.replace(people, pair="smiley-cat", held_out="test")
    training, held_out = data.read_clips(cats)
    assert [clip.action for clip in training] == ["1f639", "1f63b", "1f63f", "1f640"]
    assert [clip.action for clip in held_out] == ["1f63a"]
    (cat,) = held_out
    assert (len(cat.driver), len(cat.puppet)) == (9, 5)
    assert [cat.matching(frame) for frame in (0, 4, 8)] == [0, 2, 4]


def _own(folder, frames):
    """Writes clips of one's own: a video's, as an animated picture, or a folder of frames."""
    for name, shades in frames.items():
        pictures = np.ones((len(shades), 40, 52, 3), np.float32)
        pictures[:, :, 6:46] = np.array(shades)[:, None, None, None] / 255  # the middle square
        path = folder / name
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            video.write_video(path, pictures, frames_per_second=5, quality=100)
        else:
            for number, picture in enumerate(pictures):
                images.write_image(path / f"{number:03}.png", picture)


def test_videos_and_folders_of_ones_own_are_clips(tmp_path):
    mine = tmp_path / "mine"
    config = {"pair": str(mine), "size": 32}
    with pytest.raises(ValueError, match="and a folder that holds driver and puppet"):
        dataclasses.replace(SMOKE, **config)
    _own(mine, {"driver/nod.webp": (10, 20, 30, 40), "driver/wave": (50, 70, 90)})
    config = dataclasses.replace(SMOKE, **config)
    with pytest.raises(ValueError, match="has no folder puppet"):
        data.read_clips(config)
    _own(mine, {"puppet/nod.webp": (110, 120, 130, 140)})
    with pytest.raises(ValueError, match="has wave of one character alone"):
        data.read_clips(config)
    _own(mine, {"puppet/wave.webp": (150, 160, 170, 180, 190)})
    (mine / "puppet" / ".hidden").touch()
    (nod,), (wave,) = data.read_clips(config)
    assert (nod.action, wave.action) == ("nod", "wave")
    assert data.read_clips(dataclasses.replace(config, held_out="test"))[1][0].action == "wave"
    shades = [clip[:, 16, 16, 0] for clip in (nod.driver, nod.puppet, wave.driver, wave.puppet)]
    for found, wanted in zip(shades, ((10, 40), (110, 140), (50, 90), (150, 190)), strict=True):
        np.testing.assert_allclose(found[[0, -1]], wanted, atol=2)
    assert nod.driver.shape == (4, 32, 32, 3)
    assert nod.driver.max() < 60  # no white: the middle square was cut
    run = dataclasses.replace(config, loss="identity", out=tmp_path / "run")
    assert EXPERIMENT.run(run)["whole"]["psnr"] < 12
    rows = images.read_image(tmp_path / "run" / "strip.png")
    found = {round(255 * float(v)) for v in rows[-16, ::32, 0]}
    near = {value + off for value in found for off in (-1, 0, 1)}
    assert near >= {150, 170, 190}  # every other frame of the puppet's is the true one
    _own(mine, {"puppet/wave": (1, 2)})
    with pytest.raises(ValueError, match="has two clips of one name"):
        data.read_clips(config)
    _own(tmp_path / "one", {"driver/nod": (1, 2, 3), "puppet/nod": (1, 2, 3)})
    with pytest.raises(ValueError, match="needs at least two actions"):
        data.read_clips(dataclasses.replace(config, pair=str(tmp_path / "one")))


def test_a_puppet_is_moved_by_its_shift_and_its_field():
    picture = np.random.default_rng(0).uniform(size=(12, 10, 3)).astype(np.float32)
    still = np.zeros((2, 4, 4))
    np.testing.assert_array_equal(data.displace(picture, np.zeros(2), still), picture)
    moved = data.displace(picture, np.array([3.0, -2.0]), still)
    np.testing.assert_allclose(moved[3:, :-2], picture[:-3, 2:], atol=1e-6)
    assert (moved[:3] == 1).all()
    assert (moved[:, -2:] == 1).all()
    constant = np.broadcast_to(np.array([3.0, -2.0])[:, None, None], (2, 4, 4))
    np.testing.assert_allclose(data.displace(picture, np.zeros(2), constant), moved, atol=1e-5)
    field = np.zeros((2, 4, 4))
    field[:, 0, 0] = 2.0
    bent = data.displace(picture, np.zeros(2), field)
    assert np.abs(bent - picture)[:3, :3].max() > 0.05
    np.testing.assert_allclose(bent[7:, 6:], picture[7:, 6:], atol=0.1)


def _pairs(training, count, **options):
    """Of `count` pairs: the true frames by the driver's place, and driver's place and puppet."""
    config = dataclasses.replace(SMOKE, **{"shift": 0, "jitter": 0, "warp": 0.0, **options})
    stream = pipeline.batches(
        data.Frames(training),
        batch_size=12,
        seed=0,
        transform=data.loosely_paired(training, config),
    )
    drivers = {
        clip.driver[f].tobytes(): (number, f)
        for number, clip in enumerate(training)
        for f in range(len(clip.driver))
    }
    pairs = []
    while len(pairs) < count:
        batch = next(stream)
        assert set(batch) == {"driver", "puppet", "index"}
        for driver, puppet in zip(batch["driver"], batch["puppet"], strict=True):
            pairs.append((drivers[(driver * 255).round().astype(np.uint8).tobytes()], puppet))
    return pairs


def test_aligned_pairs_are_the_true_frames(drawn):
    training, _ = drawn
    for (clip, frame), puppet in _pairs(training, 24):
        np.testing.assert_array_equal(puppet, training[clip].puppet[frame] / np.float32(255))


def test_jitter_takes_every_frame_that_is_near_enough_and_no_other(drawn):
    training, _ = drawn
    met = set()
    for (clip, frame), puppet in _pairs(training, 240, jitter=2):
        frames = training[clip].puppet / np.float32(255)
        (late,) = {
            number - frame
            for number in range(len(frames))
            if abs(number - frame) <= 2 and np.array_equal(frames[number], puppet)
        }
        met.add((late, min(frame, 2), min(len(frames) - 1 - frame, 2)))
    inside = {late for late, before, after in met if before == after == 2}
    assert inside == {-2, -1, 0, 1, 2}
    assert {late for late, before, _ in met if before == 0} == {0, 1, 2}


def test_shifts_go_as_far_as_they_may_and_no_further(drawn):
    dot = np.full((1, 32, 32, 3), 255, np.uint8)
    dot[:, 16, 16] = 0
    dots = [dataclasses.replace(clip, puppet=np.repeat(dot, 6, 0)) for clip in drawn.training]
    met = set()
    for _, puppet in _pairs(dots, 120, shift=2):
        ((y, x),) = np.argwhere(puppet.max(axis=-1) == 0)
        assert (puppet == 1).all(axis=-1).sum() == puppet[..., 0].size - 1
        met.add((y - 16, x - 16))
    assert {y for y, _ in met} == {x for _, x in met} == {-2, -1, 0, 1, 2}


def test_a_warp_bends_by_what_it_is_said_to(drawn):
    training, _ = drawn
    pairs = _pairs(training, 24, warp=2.0)
    true = np.stack([training[c].puppet[f] / np.float32(255) for (c, f), _ in pairs])
    made = np.stack([puppet for _, puppet in pairs])
    changed = np.abs(made - true).mean(axis=(1, 2, 3))
    assert (changed > 0.002).all()
    assert changed.mean() < 0.1


# --- Losses ---


@pytest.fixture(scope="module")
def batch(drawn):
    training, _ = drawn
    driver, puppet = (
        np.stack([clip.driver[0] for clip in training]),
        np.stack([clip.puppet[2] for clip in training]),
    )
    return {"driver": driver / np.float32(255), "puppet": puppet / np.float32(255)}


class Shift:
    """A generator of one parameter per colour: what it makes is known."""

    @staticmethod
    def apply(params, images):
        return jnp.clip(images + params.reshape(1, 1, 1, 3), 0, 1)


def _loss(loss, batch, drawn):
    config = dataclasses.replace(SMOKE, loss=loss)
    layers = objective.layers_of(config)
    features = generators.make_features(config, layers) if layers else None
    others = {name: network for name, (network, _) in objective.other_networks(config).items()}
    made = objective.make_loss(config, Networks(Shift, features, others), drawn)
    shift = jnp.array([-0.2, 0.1, 0.0])
    params = {"generator": shift, "discriminator": _judge(config)} if loss == "pix2pix" else shift
    value, terms = jax.jit(made)(params, batch, jax.random.key(0))
    return config, float(value), {name: float(term) for name, term in terms.items()}


def _judge(config):
    model, _ = objective.other_networks(config)["discriminator"]
    return jax.jit(model.init)(jax.random.key(1), jnp.zeros((32, 32, 6)))


def _points(maps):
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def test_every_loss_is_the_sum_that_it_is_named_after(batch, drawn):
    made = np.clip(batch["driver"] + np.float32([-0.2, 0.1, 0.0]), 0, 1)
    features = jax.jit(generators.make_features(SMOKE, ("conv1_2", "conv2_1", "conv2_2")))
    x, y = features(made), features(batch["puppet"])
    contextual = sum(
        np.mean(
            [
                cxjax.contextual_loss(a, b, bandwidth=0.5)
                for a, b in zip(_points(x[layer]), _points(y[layer]), strict=True)
            ]
        )
        for layer in ("conv1_2", "conv2_1")
    )
    perceptual = {
        layer: np.mean(
            [
                np.abs(a - b).sum() / np.abs(b).sum()
                for a, b in zip(*(np.asarray(f[layer]) for f in (x, y)), strict=True)
            ]
        )
        for layer in x
    }
    gram = 0.0
    for layer in ("conv1_2", "conv2_1"):
        grams = [
            np.einsum("bnc,bnd->bcd", *[np.asarray(_points(f[layer]), np.float64)] * 2)
            for f in (x, y)
        ]
        gram += np.mean(
            ((grams[0] - grams[1]) ** 2).sum(axis=(1, 2)) / (grams[1] ** 2).sum(axis=(1, 2))
        )
    l1 = np.abs(made - batch["puppet"]).mean()
    both = perceptual["conv1_2"] + perceptual["conv2_1"]
    expected = {
        "cx": contextual,
        "cx_perceptual": contextual + 0.1 * perceptual["conv2_2"],
        "l1": l1,
        "l1_perceptual": l1 + 0.1 * both,
        "perceptual": both,
        "gram": gram,
    }
    for loss, value in expected.items():
        np.testing.assert_allclose(_loss(loss, batch, drawn)[1], value, rtol=1e-4)
    config, value, terms = _loss("pix2pix", batch, drawn)
    judge, params = objective.other_networks(config)["discriminator"][0].apply, _judge(config)
    pair = lambda image: np.concatenate([batch["driver"], image], axis=-1)
    real, fake = judge(params, pair(batch["puppet"])), judge(params, pair(made))
    np.testing.assert_allclose(terms["l1"], l1, rtol=1e-4)
    np.testing.assert_allclose(terms["adversarial"], np.mean((fake - 1) ** 2), rtol=1e-4)
    mistakes = (np.mean((real - 1) ** 2) + np.mean(np.square(fake))) / 2
    np.testing.assert_allclose(terms["discriminator"], mistakes, rtol=1e-4)
    total = 100 * terms["l1"] + terms["adversarial"] + terms["discriminator"]
    np.testing.assert_allclose(value, total, rtol=1e-5)


# --- Runs ---


def main(*arguments):
    return cli.main(EXPERIMENT, ["--variant", "smoke", *arguments])


@pytest.mark.parametrize("loss", ["pix2pix", "identity"])
def test_a_run_ends_with_scores_and_pictures(tmp_path, capsys, loss):
    out = tmp_path / "run"
    assert main("--loss", loss, "--out", str(out)) == 0
    scores = json.loads((out / "results.json").read_text())
    assert scores["whole"].keys() == scores["region"].keys() == {"psnr", "ssim", "lpips"}
    assert 0.02 < scores["share"] < 0.5
    assert "| LPIPS |" in capsys.readouterr().out
    strip = np.asarray(Image.open(out / "strip.png"))
    rows = strip.reshape(3, SMOKE.size, -1, 3)
    assert (np.abs(rows[0] * 1.0 - rows[1]).mean() < 1) == (loss == "identity")
    if loss == "pix2pix":  # a checkpoint of two networks
        Image.fromarray(rows[0][:, : SMOKE.size]).save(tmp_path / "driver.png")
        application.apply(
            application.ApplyConfig(
                run=out, input=tmp_path / "driver.png", output=tmp_path / "made.png"
            ),
            Config,
        )
        made = np.asarray(Image.open(tmp_path / "made.png"))
        assert np.abs(made * 1.0 - rows[1][:, : SMOKE.size]).mean() < 1.5


def test_scores_are_of_the_true_frames_and_of_where_they_differ(drawn):
    _, held_out = drawn
    (clip,) = held_out
    driver, truth = clip.driver / np.float32(255), clip.puppet / np.float32(255)
    perfect = evaluation.score(driver, truth, truth)
    assert perfect["whole"]["ssim"] == pytest.approx(1)
    assert perfect["region"]["lpips"] == pytest.approx(0, abs=1e-6)
    own = evaluation.score(driver, driver, truth)
    assert own["whole"]["psnr"] > own["region"]["psnr"] + 3  # the same outside of it
    assert own["whole"]["lpips"] > 0.005
    where = evaluation.region(driver, truth)
    rows, columns = np.nonzero((clip.driver[0] != clip.puppet[0]).any(axis=-1))
    assert where[0, rows, columns].all()
    assert where[0, rows.min() - 2, columns[0]]
    assert not where[0, rows.min() - 3].any()


def test_scores_without_true_frames_compare_with_all_of_the_action(drawn):
    few = [
        data.Clip(action=clip.action, driver=clip.driver[::2], puppet=clip.puppet[::2])
        for clip in drawn.training
    ]
    truth = np.concatenate([clip.puppet for clip in few]) / np.float32(255)
    drivers = np.concatenate([clip.driver for clip in few]) / np.float32(255)
    shuffled = np.concatenate([truth[:3][::-1], truth[3:][[1, 2, 0]]])
    perfect = evaluation.score_by_sets(shuffled, few)
    assert perfect["nearest"] == pytest.approx(0, abs=1e-6)
    own = evaluation.score_by_sets(drivers, few)
    assert own["nearest"] > 0.005
    assert own["kid"] > perfect["kid"]


# --- The table ---


def test_the_grids_make_what_is_missing_and_show_what_is_there(tmp_path, capsys):
    asked = []

    def run(config):
        asked.append(config)
        scores = {"psnr": 20.0 + config.seed, "ssim": 0.5, "lpips": config.shift / 100}
        metrics = {"whole": scores, "region": scores, "seconds": 60.0, "share": 0.1}
        return metrics | {"nearest": 0.25, "kid": 1.5}

    def make(grid, *options):
        arguments = [grid, "--no-evidence", "--out", str(tmp_path), *options]
        assert cli.main(EXPERIMENT._replace(run=run), arguments) == 0
        return capsys.readouterr().out

    said = make("table")
    assert "| CX | 21.00 ± 1.00 | 0.500 ± 0.000 | 0.060 ± 0.000 |" in said
    assert "| identity: the driver's own frame | 20.00 | 0.500 | 0.060 |" in said
    assert "| LPIPS, L1 | 0.000 | 0.020 | 0.040 | 0.080 |" in said
    assert "| Gram | 0.250 | 1.500 |" in said
    assert (tmp_path / "table/shift.webp").is_file()
    count = len(asked)
    assert all(config.held_out == "test" for config in asked)
    again = make("table")
    assert len(asked) == count
    assert said.endswith(again)
    assert again.startswith("\n| loss |")
    make("tune")
    tried = asked[count:]
    assert len(tried) == len(sweeps.RATES) * (len(TRAINED) + 2)
    assert all(config.held_out == "validation" for config in tried)
    of = {(config.loss, config.jitter) for config in tried if config.shift == 0}
    assert of == {("cx", 0), ("l1", 0)}
    assert {config.steps for config in tried} == {VARIANTS["default"].steps // 2}
    arguments = ["table", "--no-evidence", "--no-missing", "--out", str(tmp_path / "new")]
    assert cli.main(EXPERIMENT._replace(run=run), arguments) == 2
    assert "none of the" in capsys.readouterr().err
    assert asked[count:] == tried


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("conv9_1",)}, "vgg16 has no layer 'conv9_1'"),
        ({"layers": ()}, "--layers needs at least one layer"),
        ({"loss": "l3"}, "unknown --loss 'l3'; known: 'cx', 'cx_perceptual'"),
        ({"held_out": "tset"}, "unknown --held-out 'tset'"),
        ({"size": 24}, "--size must be at least 31; got 24"),
        ({"shift": -1}, "--shift must be at least 0; got -1"),
        ({"shift": 32}, "--shift 32 is no less than the --size 32"),
        ({"warp": float("nan")}, "--warp must be at least 0"),
        ({"bandwidth": 0.0}, "--bandwidth must be positive"),
        ({"beta1": 1.0}, r"--beta1 must lie in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **options)


def test_a_batch_of_more_than_all_frames_is_refused():
    with pytest.raises(ValueError, match="--batch-size 13 is more than the 12 frames"):
        data.read_clips(dataclasses.replace(SMOKE, batch_size=13))


def test_a_plain_command_has_the_rate_of_its_loss():
    pix2pix = dataclasses.replace(VARIANTS["default"], loss="pix2pix")
    assert pix2pix.adam == (CHOSEN["pix2pix"], 0.5)
    assert VARIANTS["default"].adam == (CHOSEN["cx"], 0.9)
    assert dataclasses.replace(pix2pix, learning_rate=0.2, beta1=0.1).adam == (0.2, 0.1)
    assert VARIANTS["paper"].adam == (1e-4, 0.9)


def test_the_rates_are_those_that_the_sweep_found_best():
    kept_sweeps = kept.read(EXPERIMENT, "tune")
    kept.check_rates(grids.sweep_of(kept_sweeps, "loose"), CHOSEN)
    kept.check_rates(grids.sweep_of(kept_sweeps, "aligned"), CHOSEN_ALIGNED)


def test_the_readme_shows_what_is_kept():
    rows = (2 + 8) + (2 + 8) + (2 + 2 * 5) + (2 + 2) + (2 + 7) + (2 + 2)
    assert kept.check_readme(EXPERIMENT) == rows
