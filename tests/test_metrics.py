from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from craft_lightning.methods.base import BaseMethod
from craft_lightning.metrics import CodebookUsage, ExactMatch
from craft_lightning.types import Prediction


def said(key: str, text: str, answer: str = "A", seen: bool = True, letter: bool | None = True) -> Prediction:
    return Prediction(key, text, answer, text == answer, seen, letter)


def test_repeated_rows_count_once() -> None:
    metric = ExactMatch()
    metric.update([said("a", "A"), said("b", "B", seen=False, letter=False)])
    metric.update([said("a", "A"), said("a", "A"), said("c", "A. it", letter=None)])
    found = {k: float(v) for k, v in metric.compute().items()}
    assert found == {
        "all": pytest.approx(1 / 3),
        "seen": pytest.approx(1 / 2),
        "unseen": 0.0,
        "letter": 0.5,
        "well_formed": 1.0,
        "lenient": 0.5,
    }


def test_a_process_that_counted_nothing_gathers_with_the_others() -> None:
    """Its items may all be repeated ones; without it the gathering of the others would wait for ever."""
    logged: dict[str, Any] = {}
    usage = CodebookUsage(4, 2, shared=True)
    usage.compute = lambda: {"perplexity": (torch.tensor(2.0),) * 2, "dead": torch.tensor(1)}  # type: ignore[method-assign]
    method = SimpleNamespace(
        accuracy=SimpleNamespace(compute=dict), usage=usage, log_dict=lambda v, **_: logged.update(v)
    )
    BaseMethod._log_metrics(method, "val", "accuracy")  # type: ignore[arg-type]
    assert logged == {"val/codebook_perplexity": 2.0, "val/codebook_dead": 1.0}


def test_nothing_counted_is_nothing_reported() -> None:
    assert ExactMatch().compute() == {}


def test_open_questions_have_no_letters() -> None:
    metric = ExactMatch()
    metric.update([said("a", "red roof", "red roof", letter=None)])
    assert set(metric.compute()) == {"all", "seen"}


@pytest.mark.parametrize(
    ("shared", "codes", "perplexity", "dead"),
    [
        (True, [[0, 3], [1, 3]], [2.0, 1.0], 1),  # 2
        (False, [[0, 3], [1, 3]], [2.0, 1.0], 5),  # 2 and 3 of the first table; 0, 1 and 2 of the second
        (True, [[0], [1]], [2.0], 2),
        (False, [[3], [3]], [1.0], 3),
    ],
)
def test_codebook_usage(shared: bool, codes: list[list[int]], perplexity: list[float], dead: int) -> None:
    usage = CodebookUsage(entries=4, levels=len(codes[0]), shared=shared)
    usage.update(torch.tensor([codes, codes]))
    found = usage.compute()
    assert [float(level) for level in found["perplexity"]] == pytest.approx(perplexity)
    assert int(found["dead"]) == dead
