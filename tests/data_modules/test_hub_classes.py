"""Labelled tables of the hub with their real columns and types: names, numbers, splits, and what is refused."""

import errno

import datasets
import pytest
from datasets import ClassLabel, Image, List, Value

from craft_lightning.errors import CraftError
from craft_lightning.text import multiple_choice as mcq
from data_modules.datasets import DATASETS, labels
from tests.data_modules.published_kit import opened, stored, texts, write_table
from tests.data_modules.test_data_module import Recorder, trainer
from tests.data_modules.test_folder_source import png_header

pytestmark = pytest.mark.usefixtures("stub_backbone", "table_cache")

BLANCHON = (
    *("Annual Crop", "Forest", "Herbaceous Vegetation", "Highway", "Industrial Buildings"),
    *("Pasture", "Permanent Crop", "Residential Buildings", "River", "SeaLake"),
)


def eurosat(root, names=BLANCHON, splits=("train", "validation", "test"), each=1, **more):
    kinds = {"image": Image(), "label": ClassLabel(names=list(names)), "filename": Value("string")}
    for s, split in enumerate(splits):
        columns = {
            "image": [stored(100 * s + i) for i in range(10 * each)],
            "label": [i % 10 for i in range(10 * each)],
            "filename": [f"{names[i % 10]}_{i}.jpg" for i in range(10 * each)],
        }
        write_table(root / "data" / f"{split}-00000-of-00001.parquet", kinds, **{**columns, **more})
    return root


def test_labels_are_read_by_name_whatever_their_order(tmp_path):
    straight = opened("eurosat", eurosat(tmp_path / "a"), "hub", ("test",))
    turned = opened("eurosat", eurosat(tmp_path / "b", BLANCHON[::-1]), "hub", ("test",))
    words = [labels.eurosat_words(name) for name in labels.LABELS["eurosat"]]
    assert list(straight.open()[0].class_names) == words
    assert list(texts(straight, "test").values()) == words
    assert list(texts(turned, "test").values()) == words[::-1]
    assert "eurosat/test/000004/Industrial Buildings_4.jpg" in texts(straight, "test")
    clip = ["annual crop land", "forest", "brushland or shrubland", "highway or road", *BLANCHON[4:9], "lake or sea"]
    assert list(texts(opened("eurosat", eurosat(tmp_path / "c", clip), "hub", ("test",)), "test").values()) == words


def test_official_splits_hold_out_and_stored_items_are_those_of_every_source(tmp_path):
    data = opened("eurosat", eurosat(tmp_path), "hub", ("fit", "test"))
    said = data.describe()
    assert said["splits"] == {"train": 8, "val": 8, "test": 10}
    names = data.open()[0].class_names
    assert said["held_out"] == [names[i] for i in sorted(mcq.hold_out(names, 0.2, "eurosat"))]
    assert {len(e.options) for e in data.examples("test")} == {4}
    assert (said["hub"], said["layout"], said["note"]) == ("blanchon/EuroSAT_RGB", "hub table", "a mirror's own split")
    batch = next(iter(data.train_dataloader()))
    assert batch.pixel_values.shape == (1, 3, 16, 16)


def test_counts_are_compared_with_the_published_ones(tmp_path):
    data = opened("eurosat", eurosat(tmp_path), "hub")
    with pytest.raises(CraftError, match=r"10 train, 10 val, 10 test; published: 16,200 train, 5,400 val") as error:
        data.prepare_data()
    assert "--data.partial true" in str(error.value)
    assert "\n" not in str(error.value)
    going_on = opened("eurosat", tmp_path, "hub", partial=True)
    going_on.prepare_data()
    assert "10 train" in going_on.describe()["differs"][0]


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("eurosat", {"train": 16_200, "val": 5_400, "test": 5_400}, None),
        ("eurosat", {"train": 20_000, "test": 7_000}, None),
        ("eurosat", {"train": 20_000, "test": 6_000}, "20,000 train, 6,000 test; published"),
        ("stanford_cars", {"train": 8_144, "test": 8_041}, None),
        ("stanford_dogs", {"all": 20_580}, None),
        ("stanford_dogs", {"train": 12_000, "test": 8_579}, "8,579 test"),
        ("kvasir", {"all": 4_000}, None),
        ("kvasir", {"all": 8_000}, "this is Kvasir version 2, which contains version 1"),
        ("plantvillage", {"all": 54_305}, None),
        ("plantvillage", {"all": 87_867}, "New Plant Diseases"),
        ("iconqa", {"val": 21_488, "test": 21_489}, None),
        ("flowers102", {"train": 7_169, "test": 1_020}, None),
        ("ocrvqa", {"train": 166_022, "val": 20_731, "test": 20_796}, None),
        ("scienceqa", {"val": 2_097, "test": 2_017}, None),
        ("vqa_rad", {"train": 1_797, "test": 451}, None),
        ("vqa_rad", {"train": 1_790, "test": 451}, "1,790 train"),
    ],
)
def test_published_counts(name, found, said):
    differs = DATASETS[name].differences(found)
    assert not differs if said is None else said in differs[0]


