"""Shifted targets: what is drawn, what is scored, what is optimised, and tables that go on."""

import dataclasses
import functools
import json
import statistics

import jax
import numpy as np
import pytest
from PIL import Image

import cxjax
from cxjax.data import images
from experiments.common import cli, metrics
from experiments.common.grids import HOME, Finished, read_evidence
from experiments.misalignment import data, evaluation, grids, objective
from experiments.misalignment.__main__ import EXPERIMENT
from experiments.misalignment.config import LOSSES, OPTIMIZED, TUNED, VARIANTS, Objective

SMOKE = VARIANTS["smoke"]
# Smallest that leaves room for shifts of 10 and something to score.
WIDE = dataclasses.replace(SMOKE, longest=128, crop=56, shift=10, max_shift=10, targets=12)
TABLE, TUNE = grids.GRIDS["table"], grids.GRIDS["tune"]


# --- What is drawn ---


@pytest.fixture
def places():
    """A photograph whose red and green are the row and the column of each pixel."""
    rows, columns = np.mgrid[:90, :100] / 255
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.float32)


def corner(picture):
    return np.round(picture[0, 0, :2] * 255).astype(int)


@pytest.mark.parametrize("shift", [0, 3, 10])
def test_targets_are_crops_of_the_clean_photograph_at_their_offsets(places, shift):
    config = dataclasses.replace(WIDE, shift=shift, targets=20)
    seen = set()
    for seed in range(4):
        pair = data.make_pair(config, places, seed)
        top, left = corner(pair.clean)
        seen.add((top, left))
        assert 10 <= top <= 90 - 56 - 10
        assert 10 <= left <= 100 - 56 - 10
        np.testing.assert_array_equal(pair.clean, places[top : top + 56, left : left + 56])
        for target, (down, across) in zip(pair.targets, pair.offsets, strict=True):
            i, j = top + down, left + across
            np.testing.assert_array_equal(target, places[i : i + 56, j : j + 56])
        np.testing.assert_array_equal(pair.offsets, data.draw_offsets(config, seed))
        many = data.draw_offsets(dataclasses.replace(config, targets=400), seed)
        assert many.shape == (400, 2)
        for axis in many.T:
            assert (axis.min(), axis.max()) == (-shift, shift)
        assert abs((pair.noisy - pair.clean).std() - config.noise) < 0.01
    assert len(seen) == 4


def test_place_and_noise_are_the_same_for_all_shifts(places):
    a, b = (data.make_pair(dataclasses.replace(WIDE, shift=shift), places, 7) for shift in (0, 10))
    np.testing.assert_array_equal(a.noisy, b.noisy)
    assert not np.array_equal(a.targets, b.targets)
    other = data.make_pair(WIDE, places, 8)
    assert not np.allclose(other.noisy - other.clean, b.noisy - b.clean)


def test_photographs_are_found_by_id_and_files_by_name(tmp_path, monkeypatch):
    pixels = np.arange(70 * 50 * 3).reshape(70, 50, 3).astype(np.uint8)
    sets = {"train": [], "test": [{"id": "a/b", "image": pixels}]}
    monkeypatch.setattr(data, "open_source", lambda name, *, split: sets[split])
    config = dataclasses.replace(SMOKE, photograph="a/b", longest=70)
    np.testing.assert_allclose(data.load_photograph(config), pixels / 255, atol=1e-6)
    Image.fromarray(pixels[:, :, 0]).resize((200, 100)).save(tmp_path / "grey.png")
    config = dataclasses.replace(config, photograph=str(tmp_path / "grey.png"), longest=100)
    assert data.load_photograph(config).shape == (50, 100, 3)
    with pytest.raises(ValueError, match="no file a/c, and no such id among the 1 of.*has a/b"):
        data.load_photograph(dataclasses.replace(config, photograph="a/c"))


# --- What is scored ---


