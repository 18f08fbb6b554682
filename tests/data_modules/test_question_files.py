"""JSONL question files: records of the benchmarks, and one clear line for each bad line."""

import doctest
import json
import shutil
import unicodedata
import zipfile

import pytest

from craft_lightning.errors import CraftError
from data_modules.datamodule import VqaDataModule
from data_modules.sources import rows as hub_rows
from data_modules.sources import values

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
        record(4, choices=["cat", "dog", "owl"], answer=None, answer_index=1),
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
    whole = own(root)
    assert whole.describe()["data_hash"] == data.describe()["data_hash"]
    question_folder({"yours": records}, pictures=20)
    with pytest.raises(CraftError, match=r"no train.jsonl or test.jsonl \(it has mine.jsonl, yours.jsonl\)"):
        own(root)


@pytest.mark.parametrize("around", ["", "my_data/", "my data/train/"])
def test_question_files_are_found_in_folders_and_archives_alike(question_folder, tmp_path, around):
    root = question_folder({"train": GOOD, "test": [record(9, image="./images/../images/3.png")], "extra": GOOD[:1]})
    bare = own(root, "fit")
    archive, wrapped = tmp_path / "packed.zip", tmp_path / "wrapped"
    for file in [*(root / "images").iterdir(), *root.glob("*.jsonl")]:
        target = wrapped / around / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(wrapped.rglob("*")):
            out.write(file, file.relative_to(wrapped))
        out.writestr("__MACOSX/._train.jsonl", "no JSON")
    for place in (wrapped, archive):
        data = own(place, "fit")
        data.setup("test")
        assert [e.key for e in data.examples("test")] == ["folder/test/q9"]
        assert data.open()[0]._rows("test")[0].image.name == "images/3.png"
        assert data.describe()["skipped"] == {"question file of no split": 1}
        assert data.describe()["data_hash"] == bare.describe()["data_hash"]
        for split in ("train", "val"):
            assert (data.splits[split].images == bare.splits[split].images).all()
            assert data.item_hashes(split) == bare.item_hashes(split)


def test_bad_lines_of_an_archive_are_named_and_its_pictures_stay_inside(tmp_path):
    archive = tmp_path / "mine.zip"
    for image, said in (
        ("images/0.png", "no such image: 'images/0.png' in .*mine.zip: a"),
        ("../b/0.png", "image path '../b/0.png' leaves .*mine.zip: a"),
        ("/b/0.png", "image path '/b/0.png' leaves .*mine.zip: a"),
    ):
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("a/questions.jsonl", json.dumps(record(image=image)))
            out.writestr("a/b/0.png", "x")
        with pytest.raises(CraftError, match=f"mine.zip: a/questions.jsonl, line 1: {said}"):
            own(archive)
    damaged = bytearray(archive.read_bytes())
    damaged[damaged.index(b"Is it?")] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(CraftError, match=r"mine.zip: a/questions.jsonl cannot be read \(Bad CRC-32"):
        own(archive)


def test_two_files_of_a_split_are_refused(question_folder):
    with pytest.raises(CraftError, match=r"holds a split twice: train.jsonl, training.jsonl; merge them"):
        own(question_folder({"train": GOOD, "training": GOOD}))


def test_answers_longer_than_a_reply_are_counted_by_the_tokenizer(question_folder, reader):
    long, loud = "a large mass in the left upper lobe of the lung", "SHOWN IN THE"
    tokens = reader.builder.tokens
    assert tokens(long) > 5
    assert tokens(loud) > 5 >= tokens(loud.lower()), "a reply in small letters is right, too"
    choices = {"choices": [long, "none"], "answer": long}
    rows = [record(0, answer=long), record(1, answer=long), record(2, answer=loud), record(3, **choices), record(4)]
    data = own(question_folder({"train": [record(i, answer=long) for i in range(8)], "val": rows[1:], "test": rows}))
    data.setup("test")
    assert data.describe()["too_long"] == {"val": 1, "test": 2}


def test_records_that_cannot_be_asked_are_left_out_and_counted(question_folder):
    records = [
        *GOOD,
        record(20, choices=["images/0.png", "images/1.png"], answer_index=0),
        record(21, image=None),
    ]
    said = own(question_folder({"train": records})).describe()
    assert said["skipped"] == {"choices are images": 1, "question without an image": 1}
    assert sum(said["splits"].values()) == 12


