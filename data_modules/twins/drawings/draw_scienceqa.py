"""ScienceQA: six kinds of school-science diagrams, each with a lettered question.

Field look: a bad photocopy. Nothing that is asked depends on colour alone.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.twins.drawings.canvas import Canvas, blur, box, choose, grain, noise, per_picture, rotate
from data_modules.twins.drawings.diagrams import ACCENT_RGB, KINDS, ORGANISMS, PAINTERS
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, Qa, QuestionTwin

SKEW = 0.09
"""Field look: largest rotation (radians) and shear of the page."""
WEAR = 0.16
"""Field look: how much toner noise roughens the ink, as a share of the range from black to white."""

TOPICS = ("magnets", "solutions", "food chain", "mirror line", "thermometers", "particles")
TOPIC_PHRASES = ("two magnets", "two solutions", "food chain", "dotted line", "two thermometers", "particle box")
ANSWERS: tuple[tuple[str, ...], ...] = (
    ("attract", "repel"),
    ("solution a", "solution b", "neither"),
    ORGANISMS,
    ("yes", "no"),
    ("sample a", "sample b", "neither"),
    ("solid", "liquid", "gas"),
)
EVIDENCE = (
    ("opposite poles facing", "equal poles facing"),
    ("more dots left", "more dots right", "equal dots"),
    tuple(f"{o} at start" for o in ORGANISMS),
    ("matching halves", "different halves"),
    ("left tube higher", "right tube higher", "equal tubes"),
    ("dots in rows", "dots at bottom", "dots spread out"),
)
ACCENTS = ("red", "green", "blue", "purple")
PAPERS = ("white", "yellow", "blue")
PAPER_RGB = ((1.0, 1.0, 1.0), (1.0, 0.94, 0.62), (0.74, 0.88, 1.0))
BARS = ("top", "bottom")


class ScienceQaTwin(QuestionTwin):
    """Diagrams of magnets, solutions, food chains, mirror lines, thermometers and particles."""

    name: ClassVar[str] = "scienceqa"
    title: ClassVar[str] = "ScienceQA"
    domain: ClassVar[str] = "science diagram"
    shift_name: ClassVar[str] = "photocopy"
    answer_vocabulary: ClassVar[tuple[str, ...]] = tuple(
        dict.fromkeys([a for answers in ANSWERS for a in answers] + list(TOPICS) + list(BARS))
    )

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """The kind, then its right answer, are taken in turn; the scene is drawn to have that answer."""
        kind, turn = indices % len(KINDS), indices // len(KINDS)
        answer = turn % np.array([len(a) for a in ANSWERS])[kind]
        end = rng.integers("end", 2)
        first = rng.integers("first", 2)
        chain = np.argsort(rng.uniform("chain", 6) + 2.0 * (np.arange(6) == answer[:, None]), axis=1)[:, :2]
        rest = [answer, chain[:, 0], chain[:, 1]]
        in_order = np.stack([np.where(end == 0, rest[k], rest[2 - k]) for k in range(3)], axis=1)
        amount = np.where(answer == 2, first, np.stack([answer == 0, answer == 1]))
        few = rng.integers("few", 2, 2) + 2
        more = rng.integers("more", 3, 2) + 7
        counts = np.where(amount.T > 0, more, few)
        counts[:, 1] = np.where(answer == 2, counts[:, 0], counts[:, 1])
        shape = rng.integers("shape", 3)
        other = (shape + 1 + rng.integers("other", 2)) % 3
        topics = (kind[:, None] + 1 + np.argsort(rng.uniform("topics", 5), axis=1)[:, :3]) % len(TOPICS)
        return {
            "kind": kind,
            "answer": answer,
            "accent": rng.integers("accent", len(ACCENTS)),
            "paper": rng.integers("paper", len(PAPERS)),
            "bar": rng.integers("bar", 2),
            "topics": topics,
            "gap": rng.integers("gap", 2),
            "north_right": np.stack([first, np.where(answer == 0, first, 1 - first)], axis=1),
            "counts": counts,
            "levels": amount.T.astype(np.int64),
            "end": end,
            "chain": in_order,
            "shapes": np.stack([shape, np.where(answer == 0, shape, other)], axis=1),
            "state": answer % 3,
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """A diagram on tinted paper with a coloured bar at its top or bottom."""
        paper = choose(PAPER_RGB, attributes["paper"]) - rng.uniform("tone", 1, low=0.0, high=0.05)
        cv = Canvas(len(rng), side, paper)
        for kind, painter in enumerate(PAINTERS):
            rows = np.flatnonzero(attributes["kind"] == kind)
            if len(rows):
                part = Canvas(len(rows), side, cv.rgb[rows])
                painter(part, Rng(rng.keys[rows]).fork(KINDS[kind]), {k: v[rows] for k, v in attributes.items()})
                cv.rgb[rows], cv.subject[rows] = part.rgb, part.subject
        bar = box(cv, 0.0, choose((-0.88, 0.88), attributes["bar"]), 0.9, 0.07)
        cv.paint(bar, choose(ACCENT_RGB, attributes["accent"]))
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Lay the page askew, then copy it: hard contrast, ragged ink, streaks and specks of toner."""
        side = canvas.side
        angle, shear = rng.uniform("angle", low=-SKEW, high=SKEW), rng.uniform("shear", low=-SKEW, high=SKEW)
        place = rng.uniform("place", 2, low=-0.06, high=0.06)
        u, v = rotate(canvas.x, canvas.y, place[:, 0], place[:, 1], angle)
        grid = torch.stack([u + per_picture(shear) * v, v], dim=-1)
        # A copier's lamp is green: red ink comes out dark and blue ink fades.
        lamp = torch.tensor((0.22, 0.58, 0.20)).view(1, 3, 1, 1)
        page = (canvas.rgb * lamp).sum(1, keepdim=True)
        page = blur(F.grid_sample(page, grid, padding_mode="border", align_corners=False), 0.012).squeeze(1)
        page = page + WEAR * (0.5 * grain(rng, "toner", side)[:, 0] + noise(rng, "drum", 7, side) - 0.5)
        threshold = per_picture(rng.uniform("threshold", low=0.52, high=0.66))
        ink = torch.sigmoid((threshold - page) * per_picture(rng.uniform("contrast", low=9.0, high=14.0)))
        columns = F.interpolate(torch.from_numpy(rng.uniform("columns", 1, 40)), size=side, mode="linear")
        ink = torch.maximum(ink, 0.7 * ((columns - 0.90) * 12.0).clamp(0.0, 1.0))
        ink = ink * (1.0 - 0.5 * noise(rng, "fade", 3, side))
        paper, toner = (
            per_picture(rng.uniform("paper", low=0.72, high=0.92)),
            per_picture(rng.uniform("black", high=0.15)),
        )
        return torch.lerp(paper, toner, ink).unsqueeze(1).expand(-1, 3, -1, -1)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Topic, evidence for the answer, paper, and colour and place of the bar."""
        kind = int(attributes["kind"][i])
        shown = attributes["chain"][i, 0] if KINDS[kind] == "food chain" else attributes["answer"][i]
        return (
            Fact("topic", TOPIC_PHRASES[kind], True),
            Fact("evidence", EVIDENCE[kind][shown], True),
            Fact("paper", f"{PAPERS[attributes['paper'][i]]} paper", True),
            Fact("bar colour", f"{ACCENTS[attributes['accent'][i]]} bar", True),
            Fact("bar place", f"bar at {BARS[attributes['bar'][i]]}", True),
        )

    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """The question of the diagram's kind, then its topic, then the place of the bar."""
        kind, bar = int(attributes["kind"][i]), BARS[attributes["bar"][i]]
        topics = tuple(TOPICS[k] for k in sorted([kind, *attributes["topics"][i].tolist()]))
        return (
            self._stored(attributes, i),
            Qa("topic", "What does this diagram show?", TOPICS[kind], topics, f"This diagram shows {TOPICS[kind]}."),
            Qa("bar", "Where is the bar in this diagram?", bar, BARS, f"The bar is at the {bar} of the diagram."),
        )

    def _stored(self, attributes: Attributes, i: int) -> Qa:
        name = KINDS[attributes["kind"][i]]
        options = ANSWERS[attributes["kind"][i]]
        answer = options[attributes["answer"][i]]
        colour = ACCENTS[attributes["accent"][i]]
        if name == "magnets":
            question = "Will these magnets attract or repel each other?"
            statement = f"The magnets will {answer} each other."
        elif name == "concentration":
            question = f"Which solution has a higher concentration of {colour} particles?"
            statement = f"The solution with a higher concentration of {colour} particles is {answer}."
        elif name == "food chain":
            end = ("start", "end")[attributes["end"][i]]
            options = tuple(ORGANISMS[k] for k in sorted(attributes["chain"][i].tolist()))
            question = f"Which organism is at the {end} of this food chain?"
            statement = f"The organism at the {end} of this food chain is the {answer}."
        elif name == "symmetry":
            question = "Is the dotted line a line of symmetry?"
            statement = (
                f"{answer.capitalize()}, the dotted line is {'' if answer == 'yes' else 'not '}a line of symmetry."
            )
        elif name == "temperature":
            question = "Which sample has the higher temperature?"
            statement = f"The sample with the higher temperature is {answer}."
        else:
            question = "What is the state of matter of these particles?"
            statement = f"The state of matter of these particles is {answer}."
        return Qa(name, question, answer, options, statement)