@pytest.mark.parametrize("shift", [(0, 0), (3, -4), (-5, 5)])
def test_the_search_finds_a_planted_shift(shift):
    random = np.random.default_rng(0)
    photograph = random.uniform(size=(60, 60, 3)).astype(np.float32)
    down, across = shift
    clean = photograph[8:52, 8:52]
    moved = photograph[8 + down : 52 + down, 8 + across : 52 + across]
    moved = np.clip(moved + 0.1 * random.normal(size=moved.shape), 0, 1)
    made, truth, place = evaluation.best_shift(moved, clean, reach=5, border=6)
    assert place == shift
    np.testing.assert_array_equal(made, moved[6:-6, 6:-6])
    np.testing.assert_array_equal(truth, clean[6 + down : 38 + down, 6 + across : 38 + across])
    assert np.square(made - truth).mean() < 0.011
    if shift != (0, 0):  # out of reach, it is not found
        *_, near = evaluation.best_shift(moved, clean, reach=2, border=6)
        assert near != shift
    with pytest.raises(ValueError, match="border 6 must be at least the reach 7"):
        evaluation.best_shift(moved, clean, reach=7, border=6)


def test_scores_are_those_of_the_inner_part_where_it_lies():
    photograph = data.draw()
    config = dataclasses.replace(WIDE, shift=4)
    clean, moved = photograph[20:76, 20:76], photograph[23:79, 16:72]
    scores = evaluation.score(config, np.clip(0.5 * moved, 0, 1), clean)
    assert (scores["down"], scores["across"]) == (3, -4)
    inner = moved[None, 11:-11, 11:-11]
    for name in ("psnr", "ssim", "lpips"):
        expected = getattr(metrics, name)(0.5 * inner, inner)[0]
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5)
    np.testing.assert_allclose(scores["contrast"], 0.5, rtol=1e-5)


# --- What is optimised ---


def by_loops(image):
    """All patches of 5 x 5 at a stride of 2, with the place of each centre."""
    side = len(image)
    corners = [(i, j) for i in range(0, side - 4, 2) for j in range(0, side - 4, 2)]
    points = np.stack([image[i : i + 5, j : j + 5].ravel() for i, j in corners])
    return points, (np.array(corners) + 2.5) / side


def test_each_loss_compares_what_it_says(key):
    x, y = np.asarray(jax.random.uniform(key, (2, 13, 13, 3)))
    (a, p), (b, q) = by_loops(x), by_loops(y)
    places = {"x_positions": p.astype(np.float32), "y_positions": q.astype(np.float32)}
    options = {
        "contextual": (cxjax.contextual_loss, {"bandwidth": 0.3}),
        "contextual_l2": (cxjax.contextual_loss, {"bandwidth": 0.3, "distance": "l2"}),
        "cobi": (cxjax.contextual_bilateral_loss, {"spatial_weight": 0.2, **places}),
        "sliced_wasserstein": (
            lambda x, y, **options: cxjax.sliced_wasserstein_loss(key, x, y, **options),
            {"projections": 7},
        ),
    }
    expected = {"l1": np.abs(x - y).mean(), "l2": np.square(x - y).mean()}
    for loss, (function, keywords) in options.items():
        expected[loss] = jax.jit(functools.partial(function, **keywords))(a, b)
    assert set(expected) == set(OPTIMIZED) - {"perceptual"}
    settings = Objective(bandwidth=0.3, spatial_weight=0.2, projections=7)
    for loss, value in expected.items():
        actual = jax.jit(objective.make_loss(loss, settings))(x, y, None, key)
        np.testing.assert_allclose(actual, value, rtol=1e-5, err_msg=loss)
    assert len({round(float(value), 4) for value in expected.values()}) == len(expected)


def test_l2_finds_the_clean_picture_where_nothing_is_shifted_and_else_the_mean():
    config = dataclasses.replace(WIDE, steps=150, learning_rate=0.03)
    photograph = data.load_photograph(config)
    psnr = {}
    for shift in (0, 10):
        config = dataclasses.replace(config, shift=shift)
        pair = data.make_pair(config, photograph, 0)
        image = objective.optimize(config, "l2", pair, 0).image
        psnr[shift] = evaluation.score(config, image, pair.clean)["psnr"]
        assert np.abs(image - pair.targets.mean(axis=0)).mean() < 0.01
    assert psnr[0] > 40
    assert psnr[10] < 20


def test_the_contextual_loss_keeps_what_l1_blurs():
    config = dataclasses.replace(WIDE, steps=100, learning_rate=0.01)
    pair = data.make_pair(config, data.load_photograph(config), 0)
    scores = {
        loss: evaluation.score(config, objective.optimize(config, loss, pair, 0).image, pair.clean)
        for loss in ("none", "l1", "contextual_l2")
    }
    assert scores["contextual_l2"]["psnr"] > scores["none"]["psnr"] + 3
    assert scores["contextual_l2"]["ssim"] > scores["l1"]["ssim"] + 0.2
    assert scores["contextual_l2"]["lpips"] < scores["l1"]["lpips"] / 2


