"""Strictness for every test: no rank promotion, eight simulated CPU devices, warnings as errors.

Most of the tests' time is tracing and compilation. LLVM's expensive passes are left out, and the
emitters by which XLA compiles fusions, for which it has plainer ones too: that changes how fast a
program runs and how it rounds, not what it computes. The experiment that CI runs has both, and the
tests of memory have the emitters (`memory.py`). Python looks for garbage cycles less often.
"""

import gc
import os

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):  # a version without the flag would not start with it
    # Read when JAX makes its first array; the processes that tests start have it too.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags
os.environ["CXJAX_COMPILATION_CACHE"] = "0"  # nothing depends on what the user has compiled before
gc.set_threshold(50_000)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked_types():
    """Turns the annotation checks off, so that a test sees the error that a user sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
