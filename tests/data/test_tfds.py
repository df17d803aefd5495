"""Images by name: folders, videos, prepared sets, and what is said of those that are not there."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cxjax.data import images, video
from cxjax.data.pipeline import batches
from cxjax.data.sources import ImageFolder, Source, VideoFrames
from cxjax.data.tfds import open_source


class ThreeSquares(tfds.core.GeneratorBasedBuilder):
    """A set that needs no TensorFlow to be prepared."""

    VERSION = tfds.core.Version("1.0.0")
    prepares_without_tensorflow = True
    prepared = 0

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "other": tfds.features.Image(shape=(None, None, 3)),
                    "id": tfds.features.Text(),
                    "label": np.int64,
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        type(self).prepared += 1
        return {"train": self._generate_examples(3), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            image = Image.new("RGBA", (8, 6), (50 * i, 0, 0, 255))
            image.putpixel((0, 0), (0, 0, 0, 0))
            yield i, {"image": image, "other": Image.new("RGB", (3, 3)), "id": f"ä{i}", "label": i}


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(["b.png", "a/c.jpg", "a/B.WEBP", ".hidden/d.png", "._e.png"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + index, 8), (0, 0, 50 * index)).save(path)
    (tmp_path / "pictures/notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_a_folder(folder):
    source = open_source(folder)
    assert isinstance(source, Source)
    assert source.ids == ["a/B.WEBP", "a/c.jpg", "b.png"]
    assert [source[i]["id"] for i in range(len(source))] == ["a/B.WEBP", "a/c.jpg", "b.png"]
    assert source[0]["image"].shape == (8, 12, 3)
    assert source[0]["image"].dtype == np.uint8
    assert open_source(str(folder))[2]["image"][0, 0].tolist() == [0, 0, 0]
    batch = next(batches(source, batch_size=3, seed=0, size=(8, 8)))
    assert batch["image"].shape == (3, 8, 8, 3)


def test_numbers_in_names_count_and_apples_pictures_are_told_of(tmp_path, caplog):
    names = ["b1.png", "a10.png", "a2.png", "a02.png", "c/1.png", "c.png", "10.png", "9.png"]
    (tmp_path / "c").mkdir()
    for name in names:
        images.write_image(tmp_path / name, np.zeros((2, 2, 3), np.float32))
    (tmp_path / "phone.HEIC").touch()
    wanted = ["9.png", "10.png", "a02.png", "a2.png", "a10.png", "b1.png", "c/1.png", "c.png"]
    assert ImageFolder(tmp_path).ids == wanted
    assert "1 HEIC pictures are left out; save them as JPEG" in caplog.text
    with pytest.raises(ValueError, match=r"HEIC is not a picture .*; save it as JPEG or PNG first"):
        images.read_image(tmp_path / "phone.HEIC")


def test_a_wrong_path_into_a_folder_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    with pytest.raises(ValueError, match="there is no clip.mp4 in the folder clips"):
        open_source("clips/clip.mp4")


def test_the_splits_of_a_folder_are_folders(folder):
    assert len(open_source(folder, split="a")) == 2
    with pytest.raises(ValueError, match="has no folder test"):
        open_source(folder, split="test")


def test_some_pictures_of_a_folder(folder):
    some = open_source(folder, start=1)
    assert isinstance(some, Source)
    assert [some[i]["id"] for i in (0, 1, -1)] == ["a/c.jpg", "b.png", "b.png"]
    assert [row["id"] for row in open_source(folder, stop=3, every=2)] == ["a/B.WEBP", "b.png"]
    with pytest.raises(ValueError, match="pictures has no item from 3 on"):
        open_source(folder, start=3)
    with pytest.raises(ValueError, match="no frames in start=2, stop=1, every=1"):
        open_source(folder, start=2, stop=1)


def test_a_damaged_picture_is_named(folder):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    source = open_source(folder)
    with pytest.raises(ValueError, match=r"pictures/b\.png"):
        source[2]
    with pytest.raises(ValueError, match=r"pictures/b\.png"):
        next(batches(source, batch_size=3, seed=0, size=(8, 8)))


def test_folders_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("not a picture")
    for name in ("video.mpg", "features.h5"):  # Pillow tells what these are, and reads none
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="no file in .* ends as a picture does"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        ImageFolder(tmp_path / "missing")


def test_a_video(tmp_path):
    frames = np.linspace(0, 1, 9, dtype=np.float32)[:, None, None, None] * np.ones(
        (16, 16, 3), np.float32
    )
    video.write_video(tmp_path / "a.webp", frames, frames_per_second=10, quality=100)
    source = open_source(tmp_path / "a.webp")
    assert len(source) == 9
    assert source[3]["frame"] == 3
    np.testing.assert_allclose(source[3]["image"] / 255, frames[3], atol=0.02)
    some = VideoFrames(tmp_path / "a.webp", start=2, every=3)
    assert [some[i]["frame"] for i in (0, 1, 2, -1)] == [2, 5, 8, 8]
    np.testing.assert_array_equal(some[-1]["image"], source[8]["image"])
    some = open_source(tmp_path / "a.webp", start=2, stop=8, every=3)
    assert [row["frame"] for row in some] == [2, 5]
    with pytest.raises(IndexError):
        some[3]
    np.testing.assert_array_equal(some[1]["image"], source[5]["image"])
    with pytest.raises(
        ValueError, match=r"more than 2 frames.*choose some by start=, .*max_bytes="
    ):
        VideoFrames(tmp_path / "a.webp", max_bytes=2 * 16 * 16 * 3)
    with pytest.raises(ValueError, match="has no frame from 9 on"):
        VideoFrames(tmp_path / "a.webp", start=9)
    with pytest.raises(ValueError, match="a file, which has no split test"):
        open_source(tmp_path / "a.webp", split="test")


def test_a_set_is_prepared_once(tmp_path):
    before = ThreeSquares.prepared
    source = open_source("three_squares", data_dir=tmp_path)
    again = open_source("three_squares", data_dir=tmp_path, split="test")
    assert ThreeSquares.prepared == before + 1
    assert (len(source), len(again)) == (3, 2)
    element = source[2]
    assert sorted(element) == ["id", "image", "label"]  # the other image would need its own crop
    assert (element["id"], element["label"]) == ("ä2", 2)
    assert element["image"].shape == (6, 8, 3)
    assert element["image"][0, 0].tolist() == [255, 255, 255]  # which was transparent
    assert element["image"][1, 1].tolist() == [100, 0, 0]
    assert open_source("three_squares", data_dir=tmp_path, image="other")[0]["image"].shape == (
        3,
        3,
        3,
    )
    assert len(open_source("three_squares", data_dir=tmp_path, split="train[:2]")) == 2
    batch = next(batches(source, batch_size=3, seed=0, shuffle=False))
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])
    assert "tensorflow" not in sys.modules


def test_what_a_set_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="cannot read split val.*its splits are train, test"):
        open_source("three_squares", data_dir=tmp_path, split="val")
    with pytest.raises(ValueError, match="the images of three_squares are image, other"):
        open_source("three_squares", data_dir=tmp_path, image="picture")
    source = open_source("three_squares", data_dir=tmp_path)
    (record,) = tmp_path.rglob("*train.array_record*")
    record.write_bytes(bytes(record.stat().st_size))
    with pytest.raises(ValueError, match="cannot read example 1 of three_squares"):
        source[1]


@pytest.mark.parametrize(
    ("name", "split", "features"),
    [
        ("celeb_a", "train", {"image", "attributes", "landmarks", "identity"}),
        ("cycle_gan/horse2zebra", "trainA", {"image", "label"}),
        ("div2k", "train", {"image"}),
        ("div2k/bicubic_x4", "validation", {"image"}),
    ],
)
def test_sets_by_name(name, split, features):
    with tfds.testing.mock_data(num_examples=6):
        source = open_source(name, split=split)
        assert len(source) == 6
        assert set(source[0]) == features
        batch = next(
            batches(source, batch_size=4, seed=0, size=(16, 16), shorter_side=20, flip=True)
        )
    assert batch["image"].shape == (4, 16, 16, 3)
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert "tensorflow" not in sys.modules


def test_a_set_whose_preparation_needs_tensorflow_says_so(tmp_path):
    call = (
        r'pip install "cxjax\[tf\]", then, once, '
        r"tensorflow_datasets\.builder\('{}', data_dir='{}', file_format='array_record'\)"
        r"\.download_and_prepare\(\)$"
    )
    names = {
        "celeb_a": "celeb_a",
        "cycle_gan": "cycle_gan/apple2orange",
        "div2k": "div2k/bicubic_x2",
    }
    for name, full in names.items():
        with pytest.raises(ImportError, match=call.format(full, tmp_path)):
            open_source(name, split="trainA", data_dir=tmp_path)


def test_names_of_nothing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no file, folder or set celeba; did you mean celeb_a"):
        open_source("celeba", data_dir=tmp_path)
    for name in ("./pictures/missing", "/pictures", "missing.png", "two words", "pictures/missing"):
        with pytest.raises(ValueError, match=f"no file, folder or set {name}"):
            open_source(name, data_dir=tmp_path)
    known = r"there is no set cycle_gan/horse2zebr; known: cycle_gan/apple2orange, .*cycle_gan/maps"
    with pytest.raises(ValueError, match=known):
        open_source("cycle_gan/horse2zebr", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"there is no set mnist:9.9.9; known: mnist:\d"):
        open_source("mnist:9.9.9", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'no file or folder celeb_a.*"cxjax\[data\]"'):
        open_source("celeb_a")


@pytest.mark.parametrize("missing", ["array_record", "importlib_resources"])
def test_what_preparing_needs(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    told = {
        "array_record": "on Windows, for which it does not exist",
        "importlib_resources": r"cxjax\[data\]",
    }[missing]
    with pytest.raises(ImportError, match=told):
        open_source("three_squares", data_dir=tmp_path)


def test_without_grain(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r'batches need grain: pip install "cxjax\[data\]"'):
        batches([np.zeros((4, 4, 3), np.uint8)], batch_size=1, seed=0)
