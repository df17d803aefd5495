"""Style transfer on real features: what it writes, what it refuses, and that it can be stopped."""

import dataclasses
import itertools
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
import scipy.ndimage
from PIL import Image

from cxjax.data import images
from experiments.common import cli, optimization, pyramid
from experiments.style_transfer import data, masks, objective, stylize
from experiments.style_transfer.__main__ import EXPERIMENT
from experiments.style_transfer.config import VARIANTS

ROOT = Path(__file__).parents[2]
SMOKE = VARIANTS["smoke"]
# Half of what the smoke variant's layers take to compile: the interrupted process has those.
SHALLOW = {"style_layers": ("conv2_1", "conv3_1"), "content_layers": ("conv3_1",)}


def settings(**changes):
    return dataclasses.replace(SMOKE, **{**SHALLOW, **changes})


@pytest.fixture
def pair(tmp_path):
    """Two pictures of different sizes, neither square, one with transparency, one grey."""
    content, target = tmp_path / "content.png", tmp_path / "target.webp"
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 4), np.uint8)
    Image.fromarray(noise, "RGBA").resize((180, 120)).save(content)
    Image.fromarray(noise[:, :50, 0]).resize((100, 140)).save(target)
    return content, target


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run of the built-in pair: its folder's parent, and its results."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, stylize.run(settings())


def test_smoke_writes_everything_and_the_loss_falls(smoke):
    folder, results = smoke
    folder = folder / "out/style_transfer/astronaut-grace_hopper-contextual"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "results.json", "result.png", "strip.png"),
        *("step00002.png", "step00004.png"),
    }
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5]
    assert metrics[1]["loss"] < metrics[0]["loss"]
    assert metrics[4]["loss"] < metrics[2]["loss"]
    assert json.loads((folder / "config.json").read_text())["size"] == 48
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["last_step"] == metrics[4]
    assert results["interrupted"] is False
    content = data.read(SMOKE).content
    result = images.read_image(folder / "result.png")
    assert result.shape == (48, 48, 3)
    assert np.abs(result - images.resize(content, longest_side=48)).mean() > 0.01
    assert images.read_image(folder / "strip.png").shape == (48, 3 * 48 + 2 * 4, 3)


def test_other_pictures_of_a_size_and_what_shapes_no_program_compile_nothing(smoke, tmp_path):
    """Whatever the cache of compiled programs holds: none is asked for."""
    asked_for = []
    event = "/jax/core/compile/backend_compile_duration"
    heard = lambda name, seconds, **_: asked_for.append(name) if name == event else None
    jax.monitoring.register_event_duration_secs_listener(heard)
    paths = [tmp_path / "content.png", tmp_path / "target.png"]
    for picture, path in zip(data.read(SMOKE)[:2], paths, strict=True):
        images.write_image(path, 1 - picture)
    other = settings(
        content=paths[0],
        target=paths[1],
        out=tmp_path / "out",
        seed=7,
        steps=(3, 4),
        save_every=1,
        coarse_content_weight=2.0,
    )
    results = stylize.run(other)
    assert results["last_step"]["step"] == 7
    assert asked_for == []
    wider = {"style_bandwidth": 0.3, "scales": (1.0,), "steps": (1,), "out": tmp_path / "wider"}
    stylize.run(dataclasses.replace(other, **wider))
    assert asked_for == [event]  # the measure sees what it should see: another step


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "gram"},
        {"loss": "perceptual"},
        {"loss": "gram", "content_loss": "squared"},
        {"position_weight": 0.5},
        {"loss": "relaxed_earth_mover", "max_points": 40, "moment_weight": 1.0},
        {"layers": "concatenated", "grid": "conv3_1", "direction": "symmetric"},
        {"pyramid_levels": 1, "optimizer": "adam"},
    ],
    ids=str,
)
def test_every_loss_runs_on_a_users_own_pictures(tmp_path, pair, changes):
    # From noise: at the content itself the baselines' absolute differences have a kink.
    places = {"content": pair[0], "target": pair[1], "out": tmp_path / "out", "initial": "noise"}
    stylize.run(settings(scales=(1.0,), steps=(4,), **places, **changes))
    assert images.read_image(tmp_path / "out/result.png").shape == (32, 48, 3)
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "out/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert losses[-1] < losses[0]


