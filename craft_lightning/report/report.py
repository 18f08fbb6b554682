"""A report as values, and the words for its scores, claims and origin; a missing cell is never a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from craft_lightning.benchmark.claims import DRAWS, LEAST_SEEDS, LEVEL, Verdict
from craft_lightning.benchmark.results import Made, Score

MISSING = "-"


@dataclass(frozen=True)
class Section:
    """One grid of texts, its first two columns names; ``paper`` marks the rows that are quoted from the paper."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    paper: tuple[bool, ...]


@dataclass(frozen=True)
class Report:
    """All that is printed.

    Attributes:
        sections: in the order of printing.
        claims: for each claim its verdict and what follows it; decided: how, empty without claims.
        remarks: counts, seeds, origin. problems: failed, partial and missing cells.
        picture: file name of the figure, empty without any.
    """

    title: str
    note: str
    made: str
    sections: tuple[Section, ...]
    claims: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    picture: str = ""


@dataclass(frozen=True)
class TableReport(Report):
    """That of a table; some of its sections are shown apart, too: scores and gains of each metric, and the summary."""

    scores: tuple[Section, ...] = field(kw_only=True)
    gains: tuple[Section, ...] = field(kw_only=True)
    summary: Section = field(kw_only=True)
    pairs: Section = field(kw_only=True)


def score_text(score: Score | None, digits: int, signed: bool = False, spread: bool = True) -> str:
    """``"49.13 ± 0.42"``, with one seed ``"49.13"``, and :data:`MISSING` for nothing."""
    if score is None:
        return MISSING
    text = f"{score.mean:{'+z' if signed else 'z'}.{digits}f}"
    return text if score.std is None or not spread else f"{text} ± {score.std:.{digits}f}"


def made_text(made: Made) -> str:
    """``"Seeds 0, 1, 2; 24 November 2026; ...; commit `abc`"``: when, where and with which code."""
    day = date.fromisoformat(made.date)
    parts = [
        f"{'Seed' if len(made.seeds) == 1 else 'Seeds'} {', '.join(map(str, made.seeds))}",
        f"{day.day} {day:%B %Y}",
        " and ".join(made.machines),
        f"{made.nodes} trainings and tests, {made.seconds / 60:.0f} minutes of one worker's time",
    ]
    if made.arithmetic:
        # One machine is named above: its processor need not be told again.
        here = f"{made.machines[0].rpartition(', ')[0]}, " if len(made.machines) == 1 else ""
        parts.append("; ".join(told.removeprefix(here) for told in made.arithmetic))
    if made.commits:
        changed = " (+: with changes that were not committed)" if any(c.endswith("+") for c in made.commits) else ""
        parts.append(f"commit {', '.join(f'`{commit}`' for commit in made.commits)}{changed}")
    return "; ".join(parts)


def claim_texts(verdict: Verdict) -> tuple[str, str]:
    """``"Claim 1: holds"``, and what there is to say of it."""
    v = verdict
    numbers = "" if v.estimate is None else f" {v.estimate:+z.2f} points [{v.low:+z.2f}, {v.high:+z.2f}]."
    warning = f" {v.warning}." if v.warning else ""
    return f"Claim {v.id}: {v.word}", f"{v.text}.{numbers} {v.detail}.{warning}"


DECIDED = (
    f"Decided by the {LEVEL:.0%} interval of the paired difference, mean over the sets ({DRAWS:,} bootstrap draws, "
    f"images resampled within a set, seeds jointly): it has to exclude 0 over at least {LEAST_SEEDS} seeds. Seeds of "
    "one family of models do not measure the spread over families."
)
"""What stands below the claims."""
