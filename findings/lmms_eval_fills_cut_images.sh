#!/usr/bin/env bash
# lmms-eval 0.7.3 with Pillow 13: after an import of its tasks, images that were cut off are filled with grey, process-wide.
#
# Expected: Pillow raises OSError for a file that ends in the middle of its image ("image file is truncated"), so that a download
#   that broke off is noticed, in an evaluation as in the training that runs in the same process.
# Found: `import lmms_eval.api.task`, which every use of the tool brings, sets PIL.ImageFile.LOAD_TRUNCATED_IMAGES for the whole
#   process. From then on the same file opens without a word, and what is missing is grey: a model is asked about half an image,
#   and whoever else reads images in that process (a loader of training data, a check of a download) no longer sees the fault.
# Where: lmms_eval/api/task.py, at module level.
# What to do: check images before, in a process of their own; or set the flag back after the import.
# Output seen, 30 November 2026:
#   lmms-eval 0.7.3, Pillow 13.0.0: before the import OSError, after it an image whose last row is grey (128, 128, 128)
#   As found: a cut-off image is an image after the import.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Without its own dependencies, of which this needs few.
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 datasets==5.2.0 \
    accelerate==1.15.0 evaluate==0.4.6 sacrebleu==2.6.0 tenacity==9.2.1 pytz==2026.6 pytablewriter==1.2.1 loguru==0.7.3 \
    filelock==3.32.7 pillow==13.0.0
"$work/venv/bin/python" -m pip install --quiet --no-deps lmms-eval==0.7.3
cd "$work"
cat > cut.py <<'PY'
from importlib.metadata import version
from io import BytesIO

from PIL import Image

whole = BytesIO()
Image.linear_gradient("L").resize((512, 512)).convert("RGB").save(whole, "JPEG", quality=90)
half = whole.getvalue()[: len(whole.getvalue()) // 2]


def last_row():
    try:
        with Image.open(BytesIO(half)) as image:
            return image.convert("RGB").getpixel((256, 511))
    except OSError as error:
        return type(error).__name__


before = last_row()
import lmms_eval.api.task  # noqa: E402, F401

after = last_row()
print(
    f"lmms-eval {version('lmms-eval')}, Pillow {version('pillow')}: before the import {before}, "
    f"after it an image whose last row is grey {after}"
)
assert (before, after) == ("OSError", (128, 128, 128)), "Changed."
print("As found: a cut-off image is an image after the import.")
PY
"$work/venv/bin/python" cut.py
