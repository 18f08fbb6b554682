"""What a comparison of a model before and after its training says, in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from craft_lightning.benchmark.stored_run import StoredRun
from craft_lightning.comparison import Comparison, Part
from craft_lightning.text.scoring import normalise

NAMES, ITEMS = 4, 3
"""Classes or kinds of question at either end that a line names; flipped items of either kind that are named."""


def sentences(found: Comparison) -> Iterator[tuple[str, str]]:
    """Lines by their headings: whether it helped, on what, what flipped."""
    answers = {
        "better": "Yes",
        "worse": "No, it did harm",
        "no difference beyond chance": "That cannot be told from chance",
    }
    gain = f"{_points(found.difference)} points, between {_points(found.low)} and {_points(found.high)} (95% interval)"
    shares = f"{found.before:.1%} of {found.items:,} test items were right, {found.after:.1%} are now"
    yield "helped?", f"{answers[found.verdict]}: {shares}: {gain}{_guessing(found.runs[1])}"
    for kind, parts in found.parts.items():
        if kind == "labels":
            yield "seen", "; ".join(map(_part, parts))
        else:
            yield f"by {kind}", _extremes(parts)
    yield "flipped", f"{found.better} became right, {found.worse} became wrong"
    for heading, gained in (("now right", True), ("now wrong", False)):
        flips = [flip for flip in found.flipped if flip.gained == gained]
        for flip in flips[:ITEMS]:
            asked = f" ({' '.join(flip.question.split())})" if "question" in found.parts else ""
            yield heading, f"{flip.key.partition('/')[2]}{asked}: {flip.before!r} -> {flip.after!r}"


def _points(difference: float) -> str:
    return f"{100 * difference:+z.1f}"


def _part(part: Part) -> str:
    return f"{part.name} {part.before:.0%} -> {part.after:.0%} of {part.items}"


def _extremes(parts: Sequence[Part]) -> str:
    """The parts that gained most and least."""
    order = sorted(parts, key=lambda part: (-part.difference, part.name))
    if len(order) <= 2 * NAMES:
        return "; ".join(map(_part, order))
    ends = (order[:NAMES], order[-NAMES:])
    return " ... ".join("; ".join(map(_part, end)) for end in ends) + f" ({len(parts)} in all)"


def _guessing(run: StoredRun) -> str:
    """What guessing would give where every item has options, else the most frequent answer."""
    counts = [len(item.options) for item in run.items.values()]
    if all(counts):
        return f"; guessing gives {sum(1 / count for count in counts) / len(counts):.0%}"
    ((answer, count),) = Counter(normalise(item.answer) for item in run.items.values()).most_common(1)
    return f"; always {answer!r} gives {count / len(counts):.0%}"
