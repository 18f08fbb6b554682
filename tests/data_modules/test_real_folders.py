"""Genuine images of the benchmarks, where ``$CRAFT_REAL_DATA`` has them."""

import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from scipy.io import savemat

from craft_lightning.errors import CraftError
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import labels
from tests.data_modules.published_kit import opened, packed, texts, write_table

ROOT = os.environ.get("CRAFT_REAL_DATA")

pytestmark = [
    pytest.mark.usefixtures("stub_backbone"),
    pytest.mark.skipif(not ROOT, reason="CRAFT_REAL_DATA names no folder with real images"),
]


def real(dataset, stage, **options):
    data = VqaDataModule(dataset=dataset, source="folder", root=str(Path(str(ROOT)) / dataset), **options)
    data.setup(stage)
    return data


def test_eurosat():
    start = time.process_time()
    data = real("eurosat", "fit")
    assert time.process_time() - start < 5.0
    said = data.describe()
    assert said["splits"] == {"train": 1440, "val": 160}
    assert said["classes"] == 10
    assert len(said["held_out"]) == 2
    assert not {e.meta["answer_text"] for e in data.examples("train")} & set(said["held_out"])
    test = real("eurosat", "test").examples("test")
    assert len(test) == 800
    assert set(Counter(e.answer for e in test).values()) == {200}
    assert sum(not e.seen for e in test) == 160


@pytest.mark.parametrize(
    ("dataset", "classes", "held", "test"), [("plantvillage", 4, 1, 230), ("stanford_cars", 130, 26, 520)]
)
def test_class_sets(dataset, classes, held, test):
    data = real(dataset, "test")
    said = data.describe()
    assert (said["classes"], len(said["held_out"]), said["splits"]["test"]) == (classes, held, test)
    assert not said["skipped"]


def test_vqa_rad():
    data = real("vqa_rad", "fit")
    data.setup("test")
    said = data.describe()
    assert said["splits"]["train"] + said["splits"]["val"] == 1206
    assert said["splits"]["test"] == 289
    assert not any(e.options for e in data.examples("test"))
    plain = sum(not c.startswith("The answer to the question") for c in data.captions)
    assert plain > 0.3 * len(data.captions)


def test_iconqa_leaves_out_picture_choices():
    data = real("iconqa", "test")
    assert data.describe()["skipped"]["choices are images"] == 33
    kinds = Counter(bool(e.options) for e in data.examples("test"))
    assert kinds == {True: 10, False: 10}


def test_scienceqa_has_its_hint_and_choices():
    (example,) = real("scienceqa", "test").examples("test")
    assert sorted(example.options) == ["bilberry", "mushroom"]
    assert example.meta["answer_text"] == "mushroom"
    assert example.question.startswith("Context: Below is a food web")


# The same images, laid out as their authors do it or put into a table as on the hub.


def records(dataset, split):
    return [json.loads(line) for line in (Path(str(ROOT)) / dataset / f"{split}.jsonl").read_text().splitlines()]


def place(dataset, name, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(str(ROOT)) / dataset / name, path)


