"""The train step: against a plain one by hand, and on eight devices in every way it can be run."""

import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cxjax
from cxjax.training import devices
from cxjax.training.step import example_keys

WIDTH = 4


def quadratic(params, batch, key):
    error = batch["x"] @ params["w"] + params["b"][None] - batch["y"]
    return jnp.square(error).mean(), {"absolute": jnp.abs(error).mean()}


@pytest.fixture
def batch(key):
    x, y = jax.random.normal(key, (2, 8, WIDTH))
    return {"x": x, "y": y}


def start(optimizer, ema=False):
    w = jnp.linspace(-1, 1, WIDTH * WIDTH).reshape(WIDTH, WIDTH)
    params = {"w": w, "b": jnp.zeros(WIDTH)}
    return cxjax.TrainState.create(params=params, optimizer=optimizer, ema=ema)


def test_a_step_is_gradient_descent(key, batch):
    state, metrics = cxjax.make_train_step(quadratic, optax.sgd(0.1))(
        start(optax.sgd(0.1)), batch, key
    )
    before = np.asarray(start(optax.sgd(0.1)).params["w"])
    x, y = np.asarray(batch["x"]), np.asarray(batch["y"])
    error = x @ before - y
    by_w, by_b = 2 * x.T @ error / error.size, 2 * error.sum(0) / error.size
    np.testing.assert_allclose(state.params["w"], before - 0.1 * by_w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.params["b"], -0.1 * by_b, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 1
    expected = {
        "loss": np.square(error).mean(),
        "absolute": np.abs(error).mean(),
        "grad_norm": np.sqrt(np.square(by_w).sum() + np.square(by_b).sum()),
        "grad_norm/w": np.linalg.norm(by_w),
        "grad_norm/b": np.linalg.norm(by_b),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_the_average_follows_the_parameters(key, batch):
    optimizer = optax.sgd(0.1)
    step = cxjax.make_train_step(quadratic, optimizer, ema_decay=0.75)
    state = start(optimizer, ema=True)
    average = np.asarray(state.params["w"])
    for _ in range(3):
        state, _ = step(state, batch, key)
        average = 0.75 * average + 0.25 * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)
    assert np.abs(average - np.asarray(state.params["w"])).max() > 1e-3


def test_accumulated_gradients_are_those_of_the_whole_batch(key, batch):
    whole, _ = cxjax.make_train_step(quadratic, optax.adam(0.1))(start(optax.adam(0.1)), batch, key)
    accumulating = optax.MultiSteps(optax.adam(0.1), 2)
    step = jax.jit(cxjax.make_train_step(quadratic, accumulating))
    state = start(accumulating)
    for half in (slice(0, 4), slice(4, 8)):
        np.testing.assert_array_equal(state.params["w"], start(optax.adam(0.1)).params["w"])
        state, _ = step(state, jax.tree.map(operator.itemgetter(half), batch), key)
    np.testing.assert_allclose(state.params["w"], whole.params["w"], rtol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_the_average_moves_when_accumulated_gradients_move_the_parameters(key, batch, nested):
    accumulating = optax.MultiSteps(optax.sgd(0.1), 3)
    if nested:
        accumulating = optax.chain(optax.identity(), accumulating.gradient_transformation())
    step = jax.jit(cxjax.make_train_step(quadratic, accumulating, ema_decay=0.75))
    state = start(accumulating, ema=True)
    average = np.asarray(state.params["w"])
    for number in range(1, 8):
        before = np.asarray(state.params["w"])
        state, _ = step(state, batch, key)
        moved = np.abs(np.asarray(state.params["w"]) - before).max() > 1e-3
        assert moved == (number % 3 == 0)
        if moved:
            average = 0.75 * average + 0.25 * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)


def test_each_step_has_a_key_of_its_own(key, batch):
    def noisy(params, batch, key):
        return quadratic(params, batch, key)[0], {"draw": jax.random.normal(key)}

    step = jax.jit(cxjax.make_train_step(noisy, optax.sgd(0.0)))
    state, first = step(start(optax.sgd(0.0)), batch, key)
    _, second = step(state, batch, key)
    _, again = step(start(optax.sgd(0.0)), batch, key)
    assert first["draw"] == again["draw"] != second["draw"]


def test_what_does_not_fit_is_refused(key, batch, unchecked_types):
    optimizer = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\); got 1"):
        cxjax.make_train_step(quadratic, optimizer, ema_decay=1.0)
    with pytest.raises(ValueError, match="ema_decay is 0.9, but the state has no moving average"):
        cxjax.make_train_step(quadratic, optimizer, ema_decay=0.9)(start(optimizer), batch, key)
    with pytest.raises(ValueError, match="ema_decay is None, but the state has a moving average"):
        cxjax.make_train_step(quadratic, optimizer)(start(optimizer, ema=True), batch, key)
    per_example = lambda params, batch, key: (jnp.square(batch["x"] @ params["w"]).mean(1), {})
    with pytest.raises(ValueError, match=r"must be a scalar.* shape is \(8,\)"):
        cxjax.make_train_step(per_example, optimizer)(start(optimizer), batch, key)
    for name in ("loss", "grad_norm", "grad_norm/w", "grad_norm/none"):
        named = lambda params, batch, key, name=name: (quadratic(params, batch, key)[0], {name: 0})
        with pytest.raises(ValueError, match=rf"step's own names: \['{name}'\]"):
            cxjax.make_train_step(named, optimizer)(start(optimizer), batch, key)
    with pytest.raises(ValueError, match="params holds no arrays"):
        cxjax.TrainState.create(params={}, optimizer=optimizer)


