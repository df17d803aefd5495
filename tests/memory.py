"""What a compiled program holds."""

import os

import jax


def analysis(f, *arguments):
    """XLA's account, for one device, of the program with the emitters that conftest.py leaves out.

    Args:
      f: The function, not yet compiled.
      *arguments: What it would be called with: arrays, or their shapes and dtypes.
    """
    option = "xla_cpu_use_fusion_emitters"
    as_users_have_it = {option: True} if option in os.environ.get("XLA_FLAGS", "") else None
    compiled = jax.jit(f).lower(*arguments).compile(compiler_options=as_users_have_it)
    return compiled.memory_analysis()
