"""Domain transfer end to end on drawn pictures: domains, losses, training, scores, the table."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import cxjax
from cxjax.data import images, pipeline
from experiments.common import cli, generators, runs, sweeps, training
from experiments.common.training import Networks
from experiments.domain_transfer import answers, classifier, data, evaluation, objective
from experiments.domain_transfer.__main__ import EXPERIMENT
from experiments.domain_transfer.config import CHOSEN, LOSSES, UNTRAINED, VARIANTS
from tests.experiments import kept

SMOKE = VARIANTS["smoke"]


@pytest.fixture(scope="module")
def drawn():
    return data.read_domains(SMOKE)


# --- Data ---


def test_a_target_is_drawn_at_random_among_those_alike(drawn):
    stream, again = (
        pipeline.batches(
            data.Sources(drawn.source),
            batch_size=10,
            seed=0,
            transform=data.random_targets(drawn.target),
        )
        for _ in range(2)
    )
    met = set()
    known = {
        kind: [picture.astype(np.float32) / 255 for picture in domain.pictures]
        for kind, domain in (("source", drawn.source), ("target", drawn.target))
    }
    for _ in range(6):
        batch = next(stream)
        np.testing.assert_array_equal(next(again)["target"], batch["target"])
        for pair in zip(batch["source"], batch["target"], strict=True):
            source, target = (
                next(n for n, one in enumerate(known[kind]) if np.array_equal(one, picture))
                for kind, picture in zip(known, pair, strict=True)
            )
            assert drawn.target.kinds[target] == drawn.source.kinds[source]
            met.add((source, target))
    assert len(met) > 30  # of 50, and 10 if each source kept its own


def _rows(split):
    """Rows of the sets of emoji, and of celebrities."""
    names = ["1f600", "1f680", *(f"1f468-200d-{job:x}" for job in range(0x1F33E, 0x1F36E))]
    return [
        {"image": np.full((20, 30, 3), number, np.uint8), "id": name, "base": name, "split": split}
        for number, name in enumerate(names)
    ]


def test_test_pairs_are_halved_by_base_and_unlike_things_left_out(monkeypatch):
    monkeypatch.setattr(data.datasets, "open_source", lambda name, split: _rows(split))
    for name in ("man-woman", "noto-fluent"):
        parts = {
            held_out: data.read_domains(dataclasses.replace(SMOKE, domains=name, held_out=held_out))
            for held_out in ("validation", "test")
        }
        seen = {}
        for held_out, found in parts.items():
            assert found.paired
            assert len(found.source) == len(found.target) == 49  # all but the rocket
            assert set(found.source.kinds) == {"smiley", "person yellow"}
            assert found.source.pictures[0].shape == (32, 32, 3)
            values = [int(p[0, 0, 0]) for p in found.held_out_source.pictures]
            assert values == [int(p[0, 0, 0]) for p in found.held_out_target.pictures]
            seen[held_out] = set(values)
        assert len(seen["validation"]) > 10
        assert len(seen["test"]) > 10
        assert seen["validation"] | seen["test"] == set(range(50)) - {1}
        assert not seen["validation"] & seen["test"]


class Counted(list):
    """A source that counts what is read of it."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


def test_sets_without_pairs_are_read_as_they_are_needed(monkeypatch):
    celebrities = Counted(
        {"image": np.full((22, 18, 3), n % 256, np.uint8), "attributes": {"Male": n % 3 == 0}}
        for n in range(1500)
    )
    monkeypatch.setattr(data.datasets, "open_source", lambda name, split: celebrities)
    found = {
        held_out: data.read_domains(
            dataclasses.replace(SMOKE, domains="celeb_a", held_out=held_out)
        )
        for held_out in ("validation", "test")
    }
    assert not found["test"].paired
    assert len(found["test"].source) == 500 - 400
    assert len(found["test"].target) == 1000 - 400
    last_men = [n % 256 for n in range(1500) if n % 3 == 0][-400:]
    for part, expected in (("validation", last_men[:200]), ("test", last_men[200:])):
        pictures = found[part].held_out_source.pictures
        assert [int(pictures[i][0, 0, 0]) for i in (0, 1, 199)] == [
            expected[i] for i in (0, 1, 199)
        ]
    before = celebrities.read
    assert before < 2 * 1500 + 10
    assert found["test"].target.pictures[3].shape == (32, 32, 3)
    assert celebrities.read == before + 1
    few = Counted(celebrities[:900])
    monkeypatch.setattr(data.datasets, "open_source", lambda name, split: few)
    with pytest.raises(
        ValueError,
        match="domain of 300 pictures: fewer than the 402 that are needed to hold out 400",
    ):
        data.read_domains(dataclasses.replace(SMOKE, domains="celeb_a"))


