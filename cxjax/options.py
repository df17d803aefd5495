"""Checks of arguments that parts which never import each other share."""

import operator
from typing import Any, get_args

import jax
import jax.numpy as jnp

from cxjax.types import AnyArray


def check_option(name: str, value: Any, options: Any, *, more: str = "") -> None:
    """Refuses a value that is none of a `Literal`'s.

    Args:
      name: Name of the option, for the message.
      value: Value given.
      options: A `Literal` type.
      more: What else would be right, for the message, such as `" or a function"`.

    Raises:
      ValueError: If `value` is none of `options`; it names them.
    """
    known = get_args(options)
    if not isinstance(value, str | int) or value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(map(repr, known))}{more}")


def check_integer(name: str, value: Any, *, least: int = 1, more: str = "") -> int:
    """Refuses a value that is no integer, or too small.

    Args:
      name: Name of the option, for the message.
      value: Value given.
      least: Smallest value that is right.
      more: What else would be right, for the message, such as `" or None"`.

    Returns:
      The value, a Python integer.

    Raises:
      ValueError: If it is no integer, or less than `least`; `True` is none.
      TypeError: If it is a JAX array, which may not be known when the program is built.
    """
    if isinstance(value, jax.Array):
        raise TypeError(f"{name} must be a Python integer, fixed when the program is built")
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {kind}{more}; got {value!r}")
    return operator.index(value)


def check_images(images: AnyArray) -> None:
    """Refuses what are not images: RGB in floating point, channels last.

    Args:
      images: Is to be `(h w 3)` or `(b h w 3)`.

    Raises:
      ValueError: If it has another shape, or is not floating point.
    """
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise ValueError(
            f"images must have shape (h w 3) or (b h w 3), RGB last; theirs is {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating point with values in [0, 1], not {images.dtype}; "
            "divide 8-bit images by 255"
        )
