"""Who may import whom, what stays light, and which names must not appear where."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from craft_lightning.__main__ import VERBS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("craft_lightning", "data_modules", "callbacks")

RANKS = {
    "craft_lightning": 0,
    "craft_lightning.types": 0,
    "craft_lightning.errors": 0,
    "craft_lightning.io": 0,
    "craft_lightning.environment": 0,
    "craft_lightning.settings": 0,
    "craft_lightning.plugins": 0,
    "craft_lightning.run_folder": 1,
    "craft_lightning.run_facts": 1,
    "craft_lightning.text": 1,
    "craft_lightning.losses": 1,
    "craft_lightning.optim": 1,
    "craft_lightning.visualization": 1,
    "craft_lightning.models": 1,
    "craft_lightning.metrics": 2,
    "craft_lightning.checkpoints": 2,
    "craft_lightning.evaluation": 3,
    "craft_lightning.strategies": 3,
    "craft_lightning.workers": 3,
    "data_modules": 3,
    "craft_lightning.inference": 4,
    "craft_lightning.evaluation.lmms_eval": 5,
    "craft_lightning.methods": 5,
    "craft_lightning.benchmark": 6,
    "callbacks": 4,
    "craft_lightning.comparison": 7,
    "craft_lightning.item_images": 7,
    "craft_lightning.encoder_gain": 8,
    "craft_lightning.report": 8,
    "craft_lightning.pretraining": 6,
    "craft_lightning.cli": 9,
    "craft_lightning.worker": 10,
    "craft_lightning.__main__": 10,
}
"""A module may import from a lower rank only; within one prefix anything goes."""


LIGHT = {
    f"craft_lightning.{name}"
    for name in ("benchmark", "workers", "report", "cli.table", "cli.list", "cli.early", "cli.verbs", "__main__")
}
WITH_NUMPY = {"craft_lightning.benchmark.claims"}
"""The bootstrap of a table's claims counts."""


def prefix(module: str) -> str:
    """The longest name of :data:`RANKS` that the module belongs to."""
    known = [p for p in RANKS if module == p or module.startswith(p + ".")]
    return max(known, key=len)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and names of everything imported, inside functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            known = node.module in PACKAGES
            yield from ((node.lineno, f"{node.module}.{a.name}" if known else node.module) for a in node.names)


def violations(module: str, source: str) -> list[str]:
    """Imports of a module that go up or sideways."""
    mine, found = prefix(module), []
    for line, name in imports(ast.parse(source)):
        if name.split(".")[0] not in PACKAGES:
            continue
        theirs = prefix(name)
        if theirs != mine and RANKS[theirs] >= RANKS[mine] and not (RANKS[mine] == RANKS[theirs] == 0):
            found.append(f"{module}:{line} imports {name} (rank {RANKS[theirs]} into rank {RANKS[mine]})")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_imports_go_down() -> None:
    found = [v for module, path in modules() for v in violations(module, path.read_text(encoding="utf-8"))]
    assert found == []


def test_every_module_has_a_rank() -> None:
    without = [m for m, _ in modules() if prefix(m) == "craft_lightning" and m != "craft_lightning"]
    assert without == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("data_modules.datamodule", "from craft_lightning.methods.base import BaseMethod"),
        ("callbacks.result_writer", "import craft_lightning.methods.craft"),
        ("callbacks.run_banner", "def f():\n    from craft_lightning.cli.run import main"),
        ("craft_lightning.losses", "from craft_lightning.metrics import ExactMatch"),
        ("craft_lightning.types", "from craft_lightning import cli"),
        ("craft_lightning.benchmark.plan", "from craft_lightning.report import render"),
    ],
)
def test_a_planted_violation_is_caught(module: str, line: str) -> None:
    assert len(violations(module, line)) == 1


def test_allowed_imports_pass() -> None:
    assert violations("craft_lightning.methods.craft", "from craft_lightning import losses, types") == []
    assert violations("craft_lightning.methods.craft", "from craft_lightning.methods.base import BaseMethod") == []


CLASSES = re.compile(r"^class (\w+)", re.MULTILINE)


