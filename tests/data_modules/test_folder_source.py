"""Class folders: layouts, splits, wording, and one clear line for each bad input."""

import os
import re
import shutil
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import replace

import pytest
import torch
from PIL import Image

from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess, square, to_pixels
from data_modules.datamodule import VqaDataModule
from data_modules.sources import records as records_module
from data_modules.sources.images import LazyImages
from tests.data_modules.conftest import save_picture

pytestmark = pytest.mark.usefixtures("stub_backbone")

CLASSES = ("red_fox", "grey_wolf", "brown_bear", "elk", "lynx")


def own(root, stage="fit", **options):
    data = VqaDataModule(dataset="folder", source="folder", root=str(root), **{"batch_size": 4, **options})
    data.setup(stage)
    return data


def png_header(width, height):
    """A PNG of a few bytes that claims to be of that size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_own_folder_with_splits(class_folder):
    data = own(class_folder(CLASSES, each=10), query="Which animal is this?", domain="animal", holdout=0.2)
    test = own(data.root, "test", holdout=0.2).examples("test")
    held = data.describe()["held_out"]
    assert len(held) == 1
    assert {e.meta["answer_text"] for e in test} == {"red fox", "grey wolf", "brown bear", "elk", "lynx"}
    assert sum(not e.seen for e in test) == 10
    train = data.examples("train")
    assert len(train) == 4 * 9
    assert len(data.examples("val")) == 4
    assert train[0].question == "Which animal is this?"
    label = train[0].meta["answer_text"]
    assert train[0].captions == (f"An image of an animal, specifically {'an' if label == 'elk' else 'a'} {label}.",)
    assert not any(label in e.options for e in [*train, *data.examples("val")] for label in held)
    assert data.describe()["distractors"] == "random"


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_the_digest_says_what_is_trained_on(limit, tmp_path, monkeypatch):
    """Contents of files up to a limit, names and sizes beyond it; not where they lie, nor how many are read at once."""
    monkeypatch.setattr(records_module, "HASHED_BYTES", limit)
    for c, name in enumerate(CLASSES):
        for i in range(10):
            save_picture(tmp_path / "data" / "train" / name / f"{i}.bmp", seed=10 * c + i)
    digest = own(tmp_path / "data", val_size=4).digest()
    assert {name: held["count"] for name, held in digest.items()} == {"train": 45, "val": 4}
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "data", moved)
    assert own(moved, val_size=4, eval_batch_size=3).digest() == digest
    assert own(moved, val_size=4, seed=3).digest() == digest, "the order of a run, its settings say"
    generic = own(moved, val_size=4)
    generic.splits["train"].items = tuple(replace(i, generated=("a dog",)) for i in generic.splits["train"].items)
    assert generic.digest()["train"]["items"] != digest["train"]["items"]
    file = next((moved / "train" / "elk").glob("*.bmp"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    others = {name for name, held in own(moved, val_size=4).digest().items() if held != digest[name]}
    assert len(others) == (1 if limit else 0)
    file.write_bytes(content + b"\0")
    assert {n: held["items"] for n, held in own(moved, val_size=4).digest().items()} == {
        n: held["items"] for n, held in digest.items()
    }
    assert own(moved, val_size=4).digest() != digest


def test_folder_without_splits_is_cut_the_same_way_everywhere(tmp_path):
    for c, name in enumerate(CLASSES):
        for i in range(10):
            save_picture(tmp_path / "data" / name / f"{i}.png", seed=10 * c + i)
    data = own(tmp_path / "data", "fit", holdout=0.0)
    data.setup("test")
    parts = {split: {e.key for e in data.examples(split)} for split in ("train", "val", "test")}
    assert {split: len(keys) for split, keys in parts.items()} == {"train": 35, "val": 5, "test": 10}
    assert len(set.union(*parts.values())) == 50
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    again = own(moved, "test", holdout=0.0)
    assert {e.key for e in again.examples("test")} == parts["test"]


def test_an_own_validation_folder_is_used(class_folder):
    data = own(class_folder(CLASSES, ("train", "valid", "test"), each=6), holdout=0.2)
    assert data.describe()["splits"] == {"train": 24, "val": 24}


def test_pictures_are_the_models_own_pixels(class_folder):
    root = class_folder(CLASSES)
    data = own(root, "test")
    dataset = data.splits["test"]
    for index in (0, 7):
        row = dataset[index]
        path = root / row.example.key.removeprefix("folder/")
        assert torch.equal(to_pixels(row.pixels), preprocess(Image.open(path), 16))
        assert torch.equal(row.pixels, square(Image.open(path), 16))


def test_large_sets_are_read_when_needed(class_folder, monkeypatch):
    root = class_folder(CLASSES)
    cached = own(root, "test")
    monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    lazy = own(root, "test")
    assert isinstance(lazy.splits["test"].images, LazyImages)
    first, second = (next(iter(d.test_dataloader())) for d in (cached, lazy))
    assert torch.equal(first.pixel_values, second.pixel_values)
    assert first.keys == second.keys


def test_broken_pictures_of_large_sets_are_skipped_and_counted(class_folder, monkeypatch):
    root = class_folder(CLASSES)
    kind, said = break_picture(root)
    monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    data = own(root, holdout=0.0, on_bad="skip")
    assert isinstance(data.splits["train"].images, LazyImages)
    assert data.describe()["skipped"] == {kind: 1}
    asked = [*data.examples("train"), *data.examples("val")]
    assert len(asked) == 29
    assert not any(said in example.key for example in asked)


def test_folders_below_a_class_belong_to_it(class_folder):
    root = class_folder(CLASSES, each=2)
    flat = own(root, "test").examples("test")
    elk = root / "test" / "elk"
    for name in ("zoo/b.png", "zoo/cages/a.png", ".hidden/c.png", "zoo/.thumb.png"):
        save_picture(elk / name, seed=7)
    (elk / "linked").symlink_to(root / "test" / "lynx")
    (elk / "folder.png").mkdir()
    nested = own(root, "test").examples("test")
    found = [e.key.removeprefix("folder/test/elk/") for e in nested if e.meta["answer_text"] == "elk"]
    assert found == ["00.png", "01.png", "zoo/b.png", "zoo/cages/a.png"]
    assert len(nested) == len(flat) + 2


def test_known_labels_get_their_words_and_holdout_is_the_twins(class_folder, tmp_path):
    from data_modules.datasets import labels

    root = class_folder(labels.LABELS["eurosat"], each=4)
    data = VqaDataModule(dataset="eurosat", source="folder", root=str(root), batch_size=4)
    twin = VqaDataModule(dataset="eurosat")
    assert data.open()[0].class_names == twin.open()[0].class_names
    assert data.describe()["held_out"] == twin.describe()["held_out"]


def test_spelling_of_folders_does_not_matter():
    from data_modules.datasets import DATASETS

    assert DATASETS["stanford_cars"].class_words("Ram C-V Cargo Van Minivan 2012") == ("Ram C/V Cargo Van Minivan 2012")
    assert DATASETS["stanford_dogs"].class_words("n02085620-Chihuahua") == "Chihuahua"
    assert DATASETS["eurosat"].class_words("Sea_Lake") == "sea lake"
    assert DATASETS["eurosat"].class_words("Desert") is None


def break_picture(root):
    path = root / "train" / "elk" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    return "broken image", "elk/03.png"


def not_a_picture(root):
    (root / "train" / "elk" / "zz.jpg").write_text("hello")
    return "broken image", "elk/zz.jpg"


def huge_picture(root):
    (root / "train" / "lynx" / "big.png").write_bytes(png_header(20_000, 20_000))
    return "broken image", "lynx/big.png.*pixels"


def empty_class(root):
    (root / "train" / "mouse").mkdir()
    return "class without images", "'mouse' has no image"


def label_twice(root):
    save_picture(root / "train" / "red_fox_" / "0.png")
    return "label twice", "'red fox' twice"


def undecoded_name(root):
    elk = os.fsencode(root / "train" / "elk")
    os.rename(elk + b"/03.png", elk + b"/03\xff.png")
    return "file name", r"train/elk/03\\udcff.png is no name in UTF-8"


def undecoded_class(root):
    save_picture(root / "train" / "mouse" / "0.png")
    os.rename(root / "train" / "mouse", os.fsencode(root / "train") + b"/mo\xffse")
    return "file name", r"train/mo\\udcffse is no name in UTF-8"


def dead_link(root):
    (root / "train" / "elk" / "zz.png").symlink_to(root / "nowhere.png")
    return "broken image", "elk/zz.png"


BAD = (
    break_picture,
    not_a_picture,
    huge_picture,
    empty_class,
    label_twice,
    undecoded_name,
    undecoded_class,
    dead_link,
)


@pytest.mark.parametrize("spoil", BAD)
def test_bad_inputs_are_one_line_or_skipped_and_counted(class_folder, spoil):
    root = class_folder(CLASSES)
    kind, said = spoil(root)
    with pytest.raises(CraftError, match=said) as error:
        own(root, holdout=0.0)
    assert "\n" not in str(error.value)
    assert "--data.on_bad skip" in str(error.value)
    data = own(root, holdout=0.0, on_bad="skip")
    assert data.describe()["skipped"] == {kind: 1}
    assert len(data.examples("train")) + len(data.examples("val")) in (29, 30)


def test_a_dead_link_among_the_test_pictures_is_told_when_they_are_read(class_folder):
    root = class_folder(CLASSES)
    (root / "test" / "elk" / "zz.png").symlink_to(root / "nowhere.png")
    assert own(root).describe()["data_hash"]
    with pytest.raises(CraftError, match=r"elk/zz.png: broken image"):
        own(root, "test")


def test_huge_pictures_are_refused_without_decoding_when_read_lazily(class_folder, monkeypatch):
    root = class_folder(CLASSES)
    huge_picture(root)
    monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    with pytest.raises(CraftError, match=r"big.png"):
        own(root)
    assert own(root, on_bad="skip").describe()["skipped"] == {"broken image": 1}


def test_a_class_of_another_dataset_is_named(class_folder):
    root = class_folder(("AnnualCrop", "Forrest", "River"))
    data = VqaDataModule(dataset="eurosat", source="folder", root=str(root), batch_size=2)
    with pytest.raises(CraftError, match=r"no class 'Forrest'; did you mean 'Forest'"):
        data.setup("fit")


def zipped(root, name=str):
    """The files of a folder in an archive, under names that some archiver writes."""
    archive = root.parent / f"{root.name}.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo()
            info.filename = name(str(path.relative_to(root)))  # past the constructor, which turns backslashes round
            out.writestr(info, path.read_bytes())
    return archive


def asked(data):
    return {split: {e.key: e.meta["answer_text"] for e in data.examples(split)} for split in ("train", "val", "test")}


def all_of(root, **options):
    data = own(root, holdout=0.0, **options)
    data.setup("test")
    return data


WRAPPERS = {
    "one": ("my_data/", ""),
    "three": ("a/b/my data/", ""),
    "train": ("train/", ""),
    "within the splits": ("", "pictures/"),
    "around and within": ("my_data/", "pictures/"),
}


@pytest.mark.parametrize(
    ("name", "splits"), [*((name, ("train", "test")) for name in WRAPPERS), ("one", ("",)), ("three", ("",))]
)
def test_a_folder_around_the_data_is_no_class(tmp_path, name, splits):
    around, within = WRAPPERS[name]
    for root, before, after in (("bare", "", ""), ("wrapped", around, within)):
        for s, split in enumerate(splits):
            for c, label in enumerate(CLASSES):
                for i in range(5):
                    seed = 100 * s + 10 * c + i
                    save_picture(tmp_path / root / before / split / after / label / "deep" / f"{i}.png", seed=seed)
    bare, wrapped = all_of(tmp_path / "bare"), tmp_path / "wrapped"
    (wrapped / "__MACOSX").mkdir()
    (wrapped / around / "README.txt").write_text("ours")
    found = {key.replace(f"/{within}", "/"): text for key, text in asked(all_of(wrapped))["test"].items()}
    assert found == asked(bare)["test"]
    assert set(found.values()) == {label.replace("_", " ") for label in CLASSES}
    names = [str, lambda name: f"./{name}", lambda name: name.replace("/", "\\")]
    for archive in (zipped(wrapped, name) for name in names):
        assert asked(all_of(archive)) == asked(all_of(wrapped))
        assert all_of(archive).describe()["data_hash"] == all_of(wrapped).describe()["data_hash"]


def test_one_class_is_refused(tmp_path):
    for i in range(8):
        save_picture(tmp_path / "cats" / f"{i}.png", seed=i)
    with pytest.raises(CraftError, match=r"it shows one class, 'cats'; a question needs two or more$"):
        own(tmp_path)
    archive = zipped(tmp_path / "cats")
    with pytest.raises(CraftError, match=r"cats.zip holds no class folders .* it has 0.png, 1.png, 2.png, \.\.\.$"):
        own(archive)
    (tmp_path / "packed").mkdir()
    archive.rename(tmp_path / "packed" / "cats.zip")
    with pytest.raises(CraftError, match=r"packed holds no class folders .* it has cats.zip$"):
        own(tmp_path / "packed")
    shutil.rmtree(tmp_path / "packed")
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(CraftError, match=r"no train.jsonl \(one JSON object a line\); it has train.json$"):
        own(tmp_path)
    save_picture(tmp_path / "dogs" / "0.png")
    assert set(asked(all_of(tmp_path))["test"].values()) == {"cats"}


def test_one_trained_class_is_refused(class_folder):
    root = class_folder(("cats", "dogs"), ("test",))
    for i in range(8):
        save_picture(root / "train" / "cats" / f"{i}.png", seed=i)
    with pytest.raises(CraftError, match="its training images show one class, 'cats'"):
        own(root)


def test_splits_where_classes_should_be_are_refused(tmp_path, class_folder):
    root = class_folder(("cats", "dogs"))
    (tmp_path / "first").mkdir()
    for split in ("train", "test"):
        (root / split).rename(tmp_path / "first" / split)
    save_picture(tmp_path / "second" / "train" / "cats" / "0.png")
    with pytest.raises(CraftError, match=r"first is no class, it holds splits \(test, train\); name one set of them"):
        own(tmp_path)
    (tmp_path / "first" / "training").mkdir()
    with pytest.raises(CraftError, match="holds a split twice: train, training; merge them"):
        own(tmp_path / "first")


def test_a_class_that_is_spelt_in_two_ways_is_refused(class_folder):
    root = class_folder(("red_fox", "lynx"))
    (root / "test" / "red_fox").rename(root / "test" / "Red-Fox")
    with pytest.raises(CraftError, match="class 'Red-Fox' is tested, 'red fox' is trained; name them alike"):
        own(root)


def test_a_class_without_a_name(class_folder):
    root = class_folder(CLASSES)
    save_picture(root / "train" / "_" / "0.png")
    with pytest.raises(CraftError, match="train/_: no class has that name"):
        own(root)
    assert own(root, on_bad="skip").describe()["skipped"] == {"class without a name": 1}


def test_classes_with_too_few_pictures_for_a_test_item_are_told(tmp_path):
    for name, count in (("cats", 8), ("dogs", 2), ("owls", 1), ("ants", 4)):
        for i in range(count):
            save_picture(tmp_path / name / f"{i}.png", seed=i)
    assert all_of(tmp_path).describe()["untested"] == {"dogs": 2, "owls": 1}


def test_wrong_roots_name_the_nearest_folder(tmp_path, class_folder):
    class_folder(CLASSES)
    with pytest.raises(CraftError, match=r"did you mean .*/train"):
        own(tmp_path / "trian")
    (tmp_path / "none").mkdir()
    with pytest.raises(CraftError, match="holds no class folders"):
        own(tmp_path / "none")
    with pytest.raises(CraftError, match=r"--data.root"):
        own("")
    with pytest.raises(CraftError, match="holds class folders, but VQA-RAD is a question set"):
        VqaDataModule(dataset="vqa_rad", source="folder", root=str(tmp_path)).setup("fit")


def test_test_only_folders_cannot_train(class_folder):
    root = class_folder(CLASSES, ("test",))
    assert len(own(root, "test").examples("test")) == 30
    with pytest.raises(CraftError, match=r"the train split .* has no items"):
        own(root, "fit")


def test_a_few_pictures_train_without_validation(class_folder):
    data = own(class_folder(CLASSES, each=2), holdout=0.0)
    assert data.describe()["splits"] == {"train": 10, "val": 0}
    assert len(data.val_dataloader()) == 0
    with pytest.raises(CraftError, match=r"the val split .* has no items"):
        own(data.root, "validate")


def test_a_class_that_is_only_tested_is_unseen(class_folder):
    root = class_folder(CLASSES)
    save_picture(root / "test" / "wolverine" / "0.png")
    data = own(root, "test", holdout=0.0)
    assert [e.meta["answer_text"] for e in data.examples("test") if not e.seen] == ["wolverine"]


def test_caps_and_the_data_hash(class_folder):
    root = class_folder(CLASSES)
    data = own(root, "fit", train_size=9, val_size=2, holdout=0.0)
    assert data.describe()["splits"] == {"train": 9, "val": 2}
    first = data.describe()["data_hash"]
    assert own(root, seed=5, train_size=9, holdout=0.0).describe()["data_hash"] == first
    (root / "train" / "elk" / "00.png").unlink()
    assert own(root, "fit", train_size=9, val_size=2, holdout=0.0).describe()["data_hash"] != first


def test_names_of_a_macs_archive(tmp_path, monkeypatch):
    """In UTF-8 without the flag that says so, accents apart; and in code page 437, which stays as it is."""
    for c, label in enumerate(("café", "grün_blau", "日本")):
        for i in range(5):
            save_picture(tmp_path / "data" / label / f"bär {i}.png", seed=10 * c + i)
    for form, encoding in (("NFD", "utf-8"), ("NFC", "utf-8"), ("NFC", "cp437")):
        if encoding == "cp437":
            shutil.rmtree(tmp_path / "data" / "日本")
        monkeypatch.setattr(  # what stands in the file: bytes, and no flag that says what they are
            zipfile.ZipInfo,
            "_encodeFilenameFlags",
            lambda info, encoding=encoding: (info.filename.encode(encoding), info.flag_bits),
        )
        archive = zipped(tmp_path / "data", lambda name, form=form: unicodedata.normalize(form, name))
        with zipfile.ZipFile(archive) as packed:
            assert not any(info.flag_bits & 0x800 for info in packed.infolist())
        folder = all_of(tmp_path / "data")
        assert asked(all_of(archive)) == asked(folder)
        assert all_of(archive).describe()["data_hash"] == folder.describe()["data_hash"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_written_in_two_ways_are_one_name(class_folder, tmp_path, form):
    root = class_folder(("café", "grün", "elk"))
    plain = asked(all_of(root))
    for split, name in (("train", "café"), ("test", "grün")):
        os.rename(root / split / name, root / split / unicodedata.normalize(form, name))
    os.rename(root / "train/elk/00.png", root / unicodedata.normalize(form, "train/elk/ö.png"))
    data = all_of(root)
    assert data.open()[0].class_names == ("café", "elk", "grün")
    found = {
        split: {key.replace("ö", "00"): answer for key, answer in keys.items()} for split, keys in asked(data).items()
    }
    assert {key for keys in found.values() for key in keys} == {key for keys in plain.values() for key in keys}
    shutil.copytree(root / "train" / "elk", root / "train" / "élk")
    shutil.copytree(root / "train" / "elk", root / "train" / unicodedata.normalize("NFD", "élk"))
    with pytest.raises(CraftError, match=r"holds 'train/élk' twice, with its accents written in two ways; rename one"):
        own(root)


def pictures(root, *names):
    for seed, name in enumerate(names):
        for i in range(5):
            save_picture(root / name / f"{i}.png", seed=10 * seed + i)
    return root


DOUBTFUL = {
    "splits by another name": (
        ["train_images/cat", "train_images/dog", "test_images/cat", "test_images/dog"],
        r"holds t.*_images and t.*_images, which look like splits; name them train and test \(or val\)",
    ),
    "splits with a year": (["train2017", "val2017"], "holds train2017 and val2017, which look like splits"),
    "splits with two years": (["Train 2014", "Val 2017"], "holds Train 2014 and Val 2017, which look like splits"),
    "splits behind": (["flowers-train/a", "flowers-test/a"], "holds flowers-test and flowers-train, which look like"),
    "a split of each version": (
        ["v1/train/cat", "v1/train/dog", "v2/train/cat", "v2/train/dog"],
        r"v1 is no class, it holds splits \(train\); name one set of them as --data.root",
    ),
    "the same folders": (
        ["first/cat", "first/dog", "second/cat", "second/dog"],
        "first and second both hold cat and dog",
    ),
    "the same folders within a split": (
        ["train/a/cat", "train/a/dog", "train/b/cat", "train/b/dog", "test/a/cat"],
        "train: a and b both hold cat and dog, in folders: which are the classes?",
    ),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_folders_that_are_hardly_classes_are_refused(tmp_path, name):
    folders, said = DOUBTFUL[name]
    root = pictures(tmp_path / "data", *folders)
    for place in (root, zipped(root)):
        with pytest.raises(CraftError, match=said) as error:
            own(place)
        assert "\n" not in str(error.value)


TOLD = {
    "folders that hold no images": (["data/cat", "data/dog", "docs/figures"], "2 classes .*: data, docs; are these"),
    "kinds of kinds": (["pets/cat", "pets/dog", "plants/oak", "plants/elm"], "2 classes .*: pets, plants; are these"),
    "one of them": (
        ["pets/cat", "pets/dog", "plants"],
        "1 class with images in inner folders alone: pets; are these",
    ),
    "shots": (["cup/01", "cup/02", "pot/01", "pot/02"], ""),
    "one folder each": (["cup/pictures", "pot/pictures"], ""),
    "words for splits": (["train_station", "test_tube", "bus"], ""),
    "a class with an image of its own": (["cup", "cup/train", "cup/test1", "pot"], ""),
}


@pytest.mark.parametrize("name", TOLD)
def test_folders_that_may_be_no_classes_are_told(tmp_path, name, caplog):
    folders, said = TOLD[name]
    data = all_of(pictures(tmp_path / "data", *folders))
    classes = sorted({folder.split("/")[0].replace("_", " ") for folder in folders})
    assert sorted(data.open()[0].class_names) == classes
    assert len(caplog.messages) == bool(said)
    assert all(re.search(said, message) for message in caplog.messages)


@pytest.mark.parametrize("loose", ["", "train/loose.png"])
def test_a_split_without_classes_is_one_line(tmp_path, loose):
    root = pictures(tmp_path, "test/cat", "test/dog")
    (root / "train").mkdir()
    if loose:
        save_picture(root / loose)
    with pytest.raises(
        CraftError, match=r"the train split .* has no items" + ("; left out: 1 x image" if loose else "")
    ):
        own(root)


def test_the_holdout_leaves_two_trained_classes(tmp_path):
    """Of three classes one is held out; where two are trained, none of these."""
    for tested in ("owl", "elk", "fox", "ant", "yak"):
        root = pictures(tmp_path / tested, "train/cat", "train/dog", "test/cat", "test/dog", f"test/{tested}")
        data = own(root, batch_size=2, holdout=0.2)
        assert {e.meta["answer_text"] for e in data.examples("train")} == {"cat", "dog"}
        assert data.describe()["held_out"] == [tested]


def test_signs_tell_classes_apart(tmp_path):
    root = pictures(tmp_path, "train/C", "train/C++", "train/+", "test/C", "test/C#", "test/-", "test/+")
    assert all_of(root).open()[0].class_names == ("+", "-", "C", "C#", "C++")
    (root / "test" / "C#").rename(root / "test" / "c_++")
    with pytest.raises(CraftError, match=r"class 'c \+\+' is tested, 'C\+\+' is trained; name them alike"):
        own(root)


def test_refusals_say_what_was_left_out(tmp_path):
    elsewhere = pictures(tmp_path / "elsewhere", "cat", "dog")
    root = pictures(tmp_path / "data", "test/cat", "test/dog")
    (root / "train").symlink_to(elsewhere)
    (root / "test" / "notes.txt").write_text("none")
    with pytest.raises(CraftError, match=r"has no items; left out: 1 x link to a folder, 1 x .txt file$"):
        own(root)
    shutil.rmtree(root / "test")
    with pytest.raises(CraftError, match=r"holds no class folders .*; left out: 1 x link to a folder$"):
        own(root)
    (root / "train").unlink()
    pictures(root, "cat")
    (root / "dog").symlink_to(elsewhere / "dog")
    with pytest.raises(CraftError, match=r"one class, 'cat'; a question needs two or more; left out: 1 x link to a fo"):
        own(root)


@pytest.mark.parametrize("stray", ["preview.png", "data/preview.png"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_picture_beside_wrapped_classes_is_named(tmp_path, stray, split):
    root = pictures(tmp_path, *(f"{split}data/{name}" for name in ("cat", "dog")))
    save_picture(root / split / stray)
    said = r"one class, 'data', for an image lies beside its folders \(preview.png\); move it away$"
    with pytest.raises(CraftError, match=said):
        own(root)


def test_an_empty_picture_says_so(class_folder):
    root = class_folder(CLASSES)
    (root / "train" / "elk" / "03.png").write_bytes(b"")
    with pytest.raises(CraftError, match=r"elk/03.png: broken image \(an empty file\)"):
        own(root, holdout=0.0)


def test_a_picture_that_breaks_a_process_that_loads_it_is_one_line(class_folder, monkeypatch):
    root = class_folder(CLASSES)
    monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    data = own(root, "test", num_workers=1)
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CraftError, match=r"\.png: broken image") as error:
        next(iter(data.test_dataloader()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["member", "name"])
def test_archives_packed_otherwise_and_damaged_are_one_line(class_folder, tmp_path, damage):
    root, archive = class_folder(CLASSES), tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as file:
        for path in sorted(root.rglob("*.png")):
            file.write(path, path.relative_to(root))
        file.writestr("\u00e9.txt", "x")
    told = archive.read_bytes()
    if damage == "name":
        archive.write_bytes(told.replace("\u00e9".encode(), b"\xff\xff"))
        with pytest.raises(CraftError, match=r"neither a folder, a .jsonl file nor a zip archive"):
            own(archive, "test")
    else:
        for member in zipfile.ZipFile(archive).infolist()[:-1]:
            body = member.header_offset + 30 + len(member.filename) + 12
            told = told[:body] + b"\xff" * 20 + told[body + 20 :]
        archive.write_bytes(told)
        with pytest.raises(CraftError, match=r"\.png: broken image"):
            own(archive, holdout=0.0)


def test_the_prior_is_counted_on_what_is_shown_and_apart_from_what_is_tested(class_folder):
    root = class_folder(CLASSES, each=10)
    break_picture(root)
    data = own(root, "test", on_bad="skip", look="grey")
    before = data.describe()["skipped"]
    for _ in range(2):
        assert max(float(pixels.std()) for pixels in data.training_images()) == 0.0
    assert data.describe()["skipped"] == before
