"""What ``CONTRIBUTING.md`` and the issue form name exists; the tree in it names every module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from craft_lightning.__main__ import VERBS
from tests.test_architecture import RANKS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(TREE,) = re.findall(r"^```text\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_layout_names_every_module() -> None:
    named = set(re.findall(r"[\w.]+", TREE))
    modules = [p for p in (ROOT / "craft_lightning").iterdir() if p.stem not in ("__init__", "__pycache__", "py")]
    assert [p.name for p in modules if not {p.name, p.stem} & named] == ["pocket"], "what was trained is no module"


def test_the_layout_names_what_exists() -> None:
    package = ""
    for line in TREE.splitlines():
        names = line.split("  ")[0]
        first = re.match(r"\s*\d?\s*(\S+)", line[26:])
        if names:
            package = names.strip()
            assert (ROOT / package).is_dir(), line
        elif first and package == "craft_lightning/":
            held = re.split(r"[,\s]+", re.split(r"\s{2,}", line[29:])[0].strip())
            for name in held:
                options = [ROOT / package / name, ROOT / package / f"{name}.py"]
                assert any(path.exists() for path in options), line


def test_the_layout_has_the_ranks() -> None:
    """As ``tests/test_architecture.py`` holds them; a rank stands before the first file of a line."""
    told = {}
    for rank, names in re.findall(r"^\s*(?:craft_lightning/)?\s+(\d+)  (\S.*?)(?:\s{2,}|$)", TREE, flags=re.MULTILINE):
        told |= {
            f"craft_lightning.{name.strip().rstrip('/').removesuffix('.py')}": int(rank) for name in names.split(",")
        }
    assert {name: RANKS[name] for name in told} == told
    assert len(told) > 20


def test_links_targets_and_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 2
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", TEXT, flags=re.MULTILINE)) <= targets
    files = set(re.findall(r"(?:craft_lightning|data_modules|callbacks|tests)/[\w/]+\.py", TEXT))
    assert len(files) > 15
    assert [f for f in sorted(files) if not (ROOT / f).is_file() and "NAME" not in f] == []


WALKS = [re.findall(r"^\d+\. `([\w/]+\.py)`", part, flags=re.MULTILINE) for part in TEXT.split("\n**From a ")[1:]]


def linked(one: str, other: str) -> bool:
    """Whether a file names another's module: by import, or as a process to start."""
    module = other.removesuffix(".py").replace("/", ".")
    package, _, name = module.rpartition(".")
    source = (ROOT / one).read_text(encoding="utf-8")
    return re.search(rf"\b{module}\b|from {package} import [^\n(]*\b{name}\b", source) is not None


@pytest.mark.parametrize("walk", WALKS, ids=["image", "result"])
def test_a_walk_is_short_and_follows_the_imports(walk: list[str]) -> None:
    assert 10 < len(walk) <= 20
    assert len(set(walk)) == len(walk), "no file is come back to"
    for place, step in enumerate(walk[1:], start=1):
        assert any(linked(step, met) or linked(met, step) for met in walk[:place]), step


def test_a_step_that_nothing_leads_to_is_found() -> None:
    assert linked("craft_lightning/methods/craft.py", "craft_lightning/losses.py")
    assert not linked("craft_lightning/methods/craft.py", "craft_lightning/benchmark/plan.py")


def test_an_issue_asks_for_what_doctor_says() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    asked = {part["id"]: part for part in form["body"]}
    assert "python -m craft_lightning doctor" in asked["doctor"]["attributes"]["description"]
    assert all(part["validations"]["required"] for part in asked.values())
    assert "doctor" in VERBS
