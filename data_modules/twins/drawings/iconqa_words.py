"""What IconQA's diagrams are asked and what is true of them: wording only, one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from craft_lightning.types import Fact
from data_modules.twins.twin import Qa

Picture = dict[str, Any]
"""The attributes of one picture as plain integers and lists."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "diamond")
PLURALS = ("circles", "squares", "triangles", "stars", "hearts", "crosses", "moons", "diamonds")
COLORS = ("red", "yellow", "green", "blue", "purple")
PAPERS = ("white", "yellow", "blue")
NUMBERS = ("1", "2", "3", "4", "5")
NUMBER_WORDS = ("one", "two", "three", "four", "five")
PLACES = ("left", "right", "top", "bottom", "middle")
_PLACE_PHRASES = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
FRACTIONS = ("one quarter", "one half", "three quarters")

GROUP, ROWS, BARS, SPREAD, PIE = range(5)
KINDS = ("count", "shape", "color", "compare", "longer", "where", "place", "fraction")
KIND_SCENE = np.array([GROUP, GROUP, GROUP, ROWS, BARS, SPREAD, SPREAD, PIE])


def _options(words: Sequence[str], answer: int, order: Sequence[int], count: int) -> tuple[str, ...]:
    """The answer and the first other words of a random order, listed as in the table (so that place tells nothing)."""
    others = [j for j in order if j != answer][: count - 1]
    return tuple(words[j] for j in sorted([answer, *others]))


def facts(a: Picture) -> tuple[Fact, ...]:
    """What the scene holds; every attribute is free of the question, so all of them vary."""
    scene = int(KIND_SCENE[a["kind"]])
    above, below = (0, 1) if a["upper"] else (1, 0)
    shape, color, count = a["shape"], a["color"], a["count"]
    if scene == GROUP:
        found = {
            "count": f"{NUMBER_WORDS[count[0]]} in all",
            "shape": f"{SHAPES[shape[0]]} shape",
            "color": f"drawn in {COLORS[color[0]]}",
        }
    elif scene == ROWS:
        found = {
            "upper shape": f"{PLURALS[shape[above]]} above",
            "lower shape": f"{PLURALS[shape[below]]} below",
            "upper count": f"{NUMBER_WORDS[count[above]]} above",
            "lower count": f"{NUMBER_WORDS[count[below]]} below",
        }
    elif scene == BARS:
        found = {
            "upper color": f"{COLORS[color[above]]} top bar",
            "lower color": f"{COLORS[color[below]]} bottom bar",
            "longer": f"{'top' if a['upper'] else 'bottom'} bar longer",
            "side": f"bars start {'right' if a['layout'] else 'left'}",
        }
    elif scene == SPREAD:
        found = {PLACES[p]: f"{SHAPES[s]} {_PLACE_PHRASES[p]}" for p, s in zip(a["place"], shape, strict=True)}
    else:
        found = {
            "fraction": f"{FRACTIONS[a['fraction']]} filled",
            "color": f"filled with {COLORS[color[0]]}",
            "outline": f"divided {SHAPES[a['layout']]}",
        }
    found["paper"] = f"{PAPERS[a['paper']]} paper"
    return tuple(Fact(name, phrase, varies=True) for name, phrase in found.items())


def _group_questions(a: Picture) -> list[Qa]:
    number, shape, color = a["count"][0], a["shape"][0], a["color"][0]
    counted = f"There {'is 1 shape' if number == 0 else f'are {NUMBERS[number]} shapes'} in the diagram."
    return [
        Qa("count", "How many shapes are there?", NUMBERS[number], NUMBERS, counted),
        Qa(
            "shape",
            "Which shape is shown?",
            SHAPES[shape],
            _options(SHAPES, shape, a["shape_order"], 4),
            f"The shape shown is a {SHAPES[shape]}.",
        ),
        Qa(
            "color",
            "Which color is shown?",
            COLORS[color],
            _options(COLORS, color, a["color_order"], 4),
            f"The color shown is {COLORS[color]}.",
        ),
    ]


