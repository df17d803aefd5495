"""Batches of a source: shuffled, cropped, flipped, prefetched, and the same for the same seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cxjax.data.images import as_float, resize_shorter
from cxjax.data.sources import Source, to_rgb
from cxjax.options import check_integer, check_option
from cxjax.types import Batches

Element = dict[str, Any]
Batch = dict[str, np.ndarray]
Transform = Callable[[Element, np.random.Generator], Element]
Crop = Literal["random", "centre"]


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    size: tuple[int, int] | None = None,
    shorter_side: int | None = None,
    crop: Crop = "random",
    flip: bool = False,
    transform: Transform | None = None,
    shuffle: bool = True,
    repeat: bool = True,
    drop_remainder: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> Batches:
    """Iterates over batches of a source, in an order and with crops that the seed decides.

    Examples are shuffled anew in each epoch, and one epoch's last batch is filled from the next.
    What is drawn for an example depends on the seed and on its position in this stream, not on the
    number of processes: those together get the batches that one alone would.

    An example's images are its `"image"` and every other array `(h, w, c)` of at most four
    channels. All images of an example are scaled, cropped and flipped alike, so they must be of one
    size; what is no image is best nested in a dict. Integers are divided by the largest value of
    their type, as in `cxjax.data.images.as_float`.

    Args:
      source: Images, or dicts with an `"image"`, by number.
      batch_size: Examples in a batch, over all processes.
      seed: Decides order, crops, flips and what `transform` draws; at least 0, below 2^32.
      size: Height and width of the part to crop; `None` keeps the whole.
      shorter_side: Scale the image to have this as its shorter side, before cropping.
      crop: Where to crop.
      flip: Mirror each example, left to right, with probability one half.
      transform: Called last with each example, whose images are float32 in [0, 1], and a generator
        of its own; returns the example to take instead. It runs in several threads.
      shuffle: Shuffle; `False` keeps the source's order.
      repeat: Repeat the source for ever; `False` stops after one epoch.
      drop_remainder: Without `repeat`, leave out a last batch that is smaller.
      process_index: Number of this process.
      process_count: Number of processes that share each batch; it must divide `batch_size`. Each
        receives every `process_count`-th example.
      threads: Threads that read and decode; 0 for none.
      prefetch: Batches to hold ready.

    Returns:
      An iterator with `get_state()` and `set_state(state)`, of dicts: images float32 `(b, h, w, 3)`
      in [0, 1], numbers and arrays stacked, and `"index"`, int64 `(b,)`, each example's position in
      the stream of all processes. Texts and nested features are left out; `transform` sees them.

    Raises:
      ImportError: If grain is missing.
      ValueError: At once, if sizes and counts do not fit one another or the first example; while
        iterating, if an example does not fit, or has an image in floating point with values outside
        [0, 1] or negative integers; the message has the example's number in the
        source. What the source raises comes as it is.
    """
    check_option("crop", crop, Crop)
    count = len(source)
    _check_counts(count, batch_size, repeat, drop_remainder, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2^32), not {seed}")
    prepare = _Prepare(size, shorter_side, crop, flip, transform)
    prepare.check(source[0])
    examples: Any = _Numbered(source)  # grain's protocol wants a parameter named `index`
    try:
        import grain
    except ImportError as error:
        raise ImportError('batches need grain: pip install "cxjax[data]"') from error
    stream = grain.MapDataset.source(examples).seed(seed)
    if shuffle:
        stream = stream.shuffle()
    if repeat:
        stream = stream.repeat(None)
    stream = stream.map_with_index(_with_index).random_map(prepare)
    stream = stream[process_index::process_count]  # after what is random: that goes by position
    share = batch_size // process_count
    stream = stream.batch(share, drop_remainder=drop_remainder, batch_fn=_stack)
    options = grain.ReadOptions(threads, prefetch if threads else 0)
    return iter(stream.to_iter_dataset(options))


def _check_counts(
    count: int,
    batch_size: int,
    repeat: bool,
    drop_remainder: bool,
    process_index: int,
    process_count: int,
) -> None:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be shared by {process_count} processes; take a "
            "multiple of their number"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in [0, {process_count})")
    if count == 0:
        raise ValueError("the source has no examples")
    if batch_size > count and (repeat or drop_remainder):
        raise ValueError(
            f"a batch of {batch_size} is larger than the source, which has {count} examples; take "
            f"batch_size={count} or less, or more data"
        )
    if not (repeat or drop_remainder) and process_count > 1:
        raise ValueError("several processes cannot share a smaller last batch; drop_remainder=True")


class _Numbered:
    """A source whose items tell their number, for messages: in the stream they are shuffled."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> tuple[int, Any]:
        return index, self._source[index]


