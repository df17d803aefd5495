"""Types that parts which never import each other share."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray


@runtime_checkable
class Batches(Protocol):
    """An iterator of batches whose position can be saved, such as a grain `DatasetIterator`.

    A class that inherits from it is its own iterator.
    """

    def __iter__(self) -> Iterator[Any]:
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next batch, a pytree of arrays `(b, ...)`."""
        ...

    def get_state(self) -> Any:
        """The position.

        Returns:
          What JSON can hold.
        """

    def set_state(self, state: Any, /) -> None:
        """Goes to a position.

        Args:
          state: What `get_state` returned.
        """
