"""Images by name: folders, videos, and the sets of tensorflow-datasets, read without TensorFlow."""

import difflib
import os
import re
from pathlib import Path
from typing import Any

from cxjax.data.sources import ImageFolder, Source, VideoFrames, to_rgb
from cxjax.data.video import check_selection

_PREFERRED = ("image", "hr")  # features to take as the image: div2k has "hr" and "lr"
_NAME = re.compile(r"[A-Za-z_]\w*(/[\w.+-]+)?(:[\d.*]+)?(/[\w=,.]+)?")  # config, version, options


def open_source(
    name: str | os.PathLike[str],
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image: str | None = None,
    start: int = 0,
    stop: int | None = None,
    every: int = 1,
) -> Source:
    """Opens a folder of pictures, a video file, or a set of tensorflow-datasets by its name.

    A file or folder of that name comes first. Of a folder with one named as the split in it, that
    one is taken. A set must have been prepared as `array_record`; one whose builder class says
    `prepares_without_tensorflow = True`, and whose module was imported, is prepared here and now.

    Args:
      name: A path, or a name such as `celeb_a`, `cycle_gan/horse2zebra`, `div2k/bicubic_x4`.
      split: Part of the set, `train[:90%]` too.
      data_dir: Where sets lie; `None` is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      image: Feature to take as the image; `None` takes `image`, else `hr`, else the only one. Other
        images of a set are left out, for they would need a crop of their own.
      start: First item to keep, counted from 0; of a video those left out fill no memory.
      stop: Item to stop before; `None` for the end.
      every: Keep one item out of so many.

    Returns:
      A source of dicts with `"image"`, uint8 `(h, w, 3)`, RGB, and a set's further features, texts
      as `str`.

    Raises:
      ImportError: If what is needed is not installed, or the set is not prepared and preparing it
        needs TensorFlow. The message says how.
      ValueError: If there is neither such a file nor such a set, the set has no such split or
        feature, none of the items asked for, or a file is damaged.
    """
    check_selection(start, stop, every)
    path = Path(name).expanduser()
    if path.is_file():
        if split != "train":
            raise ValueError(f"{path} is a file, which has no split {split}")
        return VideoFrames(path, start=start, stop=stop, every=every)
    source = _open_folder(path, split) if path.is_dir() else _open_set(name, split, data_dir, image)
    kept = range(len(source))[start:stop:every]
    if not kept:
        raise ValueError(f"{name} has no item from {start} on")
    return source if len(kept) == len(source) else _Selected(source, kept)


def _open_folder(path: Path, split: str) -> ImageFolder:
    if (path / split).is_dir():
        return ImageFolder(path / split)
    if split != "train":
        raise ValueError(f"{path} has no folder {split}")
    return ImageFolder(path)


def _open_set(
    name: str | os.PathLike[str],
    split: str,
    data_dir: str | os.PathLike[str] | None,
    image: str | None,
) -> Source:
    name = str(name)
    if not _NAME.fullmatch(name):
        raise ValueError(f"there is no file, folder or set {name}")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"there is no file or folder {name}, and sets by name need tensorflow-datasets: "
            'pip install "cxjax[data]"'
        ) from error
    _check_array_record(name)
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        if (folder := Path(name).parent) != Path() and folder.is_dir():
            raise ValueError(f"there is no {Path(name).name} in the folder {folder}") from error
        close = difflib.get_close_matches(
            name.split("/")[0], tfds.list_builders(with_community_datasets=False), 3
        )
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"there is no file, folder or set {name}{hint}") from error
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ImportError(f"{name}: {_how_to_prepare(name, data_dir)}") from error
    except (AssertionError, ValueError) as error:  # of its configuration, of its version
        base = re.split("[/:]", name)[0]
        builder_type = tfds.builder_cls(base)
        known = [f"{base}/{config}" for config in builder_type.builder_configs]
        raise ValueError(
            f"there is no set {name}; known: {', '.join(known) or f'{base}:{builder_type.VERSION}'}"
        ) from error
    image, others = _image_features(name, builder.info.features, image)
    rows = _rows(builder, name, split)
    if rows is None:
        if not getattr(builder, "prepares_without_tensorflow", False):
            where = builder.data_path
            config = f"/{builder.builder_config.name}" if builder.builder_config else ""
            advice = _how_to_prepare(f"{builder.name}{config}", data_dir)
            raise ImportError(f"{name} is not in {where}: {advice}")
        prepare(builder)
        rows = _rows(builder, name, split)
    return _DataSet(rows, image, set(others), name)


