"""A table as sections of texts, before any format; a missing cell is shown as missing, never as a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from craft_lightning.benchmark.cells import (
    KEPT_DIGITS,
    Cost,
    Score,
    baseline_of,
    gains,
    mean_of,
    paper_gains,
    paper_scores,
)
from craft_lightning.benchmark.plan import Line, Plan
from craft_lightning.benchmark.results import Made, Results
from craft_lightning.benchmark.statistics import DRAWS, LEAST_SEEDS, LEVEL, Verdict
from craft_lightning.report.figure import curves

MISSING = "-"
LABELS = ("seen", "unseen")


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
        accuracy, gain, labels, summary: sections; one without rows is not printed.
        claims: a line for each claim, and one on how they were decided.
        remarks: counts, seeds, origin. problems: failed, partial and missing cells.
        picture: file name of the curves, empty without any.
    """

    title: str
    note: str
    accuracy: Section
    gain: Section
    labels: Section
    summary: Section
    claims: tuple[str, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]
    picture: str = ""

    @property
    def sections(self) -> tuple[Section, ...]:
        """Those with rows, in the order of printing."""
        return tuple(s for s in (self.accuracy, self.gain, self.labels, self.summary) if s.rows)


def build_report(plan: Plan, results: Results) -> Report:
    """Accuracy beside the paper's, gain over the own baseline row, seen and unseen labels, cost, claims, remarks."""
    return Report(
        title=plan.spec.title or plan.spec.name,
        note=plan.spec.note,
        accuracy=_accuracy(plan, results),
        gain=_gain(plan, results),
        labels=_labels(plan, results),
        summary=_summary(plan, results),
        claims=_claims(results.verdicts),
        remarks=tuple(_remarks(plan, results)),
        problems=tuple(_problems(plan, results)),
        picture=f"{plan.spec.name}.png" if curves(plan) else "",
    )


def line_label(line: Line) -> str:
    """``"CRAFT, trained with pocket-qwen2-xs"``, or the label alone where nothing or only the backbone trains."""
    return f"{line.row.label}{_trained_with(line, paper=False)}"


def _trained_with(line: Line, paper: bool) -> str:
    if line.surrogate is None or (len(line.row.train_on) == 1 and line.surrogate.id == line.backbone.id):
        return ""
    return f", trained with {line.surrogate.paper if paper else line.surrogate.label}"


def score_text(score: Score | None, digits: int, signed: bool = False, spread: bool = True) -> str:
    """``"49.13 ± 0.42"``, with one seed ``"49.13"``, and :data:`MISSING` for nothing."""
    if score is None:
        return MISSING
    text = f"{score.mean:{'+' if signed else ''}.{digits}f}"
    return text if score.std is None or not spread else f"{text} ± {score.std:.{digits}f}"


def _section(
    plan: Plan,
    title: str,
    make: Callable[[int, Line], list[Score | None]],
    quote: Callable[[Line], list[Score | None]],
    signed: bool,
) -> Section:
    """Our lines, each with the paper's below it; ``make`` gives a value a column, ``quote`` also the printed mean."""
    digits = plan.spec.metric.digits
    rows, paper = [], []
    for number, line in enumerate(plan.lines):
        scores = make(number, line)
        if not scores:
            continue
        means = [mean_of(scores)] if plan.spec.averaged else []
        texts = [score_text(s, digits, signed) for s in (*scores, *means)]
        rows.append((line.backbone.label, line_label(line), *texts))
        paper.append(False)
        quoted = quote(line)
        if any(quoted):
            texts = [score_text(s, digits, signed) for s in quoted[: len(texts)]]
            rows.append((line.backbone.paper, f"paper: {line.row.paper}{_trained_with(line, paper=True)}", *texts))
            paper.append(True)
    header = ("Backbone", "Method", *(c.label for c in plan.columns), *(["Mean"] if plan.spec.averaged else []))
    return Section(title, header, tuple(rows), tuple(paper))


def _accuracy(plan: Plan, results: Results) -> Section:
    def ours(number: int, line: Line) -> list[Score | None]:
        return [results.cells[number, c].score for c in range(len(plan.columns))]

    return _section(plan, "Exact match, per cent", ours, lambda line: paper_scores(plan, line), signed=False)


def _gain(plan: Plan, results: Results) -> Section:
    def ours(number: int, line: Line) -> list[Score | None]:
        return gains(plan, results.cells, number)

    title = f"Gain over {_baseline(plan)} on the same backbone, points"
    return _section(plan, title, ours, lambda line: paper_gains(plan, line), signed=True)


def _baseline(plan: Plan) -> str:
    return next((row.label for row in plan.spec.rows if row.id == plan.spec.baseline), "")


