"""Arrays by name, the record of them, and the checks that say whether a checkpoint is sound.

Orbax can restore wrong values without a word: a flipped byte is not noticed, and a dtype that
differs is cast. So each array is recorded with its CRC32, shape and dtype, and the record with its
own CRC32.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cxjax.training.processes import fail_together, gather

_SHOWN = 8  # differences that a message lists


class UnsoundError(Exception):
    """A checkpoint is damaged."""


def as_json(name: str, value: Any) -> Any:
    """A value as it comes back from JSON, or a `ValueError` that names it.

    JSON has neither NaN nor infinity, and a NaN would never equal the one that was saved.
    """
    try:
        value = dict(value) if isinstance(value, Mapping) else value
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be what JSON can hold: {error}; got {value!r}") from error


def json_crc(value: Any) -> int:
    """CRC32 of a value from `as_json`."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def differences(given: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """The entries that differ, as text; empty if none does."""
    show = lambda side, name: repr(side[name]) if name in side else "nothing"
    different = [
        f"{name}: given {show(given, name)}, saved {show(saved, name)}"
        for name in dict.fromkeys([*given, *saved])
        if name not in given or name not in saved or given[name] != saved[name]
    ]
    more = [f"and {len(different) - _SHOWN} more"] if len(different) > _SHOWN else []
    return "; ".join(different[:_SHOWN] + more)


def flatten(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name, such as `params/conv1/kernel`."""
    return {"/".join(_path(keys)): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(keys: Sequence[Any]) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in keys]


def _dtype_and_shape(name: str, leaf: Any) -> str:
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise ValueError(f"a state holds arrays only; {name!r} is {leaf!r}")
    return f"{leaf.dtype} {tuple(leaf.shape)}"


def to_save(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a state for orbax, by name, and what is to be recorded of each.

    Copies are made on the host of one array at a time.
    """
    arrays, entries = {}, {}
    broken: dict[str, list[str]] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state):
        path = _path(keys)
        name = "/".join(path)
        if not name or name in entries:
            raise ValueError(f"each array of a state needs a name of its own; one has {name!r}")
        entry: dict[str, Any] = {"path": path, "form": _dtype_and_shape(name, leaf)}
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            entry["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        host = _to_host(name, leaf)
        if jnp.issubdtype(host.dtype, jnp.inexact) and not _is_finite(host):
            broken.setdefault(path[0], []).append(name)
        entry |= {"shape": list(host.shape), "dtype": str(host.dtype), "crc": _crc(host)}
        entries[name] = entry
        if host.size:  # orbax refuses empty arrays
            is_local = isinstance(leaf, jax.Array) and leaf.is_fully_addressable
            arrays[name] = leaf if is_local else host
    if broken:
        groups = [f"{group} ({len(n)}, the first {n[0]})" for group, n in broken.items()]
        raise FloatingPointError(f"arrays with NaN or infinity, not saved: {', '.join(groups)}")
    return arrays, entries


def _is_finite(host: np.ndarray) -> bool:
    if host.ndim:
        return bool(np.isfinite(host).all())
    return not np.isnan(host)  # infinite is an optimiser's best loss before the first


def _crc(host: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(host).reshape(-1).view(np.uint8).data)


def _to_host(name: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_shards[0].data)
    if not leaf.is_fully_addressable:
        raise ValueError(f"{name} is split over several processes; only replicated can it be saved")
    # Not np.asarray(leaf), which keeps its copy for as long as the array lives.
    host = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        host[shard.index] = shard.data
    return host


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the checkpoint in a folder, or an `UnsoundError`."""
    try:
        saved = json.loads((folder / "meta" / "metadata").read_bytes())
        record, crc = saved["record"], saved["crc"]
    except PermissionError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UnsoundError(f"no readable record: {type(error).__name__}: {error}") from error
    if json_crc(record) != crc:
        raise UnsoundError("its record has been changed: wrong CRC32")
    return record


def read_arrays(folder: Path, entries: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays with these entries of the record, or an `UnsoundError`.

    They come to the host: that a device has no room for them does not make them unsound.
    """
    names = [name for name, entry in entries.items() if 0 not in entry["shape"]]
    args = ocp.args.PyTreeRestore(
        item=dict.fromkeys(names, 0),
        restore_args=dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray)),
        partial_restore=True,
    )
    try:
        restored = ocp.PyTreeCheckpointHandler().restore(epath.Path(folder / "state"), args=args)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # tensorstore's are of many classes
        raise UnsoundError(f"unreadable: {type(error).__name__}: {error}") from error
    arrays = {}
    for name, entry in entries.items():
        if 0 in entry["shape"]:
            restored[name] = np.zeros(entry["shape"], entry["dtype"])
        array = restored[name]
        if (list(array.shape), str(array.dtype)) != (entry["shape"], entry["dtype"]):
            raise UnsoundError(f"{name} is {array.dtype} {array.shape}, which its record is not")
        if _crc(array) != entry["crc"]:
            raise UnsoundError(f"{name} has other values than were saved: wrong CRC32")
        arrays[name] = array
    return arrays


def check_fit(where: str, expected: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if what is in a checkpoint is not what is expected."""
    given = {name: _dtype_and_shape(name, leaf) for name, leaf in expected.items()}
    saved = {name: entry["form"] for name, entry in entries.items()}
    if different := differences(given, saved):
        raise ValueError(
            f"{where} does not fit the arrays given: {different}. Give the model and the optimiser "
            "that it was saved with, or another folder"
        )


def place_like(
    arrays: Mapping[str, np.ndarray], entries: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[Any]:
    """The arrays on the devices, and in the order, of those expected."""
    return [_place(arrays[name], entries[name], like) for name, like in expected.items()]


def _place(host: np.ndarray, entry: Mapping[str, Any], like: Any) -> Any:
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return host
    if like.sharding is None:
        array = jnp.asarray(host)
    else:
        array = jax.make_array_from_callback(host.shape, like.sharding, host.__getitem__)
    return jax.random.wrap_key_data(array, impl=entry["key"]) if "key" in entry else array


def steps_in(folder: Path) -> list[int]:
    """Steps of the finished checkpoints, newest first; orbax finishes one by renaming it."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def read_newest(
    folder: Path, steps: list[int], select: Callable[[int, dict[str, Any]], dict[str, Any]]
) -> tuple[int, dict[str, Any], dict[str, np.ndarray], dict[int, str]]:
    """The first sound one of the steps, the arrays that `select` chose, and why others are not."""
    unsound: dict[int, str] = {}
    for step in steps:
        record, arrays, reason = {}, {}, ""
        with fail_together():
            try:
                record = read_record(folder / str(step))
                arrays = read_arrays(folder / str(step), select(step, record))
            except UnsoundError as error:
                reason = str(error)
        if not any(gather(bool(reason))):
            return step, record, arrays, unsound
        unsound[step] = reason or "another process could not read it"
    reasons = "; ".join(f"step {step}: {reason}" for step, reason in unsound.items())
    raise ValueError(f"no checkpoint in {folder} is sound, and none was moved. {reasons}")
