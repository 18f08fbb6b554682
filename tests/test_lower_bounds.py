"""The oldest versions that ``pyproject.toml`` allows, in an environment of their own (``make lower-bounds``).

torch and torchvision stay as they are: each is some hundred MB, and the Makefile pins them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
STAY = ("torch", "torchvision")
TESTS = ("test_tokenizer.py", "test_load.py", "test_original_layout.py")


def lowest() -> dict[str, Requirement]:
    """Each dependency at its lower bound, by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for wanted in map(Requirement, project["dependencies"]):
        (bound,) = (part.version for part in wanted.specifier if part.operator == ">=")
        found[canonicalize_name(wanted.name)] = Requirement(f"{wanted.name}=={bound}")
    return found


def test_every_dependency_has_one_lower_bound_that_this_environment_meets() -> None:
    """Not above what is installed here, however new that is."""
    bounds = {name: next(iter(pin.specifier)).version for name, pin in lowest().items()}
    assert len(bounds) > 15
    assert [n for n, bound in bounds.items() if Version(bound) > Version(metadata.version(n))] == []


@pytest.mark.skipif("CRAFT_LOWER_BOUNDS" not in os.environ, reason="make lower-bounds: downloads packages")
def test_the_lower_bounds_work_together(tmp_path: Path) -> None:
    pins = [str(pin) for name, pin in lowest().items() if name not in STAY]
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", site, *pins], check=True)
    old = {canonicalize_name(d.metadata["Name"]): d for d in metadata.distributions(path=[str(site)])}
    for name, distribution in old.items():
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                other = old.get(canonicalize_name(wanted.name))
                have = metadata.version(wanted.name) if other is None else other.version
                assert wanted.specifier.contains(have, prereleases=True), f"{name} {distribution.version}: {line}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    smoke = ["--config", "experiments/smoke.yaml", "--trainer.default_root_dir", str(tmp_path / "run")]
    check = "import google.protobuf as p, transformers; print(p.__file__, transformers.__file__)"
    for command in (
        ["-c", check],
        ["-m", "craft_lightning", "fit", *smoke],
        ["-m", "craft_lightning", "test", *smoke, "--encoder", str(tmp_path / "run" / "encoder")],
        ["-m", "pytest", "-x", *(str(ROOT / "tests" / "checkpoints" / name) for name in TESTS)],
    ):
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert command[0] != "-c" or done.stdout.count(str(site)) == 2, done.stdout
