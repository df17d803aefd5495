"""Emoji drawn by Google (Noto) and by Microsoft (Fluent), still and animated."""

import hashlib
import io
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cxjax.data.images import on_white
from experiments.datasets.archives import CorruptArchiveError, read_member, read_members
from experiments.datasets.builder import Builder, open_picture
from experiments.datasets.fetch import fetch

_FONT = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
_FLUENT, _ANIMATED = "@lobehub/fluent-emoji-3d", "@lobehub/fluent-emoji-anim-3"
_TONES = frozenset(range(0x1F3FB, 0x1F400))
_SELECTOR = 0xFE0F  # "show me as a picture", which some fonts leave out
_FACING_RIGHT = (0x200D, 0x27A1)
_SIGNS = {"2640": "woman", "2642": "man"}
_SMILEYS = (
    *(range(0x1F600, 0x1F638), range(0x1F641, 0x1F645), range(0x1F910, 0x1F918)),
    *(range(0x1F920, 0x1F926), range(0x1F927, 0x1F930), range(0x1F970, 0x1F977)),
    range(0x1F978, 0x1F97B),
)
_CATS = range(0x1F638, 0x1F641)
_PEOPLE = (
    *(range(0x1F466, 0x1F46A), range(0x1F46E, 0x1F46F), range(0x1F470, 0x1F479)),
    *(range(0x1F481, 0x1F484), range(0x1F486, 0x1F488), range(0x1F574, 0x1F576)),
    *(range(0x1F645, 0x1F648), range(0x1F64B, 0x1F64F), range(0x1F926, 0x1F927)),
    *(range(0x1F934, 0x1F938), range(0x1F977, 0x1F978), range(0x1F9B8, 0x1F9BA)),
    *(range(0x1F9CD, 0x1F9D0), range(0x1F9D1, 0x1F9DE)),
)
_ONE = frozenset((*range(0x1F466, 0x1F46A), 0x1F9D1))  # of whom a family or a couple has several
_TWO = frozenset((0x1F46F, 0x1F93C))  # with bunny ears, wrestling
_TO_WOMAN = {0x1F468: 0x1F469, 0x2642: 0x2640}
TEST_ACTIONS = ("1f64b", "1f64d", "1f937", "1f939")  # raise a hand, frown, shrug, juggle

Codes = tuple[int, ...]