def _with_index(index: int, numbered: tuple[int, Any]) -> tuple[int, Element]:
    number, element = numbered
    element = dict(element) if isinstance(element, Mapping) else {"image": element}
    return number, element | {"index": index}


def _name(number: int, element: Element) -> str:
    return f"example {number}" + (f" ({element['id']})" if "id" in element else "")


class _Prepare:
    """Scales, crops, flips, makes float32, transforms: what grain calls for each example."""

    def __init__(
        self,
        size: tuple[int, int] | None,
        shorter_side: int | None,
        crop: Crop,
        flip: bool,
        transform: Transform | None,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size is a height and a width of at least 1, not {size}")
        if shorter_side is not None:
            check_integer("shorter_side", shorter_side, more=" or None")
        if size is not None and shorter_side is not None and shorter_side < min(size):
            raise ValueError(f"no part of {size} fits into images of shorter_side={shorter_side}")
        self._size, self._shorter_side, self._crop = size, shorter_side, crop
        self._flip, self._transform = flip, transform

    def check(self, element: Any) -> None:
        """Tries the first example, without `transform`, so that a misfit shows at once."""
        _, element = _with_index(0, (0, element))
        name = _name(0, element)
        self._window(self._images(element, name), np.random.default_rng(0), name)

    def __call__(self, numbered: tuple[int, Element], generator: np.random.Generator) -> Element:
        number, element = numbered
        name = _name(number, element)
        images = self._images(element, name)
        window, mirrored = self._window(images, generator, name)
        result = element | {key: as_float(image[window]) for key, image in images.items()}
        if mirrored:
            result |= {key: result[key][:, ::-1] for key in images}
        return self._transform(result, generator) if self._transform else result

    def _images(self, element: Element, name: str) -> dict[str, np.ndarray]:
        images = {}
        for key, value in element.items():
            if key == "image" or (getattr(value, "ndim", 0) == 3 and value.shape[2] <= 4):
                try:
                    images[key] = to_rgb(value)
                except ValueError as error:
                    raise ValueError(f"{key!r} of {name}: {error}") from error
        if self._shorter_side is not None:
            images = {
                key: resize_shorter(image, shorter_side=self._shorter_side)
                for key, image in images.items()
            }
        return images

    def _window(
        self, images: dict[str, np.ndarray], generator: np.random.Generator, name: str
    ) -> tuple[tuple[slice, slice], bool]:
        """The part to crop and whether to flip; draws the same numbers whatever the options."""
        where, mirrored = generator.random(2), generator.random() < 0.5
        shapes = {image.shape[:2] for image in images.values()}
        if len(shapes) > 1:
            sizes = ", ".join(f"{key} {image.shape[:2]}" for key, image in images.items())
            raise ValueError(f"the images of {name} differ in size: {sizes}")
        if not shapes and (self._size or self._shorter_side or self._flip):
            raise ValueError(f"{name} has no image to crop or flip")
        height, width = shapes.pop() if shapes else (0, 0)
        h, w = self._size or (height, width)
        if h > height or w > width:
            raise ValueError(
                f"a part of {h} x {w} does not fit into the image of {name}, which is "
                f"{height} x {width}; take a smaller size, or scale it up by shorter_side="
            )
        if self._crop == "centre":
            where = np.array([0.5, 0.5])
        top, left = int(where[0] * (height - h + 1)), int(where[1] * (width - w + 1))
        return (slice(top, top + h), slice(left, left + w)), self._flip and mirrored


def _stack(elements: Sequence[Element]) -> Batch:
    batch: Batch = {}
    for key, first in elements[0].items():
        if isinstance(first, str | bytes | Mapping):
            continue
        values = [np.asarray(element[key]) for element in elements]
        shapes = sorted({value.shape for value in values})
        if len(shapes) > 1:
            raise ValueError(
                f"{key!r} cannot be stacked, being of shapes {', '.join(map(str, shapes))}; crop "
                "images to one size=, or leave it out by a transform="
            )
        batch[key] = np.stack(values)
    return batch
