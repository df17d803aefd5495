"""What the README shows runs."""

import importlib
import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import cxjax
from cxjax.data import images
from cxjax.models import resnet
from experiments.common import cli
from experiments.datasets import __main__ as datasets_main

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("experiments/*/README.md"))]
README = READMES[0].read_text()
PYTHON = r"```python\n(.*?)```"
EXAMPLES = re.findall(PYTHON, README, re.DOTALL)


def example(word):
    """The one block of the README that has a word."""
    (found,) = [code for code in EXAMPLES if word in code]
    return found


def test_the_loss_is_called_as_on_the_first_page(key):
    names = {"cxjax": cxjax, "x": jax.random.normal(key, (5, 3)), "y": jax.numpy.ones((4, 3))}
    exec(EXAMPLES[0], names)
    assert "bandwidth=0.5, epsilon=1e-5" in EXAMPLES[0]
    same = cxjax.contextual_loss(names["x"], names["y"], bandwidth=0.5, epsilon=1e-5)
    assert names["loss"] == same


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_is_painted_as_large_as_the_picture_is_read(tmp_path, monkeypatch, orientation):
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: a phone's portrait, turned when it is shown
    Image.new("RGB", (60, 40)).save("content.jpg", exif=exif)
    (code,) = re.findall(PYTHON, (ROOT / "experiments/style_transfer/README.md").read_text(), re.S)
    exec(code, {})
    assert images.read_image("a.png").shape == images.read_image("content.jpg").shape


def test_the_training_example_trains_on_pairs_of_different_sizes(key):
    code = example("def train_step")
    assert len([line for line in code.splitlines() if line.strip()]) < 25
    names = {}
    exec(code, names)
    source = jax.random.uniform(key, (2, 16, 24, 3))
    target = jax.random.uniform(jax.random.fold_in(key, 1), (2, 32, 20, 3))
    params = names["generator"].init(key, source)
    opt_state = names["optimizer"].init(params)
    losses = []
    for _ in range(8):
        params, opt_state, loss = names["train_step"](params, opt_state, source, target)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.01


def test_the_example_over_devices_equals_one_device(key):
    names = {}
    exec(example("jax.make_mesh"), names)
    assert names["rows"].size == 8
    x = jax.random.normal(key, (24, 5))
    y = jax.random.normal(jax.random.fold_in(key, 1), (13, 5))
    value, gradients = names["value_and_gradients"](x, y)
    one_device = jax.jit(jax.value_and_grad(cxjax.contextual_loss, (0, 1)))
    wanted, wanted_gradients = one_device(x, y)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for gradient, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-5)


class Small:
    """A network in place of the README's, whose parameters are drawn in one program."""

    def __init__(self):
        self.apply = resnet.small(width=4, blocks=1).apply
        self.init = jax.jit(resnet.small(width=4, blocks=1).init)


def test_the_generator_of_ones_own_is_trained_and_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    pictures = random.uniform(size=(9, 40, 52, 3)).astype(np.float32)
    Path("pictures").mkdir()
    for number, picture in enumerate(pictures[1:]):
        images.write_image(Path(f"pictures/{number}.png"), picture)
    images.write_image(Path("target.jpg"), pictures[0])
    code = example("Checkpoints(").replace("128, 300", "32, 2").replace("resnet.small()", "SMALL")
    code = code.replace("make_mesh()", "make_mesh(jax.devices()[:2])")  # eight take longer
    small = {"SMALL": Small()}
    exec(code, small)
    assert small["batch_size"] == 8
    assert int(small["state"].step) == 2
    exec(code.replace("32, 2", "32, 3"), {"SMALL": small["model"]})
    metrics = Path("out/painted/metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert [line["step"] for line in lines][-1] == 3
    images.write_image(Path("new.jpg"), pictures[0])
    exec(example("load_state").replace("resnet.small()", "SMALL"), {"SMALL": small["model"]})
    assert images.read_image("new.png").shape == (192, 250, 3)
    assert {"loss/style", "loss/content", "loss/palette"} <= set(lines[-1])


def test_the_ports_have_the_values_of_what_they_are_ported_from():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3, 5, 4, 6))  # (b, c, h, w) each
    names = {}
    exec(example("def s_aiueo32"), names)
    with jax.enable_x64(True):
        torch = float(names["s_aiueo32"](jax.numpy.asarray(x), jax.numpy.asarray(y), 0.3))
        last = [jax.numpy.asarray(np.moveaxis(a, 1, -1)) for a in (x, y)]
        tensorflow = float(names["authors"](last[1], last[0], sigma=0.3))
    np.testing.assert_allclose(torch, _port(x, y, 0.3, halved=1, inside=1e-5), rtol=1e-10)
    np.testing.assert_allclose(tensorflow, _port(x, y, 0.3, halved=2, inside=0), rtol=1e-10)
    assert abs(torch - tensorflow) > 1e-6
    assert abs(torch - _port(x, y, 0.3, halved=2, inside=1e-5)) > 1e-6


