"""A table as sections of texts, before any format; a missing cell is shown as missing, never as a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Job, Plan, baseline_of
from craft_lightning.benchmark.results import (
    KEPT_DIGITS,
    Cell,
    Results,
    Score,
    There,
    gains,
    mean_of,
    paper_gains,
    paper_scores,
)
from craft_lightning.benchmark.table_parts import Line, counted
from craft_lightning.benchmark.table_values import Metric
from craft_lightning.report.figure import curves, traces
from craft_lightning.report.matrix import matrices, matrix_grid, pair_grid
from craft_lightning.report.report import DECIDED, MISSING, Section, TableReport, claim_texts, made_text, score_text

LABELS = ("seen", "unseen")


def build_report(plan: Plan, results: Results) -> TableReport:
    """Accuracy beside the paper's, gain over the own baseline row, seen and unseen labels, cost, claims, remarks."""
    return _SectionBuilder(plan, results).report()


class _SectionBuilder:
    """Sections of a plan and its results."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self.plan, self.spec, self.results = plan, plan.spec, results
        self.lines = list(enumerate(plan.lines))
        self.baseline = next((row.label for row in plan.spec.rows if row.id == plan.spec.baseline), "")
        self.by_column = [[results.cells[n, c] for n, _ in self.lines] for c in range(len(plan.columns))]
        # Test items of each column, all and of held-out labels, and the columns that have such.
        self.items = [max(cell.items for cell in cells) for cells in self.by_column]
        self.unseen = [max(cell.items_unseen for cell in cells) for cells in self.by_column]
        self.labelled = [c for c, unseen in enumerate(self.unseen) if unseen]

    def report(self) -> TableReport:
        """All sections, in the order in which they are shown."""
        verdicts = [f"{head}. {rest}" for head, rest in map(claim_texts, self.results.verdicts)]
        over = f"over {self.baseline}"
        metrics = self.spec.metrics
        scores = tuple(self.beside_paper(m.title, m, self.scores, paper_scores, signed=False) for m in metrics)
        gain = f"Gain {over} on the same backbone, points"
        titles = [gain if len(metrics) == 1 else f"{m.label}: {gain[0].lower()}{gain[1:]}" for m in metrics]
        gained = tuple(
            self.beside_paper(title, m, self.gains, paper_gains, signed=True)
            for title, m in zip(titles, metrics, strict=True)
        )
        others = [section for pair in zip(scores[1:], gained[1:], strict=True) for section in pair]
        own = "" if len(metrics) == 1 else f" in {self.spec.metric.label.lower()}"
        summary = self.summary(f"Mean gain{own} {over}, points, and cost of a training")
        receiving = self.receiving(f"On the receiving side: gain {over}, points, and what was trained there")
        by_surrogate = f"mean gain {over} by surrogate, points"
        groups = matrices(self.plan, self.results)
        crossed = [Section(f"{group[0].label}: {by_surrogate}", *matrix_grid(group, self.text)) for group in groups]
        pairs = Section(f"Surrogates and backbones: mean gain {over}, points", *pair_grid(groups, self.text))
        tracing = self.tracing(f"{self.spec.trace} over the steps, mean over the sets")
        labels = self.label_gains(f"Seen / unseen labels: gain {over} on the same labels, points")
        drawn = self.spec.receivers or self.spec.trace or curves(self.plan) or crossed or self.spec.replies
        return TableReport(
            title=self.spec.title or self.spec.name,
            note=self.spec.note,
            made="" if self.results.made is None else made_text(self.results.made),
            sections=tuple(
                section
                for section in (scores[0], *crossed, pairs, gained[0], *others, receiving, tracing, labels, summary)
                if section.rows
            ),
            scores=scores,
            gains=gained,
            summary=summary,
            pairs=pairs,
            claims=tuple([*verdicts, DECIDED] if verdicts else ()),
            remarks=tuple(self.remarks()),
            problems=tuple(self.problems()),
            picture=f"{self.spec.name}.png" if drawn else "",
        )

    def text(self, score: Score | None, signed: bool = True, metric: Metric | None = None) -> str:
        return score_text(score, (metric or self.spec.metric).digits, signed)

    def scores(self, number: int) -> list[Score | None]:
        return [cells[number].score for cells in self.by_column]

    def gains(self, number: int) -> list[Score | None]:
        return gains(self.plan, self.results.cells, number)

    def mean(self, scores: Sequence[Score | None]) -> Score | None:
        """Of one value a column, over the columns that count."""
        return mean_of([scores[c] for c in self.plan.counted])

    def part_gains(self, number: int) -> list[list[Score | None]]:
        """A line's gains on seen and on unseen labels, at the columns that hold labels out."""
        found = [gains(self.plan, self.results.cells, number, part) for part in LABELS]
        return [[part[c] for c in self.labelled] if part else [] for part in found]

    def beside_paper(
        self,
        title: str,
        metric: Metric,
        make: Callable[[int], list[Score | None]],
        quote: Callable[[Plan, Line], list[Score | None]],
        signed: bool,
    ) -> Section:
        """Our lines at the columns of a metric, each with the paper's below it; ``make`` gives a value a column,
        ``quote`` the mean of the table, too."""
        rows, paper = list[tuple[str, ...]](), list[bool]()
        columns = [c for c, column in enumerate(self.plan.columns) if column.metric == metric]
        means = counted(self.plan.columns, metric)
        for number, line in self.lines:
            scores = make(number)
            if not scores:
                continue
            mean = [mean_of([scores[c] for c in means])] if self.spec.averaged else []
            texts = [self.text(s, signed, metric) for s in (*(scores[c] for c in columns), *mean)]
            rows.append((line.backbone.label, line.label, *texts))
            printed = quote(self.plan, line) or [None] * (len(self.plan.columns) + 1)
            quoted = [printed[c] for c in columns]
            # The mean that the paper prints is of all columns.
            quoted += [printed[-1] if len(columns) == len(self.plan.columns) else mean_of(quoted)]
            if any(quoted):
                texts = [self.text(s, signed, metric) for s in quoted[: len(columns) + len(mean)]]
                rows.append((line.backbone.paper, f"paper: {line.paper}", *texts))
            paper += [False, True] if any(quoted) else [False]
        labels = [self.plan.columns[c].label for c in columns]
        names = labels + (["Mean"] if self.spec.averaged else [])
        return Section(title, ("Backbone", "Method", *names), tuple(rows), tuple(paper))

    def receiving(self, title: str) -> Section:
        """A row a line on a receiver: its mean gain, that at the columns that do not count in it, and what was trained
        there."""
        others = [c for c in range(len(self.plan.columns)) if c not in self.plan.counted]
        rows = []
        for number, line in self.lines:
            gained = self.gains(number)
            if not gained or line.backbone.id not in self.spec.receivers:
                continue
            texts = [self.text(self.mean(gained)), *(self.text(gained[c]) for c in others)]
            there = [self.by_column[c][number].there for c in self.plan.counted]
            rows.append((line.backbone.label, line.label, *texts, *_there_texts(there)))
        labels = [self.plan.columns[c].label for c in others]
        header = ("Backbone", "Method", "Mean gain", *labels, "Steps there", "Seconds there", "Parameters there")
        return Section(title, header, tuple(rows), (False,) * len(rows))

    def tracing(self, title: str) -> Section:
        """A row a training: the table's scalar at the first step, at the last one, and at three between them."""
        found = traces(self.plan, self.results)
        steps = sorted({step for traced in found.values() for trace in traced for step in trace})
        steps = [steps[place * (len(steps) - 1) // 4] for place in range(5)] if len(steps) > 4 else steps
        rows = []
        for number, traced in found.items():
            line, values = self.plan.lines[number], [[trace.get(step) for trace in traced] for step in steps]
            texts = [
                f"{fmean(v for v in each if v is not None):.3g}" if None not in each else MISSING for each in values
            ]
            rows.append((line.backbone.label, line.training_label, *texts))
        return Section(title, ("Backbone", "Method", *(f"Step {n}" for n in steps)), tuple(rows), (False,) * len(rows))

    def label_gains(self, title: str) -> Section:
        """Gains over the baseline on the same labels (the language models have read the words of the unseen ones)."""
        rows = []
        for number, line in self.lines:
            parts = self.part_gains(number)
            if any(any(part) for part in parts):
                pairs = zip(*([*part, mean_of(part)] for part in parts), strict=True)
                rows.append((line.backbone.label, line.label, *(" / ".join(map(self.text, pair)) for pair in pairs)))
        counts = [(self.plan.columns[c].label, self.items[c], self.unseen[c]) for c in self.labelled]
        header = (
            "Backbone",
            "Method",
            *(f"{label} (n {n - unseen} / {unseen})" for label, n, unseen in counts),
            "Mean",
        )
        return Section(title, header, tuple(rows), (False,) * len(rows))

    def summary(self, title: str) -> Section:
        """A row a line: mean gains beside the paper's, and what the training cost."""
        rows = []
        for number, line in self.lines:
            gained = self.gains(number)
            if not gained or not self.spec.averaged:
                continue
            gained = [gained[c] for c in self.plan.counted]
            above = sum(score is not None and score.mean > 0 for score in gained)
            texts = [self.text(mean_of(gained)), f"{above} of {len(gained)}"]
            quoted = paper_gains(self.plan, line) or [None] * (len(self.plan.columns) + 1)
            # The mean that the paper prints is of all columns.
            theirs = quoted[-1] if len(self.spec.metrics) == 1 else self.mean(quoted)
            texts += [self.text(theirs)] if self.spec.paper.values else []
            texts += [self.text(mean_of(part)) for part in self.part_gains(number)] if self.labelled else []
            cells = [self.by_column[c][number] for c in self.plan.counted]
            rows.append((line.backbone.label, line.label, *texts, *_cost_texts(cells)))
        items, unseen = (sum(counts[c] for c in self.labelled) for counts in (self.items, self.unseen))
        header = ["Backbone", "Method", "Mean gain", "Sets with a gain"]
        header += ["Paper's gain"] if self.spec.paper.values else []
        header += [f"Seen labels (n {items - unseen})", f"Unseen labels (n {unseen})"] if self.labelled else []
        header += ["Trained parameters", "Seconds", "Peak MB"]
        return Section(title, tuple(header), tuple(rows), (False,) * len(rows))

    def remarks(self) -> list[str]:
        """What a reader of the numbers has to know: items, majority answers, seeds, the paper's source."""
        labels = {c: column.label for c, column in enumerate(self.plan.columns) if column.metric == self.spec.metric}
        counts = [
            f"{label} {self.items[c]}" + (f" ({self.unseen[c]} unseen)" if self.unseen[c] else "")
            for c, label in labels.items()
        ]
        shares = {c: [cell.majority for cell in self.by_column[c] if cell.majority is not None] for c in labels}
        frequent = [f"{labels[c]} {max(share):.0f}" for c, share in shares.items() if share]
        lost = {c: max(cell.left_out for cell in self.by_column[c]) for c in labels}
        failed = [f"{labels[c]} {count}" for c, count in lost.items() if count]
        cells = self.results.cells.values()
        wanted = max(cell.wanted for cell in cells)
        remarks = [f"{'Validation' if self.spec.metric.of_validation else 'Test'} items: {', '.join(counts)}."]
        if failed:
            remarks.append(f"Left out for all rows, because one of them is not judged there: {', '.join(failed)}.")
        if frequent:
            remarks.append(f"Always giving the most frequent answer would score, per cent: {', '.join(frequent)}.")
        remarks.append(f"Seeds: {wanted}." + ("" if wanted == 1 else " ± is the standard deviation over them."))
        if self.spec.averaged and any(cell.cost for cell in cells):
            remarks.append(
                "Seconds and parameters are means over sets and seeds. Seconds: training steps without validation, "
                "while other runs shared the machine. Peak MB: memory of the whole process, the highest of any set."
            )
        remarks += self.best_of_sweeps()
        remarks += [f"Paper: {self.spec.paper.source}."] if self.spec.paper.source else []
        return remarks + ([f"{made_text(self.results.made)}."] if self.results.made is not None else [])

    def best_of_sweeps(self) -> list[str]:
        """For each swept row on each backbone, the setting with the best mean, or those with it; an optimum at an edge
        is named as such."""
        sweeps: dict[tuple[str, str], list[tuple[Line, Score]]] = {}
        for number, line in self.lines:
            mean = self.mean(self.scores(number))
            if line.row.swept and mean is not None:
                sweeps.setdefault((line.row.swept, line.backbone.id), []).append((line, mean))
        remarks = []
        for found in sweeps.values():
            best = max((mean for _, mean in found), key=lambda mean: mean.mean)
            tied = [line for line, mean in found if math.isclose(mean.mean, best.mean, abs_tol=10**-KEPT_DIGITS)]
            ends = len(found) > 1 and (tied[0] is found[0][0] or tied[-1] is found[-1][0])
            names = " and ".join(line.label for line in tied)
            remarks.append(
                f"Best: {names}: {self.text(best, signed=False)}{' (at the edge of the grid)' if ends else ''}."
            )
        return remarks

    def problems(self) -> list[str]:
        """Cells that failed, are partial, or whose seeds agree to the last digit."""
        found = []
        for (n, c), cell in self.results.cells.items():
            line = self.plan.lines[n]
            where = f"{line.label} on {line.backbone.label}, {self.plan.columns[c].label}"
            if cell.error:
                found.append(f"Failed: {where}: {cell.error}")
            elif 0 < cell.seeds < cell.wanted:
                found.append(f"Partial: {where}: {cell.seeds} of {cell.wanted} seeds.")
            if cell.score is not None and cell.score.std == 0:
                found.append(f"Standard deviation of exactly 0: {where}: did the seed reach anything?")
            base = baseline_of(self.plan, line)
            before = self.results.cells[base, c].score if base is not None and self.plan.lines[base].surrogate else None
            if cell.score and before and (alone := sorted(cell.score.by_seed.keys() - before.by_seed.keys())):
                seeds = f"seed{'s' if len(alone) > 1 else ''} {', '.join(map(str, alone))}"
                found.append(f"No gain at {seeds}: {where}: {self.baseline} is not finished there.")
        judged = self.plan.counted if self.spec.metric.judged else ()
        tested = {place: _seeds_done(self.plan.cells[place]) for place in self.results.cells if place[1] in judged}
        if waiting := sum(self.results.cells[place].seeds < len(done) for place, done in tested.items()):
            call = f"python -m craft_lightning judge {self.spec.path.as_posix()} --budget {self.spec.budget.name}"
            given = " ".join(map(str, sorted(set().union(*tested.values()))))
            found.append(
                f"Cells that are not judged yet, {waiting}: {call} --seeds {given} --runs {self.plan.root.parent}"
            )
        missing = sum(cell.seeds == 0 for cell in self.results.cells.values())
        return found + ([f"{missing} of {len(self.results.cells)} cells are missing ({MISSING})."] if missing else [])


def _seeds_done(jobs: Sequence[Job]) -> set[int]:
    """Seeds of which every job is done."""
    left = {job.facts["seed"] for job in jobs if store.result(job) is None}
    return {job.facts["seed"] for job in jobs} - left


def _cost_texts(cells: Sequence[Cell]) -> list[str]:
    """Parameters, mean seconds of a training, highest peak memory."""
    costs = [cell.cost for cell in cells if cell.cost is not None]
    if not costs:
        return [MISSING] * 3
    seconds = sum(cost.seconds for cost in costs) / len(costs)
    return [f"{costs[0].parameters:,.0f}", f"{seconds:.0f}", f"{max(cost.memory for cost in costs):,.0f}"]


def _there_texts(found: Sequence[There | None]) -> list[str]:
    """Mean steps and seconds over the columns, and parameters."""
    known = [there for there in found if there is not None]
    if len(known) < len(found):
        return [MISSING] * 3
    steps, seconds = (sum(values) / len(known) for values in zip(*((t.steps, t.seconds) for t in known), strict=True))
    return [f"{steps:,.0f}", f"{seconds:,.0f}", f"{known[0].parameters:,.0f}"]
