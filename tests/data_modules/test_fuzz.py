"""Random small data sets: what is on disk is used as a person would read it, or counted with a reason; no traceback.

``CRAFT_FUZZ=500 pytest tests/data_modules/test_fuzz.py`` draws that many of each kind in place of the suite's 50.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import shutil
import zipfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from craft_lightning.errors import CraftError
from data_modules.datamodule import VqaDataModule
from data_modules.sources.values import absent
from tests.picture_kit import TURNED

pytestmark = pytest.mark.usefixtures("stub_backbone")
drawn = settings(
    max_examples=int(os.environ.get("CRAFT_FUZZ", "50")),
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a failing set is small as it is; shrinking takes minutes
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
SPLITS |= {"test": "test", "testing": "test", "Test": "test", "TRAIN": "train"}

# images -----------------------------------------------------------------------------------------------------------

MODES = {
    ".png": ("RGB", "L", "LA", "RGBA", "hidden", "P", "I;16"),
    ".jpg": ("RGB", "L", "CMYK"),
    ".JPEG": ("RGB",),
    ".jfif": ("RGB", "L"),
    ".bmp": ("RGB", "L", "P"),
    ".gif": ("P", "L"),
    ".webp": ("RGB", "RGBA", "hidden"),
    ".avif": ("RGB",),
    ".ppm": ("RGB",),
    ".pgm": ("L", "I;16"),
    ".tif": ("RGB", "L", "I;16", "I", "F", "CMYK"),
    ".tiff": ("F", "LAB"),
}
ORIENTED = (".png", ".jpg", ".JPEG", ".jfif", ".webp", ".tif", ".tiff")
LEVELS = (60, 120, 180, 230)
"""The grey of each class: a bright top left quarter on it says which way is up."""


def upright(level: int) -> np.ndarray:
    """``[24, 16]`` uint8: the class's grey, half as bright in all but the top left quarter."""
    grey = np.full((24, 16), level // 2, np.uint8)
    grey[:12, :8] = level
    return grey


def in_mode(grey: np.ndarray, mode: str) -> Image.Image:
    """The same image as seen by a person, in another mode."""
    if mode in ("I;16", "I"):
        return Image.fromarray((grey.astype(np.uint16) * 257).astype(np.int32 if mode == "I" else np.uint16))
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    if mode == "hidden":  # black under full transparency is white to a person
        seen = Image.new("RGBA", grey.shape[::-1], (0, 0, 0, 255))
        seen.putalpha(Image.fromarray(255 - grey))
        return seen
    picture = Image.fromarray(grey)
    if mode == "LAB":
        from PIL import ImageCms

        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(picture.convert("RGB"), lab)
    return picture.convert(mode)


def save(path: Path, level: int, mode: str, orientation: int) -> None:
    picture = in_mode(upright(level), mode)
    turn = TURNED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"exif": exif} if orientation > 1 else {}
    more |= {"quality": 95} if path.suffix.lower() not in (".png", ".tif", ".tiff") else {}
    kind = "JPEG" if path.suffix == ".jfif" else None
    (picture if turn is None else picture.transpose(turn)).save(path, kind, **more)


# class folders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictured:
    split: str
    folder: str
    level: int
    ending: str
    mode: str
    orientation: int


@st.composite
def pictures_of(draw, splits):
    names = draw(
        st.lists(st.sampled_from(["red_fox", "None", "nan", "7", "Über wolf"]), min_size=2, max_size=4, unique=True)
    )
    found = []
    for split in splits:
        for name, level in zip(names, LEVELS, strict=False):
            for _ in range(draw(st.integers(1, 3)) if split else 5):
                ending = draw(st.sampled_from(sorted(MODES)))
                orientation = draw(st.integers(1, 8)) if ending in ORIENTED else 1
                found.append(Pictured(split, name, level, ending, draw(st.sampled_from(MODES[ending])), orientation))
    return found


JUNK = {  # where it lies, what it holds, and why it is left out
    "hidden file": lambda top, inner: (inner / ".hidden.png", "picture", "hidden image"),
    "hidden folder": lambda top, inner: (inner / ".ipynb_checkpoints" / "a.png", "picture", "hidden image"),
    "macOS": lambda top, inner: (top / "__MACOSX" / "._a.png", b"\0\5\26\7", "hidden image"),
    "text": lambda top, inner: (inner / "notes.txt", b"none", ".txt file"),
    "readme": lambda top, inner: (top / "README.md", b"# mine", ".md file"),
    "loose image": lambda top, inner: (
        top / "loose.png",
        "picture",
        "image beside the " + ("class folders" if inner.parent == top else "splits"),
    ),
    "broken image": lambda top, inner: (inner / "broken.jpg", b"\xff\xd8\xff no image", "broken image"),
    "empty image": lambda top, inner: (inner / "empty.png", b"", "broken image"),
    "no ending": lambda top, inner: (inner / "thumb", "picture", "file without ending"),
    "empty class": lambda top, inner: (inner.parent / "nothing in it" / "notes.txt", b"none", ".txt file"),
}