def test_strotss_runs_with_all_its_terms(tmp_path, pair):
    places = {"content": pair[0], "target": pair[1], "out": tmp_path / "out"}
    small = {"size": 48, "steps": (3,), "scales": (1.0,), "max_points": 64}
    layers = ("conv1_1", "conv2_1")
    config = dataclasses.replace(
        VARIANTS["strotss"], style_layers=layers, content_layers=layers, **small, **places
    )
    results = stylize.run(config)
    assert results["last_step"]["step"] == 3
    assert {"style", "content", "moments", "palette"} <= set(results["last_step"])
    assert images.read_image(tmp_path / "out/result.png").shape == (32, 48, 3)


def test_lbfgs_finds_its_own_steps(tmp_path):
    # One layer: the program holds the loss several times over.
    shallow = {"style_layers": ("conv1_1",), "content_layers": ("conv1_1",), "moment_weight": 0.0}
    config = settings(optimizer="lbfgs", scales=(1.0,), steps=(4,), max_points=100, **shallow)
    stylize.run(dataclasses.replace(config, out=tmp_path / "out"))
    lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_interrupting_keeps_the_best_picture(tmp_path):
    out = tmp_path / "out"
    # As `python -m`, with the signal heard even where the tests run in the background of a shell.
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "runpy.run_module('experiments.style_transfer', run_name='__main__')"
    options = "--variant smoke --scales 1 --steps 100000 --out"
    command = [sys.executable, "-c", code, *options.split(), str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        try:
            deadline = time.monotonic() + 120
            while not (out / "step00004.png").exists():
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "keeping the best picture so far" in printed
    assert "Traceback" not in errors
    assert json.loads((out / "results.json").read_text())["interrupted"] is True
    assert images.read_image(out / "result.png").shape == (48, 48, 3)


@pytest.mark.parametrize("finished", [0, 1])
def test_what_is_kept_has_the_final_size(tmp_path, monkeypatch, capsys, finished):
    def interrupt(*args, **kwargs):
        yield from itertools.islice(original(*args, **kwargs), finished)
        raise KeyboardInterrupt

    original = stylize.coarse_to_fine
    monkeypatch.setattr(stylize, "coarse_to_fine", interrupt)
    results = stylize.run(settings(out=tmp_path / "out"))
    assert results["last_step"]["step"] == finished
    assert images.read_image(tmp_path / "out/result.png").shape == (48, 48, 3)
    printed = capsys.readouterr().out
    assert ("no step was finished" in printed) == (finished == 0)
    assert "nan" not in printed


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path, monkeypatch):
    class Broken(objective.Objective):
        def __call__(self, *references):
            loss, (image, terms) = super().__call__(*references)
            return loss * jnp.nan, (image, {**terms, "loss": loss * jnp.nan})

    monkeypatch.setattr(stylize, "Objective", Broken)
    config = settings(out=tmp_path / "out", scales=(1.0,), steps=(3,))
    with pytest.raises(FloatingPointError, match="became nan at step 1.*learning-rate"):
        stylize.run(config)


def falling(params, key, lucky):
    """The mean square of an image; one key alone lowers it by a draw that says nothing."""
    image = pyramid.merge(params.pieces)
    square = jnp.square(image).mean()
    same = (jax.random.key_data(key) == lucky).all()
    loss = square - jnp.where(same, 0.5, 0.0)
    return loss, (image, {"loss": loss, "square": square})