def _labelled(plan: Plan, results: Results) -> list[int]:
    """Columns with items of held-out labels."""
    lines = range(len(plan.lines))
    return [c for c in range(len(plan.columns)) if any(results.cells[n, c].items_unseen for n in lines)]


def _counts(plan: Plan, results: Results, column: int) -> tuple[int, int]:
    """Test items of a column, all and of held-out labels."""
    cells = [results.cells[n, column] for n in range(len(plan.lines))]
    return max(cell.items for cell in cells), max(cell.items_unseen for cell in cells)


def _labels(plan: Plan, results: Results) -> Section:
    """Gains over the baseline on the same labels (the language models have read the words of the unseen ones, too)."""
    digits, places = plan.spec.metric.digits, _labelled(plan, results)
    rows = []
    for number, line in enumerate(plan.lines):
        parts = [_part_gains(plan, results, number, part) for part in LABELS]
        if not any(any(part) for part in parts):
            continue
        pairs = zip(*([*part, mean_of(part)] for part in parts), strict=True)
        texts = [" / ".join(score_text(score, digits, signed=True) for score in pair) for pair in pairs]
        rows.append((line.backbone.label, line_label(line), *texts))
    counts = [(plan.columns[c].label, *_counts(plan, results, c)) for c in places]
    header = ("Backbone", "Method", *(f"{label} (n {n - unseen} / {unseen})" for label, n, unseen in counts), "Mean")
    title = f"Seen / unseen labels: gain over {_baseline(plan)} on the same labels, points"
    return Section(title, header, tuple(rows), (False,) * len(rows))


def _part_gains(plan: Plan, results: Results, number: int, part: str) -> list[Score | None]:
    """A line's gains on seen or on unseen labels, at the columns that hold labels out."""
    found = gains(plan, results.cells, number, part)
    return [found[c] for c in _labelled(plan, results)] if found else []


def _summary(plan: Plan, results: Results) -> Section:
    """A row a line: mean gains beside the paper's, and what the training cost."""
    digits, rows = plan.spec.metric.digits, []
    labelled = _labelled(plan, results)
    for number, line in enumerate(plan.lines):
        gained = gains(plan, results.cells, number)
        if not gained or not plan.spec.averaged:
            continue
        above = sum(score is not None and score.mean > 0 for score in gained)
        texts = [score_text(mean_of(gained), digits, signed=True), f"{above} of {len(gained)}"]
        texts += [score_text((paper_gains(plan, line) or [None])[-1], digits, signed=True)] if plan.spec.paper else []
        for part in LABELS if labelled else ():
            texts.append(score_text(mean_of(_part_gains(plan, results, number, part)), digits, signed=True))
        costs = [cost for c in range(len(plan.columns)) if (cost := results.cells[number, c].cost) is not None]
        rows.append((line.backbone.label, line_label(line), *texts, *_cost_texts(costs)))
    seen, unseen = (sum(_counts(plan, results, c)[k] for c in labelled) for k in (0, 1))
    header = ["Backbone", "Method", "Mean gain", "Sets above"]
    header += ["Paper's gain"] if plan.spec.paper else []
    header += [f"Seen labels (n {seen - unseen})", f"Unseen labels (n {unseen})"] if labelled else []
    header += ["Trained parameters", "Seconds", "Peak MB"]
    title = f"Mean gain over {_baseline(plan)}, points, and cost of a training"
    return Section(title, tuple(header), tuple(rows), (False,) * len(rows))


def _cost_texts(costs: Sequence[Cost]) -> list[str]:
    """Parameters, mean seconds of a training, highest peak memory."""
    if not costs:
        return [MISSING] * 3
    seconds = sum(cost.seconds for cost in costs) / len(costs)
    return [f"{costs[0].parameters:,.0f}", f"{seconds:.0f}", f"{max(cost.memory for cost in costs):,.0f}"]


