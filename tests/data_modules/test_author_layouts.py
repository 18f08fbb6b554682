"""The authors' own files, recognised unpacked or as one zip archive."""

import json
import zipfile

import datasets
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from craft_lightning.errors import CraftError
from data_modules.datasets import labels
from data_modules.sources import tree as tree_module
from data_modules.sources.images import read_square
from tests.data_modules.published_kit import opened, packed, picture, stored, texts, write_pictures, write_table

pytestmark = pytest.mark.usefixtures("stub_backbone")


def parts(data):
    return {split: texts(data, split) for split in ("train", "val", "test") if split in data.splits}


def alike(dataset, root, **options):
    """Unpacked and packed are the same dataset, item by item and pixel by pixel."""
    stages = options.pop("stages", ("fit", "test"))
    folder, archive = (opened(dataset, place, stages=stages, **options) for place in (root, packed(root)))
    assert parts(folder) == parts(archive)
    for split in folder.splits:
        images = [d.splits[split].images for d in (folder, archive)]
        assert len(images[0]) == len(images[1])
        assert all((a == b).all() for a, b in zip(*images, strict=True))
    assert folder.describe()["data_hash"] == archive.describe()["data_hash"]
    return folder


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


# Flowers-102


def flowers(root):
    write_pictures(root, [f"jpg/image_{i:05d}.jpg" for i in range(1, 9)])
    savemat(root / "imagelabels.mat", {"labels": np.array([[102, 102, 1, 1, 52, 52, 7, 7]])})
    splits = {"trnid": np.array([[1, 3, 5]]), "valid": np.array([[2]]), "tstid": np.array([[4, 6, 7, 8]])}
    savemat(root / "setid.mat", splits)
    return root


def test_flowers102_with_its_official_split(tmp_path):
    data = alike("flowers102", flowers(tmp_path / "102flowers"), holdout=0.0)
    name = {n: labels.LABELS["flowers102"][n - 1] for n in (1, 7, 52, 102)}
    key = "flowers102/jpg/image_0000{}.jpg".format
    assert parts(data) == {
        "train": {key(1): name[102], key(3): name[1], key(5): name[52]},
        "val": {key(2): name[102]},
        "test": {key(4): name[1], key(6): name[52], key(7): name[7], key(8): name[7]},
    }
    assert data.describe()["layout"] == "Flowers-102 .mat files"
    assert [e.seen for e in data.examples("test")] == [True, True, False, False]
    with pytest.raises(CraftError, match=r"3 train, 1 val, 4 test; published: 1,020 train, 1,020 val, 6,149 test"):
        data.prepare_data()


def test_flowers102_without_one_of_its_lists(tmp_path):
    flowers(tmp_path)
    (tmp_path / "setid.mat").unlink()
    with pytest.raises(CraftError, match=r"has imagelabels.mat but no setid.mat; .*robots.ox.ac.uk"):
        opened("flowers102", tmp_path, stages=("test",))
    newer = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(128)
    whole = (tmp_path / "imagelabels.mat").read_bytes()
    cut = [(whole[:length], "") for length in (0, 60, 127, len(whole) - 9)]
    for content, why in ((b"MATLAB 5.0 nonsense" * 20, ""), (newer, "HDF reader"), *cut):
        (tmp_path / "setid.mat").write_bytes(content)
        with pytest.raises(CraftError, match=rf"setid.mat is no MATLAB file that is read \(.*{why}"):
            opened("flowers102", tmp_path, stages=("test",))


# Stanford Cars


def annotations(path, rows, labelled=True):
    boxes = [(f"bbox_{side}", "O") for side in ("x1", "y1", "x2", "y2")]
    kinds = [*boxes, *([("class", "O")] if labelled else []), ("fname", "O")]
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [(1, 1, 6, 5, *([number] if labelled else []), file) for file, number in rows]
    savemat(path, {"annotations": np.array([made], dtype=kinds)})


