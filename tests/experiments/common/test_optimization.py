"""Steps of gradient descent: each is yielded, timed without compilation, and must be finite."""

import jax
import jax.numpy as jnp
import pytest

from experiments.common import optimization


class Bar:
    moved = 0
    said = ()

    def update(self):
        self.moved += 1

    def set_postfix_str(self, text):
        self.said += (text,)


@jax.jit
def step(x, rate):
    loss, slope = jax.value_and_grad(lambda x: x**2)(x)
    return x - rate * slope, {"loss": loss}


def test_every_step_is_given_its_own_arguments_and_is_yielded():
    asked, bar = [], Bar()

    def arguments(number):
        asked.append(number)
        return (jnp.float32([0.25, 0.5, 0.125][number]),)

    found = list(optimization.descend(step, jnp.float32(8), arguments, steps=3, bar=bar))
    assert [float(progress.state) for progress in found] == [4, 0, 0]
    assert [progress.metrics for progress in found] == [{"loss": 64}, {"loss": 16}, {"loss": 0}]
    seconds = [progress.seconds for progress in found]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert asked[-3:] == [0, 1, 2]
    assert bar.moved == 3
    assert bar.said == ("compiling", "")


def test_the_step_is_compiled_once():
    traced = []

    @jax.jit
    def counted(x):
        traced.append(x)
        return x + 1, {"loss": x}

    list(optimization.descend(counted, jnp.float32(0), lambda _: (), steps=5))
    assert len(traced) == 1


def test_a_loss_that_is_not_finite_ends_it_and_says_where():
    steps = optimization.descend(
        step, jnp.float32(1), lambda _: (jnp.float32(-1e15),), steps=9, first=10
    )
    with pytest.raises(
        FloatingPointError, match=r"the loss became inf at step 13: .*learning-rate"
    ):
        list(steps)
