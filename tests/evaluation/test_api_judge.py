"""The judge behind an API, against a server on this machine that also misbehaves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from craft_lightning.errors import CraftError
from craft_lightning.evaluation.api_judge import ATTEMPTS, KEYS, MAX_TOKENS, SYSTEM, TEMPERATURE, ApiJudge, parse
from craft_lightning.evaluation.judgement import Judgement, cost
from craft_lightning.text.prompts import justify
from craft_lightning.types import VqaExample
from tests.api_kit import RIGHT, Api, serving

pytest.importorskip("anthropic")
pytest.importorskip("openai")

SECRET = "sk-very-secret"
CLAUDE, OTHER = "claude-sonnet-4-5", "qwen3-vl"
ODD = (
    b'{"choices": [{"message": null}], "content": "hi"}',
    b'{"choices": [{"text": "x"}], "content": [{"type": "text"}]}',
)
"""Messages of shapes that are none of the two interfaces'."""
ITEM = justify(
    VqaExample(
        key="f/0",
        image=Image.new("RGB", (3, 2), (250, 0, 0)),
        question="Which flower is it?",
        answer="B",
        options=("tulip", "rose"),
        meta={"facts": (), "answer_text": "rose"},
    )
)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    for name in KEYS.values():
        monkeypatch.setenv(name, SECRET)
    with serving() as found:
        yield found


@pytest.fixture(params=[CLAUDE, OTHER])
def judge(request: pytest.FixtureRequest, api: Api) -> ApiJudge:
    return ApiJudge(request.param, api.url, retries=2)


def test_it_is_told_all_that_the_paper_s_judge_is_told(judge: ApiJudge, api: Api) -> None:
    assert judge.judge("B, because it is red.", ITEM) == Judgement(**RIGHT)
    (body,), (text,) = api.asked, api.texts()
    assert (body["model"], body["temperature"], body["max_tokens"]) == (judge.model, TEMPERATURE, MAX_TOKENS)
    system = body.get("system") or body["messages"][0]["content"]
    assert system == SYSTEM
    for said in (
        "Which flower is it?",
        "A. tulip; B. rose",
        "B. rose",
        "Justify your answer.",
        "B, because it is red.",
    ):
        assert said in text
    content = body["messages"][-1]["content"][0]
    data = content["source"]["data"] if judge.model == CLAUDE else content["image_url"]["url"].partition(",")[2]
    assert Image.open(BytesIO(base64.b64decode(data))).size == (3, 2)
    assert api.versions == ["2023-06-01" if judge.model == CLAUDE else None], "the last that takes a temperature"
    assert api.paths == ["/v1/messages" if judge.model == CLAUDE else "/chat/completions"]


def test_openai_is_told_its_limit_by_the_new_name(api: Api) -> None:
    judge = ApiJudge(OTHER)
    judge._client = judge._client.with_options(base_url=api.url)
    assert judge.judge("B", ITEM) == Judgement(**RIGHT)
    assert (api.asked[0]["max_completion_tokens"], "max_tokens" in api.asked[0]) == (MAX_TOKENS, False)


@pytest.mark.parametrize("trouble", [500, 429, 529, "Well, I would say it is fine."])
def test_trouble_that_passes_is_tried_again(judge: ApiJudge, api: Api, trouble: int | str) -> None:
    api.next = [trouble]
    assert judge.judge("B", ITEM) == Judgement(**RIGHT)
    assert len(api.asked) == 2


def test_a_request_that_is_never_answered_is_made_again(judge: ApiJudge, api: Api) -> None:
    api.next = ["never"]
    assert ApiJudge(judge.model, api.url, timeout=1.0).judge("B", ITEM) == Judgement(**RIGHT)
    assert len(api.asked) >= 2, "more where the machine is busy"


@pytest.mark.parametrize(
    ("trouble", "times"),
    [(500, 3), (429, 3), *((said, ATTEMPTS) for said in ("no JSON", "{}", b"<html>", b"{", b"{}", *ODD))],
)
def test_trouble_that_stays_is_no_judgement(judge: ApiJudge, api: Api, trouble: int | str | bytes, times: int) -> None:
    api.next = [trouble] * 20
    assert judge.judge("B", ITEM) is None
    assert len(api.asked) == times


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_item_that_is_refused_gets_no_judgement(judge: ApiJudge, api: Api, status: int) -> None:
    """A filter of content refuses this image, and not the next."""
    api.next = [(status, f"not this one, {SECRET}")]
    assert judge.judge("B", ITEM) is None
    assert "not this one" in judge.refusal
    assert SECRET not in judge.refusal
    assert len(api.asked) == 1
    assert judge.judge("B", ITEM) == Judgement(**RIGHT)


def test_a_model_that_takes_no_temperature_is_asked_without(judge: ApiJudge, api: Api) -> None:
    api.hot = True
    assert judge.judge("B", ITEM) == Judgement(**RIGHT)
    assert judge.judge("B", ITEM) == Judgement(**RIGHT)
    assert [body.get("temperature") for body in api.asked] == [TEMPERATURE, None, None]


def test_all_that_were_asked_at_once_with_a_temperature_are_asked_without(judge: ApiJudge, api: Api) -> None:
    api.hot = True
    with ThreadPoolExecutor(6) as pool:
        said = [*pool.map(lambda reply: judge.judge(reply, ITEM), "ABCDEF")]
    assert said == [Judgement(**RIGHT)] * 6


@pytest.mark.parametrize("status", [401, 404])
def test_what_no_second_try_mends_ends_it_and_names_no_key(judge: ApiJudge, api: Api, status: int) -> None:
    api.next = [status]
    with pytest.raises(CraftError, match=f"the endpoint of {judge.model} refuses") as error:
        judge.judge("B", ITEM)
    assert len(api.asked) == 1
    assert SECRET not in str(error.value)


def test_a_server_that_is_not_there_is_no_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS["openai"], SECRET)
    assert ApiJudge(OTHER, "http://127.0.0.1:9", timeout=0.2, retries=0).judge("B", ITEM) is None


def test_without_a_key_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS["anthropic"], raising=False)
    with pytest.raises(CraftError, match="ANTHROPIC_API_KEY is not set"):
        ApiJudge(CLAUDE)


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "Here it is: {} I hope that helps."])
def test_json_is_found_in_what_stands_around_it(around: str) -> None:
    assert parse(around.replace("{}", json.dumps(RIGHT))) == Judgement(**RIGHT)


@pytest.mark.parametrize("wrong", [{"relevance": 7}, {"presence": "yes"}, {"verbosity": 1.5}])
def test_json_outside_of_the_schema_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse(json.dumps(RIGHT | wrong))


def test_the_cost_is_told() -> None:
    assert cost(1000, CLAUDE) == (
        "1,000 items, about 1.00 million tokens read and 0.15 million written, 5.25 dollars at 3 and 15 a million"
    )
    assert "2.15 dollars" in cost(1000, OTHER, (2, 1))
    assert cost(1000, OTHER).endswith("what they cost is not known (--price READ WRITTEN)")
