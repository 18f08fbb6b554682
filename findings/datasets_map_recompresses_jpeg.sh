#!/usr/bin/env bash
# datasets 5.2.0: a map that only looks at an image and adds a number compresses every JPEG of the column again, at quality 75.
#
# Expected: map(lambda row: {"width": row["image"].width}) adds a column; the column image, which it does not return, keeps its bytes, as
#   it does when the function reads another column. What is encoded anew is PNG: "default format is PNG/TIFF" (features/image.py).
# Found: with images kept as bytes (parquet shards, most sets of a hub) each JPEG that the function looked at is decoded and saved as JPEG
#   with Pillow's default quality: here half of the bytes, pixels off by 4 to 5 of 255 on average, and the image's path lost. No warning.
#   Whether a model saw the real pictures depends on whether a statistic was mapped before. A second map loses a bit more.
# Where: datasets/formatting/formatting.py: a LazyDict replaces a value by its decoded form once it is read; arrow_dataset.py merges
#   that one into the row written; features/image.py, image_to_bytes saves in the format the image was read from.
# What to do: map(function, input_columns="image"), or read by cast_column("image", Image(decode=False)): both leave the bytes alone, as do
#   filter and an IterableDataset. Images that are files by path stay as they are.
# Output seen, 30 November 2026:
#   datasets 5.2.0, Pillow 13.0.0: stored bytes, mean error, path {'before': (16848, 0.0, '0.jpg'), 'caption read': (16848, 0.0, '0.jpg'),
#     'image read': (8190, 4.61, None), 'image read in batches': (8190, 4.61, None), 'twice': (8164, 5.49, None), 'input_columns': (16848,
#     0.0, '0.jpg'), 'decode=False': (16848, 0.0, '0.jpg'), 'filter': (16848, 0.0, '0.jpg')}
#   As found: looking at a JPEG compresses it again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet datasets==5.2.0 pillow==13.0.0
cat > "$work/look.py" <<'PY'
import io

import datasets
import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image, Value

datasets.disable_progress_bars()
datasets.disable_caching()
noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
file = io.BytesIO()
PIL.Image.fromarray(noise).resize((192, 192), PIL.Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
row = {"image": {"bytes": file.getvalue(), "path": "0.jpg"}, "caption": "noise"}
rows = Dataset.from_list([row], features=Features({"image": Image(), "caption": Value("string")}))
pixels = np.asarray(rows[0]["image"]).astype(int)


def stored(result):
    """The size of the stored file, the mean error of its pixels and its path."""
    file = result.cast_column("image", Image(decode=False))[0]["image"]
    return len(file["bytes"]), round(abs(np.asarray(result[0]["image"]) - pixels).mean().item(), 2), file["path"]


def width(row):
    return {"width": row["image"].width}


def undecoded(row):
    return {"width": PIL.Image.open(io.BytesIO(row["image"]["bytes"])).width}


found = {
    "before": stored(rows),
    "caption read": stored(rows.map(lambda row: {"length": len(row["caption"])})),
    "image read": stored(rows.map(width)),
    "image read in batches": stored(rows.map(lambda rows: {"width": [image.width for image in rows["image"]]}, batched=True)),
    "twice": stored(rows.map(width).map(lambda row: {"height": row["image"].height})),
    "input_columns": stored(rows.map(lambda image: {"width": image.width}, input_columns="image")),
    "decode=False": stored(rows.cast_column("image", Image(decode=False)).map(undecoded).cast_column("image", Image())),
    "filter": stored(rows.filter(lambda row: row["image"].width > 0)),
}
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}: stored bytes, mean error, path {found}")
size = len(file.getvalue())
touched = ("image read", "image read in batches", "twice")
assert all(value == (size, 0, "0.jpg") for name, value in found.items() if name not in touched), "Changed."
assert all(value[0] < 0.6 * size and value[1] > 3 and value[2] is None for value in map(found.get, touched)), "Changed."
print("As found: looking at a JPEG compresses it again.")
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" "$work/look.py"