def _claims(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    if not verdicts:
        return ()
    lines = []
    for v in verdicts:
        numbers = ""
        if v.estimate is not None:
            numbers = f" {v.estimate:+.2f} points [{v.low:+.2f}, {v.high:+.2f}]."
        warning = f" {v.warning}." if v.warning else ""
        lines.append(f"Claim {v.id}: {v.word}. {v.text}.{numbers} {v.detail}.{warning}")
    lines.append(
        f"Decided by the {LEVEL:.0%} interval of the paired difference, mean over the sets ({DRAWS:,} bootstrap "
        f"draws, items resampled within a set, seeds jointly): it has to exclude 0 over at least {LEAST_SEEDS} seeds. "
        "Seeds of one family of models do not measure the spread over families."
    )
    return tuple(lines)


def made_text(made: Made) -> str:
    """``"3 seeds (0, 1, 2), 24 November 2026, ..., at commit abc"``: when, where and with which code."""
    from datetime import date

    day = date.fromisoformat(made.date)
    seeds = ", ".join(map(str, made.seeds))
    parts = [
        f"{'Seed' if len(made.seeds) == 1 else 'Seeds'} {seeds}",
        f"{day.day} {day:%B %Y}",
        " and ".join(made.machines),
        f"{made.nodes} trainings and tests, {made.seconds / 60:.0f} minutes of one worker's time",
    ]
    if made.arithmetic:
        # One machine is named above: its processor need not be told again.
        here = f"{made.machines[0].rpartition(', ')[0]}, " if len(made.machines) == 1 else ""
        parts.append("; ".join(told.removeprefix(here) for told in made.arithmetic))
    if made.commits:
        parts.append(f"commit {', '.join(f'`{commit}`' for commit in made.commits)}")
    return "; ".join(parts)


def _remarks(plan: Plan, results: Results) -> list[str]:
    remarks = []
    counts, frequent = [], []
    for c, column in enumerate(plan.columns):
        items, unseen = _counts(plan, results, c)
        counts.append(f"{column.label} {items}" + (f" ({unseen} unseen)" if unseen else ""))
        cells = [results.cells[n, c] for n in range(len(plan.lines))]
        majority = [cell.majority for cell in cells if cell.majority is not None]
        frequent += [f"{column.label} {max(majority):.0f}"] if majority else []
    kind = "Validation" if plan.spec.metric.of_validation else "Test"
    remarks.append(f"{kind} items: {', '.join(counts)}.")
    if frequent:
        remarks.append(f"Share of the most frequent answer, per cent: {', '.join(frequent)}.")
    wanted = max(cell.wanted for cell in results.cells.values())
    remarks.append(f"Seeds: {wanted}." + ("" if wanted == 1 else " ± is the standard deviation over them."))
    if plan.spec.averaged and any(cell.cost for cell in results.cells.values()):
        remarks.append(
            "Cost of a training, mean over sets and seeds: seconds of its steps without validation, with other runs "
            "beside it. Peak memory is that of the process, the highest of any set."
        )
    remarks += _best_of_sweeps(plan, results)
    if plan.spec.paper_source:
        remarks.append(f"Paper: {plan.spec.paper_source}.")
    if results.made is not None:
        remarks.append(f"{made_text(results.made)}.")
    return remarks


def _problems(plan: Plan, results: Results) -> list[str]:
    found = []
    for (n, c), cell in results.cells.items():
        where = f"{line_label(plan.lines[n])} on {plan.lines[n].backbone.label}, {plan.columns[c].label}"
        if cell.error:
            found.append(f"Failed: {where}: {cell.error}")
        elif 0 < cell.seeds < cell.wanted:
            found.append(f"Partial: {where}: {cell.seeds} of {cell.wanted} seeds.")
        if cell.score is not None and cell.score.std == 0:
            found.append(f"Standard deviation of exactly 0: {where}: did the seed reach anything?")
        base = baseline_of(plan, plan.lines[n])
        before = results.cells[base, c].score if base is not None and plan.lines[base].surrogate else None
        if cell.score and before and (alone := sorted(cell.score.by_seed.keys() - before.by_seed.keys())):
            seeds = f"seed{'s' if len(alone) > 1 else ''} {', '.join(map(str, alone))}"
            found.append(f"No gain at {seeds}: {where}: {_baseline(plan)} is not finished there.")
    missing = sum(cell.seeds == 0 for cell in results.cells.values())
    if missing:
        found.append(f"{missing} of {len(results.cells)} cells are missing ({MISSING}).")
    return found


def _best_of_sweeps(plan: Plan, results: Results) -> list[str]:
    """For each swept row on each backbone, the setting with the best mean, or those with it; an optimum at an edge is
    named as such."""
    sweeps: dict[tuple[str, str], list[tuple[Line, Score]]] = {}
    for number, line in enumerate(plan.lines):
        mean = mean_of([results.cells[number, c].score for c in range(len(plan.columns))])
        if line.row.swept and mean is not None:
            sweeps.setdefault((line.row.swept, line.backbone.id), []).append((line, mean))
    remarks = []
    for found in sweeps.values():
        best = max((mean for _, mean in found), key=lambda mean: mean.mean)
        tied = [line for line, mean in found if math.isclose(mean.mean, best.mean, abs_tol=10**-KEPT_DIGITS)]
        ends = len(found) > 1 and (tied[0] is found[0][0] or tied[-1] is found[-1][0])
        edge = " (at the edge of the grid)" if ends else ""
        names = " and ".join(map(line_label, tied))
        remarks.append(f"Best: {names}: {score_text(best, plan.spec.metric.digits)}{edge}.")
    return remarks
