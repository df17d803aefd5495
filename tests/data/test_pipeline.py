"""Batches: the same for the same seed, on any number of processes, and resumed at any place."""

import json

import numpy as np
import pytest

from cxjax.data.pipeline import batches

H, W = 12, 16


class Places:
    """Images whose pixels tell their row, their column and their number."""

    def __init__(self, count, dtype=np.uint8):
        self.count, self.dtype = count, dtype

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rows, columns = np.mgrid[:H, :W]
        image = np.stack([rows, columns, np.full((H, W), index)], axis=-1).astype(np.uint8)
        image = image if self.dtype == np.uint8 else (image / 255).astype(self.dtype)
        return {"image": image, "id": f"number {index}", "label": index, "more": {"nested": 1}}


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


OPTIONS = {"batch_size": 4, "seed": 7, "size": (5, 6), "flip": True}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_batches_are_float32_and_crops_lie_inside(dtype):
    seen = {"row": set(), "column": set(), "flipped": 0}
    for batch in take(batches(Places(10, dtype), **OPTIONS), 100):
        assert sorted(batch) == ["image", "index", "label"]  # no text, nothing nested
        assert batch["image"].dtype == np.float32
        assert batch["image"].shape == (4, 5, 6, 3)
        places = (batch["image"] * 255).round().astype(int)
        np.testing.assert_array_equal(places[:, 0, 0, 2], batch["label"])
        for part in places:
            rows, columns = part[:, 0, 0], part[0, :, 1]
            step = np.diff(columns)[0]
            np.testing.assert_array_equal(np.diff(rows), 1)
            np.testing.assert_array_equal(np.diff(columns), step)
            assert step in (1, -1)
            seen["row"].add(rows[0])
            seen["column"].add(columns.min())
            seen["flipped"] += step == -1
    assert seen["row"] == set(range(H - 5 + 1))
    assert seen["column"] == set(range(W - 6 + 1))
    assert abs(seen["flipped"] - 200) < 50  # five standard deviations


def test_each_epoch_has_every_example_once_in_an_order_of_its_own():
    labels = np.concatenate([b["label"] for b in take(batches(Places(10), **OPTIONS), 10)])
    epochs = labels.reshape(4, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    in_order = take(batches(Places(10), **OPTIONS, shuffle=False), 5)
    np.testing.assert_array_equal(
        np.concatenate([b["label"] for b in in_order]), [*range(10), *range(10)]
    )


def test_the_index_is_the_position_in_the_stream():
    indices = [b["index"] for b in take(batches(Places(10), **OPTIONS), 6)]
    np.testing.assert_array_equal(np.concatenate(indices), np.arange(24))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_seed_decides_all(threads):
    expected = take(batches(Places(10), **OPTIONS), 6)
    assert_equal(take(batches(Places(10), **OPTIONS, threads=threads), 6), expected)
    other = take(batches(Places(10), **OPTIONS | {"seed": 8}), 6)
    assert any((a["label"] != b["label"]).any() for a, b in zip(other, expected, strict=True))
    in_order = [
        next(batches(Places(10), **OPTIONS | {"seed": seed}, shuffle=False)) for seed in (7, 8)
    ]
    np.testing.assert_array_equal(in_order[0]["label"], in_order[1]["label"])
    assert (in_order[0]["image"] != in_order[1]["image"]).any()  # the crops differ too


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 11])  # an epoch has two batches and a half
def test_resumed_it_goes_on_bit_for_bit(after):
    def make():
        return batches(Places(10), **OPTIONS, transform=add_noise)

    iterator = make()
    take(iterator, after)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 7)
    resumed = make()
    resumed.set_state(state)
    assert_equal(take(resumed, 7), expected)
    iterator.set_state(state)  # the same one can go back
    assert_equal(take(iterator, 7), expected)


def add_noise(element, generator):
    noise = generator.normal(size=element["image"].shape).astype(np.float32)
    return element | {"image": element["image"] + noise}


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_processes_together_have_the_batches_of_one(process_count):
    options = OPTIONS | {"transform": add_noise}
    expected = take(batches(Places(10), **options), 8)
    shares = [
        take(
            batches(Places(10), **options, process_index=i, process_count=process_count),
            8,
        )
        for i in range(process_count)
    ]
    together = [
        {
            key: np.stack([s[key] for s in share], axis=1).reshape(expected[0][key].shape)
            for key in share[0]
        }
        for share in zip(*shares, strict=True)
    ]
    assert_equal(together, expected)


