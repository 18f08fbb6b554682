"""Studio images in words: what is said is true of the image."""

import re

import pytest

from craft_lightning.pretraining.family_report import grounded
from craft_lightning.text.multiple_choice import LETTERS
from data_modules.twins import TWINS
from data_modules.twins.studio import Studio, rng_of
from data_modules.twins.twin import ClassificationTwin


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio([kind() for kind in TWINS.values()], 16, 20)


def test_letters_name_the_right_option(studio: Studio) -> None:
    for i in range(len(studio)):
        twin, rng = studio.twin_of(i), rng_of("letters", i)
        for asked, reply in studio.conversation(i, rng, 4):
            options = dict(re.findall(r"^([A-H])\. (.*)$", asked, flags=re.MULTILINE))
            if options and isinstance(twin, ClassificationTwin):
                assert options[reply[0]] == twin.class_names[studio.labels[i]]


def test_justifications_are_grounded(studio: Studio) -> None:
    for i in range(len(studio)):
        reply = studio._justified("x", i, rng_of("why", i))
        assert grounded(reply, studio.facts[i])
        assert not grounded("x, because the image shows something.", studio.facts[i])


def test_what_is_said_depends_on_the_key_alone(studio: Studio) -> None:
    assert studio.conversation(3, rng_of("a", 1), 3) == studio.conversation(3, rng_of("a", 1), 3)
    assert studio.text_conversation(rng_of("b"), 1.0) == studio.text_conversation(rng_of("b"), 1.0)


def test_matches_tell_the_option_before_the_list(studio: Studio) -> None:
    for seed in range(30):
        for asked, letter in studio.matches(rng_of("match", seed)):
            told, *lines = asked.split("\n")
            option = told.removeprefix("It shows ").removesuffix(".")
            assert f"{letter}. {option}" in lines


def test_lookups_keep_their_list(studio: Studio) -> None:
    for seed in range(30):
        first, *later = studio._lookups(rng_of("look", seed), studio.names[0])
        options = re.findall(r"^[A-H]\. (.*)$", first[0], flags=re.MULTILINE)
        for asked, letter in later:
            assert asked == f"It shows {options[LETTERS.index(letter)]}."


def test_pictures_of_one_class_are_no_negatives_of_each_other(studio: Studio) -> None:
    rows = list(range(100))
    said = [studio.sentence(i, rng_of("said", i)) for i in rows]
    same = studio.same_meaning(rows, said)
    assert same.diagonal().all()
    assert bool((same == same.t()).all())
    for i in rows:
        for j in rows:
            if studio.labels[i] >= 0 and i % 10 == j % 10:
                assert bool(same[i, j]) == (studio.labels[i] == studio.labels[j])


def test_the_quiz_asks_all_that_is_known_of_a_picture(studio: Studio) -> None:
    rows = [4, 15, 26]
    asked, answers = studio.quiz(rows)
    for i, questions, right in zip(rows, asked.tolist(), answers.tolist(), strict=True):
        name = studio.twin_of(i).name
        told = {
            (studio.questions_asked[q], studio.answer_words[a]) for q, a in zip(questions, right, strict=True) if a >= 0
        }
        true = {(f"{name}: {fact.name}", f"{name}: {fact.phrase}") for fact in studio.facts[i]}
        true |= {(f"{name}: {qa.question}", f"{name}: {qa.answer}") for qa in studio.questions[i]}
        assert true <= told
        assert len(told) - len(true) == (studio.labels[i] >= 0)


def test_every_right_answer_is_allowed_and_no_other_twins(studio: Studio) -> None:
    allowed = studio.answers_allowed
    for i in range(len(studio)):
        asked, answers = studio.quiz([i])
        assert allowed[asked[0], answers[0]].all()
    for q, question in enumerate(studio.questions_asked):
        twin = question.split(":")[0]
        assert {studio.answer_words[a].split(":")[0] for a in allowed[q].nonzero().flatten().tolist()} == {twin}