def _port(x, y, h, *, halved, inside):
    """Both codes' formula, from their public sources, in NumPy: `(b, c, h, w)` each."""
    mean = y.mean(axis=(0, 2, 3))[:, None]
    losses = []
    for made, target in zip(x, y, strict=True):
        a, b = (one.reshape(len(one), -1) - mean for one in (made, target))
        a, b = (one / np.linalg.norm(one, axis=0) for one in (a, b))
        distance = (1 - a.T @ b) / halved
        relative = distance / (distance.min(axis=1, keepdims=True) + 1e-5)
        weights = np.exp((1 - relative) / h)
        similarity = (weights / weights.sum(axis=1, keepdims=True)).max(axis=0).mean()
        losses.append(-np.log(similarity + inside))
    return np.mean(losses)


FAILURES = re.findall(r"^\| (`.+?) \| .+ \|$", README.partition("## When something")[2], re.M)


def test_the_messages_that_are_explained_are_those_of_the_code():
    """Those of this repository; what JAX and pip say is theirs."""
    source = "".join(path.read_text() for path in ROOT.glob("cxjax/**/*.py"))
    source += "".join(path.read_text() for path in ROOT.glob("experiments/**/*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings over several lines
    theirs = ("jvp", "RESOURCE_EXHAUSTED", "plugin", "pip", "apt-get")
    known = [one for line in FAILURES for one in re.findall(r"`(.+?)`", line)]
    assert len(known) > 8
    for message in known:
        if not any(word in message for word in theirs):
            pattern = (
                re.escape(message)
                .replace("nan", ".+?")
                .replace("vgg19", ".+?")
                .replace("npm", ".+?")
            )
            assert re.search(pattern, source), message


@pytest.mark.parametrize("path", READMES, ids=str)
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not link.startswith("http"):
            name, _, heading = link.partition("#")
            file = path.parent / name if name else path
            assert file.exists(), link
            if heading:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                plain = (re.sub(r"[^\w\s-]", "", one).lower() for one in headings)
                assert heading in [one.replace(" ", "-") for one in plain], link


def _commands(text):
    """`(module, arguments)` of every `python -m experiments` in code blocks and in inline code."""
    fence = r"^```\w*\n(.*?)^```"
    blocks = re.findall(fence, text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    prose = re.sub(fence, "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        # A quote ends the command that another one is given, a redirection its arguments.
        if found := re.search(r"python -m (experiments(?:\.(?!NAME)\w+)?)(?![\w.])([^\">]*)", line):
            words = shlex.split(found[2], comments=True)
            words = [re.sub(r"^\[(.+)\]$", r"\1", word) for word in words]  # what may be left out
            yield found[1], tuple(word for word in words if word != "...")


COMMANDS = dict.fromkeys(one for path in READMES for one in _commands(path.read_text()))


def _status_of(module, arguments, monkeypatch):
    """The exit status of a command line that is read, and of which nothing is run."""
    found = importlib.import_module(f"{module}.__main__")
    monkeypatch.setattr(datasets_main, "_prepare", lambda *_: None)
    monkeypatch.setattr(cli, "_last_run", lambda config: config.default_out)  # for --resume
    monkeypatch.setattr(cli, "read_config", lambda kind, folder: kind())
    for name in ("make", "export"):  # of grids
        monkeypatch.setattr(cli, name, lambda *_, **__: None)
    try:
        if not hasattr(found, "EXPERIMENT"):
            return found.main(arguments)
        known = found.EXPERIMENT.commands.items()
        commands = {name: (kind, lambda _: None) for name, (kind, _) in known}
        experiment = found.EXPERIMENT._replace(run=lambda _: None, commands=commands)
        return cli.main(experiment, arguments)
    except SystemExit as end:  # of --help, and of options that are none
        return end.code


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: " ".join((one[0], *one[1])))
def test_command_lines_are_those_of_the_experiments(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()  # the reader's own
    assert _status_of(*command, monkeypatch) == 0, capsys.readouterr()


def test_a_wrong_command_line_is_seen(monkeypatch, capsys):
    text = """
```python
x = 1
```
Text `python -m
experiments.benchmark --szies 3`, `--out`, `python -c pass`.
```bash
.venv/bin/python -m experiments.benchmark [--repeats] \\
    1 ...   # that's a comment
python -m experiments.domain_transfer nothing --help
```
"""
    commands = list(_commands(text))
    assert commands == [
        ("experiments.benchmark", ("--repeats", "1")),
        ("experiments.domain_transfer", ("nothing", "--help")),
        ("experiments.benchmark", ("--szies", "3")),
    ]
    assert _status_of(*commands[0], monkeypatch) == 0
    assert _status_of(*commands[2], monkeypatch) == 2
    assert "szies" in capsys.readouterr().err