def test_one_epoch():
    options = OPTIONS | {"repeat": False}
    assert [len(b["label"]) for b in batches(Places(10), **options)] == [4, 4]
    whole = list(batches(Places(10), **options, drop_remainder=False))
    assert [len(b["label"]) for b in whole] == [4, 4, 2]
    assert sorted(np.concatenate([b["label"] for b in whole])) == list(range(10))
    few = list(batches(Places(3), **options, drop_remainder=False))
    assert [len(b["label"]) for b in few] == [3]


def test_a_transform_sees_all_and_decides_what_is_batched():
    def transform(element, generator):
        assert element["image"].dtype == np.float32
        assert element["more"] == {"nested": 1}
        number = int(element["id"].split()[1])
        return {"twice": np.full(2, number * 2), "drawn": generator.random(), "i": element["index"]}

    batch = next(batches(Places(10), **OPTIONS, transform=transform))
    expected = next(batches(Places(10), **OPTIONS))
    np.testing.assert_array_equal(batch["twice"], np.stack([expected["label"] * 2] * 2, axis=1))
    np.testing.assert_array_equal(batch["i"], range(4))
    assert len(set(batch["drawn"])) == 4


def test_images_of_one_example_are_cropped_and_flipped_alike():
    pairs = [
        {"image": e["image"], "target": 255 - e["image"]}
        for e in map(Places(8).__getitem__, range(8))
    ]
    for batch in take(batches(pairs, **OPTIONS), 5):
        np.testing.assert_allclose(batch["image"] + batch["target"], 1, atol=1e-6)
    for dtype in (np.uint16, np.float64):  # the second image is one whatever its type
        white = 1 if dtype == np.float64 else 65535
        kinds = [
            {"image": p["image"], "target": (p["target"] / 255 * white).round(9).astype(dtype)}
            for p in pairs
        ]
        options = OPTIONS | {"shorter_side": 9}
        for batch in take(batches(kinds, **options), 3):
            np.testing.assert_allclose(batch["image"] + batch["target"], 1, atol=3 / 255)
    pairs[0]["target"] = pairs[0]["target"][:-1]
    with pytest.raises(ValueError, match=r"differ in size: image \(12, 16\), target \(11, 16\)"):
        batches(pairs, **OPTIONS)


def test_images_of_every_kind_become_rgb():
    grey = np.full((4, 4), 51, np.uint8)
    kinds = [
        (grey, 0.2),
        (grey[..., None], 0.2),
        (np.dstack([grey, grey, grey, np.zeros_like(grey)]), 1),
        (np.dstack([grey / 255] * 3 + [np.full((4, 4), 0.5)]), 0.6),
        (np.dstack([grey, np.zeros_like(grey)]), 1),
    ]
    for image, value in kinds:
        batch = next(batches([image], batch_size=1, seed=0))
        assert batch["image"].dtype == np.float32
        np.testing.assert_allclose(batch["image"], np.full((1, 4, 4, 3), value), atol=1e-6)
    with pytest.raises(ValueError, match=r"c of 1 to 4, not \(4, 4, 5\)"):
        batches([np.zeros((4, 4, 5), np.uint8)], batch_size=1, seed=0)


def one_value(value, dtype, shape=(4, 6, 3)):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (one_value(65535, np.uint16), 1),
        (one_value(13107, np.uint16), 0.2),
        (one_value(True, np.bool_), 1),
        (one_value(16384, np.int16), 16384 / 32767),
        (one_value(2**31 - 1, np.int32), 1),
        (one_value(2**63, np.uint64), 0.5),
        (one_value(0, np.int64), 0),
        (one_value(0.2, np.float16), 0.2),
        (one_value([13107, 32768], np.uint16, (4, 6, 2)), 0.6),  # half transparent
        (one_value([0, 0, 0, True], np.bool_, (4, 6, 4)), 0),
        (one_value([0, 0, 0, False], np.bool_, (4, 6, 4)), 1),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
@pytest.mark.parametrize("shorter_side", [None, 2])
def test_values_are_shares_of_the_range_of_their_type(image, value, shorter_side):
    batch = next(batches([image], batch_size=1, seed=0, shorter_side=shorter_side))
    assert batch["image"].shape == ((1, 4, 6, 3) if shorter_side is None else (1, 2, 3, 3))
    np.testing.assert_allclose(batch["image"], np.full_like(batch["image"], value), atol=1e-4)


