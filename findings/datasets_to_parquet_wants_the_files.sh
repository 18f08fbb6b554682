#!/usr/bin/env bash
# datasets 5.2.0: Dataset.to_parquet opens files that it does not store, and fails where they are absent.
#
# Expected: a column of pictures given by path ({"bytes": None, "path": "0.jpg"}) is written as it is, as by to_json
#   and to_csv; or else the file is read because its bytes go into the parquet file.
# Found: without batch_size it raises FileNotFoundError for a path that is not there now (relative to another folder,
#   say). With the file in place it writes bytes None and the path all the same: only the file's size was asked for.
# Where: datasets/io/parquet.py, ParquetDatasetWriter.__init__ chooses the rows of a row group by
#   Dataset._estimate_nbytes (datasets/arrow_dataset.py), which adds the sizes of external files.
# What to do: give batch_size, then no file is looked at; to store pictures, put their bytes into the rows first.
# Output seen, 30 November 2026:
#   datasets 5.2.0
#   to_json: 40 bytes; to_csv: 41 bytes
#   to_parquet: FileNotFoundError(2, 'No such file or directory')
#   to_parquet with batch_size=1: {'bytes': None, 'path': '0.jpg'}
#   to_parquet, file in place: {'bytes': None, 'path': '0.jpg'}
#   As found: the file has to be there, and is not stored.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
cd "$work"
HF_HOME="$work/cache" venv/bin/python -I - <<'PY'
import sys

import datasets
import pyarrow.parquet as pq
from PIL import Image

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
column = datasets.Features({"image": datasets.Image(decode=False)})
rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "0.jpg"}]}, features=column)
print("to_json:", rows.to_json("rows.json"), "bytes; to_csv:", rows.to_csv("rows.csv"), "bytes")
try:
    rows.to_parquet("rows.parquet")
except FileNotFoundError as error:
    print("to_parquet:", repr(error))
else:
    sys.exit("CHANGED: to_parquet writes a path whose file is not there")


def stored(**options) -> dict:
    rows.to_parquet("rows.parquet", **options)
    return pq.read_table("rows.parquet").to_pylist()[0]["image"]


print("to_parquet with batch_size=1:", absent := stored(batch_size=1))
Image.new("RGB", (64, 64)).save("0.jpg")
print("to_parquet, file in place:", present := stored())
if not absent == present == {"bytes": None, "path": "0.jpg"}:
    sys.exit(f"CHANGED: stored {absent} without and {present} with the file")
print("As found: the file has to be there, and is not stored.")
PY