def cars(root, train="cars_train", test="cars_test"):
    write_pictures(root, [f"{train}/{i:05d}.jpg" for i in (1, 2, 3)])
    write_pictures(root, [f"{test}/{i:05d}.jpg" for i in (1, 2)], size=(20, 8))
    annotations(root / "devkit" / "cars_train_annos.mat", [("00001.jpg", 14), ("00002.jpg", 145), ("00003.jpg", 196)])
    annotations(root / "devkit" / "cars_test_annos.mat", [("00001.jpg", 0), ("00002.jpg", 0)], labelled=False)
    annotations(root / "cars_test_annos_withlabels.mat", [("00001.jpg", 196), ("00002.jpg", 14)])
    return root


def test_stanford_cars_with_its_devkit(tmp_path):
    data = alike("stanford_cars", cars(tmp_path / "stanford_cars"), stages=("test",))
    name = {n: labels.LABELS["stanford_cars"][n - 1] for n in (14, 145, 196)}
    test = {f"stanford_cars/cars_test/0000{i}.jpg": name[n] for i, n in ((1, 196), (2, 14))}
    assert parts(data) == {"test": test}
    assert list(data.open()[0].class_names) == list(name.values())
    assert data.describe()["cropped"] is False
    nested = cars(tmp_path / "kaggle", "cars_train/cars_train", "cars_test/cars_test")
    again = opened("stanford_cars", nested, stages=("test",))
    assert list(texts(again, "test").values()) == [name[196], name[14]]


def test_stanford_cars_cut_to_their_boxes_are_told(tmp_path):
    root = cars(tmp_path)
    for folder in ("cars_train", "cars_test"):
        for path in (root / folder).iterdir():
            path.write_bytes(picture(size=(5, 4)))
    assert opened("stanford_cars", root, stages=("test",)).describe()["cropped"] is True