@pytest.mark.parametrize("drawn", [True, False])
def test_a_lucky_draw_does_not_win(drawn):
    lucky = jax.random.key_data(jax.random.fold_in(jax.random.key(3), 4))
    scale = optimization.Scale(
        steps=20,
        shape=(8, 8, 3),
        objective=falling,
        references=lambda: (lucky,),
        drawn=drawn,
    )
    start = np.full((8, 8, 3), 0.8, np.float32)
    options = {"levels": 1, "optimizer": "adam", "learning_rate": 0.02, "seed": 3, "quiet": True}
    kept, metrics = zip(*optimization.coarse_to_fine([scale], start, **options), strict=True)
    losses, squares = ([m[name] for m in metrics] for name in ("loss", "square"))
    assert np.argmin(losses) == 4  # the draw is lucky, the image no better
    assert squares == sorted(squares, reverse=True)
    of_kept = np.square(kept[-1]).mean()
    # With points that stay losses compare, and the lowest one is kept.
    np.testing.assert_allclose(of_kept, squares[-1] if drawn else squares[4], rtol=1e-5)


def test_where_no_points_are_drawn_the_lowest_loss_is_kept_to_the_bit():
    """Of a loss that rises again, for the steps are far too long."""
    never = jnp.zeros(2, jnp.uint32)
    scale = optimization.Scale(
        steps=12, shape=(8, 8, 3), objective=falling, references=lambda: (never,), drawn=False
    )
    start = np.full((8, 8, 3), 0.3, np.float32)
    options = {"levels": 1, "optimizer": "adam", "learning_rate": 0.3, "seed": 3, "quiet": True}
    kept, metrics = zip(*optimization.coarse_to_fine([scale], start, **options), strict=True)
    losses = [m["loss"] for m in metrics]
    assert min(losses) < losses[-1]
    assert jnp.square(kept[-1]).mean() == np.float32(min(losses))


SELF_SIMILAR = {"content_loss": "self_similarity"}


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, False),  # a layer has 64 points, the image 256
        ({"max_points": 50}, True),
        ({"max_points": 0}, False),
        ({"max_points": 50, "style_layers": ("conv2_1",), "layers": "concatenated"}, True),
        ({"max_points": 50, "loss": "gram"}, False),
        ({"max_points": 50, "loss": "gram", "content_loss": "contextual"}, True),
        ({"max_points": 100, "palette_weight": 1.0}, True),
        ({"max_points": 300, "palette_weight": 1.0}, False),
        ({"layers": "hypercolumns"}, True),
        (SELF_SIMILAR, True),
        ({**SELF_SIMILAR, "content_weight": 0.0}, False),
        ({**SELF_SIMILAR, "content_layers": ()}, False),
    ],
    ids=str,
)
def test_it_is_known_whether_points_are_drawn(key, monkeypatch, changes, drawn):
    config, calls = settings(**{"max_points": 256, "grid": "conv2_1", **changes}), []
    for name in ("choice", "uniform"):
        draw = getattr(jax.random, name)
        spy = lambda *given, draw=draw, **more: calls.append(given) or draw(*given, **more)
        monkeypatch.setattr(jax.random, name, spy)
    image = jnp.zeros((16, 16, 3))
    layers = objective.layers_of(config)
    picture = objective.Reference(image, Cells().apply(None, image, layers), None)
    given = (optimization.Parameters([image]), key, None, picture, picture, 1.0)
    jax.eval_shape(objective_of(config), *given)
    assert bool(calls) == drawn
    assert objective.draws_points(config, picture, picture) == drawn


# --- The pieces ---


@pytest.mark.parametrize(("shape", "levels"), [((48, 48, 3), 4), ((37, 61, 3), 6), ((5, 3, 3), 6)])
def test_a_pyramid_merges_back(key, shape, levels):
    image = jax.random.uniform(key, shape)
    pieces = pyramid.split(image, levels)
    assert len(pieces) <= levels
    assert len(pieces) == levels or min(pieces[-1].shape[:2]) < 4
    np.testing.assert_allclose(pyramid.merge(pieces), image, atol=1e-6)
    (whole,) = pyramid.split(image, 1)
    np.testing.assert_array_equal(whole, image)


