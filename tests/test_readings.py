"""``docs/readings.md`` explains every short reference of the repository, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "readings.md"
READ = ("craft_lightning", "callbacks", "data_modules", "experiments", "benchmarks", "tests", "docs")

NUMBERED = r"methods\.md \d+(?:\.\d+[a-z]?)?|DESIGN \d+\.\d+|host facts \d+\.\d+"
KEY = re.compile(rf"\b(?:OD-\d+|P\d{{1,2}}|{NUMBERED})\b")
ANY_DOCUMENT = re.compile(r"\b(?:methods\.md|DESIGN|[Hh]ost facts|vila_u\.md|architecture_proposal|pocket\.md)\b")
"""Documents that are not part of the repository."""


def sources() -> dict[str, str]:
    """Texts by name: all but the page and this file."""
    paths = [p for folder in READ for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".yaml")]
    paths += [ROOT / name for name in ("README.md", "Makefile", "pyproject.toml")]
    kept = [p for p in sorted(paths) if p not in (PAGE, Path(__file__).resolve())]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in kept}


def mentioned(text: str) -> set[str]:
    """The keys in a text, line breaks inside of them included, and those in the names of tests (``test_p2_p3_...``)."""
    found = set(KEY.findall(" ".join(text.split())))
    names = re.findall(r"def (test_(?:p\d+_)+)", text)
    return found | {f"P{number}" for name in names for number in re.findall(r"p(\d+)_", name)}


def rows() -> dict[str, str]:
    """Key to the last cell of its row."""
    lines = [line.strip().strip("|").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {cells[0].strip(): cells[-1] for cells in lines if len(cells) == 3 and KEY.fullmatch(cells[0].strip())}


def test_every_key_has_its_row_and_every_row_its_key() -> None:
    where = {key: name for name, text in sources().items() for key in mentioned(text)}
    missing = {key: name for key, name in where.items() if key not in rows()}
    assert missing == {}, "keys without a row in docs/readings.md"
    assert set(rows()) - set(where) == set(), "rows that nothing mentions"


def test_documents_from_elsewhere_are_named_by_a_key_only() -> None:
    """So that no reader is sent to a page that is not here."""
    found = []
    for name, text in sources().items():
        flat = " ".join(text.split())
        found += [
            f"{name}: {flat[m.start() : m.end() + 20]}"
            for m in ANY_DOCUMENT.finditer(flat)
            if not KEY.match(flat, m.start())
        ]
    assert found == []


def test_the_places_exist() -> None:
    named = {path for cell in rows().values() for path in re.findall(r"`([^`]+)`", cell)}
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_a_planted_key_is_found() -> None:
    assert mentioned("as OD-99 and methods.md\n9.9 say\ndef test_p77_p78_fail() -> None:") == {
        *("OD-99", "methods.md 9.9", "P77", "P78")
    }
