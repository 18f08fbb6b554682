"""Whatever lies in a folder or archive and is not read is counted by reason, in the first lines and in the result."""

import json
import logging
import os
import zipfile

import pytest

from callbacks.run_banner import _data_line
from craft_lightning.errors import CraftError
from data_modules.datamodule import VqaDataModule
from tests.data_modules.conftest import save_picture
from tests.data_modules.published_kit import write_pictures

pytestmark = pytest.mark.usefixtures("stub_backbone")

CLASSES = ("red_fox", "grey_wolf", "brown_bear")


def own(root, **options):
    data = VqaDataModule(
        dataset="folder", source="folder", root=str(root), **{"batch_size": 2, "holdout": 0.0, **options}
    )
    data.setup()
    return data


def used(data):
    """Images of every split."""
    return sum(len(split.images) for split in data.splits.values())


def place(root, *names):
    for seed, name in enumerate(names):
        save_picture(root / name, seed=seed)


def clean(root):
    """The folder is read as it is: 12 images."""
    return root, {}


def hidden(root):
    place(root, "train/red_fox/.hidden.png", "train/red_fox/._00.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png")
    return root, {"hidden image": 4}


def endings(root):
    for name in (
        "train/red_fox/a.heic",
        "train/red_fox/b.HEIC",
        "README.txt",
        "train/Thumbs.db",
        "labels.csv",
        "LICENSE",
    ):
        (root / name).write_text("no image")
    (root / "train" / "red_fox" / "c.eps").write_text("%!PS")
    return root, {".heic file": 2, "other file": 2, "all but these": 3}


def beside_classes(root):
    place(root, "train/loose.png", "train/loose.jpg", "test/loose.png")
    return root, {"image beside the class folders": 3}


def beside_splits(root):
    place(root, "loose.png", "spare/red_fox/0.png", "spare/elk/1.png", "old/2.png")
    return root, {
        "image beside the splits": 1,
        "image in spare, which is no split": 2,
        "image in old, which is no split": 1,
    }


def linked(root):
    place(root.parent / "elsewhere", "0.png")
    (root / "train" / "elk").symlink_to(root.parent / "elsewhere")
    (root / "extra").symlink_to(root.parent / "elsewhere")
    return root, {"link to a folder": 2}


def archived(root):
    place(root, "train/red_fox/.hidden.png", "train/loose.png", "__MACOSX/train/red_fox/._00.png")
    archive = root.parent / "data.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(f for f in root.rglob("*") if f.is_file()):
            out.write(file, file.relative_to(root))
        out.write(root / "train" / "red_fox" / "00.png", "train/./red_fox/00.png")
    return archive, {"hidden image": 2, "image beside the class folders": 1, "file twice in the archive": 1}


@pytest.mark.parametrize("spoil", [clean, hidden, endings, beside_classes, beside_splits, linked, archived])
def test_what_class_folders_leave_out(class_folder, tmp_path, spoil):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        for c, name in enumerate(CLASSES):
            for i in range(2):
                save_picture(tmp_path / "data" / split / name / f"{i:02}.png", seed=100 * c + i)
    root, wanted = spoil(tmp_path / "data")
    data = own(root)
    assert used(data) == 12
    said = data.describe()
    if rest := wanted.pop("all but these", 0):
        assert {kind: said["skipped"][kind] for kind in wanted} == wanted
        assert sum(said["skipped"].values()) - sum(wanted.values()) == rest
    else:
        assert said["skipped"] == wanted
    assert data.describe()["skipped"] == said["skipped"], "counted once"
    line = _data_line(said, 5)
    assert all(f"{count} x {kind}" in line for kind, count in said["skipped"].items())
    assert ("left out: " in line) == bool(said["skipped"])


@pytest.mark.parametrize("name", ["x.jfif", "x.avif", "x.ppm", "x.JPG", "x.mpo", "x.tga", "x.jp2"])
def test_every_ending_of_a_picture_is_read(class_folder, name):
    root = class_folder(CLASSES, each=2)
    save_picture(root / "train" / "red_fox" / "whole.png")
    (root / "train" / "red_fox" / "whole.png").rename(root / "train" / "red_fox" / name)  # the content counts
    data = own(root)
    assert used(data) == 13
    assert data.describe()["skipped"] == {}


def test_dev_is_validation(class_folder):
    data = own(class_folder(CLASSES, ("train", "dev", "test"), each=2))
    assert data.describe()["splits"] == {"train": 6, "val": 6, "test": 6}
    class_folder(CLASSES, ("val",), each=1)
    with pytest.raises(CraftError, match="holds a split twice: dev, val"):
        own(data.root)


