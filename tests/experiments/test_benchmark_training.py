"""The benchmarks of a train step: all parts timed, a save's cost, the bytes between devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cxjax.training import devices
from experiments.benchmark import step, traffic
from experiments.benchmark.config import StepConfig, TrafficConfig

SMALL = {"size": 16, "layers": ("conv1_2", "conv2_1")}


@pytest.fixture(scope="module")
def timed():
    return step.Step(StepConfig(batch_size=2, **SMALL))


def test_a_step_is_timed_beside_its_parts(timed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step, "Step", lambda config: timed)
    config = StepConfig(
        out=tmp_path / "out",
        batch_size=2,
        repeats=1,
        state_megabytes=(4,),
        steps_beside=1,
        **SMALL,
    )
    found = step.run(config)
    seconds = found["seconds"]
    *parts, total, whole = seconds.values()
    assert list(seconds)[-2:] == ["their sum", "train step"]
    assert len(parts) == 3
    assert total == sum(parts)
    assert min(*parts, whole) > 0
    assert found["saving"][4]["blocked"] > 0
    assert not (tmp_path / "out/checkpoints").exists()
    assert json.loads((tmp_path / "out/step.json").read_text())["seconds"] == seconds
    text = (tmp_path / "out/step.md").read_text()
    assert text == capsys.readouterr().out.split("...\n")[-1]
    assert all(f"| {name} |" in text for name in seconds)
    assert "| 4 |" in text


def test_chained_the_parts_give_the_gradient_of_the_step(timed):
    made, _ = timed.parts["generator, forward and backward"]()
    features = jax.jit(timed.features)
    reference, pull = jax.vjp(features, made)
    value, gradients = jax.jit(jax.value_and_grad(timed.loss))(reference)
    model = lambda params: timed.model.apply(params, timed.images)
    (wanted,) = jax.vjp(model, timed.params)[1](pull(gradients)[0])
    timed.state = timed.state.replace(params=jax.tree.map(jnp.copy, timed.params))
    metrics = timed()
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(wanted)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    _, (of_parameters,) = timed.parts["generator, forward and backward"]()
    assert shapes(of_parameters) == shapes(wanted)
    found, (of_images,) = timed.parts["feature network, forward and backward"]()
    assert (shapes(found), of_images.shape) == (shapes(reference), timed.images.shape)
    _, of_features = timed.parts["loss, value and gradient"]()
    assert shapes(of_features) == shapes(reference)


@pytest.fixture(scope="module")
def mesh():
    return devices.make_mesh(jax.devices()[:4])


def compiled(mesh, function, *shapes):
    spread = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=PartitionSpec(devices.AXIS),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    wanted = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(spread).lower(*wanted).compile().as_text()


def test_bytes_are_those_of_the_arrays(mesh):
    add = functools.partial(jax.lax.psum, axis_name=devices.AXIS)
    (row,) = traffic.collectives(compiled(mesh, add, (40, 25)), 4)
    assert (row["kind"], row["bytes"]) == ("all-reduce", 4 * 10 * 25)
    assert row["sent"] == 2 * 3 / 4 * 1000
    assert traffic.collectives("no such operation", 4) == []


def test_what_stands_in_a_loop_is_not_counted_as_once(mesh):
    def repeated(x):
        body = lambda _, x: jax.lax.pmean(x * x[0, 0], devices.AXIS)
        return jax.lax.pmean(jax.lax.fori_loop(0, x.shape[0] * 10, body, x[:1]), devices.AXIS)

    with pytest.raises(ValueError, match="all-reduce stands in the loop"):
        traffic.collectives(compiled(mesh, repeated, (40, 25)), 4)


@pytest.mark.parametrize("parallelism", ["jit", "shard_map"])
def test_a_step_sends_its_gradients_once(timed, parallelism):
    config = TrafficConfig(size=16, target_layers=("conv1_2", "conv2_1"), devices=(2,))
    training = step.make_training(config.target_layers, size=config.size)
    found = traffic.measure(training, config.batch_per_device, jax.devices()[:2], parallelism)
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(timed.params))
    assert gradients < found["bytes"] < 1.01 * gradients  # and the metrics
    text = traffic.table(config, [found], "cpu")
    assert f"| 2 | {parallelism} | 1 all-reduce | {found['bytes'] / 1e6:.3f} |" in text


def test_asynchronous_operations_and_branches_are_read():
    program = """
%inner (p: f32[4]) -> f32[4] {
  %p = f32[4] parameter(0)
  ROOT %r = f32[4] all-reduce(%p), to_apply=%add
}
ENTRY %main (x: f32[1000]) -> f32[1000] {
  %a = (f32[1000], f32[1000], u32[], u32[]) collective-permute-start(%x)
  %g = (f32[1000]{0}, f32[4000]{0}) all-gather-start(%x), dimensions={0}
  %w = f32[4] while(%x), condition=%test, body=%body
}
"""
    reduced, permuted, gathered = traffic.collectives(program, 4)
    assert (permuted["bytes"], permuted["sent"]) == (4000, 4000)
    assert (gathered["bytes"], gathered["sent"]) == (16000, 12000)
    assert reduced["count"] == 1
    branches = "%body (x: f32[4]) -> f32[4] {\n  %c = f32[4] conditional(%i, %x), "
    branches += "branch_computations={%other, %inner}\n}\n"
    with pytest.raises(ValueError, match="all-reduce stands in the loop inner"):
        traffic.collectives(branches + program, 4)


def test_devices_that_are_not_there_are_refused():
    jax.devices()  # once JAX has begun, it has as many as it has
    with pytest.raises(ValueError, match="--devices 99 are more than the 8"):
        traffic.find_devices(TrafficConfig(devices=(1, 99)))
    with pytest.raises(ValueError, match=r"cannot compile for --topology nope:1x1: .*libtpu"):
        traffic.find_devices(TrafficConfig(topology="nope:1x1"))
    with pytest.raises(ValueError, match="must be at least 1"):
        TrafficConfig(devices=(0,))
