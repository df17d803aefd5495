"""Arrows between two pictures: where they are, where they are not, and which are drawn."""

import jax.numpy as jnp
import numpy as np
import pytest

import cxjax
from cxjax import points
from cxjax.data.matches import draw_matches

GAP = 10
X = np.full((40, 60, 3), 0.25, np.float32)
Y = np.full((64, 50, 3), 0.75, np.float32)
ABOVE = (64 - 40) // 2  # x is centred beside the higher y


def drawn(x_positions, y_positions, index, similarity, x=X, y=Y, **options):
    arrays = {"x_positions": x_positions, "y_positions": y_positions, "similarity": similarity}
    arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    return draw_matches(x, y, index=np.asarray(index), gap=GAP, **arrays, **options)


def changed(picture):
    """Which pixels show an arrow."""
    plain = np.ones((64, 60 + GAP + 50, 3), np.float32)
    plain[ABOVE : ABOVE + 40, :60], plain[:, 60 + GAP :] = X, Y
    return np.abs(picture - plain).max(axis=-1) > 0


def test_an_arrow_runs_from_the_target_to_its_source():
    picture = drawn([[5.5, 9.5], [30.5, 20.5]], [[40.5, 35.5]], [1], [0.5])
    assert picture.shape == (64, 60 + GAP + 50, 3)
    assert picture.dtype == np.float32
    where = changed(picture)
    source, target = np.array([ABOVE + 30.5, 20.5]), np.array([40.5, 60 + GAP + 35.5])
    for row, column in (source, target, (source + target) / 2):
        assert where[int(row), int(column)]
    rows, columns = np.nonzero(where)
    centres = np.stack([rows, columns], axis=1) + 0.5
    along = (target - source) / np.linalg.norm(target - source)
    across = np.abs((centres - source) @ np.array([-along[1], along[0]]))
    assert across.max() < 6  # a narrow band about the straight line, nothing else
    lengthwise = (centres - source) @ along
    assert lengthwise.min() > -3
    assert lengthwise.max() < np.linalg.norm(target - source) + 5
    # Wider at the source, where the head is, than in the middle; and so is the dot.
    width = [np.sum(abs(lengthwise - at) < 1) for at in (6, 45, np.linalg.norm(target - source))]
    assert min(width[0], width[2]) > 1.5 * width[1]


def test_ends_lie_at_the_positions_to_a_fraction_of_a_pixel():
    """The dot's centre of mass, where the shaft is left out by its thinness."""
    for at in ([20.0, 30.0], [20.5, 30.25]):
        picture = drawn([[20.0, 0.0]], [at], [0], [1.0], line_width=2.0)
        square = np.abs(picture - Y[0, 0]).max(axis=-1)[int(at[0]) - 7 : int(at[0]) + 8]
        square = square[:, 60 + GAP + 28 : 60 + GAP + 40]  # its right half, without the shaft
        rows = (np.arange(15) + int(at[0]) - 7 + 0.5) @ square.sum(axis=1) / square.sum()
        np.testing.assert_allclose(rows, at[0], atol=0.25)
        right = 60 + GAP + 28 + np.nonzero(square.max(axis=0) > 0.02)[0].max() + 1
        np.testing.assert_allclose(right, 60 + GAP + at[1] + 2 * 2.0 + 1.0, atol=1.0)


def test_lines_are_smooth():
    picture = drawn([[5.0, 9.0]], [[40.0, 35.0]], [0], [1.0])
    assert len(np.unique(picture[:, 62:68].round(4))) > 20  # many levels on the white gap


