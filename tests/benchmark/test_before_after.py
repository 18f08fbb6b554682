"""Figures 2 and 6: which questions are shown before and after adaptation, and what stands beside their images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import table_kit
from PIL import Image

from craft_lightning import __main__ as entry
from craft_lightning.benchmark.plan import Job, Plan, make_plan
from craft_lightning.benchmark.results import gather
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.judgement import Judgement, judgements_file, to_line
from craft_lightning.io import write_json, write_text
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.report import before_after
from craft_lightning.report.figure import draw, write_png
from craft_lightning.report.page import page_data
from craft_lightning.report.render import save
from craft_lightning.run_folder import OFFLINE
from craft_lightning.text.multiple_choice import item_hash
from data_modules.datamodule import VqaDataModule

TABLE = Path(__file__).resolve().parents[2] / "experiments" / "tables" / "table2.yaml"
SETTINGS = {"dataset": "flowers102", "test_size": 8, "directive": "justify"}
RIGHT = {
    "zero_shot": [1, 0, 0, 0, 1, 1, 0, 1],
    "craft": [1, 1, 0, 1, 0, 0, 1, 1],
    "llm_lora": [1, 0, 0, 1, 1, 0, 0, 1],
}
"""Whether each reply is right: 1, 3 and 6 became right, 4 and 5 wrong."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Table 2 with results on one set, eight items of which were asked."""
    made = make_plan(load_spec(TABLE), tmp_path_factory.mktemp("runs"))
    data = VqaDataModule(VlmSpec("pocket-vila-u"), **SETTINGS)  # type: ignore[arg-type]
    data.setup("test")
    for line, job in [(line, made.cells[n, 1][0]) for n, line in enumerate(made.lines)]:
        if (job.facts["method"], line.backbone.id) in {(name, "pocket-vila-u") for name in RIGHT} or (
            job.facts["method"] == "llm_lora"
        ):
            answer(job, data, RIGHT[str(job.facts["method"])])
    return made


def answer(job: Job, data: VqaDataModule, right: Sequence[int]) -> None:
    replies, judged = [], []
    for item, is_right in zip(data.examples("test"), right, strict=True):
        facts = " and ".join(fact.phrase for fact in item.meta["facts"][:3])
        wrong = "A" if item.answer != "A" else "B"
        text = f"{item.answer if is_right else wrong}, because the image shows {facts}."
        said = {"key": item.key, "item": item_hash(item), "prediction": text, "answer": item.answer}
        replies.append(json.dumps(said | {"correct": False, "seen": item.seen}) + "\n")
        marks = {"relevance": 5, "faithfulness": 4, "verbosity": 1, "notes": ""}
        judged.append(to_line(item.key, text, Judgement(correctness=bool(is_right), presence=True, **marks)))
    for name in ("predictions.jsonl", "predictions.keep0.8.jsonl", "predictions.keep1.0.jsonl"):
        write_text(job.folder / name, "".join(replies))
        write_text(judgements_file(job.folder / name, OFFLINE), "".join(judged))
    data.write_items("test", job.folder / "items.jsonl")
    told = {"verb": "test", "data_settings": SETTINGS, "settings": {"backbone": {"name": "pocket-vila-u"}}}
    write_json(job.folder / "result.json", told | {"method": job.facts["method"]})
    table_kit.write_result(job, {"test/exact_match": 0.0})


def test_the_first_that_became_right_and_wrong_are_shown(plan: Plan) -> None:
    shown = before_after.pick(plan)
    assert [(each.title, each.item.key.rpartition("/")[2]) for each in shown] == [
        ("Flowers: became right", "1"),
        ("Flowers: became right", "3"),
        ("Flowers: became wrong", "4"),
    ]
    assert list(shown[0].replies) == [
        "Zero-shot, pocket-vila-u",
        "CRAFT, keep 0.8, pocket-vila-u",
        "LLM-LoRA, pocket-vila",
    ]
    assert [j.correctness for _, j in shown[1].replies.values()] == [False, True, True]


