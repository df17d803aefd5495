"""Finished runs as lines of JSON: what an experiment's `results.jsonl` holds.

Two kinds of lines. A base, `{"base": digest, "settings": {...}}`, holds the full settings that many
runs start from, once. A run, `{"grid", "name", "base", "changes", "metrics", ...}`, holds what
differs from its base, and what came out of it. What is not known of an old run is null.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RECORD = "record.json"  # in the folder of a run that a grid has finished
_OF_THE_MACHINE = ("device", "processor", "cores")
_VERSIONS = ("jax", "jaxlib", "python")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run."""

    grid: str
    name: str
    base: Mapping[str, Any]
    """Full settings that the grid's runs start from."""
    changes: Mapping[str, Any]
    """What differs from the base."""
    metrics: Mapping[str, Any] | None
    """What came out; None where the loss did not stay finite."""
    seconds: float | None = None
    device: str | None = None
    processor: str | None = None
    cores: int | None = None
    versions: Mapping[str, str | None]
    commit: str | None = None
    diverged: str | None = None
    """The message, where the loss did not stay finite."""

    @property
    def settings(self) -> dict[str, Any]:
        """The full settings of the run."""
        return {**self.base, **self.changes}


def make_record(
    results: Mapping[str, Any],
    *,
    grid: str,
    name: str,
    base: Mapping[str, Any],
    changes: Mapping[str, Any],
    commit: str | None,
    diverged: str | None = None,
) -> Record:
    """A record of a run's results, as `runs.write_results` gives them."""
    about = {key: results.get(key) for key in ("seconds", *_OF_THE_MACHINE)}
    versions = {key: results.get(key) for key in _VERSIONS}
    metrics = {k: v for k, v in results.items() if k not in (*about, *versions)}
    return Record(
        grid=grid,
        name=name,
        base=base,
        changes=json.loads(json.dumps(dict(changes), default=str)),
        metrics=None if diverged else metrics,
        versions=versions,
        commit=commit,
        diverged=diverged,
        **about,
    )


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell one base from another."""
    return hashlib.sha256(_line(settings).encode()).hexdigest()[:12]


def read_records(path: Path) -> list[Record]:
    """The runs of a `results.jsonl`; none if there is no such file.

    Raises:
      ValueError: Names the line that is damaged, or whose base the file lacks.
    """
    if not path.is_file():
        return []
    bases: dict[str, Any] = {}
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            fields = json.loads(line)
            if "settings" in fields:
                bases[fields["base"]] = fields["settings"]
            else:
                records.append(Record(**{**fields, "base": bases[fields["base"]]}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {path} is damaged: {error!r}") from error
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes a `results.jsonl`, bases first, sorted; whole or not at all."""
    records = list(records)
    bases = {digest(record.base): record.base for record in records}
    lines = [_line({"base": key, "settings": bases[key]}) for key in sorted(bases)]
    runs = sorted(records, key=lambda r: (r.grid, r.name, digest(r.base), _line(r.changes)))
    for record in runs:
        fields = {**dataclasses.asdict(record), "base": digest(record.base)}
        if record.diverged is None:
            del fields["diverged"]
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False))
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text("".join(f"{line}\n" for line in lines))
    unfinished.replace(path)


def read_record(folder: Path) -> Record | None:
    """The record in the folder of a run; None if the grid has not finished it."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to make the run again") from error


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
