"""``doctor``: what this machine has and what is missing, before any of it is needed.

Nothing heavy is imported before it is looked at, and a check that breaks is a cross like any other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from craft_lightning import __version__
from craft_lightning.cli.arguments import verb_parser
from craft_lightning.environment import PACKAGES, ROOT, in_checkout, no_shadows
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import (
    BACKBONES,
    POCKET,
    SMALL_PACKAGE,
    hub_folder,
    missing_base,
    models_root,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "craft-lightning"
OLDEST_PYTHON = (3, 11)
MEMORY_GIB = 2.0
DISK_GIB = {"pocket": 1.0, "paper": 60.0}
"""What has to be free: a table of pocket runs takes some hundred MB; a 7B checkpoint and its export 20 GB each."""
FOLDERS = {"CRAFT_MODELS": "checkpoints", "CRAFT_REAL_DATA": "real images", "HF_HOME": "the hub's cache"}
"""Folders that an environment variable may name."""
PIP = f"{sys.executable} -m pip install"
AGAIN = "make install" if in_checkout() else f"{PIP} --force-reinstall {NAME}"
"""What makes our own packages whole."""
ELSEWHERE = "python -m craft_lightning table run table1 --scale paper --launcher slurm"
GIB = 2**30


@dataclass(frozen=True)
class CheckResult:
    """What a check found: whether all is well, in words, and the command that mends it where it is not."""

    ok: bool
    text: str
    mend: str = ""


def main(argv: Sequence[str]) -> int:
    """The verb; returns 0 if every check passes, else 1."""
    parser = verb_parser(
        "doctor", "What this machine has, and what is missing with the command that mends it. Exit 1 on a cross."
    )
    parser.shared("--scale")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    args = parser.parse_args(argv)
    found = examine(args.scale)
    healthy = all(f.ok for f in found.values())
    if args.json:
        checks = [{"number": n, "name": k, **asdict(f)} for n, (k, f) in enumerate(found.items(), 1)]
        print(json.dumps({"version": __version__, "scale": args.scale, "ok": healthy, "checks": checks}, indent=1))
        return 0 if healthy else 1
    speaks = "✓✗".encode(sys.stdout.encoding or "ascii", "ignore")
    marks = ("✓", "✗") if speaks else ("ok", "NO")
    for number, (name, one) in enumerate(found.items(), 1):
        print(f"{number:>2} {marks[not one.ok]} {name:<9} {one.text}")
        if not one.ok:
            print(f"{'':>{5 + len(marks[1])}}{'':<9}mend it: {one.mend}")
    return 0 if healthy else 1


def examine(scale: str) -> dict[str, CheckResult]:
    """Every check by its name, in order; the scale, ``pocket`` or ``paper``, says what counts as missing."""
    checks: dict[str, Callable[[], CheckResult]] = {
        "python": python,
        "packages": packages,
        "shadows": shadows,
        "source": lambda: CheckResult(True, f"craft_lightning {__version__} in {ROOT}"),
        "memory": memory,
        "devices": lambda: devices(scale),
        "disk": lambda: disk(scale),
        "folders": folders,
        "models": lambda: models(scale),
        "hub token": lambda: hub_token(scale),
    }
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:
            what = " ".join(str(error).split()) or type(error).__name__
            found[name] = CheckResult(False, f"the check itself failed: {what}", AGAIN)
    return found


def python() -> CheckResult:
    """Version and place of the interpreter."""
    text = f"{platform.python_version()} at {sys.executable}"
    wanted = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return CheckResult(False, f"{text}, older than {wanted}", f"make install PYTHON=python{wanted}")
    return CheckResult(True, text)


def declared() -> list[str]:
    """The packages that every run needs, as the checkout's project file or the installed package writes them."""
    if not in_checkout():
        return list(metadata.requires(NAME) or ())
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"])


def requirements() -> list[Requirement]:
    """What of them is asked for on this machine; those of extras are not."""
    from packaging.requirements import Requirement

    found = map(Requirement, declared())
    return [wanted for wanted in found if wanted.marker is None or wanted.marker.evaluate({"extra": ""})]


def packages() -> CheckResult:
    """Whether every package is there, in a version that will do."""
    if importlib.util.find_spec("packaging") is None:
        return CheckResult(False, "packaging is missing, by which the others are checked", f"{PIP} packaging")
    wanted = {str(wanted): wanted for wanted in requirements()}
    have: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for text, requirement in wanted.items():
        name = requirement.name
        try:
            have[name] = metadata.version(name)
            if not requirement.specifier.contains(have[name], prereleases=True):
                wrong[text] = f"{name} {have[name]} is not {requirement.specifier}"
        except metadata.PackageNotFoundError:
            wrong[text] = f"{name} is missing"
    if wrong:
        again = " ".join(f"'{text.partition(';')[0].strip()}'" for text in wrong)
        return CheckResult(False, "; ".join(wrong.values()), f"{PIP} --upgrade {again}")
    shown = ", ".join(f"{name} {have[name]}" for name in ("torch", "lightning", "transformers") if name in have)
    small = "" if importlib.util.find_spec("bitsandbytes") else f"; no weights in 8 or 4 bits without {SMALL_PACKAGE}"
    return CheckResult(True, f"{len(wanted)} of {len(wanted)} as wanted: {shown}{small}")


def shadows() -> CheckResult:
    """What Python finds in place of our packages, of an installed one or of a part of itself."""
    try:
        no_shadows()
    except CraftError as error:
        text, _, mend = str(error).rpartition(": ")
        return CheckResult(False, text, mend)
    return in_the_way()