def test_concatenation_resizes_and_divides_by_channels(key):
    config = settings(style_layers=("conv2_1", "conv3_1"), grid="conv2_1", layers="concatenated")
    features = {"conv2_1": jnp.full((8, 6, 4), 4.0), "conv3_1": jnp.full((4, 3, 10), 5.0)}
    (joined,) = objective_of(config)._sets(key, reference(features))
    assert joined.points.shape == (8 * 6, 14)
    np.testing.assert_allclose(joined.points[:, :4], 1.0)
    np.testing.assert_allclose(joined.points[:, 4:], 0.5)


def test_every_level_moves_by_the_learning_rate(key):
    pieces = pyramid.split(jax.random.uniform(key, (32, 32, 3)), 3)
    gradients = jax.tree.map(lambda a: jnp.sin(1e4 * a), pieces)
    optimizer = optimization.make_optimizer("novograd", 0.02, np.pi / 10)
    state = optimizer.init(pieces)
    for _ in range(40):  # the momentum has settled, and the schedule is at its end
        updates, state = optimizer.update(gradients, state, pieces)
    for update, gradient in zip(updates, gradients, strict=True):
        np.testing.assert_allclose(jnp.sqrt(jnp.square(update).mean()), 0.002, rtol=0.05)
        np.testing.assert_allclose(update / update.max(), gradient / gradient.min(), atol=1e-4)


def test_baselines_are_relative_to_the_target(key):
    target = {"conv2_1": jax.random.uniform(key, (4, 4, 8)) + 1}
    for loss in ("gram", "perceptual"):
        config = settings(loss=loss, style_layers=("conv2_1",))
        wanted = reference(target)

        def style(features, config=config, wanted=wanted):
            return objective_of(config).style(key, reference(features), wanted)[0]

        assert style(target) == 0
        np.testing.assert_allclose(style({"conv2_1": jnp.zeros((4, 4, 8))}), 1.0)


def reference(features, regions=None):
    return objective.Reference(jnp.zeros((8, 8, 3)), features, regions)


def objective_of(config, number_of_regions=1):
    return objective.Objective(config.comparison, Cells(), number_of_regions)


@pytest.mark.parametrize("loss", ["contextual", "relaxed_earth_mover"])
def test_a_region_is_compared_with_its_like_alone(key, loss):
    config = settings(loss=loss, style_layers=("conv2_1",))
    keys = jax.random.split(key, 4)
    # Left and right halves of the source, upper and lower parts of the target.
    left, right = (jax.random.normal(k, (4, 2, 6)) for k in keys[:2])
    upper, lower = jax.random.normal(keys[2], (1, 3, 6)), jax.random.normal(keys[3], (4, 3, 6))
    of_source = jnp.zeros((8, 8), int).at[:, 4:].set(1)
    of_target = jnp.zeros((10, 6), int).at[2:].set(1)
    source = reference({"conv2_1": jnp.concatenate([left, right], axis=1)}, of_source)
    target = reference({"conv2_1": jnp.concatenate([upper, lower], axis=0)}, of_target)

    def apart(*pairs):
        each = [
            objective_of(config).style(key, *(reference({"conv2_1": found}) for found in one))[0]
            for one in pairs
        ]
        return sum(each) / 2

    found, _ = objective_of(config, 2).style(key, source, target)
    np.testing.assert_allclose(found, apart((left, upper), (right, lower)), rtol=1e-5)
    assert abs(found - apart((left, lower), (right, upper))) > 0.01