def test_missing_classes_are_named(tmp_path):
    few = eurosat(tmp_path, label=[i % 9 for i in range(10)])
    with pytest.raises(CraftError, match=r"no image of 1 of 10 classes, first 'sea lake'"):
        opened("eurosat", few, "hub").prepare_data()


def test_a_strange_class_is_named_or_skipped_and_counted(tmp_path):
    root = eurosat(tmp_path, ["AnnualCrop", "Forrest", *BLANCHON[2:]])
    with pytest.raises(CraftError, match=r"1 images: EuroSAT has no class 'Forrest'; did you mean 'Forest'\?"):
        opened("eurosat", root, "hub", ("test",))
    said = opened("eurosat", root, "hub", ("test",), on_bad="skip").describe()
    assert (said["splits"]["test"], said["skipped"]["unknown class"]) == (9, 3)


@pytest.mark.parametrize("kind", ["names", "numbers", "words"])
def test_pictures_without_a_label_are_told_and_none_is_called_nan(tmp_path, kind):
    names = list(labels.LABELS["stanford_cars"])
    column, said = {
        "names": (ClassLabel(names=names), [None, -1, 3, 195]),
        "numbers": (Value("float32"), [None, float("nan"), 3, 195]),
        "words": (Value("string"), [None, " ", names[3], names[195]]),
    }[kind]
    for split in ("train", "test"):
        columns = {"image": [stored(i) for i in range(4)], "label": said}
        write_table(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet", {"image": Image(), "label": column}, **columns
        )
    with pytest.raises(CraftError, match="2 images without a label"):
        opened("stanford_cars", tmp_path, "hub", ("test",))
    data = opened("stanford_cars", tmp_path, "hub", ("test",), on_bad="skip", holdout=0.0)
    assert list(texts(data, "test").values()) == [names[3], names[195]]
    assert data.describe()["skipped"] == {"image without a label": 4}


def test_several_labels_of_a_picture_are_one_line(tmp_path):
    kinds = {"image": Image(), "label": List(Value("string"))}
    names = list(labels.LABELS["stanford_cars"])
    write_table(tmp_path / "data" / "test-0.parquet", kinds, image=[stored(0)], label=[names[:1]])
    with pytest.raises(CraftError, match=r"column 'label' holds \['.*, and an image has one label"):
        opened("stanford_cars", tmp_path, "hub", ("test",))


def test_official_numbers_as_names_in_the_order_of_the_alphabet(tmp_path):
    names = sorted(str(i) for i in range(1, 103))
    kinds = {"image": Image(), "label": ClassLabel(names=names)}
    wanted = ("1", "2", "10", "51", "102")
    columns = {"image": [stored(i) for i in range(5)], "label": [names.index(n) for n in wanted]}
    for split in ("train", "test"):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001-abc.parquet", kinds, **columns)
    data = opened("flowers102", tmp_path, "hub", ("test",))
    assert list(texts(data, "test").values()) == [labels.LABELS["flowers102"][int(n) - 1] for n in wanted]


def test_numbers_without_names_need_a_checked_order(tmp_path):
    kinds = {"image": Image(), "label": Value("int64")}
    columns = {"image": [stored(i) for i in range(4)], "label": [0, 7, 144, 195]}
    for split in ("train", "test", "gaussian_noise"):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", kinds, **columns)
    data = opened("stanford_cars", tmp_path, "hub", ("test",))
    assert list(texts(data, "test").values()) == [labels.LABELS["stanford_cars"][i] for i in (0, 7, 144, 195)]
    with pytest.raises(CraftError, match=r"labels without names.*try --data.hub_id Multimodal-Fatima/"):
        opened("stanford_cars", tmp_path, "hub", ("test",), hub_id="Donghyun99/Stanford-Cars")