def in_the_way() -> CheckResult:
    """Files in the working folder that Python takes for an installed package or a part of itself."""
    here = Path.cwd()
    if not {"", str(here)} & set(sys.path):
        return CheckResult(True, f"modules are not looked for in {here}")
    elsewhere = [place for place in sys.path if place not in ("", str(here))]
    files = {file.stem: file for file in (*here.glob("*.py"), *(f.parent for f in here.glob("*/__init__.py")))}
    hidden = [n for n in files if n in sys.stdlib_module_names or PathFinder.find_spec(n, elsewhere)]
    if hiding := sorted(files[name] for name in hidden if name not in (*PACKAGES, "test")):
        listed = ", ".join(file.name for file in hiding)
        renames = " && ".join(f"mv {file} {file.with_name(f'my_{file.name}')}" for file in hiding)
        return CheckResult(False, f"{listed} in {here} hides the module of that name", renames)
    return CheckResult(True, f"nothing in {here} hides a module")


def memory() -> CheckResult:
    """Working memory that is free."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return CheckResult(True, "unknown on this system")
    gib = {name: int(kib) * 1024 / GIB for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", told, re.MULTILINE)}
    text = f"{gib['MemAvailable']:.1f} of {gib['MemTotal']:.1f} GiB free, {os.cpu_count()} cores"
    if gib["MemAvailable"] < MEMORY_GIB:
        return CheckResult(False, f"{text}; a pocket run takes {MEMORY_GIB:.0f}", "ps aux --sort=-rss | head")
    return CheckResult(True, text)


def devices(scale: str) -> CheckResult:
    """GPUs as torch sees them, with their memory; torch is imported here, unless something hides it."""
    hidden = in_the_way()
    if not hidden.ok:
        return CheckResult(False, "not looked at: importing torch might run a file of yours", hidden.mend)
    import torch

    if torch.cuda.is_available():
        sizes = [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(torch.cuda.device_count())]
        texts = [f"{n}, {free / GIB:.1f} of {all_ / GIB:.1f} GiB free" for n, free, all_ in sizes]
        return CheckResult(True, "; ".join(texts))
    threads = torch.get_num_threads()
    cpu = f"CPU with {threads} thread{'s' * (threads > 1)}"
    if shutil.which("nvidia-smi"):
        built, again = torch.version.cuda, f"{PIP} --force-reinstall torch torchvision"
        text = f"{cpu}: torch, built for CUDA {built}, sees none of the machine's GPUs"
        return CheckResult(False, text, "nvidia-smi" if built else again)
    if scale == "paper":
        return CheckResult(False, f"{cpu}, no GPU: too slow for models of this size", ELSEWHERE)
    return CheckResult(True, f"{cpu}, no GPU: enough at pocket scale")


def disk(scale: str) -> CheckResult:
    """Room and permission to write where runs and checkpoints go."""
    here, texts, needed = Path.cwd(), [], DISK_GIB[scale]
    if not os.access(here, os.W_OK):
        return CheckResult(False, f"{here} cannot be written to", f"chmod u+w {here}")
    root = models_root().absolute()
    existing = next(folder for folder in (root, *root.parents) if folder.is_dir())
    for place in dict.fromkeys((here, existing)):
        free = shutil.disk_usage(place).free / GIB
        texts.append(f"{free:.0f} GiB free in {place}")
        if free < needed:
            text = f"{free:.1f} GiB free in {place}, {needed:.0f} are needed at {scale} scale"
            return CheckResult(False, text, f"du -xh --max-depth=2 {place} | sort -h | tail")
    return CheckResult(True, ", ".join(texts))


def folders() -> CheckResult:
    """Folders that environment variables name."""
    named = {name: Path(os.environ[name]) for name in FOLDERS if os.environ.get(name)}
    if missing := {name: path for name, path in named.items() if not path.is_dir()}:
        text = "; ".join(f"${name} names {path}, which is no folder" for name, path in missing.items())
        return CheckResult(False, text, " && ".join(f"mkdir -p {path}" for path in missing.values()))
    texts = [f"${name} {named.get(name, 'not set')} ({about})" for name, about in FOLDERS.items()]
    return CheckResult(True, ", ".join(texts))


def models(scale: str) -> CheckResult:
    """Checkpoints on this machine: the shipped ones, and at paper scale the paper's host."""
    shipped = [n for n, b in BACKBONES.items() if b.source == "pocket" and (POCKET / n / "config.json").is_file()]
    local = [n for n, b in BACKBONES.items() if b.source != "pocket" and (models_root() / n).is_dir()]
    text = f"{', '.join(shipped) or 'no pocket model'}; in {models_root()}: {', '.join(local) or 'none'}"
    text += "".join(f"; {n} also needs {mend}" for n in shipped if (mend := missing_base(POCKET / n)))
    if not shipped:
        return CheckResult(False, text, f"git -C {ROOT} checkout -- craft_lightning/pocket" if in_checkout() else AGAIN)
    if scale == "paper":
        host = BACKBONES["vila-u-7b-256"]
        if host.name not in local and hub_folder(host.source) is None:
            return CheckResult(False, f"{text}; no {host.name}", f"hf download {host.source}")
    return CheckResult(True, text)


def hub_token(scale: str) -> CheckResult:
    """Whether there is a token for gated repositories. Never what it is."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    if variable or file.is_file():
        return CheckResult(True, f"there is one ({f'${variable}' if variable else file})")
    if scale == "paper":
        return CheckResult(False, "none, and gated repositories need one", "hf auth login")
    return CheckResult(True, "none, and none is needed at pocket scale")
