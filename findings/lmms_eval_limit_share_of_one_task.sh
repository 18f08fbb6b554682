#!/usr/bin/env bash
# lmms-eval 0.7.3: with --limit as a share, all tasks of a command get one task's number of items, not their own share.
#
# Expected: "0 < limit < 1 for a fraction of the dataset" (lmms-eval --help), per task: half of 4 items is 2, of 40 is 20.
# Found: each task alone, 0.5 is 2 and 20 items. Together in one command the task whose name comes last in the alphabet
#   decides: "large,small" is 2 items of each, "few,large" 20 of the 40 and all 4 of the 4. The order on the command line
#   changes nothing, there is no warning, and the stored config says "limit": 0.5; so a benchmark's subtasks are weighted
#   by a name.
# Where: lmms_eval/evaluator.py, evaluate: `limit = get_sample_size(task, limit)` inside of the loop over the tasks makes
#   the share a number, which the next task takes for one; tasks/__init__.py, load_task_or_group: dict(ChainMap(...)) of
#   the sorted names turns their order round.
# What to do: a command a task, or a whole number as the limit.
# Output seen, 30 November 2026:
#   lmms-eval 0.7.3, --limit 0.5, items judged: {'few': 2}, {'large': 20}, {'large': 2, 'small': 2}, {'few': 4, 'large': 20}
#   As found: the last name decides for the others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Without its own dependencies, of which this needs few; with filelock 4 its command stops at an import of filelock._api.
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 datasets==5.2.0 \
    accelerate==1.15.0 evaluate==0.4.6 sacrebleu==2.6.0 tenacity==9.2.1 pytz==2026.6 pytablewriter==1.2.1 loguru==0.7.3 \
    filelock==3.32.7
"$work/venv/bin/python" -m pip install --quiet --no-deps lmms-eval==0.7.3
cd "$work"
mkdir tasks
python3 - <<'PY'
import json

for name, rows in (("few", 4), ("large", 40), ("small", 4)):
    with open(f"{name}.jsonl", "w") as file:
        for row in range(rows):
            file.write(json.dumps({"question": f"question {row}", "answer": "A"}) + "\n")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    with open(f"tasks/{name}.yaml", "w") as file:
        json.dump(task, file)
PY
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1
number=0
for tasks in few large large,small few,large; do
    number=$((number + 1))
    venv/bin/python -I -W ignore -m lmms_eval --model dummy --tasks "$tasks" --include_path tasks --limit 0.5 \
        --log_samples --output_path "out/$number" > log 2>&1 || { cat log; exit 1; }
done
venv/bin/python -I - <<'PY'
from importlib.metadata import version
from pathlib import Path

seen = []
for number, tasks in enumerate((["few"], ["large"], ["large", "small"], ["few", "large"]), 1):
    found = {}
    for task in tasks:
        (samples,) = Path(f"out/{number}").rglob(f"*samples_{task}.jsonl")
        found[task] = len(samples.read_text().splitlines())
    seen.append(found)
print(f"lmms-eval {version('lmms_eval')}, --limit 0.5, items judged: {', '.join(map(str, seen))}")
if seen != [{"few": 2}, {"large": 20}, {"large": 2, "small": 2}, {"few": 4, "large": 20}]:
    raise SystemExit("Changed: see how many items each task has now.")
print("As found: the last name decides for the others.")
PY
