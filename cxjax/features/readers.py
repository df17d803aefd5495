"""Opens files of weights as tables of arrays that are read on demand.

Of a file of 575 MB only the convolutions are read. The packages that know a format are imported
where it is opened.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DIGESTS = "cxjax.sha256"  # key of a safetensors file's metadata: sha256 of each tensor's bytes
INSTALL = 'pip install "cxjax[weights]"'


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of a file, not read yet.

    Attributes:
      shape: Its shape in the file.
      read: Reads it.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


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
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected):
        raise ValueError(
            f"{path} has sha256 {actual[: len(expected)]}, but {source} says {expected}: "
            "the file is damaged or another one; fetch it again"
        )


def begins_with(path: Path, signature: bytes) -> bool:
    """Whether a file begins with a format's signature.

    Args:
      path: The file.
      signature: The bytes.

    Returns:
      True if it does.
    """
    with path.open("rb") as file:
        return file.read(len(signature)) == signature


def is_not(path: Path, title: str) -> ValueError:
    """The error for a file of another format.

    Args:
      path: The file.
      title: What it should be.

    Returns:
      The error, to be raised.
    """
    with path.open("rb") as file:
        return ValueError(f"{path} is not {title}: it begins with {file.read(16)!r}")


def is_damaged(path: Path, title: str, error: BaseException) -> ValueError:
    """The error for a file that begins well and cannot be read to its end.

    Args:
      path: The file.
      title: What it should be.
      error: What its reader said.

    Returns:
      The error, to be raised.
    """
    return ValueError(
        f"{path} ({path.stat().st_size} bytes) is truncated or damaged; it should be {title} "
        f"({type(error).__name__}: {error})"
    )


def _needs(package: str, path: Path) -> ImportError:
    return ImportError(f"{path.name} is read by the package {package}: {INSTALL}")


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Mapping[str, Entry]]:
    """Opens torchvision's or timm's `.safetensors`, or a file of the cache.

    Tensors whose sha256 the file records are compared with it when they are read.

    Args:
      path: The file.

    Returns:
      A context manager with the file's entries.

    Raises:
      ValueError: If it is another kind of file, or damaged.
      ImportError: If safetensors is missing.
    """
    try:
        import safetensors
    except ImportError as error:
        raise _needs("safetensors", path) from error
    title = "a safetensors file"
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] not in (b"{", b""):  # the header, JSON, follows its length in 8 bytes
        raise is_not(path, title)
    try:
        opened = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise is_damaged(path, title, error) from error
    with opened as file:
        digests = json.loads((file.metadata() or {}).get(DIGESTS, "null"))

        def entry(key: str) -> Entry:
            def read() -> np.ndarray:
                array = file.get_tensor(key)
                if digests is not None and digests.get(key) != sha256(array):
                    raise ValueError(
                        f"{key!r} in {path} is not what was stored there: its sha256 differs; "
                        "delete the file, so that it is fetched anew"
                    )
                return array

            return Entry(tuple(file.get_slice(key).get_shape()), read)

        keys = file.keys()
        yield {key: entry(key) for key in keys}


def sha256(array: np.ndarray) -> str:
    """The sha256 of an array's bytes, little-endian and row by row.

    Args:
      array: The array.

    Returns:
      Its digest in hexadecimal digits.
    """
    return hashlib.sha256(array.tobytes()).hexdigest()


@contextlib.contextmanager
def open_matlab(path: Path) -> Iterator[Mapping[str, Entry]]:
    """Opens MatConvNet's `.mat`: `layers`, structs with `name` and `weights` (filters, biases).

    The two published versions order a struct's fields differently, so that by number the filters
    are `layers[0][i][0][0][2][0][0]` in one and `layers[0][i][0][0][0][0][0]` in the other. The
    names of the fields are the same in both.

    Args:
      path: The file.

    Returns:
      A context manager with the file's entries, `conv1_1 weights` and `conv1_1 biases` and so on.

    Raises:
      ValueError: If it is another kind of file, or damaged.
      ImportError: If SciPy is missing.
    """
    # Filters are (height, width, in, out), by MatConvNet's documentation and in the authors' code
    # (the loader of CQFIO/PhotographicImageSynthesis). The loader of the many "neural style" and
    # "fast style transfer" programs applies np.transpose(kernels, (1, 0, 2, 3)), in the belief
    # that MatConvNet stores (width, height, ..): its filters are mirrored along the diagonal, and
    # an upright image meets the network as if it lay on its side. So it is not done here.
    try:
        import scipy.io
    except ImportError as error:
        raise _needs("scipy", path) from error
    title = "a MATLAB 5 file"
    if not begins_with(path, b"MATLAB 5.0"):
        raise is_not(path, title)
    try:
        layers = scipy.io.loadmat(path, variable_names=["layers"]).get("layers")
    except Exception as error:  # zlib.error, TypeError, ValueError, ...
        raise is_damaged(path, title, error) from error
    if layers is None:
        raise ValueError(f"{path} has no variable 'layers', so it is no network of MatConvNet")
    entries: dict[str, Entry] = {}
    for cell in layers.ravel():
        layer = cell.ravel()[0]
        fields = layer.dtype.names or ()
        if "name" not in fields or "weights" not in fields:
            continue  # ReLU, pool, softmax
        name = str(layer["name"].ravel()[0])
        for kind, array in zip(("weights", "biases"), layer["weights"].ravel(), strict=False):
            if kind == "biases" and array.size in array.shape:
                array = array.ravel()  # 1 x out or out x 1
            entries[f"{name} {kind}"] = Entry(array.shape, lambda array=array: array)
    yield entries


@contextlib.contextmanager
def open_keras(path: Path) -> Iterator[Mapping[str, Entry]]:
    """Opens the HDF5 file of Keras.

    Args:
      path: The file.

    Returns:
      A context manager with the file's entries by their full names.

    Raises:
      ValueError: If it is another kind of file, or damaged.
      ImportError: If h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise _needs("h5py", path) from error
    title = "an HDF5 file"
    if not begins_with(path, b"\x89HDF\r\n\x1a\n"):
        raise is_not(path, title)
    try:
        opened = h5py.File(path, "r")
    except OSError as error:
        raise is_damaged(path, title, error) from error
    entries: dict[str, Entry] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            entries[name] = Entry(node.shape, lambda: np.asarray(node))

    with opened as file:
        try:
            file.visititems(visit)
        except (OSError, RuntimeError) as error:
            raise is_damaged(path, title, error) from error
        yield entries
