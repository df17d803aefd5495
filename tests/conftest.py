"""Strictness for every test: no rank promotion, eight simulated CPU devices, warnings as errors.

Most of the tests' time is compilation: LLVM's expensive passes are left out, which changes how fast
a program runs and how it rounds, not what it computes. The experiment that CI runs has them.
"""

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked_types():
    """Turns the annotation checks off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
