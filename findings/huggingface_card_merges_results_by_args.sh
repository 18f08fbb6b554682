#!/usr/bin/env bash
# huggingface_hub 2.4.0: two results of a model card that differ in dataset_args become one, under the first one's arguments.
#
# Expected: EvalResult has dataset_args ("The arguments passed during Dataset loading"), and results of two different arguments,
#   say of two subsets or two backbones, are two entries of the card's model-index.
# Found: written, they are one entry: its dataset has the first one's arguments, and the second value stands under them as a further
#   metric of the same type. Read back, both results have the arguments of the first. No warning.
# Where: huggingface_hub/repocard_data.py, EvalResult.unique_identifier, by which eval_results_to_model_index gathers: task, dataset,
#   config, split and revision, without the arguments.
# What to do: say what differs in dataset_config as well.
# Output seen, 30 November 2026:
#   huggingface_hub 2.4.0: written [('small', 0.25), ('large', 0.75)], read [('small', 0.25), ('small', 0.75)]; with a config each [('small', 0.25), ('large', 0.75)]
#   As found: the second value stands under the first one's arguments.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet huggingface_hub==2.4.0
cat > "$work/card.py" <<'PY'
from importlib.metadata import version

from huggingface_hub import EvalResult, ModelCard, ModelCardData


def read_back(with_config):
    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type="vqa-rad",
            dataset_name="VQA-RAD",
            dataset_split="test",
            dataset_config=model if with_config else None,
            dataset_args={"model": model},
            metric_type="exact_match",
            metric_value=value,
        )
        for model, value in (("small", 0.25), ("large", 0.75))
    ]
    card = ModelCard(f"---\n{ModelCardData(model_name='encoder', eval_results=results)}\n---\nA card.\n")
    return [(found.dataset_args["model"], found.metric_value) for found in card.data.eval_results]


plain, configured, written = read_back(False), read_back(True), [("small", 0.25), ("large", 0.75)]
print(f"huggingface_hub {version('huggingface_hub')}: written {written}, read {plain}; with a config each {configured}")
assert plain == [("small", 0.25), ("small", 0.75)] and configured == written, "Changed."
print("As found: the second value stands under the first one's arguments.")
PY
"$work/venv/bin/python" "$work/card.py"