class Emoji(Builder):
    """Two domains: training sets that share no emoji, and test sets that are pairs."""

    features = {"base": tfds.features.Text()}
    citation = (
        "Noto Color Emoji 2.042, (c) Google, OFL-1.1. Fluent Emoji, (c) Microsoft, MIT, as "
        "@lobehub/fluent-emoji-3d 1.1.0 packs it."
    )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        noto, fluent = _noto(), _fluent()
        parts = divide(noto, fluent)
        return {
            split: self._generate_examples(noto if split.startswith("noto") else fluent, codes)
            for split, codes in parts.items()
        }

    def _generate_examples(
        self, pictures: dict[Codes, bytes], chosen: list[Codes]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, codes in enumerate(chosen):
            name = _name(codes)
            picture = _squared(on_white(open_picture(name, pictures[codes])))
            yield number, {"image": picture, "id": name, "base": _name(_base(codes))}


class FluentPeople(Builder):
    """Men and women: training sets that share no occupation, and test sets that are pairs."""

    features = {"base": tfds.features.Text()}
    citation = "Fluent Emoji, (c) Microsoft, MIT, as @lobehub/fluent-emoji-3d 1.1.0 packs it."

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        pictures = _fluent()
        parts = divide_people(pictures)
        return {split: self._generate_examples(pictures, codes) for split, codes in parts.items()}

    def _generate_examples(
        self, pictures: dict[Codes, bytes], chosen: list[tuple[str, Codes]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (base, codes) in enumerate(chosen):
            name = _name(codes)
            picture = _squared(on_white(open_picture(name, pictures[codes])))
            yield number, {"image": picture, "id": name, "base": base}


class FluentAnimations(Builder):
    """Frames of men and women doing the same, split by what they do; of smileys; of cats' faces."""

    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="yellow", description="People in the default yellow only."),
        tfds.core.BuilderConfig(name="all_tones", description="People in all six skin tones."),
    ]
    features = {
        "action": tfds.features.Text(),
        "character": tfds.features.Text(),
        "tone": tfds.features.Text(),
        "frame": np.int64,
        "frames": np.int64,
    }
    citation = (
        "Fluent Emoji, (c) Microsoft, as @lobehub/fluent-emoji-anim-3 1.0.0 packs it under MIT; "
        "Microsoft's grant for the animated set was not verified."
    )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config = self.builder_config
        clips = _clips(all_tones=config is not None and config.name == "all_tones")
        return {split: self._generate_examples(clips[split]) for split in clips}

    def _generate_examples(
        self, clips: list[tuple[dict[str, str], bytes]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        for clip, content in clips:
            with open_picture(clip["file"], content) as opened:
                frames = opened.n_frames  # pyright: ignore[reportAttributeAccessIssue]
                for frame in range(frames):
                    opened.seek(frame)
                    name = f"{clip['file']}/{frame:03}"
                    about = {key: clip[key] for key in ("action", "character", "tone")}
                    about |= {"frame": frame, "frames": frames, "id": name}
                    yield number, {"image": on_white(opened), **about}
                    number += 1


def divide(noto: Mapping[Codes, bytes], fluent: Mapping[Codes, bytes]) -> dict[str, list[Codes]]:
    """Divides the emoji that two sets share so that nothing of a test pair was seen in training.

    All of one base, which is their code points without skin tone, selector and direction, go
    together: of ten bases one to the test, of the others one half to each set's training. Pictures
    that are equal to one of the test are left out: a few flags, for one.

    Args:
      noto: Pictures of one set by code points, without selectors.
      fluent: Of the other.

    Returns:
      Sorted code points for the splits `noto_train`, `fluent_train`, `noto_test`, `fluent_test`;
      the last two are equal.
    """
    shared = sorted(noto.keys() & fluent.keys())
    part = {codes: hashlib.sha256(_name(_base(codes)).encode()).digest()[0] for codes in shared}
    test = [codes for codes in shared if part[codes] < 26]
    seen = {pictures[codes] for codes in test for pictures in (noto, fluent)}
    return {
        "noto_train": [c for c in shared if 26 <= part[c] < 141 and noto[c] not in seen],
        "fluent_train": [c for c in shared if part[c] >= 141 and fluent[c] not in seen],
        "noto_test": test,
        "fluent_test": test,
    }


def divide_people(pictures: Mapping[Codes, bytes]) -> dict[str, list[tuple[str, Codes]]]:
    """Divides single men and women so that nothing of a test pair was seen in training.

    Args:
      pictures: Pictures by code points, without selectors.

    Returns:
      The man's base, which is what the pair does, and sorted code points, for the splits
      `man_train`, `woman_train`, `man_test`, `woman_test`: of ten bases three to the test, of the
      others one half to each training set. The last two hold pairs, in one order.
    """
    parts: dict[str, list[tuple[str, Codes]]] = {
        split: [] for split in ("man_train", "woman_train", "man_test", "woman_test")
    }
    for man in sorted(pictures):
        woman = tuple(_TO_WOMAN.get(code, code) for code in man)
        several = sum(code in _ONE for code in man) > 1 or _TWO & set(man)
        if man in ((0x2642,), woman) or woman not in pictures or several:
            continue
        base = _name(_base(man))
        part = hashlib.sha256(base.encode()).digest()[0]
        if part < 77:
            parts["man_test"].append((base, man))
            parts["woman_test"].append((base, woman))
        elif part < 167:
            parts["man_train"].append((base, man))
        else:
            parts["woman_train"].append((base, woman))
    seen = {pictures[codes] for split in ("man_test", "woman_test") for _, codes in parts[split]}
    for split in ("man_train", "woman_train"):
        parts[split] = [
            (base, codes) for base, codes in parts[split] if pictures[codes] not in seen
        ]
    return parts


def kind_of(identifier: str) -> str | None:
    """What an emoji shows, as far as two of a kind can take each other's place.

    Args:
      identifier: An example's `id`.

    Returns:
      `smiley` (a cat's too), or `person` and the skin tone, such as `person 1f3fb`, of a single
      person; None for all else.
    """
    codes = [int(code, 16) for code in identifier.split("-")]
    if any(codes[0] in block for block in (*_SMILEYS, _CATS)):
        return "smiley"
    several = sum(code in _ONE for code in codes) > 1 or bool(_TWO & set(codes))
    if several or not any(codes[0] in block for block in _PEOPLE):
        return None
    tones = [f"{code:x}" for code in codes if code in _TONES]
    return f"person {tones[0] if tones else 'yellow'}"


def _name(codes: Codes) -> str:
    return "-".join(f"{code:x}" for code in codes)


def _base(codes: Codes) -> Codes:
    if codes[-2:] == _FACING_RIGHT:  # the same picture, mirrored
        codes = codes[:-2]
    return tuple(code for code in codes if code not in _TONES)


def _squared(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _fluent() -> dict[Codes, bytes]:
    pictures = {}
    for member, content in read_members(fetch(_FLUENT), lambda name: name.endswith(".webp")):
        codes = (int(code, 16) for code in PurePosixPath(member).stem.split("-"))
        pictures[tuple(code for code in codes if code != _SELECTOR)] = content
    return pictures


def _noto() -> dict[Codes, bytes]:
    """The font's bitmaps by code points: single ones have a glyph, sequences a ligature."""
    try:
        from fontTools.ttLib import TTFont, TTLibError
    except ImportError as error:
        raise ImportError(
            'reading the Noto font needs fonttools: pip install "cxjax[experiments]"'
        ) from error
    package = fetch("fonts-noto-color-emoji")
    try:
        font = TTFont(io.BytesIO(read_member(package, _FONT)))
        bitmaps = font["CBDT"].strikeData[0]
        codes_of: dict[str, Codes] = {
            glyph: (code,) for code, glyph in (font.getBestCmap() or {}).items()
        }
        glyphs = {codes: glyph for glyph, codes in codes_of.items()}
        for lookup in font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    for ligature in ligatures:
                        parts = (first, *ligature.Component)
                        if all(part in codes_of for part in parts):
                            codes = tuple(code for part in parts for code in codes_of[part])
                            glyphs[codes] = ligature.LigGlyph
        pictures = {
            tuple(code for code in codes if code != _SELECTOR): bitmaps[glyph].imageData
            for codes, glyph in glyphs.items()
            if glyph in bitmaps
        }
    except (TTLibError, KeyError, AttributeError) as error:
        raise CorruptArchiveError(f"the font in {package} cannot be read: {error!r}") from error
    return {codes: picture for codes, picture in pictures.items() if codes}


def _clips(*, all_tones: bool) -> dict[str, list[tuple[dict[str, str], bytes]]]:
    """Moving clips by split, each with its file's name, action, character and skin tone."""
    files = dict(read_members(fetch(_ANIMATED), lambda name: name.endswith(".webp")))
    clips: dict[str, list[tuple[dict[str, str], bytes]]] = {
        split: [] for split in ("train", "test", "smileys", "cats")
    }
    for member in sorted(files):
        stem = PurePosixPath(member).stem
        codes = [code for code in stem.split("-") if int(code, 16) not in (_SELECTOR, 0x200D)]
        action, *rest = codes
        tones = [code for code in rest if int(code, 16) in _TONES]
        signs = [code for code in rest if code in _SIGNS]
        clip = {"file": stem, "action": action, "tone": "".join(tones) or "yellow"}
        if len(signs) == 1 and len(rest) == len(signs) + len(tones):
            (sign,) = set(_SIGNS) - set(signs)
            other = member.replace(signs[0], sign)
            if (tones and not all_tones) or not (_moves(files, member) and _moves(files, other)):
                continue
            split = "test" if action in TEST_ACTIONS else "train"
            clips[split].append((clip | {"character": _SIGNS[signs[0]]}, files[member]))
        elif not rest and _moves(files, member):
            code = int(action, 16)
            if code in _CATS:
                clips["cats"].append((clip | {"character": "cat"}, files[member]))
            elif any(code in block for block in _SMILEYS):
                clips["smileys"].append((clip | {"character": "smiley"}, files[member]))
    return clips


def _moves(files: dict[str, bytes], member: str) -> bool:
    if member not in files:
        return False
    with open_picture(member, files[member]) as opened:
        return getattr(opened, "n_frames", 1) > 1


def describe(identifier: str) -> str:
    """Unicode's names of an emoji's code points.

    Args:
      identifier: An example's `id`, `base` or `action`, such as `1f469-200d-1f680`.

    Returns:
      Such as `woman, rocket`; joiners, tones and signs that no name is known of are left out.
    """
    codes = [int(code, 16) for code in identifier.split("/")[0].split("-")]
    names = [unicodedata.name(chr(code), "") for code in codes if code not in (_SELECTOR, 0x200D)]
    return ", ".join(name.lower() for name in names if name)
