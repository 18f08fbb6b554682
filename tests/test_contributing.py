"""What ``CONTRIBUTING.md`` and the issue form name exists; the tree in it names every module."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from craft_lightning.__main__ import VERBS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
(TREE,) = re.findall(r"^```text\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_layout_names_every_module() -> None:
    named = set(re.findall(r"[\w.]+", TREE))
    modules = [
        p for p in (ROOT / "craft_lightning").iterdir() if p.name not in ("__init__.py", "__pycache__", "py.typed")
    ]
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


def test_links_targets_and_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 2
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", TEXT, flags=re.MULTILINE)) <= targets
    files = set(re.findall(r"(?:craft_lightning|data_modules|callbacks|tests)/[\w/]+\.py", TEXT))
    assert len(files) > 15
    assert [f for f in sorted(files) if not (ROOT / f).is_file()] == []


def test_an_issue_asks_for_what_doctor_says() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    asked = {part["id"]: part for part in form["body"]}
    assert "python -m craft_lightning doctor" in asked["doctor"]["attributes"]["description"]
    assert all(part["validations"]["required"] for part in asked.values())
    assert "doctor" in VERBS