# --- A generator under the Contextual Loss over VGG features, on one device and on eight ---

GENERATOR = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, nn.Conv(3, (3, 3))])
STEPS = 3


@pytest.fixture(scope="module")
def contextual_run():
    """`(loss function, optimiser, initial parameters, batches)`."""
    vgg, vgg_params = cxjax.load_vgg("vgg16", pooling="average")
    key = jax.random.key(3)

    def features(images):
        maps = vgg.apply(vgg_params, images, layers=("conv2_1",))["conv2_1"]
        return maps.reshape(maps.shape[0], -1, maps.shape[-1])

    def loss_fn(params, batch, key):
        draws = jax.vmap(jax.random.normal, in_axes=(0, None))(
            example_keys(key, batch["index"]), batch["source"].shape[1:]
        )
        made = GENERATOR.apply(params, batch["source"] + 0.1 * draws)
        losses = jax.vmap(cxjax.contextual_loss)(features(made), features(batch["target"]))
        return losses.mean(), {"brightness": made.mean(), "draw": draws.mean()}

    images = np.asarray(jax.random.uniform(key, (STEPS, 2, 16, 8, 8, 3)))
    batches = [
        {"source": source, "target": target, "index": np.arange(16, dtype=np.uint32) + 16 * i}
        for i, (source, target) in enumerate(images)
    ]
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))
    return loss_fn, optimizer, GENERATOR.init(key, images[0, 0]), batches


def run(contextual_run, mesh, make_step):
    loss_fn, optimizer, params, batches = contextual_run
    state = cxjax.TrainState.create(params=params, optimizer=optimizer, ema=True)
    state = devices.replicate(state, mesh)
    key = devices.replicate(jax.random.key(5), mesh)
    step, found = make_step(loss_fn, optimizer), []
    for batch in batches:
        state, metrics = step(state, devices.split(batch, mesh), key)
        found.append(jax.device_get(metrics))
    return jax.device_get(state), found


@pytest.fixture(scope="module")
def one_device(contextual_run):
    plain = lambda *args: jax.jit(cxjax.make_train_step(*args, ema_decay=0.9))
    return run(contextual_run, devices.make_mesh(jax.devices()[:1]), plain)


def largest_difference(found, expected):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    pairs = [(state.params, expected_state.params), (state.ema, expected_state.ema)]
    pairs += [(metrics, expected_metrics)]
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), *map(list, zip(*pairs, strict=True)))
    return max(jax.tree.leaves(gaps))


@pytest.mark.parametrize("parallelism", ["jit", "pmap", "shard_map"])
def test_eight_devices_equal_one(contextual_run, one_device, parallelism):
    mesh = devices.make_mesh()
    assert mesh.size == 8
    found = run(
        contextual_run,
        mesh,
        lambda *args: devices.make_parallel_step(
            *args, mesh=mesh, parallelism=parallelism, ema_decay=0.9
        ),
    )
    assert largest_difference(found, one_device) < 2e-5
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found[0].params, dict(contextual_run[2]))
    assert min(jax.tree.leaves(moved)) > 1e-2


def test_a_gradient_that_is_not_averaged_is_noticed(contextual_run, one_device, monkeypatch):
    monkeypatch.setattr(jax.lax, "pmean", lambda tree, axis_name: tree)
    mesh = devices.make_mesh()
    found = run(
        contextual_run,
        mesh,
        lambda *args: devices.make_parallel_step(
            *args, mesh=mesh, parallelism="shard_map", ema_decay=0.9
        ),
    )
    assert largest_difference(found, one_device) > 1e-3


@pytest.mark.parametrize("parallelism", ["jit", "shard_map"])
def test_the_step_lowers_for_tpu(contextual_run, parallelism):
    loss_fn, optimizer, params, batches = contextual_run
    mesh = devices.make_mesh()
    step = devices.make_parallel_step(loss_fn, optimizer, mesh=mesh, parallelism=parallelism)
    state = cxjax.TrainState.create(params=params, optimizer=optimizer)
    traced = jax.jit(step).trace(state, batches[0], jax.random.key(0))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.convolution" in text
    assert "num_partitions = 8" in text


def test_a_batch_that_does_not_divide_is_refused():
    mesh = devices.make_mesh()
    with pytest.raises(ValueError, match=r"divide over the 8 devices.*shape \(6, 2\)"):
        devices.split({"a": np.zeros((8, 2)), "b": np.zeros((6, 2))}, mesh)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        devices.split({"a": np.zeros(())}, mesh)


@pytest.mark.parametrize("given", [{"process_count": 2}, {"coordinator": "a:1"}])
def test_half_an_address_of_other_processes_is_refused(given):
    with pytest.raises(ValueError, match="belong together: give all three"):
        devices.initialize_processes(**given)
    with pytest.raises(ValueError, match=r"process_index must lie in 0 to .* = 1; got 2"):
        devices.initialize_processes(coordinator="a:1", process_count=2, process_index=2)