@drawn
@given(data=st.data())
def test_class_folders(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    wrappers = data.draw(st.lists(st.sampled_from(["data", "my images", "v1.0"]), max_size=2), label="wrappers")
    own = data.draw(
        st.sampled_from(
            [("",), ("train", "test"), ("TRAIN", "Test"), ("train", "valid", "test"), ("training", "dev", "testing")]
        ),
        label="splits",
    )
    pictures = data.draw(pictures_of(own), label="pictures")
    junk = data.draw(st.lists(st.sampled_from(sorted(JUNK)), max_size=3, unique=True), label="junk")
    top = root.joinpath(*wrappers)
    labels, levels = {}, {}
    for i, p in enumerate(pictures):
        path = top / p.split / p.folder / f"{i:02}{p.ending}"
        save(path, p.level, p.mode, p.orientation)
        labels[path.relative_to(top).as_posix()] = p.folder.replace("_", " ")
        levels[path.relative_to(top).as_posix()] = p.level
    wanted = Counter({"class without images": 1} if "empty class" in junk else {})
    for name in junk:
        path, content, reason = JUNK[name](top, top / own[0] / pictures[0].folder)
        wanted[reason] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "picture":
            Image.new("RGB", (4, 4)).save(path, "PNG")
        else:
            path.write_bytes(content)
    place = zipped(root) if data.draw(st.booleans(), label="zip") else root
    # A lone folder with an image of its own may be a class whose images lie at two depths: asked back.
    unclear = own == ("",) and wrappers and "loose image" in junk
    try:
        with pytest.raises(CraftError, match="one class") if unclear else nullcontext():
            module = read(place, holdout=0.0, on_bad="skip" if junk else "error")
    finally:
        shutil.rmtree(root)
        if place != root:
            place.unlink()
    if unclear:
        return
    used = {}
    for split in ("train", "val", "test"):
        for example in module.examples(split):
            key = example.key.removeprefix("folder/")
            assert key not in used, "no image is in two splits"
            used[key] = split
            assert example.meta["answer_text"] == labels[key]
            named = SPLITS.get(key.split("/")[0])
            assert split == named or own == ("",) or (named == "train" and split == "val" and len(own) == 2)
            pixels = np.asarray(example.image.convert("L"))
            expected = np.asarray(Image.fromarray(upright(levels[key])).resize(pixels.shape[::-1]))
            assert abs(pixels.astype(int) - expected).mean() < 12, key
    assert used.keys() == labels.keys()
    assert module.describe()["skipped"] == wanted


def read(place, **options):
    module = VqaDataModule(dataset="folder", source="folder", root=str(place), batch_size=1, **options)
    module.setup("fit")
    module.setup("test")
    return module


def zipped(root):
    place = root.with_suffix(".zip")
    with zipfile.ZipFile(place, "w") as archive:
        for path in root.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(root).as_posix())
    return place


# questions ----------------------------------------------------------------------------------------------------------

TEXTS = ("", " ", "cat", "Cat", " cat ", "dog", "a  b", "a b", "A", "b", "1", "2", "nan", "None", "yes")
NUMBERS = (-1, 0, 1, 2, 3, 10**30, 0.0, 1.0, 0.5, math.nan, math.inf)
LISTS = ((), ("cat",), (("cat",),), {}, {"a": 1})
VALUES = st.sampled_from((None, True, False, *NUMBERS, *TEXTS, *LISTS))
FILLED = st.sampled_from(("cat", "dog", "A", "b", "1", "2", "None", 1, 2, 0.5))
GOOD = (
    {"question": "Which is it?", "answer": "cat"},
    {"question": "Which is it?", "answer": "cat", "choices": ["cat", "Cat", "2"]},
    {"question": "Which is it?", "answer_index": 1, "choices": ["cat", "None", "A"]},
    {"question": "Which is it?", "answer": "b", "answer_index": 1, "choices": ["Cat", "cat", "a b"]},
)


@st.composite
def stored(draw, record):
    """A record as somebody else might write it: with letters before its choices, or another name for them."""
    record = dict(record)
    choices = record.get("choices")
    if isinstance(choices, list | tuple) and all(map(plain, choices)) and draw(st.booleans()):
        form = draw(st.sampled_from(("{}. {}", "({}) {}", "{}) {}")))
        record["choices"] = [form.format(letter, choice) for letter, choice in zip("ABCD", choices, strict=False)]
    if "choices" in record and draw(st.booleans()):
        record["options"] = record.pop("choices")
        record |= {"choices": None} if draw(st.booleans()) else {}
    return record


def plain(value):
    try:
        return text(value) is not None
    except ValueError:
        return False