@pytest.mark.parametrize("key", ["image", "target"])
@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (200, np.float32, "float32 values from 200.0 to 200.0; floating-point .* divide 8-bit"),
        (-0.1, np.float64, r"float64 values from -0\.1 to -0\.1"),
        (np.nan, np.float32, "float32 values from nan to nan"),
        (-1, np.int16, "int16 values from -1 to -1; integer images must not be negative"),
        (200, np.int64, "int64 values up to 200 would show black.* convert them to uint8"),
        (1, np.complex64, "an image must be integers, booleans or floating point, not complex64"),
    ],
)
def test_values_outside_their_range_are_refused_with_the_number_in_the_source(
    key, value, dtype, message
):
    good = np.full((4, 6, 3), 0.5, np.float32)
    examples = [{"image": good, "target": good, "id": f"name {i}"} for i in range(6)]
    examples[4] = examples[4] | {key: one_value(value, dtype)}
    options = {"batch_size": 2, "seed": 0, "shorter_side": 2}
    with pytest.raises(ValueError, match=rf"^'{key}' of example 4 \(name 4\): {message}"):
        take(batches(examples, **options), 3)
    with pytest.raises(ValueError, match=rf"^'{key}' of example 0 \(name 4\): {message}"):
        batches(examples[4:], **options)


def test_arrays_of_more_channels_and_nested_ones_are_no_images():
    features = np.full((4, 6, 5), 7.0)
    example = {"image": np.zeros((4, 6, 3), np.uint8), "features": features}
    example["nested"] = {"flow": np.full((4, 6, 2), -3.0)}
    seen = lambda element, generator: element | {"flow": element["nested"]["flow"]}
    batch = next(batches([example], batch_size=1, seed=0, size=(2, 2), transform=seen))
    np.testing.assert_array_equal(batch["features"][0], features)
    np.testing.assert_array_equal(batch["flow"][0], np.full((4, 6, 2), -3.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_shorter_side_and_the_centre(dtype):
    options = {"batch_size": 2, "seed": 0}
    batch = next(batches(Places(4, dtype), **options, shorter_side=6))
    assert batch["image"].shape == (2, 6, 8, 3)
    columns = batch["image"][0, 3, :, 1] * 255
    np.testing.assert_allclose(columns[1:-1], np.arange(0.5, 16, 2)[1:-1], atol=0.6)
    batch = next(batches(Places(4, dtype), **options, size=(4, 4), crop="centre"))
    np.testing.assert_allclose(batch["image"][0, 0, 0, :2] * 255, [4, 6], atol=1e-4)


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (10, {"batch_size": 11}, "a batch of 11 is larger.*10 examples; take batch_size=10"),
        (0, {}, "the source has no examples"),
        (10, {"process_count": 3}, "batch_size 4 cannot be shared by 3 processes"),
        (10, {"process_index": 2, "process_count": 2}, r"process_index 2 is not in \[0, 2\)"),
        (
            10,
            {"size": (13, 6)},
            r"13 x 6 does not fit into the image of example 0 \(number 0\).*12 x 16",
        ),
        (10, {"size": (0, 6)}, r"at least 1, not \(0, 6\)"),
        (10, {"size": (5, 5), "shorter_side": 4}, r"no part of \(5, 5\) fits"),
        (10, {"crop": "middle"}, "unknown crop 'middle'"),
        (10, {"seed": -1}, "seed must be in"),
        (
            10,
            {"repeat": False, "drop_remainder": False, "process_count": 2},
            "cannot share a smaller last batch",
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_once(unchecked_types, count, change, message):
    with pytest.raises(ValueError, match=message):
        batches(Places(count), **OPTIONS | change)


def test_images_of_different_sizes_need_a_crop():
    images = [np.zeros((8 + i, 9, 3), np.uint8) for i in range(4)]
    iterator = batches(images, batch_size=4, seed=0)
    with pytest.raises(ValueError, match=r"'image' cannot be stacked.*\(8, 9, 3\).*size="):
        next(iterator)
    assert next(batches(images, batch_size=4, seed=0, size=(8, 8)))["image"].shape == (4, 8, 8, 3)
    images[2] = images[2][:5]
    with pytest.raises(
        ValueError, match="does not fit into the image of example 2, which is 5 x 9"
    ):
        next(batches(images, batch_size=4, seed=0, size=(8, 8)))


def test_an_error_of_the_source_comes_as_it_is():
    class Damaged(Places):
        def __getitem__(self, index):
            if index == 3:
                raise ValueError("cannot read the picture three.png")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match=r"cannot read the picture three\.png"):
        take(batches(Damaged(8), **OPTIONS), 2)
