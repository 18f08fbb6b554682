"""Question tables of the hub with their real columns and types."""

import pytest
from datasets import Image, List, Value

from craft_lightning.errors import CraftError
from data_modules.datasets.iconqa import split_choices
from data_modules.sources.rows import turns_as_records
from tests.data_modules.published_kit import opened, stored, texts, write_table

pytestmark = pytest.mark.usefixtures("stub_backbone", "table_cache")

STRING = Value("string")
ICONQA = {
    **dict.fromkeys(("question_id", "question", "choices", "answer"), STRING),
    **{name: Image() for name in ("query_image", "choice_image_0", "choice_image_1")},
    **dict.fromkeys(("ques_type", "label", "grade", "skills"), STRING),
}


def iconqa(root, *rows):
    """Rows of (kind, choices, answer)."""
    count = len(rows)
    columns = {
        "question_id": [str(i) for i in range(count)],
        "question": [f"What is {i}?" for i in range(count)],
        "choices": [row[1] for row in rows],
        "answer": [row[2] for row in rows],
        "query_image": [stored(i, kind="PNG") for i in range(count)],
        "choice_image_0": [stored(90) if row[0] == "choose_img" else None for row in rows],
        "choice_image_1": [None] * count,
        "ques_type": [row[0] for row in rows],
        **{name: [""] * count for name in ("label", "grade", "skills")},
    }
    for split in ("val", "test"):
        write_table(root / "data" / f"{split}-00000-of-00001-abc.parquet", ICONQA, **columns)
    return root


def test_iconqa_takes_the_questions_with_text_choices(tmp_path):
    root = iconqa(
        tmp_path,
        ("choose_txt", "yes,no", "no"),
        ("choose_img", "choice_0.png,choice_1.png", "1"),
        ("choose_txt", "1,000, 2,000, 3,000", "2,000"),
        ("fill_in_blank", "", "7"),
        ("choose_txt", "a, b,c", "a, b"),
        ("choose_txt", "4,5,6", "5"),
    )
    data = opened("iconqa", root, "hub", ("test",))
    assert texts(data, "test") == {"iconqa/test/0": "no", "iconqa/test/2": "2,000", "iconqa/test/5": "5"}
    options = {e.key: sorted(e.options) for e in data.examples("test")}
    assert options["iconqa/test/2"] == ["1,000", "2,000", "3,000"]
    assert data.describe()["skipped"] == {"bad choices": 1, "row of another task": 2}
    with pytest.raises(CraftError, match=r"the train split of .* has no items; its training questions are in .*zip"):
        opened("iconqa", root, "hub", ("fit",))


def test_iconqa_answers_are_indices_if_that_fits_every_row(tmp_path):
    root = iconqa(tmp_path, ("choose_txt", "4,5,1", "2"), ("choose_txt", "yes,no", "0"))
    assert list(texts(opened("iconqa", root, "hub", ("test",)), "test").values()) == ["1", "yes"]
    root = iconqa(tmp_path / "b", ("choose_txt", "4,5,1", "1"), ("choose_txt", "yes,no", "yes"))
    assert list(texts(opened("iconqa", root, "hub", ("test",)), "test").values()) == ["1", "yes"]


def test_iconqa_rows_that_say_nothing_decide_nothing(tmp_path):
    rows = (("choose_txt", "4,5,1", "1"), ("choose_txt", "yes,None", None), ("choose_txt", None, "0"))
    data = opened("iconqa", iconqa(tmp_path, *rows), "hub", ("test",))
    assert list(texts(data, "test").values()) == ["5"]
    assert data.describe()["skipped"] == {"missing field": 2}
    letters = iconqa(tmp_path / "b", ("choose_txt", "B,A", "A"), ("choose_txt", "C,A,T", "T"))
    assert list(texts(opened("iconqa", letters, "hub", ("test",)), "test").values()) == ["A", "T"]


@pytest.mark.parametrize(
    ("listed", "answer", "choices"),
    [
        ("yes,no", "yes", ["yes", "no"]),
        ("1,000,2,000", "1,000", ["1,000", "2,000"]),
        ("red, blue, blue, red", "blue, red", ["red, blue", "blue, red"]),
        ("3,4,5,6,7", "5", ["3", "4", "5", "6", "7"]),
    ],
)
def test_choices_with_commas(listed, answer, choices):
    assert split_choices(listed, answer) == choices


OCRVQA = {
    "image": Image(),
    "image_id": STRING,
    "questions": List(STRING),
    "answers": List(STRING),
    "ocr_tokens": List(STRING),
    "ocr_info": List({"word": STRING, "bounding_box": {"width": Value("float64")}}),
    **dict.fromkeys(("title", "authorName", "genre", "image_url", "set_name"), STRING),
}


