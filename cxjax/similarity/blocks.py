"""Blocks of rows and tiles of targets: how a matrix is walked through that is never held."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

# Measured on two cores (experiments/benchmark), in entries of float32.
_CACHED_ELEMENTS = 2**21  # of a block that is one tile
_TILE_ELEMENTS = 2**19  # of a tile of a larger one, up to 16 tiles
_ROW_SLICES = 8


def varying_alike(*arrays):
    """Under `shard_map`, lets all vary over the mesh axes that any of them varies over.

    A loop's state would change its type if it began with one set and took in the other. A zero of
    all of them is added, rather than axes compared, whose names in JAX change from version to
    version; nothing of it remains after compilation. Of what is the same on all devices, JAX then
    sums the gradients over them.
    """
    never = jnp.zeros((), bool)
    zeros = [jnp.where(never, array.ravel()[0], 0) for array in arrays if array.size > 0]
    zero = jax.lax.stop_gradient(sum(zeros[1:], zeros[0]))
    return [array + zero.astype(array.dtype) for array in arrays]


def default_block_size(m: int) -> int:
    """Rows per block: 16 MB of float32, up to 256 rows if they fit in 64 MB, at least 64."""
    return max(64, min(512, max(2**22 // m, min(256, 2**24 // m))))


class Cut(NamedTuple):
    """How the targets are cut: into tiles, and each of these into slices."""

    tiles: int
    slices: int

    @property
    def count(self) -> int:
        """Slices of all tiles together."""
        return self.tiles * self.slices


def cut_for(m: int, block_size: int) -> Cut:
    """One tile in slices, if the block stays in the cache; else tiles of one slice each."""
    if m < 512:
        return Cut(1, 1)
    if m * block_size <= _CACHED_ELEMENTS:
        return Cut(1, 16)
    return Cut(min(16, round(m * block_size / _TILE_ELEMENTS)), 1)


def tiles_of(array, cut: Cut):
    """Target `j` goes to slice `j % count`, the last few to the end of the last tile.

    So all that stands at one position of the slices comes before all that stands at a later one.
    """
    even = len(array) // cut.count * cut.count
    slices = array[:even].reshape(-1, cut.count, *array.shape[1:]).swapaxes(0, 1)
    slices = slices.reshape(cut.tiles, -1, *array.shape[1:])
    *tiles, last = (slices[tile] for tile in range(cut.tiles))
    return [*tiles, jnp.concatenate([last, array[even:]])]


def slices_of(tiles, cut: Cut, axis=0):
    """The slices of all tiles in order, all of one width, and the last few targets."""
    width = sum(tile.shape[axis] for tile in tiles) // cut.count
    part = functools.partial(jax.lax.slice_in_dim, axis=axis)
    slices = [part(tile, k * width, (k + 1) * width) for tile in tiles for k in range(cut.slices)]
    return slices, part(tiles[-1], cut.slices * width, None)


def whole_of(tiles, cut: Cut):
    """The array that `tiles_of` cut."""
    slices, last = slices_of(tiles, cut)
    even = jnp.stack(slices, axis=1)
    return jnp.concatenate([even.reshape(-1, *even.shape[2:]), last])


def starts_of(n: int, block_size: int) -> Int[Array, " blocks"]:
    """First rows of the blocks. The last block reaches back, so that none is padded."""
    return jnp.minimum(jnp.arange(0, n, block_size), n - block_size)


def first_index(holds, axis):
    """The lowest index at which a condition holds; the last one if it never does, as with NaN."""
    index = jax.lax.broadcasted_iota(jnp.int32, holds.shape, axis)
    return jnp.where(holds, index, holds.shape[axis] - 1).min(axis)


def row_minimum(tiles, weights, cut: Cut):
    """Smallest entry of every row among the targets with weight, and its place in the tiles.

    Of several equal ones it is the target with the lowest index. The slices are compared entry by
    entry, which a CPU does as fast as it reads; only one slice's width is searched. A search of the
    whole costs several times that.
    """
    if weights is not None:
        far = jnp.finfo(tiles[0].dtype).max
        tiles = [jnp.where(w[None, :] > 0, t, far) for t, w in zip(tiles, weights, strict=True)]
    slices, last = slices_of(tiles, cut, axis=1)
    least = functools.reduce(jnp.minimum, slices)
    minimum = least.min(axis=1)
    position = first_index(least == minimum[:, None], 1)
    candidates = [jnp.take_along_axis(part, position[:, None], 1) for part in slices]
    candidates = jnp.concatenate(candidates, axis=1)
    width = least.shape[1]
    place = first_index(candidates == minimum[:, None], 1) * width + position
    if last.shape[1]:
        last_minimum = last.min(axis=1)
        last_place = cut.count * width + first_index(last == last_minimum[:, None], 1)
        place = jnp.where(last_minimum < minimum, last_place, place)
        minimum = jnp.minimum(minimum, last_minimum)
    return minimum, place


def column_maximum(tile):
    """Largest entry of every column, and the lowest index of it: the same by rows in eights."""
    rows = tile.shape[0]
    chunks = rows // _ROW_SLICES
    if chunks < 2:
        maximum = tile.max(axis=0)
        return maximum, first_index(tile == maximum[None, :], 0)
    even = [tile[k : chunks * _ROW_SLICES : _ROW_SLICES] for k in range(_ROW_SLICES)]
    most = functools.reduce(jnp.maximum, even)
    maximum = most.max(axis=0)
    start = first_index(most == maximum[None, :], 0) * _ROW_SLICES
    candidates = start[None, :] + jnp.arange(_ROW_SLICES, dtype=start.dtype)[:, None]
    values = jnp.take_along_axis(tile, candidates, 0, mode="promise_in_bounds")
    index = start + first_index(values == maximum[None, :], 0)
    if rows % _ROW_SLICES:
        last = tile[chunks * _ROW_SLICES :]
        last_maximum = last.max(axis=0)
        last_index = chunks * _ROW_SLICES + first_index(last == last_maximum[None, :], 0)
        index = jnp.where(last_maximum > maximum, last_index, index)
        maximum = jnp.maximum(maximum, last_maximum)
    return maximum, index