def test_horses_and_zebras_have_splits_of_their_own(monkeypatch):
    shades = {"trainA": 10, "trainB": 20, "testA": 30, "testB": 40}
    read = lambda name, split: [
        {"image": np.full((9, 9, 3), shades[split] + n // 20, np.uint8)} for n in range(40)
    ]
    monkeypatch.setattr(data.datasets, "open_source", read)
    config = dataclasses.replace(SMOKE, domains="cycle_gan/horse2zebra", held_out="test")
    found = data.read_domains(config)
    shown = (found.source, found.target, found.held_out_source, found.held_out_target)
    assert [int(part.pictures[0][0, 0, 0]) for part in shown] == [10, 20, 30, 40]
    found = data.read_domains(dataclasses.replace(config, held_out="validation"))
    shown = (found.source, found.target, found.held_out_source, found.held_out_target)
    assert [int(part.pictures[0][0, 0, 0]) for part in shown] == [10, 20, 11, 21]
    assert [len(part) for part in shown] == [32, 32, 4, 4]


def test_folders_of_ones_own_are_domains(tmp_path):
    with pytest.raises(ValueError, match="and a folder that holds trainA and trainB"):
        dataclasses.replace(SMOKE, domains=str(tmp_path / "mine"))
    for split, shade, count in (("trainA", 10, 12), ("trainB", 20, 20)):
        (tmp_path / "mine" / split).mkdir(parents=True)
        for number in range(count):
            picture = np.full((70, 90, 3), (shade + number) / 255, np.float32)
            images.write_image(tmp_path / f"mine/{split}/{number:02}.png", picture)
    config = dataclasses.replace(SMOKE, domains=str(tmp_path / "mine"), held_out="test")
    assert config.default_out.name == f"mine-{config.loss}"
    found = data.read_domains(config)
    shown = (found.source, found.target, found.held_out_source, found.held_out_target)
    assert [len(part) for part in shown] == [10, 18, 2, 2]
    assert [int(part.pictures[0][0, 0, 0]) for part in shown] == [10, 20, 20, 38]
    scored = data.read_domains(dataclasses.replace(config, held_out="validation"))
    assert [len(scored.source), len(scored.held_out_source)] == [10, 2]
    with pytest.raises(
        ValueError, match=r"has a domain of 12 pictures: fewer than the 13 .* 2 and"
    ):
        data.read_domains(dataclasses.replace(config, batch_size=11))
    assert found.source.pictures[0].shape == (SMOKE.size, SMOKE.size, 3)
    assert not found.paired
    for split, shade in (("testA", 30), ("testB", 40)):
        (tmp_path / "mine" / split).mkdir()
        images.write_image(tmp_path / f"mine/{split}/a.png", np.full((9, 9, 3), shade / 255))
        if split == "testA":
            with pytest.raises(ValueError, match="has testA alone: testA and testB go together"):
                data.read_domains(config)
    found = data.read_domains(dataclasses.replace(config, held_out="validation"))
    shown = (found.source, found.held_out_source, found.held_out_target)
    assert [(len(part), int(part.pictures[0][0, 0, 0])) for part in shown] == [
        (12, 10),
        (1, 30),
        (1, 40),
    ]


# --- Losses ---


class Shade:
    """A generator of one parameter: what it makes is known."""

    @staticmethod
    def apply(params, images):
        return images * params


@pytest.fixture(scope="module")
def batch(drawn):
    return {"source": drawn.source.stack()[:2], "target": drawn.target.stack()[:2]}


def test_every_loss_is_the_sum_that_it_is_named_after(batch, drawn):
    features = jax.jit(generators.make_features(SMOKE, ("conv1_2", "conv2_1", "conv2_2")))
    made, source, target = (features(i) for i in (0.7 * batch["source"], *batch.values()))
    points = lambda maps: np.asarray(maps, np.float64).reshape(maps.shape[0], -1, maps.shape[-1])

    def contextual(x, y, layer):
        pairs = zip(points(x[layer]), points(y[layer]), strict=True)
        return np.mean([cxjax.contextual_loss(a, b, bandwidth=0.5) for a, b in pairs])

    def loss_of(loss):
        config = dataclasses.replace(SMOKE, loss=loss, source_weight=0.5)
        known = {layer: None for layer in objective.layers_of(config)}
        given = lambda images: {k: v for k, v in features(images).items() if k in known}
        loss_fn = jax.jit(objective.make_loss(config, Networks(Shade, given, {}), drawn))
        return loss_fn(jnp.float32(0.7), batch, None)

    to_target = sum(contextual(made, target, layer) for layer in SMOKE.target_layers)
    to_source = contextual(made, source, "conv2_2")
    np.testing.assert_allclose(loss_of("cx")[0], to_target + 0.5 * to_source, rtol=1e-4)
    np.testing.assert_allclose(loss_of("cx_target")[0], to_target, rtol=1e-4)
    gram = 0.0
    for layer in SMOKE.target_layers:
        x, y = (np.einsum("bnc,bnd->bcd", *[points(f[layer])] * 2) for f in (made, target))
        gram += np.mean(((x - y) ** 2).sum(axis=(1, 2)) / (y**2).sum(axis=(1, 2)))
    x, y = (points(f["conv2_2"]) for f in (made, source))
    l2 = np.mean(((x - y) ** 2).sum(axis=(1, 2)) / (y**2).sum(axis=(1, 2)))
    np.testing.assert_allclose(loss_of("gram")[0], gram + 0.5 * l2, rtol=1e-4)


class Judge:
    @staticmethod
    def apply(params, images):
        return params * images.mean(axis=(1, 2, 3))


def test_cyclegan_goes_there_and_back_and_trains_each_network_by_its_own(batch, drawn):
    config = dataclasses.replace(SMOKE, loss="cyclegan")
    names = ("generator", *objective.other_networks(config))
    assert names == ("generator", "backward", "source_judge", "target_judge")
    params = dict(zip(names, map(jnp.float32, (0.8, 1.1, 0.3, 0.6)), strict=True))
    networks = Networks(Shade, None, dict.fromkeys(names[2:], Judge))
    loss_fn = objective.make_loss(config, networks, drawn)
    (value, terms), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, batch, None)
    s, t = (batch[name].astype(np.float64) for name in ("source", "target"))
    mean = lambda image: image.mean(axis=(1, 2, 3))

    def expected(g, f, ds, dt, part):
        cycle = np.abs(f * g * s - s).mean() + np.abs(g * f * t - t).mean()
        fooled = ((dt * mean(g * s) - 1) ** 2).mean() + ((ds * mean(f * t) - 1) ** 2).mean()
        judged = ((dt * mean(t) - 1) ** 2).mean() + ((dt * mean(g * s)) ** 2).mean()
        judged += ((ds * mean(s) - 1) ** 2).mean() + ((ds * mean(f * t)) ** 2).mean()
        return {"generators": 10 * cycle + fooled, "judges": judged / 2}[part]

    at = [0.8, 1.1, 0.3, 0.6]
    total = expected(*at, "generators") + expected(*at, "judges")
    np.testing.assert_allclose(value, total, rtol=1e-4)
    for number, name in enumerate(names):
        part = "generators" if number < 2 else "judges"
        moved = [[a + h * (n == number) for n, a in enumerate(at)] for h in (1e-6, -1e-6)]
        slope = (expected(*moved[0], part) - expected(*moved[1], part)) / 2e-6
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(grads[name], slope, rtol=1e-3)


def test_cyclegan_has_a_gradient_for_each_of_its_four_networks(batch, drawn):
    config = dataclasses.replace(SMOKE, loss="cyclegan")
    model, others = generators.make_model(config), objective.other_networks(config)
    init = functools.partial(training._initial, config, model, others)
    params = jax.eval_shape(init, jax.random.key(0))
    networks = Networks(model, None, {name: network for name, (network, _) in others.items()})
    loss_fn = jax.value_and_grad(objective.make_loss(config, networks, drawn), has_aux=True)
    (loss, terms), grads = jax.eval_shape(loss_fn, params, batch, None)
    assert loss.shape == ()
    assert len(terms) == 5
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert set(params) == {"generator", "backward", "source_judge", "target_judge"}


# --- Runs and scores ---


def main(*arguments, variant="smoke"):
    return cli.main(EXPERIMENT, ["--variant", variant, *arguments])


def test_a_run_ends_with_scores_and_pictures(tmp_path, capsys):
    """That of a loss which trains is the notebook's, in `test_notebooks.py`."""
    out = tmp_path / "run"
    assert main("--loss", "histogram", "--out", str(out)) == 0
    scores = json.loads((out / "results.json").read_text())
    assert {"lpips", "psnr", "ssim", "cx", "target", "classifier", "kid"} <= scores.keys()
    assert "judged target" in capsys.readouterr().out
    strip = np.asarray(Image.open(out / "strip.png"))
    rows = strip.reshape(3, SMOKE.size, -1, 3) * 1.0
    assert np.abs(rows[0] - rows[1]).mean() > 1
    assert scores["lpips"] > 0.01  # what stays is where things are
    shape = (rows[1] < 250).any(axis=-1) == (rows[0] < 250).any(axis=-1)
    assert shape.mean() > 0.7


@pytest.mark.parametrize("variant", ["paper", "horse2zebra"])
def test_the_variants_of_tensorflow_datasets_train(tmp_path, monkeypatch, variant):
    """All is the variant's but what makes it long: size, widths, steps and VGG19's weights."""
    monkeypatch.setattr(data, "_CELEBRITIES_HELD_OUT", 3)
    out = tmp_path / "run"
    few = ("--size", "32", "--small", "--steps", "2", "--log-every", "1", "--network", "vgg16")
    with tfds.testing.mock_data(num_examples=30):
        assert main(*few, "--out", str(out), variant=variant) == 0
    paper = json.loads((out / "config.json").read_text())
    assert paper["domains"] == VARIANTS[variant].domains != "drawn"
    assert (VARIANTS[variant].network, paper["model"], paper["batch_size"]) == ("vgg19", "crn", 1)
    assert paper["target_layers"] == ["conv3_2", "conv4_2"]
    assert paper["source_layers"] == ["conv4_2"]
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2
    assert all(step["loss/target"] > 0 and step["loss/source"] > 0 for step in steps)
    scores = json.loads((out / "results.json").read_text())
    assert {"target", "classifier", "kid"} <= scores.keys()
    assert "lpips" not in scores
    assert (out / "strip.png").is_file()


def test_the_truth_gets_the_best_scores_and_the_source_does_not(drawn):
    truth, source = drawn.held_out_target.stack(), drawn.held_out_source.stack()
    best = evaluation.score(SMOKE, truth, truth, drawn)
    own = evaluation.score(SMOKE, source, truth, drawn)
    assert best["lpips"] == pytest.approx(0, abs=1e-6)
    assert best["ssim"] == pytest.approx(1)
    assert best["cx"] < own["cx"] - 0.5  # not 0: points of one white are matches of each other
    assert best["target"] == 1
    assert own["target"] == 0
    assert best["classifier"] == own["classifier"] == 1
    assert best["kid"] < own["kid"]
    unpaired = dataclasses.replace(drawn, paired=False)
    assert "lpips" not in evaluation.score(SMOKE, truth, truth, unpaired)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(answers, "_DRAWN", 2)


def test_the_terms_of_pictures_that_nobody_made(drawn, few_draws):
    makers = {"copied": lambda picture: picture, "white": np.ones_like}
    found = answers.measure(dataclasses.replace(SMOKE, source_weight=0.5), drawn, makers)
    itself, truth, random, copied, white = found.values()
    assert list(found)[:3] == ["source itself", "true target", "a random target"]
    assert copied == itself
    assert white[1] > itself[1] + 0.1
    assert itself[1] < 0.1 < truth[1]
    assert random[0] < truth[0] - 0.1 < itself[0] - 1  # not 0: points of one white are alike
    for target, source, loss in found.values():
        assert loss == pytest.approx(target + source / 2, rel=1e-4)


def test_the_terms_of_what_a_run_made(tmp_path, monkeypatch, capsys, few_draws):
    monkeypatch.setattr(answers, "DEFAULT", SMOKE)  # 32 px
    monkeypatch.setattr(answers, "load_generator", lambda folder, kind: np.ones_like)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(runs.to_json(SMOKE)))
    answers.show(answers.TermsConfig(run=tmp_path))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "| drawn | to the target | to the source | sum |"
    itself, *_, made = (line.split("|")[1:5] for line in lines[2:])
    assert made[0] == f" {tmp_path.name} "
    assert float(made[2]) > float(itself[2]) + 0.1
    config.write_text(json.dumps(runs.to_json(dataclasses.replace(SMOKE, domains="celeb_a"))))
    with pytest.raises(ValueError, match="is of celeb_a, which has no true pairs"):
        answers.show(answers.TermsConfig(run=tmp_path))