def twice(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that stand for two things, with the places of both, from pairs of a name and a place."""
    places: dict[str, list[str]] = {}
    for name, place in names:
        places.setdefault(name, []).append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_a_file_name_stands_once() -> None:
    assert twice((path.name, module) for module, path in modules() if path.name != "__init__.py") == {}


def test_a_class_name_stands_once() -> None:
    texts = ((module, path.read_text(encoding="utf-8")) for module, path in modules())
    assert twice((name, module) for module, text in texts for name in CLASSES.findall(text)) == {}


def test_a_planted_second_class_is_found() -> None:
    texts = {"a": "class Row:\n    class Inner: ...\n", "b": "class Row(Base): ...\nclass Inner: ...\n"}
    assert twice((name, module) for module, text in texts.items() for name in CLASSES.findall(text)) == {
        "Row": ["a", "b"]
    }


def reached(source: str, known: Iterable[str]) -> set[str]:
    """The ``known`` files that a source imports, inside functions, too; what only type checkers read is none."""
    found: set[str] = set()
    nodes = list(ast.walk(ast.parse(source)))
    guards = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    apart = {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    for node in (node for node in nodes if node not in apart):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {part if part in known else node.module for part in parts}
    return found & set(known)


def circle(sources: Mapping[str, str]) -> list[str]:
    """Files that import each other in turn, from the texts of all; empty where no strongly connected component has
    two."""
    try:
        TopologicalSorter({module: reached(source, sources) for module, source in sources.items()}).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return []


def test_no_files_import_each_other() -> None:
    sources = {module: path.read_text(encoding="utf-8") for module, path in modules()}
    assert circle(sources) == []


def test_a_planted_circle_is_found() -> None:
    sources = {
        "callbacks": "from callbacks import a",
        "callbacks.a": "from callbacks import b",
        "callbacks.b": "def f():\n    from callbacks.c import g",
        "callbacks.c": "import callbacks.a, os",
        "callbacks.d": "if TYPE_CHECKING:\n    from callbacks.e import E",
        "callbacks.e": "from callbacks.d import D",
    }
    assert set(circle(sources)) == {"callbacks.a", "callbacks.b", "callbacks.c"}
    assert circle({**sources, "callbacks.b": "if TYPE_CHECKING:\n    from callbacks.c import g"}) == []


def test_light_modules_never_name_torch() -> None:
    heavy = {"torch", "lightning", "transformers", "jsonargparse", "numpy"}
    for module, path in modules():
        if any(f"{module}.".startswith(f"{light}.") for light in LIGHT):
            named = {name.split(".")[0] for _, name in imports(ast.parse(path.read_text(encoding="utf-8")))}
            found = named & (heavy - {"numpy"} if module in WITH_NUMPY else heavy)
            assert not found, f"{module} imports {found}"


@pytest.mark.parametrize(
    "verb",
    [["--help"], ["list", "methods"], ["list", "datasets"], ["--version"], *([verb, "--help"] for verb in VERBS)],
    ids=" ".join,
)
def test_lists_and_help_load_no_torch(verb: list[str]) -> None:
    code = (
        "import sys\nfrom craft_lightning.__main__ import main\n"
        f"try:\n    main({verb!r})\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["False", "False"], done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("fit --config nowhere.yaml", "no config file nowhere.yaml"),
        ("fit --config experiments/smoke.yaml --trainer.max_step 3", "did you mean 'trainer.max_steps'?"),
        ("fit --config experiments/smoke.yaml --model.optim.lrr 3", "did you mean 'model.optim.lr'?"),
        ("fit --config experiments/smoke.yaml --data.source folder --data.root nowhere", "no folder 'nowhere'"),
        ("test --config experiments/smoke.yaml --backbone pocket-vila-v", "did you mean 'pocket-vila-u'?"),
        ("test --config experiments/smoke.yaml --data.dataset eurosta", "did you mean 'eurosat'?"),
        ("tokenize --backbone x --output x --images nowhere", "no image or folder nowhere"),
        ("tokens --backbone x --output x --imagse x", "required: --images"),
    ],
)
def test_these_mistakes_are_told_before_torch_is_loaded(mistake: str, told: str) -> None:
    code = (
        "import sys\nfrom craft_lightning.__main__ import main\n"
        f"print(main({mistake.split()!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert told in done.stderr


ONE_SYSTEM = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg"}


def test_no_module_needs_one_operating_system() -> None:
    """What one system alone has is imported in a ``try``."""
    for module, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tried = [ast.Module(node.body, []) for node in ast.walk(tree) if isinstance(node, ast.Try)]
        guarded = {name for inner in tried for _, name in imports(inner)}
        assert {name for _, name in imports(tree)} & ONE_SYSTEM <= guarded, module


def words(folder: str) -> dict[str, set[str]]:
    return {
        path.name: set(re.findall(r"[a-z0-9_]+", path.read_text(encoding="utf-8").lower()))
        for path in (ROOT / folder).rglob("*.py")
    }


WRITES = r"\.(?:write_text|write_bytes|save|savefig)\(|\bsave_file\(|\bopen\([^)]*[\"'](?:w|x|a)"
UNDER_A_TEMPORARY_NAME = (
    "temporary",
    "partial",
    "savefig(out,",
    "image.save(out,",
    "fabric.save(",
    "experiment.",
    "render.save(",
)
"""What a line, or the one before it, holds that does not write to a final name."""
STREAMS = {
    "craft_lightning/io.py": "the helper",
    "craft_lightning/workers.py": "answers of a worker, line by line",
    "callbacks/report_files.py": "a line a step; its reader drops a last line that was cut off",
    "data_modules/captioning/captioner.py": "a line an image; its reader drops a last line that was cut off",
    "craft_lightning/cli/judge.py": "a line an item; its reader drops a last line that was cut off",
    "craft_lightning/worker.py": "a log",
    "craft_lightning/run_facts.py": "a switch of the kernel",
}
"""Files that write what is no result, or grows by whole lines."""


def direct_writes(source: str) -> list[str]:
    """Lines that write to a name which a reader may already see."""
    lines = source.splitlines()
    pairs = zip(["", *lines], lines, strict=False)
    return [
        line.strip()
        for before, line in pairs
        if re.search(WRITES, line) and not any(mark in before + line for mark in UNDER_A_TEMPORARY_NAME)
    ]


def test_results_are_written_by_the_one_helper() -> None:
    """A kill at any moment leaves the old file or the whole new one (io.py)."""
    paths = [path for _, path in modules() if path.relative_to(ROOT).as_posix() not in STREAMS]
    # The helper that saves tensors breaks its line after the call.
    found = {path.name: direct_writes(path.read_text(encoding="utf-8").replace("save_file(\n", "")) for path in paths}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    ['path.write_text("x")', "sheet.save(args.output)", 'with path.open("w") as file:', "save_file(state, path)"],
)
def test_a_planted_write_is_caught(line: str) -> None:
    assert direct_writes(f"x = 1\n{line}\n") == [line]
    assert direct_writes(f"with fresh_file(path) as temporary:\n    {line}\n") == []


UNKNOWN_NOTES = re.compile(
    r"\bOD-\d|\bDESIGN \d+\.\d|\b(?:methods|vila_u|pocket)\.md\b|\b[Hh]ost facts\b|\bP\d{1,2}[:)]|def test_p\d+_"
)
"""Numbered notes that are not in the repository: who reads a reference to them learns nothing."""


def test_a_reason_stands_where_it_is_needed() -> None:
    folders = (*PACKAGES, "benchmarks", "docs", "experiments", "findings", "tests")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".md", ".yaml", ".sh"}]
    texts = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in (*paths, *ROOT.glob("*.md"))}
    found = {name: UNKNOWN_NOTES.findall(" ".join(text.split())) for name, text in texts.items()}
    assert {name: notes for name, notes in found.items() if notes} == {}


@pytest.mark.parametrize(
    "text", ["as OD" + "-4 says", "(DESIGN" + " 4.11)", "methods" + ".md 1.5", "P2" + "1: a probe"]
)
def test_a_planted_reference_is_found(text: str) -> None:
    assert UNKNOWN_NOTES.search(text)


def test_methods_name_no_dataset() -> None:
    from data_modules.datasets import DATASETS

    found = {file: w & set(DATASETS) for file, w in words("craft_lightning/methods").items() if w & set(DATASETS)}
    assert found == {}


def test_data_modules_name_no_method() -> None:
    from craft_lightning.methods import METHODS

    names = set(METHODS) - {"zero_shot"}
    quoted = {
        path.name: [n for n in names if re.search(rf"[\"']{n}[\"']", path.read_text(encoding="utf-8"))]
        for path in (ROOT / "data_modules").rglob("*.py")
    }
    assert {file: n for file, n in quoted.items() if n} == {}


def test_methods_are_short() -> None:
    own = {"__init__.py", "base.py"}
    for path in (ROOT / "craft_lightning" / "methods").glob("*.py"):
        if path.name not in own:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lines = _code_lines(tree)
            assert lines <= 80, f"{path.name} has {lines} lines of code"


def _code_lines(tree: ast.Module) -> int:
    """Lines that hold code: no blank lines, no docstrings."""
    held: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            compound = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If | ast.For | ast.With)
            end = node.body[0].lineno - 1 if compound else (node.end_lineno or node.lineno)
            held |= set(range(node.lineno, max(node.lineno, end) + 1))
    return len(held)