def _rows_questions(a: Picture) -> list[Qa]:
    one, two = (PLURALS[s] for s in a["shape"][:2])
    number, color = a["count"][0], a["color"][0]
    verdict = f"Yes, there are more {one} than {two}." if a["more"] else f"No, there are fewer {one} than {two}."
    counted = f"There is 1 {SHAPES[a['shape'][0]]}." if number == 0 else f"There are {NUMBERS[number]} {one}."
    return [
        Qa("compare", f"Are there more {one} than {two}?", "yes" if a["more"] else "no", ("yes", "no"), verdict),
        Qa("count", f"How many {one} are there?", NUMBERS[number], NUMBERS[:4], counted),
        Qa(
            "color",
            f"Which color are the {one}?",
            COLORS[color],
            _options(COLORS, color, a["color_order"], 4),
            f"The {one} are {COLORS[color]}.",
        ),
    ]


def _bars_questions(a: Picture) -> list[Qa]:
    longer, shorter = (f"{COLORS[c]} bar" for c in a["color"][:2])
    # Both bars are named in the order of the table, so the wording does not tell which one is longer.
    one, two = (f"{COLORS[c]} bar" for c in sorted(a["color"][:2]))
    top = a["color"][0 if a["upper"] else 1]
    return [
        Qa(
            "longer",
            f"Which is longer, the {one} or the {two}?",
            longer,
            (one, two),
            f"The {longer} is longer than the {shorter}.",
        ),
        Qa(
            "color",
            "Which color is the top bar?",
            COLORS[top],
            _options(COLORS, top, a["color_order"], 4),
            f"The top bar is {COLORS[top]}.",
        ),
        Qa(
            "compare",
            "Is the top bar longer than the bottom bar?",
            "yes" if a["upper"] else "no",
            ("yes", "no"),
            "Yes, the top bar is longer." if a["upper"] else "No, the bottom bar is longer.",
        ),
    ]


def _spread_questions(a: Picture) -> list[Qa]:
    where, place, hue = (_PLACE_PHRASES[p] for p in a["place"])
    shown, asked, color = SHAPES[a["shape"][0]], a["shape"][1], a["color"][2]
    return [
        Qa("where", f"Where is the {shown}?", PLACES[a["place"][0]], PLACES, f"The {shown} is {where}."),
        Qa(
            "place",
            f"Which shape is {place}?",
            SHAPES[asked],
            _options(SHAPES, asked, a["shape_order"], 4),
            f"The shape {place} is a {SHAPES[asked]}.",
        ),
        Qa(
            "color",
            f"Which color is the shape {hue}?",
            COLORS[color],
            _options(COLORS, color, a["color_order"], 4),
            f"The shape {hue} is {COLORS[color]}.",
        ),
    ]


def _pie_questions(a: Picture) -> list[Qa]:
    fraction, color, outline = FRACTIONS[a["fraction"]], a["color"][0], SHAPES[a["layout"]]
    return [
        Qa(
            "fraction",
            "Which fraction of the shape is filled?",
            fraction,
            FRACTIONS,
            f"In this diagram {fraction} of the shape is filled.",
        ),
        Qa(
            "color",
            "Which color is shown?",
            COLORS[color],
            _options(COLORS, color, a["color_order"], 4),
            f"The color shown is {COLORS[color]}.",
        ),
        Qa("shape", "Which shape is divided?", outline, SHAPES[:2], f"The divided shape is a {outline}."),
    ]


_SCENE_QUESTIONS = (_group_questions, _rows_questions, _bars_questions, _spread_questions, _pie_questions)


def questions(a: Picture) -> tuple[Qa, ...]:
    """Three questions about the scene, the stored one first."""
    asked = _SCENE_QUESTIONS[int(KIND_SCENE[a["kind"]])](a)
    stored = KINDS[a["kind"]]
    return tuple(sorted(asked, key=lambda qa: qa.kind != stored))
