"""The state of a training run: a pytree of arrays, and nothing else."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Optimizer = optax.GradientTransformation | optax.MultiSteps


@flax.struct.dataclass
class TrainState:
    """What a train step reads and returns. Arrays only, so it can be jitted, sharded and saved.

    Attributes:
      step: Number of steps taken, an integer scalar.
      params: Parameters of what is trained.
      opt_state: State of the optimiser.
      ema: Exponential moving average of the parameters, or None if none is kept.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any = None

    @classmethod
    def create(cls, *, params: Any, optimizer: Optimizer, ema: bool = False) -> "TrainState":
        """The state before the first step.

        Args:
          params: Parameters of what is trained, a pytree of arrays.
          optimizer: Optimiser that will update them, `optax.MultiSteps` among them.
          ema: Whether to keep a moving average of the parameters, which starts at `params`.

        Returns:
          The state, with `step` 0.

        Raises:
          ValueError: If `params` holds no arrays.
        """
        if not jax.tree.leaves(params):
            raise ValueError(f"params holds no arrays; got {params!r}")
        params = jax.tree.map(jnp.asarray, params)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            # A copy: a step that donates its state may not be given one array twice.
            ema=jax.tree.map(jnp.copy, params) if ema else None,
        )


def layer_groups(params: Any) -> dict[str, Any]:
    """The parts of a tree of parameters that a message or a curve can name.

    Args:
      params: Parameters. Levels with a single entry, such as Flax's `{"params": ...}`, are passed.

    Returns:
      The first level with several entries, by name; `{"params": params}` where there is none.
    """
    tree = params
    while isinstance(tree, Mapping) and len(tree) == 1:
        tree = next(iter(tree.values()))
    if not isinstance(tree, Mapping) or not tree:
        return {"params": params}
    return {str(name): part for name, part in tree.items()}