def prepare(builder: Any) -> None:
    """Prepares a set whose builder needs no TensorFlow; does nothing if it is prepared.

    Args:
      builder: A `tfds.core.DatasetBuilder`, made with `file_format="array_record"`.

    Raises:
      ImportError: If array_record, which is not for Windows, or importlib_resources is missing.
      ValueError, OSError: Whatever fetching and reading the set raises.
    """
    _check_array_record(builder.name)
    try:
        import importlib_resources  # noqa: F401 (tensorflow-datasets does, and says nothing of it)
    except ImportError as error:
        raise ImportError(
            'preparing needs importlib_resources: pip install "cxjax[data]"'
        ) from error
    try:
        builder.download_and_prepare()
    except OSError:  # another process was faster, and its folder is in the way
        if not builder.is_prepared():
            raise


def _check_array_record(name: str) -> None:
    try:
        import array_record  # noqa: F401 (only to see whether it is there)
    except ImportError as error:
        raise ImportError(
            f"there is no file or folder {name}, and sets by name are read by array_record: pip "
            'install "cxjax[data]"; on Windows, for which it does not exist, give pictures'
        ) from error


def _rows(builder: Any, name: str, split: str) -> Any:
    """The set's data source; `None` if it is not prepared, which a mocked one need not be."""
    try:
        return builder.as_data_source(split=split)
    except Exception as error:
        if not builder.is_prepared():
            return None
        kind = builder.info.file_format
        raise ValueError(
            f"cannot read split {split} of {name} in {builder.data_path} ({error}); its splits are "
            f"{', '.join(builder.info.splits)}, and it is stored as "
            f"{kind.value if kind else 'nothing known'}, of which only array_record is read here"
        ) from error


def _image_features(name: str, features: Any, image: str | None) -> tuple[str, list[str]]:
    """The feature that is the image, and the other images."""
    import tensorflow_datasets as tfds

    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    if image is None:
        image = next((key for key in _PREFERRED if key in images), None)
        if image is None and len(images) == 1:
            image = images[0]
    if image is None or image not in images:
        raise ValueError(
            f"the images of {name} are {', '.join(images) or 'none'}; choose one by image="
        )
    return image, [key for key in images if key != image]


def _how_to_prepare(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    where = f", data_dir={os.fspath(data_dir)!r}" if data_dir else ""
    return (
        'preparing it needs TensorFlow, and reading does not: pip install "cxjax[tf]", then, once, '
        f"tensorflow_datasets.builder({name!r}{where}, file_format='array_record')"
        ".download_and_prepare()"
    )


class _Selected:
    """Some items of another source."""

    def __init__(self, source: Source, kept: range) -> None:
        self._source, self._kept = source, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int, /) -> Any:
        return self._source[self._kept[index]]


class _DataSet:
    """A split of a set of tensorflow-datasets with the chosen feature as `"image"`."""

    def __init__(self, rows: Any, image: str, others: set[str], name: str) -> None:
        self._rows, self._image, self._others, self._name = rows, image, others, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        try:
            row = dict(self._rows[index])
        except Exception as error:  # of Pillow or OpenCV, of array_record, of protobuf
            raise ValueError(f"cannot read example {index} of {self._name}: {error}") from error
        element = {"image": to_rgb(row.pop(self._image))}
        for name, value in row.items():
            if name not in self._others:
                element[name] = value.decode(errors="replace") if _is_text(value) else value
        return element


def _is_text(value: Any) -> bool:
    return isinstance(value, bytes)
