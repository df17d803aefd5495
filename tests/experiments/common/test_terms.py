"""The terms of objectives: by name, over layers and batches, and each with its own gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cxjax
from experiments.common import terms


def maps(key, *shape, layers=("a", "b")):
    return {
        layer: jax.random.uniform(jax.random.fold_in(key, n), shape)
        for n, layer in enumerate(layers)
    }


def test_losses_are_known_by_name(key):
    x, y = jax.random.uniform(key, (2, 7, 3))
    wanted = cxjax.contextual_loss(x, y, bandwidth=0.2)
    assert terms.loss_of("contextual", bandwidth=0.2)(x, y) == wanted
    assert terms.loss_of("l1")(x, y) == cxjax.l1_loss(x, y)
    halved = cxjax.relaxed_earth_mover_loss(x, y)
    np.testing.assert_allclose(terms.loss_of("relaxed_earth_mover")(x, y), 2 * halved, rtol=1e-6)
    with pytest.raises(ValueError, match="no loss 'l3'; known: contextual, contextual_bilateral"):
        terms.loss_of("l3")


@pytest.mark.parametrize("name", ["perceptual", "gram", "squared"])
def test_losses_of_features_are_shares_of_the_references_size(key, name):
    x, y = jax.random.uniform(key, (2, 7, 3))
    loss = terms.loss_of(name)
    np.testing.assert_allclose(loss(jnp.zeros_like(y), y), 1, rtol=1e-6)
    np.testing.assert_allclose(loss(5 * x, 5 * y), loss(x, y), rtol=1e-5)
    assert loss(x, y) > 0.01


def test_a_loss_is_summed_over_layers_and_averaged_over_the_batch(key):
    made, given = maps(key, 2, 4, 5, 3), maps(jax.random.fold_in(key, 9), 2, 4, 5, 3)
    l2 = lambda a, b: float(np.square(np.asarray(a) - np.asarray(b)).mean())
    wanted = np.mean([sum(l2(made[of][n], given[of][n]) for of in "ab") for n in range(2)])
    found = terms.over_batch(cxjax.l2_loss, made, given, ("a", "b"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    one = {of: given[of][0] for of in "ab"}  # the same reference for all
    wanted = np.mean([l2(made["b"][n], one["b"]) for n in range(2)])
    np.testing.assert_allclose(
        terms.over_batch(cxjax.l2_loss, made, one, ("b",)), wanted, rtol=1e-5
    )


def test_target_and_source_are_weighed_and_the_source_may_be_left_out(key):
    made, target, source = (maps(jax.random.fold_in(key, n), 2, 4, 5, 3) for n in range(3))
    call = lambda layers: terms.to_target_and_source(
        made,
        target,
        source,
        losses=(cxjax.l1_loss, cxjax.l2_loss),
        layers=layers,
        source_weight=0.25,
    )
    loss, parts = call((("a", "b"), ("b",)))
    to_target = terms.over_batch(cxjax.l1_loss, made, target, ("a", "b"))
    to_source = terms.over_batch(cxjax.l2_loss, made, source, ("b",))
    assert parts == {"target": to_target, "source": to_source}
    np.testing.assert_allclose(loss, to_target + to_source / 4, rtol=1e-6)
    loss, parts = call((("a", "b"), ()))
    assert parts == {"target": to_target}
    assert loss == to_target


def test_each_side_of_an_adversarial_loss_has_the_gradient_of_its_own(key):
    real, fake = jax.random.uniform(key, (2, 4, 5, 5, 2))
    judge = lambda params, images: jnp.tanh((images * params.reshape(1, 1, 1, 2)).sum(-1))
    params = jnp.array([0.7, -1.2])
    together = lambda p, f: sum(terms.adversarial(judge, p, real=real, fake=f).values())
    of_judge, of_fake = jax.grad(together, argnums=(0, 1))(params, fake)
    mistakes = lambda p: ((judge(p, real) - 1) ** 2).mean() / 2 + (judge(p, fake) ** 2).mean() / 2
    np.testing.assert_allclose(of_judge, jax.grad(mistakes)(params), rtol=1e-5)
    fooled = lambda f: ((judge(params, f) - 1) ** 2).mean()
    np.testing.assert_allclose(of_fake, jax.grad(fooled)(fake), rtol=1e-5)
    assert np.abs(of_judge).min() > 1e-3
    assert np.abs(of_fake).max() > 1e-3
