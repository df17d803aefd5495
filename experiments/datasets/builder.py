"""What the builders have in common: stored as `array_record`, in order, without TensorFlow."""

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

from experiments.datasets import DATASETS
from experiments.datasets.archives import CorruptArchiveError


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set out of a package. Every example has an `image`, shown on white, and an `id`."""

    VERSION = tfds.core.Version("1.0.0")
    prepares_without_tensorflow: ClassVar[bool] = True
    features: ClassVar[Mapping[str, Any]]
    citation: ClassVar[str]

    def _info(self) -> tfds.core.DatasetInfo:
        entry = DATASETS[self.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=entry.summary,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "id": tfds.features.Text(),
                    **self.features,
                }
            ),
            citation=self.citation,
            license=entry.licence,
            disable_shuffling=True,  # keeps the order of generation, which is that of time in clips
        )


def open_picture(name: str, content: bytes) -> Image.Image:
    """Decodes a file of a package; a CorruptArchiveError names it if it is no picture."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except Exception as error:  # each of Pillow's decoders has its own
        raise CorruptArchiveError(f"{name} cannot be read as a picture: {error}") from error
    return picture
