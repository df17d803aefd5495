"""Experiments with cxjax: `python -m experiments` lists them."""

import os

# Each program that XLA takes from the cache of compiled programs on a CPU is reported as an error,
# for a difference that XLA itself made. To be set before JAX is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