def ocrvqa(root, covers=6, each=3):
    columns = {
        "image": [stored(i, f"{i}.jpg", kind="GIF" if i == 2 else "JPEG") for i in range(covers)],
        "image_id": [str(i) for i in range(covers)],
        "questions": [["Who wrote this book?", "What is the title?", "Is it a romance?"][:each]] * covers,
        "answers": [[f"A. Writer {i}", f"Title, {i}", "No"][:each] for i in range(covers)],
        "ocr_tokens": [["a"]] * covers,
        "ocr_info": [[{"word": "a", "bounding_box": {"width": 0.5}}]] * covers,
        **{name: [""] * covers for name in ("title", "authorName", "genre", "image_url", "set_name")},
    }
    for split in ("train", "validation", "test"):
        write_table(root / "data" / f"{split}-00000-of-00001.parquet", OCRVQA, **columns)
    return root


def test_ocrvqa_rows_are_several_questions(tmp_path):
    data = opened("ocrvqa", ocrvqa(tmp_path), "hub", ("fit", "test"))
    assert data.describe()["splits"] == {"train": 18, "val": 18, "test": 18}
    assert data.describe()["pictures"] == {"train": 6, "val": 6, "test": 6}
    found = texts(data, "train")
    assert (found["ocrvqa/train/4"], found["ocrvqa/train/4/1"]) == ("A. Writer 4", "Title, 4")
    first = [e for e in data.examples("train") if e.label_id == 0]
    assert len(first) == 3
    assert "A. Writer 0 wrote this book." in data.captions


def test_ocrvqa_questions_without_an_answer_are_counted(tmp_path):
    said = [["Who?", "What?", ""], ["Who?"], None]
    columns = {"image": [stored(i) for i in range(3)], "questions": said, "answers": [["Ann"], [None], ["Ann"]]}
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", {k: OCRVQA[k] for k in columns}, **columns)
    data = opened("ocrvqa", tmp_path, "hub", ("test",))
    assert texts(data, "test") == {"ocrvqa/test/0": "Ann"}
    assert data.describe()["skipped"] == {"missing field": 4}


def test_the_paper_s_thirty_thousand_count_pictures_questions_or_one_each(tmp_path):
    root = ocrvqa(tmp_path)
    sizes = {}
    for unit in (None, "picture", "question", "one_each"):
        data = opened("ocrvqa", root, "hub", ("fit",), train_size=4, train_unit=unit)
        sizes[unit] = len(data.examples("train")), len({e.label_id for e in data.examples("train")})
    assert sizes[None] == sizes["picture"] == (12, 4)
    assert sizes["one_each"] == (4, 4)
    assert sizes["question"][0] == 4
    made = opened("ocrvqa", root, "hub", ("fit",), train_size=4, train_unit="picture").open()[0]
    assert len(made._entries("train")) == 12, "what the cap leaves out becomes no item"
    everything = opened("ocrvqa", root, "hub", ("fit",), train_unit="one_each")
    assert len(everything.examples("train")) == 6
    assert opened("ocrvqa", root, "hub").facts.paper["train"] == 30_000