def test_a_merged_table_with_another_picture_column_is_cut(tmp_path):
    kinds = {"pixel_values": Image(), "label": ClassLabel(names=[n.lower() for n in labels.LABELS["stanford_dogs"]])}
    columns = {"pixel_values": [stored(i) for i in range(30)], "label": [i % 3 for i in range(30)]}
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", kinds, **columns)
    data = opened("stanford_dogs", tmp_path, "hub", ("fit", "test"), hub_id="amaye15/stanford-dogs", holdout=0.0)
    assert data.describe()["splits"] == {"train": 21, "val": 3, "test": 6}
    keys = [set(texts(data, split)) for split in ("train", "val", "test")]
    assert len(set.union(*keys)) == 30
    with pytest.raises(CraftError, match=r"no column 'image' .*; it has pixel_values .*try --data.hub_id amaye15"):
        opened("stanford_dogs", tmp_path, "hub", ("test",))


def test_shots_of_one_leaf_stay_together(tmp_path):
    names = [f"{i:08x}-0000-0000-0000-000000000000___FREC_Scab {3000 + i}.JPG" for i in range(60)]
    kinds = {"image": Image(), "label": ClassLabel(names=list(labels.LABELS["plantvillage"]))}
    columns = {"image": [stored(i, name) for i, name in enumerate(names)], "label": [0] * 60}
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", kinds, **columns)
    with pytest.raises(CraftError, match="it shows one class, 'apple scab'; a question needs two or more"):
        opened("plantvillage", tmp_path, "hub", ("test",))
    columns["image"].append(stored(60, "x___Rust 9000.JPG"))
    columns["label"].append(1)
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", kinds, **columns)
    data = opened("plantvillage", tmp_path, "hub", ("fit", "test"), holdout=0.0)
    scab = {s: [key for key, text in texts(data, s).items() if text == "apple scab"] for s in ("train", "val", "test")}
    blocks = {s: {key.split(" ")[-1][:3] for key in keys} for s, keys in scab.items()}
    assert blocks["test"]
    assert blocks["val"]
    assert sum(map(len, blocks.values())) == len(set.union(*blocks.values())) == 6


def test_a_column_of_paths_is_no_picture(tmp_path):
    kinds = {"text": Value("string")}
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", kinds, text=["a.jpg"])
    with pytest.raises(CraftError, match=r"no column 'image' of PlantVillage; it has text \(string\); try"):
        opened("plantvillage", tmp_path, "hub", ("test",))
    kinds = {"image": Value("string"), "label": Value("int64")}
    write_table(tmp_path / "b" / "data" / "train-00000-of-00001.parquet", kinds, image=["a.jpg"], label=[0])
    with pytest.raises(CraftError, match="no images in 'image' of PlantVillage"):
        opened("plantvillage", tmp_path / "b", "hub", ("test",))


def test_bombs_and_broken_pictures_in_a_table_are_refused(tmp_path):
    images = [stored(i) for i in range(10)]
    images[3] = {"bytes": png_header(20_000, 20_000), "path": None}
    images[5] = {"bytes": b"nothing", "path": None}
    root = eurosat(tmp_path, splits=("train", "test"), image=images)
    with pytest.raises(CraftError, match=r"blanchon/EuroSAT_RGB in .*, test row 3: .*pixels"):
        opened("eurosat", root, "hub", ("test",))
    said = opened("eurosat", root, "hub", ("test",), on_bad="skip").describe()
    assert (said["splits"]["test"], said["skipped"]["broken image"]) == (8, 2)


def test_converted_branches_and_several_tables(tmp_path):
    made = eurosat(tmp_path / "a", splits=("train", "test"))
    for split in ("train", "test"):
        (tmp_path / "b" / "default" / split).mkdir(parents=True)
        (made / "data" / f"{split}-00000-of-00001.parquet").rename(tmp_path / "b" / "default" / split / "0000.parquet")
    data = opened("eurosat", tmp_path / "b", "hub", ("fit", "test"))
    assert data.describe()["splits"] == {"train": 8, "val": 0, "test": 10}
    (tmp_path / "b" / "other").mkdir()
    (tmp_path / "b" / "default" / "train").rename(tmp_path / "b" / "other" / "train")
    with pytest.raises(CraftError, match=r"several tables \(default, other\)"):
        opened("eurosat", tmp_path / "b", "hub", ("test",))
    with pytest.raises(CraftError, match="holds no parquet files of train, validation or test"):
        opened("eurosat", tmp_path / "a", "hub", ("test",))


