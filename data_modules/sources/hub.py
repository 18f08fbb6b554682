"""Which copies of the datasets the hub has, and their download as a snapshot of parquet files.

Nothing else is fetched, so no code of a repository is ever there to run.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

from craft_lightning.errors import CraftError
from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.sources.items import SPLIT_NAMES

WORDS = [*(word for names in SPLIT_NAMES.values() for word in names), "full", "all"]
"""Names of splits in the order in which they count; mirrors give the last two to everything in one piece."""


def fetched(facts: DatasetFacts, hub_id: str | None, revision: str | None) -> tuple[bool, str]:
    """Whether a copy is on this machine, and the command that fetches it; asks no network. Raises as :func:`choose`."""
    from huggingface_hub import errors, snapshot_download

    table = choose(facts, hub_id, revision)
    pinned = f" --revision {table.revision}" if table.revision else ""
    command = f"hf download {table.id} --repo-type dataset{pinned} --include '*.parquet'"
    try:
        snapshot_download(table.id, repo_type="dataset", revision=table.revision, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        return False, command
    return True, command


def further(facts: DatasetFacts, table: HubTable) -> str:
    """The command to try when a copy fails: the next one, or the authors' files."""
    usable = [t.id for t in facts.hub if not t.unusable]
    after = usable[usable.index(table.id) + 1 :] if table.id in usable else usable
    files = "use the authors' files: --data.source folder --data.root FOLDER (docs/datasets.md)"
    return f"try --data.hub_id {after[0]}" if after else files


def choose(facts: DatasetFacts, hub_id: str | None, revision: str | None) -> HubTable:
    """A copy of the dataset: the first choice, or another repository or revision. Raises CraftError: none is known, or
    it cannot be read."""
    if hub_id is None and all(table.unusable for table in facts.hub):
        get = f"{facts.elsewhere}, then --data.source folder --data.root FOLDER"
        raise CraftError(f"no copy of {facts.title} on the hub is known; {get}")
    table = next((t for t in facts.hub if t.id == (hub_id or t.id)), HubTable(id=hub_id or ""))
    if table.unusable:
        raise CraftError(f"{table.id} cannot be read: {table.unusable}; {further(facts, HubTable(''))}")
    return replace(table, revision=revision or table.revision)


def download(facts: DatasetFacts, table: HubTable) -> Path:
    """The folder of the snapshot, downloaded as far as it is not there yet. Raises CraftError: moved, gated, no network
    and no copy, no space left, or no tables."""
    from huggingface_hub import snapshot_download

    page, wanted = f"https://huggingface.co/datasets/{table.id}", _patterns(table.config)
    try:
        folder = Path(snapshot_download(table.id, repo_type="dataset", revision=table.revision, allow_patterns=wanted))
    except Exception as error:  # the client's transport has errors of its own
        absent = f"no dataset {table.id} on the hub (moved or private); {further(facts, table)}"
        copy = f"hf download {table.id} --repo-type dataset --local-dir FOLDER, then here --data.root FOLDER"
        raise hub_error(error, table.id, page, table.revision, absent, copy) from error
    if not any(folder.rglob("*.parquet")):
        branch = f"try its converted branch, --data.hub_revision refs/convert/parquet, or {further(facts, table)}"
        raise CraftError(f"{table.id} has no parquet files of train, validation or test; {branch}")
    return folder


def _patterns(config: str | None) -> list[str]:
    """Files of the splits alone: some repositories hold many times as much in corrupted copies."""
    start = f"{config}/" if config else ""
    return [pattern for w in WORDS for pattern in (f"{start}{w}*.parquet", f"{start}*/{w}*.parquet", f"{start}*{w}/*")]


def hub_error(error: Exception, name: str, page: str, revision: str | None, absent: str, copy: str) -> CraftError:
    """What failed in the hub's client, and what to do.

    Args:
        error: the client's. name, page: of the repository. revision: asked for. absent: what to say if there is no such
            repository. copy: the commands that bring it here from a machine with a network.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return CraftError(f"{name} is gated: accept its terms on {page}, then run: hf auth login")
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return CraftError(absent)
    if isinstance(error, errors.RevisionNotFoundError):
        return CraftError(f"{name} has no revision {revision!r}; its revisions: {page}/commits")
    # No copy here: the cause tells whether the hub answered. A refusal or a fault of its own is no lost network.
    answered = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(answered, errors.HfHubHTTPError):
        why = _line(answered)
    elif isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError)):
        missing = f"{name} is not (or not whole) on this machine"
        return CraftError(f"the hub cannot be reached and {missing}; with a network, run {copy}")
    elif isinstance(error, OSError):
        return no_space(error, name)
    else:
        why = f"{type(error).__name__}: {_line(error)}"
    return CraftError(f"{name} could not be fetched ({why}); run the same command again")


def no_space(error: OSError, what: str) -> CraftError:
    """The line for an error of the disk, above all a full one or one that cannot be written."""
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "disk space" in str(error):
        at = next(p for p in (Path(cache).expanduser(), *Path(cache).expanduser().parents) if p.exists())
        free = shutil.disk_usage(at).free / 1e9
        return CraftError(f"no space for {what} in {cache} ({free:.1f} GB free); set HF_HOME=/a/larger/disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CraftError(f"{what} cannot be kept in {cache} ({_line(error)}); set HF_HOME=/a/folder/of/yours")
    return CraftError(f"{what} could not be read or written ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
