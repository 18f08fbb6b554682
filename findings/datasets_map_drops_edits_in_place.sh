#!/usr/bin/env bash
# datasets 5.2.0: what map's function changes in an image in place is thrown away when the image came from a file.
#
# Expected: a function that shrinks row["image"] by thumbnail(), blacks out a part by paste() or draws on it, and returns it, gives a set
#   with the changed images: Image takes a PIL image and encodes it.
# Found: with images given by path (imagefolder, cast_column of paths) the result names the old file and shows the old picture: full
#   size, nothing hidden. No warning. The same function over the same pictures kept as bytes works, and so do methods that return a new
#   image (resize, crop, convert). A test set whose answers were painted over so still shows them.
# Where: datasets/features/image.py, encode_pil_image: an image whose filename is not empty is stored as that path, without its pixels,
#   and Pillow keeps filename while the pixels are changed.
# What to do: return image.copy(), which has no filename, from such a function; look at one row of the result.
# Output seen, 30 November 2026:
#   datasets 5.2.0, Pillow 13.0.0: changed by thumbnail, paste, draw: {'imagefolder': [False, False, False], 'paths': [False, False, False],
#     'bytes': [True, True, True], 'imagefolder, copied': [True, True, True], 'imagefolder, new image': True}
#   As found: changes in place are lost.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet datasets==5.2.0 pillow==13.0.0
cat > "$work/edit.py" <<'PY'
import pathlib
import sys

import datasets
import PIL.Image
from datasets import Dataset, Features, Image
from PIL import ImageDraw

datasets.disable_progress_bars()
datasets.disable_caching()
folder = pathlib.Path(sys.argv[1]) / "pictures"
folder.mkdir()
PIL.Image.new("RGB", (64, 64), "white").save(folder / "0.png")
files = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
paths = Dataset.from_dict({"image": [str(folder / "0.png")]}).cast_column("image", Image())
embedded = Dataset.from_list(
    [{"image": {"bytes": (folder / "0.png").read_bytes(), "path": "0.png"}}], features=Features({"image": Image()})
)


def shrink(row):
    row["image"].thumbnail((16, 16))
    assert row["image"].size == (16, 16)
    return {"image": row["image"]}


def paste(row):
    row["image"].paste("black", (0, 0, 32, 32))
    assert row["image"].getpixel((0, 0)) == (0, 0, 0)
    return {"image": row["image"]}


def draw(row):
    ImageDraw.Draw(row["image"]).rectangle((0, 0, 32, 32), fill="black")
    return {"image": row["image"]}


def copied(edit):
    return lambda row: {"image": edit(row)["image"].copy()}


def changed(rows, edit):
    image = rows.map(edit)[0]["image"]
    return image.size != (64, 64) or image.getpixel((0, 0)) != (255, 255, 255)


edits = (shrink, paste, draw)
found = {
    "imagefolder": [changed(files, edit) for edit in edits],
    "paths": [changed(paths, edit) for edit in edits],
    "bytes": [changed(embedded, edit) for edit in edits],
    "imagefolder, copied": [changed(files, copied(edit)) for edit in edits],
    "imagefolder, new image": changed(files, lambda row: {"image": row["image"].resize((16, 16))}),
}
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}: changed by thumbnail, paste, draw: {found}")
assert not any(found["imagefolder"] + found["paths"]), "Changed."
assert all(found["bytes"] + found["imagefolder, copied"]) and found["imagefolder, new image"], "Changed."
print("As found: changes in place are lost.")
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" "$work/edit.py" "$work"