def test_the_strongest_are_drawn_and_those_without_a_source_are_not():
    rows = np.arange(4, 64, 12) + 0.5  # five targets
    at_target = np.stack([rows, np.full(5, 40.5)], axis=1)
    at_source = np.stack([np.linspace(2, 38, 5), np.full(5, 15.5)], axis=1)
    index, similarity = np.array([0, 1, -1, 3, 4]), np.array([0.2, 0.9, 1.0, 0.4, 0.6])

    def targets_of(**options):
        picture = drawn(at_source, at_target, index, similarity, **options)
        return [j for j in range(5) if changed(picture)[int(rows[j]), 60 + GAP + 40]]

    assert targets_of(strongest=1) == [1]
    assert targets_of(strongest=2) == [1, 4]
    assert targets_of() == targets_of(strongest=None) == [0, 1, 3, 4]
    # Neighbours are 12 rows apart: of two nearer than asked for the weaker one goes.
    assert targets_of(apart=12.5) == [1, 4]
    assert targets_of(apart=12.0) == [0, 1, 3, 4]
    index[:] = -1
    assert not changed(drawn(at_source, at_target, index, similarity)).any()


def test_colours_tell_arrows_apart_and_the_strongest_lies_on_top():
    at = [[10.5, 40.5], [20.5, 40.5], [30.5, 40.5]]
    picture = drawn([[5.0, 5.0]], at, [0, 0, 0], [0.3, 0.2, 0.1], line_width=1.0)
    dots = np.array([picture[int(row), 60 + GAP + int(column)] for row, column in at])
    differences = np.abs(dots[:, None] - dots[None]).max(axis=-1)
    assert (differences[np.triu_indices(3, 1)] > 0.4).all()
    head = picture[ABOVE + 5, 8]  # all three end here
    np.testing.assert_allclose(head, dots[0], atol=0.3)
    assert np.abs(head - dots[2]).max() > 0.4


def test_what_contextual_matches_returns_can_be_drawn(key):
    features = jnp.eye(15).reshape(3, 5, 15)
    x = points.flatten(features, cell_size=(40 / 3, 12))
    y = points.flatten(features[::-1], cell_size=(64 / 3, 10))
    y_mask = jnp.arange(15) != 3
    index, similarity = cxjax.contextual_matches(x.points, y.points, y_mask=y_mask)
    options = {"x_positions": x.positions, "y_positions": y.positions, "gap": GAP}
    picture = draw_matches(X, Y, index=index, similarity=similarity, **options)
    dots = [changed(picture)[int(r), 60 + GAP + int(c)] for r, c in np.asarray(y.positions)]
    np.testing.assert_array_equal(dots, y_mask)
    assert picture.min() >= 0
    assert picture.max() <= 1


ONE = {"x_positions": [[5.0, 9.0]], "y_positions": [[8.0, 8.0]], "index": [0], "similarity": [1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[..., :1]}, r"x must be an image \(h, w, 3\); got shape \(40, 60, 1\)"),
        ({"y": (Y * 255).astype(np.uint8)}, r"y must be floating, in \[0, 1\]; got uint8"),
        ({"x_positions": [5.0, 9.0]}, r"x_positions must be rows and columns.*\(2,\)"),
        ({"y_positions": [[1.0, 2.0, 3.0]]}, r"y_positions must be rows and columns.*\(1, 3\)"),
        ({"index": [0, 0]}, r"one entry per target point, shape \(1,\).*got \(2,\) and \(1,\)"),
        ({"index": [0.0]}, "index must be integers; got float64"),
        ({"index": [1]}, r"index must lie in -1 to 0 for x_positions of shape \(1, 2\); got 1"),
        ({"index": [-2]}, "got -2 to -2"),
        ({"similarity": [np.nan]}, "similarity must be finite"),
        ({"x_positions": [[41.0, 9.0]]}, r"x_positions must be in pixels.*\[41\.0, 9\.0\].*cell"),
        ({"y_positions": [[4.0, -1.0]]}, r"y_positions must be in pixels.*\[4\.0, -1\.0\]"),
        ({"strongest": 0}, "strongest must be a positive integer, or None for all; got 0"),
        ({"apart": -1.0}, "must not be negative; got -1.0"),
        ({"line_width": 0.0}, "line_width must be positive; got 0.0"),
    ],
    ids=str,
)
def test_mistakes_are_answered_with_what_was_given(unchecked_types, changes, message):
    with pytest.raises(ValueError, match=message):
        drawn(**(ONE | changes))