@pytest.mark.parametrize("masked", [False, True])
def test_places_count_in_the_contextual_loss_as_in_numpy(key, masked):
    config = settings(style_layers=("conv2_1",), position_weight=0.7, style_bandwidth=0.3)
    x = jax.random.normal(key, (4, 3, 6))
    y = jax.random.normal(jax.random.fold_in(key, 1), (2, 5, 6))

    def cosines(a, b):
        a, b = (c / np.linalg.norm(c, axis=-1, keepdims=True) for c in (a, b))
        return (1 - a @ b.T) / 2

    def places(height, width):
        at = [((r + 0.5 - height / 2), (c + 0.5 - width / 2)) for r, c in np.ndindex(height, width)]
        return np.array(at) / max(height, width)

    def similarity(weight, keep):
        a, b = np.asarray(x, np.float64).reshape(-1, 6), np.asarray(y, np.float64).reshape(-1, 6)
        a, b, of_b = a, b[keep], places(2, 5)[keep]
        distances = cosines(a - b.mean(axis=0), b - b.mean(axis=0))
        ways = places(4, 3)[:, None] - of_b[None]
        distances += weight * np.sqrt(np.square(ways).sum(axis=-1))
        share = distances / (distances.min(axis=1, keepdims=True) + 1e-5)
        affinity = np.exp((1 - share) / 0.3)
        return (affinity / affinity.sum(axis=1, keepdims=True)).max(axis=0).mean()

    keep = np.arange(10) < 6 if masked else np.ones(10, bool)
    regions = (
        (jnp.zeros((4, 3), int), jnp.asarray(~keep, int).reshape(2, 5)) if masked else (None,) * 2
    )
    made, target = (reference({"conv2_1": a}, r) for a, r in zip((x, y), regions, strict=True))
    found, _ = objective_of(config).style(key, made, target)
    np.testing.assert_allclose(found, -np.log(similarity(0.7, keep)), rtol=1e-4)
    assert abs(similarity(0.7, keep) - similarity(0, keep)) > 0.01


def test_interpolation_is_linear_between_the_centres_of_cells(key):
    found = jax.random.normal(key, (5, 7, 2))
    places = jax.random.uniform(jax.random.fold_in(key, 1), (40, 2))
    at = np.asarray(places) * [5, 7] - 0.5
    for channel in range(2):
        wanted = scipy.ndimage.map_coordinates(
            np.asarray(found[..., channel]), at.T, order=1, mode="nearest"
        )
        got = objective.interpolate(found, places)[:, channel]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_no_more_points_than_asked_for_are_drawn_and_keep_their_region(key):
    found = jnp.arange(48.0).reshape(6, 8, 1)
    regions = jnp.arange(48).reshape(6, 8)
    at_most = lambda count, *given: objective_of(settings(max_points=count))._at_most(*given)
    drawn = at_most(10, key, found, regions)
    assert drawn.points.shape == (10, 1)
    np.testing.assert_array_equal(drawn.points[:, 0], drawn.regions)
    assert len(set(drawn.regions.tolist())) == 10
    other = at_most(10, jax.random.fold_in(key, 1), found, regions)
    assert set(other.regions.tolist()) != set(drawn.regions.tolist())
    for count in (0, 48, 100):
        np.testing.assert_array_equal(at_most(count, key, found).points, found.reshape(-1, 1))


