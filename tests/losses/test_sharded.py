"""One similarity spread over devices equals that of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import cxjax
from tests import memory, sets

DEVICES = 8
FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}
OPTIONS = {"bandwidth": 0.3, "epsilon": 1e-3, "block_size": 4}


points = functools.partial(sets.points, dtype=jnp.float64)


def mesh(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def spread(f, mesh, specs, out_specs=None, **options):
    out_specs = PartitionSpec() if out_specs is None else out_specs
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=out_specs, **options)


def quartic(x, y):
    return jnp.square(jnp.square(x[:, None, :] - y[None, :, :]).sum(axis=-1))


DISTANCES = ["cosine", "l2", "l1", quartic]
SIDES = ["paper", "reverse"]


CASES = [
    *((d, direction, True, True) for d in DISTANCES for direction in SIDES),
    *((d, direction, False, True) for d in ("cosine", "l1") for direction in SIDES),  # both kinds
    *((d, "symmetric", True, False) for d in ("cosine", "l1")),
    *(("l2", direction, False, False) for direction in SIDES),
]


@pytest.mark.parametrize(("distance", "direction", "masked", "check_vma"), CASES)
def test_spread_sources_give_the_same(key, distance, direction, masked, check_vma):
    with jax.enable_x64(True):
        x, y = points(key, 24, 13)
        # One device has no source left; a target's weight counts in its direction.
        x_mask = np.where(np.arange(24) // 3 == 2, 0, np.arange(24) % 3 + 1.0)
        y_mask = np.arange(13) % 3 + 0.0
        f = functools.partial(
            cxjax.contextual_loss, direction=direction, distance=distance, **OPTIONS
        )

        def loss(x, y, x_mask, axis_name=None):
            masks = {"x_mask": x_mask, "y_mask": y_mask} if masked else {}
            return f(x, y, axis_name=axis_name, **masks)

        split, whole = PartitionSpec("rows"), PartitionSpec()
        over_devices = spread(
            functools.partial(loss, axis_name="rows"),
            mesh(rows=DEVICES),
            (split, whole, split),
            check_vma=check_vma,
        )
        run = lambda f: jax.jit(jax.value_and_grad(f, (0, 1)))(x, y, x_mask)
        value, gradients = run(over_devices)
        wanted, wanted_gradients = run(loss)
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want in zip(gradients, wanted_gradients, strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("direction", SIDES)
def test_second_derivatives_over_devices(key, direction):
    with jax.enable_x64(True):
        x, y = points(key, 16, 5, 3)
        f = functools.partial(cxjax.contextual_loss, direction=direction, **OPTIONS)
        split, whole = PartitionSpec("rows"), PartitionSpec()
        run = spread(functools.partial(f, axis_name="rows"), mesh(rows=DEVICES), (split, whole))
        along = lambda f: jax.jit(jax.grad(lambda x: jnp.sin(jax.grad(f)(x, y)).sum()))(x)
        wanted = along(f)
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(along(run), wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("direction", ["paper", "reverse"])
def test_gradients_inside_shard_map(key, direction):
    with jax.enable_x64(True):
        x, y = points(key, 24, 13)
        f = functools.partial(cxjax.contextual_loss, direction=direction, **OPTIONS)
        inside = jax.value_and_grad(functools.partial(f, axis_name="rows"), (0, 1))
        split, whole = PartitionSpec("rows"), PartitionSpec()
        run = spread(inside, mesh(rows=DEVICES), (split, whole), (whole, (split, whole)))
        value, gradients = jax.jit(run)(x, y)
        wanted, wanted_gradients = jax.jit(jax.value_and_grad(f, (0, 1)))(x, y)
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want in zip(gradients, wanted_gradients, strict=True):
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("direction", ["paper", "reverse", "symmetric"])
def test_under_pmap_the_gradient_is_that_of_the_sum_of_the_equal_losses(key, direction):
    # JAX's rule for pmap: every device's loss counts, and each device has its own copy of y.
    with jax.enable_x64(True):
        x, y = points(key, 24, 13)
        f = functools.partial(cxjax.contextual_loss, direction=direction, **OPTIONS)
        parts = np.asarray(x).reshape(DEVICES, -1, 6)
        step = jax.value_and_grad(functools.partial(f, axis_name="rows"), (0, 1))
        values, (x_parts, y_parts) = jax.pmap(step, "rows", in_axes=(0, None))(parts, y)
        wanted, (x_gradient, y_gradient) = jax.jit(jax.value_and_grad(f, (0, 1)))(x, y)
        x_parts, y_parts = np.asarray(x_parts), np.asarray(y_parts)
        np.testing.assert_allclose(values, np.full(DEVICES, wanted), **FLOAT64)
        np.testing.assert_allclose(x_parts.reshape(24, 6) / DEVICES, x_gradient, **FLOAT64)
        np.testing.assert_allclose(y_parts.sum(axis=0) / DEVICES, y_gradient, **FLOAT64)


def test_matches_over_devices_take_the_lowest_index(key):
    x, y = points(key, 12, 9, dtype=jnp.float32)
    x = np.concatenate([x, x])  # every winner again, on another device
    split, whole = PartitionSpec("rows"), PartitionSpec()
    f = functools.partial(cxjax.contextual_matches, block_size=4)
    run = spread(
        functools.partial(f, axis_name="rows"), mesh(rows=DEVICES), (split, whole), (whole, whole)
    )
    index, similarity = jax.jit(run)(x, y)
    wanted, wanted_similarity = jax.jit(f)(x, y)
    assert wanted.max() < 12
    assert len(set(np.asarray(wanted) // 3)) > 2  # winners on several devices
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(similarity, wanted_similarity, rtol=1e-5)


@pytest.mark.parametrize("direction", ["paper", "reverse"])
def test_ties_between_devices_share_no_gradient(key, direction):
    with jax.enable_x64(True):
        x, y = points(key, 12, 9)
        x = np.concatenate([x, x])
        f = functools.partial(cxjax.contextual_loss, direction=direction, **OPTIONS)
        split, whole = PartitionSpec("rows"), PartitionSpec()
        run = spread(functools.partial(f, axis_name="rows"), mesh(rows=DEVICES), (split, whole))
        gradients = jax.jit(jax.grad(run, (0, 1)))(x, y)
        for gradient, want in zip(gradients, jax.jit(jax.grad(f, (0, 1)))(x, y), strict=True):
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("direction", ["paper", "symmetric"])
def test_a_batch_over_one_axis_and_rows_over_another(key, direction):
    with jax.enable_x64(True):
        x, y = points(key, 12, 9, batch=(4,))
        f = functools.partial(cxjax.contextual_loss, direction=direction, **OPTIONS)
        spec_x, spec_y = PartitionSpec("batch", "rows"), PartitionSpec("batch")

        def mean(x, y):
            losses = jax.vmap(functools.partial(f, axis_name="rows"))(x, y)
            return jax.lax.pmean(losses.mean(), "batch")

        run = spread(mean, mesh(batch=2, rows=4), (spec_x, spec_y))
        value, gradients = jax.jit(jax.value_and_grad(run, (0, 1)))(x, y)
        one_device = lambda x, y: jax.vmap(f)(x, y).mean()
        wanted, wanted_gradients = jax.jit(jax.value_and_grad(one_device, (0, 1)))(x, y)
        np.testing.assert_allclose(value, wanted, **FLOAT64)
        for gradient, want in zip(gradients, wanted_gradients, strict=True):
            np.testing.assert_allclose(gradient, want, **FLOAT64)


@pytest.mark.parametrize("distance", ["cosine", "l1"])
def test_masks_alone_differ_between_devices(key, distance):
    x, y = points(key, 6, 5, dtype=jnp.float32)
    masks = np.arange(6)[None, :] < np.arange(1, 9)[:, None]
    f = jax.vmap(lambda mask: cxjax.contextual_loss(x, y, x_mask=mask, distance=distance))
    run = spread(f, mesh(rows=DEVICES), (PartitionSpec("rows"),), PartitionSpec("rows"))
    np.testing.assert_allclose(jax.jit(run)(masks), jax.jit(f)(masks), rtol=1e-5)


@pytest.mark.parametrize("direction", ["paper", "reverse"])
def test_a_nan_on_one_device_is_seen_by_all(key, direction):
    x, y = map(np.asarray, points(key, 24, 13, dtype=jnp.float32))
    f = functools.partial(cxjax.contextual_loss, direction=direction, axis_name="rows")
    split, whole = PartitionSpec("rows"), PartitionSpec()
    run = jax.jit(spread(f, mesh(rows=DEVICES), (split, whole)))
    assert np.isfinite(run(x, y))
    for k, row in ((0, 20), (1, 3)):
        broken = [x.copy(), y.copy()]
        broken[k][row, 1] = np.nan
        assert np.isnan(run(*broken))


def test_memory_of_the_sources_falls_with_the_devices():
    n, m, c = 16_384, 4096, 256
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, c), (m, c))]
    split, whole = PartitionSpec("rows"), PartitionSpec()

    def temporaries(devices):
        f = functools.partial(cxjax.contextual_loss, axis_name="rows", block_size=64)
        run = jax.value_and_grad(spread(f, mesh(rows=devices), (split, whole)))
        return memory.analysis(run, *shapes).temp_size_in_bytes

    one, eight = temporaries(1), temporaries(DEVICES)  # bytes of one device
    rows = n * c * 4
    assert one - eight > 1.5 * rows * (1 - 1 / DEVICES)  # normalised sources, and their means
