"""Kills a training process at random moments, again and again, and checks what is left each time.

    python tests/training/kill.py 20

Each child restores the newest checkpoint, compares every value with what its step must have, and
trains on, saving every few steps while it goes on, until SIGKILL. Its steps, and the saves begun
and finished, come through a pipe. At the end one line of JSON: kills, how many of them hit a save,
the steps reached and lost, and the seconds.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cxjax.training.checkpoint import Checkpoints

SAVE_EVERY = 3
SIZE = 1 << 20


def advance(state):
    x = state["params"]["x"] * np.uint32(1664525) + np.uint32(1013904223)
    key = jax.random.fold_in(state["key"], 1)
    return {"params": {"x": x, "y": (x >> 8).astype(jnp.bfloat16)}, "key": key}


def start():
    x = jnp.arange(SIZE, dtype=jnp.uint32)
    return {"params": {"x": x, "y": x.astype(jnp.bfloat16)}, "key": jax.random.key(7)}


def expected_x(step):
    x = np.arange(SIZE, dtype=np.uint32)
    for _ in range(step):
        x = x * np.uint32(1664525) + np.uint32(1013904223)
    return x


def check(state, step):
    x = expected_x(step)
    key = jax.random.key(7)
    for _ in range(step):
        key = jax.random.fold_in(key, 1)
    np.testing.assert_array_equal(state["params"]["x"], x)
    y = (x >> 8 if step else x).astype(jnp.bfloat16)
    np.testing.assert_array_equal(state["params"]["y"], y)
    np.testing.assert_array_equal(jax.random.key_data(state["key"]), jax.random.key_data(key))


def live(folder, pipe, last):
    say = lambda *words: os.write(pipe, (" ".join(map(str, words)) + "\n").encode())
    with Checkpoints(folder, config={"size": SIZE}, keep=2) as checkpoints:
        state, step = start(), 0
        if restored := checkpoints.restore(state):
            step, state, data = restored
            assert data == {"position": step}
        check(state, step)
        say("restored", step)
        if last:
            return
        move = jax.jit(advance, donate_argnums=0)
        pending = None
        while True:
            state, step = move(state), step + 1
            jax.block_until_ready(state)
            say("step", step)
            if step % SAVE_EVERY == 0:
                checkpoints.wait()
                if pending is not None:
                    say("saved", pending)
                say("saving", step)
                checkpoints.save(step, state, data={"position": step})
                pending = step


def fork(folder, last):
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        return child, os.fdopen(read)
    code = 1
    try:  # no JAX backend exists yet, so that each child can make its own
        os.close(read)
        live(folder, write, last)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(kills, seed=0):
    began, rng = time.perf_counter(), random.Random(seed)
    saved = saving = reached = 0
    counts = {"kills": 0, "in a save": 0, "steps": 0, "most steps lost": 0, "steps lost": 0}
    with tempfile.TemporaryDirectory() as folder:
        for life in range(kills + 1):
            child, lines = fork(folder, last=life == kills)
            first = lines.readline().split()
            assert first[:1] == ["restored"], "the child failed"
            restored = int(first[1])
            # What was saved is there, and nothing that was not begun; before it, nothing is lost.
            assert saved <= restored <= saving, (saved, restored, saving)
            lost = reached - restored
            assert 0 <= lost < 2 * SAVE_EVERY + 1, (reached, restored)
            counts["steps lost"] += lost
            counts["most steps lost"] = max(lost, counts["most steps lost"])
            if life < kills:
                time.sleep(rng.uniform(0, 0.5))
                os.kill(child, signal.SIGKILL)
                counts["kills"] += 1
            saved = saving = reached = restored
            for word, number in map(str.split, lines):
                saved = int(number) if word == "saved" else saved
                saving = int(number) if word == "saving" else saving
                reached = int(number) if word == "step" else reached
            _, status = os.waitpid(child, 0)
            if life < kills:
                assert os.WIFSIGNALED(status), "the child ended by itself"
                counts["in a save"] += any(Path(folder).glob("*tmp*"))
            else:
                assert status == 0, "the last child failed"
            counts["steps"] = max(reached, counts["steps"])
    counts["seconds"] = round(time.perf_counter() - began, 1)
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(int, sys.argv[2:]))