def test_moments_and_palette_are_those_of_numpy(key):
    x, y = jax.random.uniform(key, (9, 3)), jax.random.uniform(jax.random.fold_in(key, 1), (7, 3))
    wanted = np.abs(np.mean(x, 0) - np.mean(y, 0)).mean()
    covariances = [np.cov(np.asarray(a).T, bias=True) for a in (x, y)]
    wanted += np.abs(covariances[0] - covariances[1]).mean()
    one, two = (objective.Points(a, a, None) for a in (x, y))
    np.testing.assert_allclose(objective._moments(one, two), wanted, rtol=1e-4)
    more = [objective.Points(jnp.concatenate([a, a[:3] + 5]), a, None) for a in (x, y)]
    parts = [jnp.arange(len(a.points)) < len(a.points) - 3 for a in more]
    np.testing.assert_allclose(objective._moments(*more, *parts), wanted, rtol=1e-4)
    assert objective._moments(*more, parts[0], parts[1] & False) == 0

    grey = [objective.Reference(jnp.full((4, 4, 3), value), {}, None) for value in (0.25, 0.75)]
    # Grey has no colour: the distance is that of the lumas, over the root of three channels.
    np.testing.assert_allclose(objective_of(SMOKE).palette(key, *grey), 0.5 / 3**0.5, rtol=1e-3)
    colours = [jnp.broadcast_to(jnp.array(one), (4, 4, 3)) for one in ((1.0, 0, 0), (0, 0, 1.0))]
    yuv = np.array(objective._YUV)
    a, b = yuv[0], yuv[2]
    wanted = np.sqrt(np.mean((a - b) ** 2)) + 1 - a @ b / np.sqrt((a @ a) * (b @ b))
    references = [objective.Reference(colour, {}, None) for colour in colours]
    np.testing.assert_allclose(objective_of(SMOKE).palette(key, *references), wanted, rtol=1e-3)
    # What the target has beside its region takes no part.
    beside = jnp.concatenate(colours)
    outside = jnp.concatenate([jnp.zeros((4, 4), int), jnp.ones((4, 4), int)])
    references = [
        objective.Reference(colours[0], {}, jnp.zeros((4, 4), int)),
        objective.Reference(beside, {}, outside),
    ]
    assert objective_of(SMOKE).palette(key, *references) < 1e-3


class Cells:
    """In place of VGG: a picture's own colours as each layer."""

    def apply(self, params, image, layers):
        return {name: image[::2, ::2] for name in layers}


def test_coarser_scales_weigh_the_content_as_asked(key):
    config = settings(coarse_content_weight=2.0, scales=(0.5, 0.7, 1.0), steps=(1, 1, 1))
    picture = np.zeros((48, 48, 3), np.float32)
    scaled = stylize.pictures_at_scales(config, data.Pictures(picture, picture))
    scales = [stylize.make_scale(config, Cells(), None, scaled, i) for i in range(3)]
    assert [scale.references()[-1] for scale in scales] == [4, 2, 1]

    config = settings(content_weight=0.5, palette_weight=3.0, moment_weight=0.0)
    pictures = jax.random.uniform(key, (3, 16, 16, 3))
    layers = objective.layers_of(config)
    made, target, content = (
        objective.Reference(one, Cells().apply(None, one, layers), None) for one in pictures
    )
    params = optimization.Parameters([made.image])
    one, (image, terms) = objective_of(config)(params, key, None, target, content, 1.0)
    np.testing.assert_array_equal(image, made.image)
    four, _ = objective_of(config)(params, key, None, target, content, 4.0)
    assert terms["content"] > 0.1
    wanted = 3 * 0.5 * terms["content"] + (1 / 4 - 1) * 3 * terms["palette"]
    np.testing.assert_allclose(four - one, wanted, rtol=1e-4)


def test_details_start_from_the_targets_mean_colour(key):
    content, target = jax.random.uniform(key, (16, 16, 3)), jnp.full((8, 8, 3), 0.3)
    pictures = data.Pictures(np.asarray(content), np.asarray(target))
    start = stylize.initial_image(settings(initial="details"), pictures)
    np.testing.assert_allclose(start.mean(axis=(0, 1)), 0.3, atol=0.05)
    assert np.corrcoef(start.ravel(), content.ravel())[0, 1] > 0.5


# --- Masks ---


