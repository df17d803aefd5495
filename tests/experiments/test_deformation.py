"""Shapes that move: the field, its pull, and the measure of how far they went."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import cxjax
from experiments.common import deformation
from experiments.common.optimization import Parameters
from experiments.common.pictures import photograph
from experiments.style_transfer import landmarks, objective, stylize, warp
from experiments.style_transfer.config import VARIANTS
from experiments.style_transfer.data import PAIRS


def test_a_field_of_zeros_moves_nothing_and_the_border_never_moves(key):
    image = jax.random.uniform(key, (20, 30, 3))
    control = warp.start(6, (20, 30))
    assert control.shape == (3, 5, 2)
    np.testing.assert_allclose(warp.move(image, control), image, atol=1e-6)
    moved = warp.field(jax.random.normal(key, control.shape), (20, 30))
    for edge in (moved[0], moved[-1], moved[:, 0], moved[:, -1]):
        np.testing.assert_allclose(edge, 0, atol=1e-6)
    assert jnp.abs(moved).max() > 0.05


def test_a_field_says_where_what_is_seen_comes_from():
    """In the middle of one large bump of a tenth of the side, four pixels of forty."""
    ramp = jnp.broadcast_to(jnp.arange(41.0)[None, :, None], (41, 41, 3))
    control = warp.start(2, (41, 41)).at[..., 1].set(1)
    moved = warp.move(ramp, control)
    np.testing.assert_allclose(moved[20, 20], 20 + 4.1, atol=1e-3)
    np.testing.assert_allclose(warp.field(control, (41, 41))[20, 20], [0, 0.1], atol=1e-5)


def test_strain_is_the_mean_squared_gradient():
    cells = 2
    control = warp.start(cells, (41, 41)).at[0, 0, 0].set(1)  # up by .1 over half a side
    # Of 2 x 3 differences down two are .2, and so across; half of the entries are the other way's.
    assert warp.strain(control, cells) == pytest.approx(2 * 2 * 0.2**2 / 12)
    assert warp.strain(jnp.zeros_like(control), cells) == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_the_pull_brings_what_is_alike_together(key, axis):
    features = jax.random.normal(key, (12, 12, 24))
    target = jnp.roll(features, 1, axis=axis)  # the same things further down, or further right
    control = warp.start(4, (12, 12))
    pull = functools.partial(warp.pull, shape=(96, 96))
    gradient = jax.grad(pull, argnums=2)(features, target, control)
    step = -gradient / jnp.abs(gradient).max()
    assert step[..., axis].mean() < -0.2  # seen is what was further up, or further left
    assert abs(step[..., 1 - axis].mean()) < 0.02
    near, far = (
        cxjax.l2_loss(warp.move(features, one), target) for one in (0.8 * step, -0.8 * step)
    )
    assert near < 0.8 * cxjax.l2_loss(features, target) < far
    assert jnp.abs(jax.grad(pull)(features, target, control)).max() == 0


def test_a_map_of_few_cells_knows_the_pictures_own_field(key):
    control = jax.random.normal(key, warp.start(4, (96, 96)).shape)
    whole = warp.field(control, (96, 96))
    found = warp.over_cells(control, (96, 96), (3, 3))
    # Weighted towards each cell's centre, so near its plain mean, at the border too.
    means = whole.reshape(3, 32, 3, 32, 2).mean(axis=(1, 3))
    assert np.corrcoef(np.ravel(found), np.ravel(means))[0, 1] > 0.95
    features = jax.random.normal(key, (2, 2, 8))
    pull = lambda control: warp.pull(features, features[::-1], control, shape=(96, 96))
    assert jnp.abs(jax.grad(pull)(control)).max() > 1e-4


def test_what_is_shown_is_seen_through_the_field_which_only_the_pull_moves(key):
    image = jax.random.uniform(key, (20, 20, 3))
    control = jax.random.normal(key, warp.start(3, (20, 20)).shape)
    seen = lambda control: objective.render(Parameters([image], control))
    np.testing.assert_allclose(seen(control), warp.move(image, control), atol=1e-6)
    assert jnp.abs(seen(control) - image).max() > 0.1
    assert jnp.abs(jax.grad(lambda control: seen(control).std())(control)).max() == 0


def test_a_run_moves_shapes_when_asked_to(tmp_path):
    small = {"scales": (1.0,), "steps": (3,), "style_layers": ("conv2_1",)}
    small |= {"content_layers": ("conv3_1",), "deformation_layer": "conv3_1"}
    config = dataclasses.replace(VARIANTS["smoke"], deformation=30.0, **small)
    results = stylize.run(dataclasses.replace(config, out=tmp_path / "out"))
    assert results["last_step"]["pull"] > 0
    assert results["last_step"]["strain"] > 0
    with pytest.raises(ValueError, match="--deformation must be at least 0; got -1"):
        dataclasses.replace(config, deformation=-1)


# --- The measure ---


@pytest.fixture(scope="module")
def cat():
    return photograph("chelsea", shortest_side=96)[:, :96]


def bent(picture, amount):
    """The picture with its middle carried right, by `amount` pixels."""
    side = len(picture)
    rows, columns = np.mgrid[:side, :side].astype(float)
    bump = np.sin(np.pi * rows / side) ** 2 * np.sin(np.pi * columns / side) ** 2
    places = [rows, columns - amount * bump]
    moved = [ndimage.map_coordinates(picture[..., i], places, order=1) for i in range(3)]
    return np.stack(moved, axis=-1)


POINTS = np.array([(40, 40), (60, 40), (50, 50), (40, 60), (60, 60), (25, 50), (75, 50)])


def measured(content, result, target_landmarks):
    return deformation.deformation(
        content,
        result,
        landmarks=POINTS,
        target_landmarks=target_landmarks,
        target_shape=(64, 64),
    )


@pytest.mark.parametrize("amount", [5.0, 9.6])  # of 96 pixels
def test_the_measure_finds_a_known_warp_under_other_colours(cat, amount):
    bumps = np.prod(np.sin(np.pi * POINTS / 100) ** 2, axis=1)
    ends = POINTS + np.stack([100 * amount / 96 * bumps, 0 * bumps], axis=-1)
    darker = lambda picture: (0.1 + 0.7 * picture[..., [1, 2, 0]] ** 1.5).astype(np.float32)
    for colours in (lambda picture: picture, darker):
        whole = measured(cat, colours(bent(cat, amount)), ends)
        assert whole.share == pytest.approx(1, abs=0.2)
        assert whole.shape_share == pytest.approx(1, abs=0.35)
        assert measured(cat, colours(bent(cat, amount / 2)), ends).share < 0.7 * whole.share
        assert measured(cat, colours(cat), ends).share == pytest.approx(0, abs=0.05)
        assert measured(cat, colours(bent(cat, -amount)), ends).share < -0.7


def test_landmarks_placed_in_the_result_give_the_share_of_their_way(cat):
    ends = POINTS + [10, 4]
    both = {"shape": (64, 32), "target_shape": (64, 32)}
    half = deformation.between(POINTS, (POINTS + ends) / 2, ends, **both)
    assert half.share == pytest.approx(0.5)
    assert half.wanted == pytest.approx(100 * np.hypot(10 * 32 / 64, 4) / 100)
    assert half.moved == pytest.approx(half.wanted / 2)
    wider = 50 + (POINTS - 50) * [1.2, 1]
    part = 50 + (POINTS - 50) * [1.1, 1] + [7, -3]  # half of the way, and shifted
    shape = deformation.between(POINTS, part, wider, **both).shape_share
    assert shape == pytest.approx(0.5, abs=0.03)


def test_a_shift_is_no_change_of_shape(cat):
    ends = POINTS + [5, 0]
    moved = np.roll(cat, 3, axis=1)
    found = measured(cat, moved, POINTS + (POINTS - 50) * [0.2, 0])
    assert abs(found.shape_share) < 0.1
    assert measured(cat, moved, ends).share == pytest.approx(3 / 96 * 100 / 5, abs=0.15)


def test_landmarks_are_inside_their_pictures_and_as_many_in_each():
    for name, points in landmarks.LANDMARKS.items():
        assert len(points) == 11, name
        assert np.min(points) > 0, name
        assert np.max(points) < 100, name
    known = {source.name for pair in PAIRS.values() for source in (pair.content, pair.target)}
    assert set(landmarks.LANDMARKS) <= known
