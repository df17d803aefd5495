"""Pictures of two domains: to train on without pairs, and pairs to score by."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxjax.data.pipeline import Transform
from cxjax.data.sources import Source
from experiments import datasets
from experiments.common.training import TrainingData
from experiments.datasets.emoji import kind_of
from experiments.domain_transfer.config import Config

# Of each; as many as the authors' loader, DistanceGAN's, but others: TFDS shuffles the set.
_CELEBRITIES_HELD_OUT = 200
SHOWN = 6  # sources in a sample grid


class Resized(Sequence):
    """Pictures of a source, cropped to the middle and scaled when they are asked for."""

    def __init__(self, source: Source, indices: Sequence[int], size: int) -> None:
        self._source, self._indices, self._size = source, indices, size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        return datasets.middle(self._source[self._indices[index]]["image"], self._size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """Pictures, uint8 `(h, w, 3)`, and what each shows: a target is drawn among those alike."""

    pictures: Sequence[np.ndarray]
    kinds: Sequence[str]

    def __len__(self) -> int:
        return len(self.kinds)

    def stack(self, most: int | None = None) -> np.ndarray:
        """The pictures, the first `most` or all, `(n, h, w, 3)`, in [0, 1]."""
        indices = range(len(self))[:most]
        return np.stack([self.pictures[i] for i in indices]).astype(np.float32) / 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domains:
    """Training pictures of source and target, and those held out.

    Where `paired`, the held-out ones are in one order, each source beside its hidden true target.
    """

    source: Domain
    target: Domain
    held_out_source: Domain
    held_out_target: Domain
    paired: bool


def read_domains(config: Config) -> Domains:
    """Opens the two domains.

    Raises:
      ValueError: If a set has too few pictures, or a source's kind no target; what opening raises.
    """
    read = {
        "man-woman": _people,
        "noto-fluent": _noto_fluent,
        "drawn": _drawn,
        "celeb_a": _celebrities,
    }
    domains = read.get(config.domains, _cycle_gan)(config)
    if len(domains.source) < config.batch_size:
        raise ValueError(
            f"--batch-size {config.batch_size} is more than the {len(domains.source)} source "
            f"pictures of {config.domains}"
        )
    if missing := set(domains.source.kinds) - set(domains.target.kinds):
        raise ValueError(f"no target of the kinds {', '.join(sorted(missing))} to train on")
    return domains


def training_data(config: Config, domains: Domains) -> TrainingData:
    """The source's pictures, each with a random target of its kind."""
    held_out = domains.held_out_source
    few = range(0, len(held_out), max(1, len(held_out) // SHOWN))
    return TrainingData(
        examples=Sources(domains.source),
        transform=random_targets(domains.target),
        shown=np.stack([held_out.pictures[i] for i in few][:SHOWN]) / np.float32(255),
    )


def _people(config: Config) -> Domains:
    return _emoji_domains(config, "fluent_people", "man", "woman")


def _noto_fluent(config: Config) -> Domains:
    return _emoji_domains(config, "emoji", "noto", "fluent")


def _emoji_domains(config: Config, name: str, source: str, target: str) -> Domains:
    """Of the set's test pairs one half, by base, are for validation."""

    def read(split: str, keep: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> Domain:
        rows = datasets.open_source(name, split=split)
        chosen = [
            row for row in (rows[i] for i in range(len(rows))) if kind_of(row["id"]) and keep(row)
        ]
        return Domain(
            pictures=[datasets.middle(row["image"], config.size) for row in chosen],
            kinds=[str(kind_of(row["id"])) for row in chosen],
        )

    def held_out(row: Mapping[str, Any]) -> bool:
        odd = hashlib.sha256(f"half {row['base']}".encode()).digest()[0] % 2
        return bool(odd) == (config.held_out == "validation")

    return Domains(
        source=read(f"{source}_train"),
        target=read(f"{target}_train"),
        held_out_source=read(f"{source}_test", held_out),
        held_out_target=read(f"{target}_test", held_out),
        paired=True,
    )


def _celebrities(config: Config) -> Domains:
    """Men and women; which is which is read once, at the start, from all examples."""
    source = datasets.open_source("celeb_a", split="train")
    print(f"reading which of {len(source):,} pictures are of men: minutes")
    men = [bool(source[i]["attributes"]["Male"]) for i in range(len(source))]
    both = [[i for i, man in enumerate(men) if man is sex] for sex in (True, False)]
    return _unpaired(
        config, *([(source, indices) for indices in both]), held_out=_CELEBRITIES_HELD_OUT
    )


def _cycle_gan(config: Config) -> Domains:
    """A set, or a user's folder, of the parts `trainA`, `trainB`, `testA` and `testB`."""
    folder = Path(config.domains)
    tests = ("testA", "testB")
    if folder.is_dir():
        tests = tuple(split for split in tests if (folder / split).is_dir())
        if len(tests) == 1:
            raise ValueError(f"{folder} has {tests[0]} alone: testA and testB go together")
    parts = {
        split: datasets.open_source(config.domains, split=split)
        for split in ("trainA", "trainB", *tests)
    }
    train = [(parts[s], range(len(parts[s]))) for s in ("trainA", "trainB")]
    tenth = max(2, min(map(len, parts.values())) // 10)
    if not tests:
        return _unpaired(config, *train, held_out=tenth, both=False)
    if config.held_out == "validation" and not folder.is_dir():
        return _unpaired(config, *train, held_out=tenth)
    test = [_lazy(config, parts[s], range(len(parts[s]))) for s in tests]
    source, target = (_lazy(config, *part) for part in train)
    return Domains(
        source=source,
        target=target,
        held_out_source=test[0],
        held_out_target=test[1],
        paired=False,
    )


def _unpaired(
    config: Config, *domains: tuple[Source, Sequence[int]], held_out: int, both: bool = True
) -> Domains:
    """The last of each domain are held out; for `both`, as many before them to validate."""
    parts = []
    for source, indices in domains:
        out = 2 * held_out if both else held_out
        if len(indices) < (needed := out + config.batch_size):
            raise ValueError(
                f"{config.domains} has a domain of {len(indices)} pictures: fewer than the "
                f"{needed} that are needed to hold out {out} and train on batches of "
                f"{config.batch_size}"
            )
        train, scored = np.split(np.asarray(indices), [-out])
        if both:
            scored = np.split(scored, 2)[config.held_out == "test"]
        parts.append((_lazy(config, source, train), _lazy(config, source, scored)))
    return Domains(
        source=parts[0][0],
        target=parts[1][0],
        held_out_source=parts[0][1],
        held_out_target=parts[1][1],
        paired=False,
    )


def _lazy(config: Config, source: Source, indices: Sequence[int] | np.ndarray) -> Domain:
    chosen = [int(i) for i in indices]
    return Domain(pictures=Resized(source, chosen, config.size), kinds=[""] * len(chosen))


def _drawn(config: Config) -> Domains:
    """Faces with blue hats, and with violet ones and longer hair, of two kinds."""

    def draw(numbers: range, hat: tuple[int, int, int], hair: float) -> Domain:
        rows, columns = np.indices((config.size, config.size)) / config.size
        pictures, kinds = [], []
        for number in numbers:
            picture = np.full((config.size, config.size, 3), 255, np.uint8)
            x = 0.4 + 0.05 * (number % 5)
            skin = (240, 190, 60) if number % 2 else (150, 100, 60)
            picture[(abs(columns - x) < 0.3) & (abs(rows - 0.5) < hair)] = (90, 50, 20)
            picture[np.hypot(rows - 0.55, columns - x) < 0.22] = skin
            picture[(abs(rows - 0.28) < 0.08) & (abs(columns - x) < 0.2)] = hat
            pictures.append(picture)
            kinds.append(str(number % 2))
        return Domain(pictures=pictures, kinds=kinds)

    blue, violet = ((40, 90, 220), 0.1), ((150, 60, 200), 0.3)
    held_out = range(20, 26) if config.held_out == "test" else range(26, 32)
    return Domains(
        source=draw(range(0, 10), *blue),
        target=draw(range(10, 20), *violet),
        held_out_source=draw(held_out, *blue),
        held_out_target=draw(held_out, *violet),
        paired=True,
    )


class Sources:
    """The source's pictures, as the source of a pipeline of batches."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def __len__(self) -> int:
        return len(self._domain)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return {"source": self._domain.pictures[index], "kind": self._domain.kinds[index]}


def random_targets(target: Domain) -> Transform:
    """Gives each source a random target of its kind, another one each time.

    Returns:
      What `batches` calls for each example: adds `"target"`, `(h, w, 3)` in [0, 1].
    """
    alike = by_kind(target)

    def transform(example: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        indices = alike[example.pop("kind")]
        chosen = target.pictures[indices[generator.integers(len(indices))]]
        return example | {"target": chosen.astype(np.float32) / 255}

    return transform


def by_kind(domain: Domain) -> dict[str, list[int]]:
    """Which pictures are of each kind."""
    indices: dict[str, list[int]] = {}
    for index, kind in enumerate(domain.kinds):
        indices.setdefault(kind, []).append(index)
    return indices