@pytest.fixture
def paint(tmp_path):
    """Writes a mask, and returns its path."""

    def write(name, colours):
        Image.fromarray(np.asarray(colours, np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return write


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def test_equal_colours_are_one_region_and_others_take_no_part(paint):
    content = paint("content.png", [[RED, RED, BLUE]])
    target = paint("target.png", [[BLUE, GREEN], [RED, GREEN]])
    of_content, of_target = masks.read_regions(content, target, sizes=((1, 3), (2, 2)))
    assert of_content.tolist() == [[1, 1, 0]]
    assert of_target.tolist() == [[0, 2], [1, 2]]
    cropped, _ = masks.read_regions(
        content, target, sizes=((1, 1), (2, 2)), crops=((2, 0, 3, 1), None)
    )
    assert cropped.tolist() == [[0]]


@pytest.mark.parametrize(
    ("content", "sizes", "message"),
    [
        ([[RED, GREEN]], ((1, 2), (1, 2)), "has the colours #00ff00, which --target-mask"),
        ([[RED, BLUE]], ((4, 2), (1, 2)), "is 2 x 1 px, its picture 2 x 4; give a mask"),
        ([[(i, 0, 0) for i in range(20)]], ((1, 20), (1, 2)), "has 20 colours.*flat colours"),
    ],
)
def test_masks_that_do_not_fit_are_refused(paint, content, sizes, message):
    with pytest.raises(ValueError, match=message):
        masks.read_regions(
            paint("content.png", content), paint("target.png", [[RED, BLUE]]), sizes=sizes
        )


def test_masks_guide_a_run(tmp_path, pair, paint):
    halves = np.zeros((120, 180, 3)), np.zeros((140, 100, 3))
    for half in halves:
        half[:, half.shape[1] // 2 :] = RED
    given = {"content_mask": paint("c.png", halves[0]), "target_mask": paint("t.png", halves[1])}
    given |= {"content": pair[0], "target": pair[1], "initial": "noise"}
    scale = {"scales": (1.0,), "steps": (3,)}
    results = stylize.run(settings(out=tmp_path / "out", **scale, **given))
    assert images.read_image(tmp_path / "out/result.png").shape == (32, 48, 3)
    halves[1][:] = halves[1][:, ::-1]  # now each half is to be like the other one
    given["target_mask"] = paint("other.png", halves[1])
    other = stylize.run(settings(out=tmp_path / "other", **scale, **given))
    assert abs(other["last_step"]["style"] - results["last_step"]["style"]) > 1e-3


def test_masks_are_of_whole_pictures_and_cut_as_they_are(paint):
    whole = np.zeros((512, 512, 3)), np.zeros((600, 512, 3))
    for mask in whole:
        mask[:, 256:] = RED
    config = settings(content_mask=paint("c.png", whole[0]), target_mask=paint("t.png", whole[1]))
    of_content, of_target = data.read(config).regions
    assert (of_content.shape, of_target.shape) == ((280, 280), (380, 380))
    assert of_content[0].sum() == 365 - 256  # of the box from 85 to 365
    assert of_target[0].sum() == 450 - 256


def test_a_region_too_small_for_a_layer_is_refused(tmp_path, pair, paint):
    content, target = np.zeros((120, 180, 3)), np.zeros((140, 100, 3))
    content[:, 90:], target[:2, :2] = RED, RED
    given = {"content_mask": paint("c.png", content), "target_mask": paint("t.png", target)}
    with pytest.raises(ValueError, match="region of --target-mask is too small for conv2_1 at one"):
        stylize.run(settings(out=tmp_path / "out", content=pair[0], target=pair[1], **given))
    assert not (tmp_path / "out").exists()


# --- What a user can get wrong ---


def fails(capsys, *arguments):
    """Runs the command line and returns what it printed as an error, without its line breaks."""
    try:
        status = cli.main(EXPERIMENT, arguments)
    except SystemExit as error:  # tyro and argparse refuse an option by themselves
        status = error.code
    assert status == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert len(printed.splitlines()) <= 16
    return " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none.png"], "error: there is no picture {folder}/none.png"),
        (["{folder}/text.png"], "error: {folder}/text.png is not a picture"),
        (["--style-layers", "conv9_1"], "vgg16 has no layer 'conv9_1'; its layers: conv1_1_pre"),
        (["--layers", "concatenated"], "--grid must be one of the style layers"),
        (["--size", "8"], "the content, 5 x 5 px at one of the --scales (0.67, 1.0) of --size 8"),
        (["--size", "300000"], "--size must be at most 8192; got 300000"),
        (["--seed", "99999999999999999999"], "--seed must lie in 0 to 2**32 - 1"),
        (["--style-layers", "conv1_1", "conv1_1"], "a layer is named twice in"),
        (["--scales", "nan", "1"], "--scales must lie in (0, 1] and end in 1"),
        (["{folder}/thin.png"], "the content, 32 x 1 px at one of"),
        (["--content-mask", "{folder}/text.png"], "--content-mask and --target-mask go together"),
        (["--loss", "gram", "--layers", "hypercolumns"], "--layers hypercolumns is not for --loss"),
        (["--loss", "gram", "--direction", "reverse"], "--direction reverse is for --loss context"),
        (
            ["--loss", "gram", "--position-weight", "1"],
            "--position-weight is for --loss contextual",
        ),
        (["--deformation", "1", "--optimizer", "lbfgs"], "--deformation goes with --optimizer"),
        (["--deformation-cells", "1"], "--deformation-cells must be at least 2; got 1"),
        (["--max-points", "-1"], "--max-points must be at least 0"),
        (
            ["--layers", "hypercolumns", "--max-points", "0"],
            "positive with --layers hypercolumns; got 0",
        ),
        (["--size", "0"], "--size must be at least 1; got 0"),
        (["--style-bandwidth", "0"], "--style-bandwidth must be positive; got 0.0"),
        (["--scales", "1"], "--scales and --steps need one number per scale each"),
        (["--scales", "1", "0.5"], "--scales must lie in (0, 1] and end in 1"),
        (["--steps", "0", "3"], "--steps must be at least 1 each"),
        (["--out", "{folder}"], "--out {folder} exists and is not an empty folder"),
        (["--out", "{folder}/text.png/out"], "{folder}/text.png is not a folder to write in"),
        (["--weights", "{folder}/none.pth"], "{folder}/none.pth"),
        (["--weights", "{folder}/text.png"], "{folder}/text.png"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (2000, 3)).save(tmp_path / "thin.png")
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    printed = fails(capsys, "--variant", "smoke", *arguments)
    assert message.format(folder=tmp_path) in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "text.png",
        "thin.png",
    }  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "papre"], "choose from"),
        (["--loss", "lpips"], "contextual"),
        (["--style-bandwith", "1"], "--style-bandwidth"),
    ],
    ids=str,
)
def test_unknown_options_are_answered_with_the_known_ones(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


def test_gatys_variant_has_the_papers_layers_and_optimizer():
    gatys = VARIANTS["gatys"]
    assert gatys.style_layers == ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    assert (gatys.content_layers, gatys.content_loss) == (("conv4_2",), "squared")
    assert (gatys.loss, gatys.optimizer, gatys.pyramid_levels) == ("gram", "lbfgs", 1)
    assert gatys.tv_weight == gatys.chroma_tv_weight == 0


def test_paper_variant_states_the_authors_numbers():
    # roimehrez/contextualLoss, issue 2; learning rate and TV weight are for values of 0 to 255.
    paper = VARIANTS["paper"]
    assert (paper.network, paper.pooling, paper.layers) == ("vgg19", "average", "concatenated")
    assert paper.style_layers == ("conv2_1", "conv3_1", "conv4_1")
    assert paper.content_layers == ("conv4_2",)
    assert (paper.content_weight, paper.style_bandwidth) == (0.5, 0.1)
    assert (sum(paper.steps), paper.optimizer) == (300, "adam")
    np.testing.assert_allclose(paper.learning_rate * 255, 5.0)
    np.testing.assert_allclose(paper.tv_weight / 255**2, 1e-4)
