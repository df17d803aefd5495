"""Strictness for every test: no rank promotion, eight simulated CPU devices, warnings as errors."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked_types():
    """Turns the annotation checks off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