def test_a_histogram_is_that_of_a_target_of_the_same_kind(drawn):
    ramp = np.linspace(0, 100, 32 * 32).reshape(32, 32, 1).repeat(3, axis=2).astype(np.uint8)
    target = data.Domain(pictures=[ramp, ramp + 150], kinds=["0", "1"])
    source = drawn.held_out_source
    made = objective._histograms(dataclasses.replace(drawn, target=target), 0)(source.stack())
    for picture, kind in zip(255 * made, source.kinds, strict=True):
        low, high = (0, 100) if kind == "0" else (150, 250)
        assert low - 1 < picture.min() < low + 30
        assert high - 70 < picture.max() < high + 1


def test_the_classifier_tells_domains_apart_and_takes_no_side(drawn):
    source, target = drawn.source.stack(), drawn.target.stack()
    classify = classifier.train_classifier(source, target)
    assert (classify(target) > 0).all()
    assert (classify(source) < 0).all()
    backwards = classifier.train_classifier(target, source)
    np.testing.assert_allclose(backwards(source), -classify(source), rtol=0.05, atol=0.02)


def test_the_grids_make_what_is_missing_and_show_what_is_there(tmp_path, capsys):
    asked = []

    def run(config):
        asked.append(config)
        scores = {"lpips": 0.1 + config.seed / 10, "psnr": 20.0, "ssim": 0.5, "cx": 1.0}
        seconds = 60.0 + config.seed
        return scores | {"target": 0.5, "kid": 0.2, "classifier": 0.9, "seconds": seconds}

    def make(grid):
        arguments = [grid, "--no-evidence", "--out", str(tmp_path)]
        assert cli.main(EXPERIMENT._replace(run=run), arguments) == 0
        return capsys.readouterr().out

    said = make("table")
    assert "| CX | 0.150 ± 0.071 | 20.00 ± 0.00 | 0.500 ± 0.000 |" in said
    assert "| identity: the source itself | 0.100 | 20.00 | 0.500 |" in said
    assert said.count("The classifier is right on true held-out pictures: 0.90.") == 2
    count = 2 * (2 * len(LOSSES) - 1)
    assert len(asked) == count
    assert {config.held_out for config in asked} == {"test"}
    make("table")
    assert len(asked) == count
    make("tune")
    tried = asked[count:]
    assert len(tried) == len(sweeps.RATES) * (len(LOSSES) - len(UNTRAINED))
    assert {config.held_out for config in tried} == {"validation"}
    said = make("weights")
    assert "| the source itself | 0.100 | 20.00 |" in said
    assert "| 0.3, 150 steps | 0.100 | 20.00 |" in said
    weighed = asked[count + len(tried) :]
    assert {config.held_out for config in weighed} == {"validation"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": "dogs"}, "unknown --domains 'dogs'; known: man-woman, noto-fluent, drawn"),
        ({"loss": "l1"}, "unknown --loss 'l1'"),
        ({"target_layers": ()}, "--target-layers needs at least one layer"),
        ({"source_layers": ("conv9_1",)}, "vgg16 has no layer 'conv9_1'"),
        ({"cycle_weight": -1.0}, "--cycle-weight must be at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **options)


def test_more_pictures_in_a_batch_than_there_are_is_refused():
    with pytest.raises(ValueError, match="--batch-size 11 is more than the 10 source pictures"):
        data.read_domains(dataclasses.replace(SMOKE, batch_size=11))


def test_a_plain_command_has_the_rate_of_its_loss():
    cycle = dataclasses.replace(VARIANTS["default"], loss="cyclegan")
    assert cycle.adam == (CHOSEN["cyclegan"], 0.5)
    assert VARIANTS["default"].adam == (CHOSEN["cx"], 0.9)


def test_the_rates_are_those_that_the_sweep_found_best():
    kept.check_rates(sweeps.collect(kept.read(EXPERIMENT, "tune")), CHOSEN)


def test_the_readme_shows_what_is_kept():
    assert kept.check_readme(EXPERIMENT) == 2 * (2 + 6) + (2 + 4) + (2 + 6)
