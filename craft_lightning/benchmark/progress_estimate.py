"""How far a run is, and how long it still takes."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field

from filelock import BaseFileLock

from craft_lightning.benchmark.plan import Node

TELLING = 0.1
"""A running node foretells its own duration after this share of its steps."""

Group = tuple[str, ...]


@dataclass
class Running:
    """A node at work: its lock, when it was handed over, the last step it told, and those that it began with."""

    node: Node
    lock: BaseFileLock
    since: float
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    before: int = 0

    def spent(self) -> float:
        """Seconds since it was handed over."""
        return time.monotonic() - self.since

    def foretold(self) -> float | None:
        """Its whole duration if the steps to come take as long as those done; None before there are enough."""
        if not self.step or not self.steps or self.step - self.before < TELLING * (self.steps - self.before):
            return None
        return self.spent() * (1 + (self.steps - self.step) / (self.step - self.before))


@dataclass
class Progress:
    """What the live view shows.

    Attributes:
        total: nodes of the plan. already: how many were done before.
        done: seconds by name of node, those of earlier runs included. failed: last error line by name of node.
        waiting: nodes to come. elsewhere: names of nodes that another runner computes.
    """

    total: int
    jobs: int
    already: int = 0
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[Node] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    _seconds: dict[Group, list[float]] = field(default_factory=dict)

    def note(self, node: Node, seconds: float) -> None:
        """A node is done."""
        self.done[node.name] = seconds
        for group in _groups(node):
            self._seconds.setdefault(group, []).append(seconds)

    def expected(self, node: Node) -> float | None:
        """Mean seconds of the nodes most like this one, finished ones or else running ones; None without any."""
        for group in _groups(node):
            known = self._seconds.get(group) or [
                foretold for r in self.running if group in _groups(r.node) and (foretold := r.foretold()) is not None
            ]
            if known:
                return sum(known) / len(known)
        return None

    def seconds_left(self) -> float | None:
        """Estimate of the time to the end; None while nothing is known of a kind of node that is to come.

        The rest of the run is played through with the expected durations: each job takes the next node whose training
        is done, as the runner does.
        """
        to_come = [*(r.node for r in self.running), *self.waiting]
        alike = {_groups(node)[0]: node for node in to_come}
        expected = {group: self.expected(node) for group, node in alike.items()}
        durations = {n.name: seconds for n in to_come if (seconds := expected[_groups(n)[0]]) is not None}
        if len(durations) < len(to_come):
            return None
        # What runs knows best how long it takes.
        durations |= {r.node.name: foretold for r in self.running if (foretold := r.foretold()) is not None}
        busy = [(max(durations[r.node.name] - r.spent(), 0.0), r.node.name) for r in self.running]
        heapq.heapify(busy)
        now, waiting, pending = 0.0, list(self.waiting), set(durations)
        while waiting:
            startable = (i for i, n in enumerate(waiting) if n.parent is None or n.parent.name not in pending)
            index = next(startable, None) if len(busy) < self.jobs else None
            if index is None and busy:
                now, finished = heapq.heappop(busy)
                pending.discard(finished)
            else:
                node = waiting.pop(index or 0)
                heapq.heappush(busy, (now + durations[node.name], node.name))
        return max((end for end, _ in busy), default=0.0)


def _groups(node: Node) -> list[Group]:
    """What a node's duration is like that of, the most alike first."""
    kind, method, backbone = node.kind, str(node.facts["method"]), str(node.facts["backbone"])
    return [(kind, method, backbone), (kind, "", backbone), (kind, method), (kind,)]
