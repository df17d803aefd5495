"""The loop: what it writes, and that a run survives being stopped, killed by a NaN, and resumed."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cxjax
from cxjax.data.pipeline import batches
from cxjax.training import devices, logs, loop
from cxjax.training.checkpoint import Checkpoints
from cxjax.types import Batches

KEY = jax.random.key(7)


class Numbers(Batches):
    """Batches whose values tell which they are."""

    def __init__(self, end=None, before=lambda number: None):
        self.number, self.end, self.before = 0, end, before

    def __next__(self):
        if self.number == self.end:
            raise StopIteration
        self.before(self.number)
        self.number += 1
        return self.make(np.random.default_rng(self.number))

    def make(self, rng):
        return {"x": rng.normal(size=(8, 3)).astype(np.float32)}

    def get_state(self):
        return {"next_index": self.number}

    def set_state(self, state):
        self.number = state["next_index"]


def loss_fn(params, batch, key):
    made = jnp.tanh(batch["x"] @ params["first"]["w"]) @ params["second"]["w"]
    noise = jax.random.normal(key, made.shape)
    loss = jnp.square(made - noise).mean()
    return loss, {"loss/noise": loss, "size": jnp.abs(made).mean()}


OPTIMIZER = optax.adam(0.05)


def start():
    w = jnp.linspace(-1, 1, 12).reshape(3, 4)
    params = {"first": {"w": w}, "second": {"w": w.T}}
    return cxjax.TrainState.create(params=params, optimizer=OPTIMIZER, ema=True)


@pytest.fixture(scope="module")
def mesh():
    return devices.make_mesh(jax.devices()[:2])


@pytest.fixture(scope="module")
def step_fn(mesh):
    return devices.make_parallel_step(loss_fn, OPTIMIZER, mesh=mesh, ema_decay=0.9)


def run(step_fn, mesh, folder, batches=None, *, config=None, **options):
    options = {"steps": 12, "save_every": 5, "log_every": 4, "key": KEY, "mesh": mesh} | options
    with Checkpoints(folder / "checkpoints", config=config or {}) as checkpoints:
        state = loop.train(
            step_fn,
            devices.replicate(start(), mesh),
            batches or Numbers(),
            folder=folder,
            checkpoints=checkpoints,
            **options,
        )
    return jax.device_get(state)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(found, expected):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.fixture(scope="module")
def whole(step_fn, mesh, tmp_path_factory):
    """The uninterrupted run: its folder and its last state."""
    folder = tmp_path_factory.mktemp("whole")
    seen = []

    def hook(state):
        seen.append(int(state.step))
        return {"evaluation": float(state.params["first"]["w"][0, 0]), "grid": np.ones((4, 5, 3))}

    return folder, run(step_fn, mesh, folder, hooks=[loop.Hook(5, hook)]), seen


def test_every_interval_has_a_line_of_means(step_fn, mesh, whole):
    folder, state, seen = whole
    assert int(state.step) == 12
    assert seen == [0, 5, 10, 12]
    found = lines(folder)
    assert [line["step"] for line in found if "loss" in line] == [4, 8, 12]
    assert [line["step"] for line in found if "evaluation" in line] == [0, 5, 10, 12]
    # The same steps by hand.
    by_hand, batches, losses = devices.replicate(start(), mesh), Numbers(), []
    for _ in range(12):
        batch = devices.split(next(batches), mesh)
        by_hand, metrics = step_fn(by_hand, batch, devices.replicate(KEY, mesh))
        losses.append(float(metrics["loss"]))
    means = [line["loss"] for line in found if "loss" in line]
    np.testing.assert_allclose(means, np.reshape(losses, (3, 4)).mean(axis=1), rtol=1e-6)
    assert same(by_hand, state)
    line = next(line for line in found if "loss" in line)
    assert {"size", "loss/noise", "grad_norm", "grad_norm/first", "grad_norm/second"} < line.keys()
    assert line["images_per_second"] > 0
    assert 0 < line["data_wait"] < 1
    assert any((folder / "tensorboard").iterdir())


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    step_fn, mesh, whole, tmp_path, caplog
):
    caplog.set_level("INFO", "cxjax")

    def terminate(number):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped, match=r"SIGTERM after step 7; all is saved in .*checkpoints"):
        run(step_fn, mesh, tmp_path, Numbers(before=terminate))
    assert signal.getsignal(signal.SIGTERM) is before
    with (tmp_path / "metrics.jsonl").open("a") as log:  # what a kill would have left
        log.write(json.dumps({"step": 9, "loss": 0.0}) + '\n{"step": 1')
    assert "is at step" not in caplog.text
    state = run(step_fn, mesh, tmp_path)
    assert "checkpoints is at step 7 of 12: resuming" in caplog.text
    assert same(state, whole[1])
    found = lines(tmp_path)
    run(step_fn, mesh, tmp_path)
    assert "checkpoints is at step 12 of 12: nothing is left to do" in caplog.text
    assert [line["step"] for line in found] == [4, 7, 8, 12]  # what there was is told at the stop
    first, part, rest, last = (line["loss"] for line in found)
    wanted = [line["loss"] for line in lines(whole[0]) if "loss" in line]
    np.testing.assert_allclose([first, (3 * part + rest) / 4, last], wanted, rtol=1e-6)


def test_the_real_iterator_goes_on_where_it_was(step_fn, mesh, tmp_path):
    class Pixels(Batches):
        """Random crops of images, each as the numbers of its corner."""

        def __init__(self, before=lambda number: None):
            images = np.random.default_rng(0).random((20, 6, 6, 3), np.float32)
            self.inner = batches(images, batch_size=8, seed=3, size=(4, 4), flip=True)
            self.get_state, self.set_state = self.inner.get_state, self.inner.set_state
            self.number, self.before = 0, before

        def __next__(self):
            self.before(self.number)
            self.number += 1
            return {"x": next(self.inner)["image"][:, 0, 0]}

    def terminate(number):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    wanted = run(step_fn, mesh, tmp_path / "whole", Pixels())
    with pytest.raises(loop.Stopped):
        run(step_fn, mesh, tmp_path / "parts", Pixels(terminate))
    assert same(run(step_fn, mesh, tmp_path / "parts", Pixels()), wanted)
    assert not same(run(step_fn, mesh, tmp_path / "others", Numbers()), wanted)


@pytest.mark.parametrize("last", [5, 12])
def test_no_evaluation_is_lost_where_a_run_stops(step_fn, mesh, tmp_path, last):
    def terminate(number):
        if number == last - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = loop.Hook(5, lambda state: {"evaluation": float(state.step)})
    try:
        run(step_fn, mesh, tmp_path, Numbers(before=terminate), hooks=[hook])
    except loop.Stopped:
        run(step_fn, mesh, tmp_path, hooks=[hook])
    found = [line["evaluation"] for line in lines(tmp_path) if "evaluation" in line]
    assert found == [0, 5, 10, 12]


def test_another_position_in_the_data_would_be_seen(step_fn, mesh, whole, tmp_path):
    class Forgetful(Numbers):
        def set_state(self, state):
            pass

    run(step_fn, mesh, tmp_path, steps=5)
    assert not same(run(step_fn, mesh, tmp_path, Forgetful()), whole[1])


def test_a_second_interrupt_ends_at_once(step_fn, mesh, tmp_path):
    def interrupt(number):
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(step_fn, mesh, tmp_path, Numbers(before=interrupt))


def test_a_nan_stops_the_run_and_is_not_saved(step_fn, mesh, tmp_path):
    class Broken(Numbers):
        def __next__(self):
            batch = super().__next__()
            if self.number == 8:
                batch["x"][3, 1] = np.nan
            return batch

    with pytest.raises(
        FloatingPointError, match=r"step 8: .*loss = nan.*not finite: first, second\. Nothing was"
    ):
        run(step_fn, mesh, tmp_path, Broken(), save_every=4)
    with Checkpoints(tmp_path / "checkpoints", config={}) as checkpoints:
        restored = checkpoints.restore(devices.replicate(start(), mesh))
    assert restored is not None
    assert restored.step == 4
    assert [line["step"] for line in lines(tmp_path)] == [4, 7]  # what led to it is told


def scripted(values):
    """A step whose metrics are as given: step number -> metrics."""

    def step_fn(state, batch, key):
        return state.replace(step=state.step + 1), values(int(state.step) + 1)

    return step_fn


FINITE = {"loss": 1.0, "loss/style": 0.5, "grad_norm": 1.0, "grad_norm/a": 1.0, "grad_norm/b": 1.0}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["loss"], r"step 3: loss = \S+; gradients that are not finite: none\. Nothing"),
        (["loss/style"], r"step 3: loss/style = \S+; gradients that are not finite: none\."),
        (["grad_norm", "grad_norm/b"], r"step 3: grad_norm = \S+; .* finite: b\."),
        (["grad_norm/a"], r"step 3: grad_norm/a; .* finite: a\."),
    ],
)
def test_a_loss_a_term_or_a_gradient_that_is_not_finite_stops(mesh, names, message, value):
    metrics = lambda number: FINITE | dict.fromkeys(names if number == 3 else (), value)
    options = {"key": KEY, "steps": 5, "mesh": mesh}
    with pytest.raises(FloatingPointError, match=message):
        loop.train(scripted(metrics), start(), Numbers(), **options)


def test_other_metrics_may_be_infinite_and_the_lines_are_json(mesh, tmp_path, caplog):
    odd = {3: np.inf, 4: -np.inf, 6: np.nan}
    metrics = lambda number: FINITE | {"psnr": odd.get(number, 30.0), "size": 2.0}
    score = loop.Hook(4, lambda state: {"score": np.inf if state.step == 4 else 1.0, "best": 2.0})
    options = {"key": KEY, "steps": 8, "log_every": 2, "mesh": mesh, "hooks": [score]}
    loop.train(scripted(metrics), start(), Numbers(), folder=tmp_path, **options)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=refuse) for line in text]
    steps = [line for line in found if "psnr" in line]
    assert [line["psnr"] for line in steps] == [30, None, None, 30]
    assert [line.get("not_finite") for line in steps] == [None, ["psnr"], ["psnr"], None]
    assert all(line["size"] == 2 for line in steps)
    scores = [line for line in found if "best" in line]
    assert [line["score"] for line in scores] == [1, None, 1]
    assert [line.get("not_finite") for line in scores] == [None, ["score"], None]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["step 4: psnr is nan, written as null", "step 4: score is inf, written as null"]


@pytest.mark.parametrize("name", ["step", "images_per_second", "data_wait", "not_finite"])
def test_the_names_of_a_lines_own_fields_are_refused(mesh, name):
    options = {"key": KEY, "steps": 2, "mesh": mesh}
    with pytest.raises(ValueError, match=rf"names of the log's own: \['{name}'\]"):
        loop.train(scripted(lambda number: {**FINITE, name: 1.0}), start(), Numbers(), **options)
    hook = loop.Hook(1, lambda state: {name: 1.0})
    with pytest.raises(ValueError, match=rf"names of the log's own: \['{name}'\]"):
        loop.train(scripted(lambda number: FINITE), start(), Numbers(), hooks=[hook], **options)


class Fetched:
    """A metric on the device, until it is fetched."""

    def __init__(self, on_fetch):
        self.on_fetch = on_fetch

    def __array__(self, dtype=None, copy=None):
        self.on_fetch()
        return np.float32(1.0)


# By a clock that only moves where something is done: a step 3 s, its data 1 s.
@pytest.mark.parametrize(
    ("log_every", "hook_every", "expected"),
    [
        (4, None, [(4, 24 / 12, 3 / 12), (8, 32 / 15, 3 / 15)]),
        (4, 4, [(4, 24 / 11, 2 / 11), (8, 32 / 16, 4 / 16)]),  # a hook waits for the last step
        (1, None, [*((step, 8 / 4, 1 / 4) for step in range(2, 8)), (8, 8 / 3, 0)]),
    ],
)
def test_the_rate_leaves_out_the_first_step_and_the_hooks(
    mesh, tmp_path, monkeypatch, log_every, hook_every, expected
):
    now = 0.0

    def spend(seconds):
        nonlocal now
        now += seconds

    def metrics(number):
        spend(1000 if number == 1 else 0)  # compiled
        return {"loss": Fetched(lambda: spend(3))}

    monkeypatch.setattr(logs.time, "perf_counter", lambda: now)
    data = Numbers(before=lambda number: spend(1 if number else 500))
    hooks = [loop.Hook(hook_every, lambda state: spend(70) or {})] if hook_every else []
    options = {"key": KEY, "steps": 8, "log_every": log_every, "mesh": mesh, "hooks": hooks}
    loop.train(scripted(metrics), start(), data, folder=tmp_path, **options)
    found = lines(tmp_path)
    if log_every == 1:
        assert found.pop(0).keys() == {"step", "loss"}  # of that step alone there is no rate
    rates = [(line["step"], line["images_per_second"], line["data_wait"]) for line in found]
    np.testing.assert_allclose(rates, expected)


def test_the_next_step_is_dispatched_before_the_last_metrics_are_fetched(mesh, tmp_path):
    events = []

    def step_fn(state, batch, key):
        number = int(state.step) + 1
        events.append(("dispatch", number))
        return state.replace(step=state.step + 1), {
            "loss": Fetched(lambda: events.append(("fetch", number)))
        }

    loop.train(step_fn, start(), Numbers(), key=KEY, steps=3, mesh=mesh)
    assert events == [
        ("dispatch", 1),
        ("dispatch", 2),
        ("fetch", 1),
        ("dispatch", 3),
        ("fetch", 2),
        ("fetch", 3),
    ]


def test_a_trace_of_a_few_steps_is_written(step_fn, mesh, tmp_path):
    run(step_fn, mesh, tmp_path, steps=5, profile=2)
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_what_cannot_be_run_is_refused(step_fn, mesh, tmp_path):
    with pytest.raises(ValueError, match="save_every must be a positive integer; got 0"):
        run(step_fn, mesh, tmp_path, save_every=0)
    with pytest.raises(ValueError, match="the batches ended before step 4"):
        run(step_fn, mesh, tmp_path / "a", Numbers(end=3))
    for batch, message in (
        ({"number": np.int32(3), "x": np.ones((8, 3))}, r"divide over the 2 .*has shape \(\)"),
        ({}, "the batch holds no arrays"),
    ):
        data = Numbers()
        data.make = lambda rng, batch=batch: batch
        with pytest.raises(ValueError, match=message):
            run(step_fn, mesh, tmp_path / "c", data)
    run(step_fn, mesh, tmp_path / "b", steps=5)
    with pytest.raises(ValueError, match="has taken 5 steps already; steps=4 is fewer"):
        run(step_fn, mesh, tmp_path / "b", steps=4)