def test_a_seed_gives_the_same_scores_and_another_others():
    photograph = data.load_photograph(SMOKE)

    def scores(*seeds):
        config = dataclasses.replace(SMOKE, seeds=seeds)
        results, pictures = evaluation.evaluate_loss(config, photograph, "sliced_wasserstein")
        del results["seconds"]
        return results, pictures

    (both, pictures), (again, repeated) = scores(0, 1), scores(0, 1)
    assert both == again
    np.testing.assert_array_equal(pictures, repeated)
    assert both["psnr"][0] != both["psnr"][1]
    second, _ = scores(1)
    assert second == {name: values[1:] for name, values in both.items()}


def test_the_directions_differ_from_seed_to_seed_and_from_step_to_step():
    pair = data.make_pair(SMOKE, data.load_photograph(SMOKE), 0)
    a, b = (objective.optimize(SMOKE, "sliced_wasserstein", pair, seed).image for seed in (0, 1))
    assert not np.array_equal(a, b)
    step = objective.make_step("sliced_wasserstein", Objective())
    first = objective.adam(0.01, 4).init(pair.noisy)
    second = (first[0]._replace(count=first[0].count + 1), *first[1:])
    rest = (pair.targets[0], None, jax.random.key(0), 0.01, 4)
    values = [float(step((pair.noisy, of), *rest)[1]["loss"]) for of in (first, second, first)]
    assert values[0] == values[2] != values[1]


def test_settings_that_are_given_are_not_tuned():
    assert SMOKE.tuned("cobi") == TUNED["cobi"]
    assert SMOKE.tuned("l1") == {"learning_rate": TUNED["l1"]["learning_rate"]}
    given = dataclasses.replace(SMOKE, learning_rate=0.5, bandwidth=0.2)
    assert given.tuned("contextual") == {}
    assert given.tuned("cobi") == {"spatial_weight": TUNED["cobi"]["spatial_weight"]}
    assert SMOKE.tuned("none") == {}
    base = dataclasses.replace(TABLE.variants["default"], learning_rate=0.5)
    run = TABLE.runs(base)["contextual/lemur-shift05"]
    assert run["losses"] == ("contextual",)
    assert run["bandwidth"] == TUNED["contextual"]["bandwidth"]
    assert "learning_rate" not in run


# --- The command line ---


def test_smoke_writes_everything_for_every_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(EXPERIMENT, ["--variant", "smoke"]) == 0
    folder = tmp_path / "out/misalignment/drawn-shift2"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "results.json", "strip.webp"),
        *(f"{loss}.png" for loss in LOSSES),
    }
    results = json.loads((folder / "results.json").read_text())
    assert results["seconds"] > 0
    assert tuple(results)[: len(LOSSES)] == LOSSES
    printed = capsys.readouterr().out
    for loss in LOSSES:
        row = results[loss]
        assert all(len(values) == 1 for values in row.values())
        assert (row["loss"] == [None]) == (loss not in OPTIMIZED)
        assert f"{row['psnr'][0]:.2f} | {row['ssim'][0]:.3f} | {row['lpips'][0]:.3f}" in printed
    assert len({results[loss]["psnr"][0] for loss in LOSSES}) == len(LOSSES)
    strip = images.read_image(folder / "strip.webp")
    assert strip.shape[1] > 6 * 150
    assert strip.std() > 0.1


def test_equal_pictures_have_no_psnr_that_json_can_hold(tmp_path):
    config = dataclasses.replace(SMOKE, noise=0.0, losses=("none",), out=tmp_path / "run")
    results = EXPERIMENT.run(config)
    assert results["none"]["psnr"] == [None]
    assert results["none"]["ssim"] == [1.0]
    assert "Infinity" not in (tmp_path / "run/results.json").read_text()


