"""Results on disk: one ``node.json`` a node, written by one writer to a temporary name and renamed.

It stands beside what the run itself writes (``result.json``, ``predictions.jsonl``), comes last, and alone says "done".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from craft_lightning.benchmark.plan import CHECKPOINT, Node
from craft_lightning.environment import LIBRARIES, versions
from craft_lightning.io import write_json

RESULT = "node.json"
FAILURE = "failure.json"
STARTED = "started.json"
LOCKS = ".locks"


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's mapping, or None if it is not there or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def result(node: Node) -> dict[str, Any] | None:
    """The node's result if it belongs to these settings, this code and these weights, else None."""
    found = read_json(node.folder / RESULT)
    return found if found is not None and found.get("key") == node.key else None


def state(node: Node) -> str:
    """``done``, ``stale`` (there is a result of other settings, code or weights), ``failed`` or ``missing``."""
    found = read_json(node.folder / RESULT)
    if found is not None:
        return "done" if found.get("key") == node.key else "stale"
    failure = read_json(node.folder / FAILURE)
    return "failed" if failure is not None and failure.get("key") == node.key else "missing"


def why_stale(node: Node) -> str:
    """Which of config, code and weights differ from those of the stored result, in words."""
    old = (read_json(node.folder / RESULT) or {}).get("node", {})
    changed = [name for name in ("config", "code", "weights") if old.get(name) != node.facts[name]]
    return ", ".join(changed) or "the encoder under test"


def other_libraries(nodes: Iterable[Node]) -> str | None:
    """How many results were computed with libraries of other versions than those here, in one line; None if none was.

    They count as done: an upgrade must not cost a table, and what it changes is seldom more than the last digits.
    """
    here, differences, count = versions(), dict[str, set[str]](), 0
    for there in [found["versions"] for found in map(result, nodes) if found is not None and "versions" in found]:
        others = {name: there[name] for name in LIBRARIES if there.get(name, here[name]) != here[name]}
        count += bool(others)
        for name, other in others.items():
            differences.setdefault(name, set()).add(other)
    told = ", ".join(f"{name} {', '.join(sorted(there))}, here {here[name]}" for name, there in differences.items())
    line = f"{count} results are of other libraries ({told}): they are kept; remove them to compute anew"
    return line if count else None


def arithmetic(nodes: Iterable[Node]) -> tuple[str, ...]:
    """What the sums of some results hang on, in words: ``"AMD EPYC (family 25, model 17), threads 1, torch AVX2"``."""
    told = [found.get("made", {}).get("arithmetic") for found in map(result, nodes) if found is not None]
    names = {
        ", ".join(value if name == "processor" else f"{name} {value}" for name, value in t.items()) for t in told if t
    }
    return tuple(sorted(names))


def predictions(node: Node, keep: float | None) -> Path:
    """The replies of a node, or those at one of the keep ratios that it measured beside its own."""
    return node.folder / ("predictions.jsonl" if keep is None else f"predictions.keep{keep}.jsonl")


def failure(node: Node) -> str | None:
    """The last error line of a node that failed, or None."""
    found = read_json(node.folder / FAILURE)
    return str(found.get("error")) if found is not None and found.get("key") == node.key else None


def write_failure(node: Node, error: str) -> None:
    """Remember why a node has no result."""
    write_json(node.folder / FAILURE, {"key": node.key, "error": error})


def prepare(node: Node) -> bool:
    """Make the node's folder ready; True if an interrupted training of the same key left a checkpoint to go on from.

    Otherwise everything in it goes, and with a training the tests below it: they tested the encoder that is replaced.
    """
    mine = (read_json(node.folder / STARTED) or {}).get("key") == node.key
    if mine and node.kind == "train" and (node.folder / CHECKPOINT).is_file():
        return True
    if node.folder.exists():
        shutil.rmtree(node.folder)
    write_json(node.folder / STARTED, {"key": node.key})
    return False


def try_lock(root: Path, node: Node) -> BaseFileLock | None:
    """The node's lock, or None while another process holds it.

    The operating system frees it when its holder dies, so there are no stale locks. Release it to free it.
    """
    path = root / LOCKS / f"{node.name.replace('/', '+')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock
