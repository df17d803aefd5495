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
from PIL import Image

from cxjax.data import images
from experiments import cli
from experiments.style_transfer import objective, pyramid, train
from experiments.style_transfer.config import VARIANTS

ROOT = Path(__file__).parents[2]
SMOKE = VARIANTS["smoke"]
# Half of what the smoke variant's layers take to compile. One run has those, and so has a process.
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


def test_smoke_writes_everything_and_the_loss_falls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = train.run(SMOKE)
    folder = tmp_path / "out/style_transfer/astronaut-grace_hopper-contextual"
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
    content, _ = train.load_pair(SMOKE)
    result = images.read_image(folder / "result.png")
    assert result.shape == (48, 48, 3)
    assert np.abs(result - images.resize(content, longest_side=48)).mean() > 0.01
    assert images.read_image(folder / "strip.png").shape == (48, 3 * 48 + 2 * 4, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "gram"},
        {"loss": "perceptual"},
        {"layers": "concatenated", "grid": "conv3_1", "direction": "symmetric"},
        {"pyramid_levels": 1, "optimizer": "adam"},
    ],
    ids=str,
)
def test_every_loss_runs_on_a_users_own_pictures(tmp_path, pair, changes):
    # From noise: at the content itself the baselines' absolute differences have a kink.
    places = {"content": pair[0], "target": pair[1], "out": tmp_path / "out", "initial": "noise"}
    train.run(settings(scales=(1.0,), steps=(4,), **places, **changes))
    assert images.read_image(tmp_path / "out/result.png").shape == (32, 48, 3)
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "out/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert losses[-1] < losses[0]


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

    original = train.optimize
    monkeypatch.setattr(train, "optimize", interrupt)
    results = train.run(settings(out=tmp_path / "out"))
    assert results["last_step"]["step"] == finished
    assert images.read_image(tmp_path / "out/result.png").shape == (48, 48, 3)
    printed = capsys.readouterr().out
    assert ("no step was finished" in printed) == (finished == 0)
    assert "nan" not in printed


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path, monkeypatch):
    original = train.make_objective

    def broken(config, model):
        def with_nan(image, *references):
            loss, terms = original(config, model)(image, *references)
            return loss * jnp.nan, {**terms, "loss": loss * jnp.nan}

        return with_nan

    monkeypatch.setattr(train, "make_objective", broken)
    config = settings(out=tmp_path / "out", scales=(1.0,), steps=(3,))
    with pytest.raises(FloatingPointError, match="became nan at step 1.*learning-rate"):
        train.run(config)


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


def test_concatenation_resizes_and_divides_by_channels():
    config = settings(style_layers=("conv2_1", "conv3_1"), grid="conv2_1")
    features = {"conv2_1": jnp.full((8, 6, 4), 4.0), "conv3_1": jnp.full((4, 3, 10), 5.0)}
    joined = objective.concatenate(features, config)
    assert joined.shape == (8, 6, 14)
    np.testing.assert_allclose(joined[..., :4], 1.0)
    np.testing.assert_allclose(joined[..., 4:], 0.5)


def test_every_level_moves_by_the_learning_rate(key):
    config = settings(learning_rate=0.02)
    pieces = pyramid.split(jax.random.uniform(key, (32, 32, 3)), 3)
    gradients = jax.tree.map(lambda a: jnp.sin(1e4 * a), pieces)
    optimizer = train.make_optimizer(config, 10)
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
        style = lambda features, config=config: objective._style(config, features, target)
        assert style(target) == 0
        np.testing.assert_allclose(style({"conv2_1": jnp.zeros((4, 4, 8))}), 1.0)


# --- What a user can get wrong ---


def fails(capsys, *arguments):
    """Runs the command line and returns what it printed as an error, without its line breaks."""
    try:
        status = cli.main(
            train.run,
            VARIANTS,
            module="experiments.style_transfer",
            description="",
            arguments=arguments,
        )
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