def test_stanford_cars_need_the_labels_of_the_test_list(tmp_path):
    root = cars(tmp_path)
    (root / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(
        CraftError, match=r"cars_test_annos.mat has no labels; put cars_test_annos_withlabels.mat beside"
    ):
        opened("stanford_cars", root, stages=("test",))


# Stanford Dogs

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02116738-African_hunting_dog")


def dogs(root, each=10):
    files = [f"{breed}/{breed[:9]}_{i}.jpg" for breed in BREEDS for i in range(each)]
    return write_pictures(root, [f"Images/{file}" for file in files]), files


def listed(path, files):
    path.parent.mkdir(exist_ok=True)
    savemat(path, {"file_list": np.array([[file] for file in files], dtype=object)})


def test_stanford_dogs_lists_give_the_official_split_back(tmp_path):
    root, files = dogs(tmp_path / "dogs")
    listed(root / "lists" / "train_list.mat", files[::2])
    listed(root / "lists" / "test_list.mat", files[1::2])
    data = alike("stanford_dogs", root, holdout=0.0)
    assert set(texts(data, "test")) == {f"stanford_dogs/Images/{file}" for file in files[1::2]}
    assert set(texts(data, "test").values()) == {"Chihuahua", "Japanese spaniel", "African hunting dog"}
    assert set(texts(data, "train")) | set(texts(data, "val")) == {f"stanford_dogs/Images/{f}" for f in files[::2]}
    (root / "lists" / "test_list.mat").unlink()
    merged = opened("stanford_dogs", root, stages=("fit", "test"), holdout=0.0)
    assert merged.describe()["layout"] == "class folders"
    assert merged.describe()["splits"] == {"train": 21, "val": 3, "test": 6}


@pytest.mark.usefixtures("table_cache")
def test_the_lists_part_a_table_that_merged_the_splits(tmp_path):
    files = [f"{breed}/{breed[:9]}_{i}.jpg" for breed in BREEDS for i in range(4)]
    columns = {"image": [stored(i, file) for i, file in enumerate(files)], "label": [i // 4 for i in range(12)]}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(BREEDS))}
    write_table(tmp_path / "data" / "full-00000-of-00001.parquet", kinds, **columns)
    merged = opened("stanford_dogs", tmp_path, "hub", ("test",), holdout=0.0)
    assert merged.open()[0].found.count() == {"all": 12}
    listed(tmp_path / "lists" / "train_list.mat", files[::2])
    listed(tmp_path / "lists" / "test_list.mat", files[1::2])
    parted = opened("stanford_dogs", tmp_path, "hub", ("test",), holdout=0.0)
    assert parted.open()[0].found.count() == {"train": 6, "test": 6}
    assert {key.rsplit("/", 1)[1] for key in texts(parted, "test")} == {file.split("/")[1] for file in files[1::2]}
    unnamed = {**columns, "image": [stored(i) for i in range(12)]}
    write_table(tmp_path / "data" / "full-00000-of-00001.parquet", kinds, **unnamed)
    with pytest.raises(CraftError, match="kept no names of files"):
        opened("stanford_dogs", tmp_path, "hub", ("test",))


# class folders at any depth


@pytest.mark.parametrize("depth", ["", "2750/", "EuroSAT_RGB/2750/"])
def test_eurosat_folders_are_found_at_any_depth_and_cut_alike(tmp_path, depth):
    names = [f"{name}/{name}_{i}.jpg" for name in labels.LABELS["eurosat"][:3] for i in range(10)]
    data = alike("eurosat", write_pictures(tmp_path / "x", [depth + name for name in names]), holdout=0.0)
    assert data.describe()["splits"] == {"train": 21, "val": 3, "test": 6}
    flat = opened("eurosat", write_pictures(tmp_path / "flat", names), stages=("fit", "test"), holdout=0.0)
    assert parts(data) == parts(flat)


def test_incomplete_class_folders_are_told_not_refused(tmp_path, caplog):
    names = [f"{name}/{i}.jpg" for name in labels.LABELS["kvasir"] for i in range(4)]
    data = opened("kvasir", write_pictures(tmp_path, names))
    data.prepare_data()
    assert data.describe()["differs"] == ["32; published: 4,000"]
    assert "32; published: 4,000" in caplog.text


def test_two_kvasirs_in_one_folder_are_not_mixed(tmp_path):
    for version in ("kvasir-dataset", "kvasir-dataset-v2"):
        write_pictures(tmp_path, [f"{version}/{name}/{i}.jpg" for name in labels.LABELS["kvasir"] for i in range(3)])
    with pytest.raises(
        CraftError, match=r"kvasir-dataset and kvasir-dataset-v2; name one: --data.root .*/kvasir-dataset$"
    ):
        opened("kvasir", tmp_path, stages=("test",))
    one = opened("kvasir", tmp_path / "kvasir-dataset", stages=("test",))
    assert {key.split("/")[1] for key in texts(one, "test")} <= set(labels.LABELS["kvasir"])


def test_relatives_of_a_dataset_are_named(tmp_path):
    write_pictures(tmp_path, ["images/0.jpg", "masks/0.jpg"])
    with pytest.raises(CraftError, match="Kvasir has no class 'images'; this is Kvasir-SEG"):
        opened("kvasir", tmp_path, stages=("test",))
    names = ["Corn___Common_rust", "Cherry___healthy", "Background_without_leaves"]
    write_pictures(tmp_path / "m", [f"{name}/{i}.jpg" for name in names for i in range(4)])
    with pytest.raises(CraftError, match=r"'Background_without_leaves'; this is the re-release on Mendeley Data"):
        opened("plantvillage", tmp_path / "m", stages=("test",))
    data = opened("plantvillage", tmp_path / "m", stages=("test",), on_bad="skip", holdout=0.0)
    assert set(texts(data, "test").values()) == {"corn common rust", "cherry healthy"}


def test_plantvillage_takes_the_colour_pictures_of_the_three_variants(tmp_path):
    shots = {"color": "FREC_Scab {}.JPG", "grayscale": "FREC_Scab {}.JPG", "segmented": "FREC_Scab {}_final_masked.jpg"}
    for variant, shot in shots.items():
        names = [shot.format(3000 + i) for i in range(40)]
        write_pictures(tmp_path / "raw" / variant / "Apple___Apple_scab", names)
        write_pictures(tmp_path / "raw" / variant / "Grape___healthy", [shot.format(1)])
    data = opened("plantvillage", tmp_path, stages=("test",), holdout=0.0)
    assert data.describe()["variant"] == "color"
    assert data.describe()["root"].endswith("raw/color")
    blocks = {key.split()[-1][:3] for key in texts(data, "test")}
    assert len(texts(data, "test")) == 10 * len(blocks)
    alone = opened("plantvillage", tmp_path / "raw" / "segmented", stages=("test",), holdout=0.0)
    assert alone.describe()["variant"] == "segmented"
    assert {key.split()[-1][:3] for key in texts(alone, "test")} == blocks


# question sets


def iconqa(root, splits=("train", "val", "test")):
    for split in splits:
        for pid, choices, answer in (("7", ["1,000", "two", "3"], 0), ("12", ["yes", "no"], 1)):
            folder = root / "iconqa_data" / "iconqa" / split / "choose_txt" / pid
            record = {"question": f"What of {pid}?", "choices": choices, "answer": answer, "ques_type": "choose_txt"}
            write_json(folder / "data.json", {**record, "grade": "grade1", "label": "S2"})
            transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
            transparent.save(folder / "image.png")
        other = root / "iconqa_data" / "iconqa" / split / "choose_img" / "8"
        record = {"question": "Which?", "choices": ["choice_0.png", "choice_1.png"], "answer": 1}
        write_json(other / "data.json", record)
    return root


def test_iconqa_text_choices_of_the_authors_zip(tmp_path):
    data = alike("iconqa", iconqa(tmp_path / "iconqa_data"))
    assert parts(data)["train"] == {"iconqa/train/12": "no", "iconqa/train/7": "1,000"}
    assert data.describe()["skipped"] == {}
    assert (data.splits["test"].images == 255).all(), "what is transparent is white paper"
    with pytest.raises(CraftError, match=r"2 train, 2 val, 2 test; published: 18,946 train, 6,316 val"):
        data.prepare_data()
    examples = iconqa(tmp_path / "site", splits=("",))
    assert opened("iconqa", examples).open()[0].found.count() == {"all": 2}


def test_ocrvqa_with_gone_pictures_and_gifs_under_jpg(tmp_path):
    covers = {
        f"B{i:03d}": {
            "imageURL": f"http://x/{i}.jpg",
            "questions": ["Who wrote this book?", "What is the title of this book?"],
            "answers": [f"Ann {i}", f"Sea, {i}"],
            "split": 1 + i % 3,
        }
        for i in range(9)
    }
    root = tmp_path / "OCR-VQA"
    write_json(root / "dataset.json", covers)
    write_pictures(root, [f"images/B00{i}.jpg" for i in range(7)])
    write_pictures(root, ["images/B007.jpg"], kind="GIF")
    data = alike("ocrvqa", root)
    assert data.describe()["splits"] == {"train": 6, "val": 6, "test": 4}
    assert texts(data, "test")["ocrvqa/test/B002/1"] == "Sea, 2"
    assert "ocrvqa/train/B003/0" in texts(data, "train")
    assert "ocrvqa/val/B004/0" in texts(data, "val")
    assert data.describe()["skipped"] == {"question without an image": 2}
    with pytest.raises(CraftError, match=r"3 train, 3 val, 3 test; published: 166,022 train"):
        data.prepare_data()
    for cover in covers.values():
        del cover["split"]
    write_json(root / "dataset.json", covers)
    assert opened("ocrvqa", root, stages=("fit", "test")).describe()["pictures"] == {"train": 5, "val": 1, "test": 2}


def test_scienceqa_problems(tmp_path):
    root = tmp_path / "scienceqa"
    problems = {
        str(i): {
            "question": f"Which is {i}?",
            "choices": ["moss", "fox"],
            "answer": i % 2,
            "hint": "Look." if i else "",
            "image": "image.png" if i != 2 else None,
            "split": ("train", "val", "test")[i % 3],
        }
        for i in range(9)
    }
    write_json(root / "data" / "problems.json", problems)
    write_json(root / "data" / "pid_splits.json", {"minitest": ["2"]})
    names = [f"images/{p['split']}/{pid}/image.png" for pid, p in problems.items() if p["image"]]
    data = alike("scienceqa", write_pictures(root, names, kind="PNG"))
    assert parts(data)["test"] == {"scienceqa/test/5": "fox", "scienceqa/test/8": "moss"}
    assert data.examples("test")[0].question == "Context: Look.\nWhich is 5?"
    assert data.describe()["skipped"] == {"question without an image": 1}


@pytest.mark.parametrize(
    ("dataset", "file"),
    [("vqa_rad", "VQA_RAD Dataset Public.json"), ("scienceqa", "problems.json"), ("ocrvqa", "dataset.json")],
)
@pytest.mark.parametrize("value", [[1], {"a": [1]}, "text", 7, None])
def test_lists_of_another_shape_are_one_line(tmp_path, dataset, file, value):
    write_json(tmp_path / file, value)
    with pytest.raises(CraftError, match=rf"{file}: entry \w+ is an? \w+, no JSON object$"):
        opened(dataset, tmp_path, stages=("test",))


def test_questions_of_no_split_are_counted(tmp_path):
    covers = {f"B{i}": {"questions": ["Who?"], "answers": ["Ann"], "split": (1, 3, None, 9)[i % 4]} for i in range(8)}
    write_json(tmp_path / "o" / "dataset.json", covers)
    write_pictures(tmp_path / "o", [f"images/B{i}.jpg" for i in range(8)])
    said = opened("ocrvqa", tmp_path / "o", stages=("test",)).describe()
    assert (said["splits"], said["skipped"]) == ({"test": 2}, {"cover of no split": 4})
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "image": "image.png"}
    write_json(tmp_path / "s" / "problems.json", {"1": {**problem, "split": "test"}, "2": problem})
    write_pictures(tmp_path / "s", ["test/1/image.png", "test/2/image.png"], kind="PNG")
    said = opened("scienceqa", tmp_path / "s", stages=("test",)).describe()
    assert (said["splits"], said["skipped"]) == ({"test": 1}, {"question of no split": 1})
    for name in ("test/choose_txt/1", "choose_txt/2"):
        write_json(tmp_path / "i" / name / "data.json", {**problem, "answer": 1} if "test" in name else [1])
        write_pictures(tmp_path / "i" / name, ["image.png"], kind="PNG")
    said = opened("iconqa", tmp_path / "i", stages=("test",)).describe()
    assert (said["splits"], said["skipped"]) == ({"test": 1}, {"question of no split": 1})


def vqa_rad_json(root):
    rows = [
        ("freeform", "synpic1.jpg", "Is there  a mass?", "Yes "),
        ("para", "synpic1.jpg", "How many ribs?", 5),
        ("freeform", "synpic2.jpg", "Where is it?", " left lung"),
        ("test_freeform", "synpic1.jpg", "What organ?", "Brain"),
        ("test_para", "synpic3.jpg", "Is it?", "no"),
        ("para", "gone.jpg", "Is it?", "no"),
        ("para", "synpic1.jpg", "Is it?", None),
        ("para", "synpic1.jpg", None, "no"),
    ]
    made = [
        {"qid": i, "phrase_type": kind, "image_name": image, "question": q, "answer": a, "answer_type": "CLOSED "}
        for i, (kind, image, q, a) in enumerate(rows)
    ]
    write_json(root / "VQA_RAD Dataset Public.json", made)
    return write_pictures(root, [f"VQA_RAD Image Folder/synpic{i}.jpg" for i in (1, 2, 3)])


def test_vqa_rad_s_one_list(tmp_path):
    data = alike("vqa_rad", vqa_rad_json(tmp_path / "rad"))
    assert parts(data)["test"] == {"vqa_rad/test/3": "Brain", "vqa_rad/test/4": "no"}
    assert set(parts(data)["train"].values()) == {"Yes", "5", "left lung"}
    assert data.examples("train")[0].question == "Is there a mass?"
    assert data.describe()["skipped"] == {"question without an image": 1, "missing field": 2}
    apart = opened("vqa_rad", tmp_path / "rad", stages=("fit",), apart=True)
    assert list(texts(apart, "train").values()) == ["left lung"]
    with pytest.raises(CraftError, match=r"6 train, 2 test; published: 1,793 train, 451 test or 1,797 train, 451 test"):
        data.prepare_data()


# archives


def test_archives_are_neither_trusted_nor_unpacked(tmp_path, monkeypatch):
    archive = packed(vqa_rad_json(tmp_path / "rad"))
    monkeypatch.setattr(tree_module, "MAX_BYTES", 100)
    with pytest.raises(CraftError, match=r"Public.json unpacks to [\d,]+ bytes, more than 100"):
        opened("vqa_rad", archive, stages=("test",))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rad", "rad.zip"]
    (tmp_path / "no.zip").write_bytes(b"PK nothing")
    with pytest.raises(CraftError, match=r"no.zip is neither a folder, a .jsonl file nor a zip archive"):
        opened("vqa_rad", tmp_path / "no.zip", stages=("test",))


def test_a_broken_picture_in_an_archive_is_named(tmp_path):
    root = write_pictures(tmp_path / "e", [f"{c}/{i}.jpg" for c in ("River", "Forest") for i in range(6)])
    (root / "River" / "3.jpg").write_bytes(b"nothing")
    archive = packed(root)
    with pytest.raises(CraftError, match=r"e.zip: e/River/3.jpg: broken image"):
        opened("eurosat", archive, stages=("fit", "test"), holdout=0.0)
    with zipfile.ZipFile(archive) as held:
        assert len(held.namelist()) > 6


def damaged(archive, member, at):
    """Turn a byte of a member round; its compressed data starts behind a header of 30 bytes and its name."""
    with zipfile.ZipFile(archive) as held:
        start = held.getinfo(member).header_offset + 30 + len(member.encode())
    content = bytearray(archive.read_bytes())
    content[start + at] ^= 0xFF
    archive.write_bytes(content)


@pytest.mark.parametrize(("method", "at"), [(zipfile.ZIP_STORED, 40), (zipfile.ZIP_DEFLATED, 0)])
def test_a_damaged_member_of_an_archive_is_a_broken_picture(tmp_path, method, at):
    file = write_pictures(tmp_path / "e", ["River/0.jpg"]) / "River" / "0.jpg"
    archive = tmp_path / "e.zip"
    with zipfile.ZipFile(archive, "w", method) as out:
        out.write(file, "0.jpg")
    damaged(archive, "0.jpg", at)
    with pytest.raises(CraftError, match=r"e.zip: 0.jpg: broken image \((Bad CRC-32|Error -3)"):
        read_square(tree_module.open_tree(archive).image("0.jpg"), 8)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [(8, 1, "password required"), (10, 97, "compression method is not supported")],
    ids=["locked", "packed"],
)
def test_a_member_that_python_cannot_unpack_is_a_broken_picture(tmp_path, at, value, why):
    file = write_pictures(tmp_path / "e", ["River/0.jpg"]) / "River" / "0.jpg"
    archive = tmp_path / "e.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.write(file, "0.jpg")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + at] = value  # of the directory's entry: its flags, its method
    archive.write_bytes(content)
    with pytest.raises(CraftError, match=rf"e.zip: 0.jpg: broken image \(.*{why}"):
        read_square(tree_module.open_tree(archive).image("0.jpg"), 8)


def test_a_member_that_is_shorter_than_its_archive_says_is_a_broken_picture(tmp_path):
    file = write_pictures(tmp_path / "e", ["River/0.jpg"]) / "River" / "0.jpg"
    archive = tmp_path / "e.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.write(file, "0.jpg")
    content = bytearray(archive.read_bytes())
    sizes = content.index(b"PK\1\2") + 20  # of the directory's entry: packed and unpacked
    content[sizes : sizes + 8] = 2 * (file.stat().st_size + 10_000).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(CraftError, match=r"e.zip: 0.jpg: broken image \("):
        read_square(tree_module.open_tree(archive).image("0.jpg"), 8)


def test_workers_read_an_archive_of_their_own(tmp_path, monkeypatch):
    from data_modules.sources import records

    archive = packed(write_pictures(tmp_path / "e", [f"{c}/{i}.jpg" for c in ("River", "Forest") for i in range(10)]))
    plain = opened("eurosat", archive, stages=("test",), holdout=0.0)
    monkeypatch.setattr(records, "CACHE_BYTES", 0)
    lazy = opened("eurosat", archive, stages=("test",), holdout=0.0, num_workers=1, eval_batch_size=2)
    first = next(iter(plain.test_dataloader())).pixel_values
    assert (next(iter(lazy.test_dataloader())).pixel_values == first[:2]).all()