def test_vqa_rad_as_one_json_and_as_a_table(tmp_path, table_cache):
    made = []
    for split in ("train", "test"):
        for record in records("vqa_rad", split)[:60]:
            image = record["image"].rsplit("/", 1)[-1]
            place("vqa_rad", record["image"], tmp_path / "a" / "VQA_RAD Image Folder" / image)
            said = {key: record[key] for key in ("question", "answer", "phrase_type")}
            made.append({**said, "image_name": image, "qid": len(made)})
    (tmp_path / "a" / "VQA_RAD Dataset Public.json").write_text(json.dumps(made))
    data = opened("vqa_rad", packed(tmp_path / "a"), stages=("fit", "test"))
    counts = data.describe()["splits"]
    assert (counts["train"] + counts["val"], counts["test"]) == (60, 60)
    with pytest.raises(CraftError, match=r"60 train, 60 test; published: 1,793 train, 451 test"):
        data.prepare_data()
    kinds = {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    for split, rows in (("train", made[:60]), ("test", made[60:])):
        images = [(tmp_path / "a" / "VQA_RAD Image Folder" / row["image_name"]).read_bytes() for row in rows]
        columns = {"image": [{"bytes": image, "path": None} for image in images]}
        columns |= {field: [row[field] for row in rows] for field in ("question", "answer")}
        write_table(tmp_path / "b" / "data" / f"{split}-00000-of-00001.parquet", kinds, **columns)
    table = opened("vqa_rad", tmp_path / "b", "hub", ("test",))
    assert list(texts(table, "test").values()) == list(texts(data, "test").values())
    assert len(table.splits["test"].images) == len(data.splits["test"].images)
    assert (next(iter(table.test_dataloader())).pixel_values == next(iter(data.test_dataloader())).pixel_values).all()


def test_iconqa_as_in_the_authors_zip(tmp_path):
    wanted = {}
    for split in ("train", "test"):
        for record in records("iconqa", split):
            if record["ques_type"] == "choose_txt":
                folder = tmp_path / "iconqa_data" / "iconqa" / split / "choose_txt" / record["id"].rsplit("-", 1)[-1]
                place("iconqa", record["image"], folder / "image.png")
                raw = {"question": record["question"], "choices": record["choices"], "answer": record["answer_index"]}
                (folder / "data.json").write_text(json.dumps(raw))
                wanted[f"iconqa/{split}/{folder.name}"] = record["answer"]
    data = opened("iconqa", packed(tmp_path / "iconqa_data"), stages=("fit", "test"))
    found = {key: text for split in ("train", "val", "test") for key, text in texts(data, split).items()}
    assert found == wanted
    assert len(found) == 33
    assert data.describe()["skipped"] == {"hidden image": 1}


def test_cars_with_a_devkit_and_dogs_with_lists(tmp_path):
    root = Path(str(ROOT))
    boxes = [(f"bbox_{side}", "O") for side in ("x1", "y1", "x2", "y2")]
    for split, file in (("train", "cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = []
        for folder in sorted((root / "stanford_cars" / split).iterdir())[:6]:
            number = labels.LABELS["stanford_cars"].index(folder.name) + 1
            for path in sorted(folder.iterdir())[:2]:
                place("stanford_cars", path.relative_to(root / "stanford_cars"), tmp_path / f"cars_{split}" / path.name)
                rows.append((1, 1, 2, 2, number, path.name))
        savemat(tmp_path / file, {"annotations": np.array([rows], dtype=[*boxes, ("class", "O"), ("fname", "O")])})
    cars = opened("stanford_cars", tmp_path, stages=("test",))
    tested = sorted((root / "stanford_cars" / "test").iterdir())[:6]
    assert set(texts(cars, "test").values()) == {folder.name for folder in tested}
    assert len(cars.examples("test")) == 12
    found = sorted((root / "stanford_dogs" / "test").rglob("*.jpg"))
    names = [f"{path.parent.name}/{path.name}" for path in found]
    for name in names:
        place("stanford_dogs", f"test/{name}", tmp_path / "dogs" / "Images" / name)
    for split, part in (("train", names[::2]), ("test", names[1::2])):
        savemat(tmp_path / "dogs" / f"{split}_list.mat", {"file_list": np.array([[n] for n in part], dtype=object)})
    dogs = opened("stanford_dogs", tmp_path / "dogs", stages=("test",), holdout=0.0)
    assert set(texts(dogs, "test")) == {f"stanford_dogs/Images/{name}" for name in names[1::2]}
    assert not any(e.seen for e in dogs.examples("test"))


def test_scienceqa_problems(tmp_path):
    (record,) = records("scienceqa", "test")
    place("scienceqa", record["image"], tmp_path / "test" / "5" / "image.png")
    fields = {key: record[key] for key in ("question", "choices", "hint", "subject", "lecture", "solution")}
    problem = {**fields, "answer": record["answer_index"], "image": "image.png", "split": "test"}
    (tmp_path / "problems.json").write_text(json.dumps({"5": problem}))
    (example,) = opened("scienceqa", tmp_path, stages=("test",)).examples("test")
    (plain,) = real("scienceqa", "test").examples("test")
    assert (example.question, sorted(example.options)) == (plain.question, sorted(plain.options))
    assert example.meta["answer_text"] == "mushroom"


@pytest.mark.parametrize(
    ("dataset", "folder", "files"),
    [("eurosat", "EuroSAT_RGB", 20), ("plantvillage", "raw/color", 20), ("kvasir", "kvasir-dataset", 9)],
)
def test_class_folders_of_the_authors_zips(dataset, folder, files, tmp_path):
    home = Path(str(ROOT)) / dataset
    for split in ("train", "test"):
        for path in sorted((home / split).rglob("*.jpg"))[:: 1 if dataset == "kvasir" else 100][:files]:
            place(dataset, path.relative_to(home), tmp_path / "x" / folder / path.parent.name / path.name)
    data = opened(dataset, packed(tmp_path / "x"))
    source = data.open()[0]
    data.prepare_data()
    assert set(source.class_names) == {data.facts.class_words(p.name) for p in (tmp_path / "x" / folder).iterdir()}
    assert "published" in data.describe()["differs"][0]


def test_flowers_with_its_mat_files(tmp_path):
    found = sorted((Path(str(ROOT)) / "flowers102" / "test").rglob("*.jpg"))
    numbers = np.zeros((1, 8189), dtype=int) + 1
    for path in found:
        place("flowers102", path.relative_to(Path(str(ROOT)) / "flowers102"), tmp_path / "jpg" / path.name)
        numbers[0, int(path.stem[-5:]) - 1] = labels.LABELS["flowers102"].index(path.parent.name) + 1
    savemat(tmp_path / "imagelabels.mat", {"labels": numbers})
    test = np.array([[int(path.stem[-5:]) for path in found]])
    savemat(tmp_path / "setid.mat", {"trnid": np.array([[1]]), "valid": np.array([[2]]), "tstid": test})
    data = opened("flowers102", tmp_path, stages=("test",))
    assert texts(data, "test") == {f"flowers102/jpg/{path.name}": path.parent.name for path in found}
