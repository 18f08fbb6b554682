"""The verb ``compare``: what it prints, and the page of runs as a browser shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from craft_lightning import __main__ as entry
from craft_lightning.benchmark.stored_run import read_runs
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.item_images import open_images, spec_of, token_views
from craft_lightning.models.image_processing import preprocess
from craft_lightning.report.curves import curves
from tests.browser_kit import elements, screen

ITEMS = 24
EVIL = "</script><img src=x onerror=\"document.title='owned'\">"
EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def plant(folder: Path, right: str) -> None:
    """Replies that are right where the text has a 1; the first wrong one is no letter."""
    file = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == ITEMS
    for row, one in zip(rows, right * ITEMS, strict=False):
        wrong = EVIL if row is rows[right.index("0")] else "B" if row["answer"] == "A" else "A"
        row |= {"prediction": row["answer"] if one == "1" else wrong, "correct": one == "1"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training, and tests before and after it whose replies are planted: 12 and 18 of 24 items are right, 12 became
    right, 6 wrong."""
    root = tmp_path_factory.mktemp("runs")

    def run(verb: str, folder: str, *flags: str) -> None:
        data = ["--data.dataset=eurosat", "--data.train_size=16", "--data.val_size=4", f"--data.test_size={ITEMS}"]
        where = [f"--backbone={checkpoints / 'host'}", f"--trainer.default_root_dir={root / folder}"]
        quick = ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", "--model.optim.lr=0.01"]
        build_cli([verb, "--config", str(EXPERIMENTS / "smoke.yaml"), *data, *where, *quick, *flags])

    run("test", "before")
    run("fit", "mine")
    run("test", "after", "--encoder", str(root / "mine" / "encoder"))
    plant(root / "before", "1100")
    plant(root / "after", "1011")
    return root