def test_a_table_goes_on_and_shows_what_its_records_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []
    original = evaluation.optimize
    monkeypatch.setattr(evaluation, "optimize", lambda *a: made.append(a[1]) or original(*a))
    arguments = ["table", "--variant", "smoke", "--set", "seeds=0,1", "losses=mean,l1"]
    assert cli.main(EXPERIMENT, arguments) == 0
    assert made == ["mean"] * 4 + ["l1"] * 4
    first = capsys.readouterr().out
    names = ["mean/drawn-shift00", "mean/drawn-shift02", "l1/drawn-shift00", "l1/drawn-shift02"]
    folder = tmp_path / "out/misalignment/grids/table"
    paths = [folder / name / "record.json" for name in names]
    assert sorted(folder.rglob("record.json")) == sorted(paths)
    for path, shown in zip(paths, ("mean of targets", "mean of targets", "L1", "L1"), strict=True):
        record = json.loads(path.read_text())
        values = record["metrics"][record["name"].split("/")[0]]["lpips"]
        cell = f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
        (line,) = [
            line
            for line in first.split("\n| LPIPS |")[1].splitlines()
            if line.startswith(f"| {shown}")
        ][:1]
        assert line.split(" | ")[1 if "00" in record["name"] else 2].rstrip(" |") == cell
    for name in ("curves.webp", "drawn.webp", "l1/drawn-shift02/l1.png"):
        assert images.read_image(folder / name).std() > 0.01

    made.clear()
    paths[-1].unlink()
    assert cli.main(EXPERIMENT, arguments) == 0
    assert made == ["l1"] * 2
    again = capsys.readouterr().out
    assert again.split("Seconds")[0].split("\n| PSNR", 1)[1] in first

    assert cli.main(EXPERIMENT, [*arguments[:-2], "seeds=0,2", arguments[-1]]) == 2
    assert "--seeds [0, 1], not [0, 2]" in capsys.readouterr().err


def test_a_table_of_ones_own_photographs_and_shifts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images.write_image(tmp_path / "mine.png", data.draw())
    asked = []
    scores = {"psnr": [20.0], "ssim": [0.5], "lpips": [0.25], "contrast": [1.0], "seconds": [1.0]}
    run = lambda config: asked.append(config) or {"l2": scores}
    monkeypatch.setitem(grids.GRIDS, "table", TABLE._replace(run=run))
    own = ["photographs=mine.png,drawn", "shifts=1,3", "losses=l2", "seeds=4", "steps=9"]
    assert cli.main(EXPERIMENT, ["table", "--variant", "smoke", "--set", *own]) == 0
    of = [(config.photograph, config.shift) for config in asked]
    assert of == [("mine.png", 1), ("drawn", 1), ("mine.png", 3), ("drawn", 3)]
    assert {(config.losses, config.seeds, config.steps) for config in asked} == {(("l2",), (4,), 9)}
    assert "| LPIPS at 3 px | mine | drawn |" in capsys.readouterr().out
    asked.clear()
    arguments = ["table", "--variant", "smoke", "--set", *own, "--only", "mine-*"]
    assert cli.main(EXPERIMENT, arguments) == 0
    assert asked == []
    assert "| LPIPS at 3 px | mine |\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "lpips"], "contextual_l2"),
        (["--losses", "l1", "l1"], "--losses needs one or more, each once; got ('l1', 'l1')"),
        (["--shift", "4"], "--shift must be at most --max-shift 3; got 4"),
        (["--max-shift", "5"], "--crop must be at least 43, so that 31 pixels are left to score"),
        (["--longest", "45"], "drawn is 45 x 45 pixels at --longest 45, too small for --crop 40"),
        (["--patch", "41"], "--patch must be at most --crop 40; got 41"),
        (["--noise", "-1"], "--noise must be at least 0; got -1.0"),
        (["--learning-rate", "0"], "--learning-rate must be positive; got 0.0"),
        (["--bandwidth", "nan"], "--bandwidth must be positive; got nan"),
        (["--seeds", "-1"], "--seeds must be at least 0; got -1"),
        (["--layers", "conv9_1"], "vgg16 has no layer 'conv9_1'"),
        (["--out", "{folder}"], "--out {folder} exists and is not an empty folder"),
        (["--losses", "l2", "--learning-rate", "1e38"], "error: l2: the loss became"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    fails(capsys, message.format(folder=tmp_path), "--variant", "smoke", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "--variant", "none"], "--variant must be one of default"),
        (["table", "--set", "photographs=a/b,c/b"], "must differ in their last"),
        (["table", "--set", "shifts=11"], "--shift must be at most --max-shift 10"),
        (["table", "--set", "photograph=a/b"], "say --set photographs=... and --set shifts=..."),
        (["table", "--set", "photographs=a/b.png"], "there is no file a/b.png"),
        (["tune", "--set", "losses=mean"], "'mean' cannot be tuned; known: l1, l2"),
    ],
    ids=str,
)
def test_mistakes_of_the_tables(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "open_source", lambda name, *, split: [])
    fails(capsys, message, *arguments)
    assert not list(tmp_path.iterdir())


