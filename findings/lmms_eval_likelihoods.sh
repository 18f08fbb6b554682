#!/usr/bin/env bash
# lmms-eval 0.7.3: in tasks with choices what lmms.loglikelihood is documented to return fails, and worse is better.
#
# Expected: by the docstring of lmms_eval.api.model.lmms.loglikelihood a model returns pairs of "the log probability of
#   `continuation`" and whether it is the greedy one, and a task with output_type multiple_choice takes the likeliest choice,
#   as in lm-evaluation-harness, where the interface comes from.
# Found: with such pairs every task with choices ends in a RetryError after five tries: each pair has become its text,
#   "(-0.02, True)". In a GenerationResult the pair arrives, and then the choice with the *least* number is taken: a model that
#   is sure of the right choice of every item has an accuracy of 0, and of 1 where it returns losses. No warning.
# Where: lmms_eval/api/instance.py, unwrap_generation_output, which the evaluator applies to all kinds of requests, ends with
#   str(output); lmms_eval/api/task.py, process_results: `pred = np.argmin(lls)`, and the same for acc_norm.
# What to do: ask such items with output_type generate_until; or return GenerationResult((mean loss, greedy)).
# Output seen, 30 November 2026:
#   lmms-eval 0.7.3, a model that is always right: pairs RetryError of ValueError, wrapped log probabilities 0.0, wrapped losses 1.0
#   As found: the documented pairs fail, the documented numbers choose the worst.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# Without its own dependencies, of which this needs few; with filelock 4 its evaluator stops at an import of filelock._api.
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 datasets==5.2.0 \
    accelerate==1.15.0 evaluate==0.4.6 sacrebleu==2.6.0 tenacity==9.2.1 pytz==2026.6 pytablewriter==1.2.1 loguru==0.7.3 \
    filelock==3.32.7
"$work/venv/bin/python" -m pip install --quiet --no-deps lmms-eval==0.7.3
cd "$work"
mkdir tasks
cat > tasks/colours.yaml <<'YAML'
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: colours.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: [red, green, blue]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
YAML
for colour in 0 1 2 1 0 2; do
    echo "{\"question\": \"Which colour?\", \"answer\": $colour}" >> colours.jsonl
done
cat > judge.py <<'PY'
import math
from importlib.metadata import version

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from tenacity import RetryError

COLOURS = ["red", "green", "blue"]


class Sure(lmms):
    """Gives the right choice a probability of 0.98 and each other 0.01."""

    def __init__(self, sign, wrap):
        super().__init__()
        self.sign, self.wrap = sign, wrap

    def loglikelihood(self, requests):
        found = []
        for request in requests:
            context, continuation, visual, doc_id, task, split = request.args
            right = COLOURS[self.task_dict[task][split][doc_id]["answer"]] == continuation.strip()
            found.append(self.wrap((self.sign * math.log(0.98 if right else 0.01), right)))
        return found

    def generate_until(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def accuracy(sign, wrap):
    tasks = TaskManager(include_path="tasks")
    try:
        found = simple_evaluate(model=Sure(sign, wrap), tasks=["colours"], task_manager=tasks, bootstrap_iters=0)
    except RetryError as error:
        return f"RetryError of {type(error.last_attempt.exception()).__name__}"
    return float(found["results"]["colours"]["acc,none"])


seen = [accuracy(1, tuple), accuracy(1, GenerationResult), accuracy(-1, GenerationResult)]
print(
    f"lmms-eval {version('lmms_eval')}, a model that is always right: pairs {seen[0]}, wrapped log probabilities {seen[1]}, "
    f"wrapped losses {seen[2]}"
)
if seen != ["RetryError of ValueError", 0.0, 1.0]:
    raise SystemExit("Changed: see what arrives and which number is taken now.")
print("As found: the documented pairs fail, the documented numbers choose the worst.")
PY
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1
venv/bin/python -I -W ignore judge.py > out 2> log || { cat out log; exit 1; }
tail -2 out
