"""Options that are named by a word."""

from typing import Any, get_args


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
