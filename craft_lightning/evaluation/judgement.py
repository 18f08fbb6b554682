"""What a judge says of a justified answer, and its file beside the replies: one schema for every judge."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from craft_lightning.errors import CraftError

DIMENSIONS = ("correctness", "presence", "relevance", "faithfulness", "verbosity", "overall")
"""In the order of the paper's Table 2."""

PRICES = {"claude-sonnet-4-5": (3.0, 15.0), "claude-haiku-4-5": (1.0, 5.0)}
"""Dollars of a million tokens that a judge reads, and that it writes: list prices of 2025."""
TOKENS = (1000, 150)
"""Tokens that a judge reads for an item (its instructions, the image, question and reply), and writes."""

Mark = Annotated[int, Field(ge=0, le=5)]


class Judgement(BaseModel):
    """A reply judged along the paper's five dimensions (its section 7).

    Attributes:
        correctness: the chosen answer is the right one. presence: there is a justification beyond the bare answer.
        relevance: it addresses question and chosen answer. faithfulness: it is grounded in the image.
        verbosity: it is longer than its substance; 0 is best. notes: why, in at most two short sentences.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    correctness: bool
    presence: bool
    relevance: Mark
    faithfulness: Mark
    verbosity: Mark
    notes: str = ""

    @property
    def overall(self) -> float:
        """Faithfulness and relevance less half of the verbosity: from -2.5 to 10."""
        return self.faithfulness + self.relevance - self.verbosity / 2


def cost(items: int, judge: str, price: Sequence[float] | None = None) -> str:
    """What judging so many items takes, in words; without a ``price`` (dollars of a million tokens read, and written)
    that of :data:`PRICES`."""
    read, written = (items * tokens for tokens in TOKENS)
    told = f"{items:,} items, about {read / 1e6:.2f} million tokens read and {written / 1e6:.2f} million written"
    known = price or PRICES.get(judge)
    if known is None:
        return f"{told}; what they cost is not known (--price READ WRITTEN)"
    dollars = (read * known[0] + written * known[1]) / 1e6
    return f"{told}, {dollars:,.2f} dollars at {known[0]:g} and {known[1]:g} a million"


def means(judgements: Iterable[Judgement]) -> dict[str, float]:
    """The mean of each of :data:`DIMENSIONS`, at least one judgement given; what is true or false as a share."""
    found = list(judgements)
    return {name: fmean(float(getattr(one, name)) for one in found) for name in DIMENSIONS}


def judgements_file(replies: Path, judge: str) -> Path:
    """Where the judgements of a file of replies are: ``judgements.offline.jsonl`` beside ``predictions.jsonl``."""
    name = re.sub(r"[^\w.-]+", "-", judge)
    return replies.with_name(replies.name.replace("predictions", "judgements", 1)).with_suffix(f".{name}.jsonl")


def to_line(key: str, reply: str, judgement: Judgement | None) -> str:
    """A line of such a file; without a judgement: the judge was asked and gave none."""
    said = judgement.model_dump() if judgement else {}
    return json.dumps({"key": key, "reply": digest(reply), **said}, ensure_ascii=False) + "\n"


def read_judgements(path: Path, replies: Mapping[str, str]) -> dict[str, Judgement | None]:
    """Judgements by key, of those ``replies`` that are still the same, None where the judge gave none; empty if there
    is no file. What stands behind the last end of a line was cut off. Raises CraftError: another line is damaged."""
    found: dict[str, Judgement | None] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.is_file() else (), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            key, reply = row.pop("key"), row.pop("reply")
            judgement = Judgement(**row) if row else None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CraftError(f"{path}, line {number} is no judgement: remove the line, and judge again") from None
        if key in replies and reply == digest(replies[key]):
            found[key] = judgement
    return found


def digest(reply: str) -> str:
    """Twelve hexadecimal digits of a reply."""
    return hashlib.sha256(reply.encode()).hexdigest()[:12]