def compare(*arguments: object) -> int:
    return entry.dispatch(["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    assert compare(runs / "before", runs / "after", "--output", runs / "page.html") == 0
    return runs / "page.html"


def test_the_terminal_says_what_changed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(runs / "before", runs / "after")
    said = " ".join(capsys.readouterr().out.split())
    assert "after (craft on host) answers 75.0 % right, before (zero_shot on host) 50.0 %: +25.0 [-" in said
    assert "points, no difference beyond chance. 12 became right, 6 became wrong (McNemar p = 0.24)." in said
    assert "after craft on host 24 75.0 % [55.1, 88.0] +25.0 [" in said
    assert "Labels unseen" in said
    assert "Class " in said
    compare(runs / "after")
    said = " ".join(capsys.readouterr().out.split())
    assert "24 test items. after (craft on host) answers 75.0 % [55.1, 88.0] right." in said
    assert "Change" not in said


def test_what_cannot_be_compared_or_written_is_one_line(runs: Path, tmp_path: Path) -> None:
    for output, told in ((tmp_path / "x.pdf", "is no .html or .md file"), (tmp_path / "no" / "x.md", "no folder")):
        with pytest.raises(CraftError, match=told):
            compare(runs / "after", "--output", output)
    with pytest.raises(CraftError, match=r"answer different items: 28, .*evaluation test / fit, items 24 / 4"):
        compare(runs / "before", runs / "mine")


@torch.no_grad()
def test_images_and_codes_are_those_of_the_tests(runs: Path, checkpoints: Path) -> None:
    before, after = read_runs([runs / "before", runs / "after"])
    keys = list(before.items)[3:9:2]
    images = open_images(after, keys)
    assert list(images) == keys
    towers = [load_tower(spec_of(before)), load_tower(spec_of(after))]
    views, colours = token_views(spec_of(before), spec_of(after), images)
    assert colours is not None
    for key, image in images.items():
        pixels = preprocess(image, towers[0].image_size)[None]
        codes = [tower.encode(pixels).codes[0, :, 0] for tower in towers]
        assert torch.equal(views[key].before, codes[0])
        assert torch.equal(views[key].codes, codes[1])
    assert any(not torch.equal(view.before, view.codes) for view in views.values()), "the training moved codes"
    other, colours = token_views(spec_of(before), spec_of(before), images)
    assert other[keys[0]].before is None
    continuous = token_views(spec_of(before), type(spec_of(before))(str(checkpoints / "continuous")), images)
    assert (continuous[0][keys[0]].codes, continuous[1]) == (None, None)


def test_a_browser_shows_what_flipped(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.title == "EuroSAT: what changed", "no reply became code"
    assert elements(browser, ".tile .big")[0].text == "+25.0 points"
    assert elements(browser, ".tile .word")[0].text == "no difference beyond chance"
    rows = elements(browser, "table.chart tbody tr:has(.track)")
    assert [cell.text for cell in elements(rows[0], "td")][2:4] == ["50.0", "75.0"]
    assert len(elements(rows[0], ".track .dot")) == len(elements(rows[0], ".track .range")) == 2
    spans = [e.rect for e in elements(rows[0], ".track .range")]
    track = elements(rows[0], ".track div")[0].rect
    assert spans[1]["x"] - track["x"] == pytest.approx(0.551 * track["width"], abs=2)
    assert spans[1]["width"] == pytest.approx((0.880 - 0.551) * track["width"], abs=2)
    right, wrong = elements(browser, ".shown")
    assert [elements(each, "h2")[0].text for each in (right, wrong)] == ["Became right 12 of 12", "Became wrong 6 of 6"]
    cards = elements(browser, ".shown .example")
    assert len(cards) == 18
    for card in cards:
        widths = [browser.execute_script("return arguments[0].naturalWidth", i) for i in elements(card, "img")]
        assert len(widths) == 4
        assert min(widths) > 50
        assert len(elements(card, "dd.good")) == len(elements(card, "dd.bad")) == 1
        assert [e.text.split(":")[0] for e in elements(card, ".maps figcaption")] == [
            *("codes before", "codes after", "changed"),
        ]
    assert EVIL in wrong.text
    assert len(elements(browser, "table.matrix")) == 2
    total = sum(int(cell.text or 0) for cell in elements(elements(browser, "table.matrix")[1], "tbody td"))
    assert total == ITEMS
    assert elements(browser, "#learning .curves svg")
    assert "McNemar p = 0.24" in elements(browser, ".tile")[0].text
    assert "Codebook and cost" in browser.find_element("tag name", "main").text
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1400, 390])
def test_no_screen_scrolls_sideways(width: int, browser: Any, page: Path) -> None:
    with screen(browser, page, width):
        pass


def test_the_page_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https:" not in text
    assert text.count("<script") == 2


def test_a_run_alone_has_a_page(runs: Path) -> None:
    compare(runs / "after", "--output", runs / "alone.html")
    text = (runs / "alone.html").read_text(encoding="utf-8")
    assert "Wrong replies <small>6 of 6" in text
    assert "Right replies <small>12 of 18" in text
    assert text.count("codes before: ") == 2 * 18, "caption and description"
    assert "tile" not in text.split("</style>")[1]
    compare(runs / "mine", "--output", runs / "training.html")
    text = (runs / "training.html").read_text(encoding="utf-8")
    assert "4 validation items. mine (craft on host) answers" in text
    assert "codes before: " in text, "of the encoder that it has left"
    assert 'id="learning"' in text


def test_markdown_has_a_sheet_of_images_beside_it(runs: Path, tmp_path: Path) -> None:
    compare(runs / "before", runs / "after", "--output", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "![EuroSAT: what changed](page.png)" in text
    assert "| Became right (12 of 12) | eurosat/test/2 | " in text
    with Image.open(tmp_path / "page.png") as sheet:
        assert sheet.height > 18 * 100


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("result.json", lambda text: text.replace("data_settings", "x"), "does not say where its images are"),
        ("result.json", lambda text: text.replace('"holdout"', '"held"'), "were made by another version"),
        ("result.json", lambda text: text.replace('"dataset": "eurosat"', '"dataset": "kvasir"'), "others by now: 18"),
        ("result.json", lambda text: text.replace('"source": "twin"', '"source": "folder"'), "Without images"),
    ],
)
def test_without_its_data_a_page_says_why(file: str, change: Any, told: str, runs: Path, tmp_path: Path) -> None:
    for name in ("before", "after"):
        shutil.copytree(runs / name, tmp_path / name)
        (tmp_path / name / file).write_text(change((tmp_path / name / file).read_text()))
    compare(tmp_path / "before", tmp_path / "after", "--output", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert told in text
    assert "Became right" in text
    assert "The image of" not in text


def test_images_stay_where_an_encoder_has_gone(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "after", tmp_path / "after")
    result = tmp_path / "after" / "result.json"
    result.write_text(result.read_text().replace("/mine/encoder", "/moved/encoder"))
    compare(runs / "before", tmp_path / "after", "--output", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Without codes: " in text
    assert text.count("The image of") == 18
    assert "codes before" not in text


def test_curves_of_a_run_come_from_its_event_files(runs: Path) -> None:
    found = curves(runs / "mine")
    assert {"train/loss", "val/accuracy"} <= found.keys()
    assert [step for step, _ in found["train/loss"]] == [0, 1, 2, 3]
    assert curves(runs / "before") == {}