def test_a_class_of_unreadable_endings_says_so(class_folder):
    root = class_folder(CLASSES, each=2)
    for i in range(3):
        (root / "train" / "elk").mkdir(exist_ok=True)
        (root / "train" / "elk" / f"{i}.heic").write_text("no image")
    with pytest.raises(CraftError, match=r"class 'elk' has no image, but 3 x \.heic file"):
        own(root)


def test_more_files_left_out_than_pictures_are_warned_of(class_folder, caplog):
    root = class_folder(CLASSES, each=2)
    for i in range(13):
        (root / "train" / "red_fox" / f"{i}.heic").write_text("no image")
    with caplog.at_level(logging.WARNING, "craft_lightning.data"):
        own(root)
    assert [m for m in caplog.messages if "13 x .heic file" in m]
    caplog.clear()
    (root / "train" / "red_fox" / "0.heic").unlink()
    own(root)
    assert not caplog.messages


def test_every_picture_of_a_refused_class_is_counted(class_folder):
    root = class_folder(("AnnualCrop", "Forest", "River"), each=2)
    for i in range(3):
        save_picture(root / "train" / "Desert" / f"{i}.png")
        save_picture(root / "train" / "annual crop" / f"{i}.png")
    options = {"source": "folder", "root": str(root), "batch_size": 2, "holdout": 0.0, "on_bad": "skip"}
    data = VqaDataModule(dataset="eurosat", **options)
    data.setup()
    assert data.describe()["skipped"] == {"unknown class": 3, "label twice": 3}
    assert used(data) == 12


def test_pictures_outside_of_the_classes_that_are_known(tmp_path):
    write_pictures(tmp_path, [f"a/EuroSAT/{name}/{i}.jpg" for name in ("Forest", "River") for i in range(3)])
    place(tmp_path, "b/c/0.png", "a/1.png")
    options = {"source": "folder", "root": str(tmp_path), "batch_size": 1, "holdout": 0.0}
    data = VqaDataModule(dataset="eurosat", **options)
    data.setup("fit")
    assert data.describe()["skipped"] == {"image outside of a/EuroSAT": 2}


def test_pictures_that_no_question_asks_about(question_folder):
    rows = [{"image": f"images/{i}.png", "question": "What?", "answer": "it"} for i in range(2)]
    root = question_folder({"train": rows, "test": rows[:1]}, pictures=4)
    place(root, "images/.hidden.png", "loose.png")
    (root / "images" / "notes.txt").write_text("no image")
    data = own(root, batch_size=1)
    wanted = {"hidden image": 1, ".txt file": 1, "image that no question asks about": 3}
    assert data.describe()["skipped"] == wanted
    assert data.describe()["skipped"] == wanted
    (root / "train.jsonl").rename(root / "all.jsonl")
    data = VqaDataModule(dataset="folder", source="folder", root=str(root / "all.jsonl"), batch_size=1)
    data.setup("fit")
    assert data.describe()["skipped"] == {"hidden image": 1, "image that no question asks about": 3}
    (root / "all.jsonl").rename(root / "train.jsonl")
    (root / "dev.jsonl").write_text("\n".join(json.dumps({**row, "image": "loose.png"}) for row in rows[:1]))
    data = own(root, batch_size=1)
    assert data.describe()["skipped"] == {**wanted, "image that no question asks about": 2}
    assert data.describe()["splits"]["val"] == 1


def test_names_that_are_no_text_are_counted_picture_by_picture(class_folder):
    root = class_folder(CLASSES, each=2)
    os.rename(root / "train" / "red_fox", os.fsencode(root / "train") + b"/re\xffd")
    data = own(root, on_bad="skip")
    assert data.describe()["skipped"] == {"file name": 2}


def test_what_test_shows_is_kept_apart_by_content_too(class_folder):
    root = class_folder(("elk", "owl"))
    copied = (root / "test" / "elk" / "00.png").read_bytes()
    (root / "train" / "elk" / "03.png").write_bytes(copied)
    (root / "train" / "owl" / "copy of elk.png").write_bytes(copied)
    found = {}
    for apart in (False, True):
        data = VqaDataModule(dataset="folder", source="folder", root=str(root), batch_size=2, apart=apart)
        data.setup("fit")
        found[apart] = {e.key for split in ("train", "val") for e in data.examples(split)}
        assert {e.rsplit("/")[-1] for e in found[False] - found[apart]} == (
            {"03.png", "copy of elk.png"} if apart else set()
        )
        skipped = data.describe()["skipped"]
        assert sum(n for why, n in skipped.items() if why.endswith("item whose image is tested")) == (2 if apart else 0)
