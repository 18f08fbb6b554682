"""Questions and answers as declarative sentences."""

import pytest

from data_modules.captioning.statements import declarative


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("What color is the car?", "Red", "The color of the car is red."),
        ("Is there a nodule in the lung?", "yes", "There is a nodule in the lung."),
        ("Is there evidence of an aneurysm", "No", "There is no evidence of an aneurysm."),
        ("Are there any fractures?", "no", "There are no fractures."),
        ("Are there any fractures?", "yes", "There are fractures."),
        ("Is this an MRI?", "no", "This is not an MRI."),
        ("Is this a MRI of the chest?", "yes", "This is a MRI of the chest."),
        ("Is this book related to Travel?", "no", "This book is not related to Travel."),
        ("Is this patient a smoker?", "yes", "This patient is a smoker."),
        ("Is this the left lung?", "yes", "This is the left lung."),
        ("Is it in the chest?", "no", "It is not in the chest."),
        ("Is this image normal?", "no", 'The answer to the question "Is this image normal?" is no.'),
        ("Is there any more fluid?", "no", 'The answer to the question "Is there any more fluid?" is no.'),
        ("Is there only one nodule?", "no", 'The answer to the question "Is there only one nodule?" is no.'),
        ("What is the title of this book?", "Deep Sea", "The title of this book is Deep Sea."),
        ("Who wrote this book?", "A. Smith", "A. Smith wrote this book."),
        ("Who is the author of this book?", "A. Smith", "A. Smith is the author of this book."),
        ("What type of book is this?", "Travel", "The type of this book is Travel."),
        ("How many fire trucks are there?", "8", "There are 8 fire trucks."),
        ("Where is it?", "left", 'The answer to the question "Where is it?" is left.'),
        ("Are the lungs normal?", "No", 'The answer to the question "Are the lungs normal?" is No.'),
        ("What is the plane?", "no", 'The answer to the question "What is the plane?" is no.'),
    ],
)
def test_rules_and_fallback(question, answer, sentence):
    assert declarative(question, answer) == sentence


@pytest.mark.parametrize("question", ["Is there ?", "Is there any?", "", "How many", "What is"])
def test_odd_questions_do_not_break(question):
    for answer in ("yes", "no", "x"):
        assert declarative(question, answer).endswith(".")