def fails(capsys, message, *arguments):
    try:
        status = cli.main(EXPERIMENT, arguments)
    except SystemExit as error:  # tyro refuses an option by itself
        status = error.code
    assert status == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "Traceback" not in printed
    assert message in printed


def finished(grid, scores, **options):
    """What a grid shows if these scores, by name, are those of its finished runs."""
    base = dataclasses.replace(grid.variants["default"], **options)
    configs = {
        name: dataclasses.replace(base, **changes) for name, changes in grid.runs(base).items()
    }
    metrics = {name: {name.split("/")[0]: scores[name]} for name in configs if name in scores}
    return Finished(base, configs, metrics, None)


def test_sources_are_compared_with_l1_one_by_one():
    rest = {"psnr": [1.0, 2.0], "ssim": [0.0, 0.0], "contrast": [1.0, 1.0], "seconds": [1.0, 1.0]}
    scores = {
        f"{loss}/{photograph}-shift{shift:02d}": {"lpips": values, **rest}
        for loss, photograph, shift, values in [
            ("l1", "a", 2, [0.3, 0.4]),
            ("l1", "b", 2, [0.1, 0.2]),
            ("l1", "a", 5, [0.5, 0.5]),
            ("cobi", "a", 2, [0.2, 0.5]),
            ("cobi", "b", 2, [0.0, 0.1]),
            ("cobi", "b", 5, [0.2, 0.2]),
            ("mean", "a", 2, [0.0, 0.0]),
        ]
    }
    options = {"losses": ("l1", "cobi", "mean"), "shifts": (2, 5), "photographs": ("a", "b")}
    shown = grids.show_table(finished(TABLE, scores, **options))
    last = shown.split("LPIPS below")[1].splitlines()
    # At 5 px, L1's is of another photograph than CoBi's.
    assert last[2:5] == ["| L1 |  |  |", "| CoBi | 3 of 4 |  |", "| mean of targets |  |  |"]
    last = shown.split("LPIPS at 5 px")[1].splitlines()
    assert last[2:5] == [
        "| L1 | 0.500 ± 0.000 |  |",
        "| CoBi |  | 0.200 ± 0.000 |",
        "| mean of targets |  |  |",
    ]


# --- What is committed ---


def test_the_choice_is_the_lowest_lpips_of_the_rates_that_move_a_pixel_far_enough():
    runs = TUNE.runs(dataclasses.replace(TUNE.variants["default"], losses=("l1", "cobi")))
    assert len(runs) == 5 + 10
    scores = {name: {"lpips": [0.5, 0.7]} for name in runs}
    scores["l1/learning_rate0.001"] = {"lpips": [0.1, 0.1]}
    scores["l1/learning_rate0.01"] = {"lpips": [0.4, 0.6]}
    scores["cobi/learning_rate0.03-spatial_weight0.5"] = {"lpips": [0.2, 0.9]}
    assert grids.chosen(finished(TUNE, scores, losses=("l1", "cobi"))) == {
        "l1": "l1/learning_rate0.01",
        "cobi": "cobi/learning_rate0.03-spatial_weight0.5",
    }


def committed(name):
    evidence = read_evidence("misalignment", name, grids.GRIDS[name], VARIANTS)
    assert [run for run in evidence.configs if run not in evidence.metrics] == []
    return evidence


def test_the_settings_are_those_that_tuning_chose():
    evidence = committed("tune")
    for loss, name in grids.chosen(evidence).items():
        config = evidence.configs[name]
        assert TUNED[loss] == {field: getattr(config, field) for field in TUNED[loss]}
    assert set(TUNED) == set(OPTIMIZED)


@pytest.mark.parametrize("name", ["table", "tune"])
def test_the_readme_shows_the_committed_scores(name):
    readme = (HOME / "misalignment" / "README.md").read_text()
    lines = grids.GRIDS[name].show(committed(name)).splitlines()
    assert len(lines) > 50
    for line in lines:
        assert line in readme
