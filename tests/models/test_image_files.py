"""Which files below a folder are images, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import find_images, listing, no_images


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_what_is_hidden_or_linked_is_counted(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "b.JPG", "a/x.jfif", "a/notes.txt", ".c.png", ".ipynb_checkpoints/d.png")
    touch(
        root,
        "a/.deep/inner/e.avif",
        "__MACOSX/._b.jpg",
        "@eaDir/b.jpg/thumb.jpg",
        ".git/HEAD",
        "a/._x.jpg",
        ".DS_Store",
    )
    touch(tmp_path / "elsewhere", "f.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / ".linked").symlink_to(tmp_path / "elsewhere")
    found = listing(root)
    assert found.names == ("a/notes.txt", "a/x.jfif", "b.JPG")
    assert found.folders == {"a"}
    assert found.left_out == {"hidden image": 6, "link to a folder": 1}


def test_a_folder_that_cannot_be_opened_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = touch(tmp_path, "a/x.png", "b/y.png"), os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "no")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert listing(root).left_out == {"folder that cannot be opened": 1}


def test_files_that_are_no_pictures_are_counted_by_ending() -> None:
    names = ["a.heic", "b.HEIC", "c.txt", "d.xml", "e.py", "f.csv", "README", "g.png"]
    assert no_images(names[:3]) == {".heic file": 2, ".txt file": 1}
    counts = no_images(names)
    assert counts[".heic file"] == 2
    assert counts["other file"] == 2
    assert counts.total() == 7
    assert no_images(["README"]) == {"file without ending": 1}


def test_a_named_folder_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path / ".pictures", "b/x.jpg", "b-c.jpg", "a.tiff", "x.heic", "y.heic", "list.csv", ".t.png")
    assert find_images([root]) == [root / name for name in ("a.tiff", "b/x.jpg", "b-c.jpg")]
    assert [r.getMessage() for r in caplog.records] == [
        f"left out of {root}: 1 x hidden image, 2 x .heic file, 1 x .csv file"
    ]
    assert find_images([root / ".t.png", root / "x.heic"]) == [root / ".t.png", root / "x.heic"]


def test_nothing_to_find_says_what_there_is(tmp_path: Path) -> None:
    touch(tmp_path, ".a.png", "b.heic")
    with pytest.raises(CraftError, match=r"no image in .* \(left out: 1 x hidden image, 1 x .heic file; images are"):
        find_images([tmp_path])


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png")).write_bytes(b"")
    with pytest.raises(CraftError, match=r"a\\udcff.png is no name in UTF-8; rename it"):
        find_images([tmp_path])