@st.composite
def others(draw):
    """A record that is good but for one or two of its fields."""
    record = dict(draw(st.sampled_from(GOOD)))
    for field in draw(st.lists(st.sampled_from(("question", "answer", "answer_index", "choices", "hint")), max_size=2)):
        lists = st.one_of(st.lists(FILLED, min_size=2, max_size=4), st.lists(VALUES, max_size=3))
        record[field] = draw(st.one_of(lists, VALUES) if field == "choices" else st.one_of(FILLED, VALUES))
    return record


def text(value):
    """What a value says as a text, None for nothing; a ValueError where that is not clear."""
    if (
        value is None
        or (isinstance(value, float) and not math.isfinite(value))
        or (isinstance(value, str) and not value.strip())
    ):
        return None
    if isinstance(value, bool | tuple | list | dict) or (isinstance(value, float) and value.is_integer()):
        raise ValueError
    return " ".join(str(value).split())


def whole(value):
    if isinstance(value, bool | tuple | list | dict):
        return None
    try:
        return int(value) if float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def person(record):
    """The right answer in words as a person reads a record, None where they would ask back."""
    try:
        question, answer, _ = (text(record.get(field)) for field in ("question", "answer", "hint"))
        index, choices = record.get("answer_index"), record.get("choices")
        if isinstance(choices, str) or choices is None or isinstance(choices, float):
            if text(choices) is not None or text(index) is not None:
                return None
            return answer if question else None
        options = [text(choice) for choice in choices] if isinstance(choices, tuple | list) else []
        given = index if isinstance(index, float) and index.is_integer() else text(index)
    except ValueError:
        return None
    if not question or len(options) < 2 or None in options or len(set(options)) < len(options):
        return None
    same = [o for o in options if o == answer] or [o for o in options if answer and o.lower() == answer.lower()]
    letters = [options["ABCD".index(answer.upper())]] if answer and answer.upper() in "ABCD"[: len(options)] else []
    named = {*same, *letters}
    if given is not None:
        at = whole(index)
        if at is None or not 0 <= at < len(options):
            return None
        agrees = answer is None or options[at] in named or (not named and whole(record["answer"]) == at)
        return options[at] if agrees else None
    number = record.get("answer")
    if named and isinstance(number, int) and 0 <= number < len(options):
        named.add(options[number])
    return named.pop() if len(named) == 1 else None


@drawn
@given(data=st.data())
def test_question_files(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    top = root.joinpath(*data.draw(st.lists(st.sampled_from(["data", "v1.0"]), max_size=2), label="wrappers"))
    spoilt = data.draw(st.booleans(), label="spoilt")
    drawn_records = st.lists(others() if spoilt else st.sampled_from(GOOD), min_size=3, max_size=12)
    records = [{"question": "Is it?", "answer": "yes"}] * 6 + data.draw(drawn_records, label="records")
    written = [data.draw(stored(record)) for record in records]
    for i, record in enumerate(written):
        record |= {"image": f"images/{i}.png", "id": data.draw(st.sampled_from((i, float(i), str(i))))}
        save(top / "images" / f"{i}.png", 200, "RGB", 1)
    names = data.draw(st.sampled_from([("all",), ("train", "test"), ("train", "dev", "test")]), label="files")
    for k, name in enumerate(names):
        lines = [json.dumps(record).encode() for record in written[k :: len(names)]]
        start, end = data.draw(st.sampled_from(((b"", b"\n"), (b"", b"\r\n"), (codecs.BOM_UTF8, b"\r\n"))))
        (top / f"{name}.jsonl").write_bytes(start + end.join(lines) + end)
    place = top / "all.jsonl" if names == ("all",) else root
    if data.draw(st.booleans(), label="zip"):
        place = zipped(root)
    try:
        module, refused = read(place, on_bad="skip" if spoilt else "error"), ""
    except CraftError as error:
        module, refused = None, str(error)
    finally:
        shutil.rmtree(root)
        if place.suffix == ".zip":
            place.unlink()
    if module is None:  # the one thing about a whole file that makes all of it unsure
        assert "counts from 0" in refused
        assert not any(whole(record.get("answer_index")) == 0 for record in records)
        return
    found = {}
    for split in ("train", "val", "test"):
        for example in module.examples(split):
            found[int(PurePosixPath(example.key).name)] = example
    expected = {i: said for i, record in enumerate(records) if (said := person(record)) is not None}
    assert {i: " ".join(example.meta["answer_text"].split()) for i, example in found.items()} == expected
    for example in found.values():
        if example.options:
            assert example.options["ABCD".index(example.answer)] == example.meta["answer_text"]
    skipped = module.describe()["skipped"]
    assert sum(skipped.values()) == len(records) - len(found)
    odd = Counter("nothing" if absent(r["question"]) else plain(r["question"]) for r in records)
    assert skipped.get("missing field", 0) >= odd["nothing"]
    assert skipped.get("unclear field", 0) >= odd[False]
