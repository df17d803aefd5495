"""What the processes of one run tell each other, so that none waits for one that has failed.

Every process must call each of these in the same order. With a single process they do nothing.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

_KINDS = (OSError, ValueError, FloatingPointError)  # which the other processes raise alike
_TEXT = 1000  # bytes of the message that they are reason


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Runs a block in every process, and raises in all of them if it raises in one."""
    if jax.process_count() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    header, text = np.array([-1, 0], np.int32), np.zeros(_TEXT, np.uint8)
    if error is not None:
        kind = next((k for k, base in enumerate(_KINDS) if isinstance(error, base)), len(_KINDS))
        header[:] = kind, getattr(error, "errno", None) or 0
        message = f"{type(error).__name__}: {error}".encode()[:_TEXT]
        text[: len(message)] = np.frombuffer(message, np.uint8)
    headers, texts = multihost_utils.process_allgather((header, text))
    if error is not None:
        raise error
    for process, ((kind, number), other) in enumerate(zip(headers, texts, strict=True)):
        if kind >= 0:
            reason = other.tobytes().rstrip(b"\0").decode(errors="replace")
            message = f"process {process} failed: {reason}"
            if kind == 0:
                raise OSError(int(number), message)
            raise (*_KINDS, RuntimeError)[kind](message)


def gather(value: int) -> list[int]:
    """Tells every process a number of each."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.uint32(value)).tolist()