BAD = {
    "no JSON": ("{oops", "no JSON"),
    "list": ("[1, 2]", "a JSON list instead of an object"),
    "missing question": (record(90, question=""), "no text in field 'question'"),
    "missing answer": ({"image": "images/0.png", "question": "Is it?"}, "no text in field 'answer'"),
    "missing image field": ({"question": "Is it?", "answer": "yes"}, "no text in field 'image'"),
    "missing image": (record(91, image="images/nine.png"), "no such image: 'images/nine.png' in"),
    "the image itself": (record(91, image="A" * 300), f"no such image: '{'A' * 60}…' in .*too long"),
    "NUL": (record(91, image="a\0.png"), r"no such image: 'a\\x00.png' in .*null"),
    "half a pair in a path": (record(91, image="\ud800.png"), "no JSON .*surrogates not allowed"),
    "half a pair in an answer": (record(91, answer="\ud800"), "no JSON .*surrogates not allowed"),
    "a number too long": (f'{{"answer": {"9" * 5000}}}', "no JSON .*Exceeds the limit"),
    "dots": (record(92, image="../secret.png"), "'../secret.png' leaves"),
    "absolute": (record(93, image="/etc/passwd"), "'/etc/passwd' leaves"),
    "id twice": (record(3), "id 'q3' twice, also in line 4"),
    "index": (record(94, choices=["a", "b"], answer_index=2, answer="c"), "answer_index 2 is none of 0 to 1"),
    "same choice": (record(95, choices=["a", "a"], answer_index=0), "the same choice twice"),
    "one choice": (record(96, choices=["a"], answer_index=0), "1 choices; 2 to"),
    "no list": (record(97, choices="a,b", answer_index=0), "choices is not a list"),
    "no choices": (record(98, choices=[]), "0 choices; 2 to 8 can be lettered; an open question has null there"),
    "choices in fields": (record(98, A="cat", B="dog", answer="B"), "write them as one list in field 'choices'"),
    "an index of nothing": (record(98, answer_index=1), "answer_index without choices"),
    "two lists": (record(98, choices=["a", "b"], options=["b", "a"]), "choices and options differ"),
    "an empty choice": (record(98, choices=["a", " "], answer_index=0), "line 6: choice 2 has no text"),
    "no choice": (record(98, choices=["a", None], answer_index=0), "line 6: choice 2 has no text"),
    "a choice of things": (record(98, choices=["a", ["b"]], answer_index=0), "choice 2: a list is no text"),
    "marks in disorder": (
        record(98, choices=["B. dog", "A. cat"], answer="B"),
        "choices are marked B, A; bring them in order",
    ),
    "the same choice behind marks": (
        record(98, choices=["A. cat", "B. cat"], answer="B"),
        "the same choice twice: cat",
    ),
    "choices in small fields": (record(98, a="cat", b="dog", answer="b"), "choices in fields a, b; write them as one"),
    "choices in named fields": (
        record(98, option_a="cat", option_b="dog", answer="b"),
        "choices in fields option_a, option_b; write them as one list in field 'choices'",
    ),
    "choices in short fields": (record(98, opa="cat", opb="dog", cop=1), "choices in fields opa, opb; write"),
    "choices in counted fields": (
        record(98, choice1="cat", choice2="dog", answer="cat"),
        "choices in fields choice1, choice2; write",
    ),
    "an index that is not read": (
        record(98, choices=["cat", "dog"], answer=None, answer_idx=1),
        "field 'answer_idx' is not read; write answer",
    ),
    "a label against the answer": (
        record(98, choices=["cat", "dog", "owl"], answer="cat", label=2),
        "field 'label' says 2, but the right choice is 'cat'; leave one out",
    ),
    "a text against the index": (
        record(98, choices=["cat", "dog"], answer=None, answer_index=0, correctAnswer="dog"),
        "field 'correctAnswer' says 'dog', but the right choice is 'cat'",
    ),
    "NaN": (record(98, answer=float("nan")), "no text in field 'answer'"),
    "infinity": (record(98, question=float("inf")), "no text in field 'question'"),
    "a truth": (record(98, answer=True), "true may be the text 'yes' or 'true'; write the text"),
    "a whole float": (record(98, answer=7.0), "7.0 may be the text '7' or '7.0'; write the text"),
    "a list": (record(98, answer=["yes"]), "field 'answer': a list is no text"),
    "a hint of things": (record(98, hint={"a": 1}), "field 'hint': a dict is no text"),
    "a field twice": (
        '{"image": "images/0.png", "question": "Is it?", "answer": "yes", "answer": "no"}',
        "'answer' twice",
    ),
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


NUMBERS, ANIMALS = [1, 2, 3, 4], ["cat", "dog", "owl"]
RIGHT = {
    "text": (ANIMALS, {"answer": "dog"}, "dog"),
    "text in other case": (ANIMALS, {"answer": "DOG"}, "dog"),
    "letter": (ANIMALS, {"answer": "b"}, "dog"),
    "index": (ANIMALS, {"answer_index": 1}, "dog"),
    "index as text": (ANIMALS, {"answer_index": "1"}, "dog"),
    "index of a table with gaps": (ANIMALS, {"answer_index": 1.0}, "dog"),
    "index and nothing": (ANIMALS, {"answer_index": 1, "answer": None}, "dog"),
    "index and NaN": (ANIMALS, {"answer_index": 1, "answer": float("nan")}, "dog"),
    "nothing and text": (ANIMALS, {"answer_index": None, "answer": "dog"}, "dog"),
    "index, text": (ANIMALS, {"answer_index": 1, "answer": "dog"}, "dog"),
    "index, letter": (ANIMALS, {"answer_index": 1, "answer": "B"}, "dog"),
    "index twice": (ANIMALS, {"answer_index": 1, "answer": 1}, "dog"),
    "number beyond the indices": (NUMBERS, {"answer": 4}, "4"),
    "number that is its own index": ([0, 1, 2], {"answer": 1}, "1"),
    "text of a number": (NUMBERS, {"answer": "2"}, "2"),
    "index of a number": (NUMBERS, {"answer_index": 1, "answer": 2}, "2"),
    "half": ([0.5, 1.5], {"answer": 1.5}, "1.5"),
    "case": (["Bb", "BB"], {"answer": "BB"}, "BB"),
    "case by index": (["x", "X"], {"answer_index": 1}, "X"),
    "letters": (["A", "B", "C"], {"answer": "B"}, "B"),
    "letters in disorder": (["B", "A"], {"answer_index": 1, "answer": "A"}, "A"),
    "the word None": (["None", "one"], {"answer": "None"}, "None"),
    "marks": (["A. cat", "B. dog"], {"answer": "B. dog"}, "dog"),
    "marks in brackets": (["(A) cat", "(B) dog"], {"answer": "(B)"}, "dog"),
    "marks behind": (["a) cat", "b) dog"], {"answer": "b)"}, "dog"),
    "marks that the answer lacks": (["A: cat", "B: dog"], {"answer": "dog"}, "dog"),
    "marks by index": (["A. cat", "B. dog"], {"answer_index": 1}, "dog"),
    "a mark in the answer alone": (ANIMALS, {"answer": "B. dog"}, "dog"),
    "initials": (["C. Lewis", "A. Milne"], {"answer": "A. Milne"}, "A. Milne"),
    "an index that agrees": (ANIMALS, {"answer": "dog", "answer_idx": 1}, "dog"),
    "an index that agrees from 1": (ANIMALS, {"answer": "dog", "label": 2}, "dog"),
    "a label of something else": (ANIMALS, {"answer": "dog", "label": "mammals"}, "dog"),
    "blanks": (["two  legs", "six legs"], {"answer": " six   legs "}, "six legs"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_choice(question_folder, name):
    choices, said, right = RIGHT[name]
    bare = {"id": "q", "image": "images/0.png", "question": "Which?", "choices": choices, **said}
    (example,) = own(question_folder({"test": [bare]}), "test").examples("test")
    assert example.meta["answer_text"] == example.options["ABCD".index(example.answer)] == right
    shown = sorted(" ".join(str(choice).split()) for choice in choices)
    assert sorted(example.options) == (["cat", "dog"] if name.startswith("marks") else shown)


WRONG = {
    "number": (
        NUMBERS,
        {"answer": 2},
        r"'2' may be the text '2' or the index of '3', counted from 0; say which by answer_i",
    ),
    "number or its letter": (["B", "A"], {"answer": "B"}, "'B' may be the text 'B' or the letter of 'A'"),
    "case": (["Bb", "BB"], {"answer": "bb"}, "'bb' may be the text 'Bb' or the text 'BB'"),
    "index as answer": (
        ANIMALS,
        {"answer": 1},
        "the right choice is not named: answer '1', .*; an index is answer_index",
    ),
    "first index as answer": (ANIMALS, {"answer": 0}, "an index is answer_index, which counts from 0"),
    "index as text": (ANIMALS, {"answer": "1"}, "an index is answer_index, which counts from 0"),
    "index against text": (
        ANIMALS,
        {"answer_index": 1, "answer": "cat"},
        "answer_index 1 is 'dog', .* but answer is 'cat'",
    ),
    "index against letter": (
        ANIMALS,
        {"answer_index": 1, "answer": "C"},
        "answer_index 1 is 'dog', .* but answer is 'C'",
    ),
    "index against number": (NUMBERS, {"answer_index": 2, "answer": 2}, "answer_index 2 is '3', .* but answer is '2'"),
    "index and no choice": (
        ANIMALS,
        {"answer_index": 1, "answer": "ant"},
        "answer_index 1 is 'dog', .* but answer is 'ant'",
    ),
    "negative": (ANIMALS, {"answer_index": -1}, "answer_index -1 is none of 0 to 2"),
    "too large": (ANIMALS, {"answer_index": 3}, "answer_index 3 is none of 0 to 2"),
    "a letter": (ANIMALS, {"answer_index": "B"}, "answer_index 'B' is none of 0 to 2"),
    "a truth": (ANIMALS, {"answer_index": True}, "answer_index True is none of 0 to 2"),
    "half": (ANIMALS, {"answer_index": 0.5}, "answer_index 0.5 is none of 0 to 2"),
    "a list": (ANIMALS, {"answer_index": [1]}, r"answer_index \[1\] is none of 0 to 2"),
    "nothing": (["None", "one"], {"answer": None}, "no text in field 'answer'"),
    "NaN": (["nan", "one"], {"answer": float("nan"), "answer_index": float("nan")}, "no text in field 'answer'"),
    "empty": (["None", "one"], {"answer": ""}, "no text in field 'answer'"),
    "no field": (["None", "one"], {}, r"no text in field 'answer' \(the record has id, image, question, choices\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_choice_that_is_not_named_or_named_twice_is_refused(question_folder, name):
    choices, said, why = WRONG[name]
    bare = {"id": "q", "image": "images/0.png", "question": "Which?", "choices": choices, **said}
    with pytest.raises(CraftError, match=why):
        own(question_folder({"test": [bare]}), "test")


def test_indices_that_count_from_one_are_refused_whole(question_folder, caplog):
    rows = [record(i, choices=ANIMALS, answer=None, answer_index=1 + i % 3) for i in range(6)]
    root = question_folder({"test": rows})
    with pytest.raises(CraftError, match=r"test.jsonl, line 3: .* none of 6 answer_index is 0: it counts from 0 here"):
        own(root, "test", on_bad="skip")
    rows = [record(i, choices=None, options=ANIMALS, answer=None, answer_index=1 + i % 3) for i in range(6)]
    with pytest.raises(CraftError, match="none of 6 answer_index is 0: it counts from 0 here"):
        own(question_folder({"test": rows}), "test", on_bad="skip")
    rows = [record(i, choices=ANIMALS, answer=None, answer_index=i % 3) for i in range(6)]
    assert [e.meta["answer_text"] for e in own(question_folder({"test": rows}), "test").examples("test")] == 2 * ANIMALS
    assert not caplog.records
    rows = [record(i, choices=ANIMALS, answer=None, answer_index=1 + i % 2) for i in range(30)]
    own(question_folder({"test": rows}), "test")
    assert "none of 30 answer_index is 0; it counts from 0" in caplog.text


def test_fields_that_are_not_read_are_told_once(question_folder, caplog):
    rows = [record(i, choices=ANIMALS, answer="dog", answer_idx=1, label="mammals") for i in range(3)]
    own(question_folder({"test": rows}), "test")
    (said,) = caplog.messages
    assert said.endswith("line 1: answer_idx, label is not read; answer and answer_index name the right choice")


WHOLE = [record(i) for i in range(3)]
STRANGE = {
    "one JSON list": json.dumps(WHOLE).encode(),
    "one JSON list ": json.dumps(WHOLE, indent=1).encode(),
    "JSON objects over several lines": "\n".join(json.dumps(row, indent=1) for row in WHOLE).encode(),
    "UTF-16 text (save it as UTF-8)": json.dumps(WHOLE[0]).encode("utf-16"),
    "UTF-16 text (save it as UTF-8) ": json.dumps(WHOLE[0]).encode("utf-16-be"),
    "a table (CSV)": b"image,question,answer\nimages/0.png,Is it?,yes\n",
}


@pytest.mark.parametrize("looks", STRANGE)
def test_a_file_that_is_no_jsonl_says_what_it_looks_like(question_folder, looks):
    root = question_folder({"test": []})
    (root / "test.jsonl").write_bytes(STRANGE[looks])
    with pytest.raises(CraftError) as error:
        own(root, "test", on_bad="skip")
    assert str(error.value) == f"{root / 'test.jsonl'} holds {looks.strip()} instead of one JSON object a line"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_windows_ways_to_write_a_text_are_read(question_folder, start, end):
    root = question_folder({"test": []})
    rows = [record(1, id=1.0), record(2, id=2)]
    (root / "test.jsonl").write_bytes(start + end.join(json.dumps(row).encode() for row in rows))
    assert [e.key for e in own(root, "test").examples("test")] == ["folder/test/1", "folder/test/2"]


def test_what_says_nothing_never_becomes_a_word(question_folder):
    absent = (None, float("nan"), float("inf"), "", " ")
    rows = [record(i, id=value, hint=value, choices=value, options=value) for i, value in enumerate(absent)]
    rows += [record(i, image=value) for i, value in enumerate(absent, start=5)]
    data = own(question_folder({"test": rows}), "test")
    assert [e.key for e in data.examples("test")] == [f"folder/test/{line}" for line in range(1, 6)]
    assert {e.question for e in data.examples("test")} == {"Is it?"}
    assert data.describe()["skipped"] == {"question without an image": 5}


@pytest.mark.parametrize("stored", ["NFC", "NFD", "mixed"])
@pytest.mark.parametrize("said", ["NFC", "NFD"])
def test_accents_written_in_two_ways_are_one_name(question_folder, tmp_path, stored, said):
    form = "NFD" if stored == "mixed" else stored
    root = question_folder({}, pictures=1)
    home = tmp_path / "größe" if stored == "mixed" else tmp_path / unicodedata.normalize(form, "größe")
    home.mkdir()
    (root / "images" / "0.png").rename(home / unicodedata.normalize(form, "ü.png"))
    name = unicodedata.normalize(said, "größe/ü.png")
    choices = {"choices": [unicodedata.normalize(said, "café"), "tea"], "answer": unicodedata.normalize(form, "café")}
    lines = [json.dumps(record(i, image=name, **choices)) for i in range(2)]
    (root / "test.jsonl").write_text("\n".join(lines))
    archive = root / "all.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in (root / "test.jsonl", *home.iterdir()):
            out.write(file, file.relative_to(root))
    for place in (root, archive):
        data = own(place, "test")
        assert {e.meta["answer_text"] for e in data.examples("test")} == {"café"}
        assert data.open()[0]._rows("test")[0].image.name == "größe/ü.png"


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
    with pytest.raises(CraftError, match=r"images/1.png: broken image"):
        own(root)
    said = own(root, on_bad="skip").describe()
    assert said["skipped"] == {"broken image": 1}
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


@pytest.mark.parametrize("module", [values, hub_rows])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_half_a_pair_of_bytes_is_no_text(question_folder):
    root = question_folder({"train": GOOD})
    line = b'{"image": "images/0.png", "question": "Is it?", "answer": "\xed\xa0\xbd\xed\xb8\x80"}\n'
    with (root / "train.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(CraftError, match=r"no JSON .*surrogates not allowed"):
        own(root)
    assert own(root, on_bad="skip").describe()["skipped"] == {"no JSON": 1}
