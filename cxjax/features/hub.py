"""Fetches a few tensors out of a safetensors file on the Hugging Face hub."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxjax.features.readers import DIGESTS, check_sha256, open_safetensors, sha256

_logger = logging.getLogger(__name__)
_HEAD = 100_000  # bytes asked for first; the header for VGG19's 38 tensors takes some 4,000
_ATTEMPTS = 3
_TIMEOUT = 10.0  # seconds without an answer


class _NoRanges(Exception):
    """A server sends whole files only."""


def fetch_tensors(repository: str, filename: str, keys: Sequence[str], folder: Path) -> Path:
    """Fetches the named tensors, by byte ranges if the server knows them, else the whole file.

    A whole file is compared with the sha256 that the hub gives. That digest cannot vouch for
    parts: of those, sizes are checked, and shapes by whoever reads the result.

    Args:
      repository: Repository on the hub, such as `timm/vgg19.tv_in1k`. `HF_ENDPOINT` names
        another hub.
      filename: A safetensors file in it.
      keys: Names of the tensors, of dtype float32.
      folder: Where to write; it must exist.

    Returns:
      A safetensors file in `folder` with these tensors, and a sha256 of each in its metadata.

    Raises:
      ValueError: If what comes is not what the hub announced, or lacks a key.
      ConnectionError: If it cannot be fetched.
      ImportError: If huggingface_hub or safetensors is missing.
    """
    import huggingface_hub  # noqa: F401 (its absence is no failed connection)
    import safetensors.numpy

    try:
        file = _HubFile(repository, filename)
        try:
            tensors = _fetch_parts(file, keys)
        except _NoRanges:
            tensors = _fetch_whole(file, keys, folder)
    except _WrongContentError:
        raise
    except Exception as error:  # the client's own classes differ from version to version
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    record = json.dumps({key: sha256(tensor) for key, tensor in tensors.items()})
    path = folder / "tensors.safetensors"
    safetensors.numpy.save_file(tensors, path, {DIGESTS: record, "source": file.url})
    return path


class _WrongContentError(ValueError):
    """What came is not what the hub announced."""


class _HubFile:
    """A file on the hub, at the commit that is the newest when this is made."""

    def __init__(self, repository: str, filename: str) -> None:
        import huggingface_hub

        self.endpoint = os.environ.get("HF_ENDPOINT") or None
        self.repository = repository
        self.filename = filename
        info = huggingface_hub.HfApi(self.endpoint).model_info(
            repository, files_metadata=True, timeout=_TIMEOUT
        )
        entry = next((s for s in info.siblings or () if s.rfilename == filename), None)
        if entry is None or entry.lfs is None:
            raise LookupError(f"{repository} has no {filename} with a sha256")
        self.revision = info.sha
        self.size: int = entry.lfs.size
        self.sha256: str = entry.lfs.sha256
        self.url = huggingface_hub.hf_hub_url(
            repository, filename, revision=self.revision, endpoint=self.endpoint
        )

    def read(self, start: int, stop: int) -> bytes:
        """Fetches bytes, and resumes where a broken connection left off."""
        from huggingface_hub.errors import HfHubHTTPError

        content = bytearray()
        for attempt in range(_ATTEMPTS):
            try:
                self._read_into(content, start, stop)
                break
            except (_NoRanges, HfHubHTTPError):  # an answer, and not a broken connection
                raise
            except Exception as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                _logger.warning("%s at byte %d; resuming", error, start + len(content))
        if len(content) != stop - start:
            raise _WrongContentError(
                f"{self.url} sent {len(content)} bytes instead of {stop - start}"
            )
        return bytes(content)

    def _read_into(self, content: bytearray, start: int, stop: int) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = build_hf_headers() | {
            "range": f"bytes={start + len(content)}-{stop - 1}",
            "accept-encoding": "identity",
        }
        with get_session().stream(
            "GET", self.url, headers=headers, follow_redirects=True, timeout=_TIMEOUT
        ) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:  # 206 is "partial content"
                raise _NoRanges
            for chunk in response.iter_bytes():
                content += chunk

    def download(self, folder: Path) -> Path:
        """Fetches the whole file, with the client's progress bar."""
        import huggingface_hub

        path = huggingface_hub.hf_hub_download(
            self.repository,
            self.filename,
            revision=self.revision,
            local_dir=folder,
            endpoint=self.endpoint,
        )
        return Path(path)


def _fetch_parts(file: _HubFile, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the header (its length in 8 bytes, then JSON), then the tensors' bytes only."""
    head = file.read(0, min(_HEAD, file.size))
    start = 8 + int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or start > file.size:
        raise _WrongContentError(f"{file.url} is not a safetensors file: it begins {head[:16]!r}")
    if start > len(head):
        head += file.read(len(head), start)
    header: dict[str, Any] = json.loads(head[8:start])
    header.pop("__metadata__", None)
    spans = {key: tensor["data_offsets"] for key, tensor in header.items()}
    if start + max(end for _, end in spans.values()) != file.size:
        raise _WrongContentError(f"{file.url} has another size than its header says")
    for key in keys:
        if key not in header:
            raise _WrongContentError(f"{file.url} has no {key!r}")
        if header[key]["dtype"] != "F32":
            raise _WrongContentError(f"{key!r} in {file.url} is {header[key]['dtype']}, not F32")
    runs: list[list[str]] = []  # of tensors that follow one another
    for key in sorted(keys, key=spans.__getitem__):
        if runs and spans[runs[-1][-1]][1] == spans[key][0]:
            runs[-1].append(key)
        else:
            runs.append([key])
    total = sum(end - begin for begin, end in map(spans.__getitem__, keys))
    _logger.info("fetching %.0f of %.0f MB of %s", total / 1e6, file.size / 1e6, file.url)
    tensors = {}
    for run in runs:
        origin = spans[run[0]][0]
        content = file.read(start + origin, start + spans[run[-1]][1])
        for key in run:
            begin, end = spans[key]
            array = np.frombuffer(content[begin - origin : end - origin], "<f4")
            tensors[key] = array.reshape(header[key]["shape"])
    return tensors


def _fetch_whole(file: _HubFile, keys: Sequence[str], folder: Path) -> dict[str, np.ndarray]:
    _logger.warning("%s comes only whole: fetching %.0f MB", file.url, file.size / 1e6)
    whole = file.download(folder)
    try:
        check_sha256(whole, file.sha256, "the hub")
    except ValueError as error:
        raise _WrongContentError(str(error)) from None
    with open_safetensors(whole) as entries:
        return {key: entries[key].read() for key in keys if key in entries}
