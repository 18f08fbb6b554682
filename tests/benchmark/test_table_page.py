"""The HTML report stands alone, and in a browser a cell opens its curves, labels and questions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import table_kit
from PIL import Image
from test_table_claims import CLAIMS

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Job, Plan, make_plan
from craft_lightning.benchmark.results import gather
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.report.curves import POINTS, curves
from craft_lightning.report.page import page_data, tint_of, to_html
from craft_lightning.report.sections import build_report
from tests.browser_kit import elements, screen

EVIL = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">&amp;"
SEEDS = (0, 1)
HOLE = "d1/small/craft"


def toy_plan(root: Path) -> Plan:
    spec = table_kit.spec_value()
    spec["rows"][1]["label"] = "CRAFT <b>&"
    path = table_kit.write_house(root, rows=spec["rows"], claims=CLAIMS, note=f"A note. {EVIL}")
    return make_plan(load_spec(path), root / "runs", SEEDS)


def write_test(job: Job, number: int) -> None:
    right = [(i + number) % 3 == 0 for i in range(24)]
    table_kit.write_predictions(job, right)
    values = {"test/exact_match": 0.3 + number / 100, "test/exact_match_seen": 0.4, "test/exact_match_unseen": 0.2}
    table_kit.write_result(job, values, {"all": 24, "seen": 20, "unseen": 4})
    if job.parent is None:
        items = [
            {"key": f"{job.facts['dataset']}/{i}", "question": f"Question {i}? {EVIL if i == 2 else ''}"}
            | {"options": ["a tree", "a lake"] if i % 4 else [], "answer": "B" if i % 4 else "two", "seen": i % 6 > 0}
            for i in range(24)
        ]
        (job.folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (job.folder / "examples").mkdir()
        for i in range(0, 24, 2):
            Image.new("RGB", (8, 8), (10 * i, 90, 255 - 10 * i)).save(job.folder / "examples" / f"{i:05}.png")


def fill(plan: Plan) -> None:
    for number, job in enumerate(plan.jobs):
        if HOLE in job.name:
            store.write_failure(job, "ValueError: planted")
        elif job.kind == "eval":
            write_test(job, number)
        else:
            table_kit.write_result(job, {}, cost={"parameters": 1000, "seconds": 2.0, "memory": 1e9})
            rows: list[dict[str, float]] = [
                {"step": s, "train/loss": 10 / s, "train/sal": 1 / s} for s in range(1, 201)
            ]
            rows.append({"step": 200, "val/accuracy": 0.5, "val/codes_changed": 0.9})
            (job.folder / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    made = toy_plan(tmp_path_factory.mktemp("page"))
    fill(made)
    return made


@pytest.fixture(scope="module")
def page(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = gather(plan)
    path = tmp_path_factory.mktemp("html") / "toy.html"
    path.write_text(to_html(plan, results, build_report(plan, results)), encoding="utf-8")
    return path


def test_the_data_of_a_cell(plan: Plan) -> None:
    data = page_data(plan, gather(plan))
    assert len(data["pictures"]) == 2 * 12, "the same for every method: once a dataset"
    assert len(data["cells"]) == 12 - 2, "a cell without a result has no panel"
    cell = data["cells"]["2,0"]
    assert cell["title"] == "CRAFT <b>&, trained with big on big: d0"
    assert [(name, len(found), len(found[0])) for name, found in cell["replies"]] == [
        ("Zero-shot", 12, 1),
        ("CRAFT <b>&", 12, 2),
    ]
    assert [row[:2] for row in cell["rows"]] == [["All items", "24"], ["Seen labels", "20"], ["Unseen labels", "4"]]
    assert cell["rows"][2][2:5] == ["20.00 ± 0.00", "20.00", "+0.00 ± 0.00"]
    assert [run["name"] for run in cell["curves"]] == ["seed 0", "seed 1"]
    assert set(cell["curves"][0]["points"]) == {"train/loss", "train/sal", "val/accuracy"}
    assert (data["cells"]["0,0"]["curves"], data["cells"]["0,0"]["trained"]) == ([], False)
    assert "key" not in data["examples"]["0"][0]


def test_lines_that_stand_apart_name_their_backbones(plan: Plan) -> None:
    def page_of(lines: list[int]) -> str:
        cells = {(k, c): plan.cells[n, c] for k, n in enumerate(lines) for c in (0, 1)}
        cut = replace(plan, lines=tuple(plan.lines[n] for n in lines), cells=cells)
        results = gather(cut)
        return to_html(cut, results, build_report(cut, results))

    together, apart = page_of([0, 1, 3]), page_of([0, 3, 1])
    assert re.findall(r'scope="rowgroup"[^>]*><span>([^<]*)<', together) == ["big, beside BIG", "small, beside SMALL"]
    assert "<small>on big</small>" not in together
    assert 'scope="rowgroup"' not in apart.split("<main>")[1]
    assert apart.count("<small>on big</small>") == 2
    assert apart.count("<small>on BIG</small>") == 2


def test_curves_are_thinned_by_means(plan: Plan) -> None:
    folder = next(n for n in plan.jobs if n.kind == "train").folder
    points = curves(folder)["train/loss"]
    assert len(points) == POINTS
    assert points[0] == [4, pytest.approx((10 + 5 + 10 / 3 + 2.5) / 4, abs=1e-3)]
    assert points[-1][0] == 200


def test_colours_begin_at_one_point() -> None:
    assert [tint_of(gain) for gain in (0.99, 1, -5, 19.9, -20, 0)] == ["", "up1", "down2", "up3", "down4", ""]


class Reader(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_file_needs_nothing_else_and_no_text_ends_its_data(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert [value for name, value in reader.attributes if name in ("src", "href", "action")] == ["data:,"]
    assert reader.tags.count("script") == 2
    assert [value for name, value in reader.attributes if name.startswith("on")] == []
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "@import" not in text
    assert "script-src 'sha256-" in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert json.loads(data)["examples"]["0"][1]["question"] == f"Question 2? {EVIL}"


def test_a_click_shows_the_panel_and_keys_work(browser: Any, page: Path, plan: Plan) -> None:
    from selenium.webdriver.common.keys import Keys

    numbers = [0.3 + plan.jobs.index(job) / 100 for job in plan.cells[2, 0]]
    mean, spread = fmean(numbers), stdev(numbers)
    browser.get(page.as_uri())
    cells = elements(browser, "button.cell")
    assert len(cells) == 10
    assert cells[0].text == "30.00"
    assert [e.text for e in elements(browser, "td.missing")] == ["failed", "failed"]
    assert elements(browser, "td.missing")[0].get_attribute("title") == "ValueError: planted"
    panel = elements(browser, "#panel")[0]
    assert not panel.is_displayed()
    big = elements(browser, "[data-cell='2,0']")[0]
    assert big.text.splitlines() == [f"{100 * mean:.2f} ± {100 * spread:.2f}", f"{100 * mean - 30:+.2f}"]
    big.click()
    assert panel.is_displayed()
    assert elements(panel, "#panel-title")[0].text == "CRAFT <b>&, trained with big on big: d0"
    examples = elements(panel, ".example")
    assert len(examples) == 12
    assert all(
        browser.execute_script("return arguments[0].naturalWidth", i) == 8 for i in elements(panel, ".example img")
    )
    assert "a tree" in examples[1].text
    assert "Zero-shot" in examples[1].text
    assert len(elements(examples[1], "dd span")) == 3, "one reply of zero-shot, one of each seed"
    assert [e.text for e in elements(panel, ".tag")] == ["unseen label"] * 4
    assert len(elements(panel, ".curves svg")) == 2
    assert len(elements(panel, ".curves polyline")) == 2 * len(SEEDS)
    assert "at step 200" in elements(panel, ".curves figure")[2].text, "one value is no curve"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not panel.is_displayed()
    assert browser.switch_to.active_element == big, "the focus returns to where it was"
    big.send_keys(Keys.ARROW_RIGHT)
    assert browser.switch_to.active_element.get_attribute("data-cell") == "2,1"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert panel.is_displayed()
    elements(panel, "#close")[0].click()
    assert not panel.is_displayed()
    assert browser.title == "Toy", "no text became code"
    assert browser.get_log("browser") == []


def test_the_papers_rows_can_be_hidden_and_claims_stand_there(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    rows = elements(browser, "#accuracy tr.paper")
    assert rows
    assert all(row.is_displayed() for row in rows)
    elements(browser, "#paper")[0].click()
    assert not any(row.is_displayed() for row in rows)
    assert [e.text.split(":")[0] for e in elements(browser, ".word")] == ["Claim 1", "Claim 4"]


@pytest.mark.parametrize("width", [1600, 390])
def test_no_screen_scrolls_sideways(width: int, browser: Any, page: Path) -> None:
    with screen(browser, page, width):
        elements(browser, "[data-cell='2,0']")[0].click()
        sizes = "const p = document.getElementById('panel'); return [p.scrollWidth, p.clientWidth]"
        inner, outer = browser.execute_script(sizes)
        assert inner <= outer
        assert browser.get_log("browser") == []