def test_training_begins_with_the_check(tmp_path):
    data = opened("eurosat", eurosat(tmp_path), "hub")
    with pytest.raises(CraftError, match="10 train, 10 val, 10 test; published"):
        trainer(tmp_path, 1).fit(Recorder(), datamodule=data)
    whole = opened("eurosat", tmp_path, "hub", partial=True)
    trainer(tmp_path, 1).fit(recorder := Recorder(), datamodule=whole)
    assert len(recorder.seen) == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("Not enough disk space. Needed: 9.35 GB")],
    ids=["full", "too small"],
)
def test_no_space_to_unpack_tables(tmp_path, monkeypatch, error):
    def load_dataset(*args, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CraftError, match=r"no space for blanchon/EuroSAT_RGB in .*GB free\); set HF_HOME=") as raised:
        opened("eurosat", eurosat(tmp_path), "hub", ("test",))
    assert "\n" not in str(raised.value)


def test_half_a_download_is_one_line(tmp_path):
    file = eurosat(tmp_path) / "data" / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    for _ in ("a torn file", "a link to none"):
        with pytest.raises(
            CraftError, match=r"test-00000-of-00001.parquet is no whole parquet file; delete it and run"
        ):
            opened("eurosat", tmp_path, "hub", ("test",))
        file.unlink(missing_ok=True)
        file.symlink_to(tmp_path / "none")


def test_tables_are_read_lazily_when_they_are_large(tmp_path, monkeypatch):
    from data_modules.sources import records

    root = eurosat(tmp_path)
    cached = opened("eurosat", root, "hub", ("test",))
    monkeypatch.setattr(records, "CACHE_BYTES", 0)
    lazy = opened("eurosat", root, "hub", ("test",))
    assert isinstance(lazy.splits["test"].images, records.LazyImages)
    first, second = (next(iter(d.test_dataloader())) for d in (cached, lazy))
    assert (first.pixel_values == second.pixel_values).all()


def test_the_library_never_decodes_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: pytest.fail("decoded by the library"))
    opened("eurosat", eurosat(tmp_path), "hub", ("fit", "test"))


def test_rows_that_are_not_read_are_counted(tmp_path):
    eurosat(tmp_path, splits=("validation", "dev", "test", "extra"))
    bare = [stored(i) if i not in (3, 7) else None for i in range(20)]
    eurosat(tmp_path, splits=("train",), each=2, image=bare)
    data = opened("eurosat", tmp_path, "hub", ("fit", "test"), holdout=0.0)
    said = data.describe()
    assert said["splits"] == {"train": 18, "val": 10, "test": 10}
    assert said["skipped"] == {
        "row without an image": 2,
        "row of 'dev', no split of its own": 10,
        "row of 'extra', no split of its own": 10,
    }


def test_a_dev_table_is_validation_where_there_is_no_other(tmp_path):
    data = opened("eurosat", eurosat(tmp_path, splits=("train", "dev", "test")), "hub", ("fit", "test"), holdout=0.0)
    assert data.describe()["splits"] == {"train": 10, "val": 10, "test": 10}
    assert data.describe()["skipped"] == {}


def test_everything_in_one_piece_beside_splits_is_not_read_twice(tmp_path):
    data = opened("eurosat", eurosat(tmp_path, splits=("full", "train", "test")), "hub", ("test",), holdout=0.0)
    assert data.describe()["splits"] == {"test": 10}
    assert data.describe()["skipped"] == {"row of 'full', no split of its own": 10}


def test_an_unknown_name_among_labels_is_one_line(tmp_path):
    kinds = {"image": Image(), "label": Value("string")}
    columns = {"image": [stored(i) for i in range(196)], "label": [*labels.LABELS["stanford_cars"][1:], "Trabant"]}
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", kinds, **columns)
    write_table(tmp_path / "data" / "train-00000-of-00001.parquet", kinds, **columns)
    with pytest.raises(CraftError, match="1 images: Stanford Cars has no class 'Trabant'"):
        opened("stanford_cars", tmp_path, "hub", ("test",))
