"""JSONL question files: records of the benchmarks, and one clear line for each bad line."""

import pytest

from craft_lightning.errors import CraftError
from data_modules.base import VqaDataModule

pytestmark = pytest.mark.usefixtures("stub_backbone")


def record(i=0, **more):
    return {"id": f"q{i}", "image": f"images/{i % 4}.png", "question": "Is it?", "answer": "yes", **more}


GOOD = [record(i) for i in range(12)]


def own(root, stage="fit", **options):
    data = VqaDataModule(dataset="folder", source="folder", root=str(root), **{"batch_size": 2, **options})
    data.setup(stage)
    return data


def test_open_and_choice_questions(question_folder):
    records = [
        record(0, answer=" 42 "),
        record(1, answer=7),
        record(2, choices=["cat", "dog", "cow"], answer_index=2, answer="cow"),
        record(3, options=["cat", "dog"], answer="Dog"),
        record(4, choices=["cat", "dog", "owl"], answer=1),
        record(5, choices=["cat", "dog", "owl"], answer="B", hint="Look at the ears."),
    ]
    examples = {e.key: e for e in own(question_folder({"test": records}), "test").examples("test")}
    texts = {key.rsplit("/", 1)[-1]: e.meta["answer_text"] for key, e in examples.items()}
    assert texts == {"q0": "42", "q1": "7", "q2": "cow", "q3": "dog", "q4": "dog", "q5": "dog"}
    assert examples["folder/test/q0"].answer == "42"
    for e in examples.values():
        if e.options:
            assert e.options["ABCDEFGH".index(e.answer)] == e.meta["answer_text"]
            assert e.captions == (f'The answer to the question "Is it?" is {e.meta["answer_text"]}.',)
    assert examples["folder/test/q5"].question == "Context: Look at the ears.\nIs it?"
    assert sorted(examples["folder/test/q2"].options) == ["cat", "cow", "dog"]


def test_two_questions_on_one_picture_share_their_label_id(question_folder):
    data = own(question_folder({"train": GOOD}))
    by_picture = {}
    for e in [*data.examples("train")]:
        by_picture.setdefault(int(e.key.rsplit("q", 1)[-1]) % 4, set()).add(e.label_id)
    assert all(len(ids) == 1 for ids in by_picture.values())
    assert len({next(iter(ids)) for ids in by_picture.values()}) == len(by_picture)


def test_validation_pictures_are_not_trained_on(question_folder):
    records = [record(i, image=f"images/{i % 20}.png") for i in range(60)]
    data = own(question_folder({"train": records}, pictures=20))
    pictures = {name: {int(e.key.rsplit("q", 1)[-1]) % 20 for e in data.examples(name)} for name in ("train", "val")}
    assert {name: len(p) for name, p in pictures.items()} == {"train": 18, "val": 2}
    assert not pictures["train"] & pictures["val"]


def test_one_file_is_cut_into_three_splits(question_folder):
    records = [record(i, image=f"images/{i}.png") for i in range(20)]
    root = question_folder({"mine": records}, pictures=20)
    data = own(root / "mine.jsonl")
    data.setup("test")
    assert data.describe()["splits"] == {"train": 14, "val": 2, "test": 4}
    with pytest.raises(CraftError, match=r"no train.jsonl or test.jsonl \(it has mine.jsonl\)"):
        own(root)


def test_records_that_cannot_be_asked_are_left_out_and_counted(question_folder):
    records = [
        *GOOD,
        record(20, choices=["images/0.png", "images/1.png"], answer_index=0),
        record(21, image=None),
    ]
    said = own(question_folder({"train": records})).describe()
    assert said["skipped"] == {"choices are pictures": 1, "question without a picture": 1}
    assert sum(said["splits"].values()) == 12


BAD = {
    "no JSON": ("{oops", "no JSON"),
    "list": ("[1, 2]", "a JSON list instead of an object"),
    "missing question": (record(90, question=""), "no text in field 'question'"),
    "missing answer": ({"image": "images/0.png", "question": "Is it?"}, "no text in field 'answer'"),
    "missing image field": ({"question": "Is it?", "answer": "yes"}, "no text in field 'image'"),
    "missing picture": (record(91, image="images/nine.png"), "no such picture: 'images/nine.png' in"),
    "the picture itself": (record(91, image="A" * 300), f"no such picture: '{'A' * 60}…' in .*too long"),
    "NUL": (record(91, image="a\0.png"), r"no such picture: 'a\\x00.png' in .*null"),
    "half a pair in a path": (record(91, image="\ud800.png"), "no JSON .*surrogates not allowed"),
    "half a pair in an answer": (record(91, answer="\ud800"), "no JSON .*surrogates not allowed"),
    "a number too long": (f'{{"answer": {"9" * 5000}}}', "no JSON .*Exceeds the limit"),
    "dots": (record(92, image="../secret.png"), "'../secret.png' leaves"),
    "absolute": (record(93, image="/etc/passwd"), "'/etc/passwd' leaves"),
    "id twice": (record(3), "id 'q3' twice, also in line 4"),
    "index": (record(94, choices=["a", "b"], answer_index=2, answer="c"), "the right choice is not named"),
    "same choice": (record(95, choices=["a", "a"], answer_index=0), "the same choice twice"),
    "one choice": (record(96, choices=["a"], answer_index=0), "1 choices; 2 to"),
    "no list": (record(97, choices="a,b", answer_index=0), "choices is not a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_name_file_and_line_or_are_skipped_and_counted(question_folder, name):
    bad, said = BAD[name]
    root = question_folder({"train": [*GOOD[:5], bad, *GOOD[5:]]})
    with pytest.raises(CraftError, match=said) as error:
        own(root)
    assert f"{root / 'train.jsonl'}, line 6: " in str(error.value)
    assert "\n" not in str(error.value)
    data = own(root, on_bad="skip")
    assert sum(data.describe()["skipped"].values()) == 1
    assert sum(data.describe()["splits"].values()) == 12


def test_a_link_out_of_the_folder_is_refused(question_folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    root = question_folder({"train": [*GOOD, record(50, image="images/link.png")]})
    outside.write_bytes((root / "images" / "0.png").read_bytes())
    (root / "images" / "link.png").symlink_to(outside)
    with pytest.raises(CraftError, match="leaves"):
        own(root, on_bad="error")


def test_a_broken_picture_of_a_question_is_skipped_with_its_questions(question_folder):
    root = question_folder({"train": GOOD})
    (root / "images" / "1.png").write_bytes(b"nothing")
    with pytest.raises(CraftError, match=r"images/1.png: broken picture"):
        own(root)
    said = own(root, on_bad="skip").describe()
    assert said["skipped"] == {"broken picture": 1}
    assert sum(said["splits"].values()) == 9


def test_more_choices_than_single_token_letters_are_refused(question_folder):
    root = question_folder({"test": [record(0, choices=list("abcdefghi"), answer_index=0)]})
    with pytest.raises(CraftError, match="9 choices; 2 to 8 can be lettered"):
        own(root, "test")


def test_known_question_sets_read_the_same_files(question_folder):
    root = question_folder({"train": GOOD, "test": GOOD[:3]})
    data = VqaDataModule(dataset="vqa_rad", source="folder", root=str(root), batch_size=2)
    data.setup("test")
    assert [e.key for e in data.examples("test")] == ["vqa_rad/test/q0", "vqa_rad/test/q1", "vqa_rad/test/q2"]
