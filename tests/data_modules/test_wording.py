"""Class names as words and captions by rule; those of the paper's datasets in its own letters."""

import pytest

from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.captioning.wording import class_caption, class_name, with_article
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import DATASETS
from data_modules.datasets.facts import DatasetFacts

NAMES = {
    "Apple___Apple_scab": "Apple scab",
    "Tomato___healthy": "Tomato healthy",
    "Pica_pica": "Pica pica",
    "Apple___Apples": "Apple Apples",
    "AnnualCrop": "annual crop",
    "MRIScan": "MRI scan",
    "McDonalds": "McDonalds",
    "iPhone": "iPhone",
    "001.Black_footed_Albatross": "Black footed Albatross",
    "07_elk": "elk",
    "2012_Tesla_Model_S": "2012 Tesla Model S",
    "1.5_TDI": "1.5 TDI",
    "42": "42",
    "Boeing737": "Boeing 737",
    "golden-retriever": "golden retriever",
    "x-ray": "x-ray",
    "Coca-Cola": "Coca-Cola",
    "normal_z-line": "normal z-line",
}


@pytest.mark.parametrize(("folder", "words"), NAMES.items())
def test_a_class_folder_becomes_words(folder, words):
    assert class_name(folder) == words
    assert class_name(words) == words, "words stay what they are"


def test_articles_go_by_sound():
    behind = {
        "an": "apple Elk hour honest_man umbrella uninhabited_land undershirt 8-ball 11 18-wheeler 80_cent_coin "
        "MRI_scan X-ray F-150 AM_General SUV urn iris hourglass usher",
        "a": "cork unit user unique_leaf European_ash eucalyptus one-way_sign ewe UFO BMW u-bolt ukulele uterus 7 118 "
        "bus glass cactus lens NASA_logo Model_S house utility",
        "": "stones industrial_buildings people trousers women",
    }
    for article, listed in behind.items():
        for words in (word.replace("_", " ") for word in listed.split()):
            assert with_article(words) == f"{article} {words}".lstrip()


@pytest.mark.parametrize(
    ("domain", "label", "caption"),
    [
        ("plant leaf", "Apple scab", "An image of a plant leaf, specifically an Apple scab."),
        ("", "Apple scab", "An image of an Apple scab."),
        (" a  leaf.", "oak", "An image of a leaf, specifically an oak."),
        ("leaf", "healthy", "An image of a leaf, specifically a healthy leaf."),
        ("leaves", "Tomato unripe", "An image of leaves, specifically unripe Tomato leaves."),
        ("", "Normal", "An image of a Normal object."),
        ("", "Apple healthy", "An image of a healthy Apple."),
    ],
)
def test_the_caption_of_a_class(domain, label, caption):
    assert class_caption(domain, label) == caption
    assert DatasetFacts("birds", "Birds", "classification", "MIT", domain=domain).caption(label) == caption


@pytest.mark.parametrize("name", ["eurosat", "flowers102", "kvasir", "plantvillage", "stanford_cars", "stanford_dogs"])
def test_the_papers_captions_are_in_its_letters(name):
    facts = DATASETS[name]
    words = [facts.label_words(label) for label in facts.labels]
    assert [facts.caption(w) for w in words] == [f"An image of a {facts.domain}, specifically a {w}." for w in words]


@pytest.mark.usefixtures("stub_backbone")
def test_own_data_train_on_every_class_unless_asked(class_folder):
    root = class_folder(["red_fox", "GreyWolf", "elk", "lynx", "owl"])
    held = {}
    for asked in (None, 0.4):
        data = VqaDataModule(VlmSpec(), "folder", "folder", str(root), batch_size=4, holdout=asked)
        data.setup("fit")
        held[asked] = len(data.describe()["held_out"])
        assert data.hparams["holdout"] == (asked or 0.0)
    assert held == {None: 0, 0.4: 2}
    assert "grey wolf" in data.open()[0].class_names
    with pytest.raises(CraftError, match="holdout is a share"):
        VqaDataModule(holdout=1.0)


@pytest.mark.parametrize(("flag", "share"), [("dataset=folder", 0.0), ("dataset=eurosat", 0.2), ("holdout=0.3", 0.3)])
def test_a_run_writes_its_holdout_in_numbers(flag, share):
    argv = ["fit", "--model=Craft", "--trainer.max_steps=1", f"--data.{flag}"]
    config = build_cli(argv, run=False).config["fit"]
    assert config.data.holdout == share
