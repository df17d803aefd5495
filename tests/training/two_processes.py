"""One of the processes of a run on several hosts: `test_processes.py` starts two of them.

`python two_processes.py COORDINATOR COUNT INDEX FOLDER STEPS`; a COUNT of 1 is the run to compare
with, on the same number of devices.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cxjax
from cxjax.training import devices, loop
from cxjax.training.checkpoint import Checkpoints
from cxjax.types import Batches


class Shard(Batches):
    """This process's part of each batch: every so-manieth example."""

    def __init__(self, index, count):
        self.number, self.index, self.count = 0, index, count

    def __next__(self):
        self.number += 1
        rng = np.random.default_rng(self.number)
        x = rng.normal(size=(8, 12, 3))
        return {"x": x[self.index :: self.count], "index": np.arange(8)[self.index :: self.count]}

    def get_state(self):
        return {"next_index": self.number}

    def set_state(self, state):
        self.number = state["next_index"]


def loss_fn(params, batch, key):
    made = jnp.tanh(batch["x"] @ params["w"])
    return jax.vmap(cxjax.contextual_loss)(made, batch["x"] ** 2).mean(), {"made": made.mean()}


def main(coordinator, count, index, folder, steps):
    jax.config.update("jax_enable_x64", True)  # so that only a mistake can tell the runs apart
    jax.config.update("jax_num_cpu_devices", 4 // int(count))
    if int(count) > 1:
        devices.initialize_processes(
            coordinator=coordinator, process_count=int(count), process_index=int(index)
        )
    optimizer = optax.adam(0.05)
    mesh = devices.make_mesh()
    assert mesh.size == 4
    step_fn = devices.make_parallel_step(loss_fn, optimizer, mesh=mesh)
    params = {"w": jnp.eye(3) + 0.1}
    state = devices.replicate(cxjax.TrainState.create(params=params, optimizer=optimizer), mesh)
    if int(count) > 1:
        same = Shard(0, int(count))
        with pytest.raises(ValueError, match="the processes were given the same examples"):
            loop.train(step_fn, state, same, key=jax.random.key(0), steps=1, mesh=mesh)
    with Checkpoints(Path(folder) / "checkpoints", config={}) as checkpoints:
        state = loop.train(
            step_fn,
            state,
            Shard(int(index), int(count)),
            key=jax.random.key(0),
            steps=int(steps),
            mesh=mesh,
            folder=folder,
            checkpoints=checkpoints,
            save_every=2,
            log_every=1,
        )
    sys.stdout.write(json.dumps(np.asarray(state.params["w"]).tolist()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
