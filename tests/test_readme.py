"""What the README shows runs."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import cxjax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_training_example_trains_on_pairs_of_different_sizes(key):
    code, _ = EXAMPLES
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
    exec(EXAMPLES[1], names)
    assert names["rows"].size == 8
    x = jax.random.normal(key, (24, 5))
    y = jax.random.normal(jax.random.fold_in(key, 1), (13, 5))
    value, gradients = names["value_and_gradients"](x, y)
    one_device = jax.jit(jax.value_and_grad(cxjax.contextual_loss, (0, 1)))
    wanted, wanted_gradients = one_device(x, y)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for gradient, want in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted(ROOT.glob("experiments/*/README.md"))], ids=str
)
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link
