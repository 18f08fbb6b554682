#!/usr/bin/env bash
# huggingface_hub 2.4.0: ModelHubMixin.save_pretrained writes config and weights anew, and leaves the old model card.
#
# Expected: saving a second model into the folder of the first replaces all that describes it, or nothing.
# Found: config.json and what _save_pretrained writes are the second model's; README.md, the model card, is still the
#   first's, whatever model_card_kwargs say. push_to_hub saves into a fresh folder of its own, so there the card is new:
#   what is pushed and what lies on disk tell different stories.
# Where: save_pretrained removes config.json before it writes, and writes the card only "if not
#   model_card_path.exists()" (huggingface_hub/hub_mixin.py).
# What to do: remove README.md first, or write the card in _save_pretrained.
# Output seen, 30 November 2026:
#   huggingface_hub 2.4.0: config {'width': 2}, weights 2, card 'Trained on cats.'
#   As found: new weights under the old card.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet huggingface_hub==2.4.0 jinja2==3.1.6
cd "$work"
venv/bin/python -I -W ignore - <<'PY'
import json
from pathlib import Path

import huggingface_hub
from huggingface_hub import ModelHubMixin

CARD = "---\n{{ card_data }}\n---\nTrained on {{ data }}.\n"


class Model(ModelHubMixin, library_name="demo", model_card_template=CARD):
    def __init__(self, width: int = 1):
        self.width = width

    def _save_pretrained(self, save_directory):
        (save_directory / "weights.txt").write_text(str(self.width))


folder = Path("model")
for width, data in ((1, "cats"), (2, "dogs")):
    Model(width=width).save_pretrained(folder, model_card_kwargs={"data": data})
config = json.loads((folder / "config.json").read_text())
weights, card = (folder / "weights.txt").read_text(), (folder / "README.md").read_text().strip().splitlines()[-1]
print(f"huggingface_hub {huggingface_hub.__version__}: config {config}, weights {weights}, card {card!r}")
if (config, weights, card) != ({"width": 2}, "2", "Trained on cats."):
    raise SystemExit("Changed: see what save_pretrained replaces now.")
print("As found: new weights under the old card.")
PY