def test_scienceqa_leaves_out_questions_without_a_picture(tmp_path):
    strings = ("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
    kinds = {"image": Image(), "question": STRING, "choices": List(STRING), "answer": Value("int8")}
    kinds |= dict.fromkeys(strings, STRING)
    columns = {
        "image": [stored(0), None, stored(2)],
        "question": ["Which eats moss?", "Which is text?", "Which is alike?"],
        "choices": [["fox", "hare", "owl"], ["a", "b"], ["x", "X"]],
        "answer": [1, 0, 0],
        "hint": ["Look at the web.", "", ""],
        **{name: [""] * 3 for name in strings[1:]},
    }
    for split in ("train", "validation", "test"):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", kinds, **columns)
    data = opened("scienceqa", tmp_path, "hub", ("test",))
    assert texts(data, "test") == {"scienceqa/test/0": "hare", "scienceqa/test/2": "x"}
    assert data.describe()["skipped"] == {"question without an image": 1}
    assert data.examples("test")[0].question == "Context: Look at the web.\nWhich eats moss?"


def test_scienceqa_numbers_are_indices_from_zero(tmp_path):
    kinds = {"image": Image(), "question": STRING, "choices": List(STRING), "answer": Value("float64"), "hint": STRING}
    columns = {
        "image": [stored(i) for i in range(4)],
        "question": ["How many?", None, "Which?", "Which?"],
        "choices": [["1", "2", "3"], ["a", "b"], ["None", "b"], ["a", None]],
        "answer": [1, 0, None, 0],
        "hint": [None, "", "", ""],
    }
    for split in ("train", "test"):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", kinds, **columns)
    data = opened("scienceqa", tmp_path, "hub", ("test",))
    assert texts(data, "test") == {"scienceqa/test/0": "2"}
    assert data.examples("test")[0].question == "How many?"
    assert data.describe()["skipped"] == {"missing field": 3}
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", kinds, **{**columns, "answer": [3, 1, 1, 1]})
    with pytest.raises(CraftError, match=r"row 0: .* none of 4 answer_index is 0: it counts from 0 here"):
        opened("scienceqa", tmp_path, "hub", ("test",))


def vqa_rad(root):
    """Ten images; the test split asks about the first three of them again."""
    kinds = {"image": Image(), "question": STRING, "answer": STRING}
    for split, shown in (("train", [i % 10 for i in range(40)]), ("test", [0, 1, 2, 2])):
        columns = {
            "image": [stored(i) for i in shown],
            "question": [f"Is there a mass, {n}?" for n in range(len(shown))],
            "answer": ["yes"] * len(shown),
        }
        write_table(root / "data" / f"{split}-00000-of-00001-abc.parquet", kinds, **columns)
    return root


def test_vqa_rad_repeats_pictures_and_validation_shares_none(tmp_path):
    data = opened("vqa_rad", vqa_rad(tmp_path), "hub", ("fit", "test"))
    said = data.describe()
    assert said["splits"] == {"train": 36, "val": 4, "test": 4}
    assert said["pictures"] == {"train": 9, "val": 1, "test": 3}
    numbers = {s: {int(k.rsplit("/", 1)[1]) % 10 for k in texts(data, s)} for s in ("train", "val")}
    assert not numbers["train"] & numbers["val"]
    apart = opened("vqa_rad", tmp_path, "hub", ("fit", "test"), apart=True)
    shown = {int(k.rsplit("/", 1)[1]) % 10 for s in ("train", "val") for k in texts(apart, s)}
    assert shown == set(range(3, 10))
    assert apart.describe()["splits"]["test"] == 4


def test_conversations_of_the_cauldron(tmp_path):
    turn = {"user": "Question: Which?\nChoices:\nA. one\nB. two\nAnswer with the letter.", "assistant": "Answer: B"}
    book = {"user": "What is the title?\nShort answer please.", "assistant": "War and Peace"}
    assert list(turns_as_records({"texts": [turn, book]})) == [
        {"question": "Which?", "choices": ["one", "two"], "answer_index": 1},
        {"question": "What is the title?", "choices": None, "answer": "War and Peace"},
    ]
    kinds = {"images": List(Image()), "texts": List({"user": STRING, "assistant": STRING, "source": STRING})}
    columns = {
        "images": [[stored(i)] for i in range(5)] + [[]],
        "texts": [[{**book, "source": "ocrvqa"}]] * 6,
    }
    write_table(tmp_path / "ocrvqa" / "train-00000-of-00002.parquet", kinds, **columns)
    data = opened("ocrvqa", tmp_path, "hub", ("fit", "test"), hub_id="HuggingFaceM4/the_cauldron")
    assert data.describe()["splits"] == {"train": 3, "val": 1, "test": 1}
    assert data.describe()["skipped"] == {"question without an image": 1}
    assert set(texts(data, "train").values()) == {"War and Peace"}


def test_a_table_with_one_question_a_row_is_read_by_questions(tmp_path):
    columns = {"image": [stored(i) for i in range(3)], "questions": ["Who?"] * 3, "answers": ["Ann", "Bo", "Cy"]}
    kinds = {"image": Image(), "questions": STRING, "answers": STRING}
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", kinds, **columns)
    data = opened("ocrvqa", tmp_path, "hub", ("test",))
    assert [*texts(data, "test").values()] == ["Ann", "Bo", "Cy"]
    assert {example.question for example in data.examples("test")} == {"Who?"}


@pytest.mark.parametrize(
    ("dataset", "column", "value", "said"),
    [
        ("iconqa", "foo", "x", "the questions of IconQA .KeyError: 'ques_type'.; it has query_image"),
        ("iconqa", "question", "What?", "the questions of IconQA .KeyError: 'ques_type'.; it has .*, question "),
        ("ocrvqa", "texts", ["What?"], "the questions of OCR-VQA .TypeError: string indices"),
    ],
)
def test_columns_that_are_no_questions_are_one_line(tmp_path, dataset, column, value, said):
    named = "query_image" if dataset == "iconqa" else "image"
    kinds = {named: Image(), column: List(STRING) if isinstance(value, list) else STRING}
    columns = {named: [stored(0)], column: [value]}
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", kinds, **columns)
    with pytest.raises(CraftError, match=f"has no {said}"):
        opened(dataset, tmp_path, "hub", ("test",))


def test_a_place_may_have_signs_of_patterns(tmp_path):
    data = opened("ocrvqa", ocrvqa(tmp_path / "copy [1] *"), "hub", ("test",))
    assert data.describe()["splits"] == {"test": 18}
