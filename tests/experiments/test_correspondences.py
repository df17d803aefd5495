"""Matches: the truth of a warp, how they are counted, and that the experiment runs."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cxjax import points
from cxjax.data import images
from cxjax.points import Points
from experiments.common import cli
from experiments.common.grids import HOME, read_evidence
from experiments.correspondences import config, data, evaluation, grids, matching, warp
from experiments.correspondences.__main__ import EXPERIMENT
from tests import oracle, sets

IDENTITY = warp.Warp(64, np.eye(2), np.zeros(2), np.zeros((2, 5, 5)))

# --- The truth of a warp ---


def coordinates(height, width):
    """A picture whose red and green are the row and the column of each pixel's centre."""
    rows, columns = np.indices((height, width)) + 0.5
    return np.stack([rows, columns, 0 * rows], axis=-1) / max(height, width)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("height", "width"), [(320, 320), (280, 410)])
def test_a_picture_of_coordinates_tells_the_truth(seed, height, width):
    drawn = warp.draw_warp(np.random.default_rng(seed), 256)
    source, target = warp.warped_pair(coordinates(height, width), drawn)
    scale = max(height, width)
    places = np.array([[20.5, 30.5], [128.5, 128.5], [200.5, 90.5], [77.5, 240.5]])
    truth = drawn(places)
    read = np.array([target[int(r), int(c), :2] * scale for r, c in places])
    corner = source[0, 0, :2] * scale - 0.5  # of the source in the whole picture
    inside = ((truth >= 1) & (truth <= 255)).all(axis=1)
    assert inside.any()
    np.testing.assert_allclose(read[inside], (truth + corner)[inside], atol=1e-3)
    np.testing.assert_allclose(corner, [(height - 256) // 2, (width - 256) // 2], atol=1e-4)


def test_shift_turn_and_bend_do_what_they_say():
    picture = np.random.default_rng(0).uniform(size=(64, 64, 3))
    source, target = warp.warped_pair(picture, IDENTITY)
    np.testing.assert_allclose(target, source, atol=1e-6)
    _, target = warp.warped_pair(picture, IDENTITY._replace(shift=np.array([8.0, -3.0])))
    np.testing.assert_allclose(target[:56, 3:], source[8:, :-3], atol=1e-6)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])  # down is read to the right
    _, target = warp.warped_pair(picture, IDENTITY._replace(matrix=quarter))
    np.testing.assert_allclose(target, np.rot90(source, -1), atol=1e-6)
    everywhere = np.stack([np.full((5, 5), 2.0), np.zeros((5, 5))])
    _, target = warp.warped_pair(picture, IDENTITY._replace(bend=everywhere))
    np.testing.assert_allclose(target[:62], source[2:], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_warps_of_the_table_move_much_fold_nothing_and_differ(seed):
    places = warp.pixel_centres(256)
    drawn, other = (
        warp.draw_warp(data.randomness(name, seed), 256) for name in ("astronaut", "rocket")
    )
    assert np.linalg.norm(drawn(places) - other(places), axis=1).mean() > 2
    moved = np.linalg.norm(drawn(places) - places, axis=1)
    assert 0.04 * 256 < moved.mean() < 0.2 * 256
    truth = drawn(places).reshape(256, 256, 2)
    down, across = np.gradient(truth, axis=(0, 1))
    area = down[..., 0] * across[..., 1] - down[..., 1] * across[..., 0]
    assert area.min() > 0.2


def test_other_light_changes_colours_and_stays_a_picture():
    picture = np.full((16, 16, 3), 0.5, np.float32)
    changed = warp.recoloured(np.random.default_rng(0), picture)
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.abs(changed.mean(axis=(0, 1)) - 0.5).max() > 0.02
    assert 0.01 < changed.std(axis=(0, 1)).mean() < 0.03


# --- The rules, and how their matches are counted ---


def embedded(places):
    """Features whose cosine falls with the distance of two places."""
    waves = np.random.default_rng(1).standard_normal((2, 64)) / 10
    return jnp.asarray(np.concatenate([np.cos(places @ waves), np.sin(places @ waves)], axis=1))


def of_grid(features, size=64, cell=4):
    positions = points.grid_positions((size // cell, size // cell), cell_size=cell)
    return Points(features(np.asarray(positions, np.float64)), positions)


OPTIONS = {"bandwidths": (0.1, 0.5), "spatial_weights": (0.001,), "size": 64}


def test_features_that_are_the_true_places_are_all_matched_right():
    drawn = warp.draw_warp(np.random.default_rng(2), 64)
    x, y = of_grid(embedded), of_grid(lambda places: embedded(drawn(places)))
    matches = matching.match(x, y, **OPTIONS)
    assert list(matches) == ["nearest neighbour", "CX, h = 0.1", "CX, h = 0.5", "CoBi, w = 0.001"]
    # No cell's centre is further from a place than half a cell's diagonal, 2.83.
    shares = evaluation.score(x, y, matches, drawn, radii=(2.9, 8.0))["share"]
    assert shares["best source"] == [1.0, 1.0]
    assert shares["nearest neighbour"][0] > 0.95
    assert min(share[1] for share in shares.values() if share is not shares["any source"]) > 0.98
    # And features that know nothing are matched by chance.
    noise = dict.fromkeys(range(1), np.random.default_rng(0).integers(0, 256, 256))
    by_chance = evaluation.score(x, y, noise, drawn, radii=(8.0, 16.0))["share"]
    np.testing.assert_allclose(by_chance[0], by_chance["any source"], atol=0.07)
    # A disc of 16 px in a square of 64, about places in its middle.
    middle = IDENTITY._replace(matrix=np.eye(2) / 4)
    expected = evaluation.score(x, y, {0: noise[0]}, middle, radii=(16.0,))["share"]["any source"]
    np.testing.assert_allclose(expected, [np.pi * 16**2 / 64**2], rtol=0.05)


def test_rules_equal_numpy():
    x, y = sets.normal(0, 12, 5), sets.normal(1, 9, 5) + 1
    x_at, y_at = 60 * np.abs(sets.normal(2, 12, 2)), 60 * np.abs(sets.normal(3, 9, 2))
    f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    options = {"bandwidths": (0.2,), "spatial_weights": (0.3,), "size": 64}
    matches = matching.match(Points(f32(x), f32(x_at)), Points(f32(y), f32(y_at)), **options)
    mean = y.mean(axis=0)
    d = np.empty((12, 9))
    for i in range(12):
        for j in range(9):
            a, b = x[i] - mean, y[j] - mean
            d[i, j] = (1 - a @ b / np.sqrt((a @ a) * (b @ b))) / 2
    apart = np.array([[np.hypot(*(p - q)) for q in y_at] for p in x_at]) / 64
    np.testing.assert_array_equal(matches["nearest neighbour"], d.argmin(axis=0))
    np.testing.assert_array_equal(matches["CoBi, w = 0.3"], (d + 0.3 * apart).argmin(axis=0))
    cx = oracle.pairwise_similarity(x, y, bandwidth=0.2)
    np.testing.assert_array_equal(matches["CX, h = 0.2"], cx.argmax(axis=0))
    assert len({tuple(index) for index in matches.values()}) == 3  # the rules differ here


def test_what_lies_outside_is_left_out_and_crowds_are_counted():
    right = warp.Warp(8, np.eye(2), np.array([0.0, 4.0]), np.zeros((2, 5, 5)))
    cells = of_grid(embedded, size=8, cell=4)  # at 2 and 6; what is at 6 comes from 10: outside
    matches = {"a": np.array([1, 0, 1, 0]), "b": np.array([1, 2, 3, 2])}
    scores = evaluation.score(cells, cells, matches, right, radii=(1.0, 4.0, 9.0))
    assert scores["inside"] == 0.5
    assert scores["displacement"] == {"mean": 4.0, "largest": 4.0}
    assert scores["share"]["b"] == [1.0, 1.0, 1.0]
    assert scores["share"]["a"] == [0.5, 1.0, 1.0]
    assert scores["share"]["any source"] == [0.25, 0.75, 1.0]
    assert scores["used"] == {"a": 0.5, "b": 1.0}
    assert scores["crowd"]["a"] == {"wrong": 0.0, "right": 2.0}
    assert matching.used(np.array([3, 3, 3, 5])) == 0.5


@pytest.mark.parametrize(
    ("layer", "pixels"), [("conv1_2", 1), ("conv4_2", 8), ("relu3_1_pre", 4), ("pool3", 8)]
)
def test_strides(layer, pixels):
    assert config.stride(layer) == pixels


# --- The experiment ---


def command(capsys, monkeypatch, folder, *arguments):
    """The command line, run from a folder: its status, and what it printed, in one line each."""
    monkeypatch.chdir(folder)
    try:
        status = cli.main(EXPERIMENT, arguments)
    except SystemExit as error:  # tyro, where the configuration itself refuses
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, " ".join(captured.err.split())


def test_smoke_writes_everything(tmp_path, monkeypatch, capsys):
    arguments = ("--variant", "smoke", "--strongest", "100", "--apart", "0")
    status, printed, errors = command(capsys, monkeypatch, tmp_path, *arguments)
    assert status == 0, errors
    out = tmp_path / "out/correspondences/astronaut-grace_hopper"
    assert {path.name for path in out.iterdir()} == {"config.json", "matches.png", "results.json"}
    assert "CX above, nearest neighbours below" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["points"] == [32 * 32, 32 * 32]
    picture = images.read_image(out / "matches.png")
    assert picture.shape == (96 + 12 + 96, 96 + 12 + 96, 3)
    assert (picture[96:108] == 1).all()
    above, below = picture[:96], picture[108:]
    left_differs, right_differs = (
        np.abs(above - below)[:, part].max() for part in (slice(96), slice(180, None))
    )
    assert left_differs > 0.1  # other sources
    assert right_differs < left_differs  # of the same targets


def test_a_users_own_pictures_of_any_shape(tmp_path, monkeypatch, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (50, 83, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "one.png")
    Image.fromarray(noise[:, :31]).save(tmp_path / "two.png")
    arguments = ("one.png", "two.png", "--variant", "smoke", "--size", "32", "--out", "here")
    status, _, errors = command(capsys, monkeypatch, tmp_path, *arguments)
    assert status == 0, errors
    results = json.loads((tmp_path / "here/results.json").read_text())
    assert results["points"] == [9 * 16, 16 * 10]  # of 19 x 32 and 32 x 20 px, cells of 2


def test_the_table_is_made_once(tmp_path, monkeypatch, capsys):
    arguments = ("table", "--variant", "smoke", "--out", "runs")
    status, first, errors = command(capsys, monkeypatch, tmp_path, *arguments)
    assert status == 0, errors
    records = {path.parent.name: path for path in tmp_path.glob("runs/table/*/record.json")}
    assert records.keys() == {"chelsea-recoloured", "chelsea-warped"}
    shares = json.loads(records["chelsea-warped"].read_text())["metrics"]["share"]
    assert np.shape(shares["CX, h = 0.2"]) == (3, 2)  # radii, seeds
    chance, nearest, best = (
        np.array(shares[rule]) for rule in ("any source", "nearest neighbour", "best source")
    )
    assert (chance < nearest).all()
    assert (nearest <= best).all()
    assert "| nearest neighbour | " in first
    monkeypatch.setattr(grids, "make_features", None)
    _, again, _ = command(capsys, monkeypatch, tmp_path, *arguments)
    assert again.strip() == first[first.index("| matches") :].strip()
    status, _, errors = command(capsys, monkeypatch, tmp_path, *arguments, "--set", "seeds=3")
    assert status == 2
    assert "--seeds 2, not 3" in errors


def test_other_photographs_conditions_and_rules(tmp_path, monkeypatch, capsys):
    asked = []
    scores = {"displacement": {"mean": [1.0], "largest": [2.0]}, "inside": [1.0]}
    scores |= {"share": {r: [[0.5]] for r in ("any source", "a", "b", "best source")}}
    scores |= {"used": {r: [0.5] for r in ("a", "b")}}
    scores |= {"crowd": {r: {"wrong": [1.0], "right": [1.0]} for r in ("a", "b")}}
    run = lambda config: asked.append(config) or scores
    monkeypatch.setitem(grids.GRIDS, "table", grids.GRIDS["table"]._replace(run=run))
    settings = ["photographs=rocket,coffee", "conditions=warped", "bandwidths=.3", "radii=4"]
    settings += ["network=vgg16", "layers=conv2_2", "spatial_weights=.1,.2", "size=64"]
    status, printed, errors = command(capsys, monkeypatch, tmp_path, "table", "--set", *settings)
    assert status == 0, errors
    assert [config.photographs for config in asked] == [("rocket",), ("coffee",)]
    assert {config.conditions for config in asked} == {("warped",)}
    assert (asked[0].bandwidths, asked[0].spatial_weights) == ((0.3,), (0.1, 0.2))
    assert (asked[0].layers, asked[0].size, asked[0].radii) == (("conv2_2",), 64, (4.0,))
    assert "| within 4 px | rocket-warped | coffee-warped |" in printed


def test_the_readme_shows_what_is_kept():
    readme = (HOME / "correspondences" / "README.md").read_text()
    shown = {}
    for name, grid in grids.GRIDS.items():
        evidence = read_evidence("correspondences", name, grid, {})
        assert evidence.metrics.keys() == evidence.configs.keys()
        shown[name] = grid.show(evidence)
    lines = [*shown["table"].splitlines(), *shown["sweep"].split("\n\n")[0].splitlines()]
    lines = [line for line in lines if line.startswith("|")]
    assert len(lines) > 30
    for line in lines:
        assert line in readme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "error: there is no picture none.png"),
        (["file"], "error: file is not a picture"),
        (["--layers", "conv9_1"], "vgg16 has no layer 'conv9_1'; its layers: conv1_1_pre"),
        (["--layers", "conv2_1", "conv2_1"], "each once; got ('conv2_1', 'conv2_1')"),
        (["--size", "1"], "--size must be at least 2 for conv2_2; got 1"),
        (["--size", "512"], "--size 512 has 65,536 points in the grid of conv2_2, and 16,384"),
        (["thin.png"], "a picture of 64 x 1 px is too small for conv2_2"),
        (["--bandwidth", "0"], "--bandwidth must be positive; got 0.0"),
        (["--strongest", "0"], "--strongest must be at least 1; got 0"),
        (["--apart", "nan"], "--apart must be 0 to 1; got nan"),
        (["--drawn-size", "0"], "--drawn-size must be 1 to 8192; got 0"),
        (["--out", "."], "--out . exists and is not an empty folder"),
        (["--weights", "none.pth"], "none.pth"),
        (["table", "--set", "seeds=0"], "--seeds must be 1 to 1000; got 0"),
        (["table", "--set", "radii=4,-1"], "--radii must be positive; got -1.0"),
        (["table", "--set", "bandwidths=inf"], "--bandwidths must be positive; got inf"),
        (["table", "--set", "photographs=moon"], "astronaut"),
        (["table", "--set", "photographs=coffee,coffee"], "once; got ('coffee', 'coffee')"),
        (["table", "--no-evidence", "--out", "file"], "file/table"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "file").write_text("not a picture")
    Image.new("RGB", (2000, 3)).save(tmp_path / "thin.png")
    variant = [] if arguments[0] == "table" else ["--variant", "smoke"]
    status, _, errors = command(capsys, monkeypatch, tmp_path, *arguments, *variant)
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"file", "thin.png"}  # nothing was begun