def test_beside_each_image_stand_question_replies_and_what_is_judged(plan: Plan) -> None:
    figure = draw(plan, gather(plan))
    assert figure is not None
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("Flowers: became right") == 2
    assert sum("a justification; relevance 5, faithfulness 4, verbosity 1; overall 8.5" in text for text in texts) == 9
    assert any(
        text.startswith("CRAFT, keep 0.8, pocket-vila-u: ") and "because the image shows" in text for text in texts
    )
    data = VqaDataModule(VlmSpec("pocket-vila-u"), **SETTINGS)  # type: ignore[arg-type]
    data.setup("test")
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    expected = [data.examples("test")[place].image for place in (1, 3, 4)]
    assert [array.tolist() for array in drawn] == [np.asarray(image).tolist() for image in expected]


def test_dollars_in_a_reply_are_no_formula(plan: Plan, tmp_path: Path) -> None:
    first = before_after.pick(plan)[0]
    reply, judgement = r"A, because $\frac$.", first.replies["Zero-shot, pocket-vila-u"][1]
    figure = before_after.draw([replace(first, replies={"CRAFT": (reply, judgement)})])
    assert write_png(tmp_path / "x.png", figure).stat().st_size > 2_000
    assert f"CRAFT: {reply}" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_table_s_page_and_files_hold_it(plan: Plan) -> None:
    written = {path.suffix: path for path in save(plan, gather(plan))}
    assert "![Table 2, pocket scale](table2.png)" in written[".md"].read_text()
    assert written[".png"].stat().st_size > 20_000
    page = written[".html"].read_text()
    assert page.count("data:image/png;base64") >= 3
    assert '-figure"><h2>Figure: ' in page


def test_a_cell_s_panel_shows_what_the_judge_says_of_its_examples(plan: Plan) -> None:
    zero = plan.cells[0, 1][0]
    for number in (1, 4):
        Image.new("RGB", (4, 4)).save(write_text(zero.folder / f"examples/{number:05}.png", ""))
    cell = page_data(plan, gather(plan))["cells"]["0,1"]
    (name, replies) = cell["replies"][0]
    assert name == "Zero-shot"
    assert [[right for _, right in each] for each in replies] == [[False], [True]]
    assert "because the image shows" in replies[0][0][0]


def test_the_verb_judges_every_finished_test_of_a_table(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Path(shutil.copytree(plan.root.parent, tmp_path / "runs"))
    assert entry.main(["judge", "table2", "--runs", str(runs)]) == 0
    told = capsys.readouterr().out
    assert "left out" not in told
    files = sorted(runs.rglob("judgements*.offline.jsonl"))
    # The untouched model's replies, CRAFT's at two keep ratios and LLM-LoRA's, by rules now.
    changed = [file for file in files if "stated facts" in file.read_text()]
    assert len(changed) == 4
    rows = [json.loads(line) for file in changed for line in file.read_text().splitlines()]
    assert {row["faithfulness"] for row in rows} == {5}, "what the replies state was drawn"


def test_without_judged_replies_nothing_is_shown_and_no_page_refers_to_it(tmp_path: Path) -> None:
    made = make_plan(load_spec(TABLE), tmp_path)
    assert before_after.pick(made) == []
    text = {path.suffix: path for path in save(made, gather(made))}[".md"].read_text()
    assert "table2.png" not in text


def test_images_that_are_no_more_are_said_to_be(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object) -> None:
        raise CraftError("the data are others by now")

    monkeypatch.setattr("craft_lightning.item_images.open_images", gone)
    figure = before_after.draw(before_after.pick(plan))
    assert figure.get_suptitle() == "Without images: the data are others by now"
    assert not any(axes.images for axes in figure.axes)


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ({"before": {"row": "zero_shot"}}, "replies.after: is missing"),
        ({"before": {"row": "zero"}, "after": {"row": "craft"}}, "replies.before.row: unknown name 'zero'"),
        ({"before": {"row": "zero_shot"}, "after": {"row": "craft"}, "besides": {}}, "did you mean 'beside'?"),
    ],
)
def test_mistakes_in_what_is_to_be_shown_are_told(tmp_path: Path, replies: dict[str, object], told: str) -> None:
    with pytest.raises(CraftError) as error:
        load_spec(table_kit.write_house(tmp_path, replies=replies))
    assert told in str(error.value)
