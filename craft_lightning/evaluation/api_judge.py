"""A judge that is a language model behind an API: Claude, or any endpoint that speaks as OpenAI's does.

Rate limits, timeouts and failures of the server are the libraries' to retry. They read the key from the environment; it
is never written or shown.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.evaluation.judgement import Judgement
from craft_lightning.text.prompts import LETTERS, message
from craft_lightning.types import VqaExample

TEMPERATURE, MAX_TOKENS = 0.6, 1024
ATTEMPTS = 3
"""How often a judge is asked that does not answer in the schema."""
OF_ONE_ITEM = (400, 413, 422)
"""Refusals that may be of an item: filters of content, or an image that is too large."""
KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}

SYSTEM = """You are a careful, unbiased multimodal judge proficient in analyzing vision reasoning problems.
You will be provided with the task prompt, possible options (if present), the ground-truth answer, and the task
image. Judge each assistant's response along five dimensions:
Correctness (binary): Is the assistant's chosen answer correct with respect to the ground-truth? (Allow for synonymous
or equivalent answers.)
Presence (binary): Does the response include a genuine justification rather than only a bare answer? (Look for
explanations that reference evidence, reasoning, or why.)
Relevance (0-5): How well does the explanation address the user's instruction/question and the chosen answer? 0 means
off-topic, 5 means directly and fully addresses both.
Faithfulness (0-5): How well is the explanation grounded in the given image and prompt (and options)? 0 means
hallucinated or contradictory; 5 means fully consistent with observable evidence and the question context.
Verbosity (0-5): Penalize unnecessary verbosity; 0 means succinct and complete, 5 means overly long or repetitive
relative to substance.
Output strictly in the following JSON: {"correctness": true or false, "presence": true or false, "relevance": 0-5,
"faithfulness": 0-5, "verbosity": 0-5, "notes": "At most 2 short sentences explaining your scores."}"""
"""The paper's system prompt (its section 7)."""


class ApiJudge:
    """Judges replies, one request each; may be asked from several threads.

    Args:
        model: of Anthropic where it begins with ``claude``, else of an OpenAI-compatible endpoint.
        url: of the endpoint; None is the library's own. timeout: seconds of a request. retries: of one that failed, by
            the library.

    Attributes:
        refusal: what the endpoint said of the last item that it refused.

    Raises:
        CraftError: the library is not installed, or its key is not in the environment.
    """

    def __init__(self, model: str, url: str | None = None, timeout: float = 60.0, retries: int = 4) -> None:
        self.model, name = model, "anthropic" if model.startswith("claude") else "openai"
        if find_spec(name) is None:
            raise CraftError(f"{model} is asked through {name}: pip install -e '.[judge]' in the checkout")
        self._key = os.environ.get(KEYS[name], "")
        if not self._key:
            raise CraftError(f"{KEYS[name]} is not set (an endpoint that needs no key takes any)")
        self._library = import_module(name)
        made: dict[str, Any] = {"base_url": url, "timeout": timeout, "max_retries": retries}
        self._client = getattr(self._library, {"anthropic": "Anthropic", "openai": "OpenAI"}[name])(**made)
        # OpenAI's newer models refuse the old name, servers that speak like it often the new one.
        openais = self._client.base_url.host == "api.openai.com"
        self._limit = {"max_completion_tokens" if openais else "max_tokens": MAX_TOKENS}
        self._sampling = {"temperature": TEMPERATURE}
        self.refusal = ""
        self._ask: Callable[[str, str], str] = self._ask_claude if name == "anthropic" else self._ask_openai

    def judge(self, reply: str, example: VqaExample) -> Judgement | None:
        """What the model says of a reply; None if it cannot be reached, refuses this item (a filter of content) or
        answers nothing of the schema. Raises CraftError: the endpoint refuses all requests (a wrong key, model or
        address)."""
        asked, image = user_prompt(reply, example), _png(example)
        for _ in range(ATTEMPTS):
            sent = self._sampling
            try:
                return parse(self._ask(asked, image))
            except (ValueError, TypeError, AttributeError):  # not of the schema, no JSON at all, or no message
                continue
            except self._library.APIStatusError as error:
                if error.status_code in (408, 409, 429) or error.status_code >= 500:
                    return None
                told = " ".join(str(error).replace(self._key, "***").split())
                if error.status_code == 400 and "temperature" in told and sent:
                    self._sampling = {}  # some models think, and take none
                    continue
                self.refusal = f"the endpoint of {self.model} refuses: {told}"
                if error.status_code in OF_ONE_ITEM:
                    return None
                raise CraftError(self.refusal) from None
            except self._library.APIConnectionError:
                return None
        return None

    def _ask_claude(self, asked: str, image: str) -> str:
        source = {"type": "base64", "media_type": "image/png", "data": image}
        content = [{"type": "image", "source": source}, {"type": "text", "text": asked}]
        said = self._client.messages.create(
            model=self.model,
            system=SYSTEM,
            max_tokens=MAX_TOKENS,
            messages=[{"role": "user", "content": content}],
            # Later versions of the API refuse a temperature, and the library has none since its version 1.
            extra_headers={"anthropic-version": "2023-06-01"},
            extra_body=self._sampling,
        )
        # What is no message (the page of a proxy, say) comes as a text, or with nothing in it.
        return "".join(block.text for block in getattr(said, "content", None) or () if block.type == "text")

    def _ask_openai(self, asked: str, image: str) -> str:
        address = {"url": f"data:image/png;base64,{image}"}
        content = [{"type": "image_url", "image_url": address}, {"type": "text", "text": asked}]
        said = self._client.chat.completions.create(
            model=self.model,
            **self._limit,
            **self._sampling,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}],
        )
        choices = getattr(said, "choices", None)  # none of what is no completion, as above
        return (choices[0].message.content or "") if choices else ""


def user_prompt(reply: str, example: VqaExample) -> str:
    """Instruction, options, right answer and the reply, as the judge reads them behind the image."""
    options = "; ".join(f"{letter}. {text}" for letter, text in zip(LETTERS, example.options, strict=False))
    right = f"{example.answer}. {example.meta['answer_text']}" if options else example.answer
    parts = {"Task prompt": message(example), "Options": options, "Ground-truth answer": right}
    told = [f"{name}:\n{text}" for name, text in parts.items() if text]
    return "\n\n".join([*told, f"Assistant's response:\n<response>\n{reply}\n</response>"])


def parse(text: str) -> Judgement:
    """The judgement in a reply of a judge, whatever it puts around the JSON. Raises ValidationError: there is none, or
    not in the schema."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    return Judgement.model_validate_json(found[0] if found else text)


def _png(example: VqaExample) -> str:
    out = BytesIO()
    example.image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
