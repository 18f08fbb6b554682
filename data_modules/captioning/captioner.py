"""What a captioning model says of the training images: made once, kept, and read ever after."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from craft_lightning.checkpoints.tensors import first_line, listed, quiet, read_as, read_json
from craft_lightning.errors import CraftError
from craft_lightning.io import write_text
from craft_lightning.models.image_processing import READING
from data_modules.backbone_reader import Reader
from data_modules.samplers import world
from data_modules.sources.hub import hub_error, no_space
from data_modules.sources.images import LazyImages, to_pil
from data_modules.sources.items import Split

KINDS = ("blip", "blip-2")
"""Models that caption an image without being asked anything."""

CAPTIONS, BEAMS, LENGTH = 2, 5, 30
"""Captions of an image: the best two of as many beams, and tokens at most, as BLIP-2's authors use."""

BATCH = 16
"""Images captioned at once, and lost at most by a kill."""

PAPER = "Salesforce/blip2-opt-2.7b"
"""Of the captioners that the paper cites, the one that transformers has."""

Images = Tensor | LazyImages
Kept = dict[str, dict[str, Any]]
"""The lines kept, by image: ``picture``, ``captions`` and the commit that they are ``by``."""

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_ADAPTER = "adapter_config.json"
"""Would have transformers load weights from elsewhere."""


@dataclass(frozen=True)
class Captioner:
    """A captioning checkpoint: as the user named it, its folder (None: of the hub), and what tells one folder from
    another."""

    name: str
    folder: Path | None
    stamp: str = ""

    @classmethod
    def named(cls, name: str) -> Captioner:
        """A folder, or an id of the hub, with ``@REVISION`` or without. Raises CraftError: a folder without a
        checkpoint, or neither."""
        folder = Path(name).expanduser()
        if not folder.is_dir():
            if name.partition("@")[0].count("/") != 1 or name.startswith((".", "/", "~")):
                takes = f"takes the folder of a checkpoint or an id of the hub, for example {PAPER}"
                raise CraftError(f"no captioner {name}: --data.captioner {takes}")
            return cls(name, None)
        _kind(folder)
        if (folder / _ADAPTER).exists():
            raise CraftError(f"{folder} holds an adapter ({_ADAPTER}); give a folder with the merged weights")
        files = sorted(file for pattern in _FILES for file in folder.glob(pattern))
        told = [f"{file.name} {file.stat().st_size} {int(file.stat().st_mtime)}" for file in files]
        return cls(name, folder, hashlib.sha256("\n".join(told).encode()).hexdigest()[:12])

    def store(self, what: str) -> Path:
        """Where captions of ``what`` are kept, below ``HF_HOME`` whatever run asks for them. The name holds all that a
        caption depends on but the image and the commit, which stand in every line."""
        from huggingface_hub import cached_assets_path

        own = f"{self.folder.resolve().name}-{self.stamp}" if self.folder else self.name
        with _disk():
            folder = cached_assets_path("craft_lightning", "captions", own)
        return folder / f"{what}-{CAPTIONS}of{BEAMS}-{LENGTH}.jsonl"

    def fetched(self, commit: str | None) -> tuple[Path, str]:
        """The checkpoint's folder, downloaded if need be, and its commit (of a folder: its stamp); ``commit``: the one
        that made the captions so far. Raises CraftError: it cannot be had; with the next command."""
        if self.folder:
            return self.folder, self.stamp
        from huggingface_hub import errors, hf_hub_download, snapshot_download

        repo, _, revision = self.name.partition("@")
        wanted = commit or revision or None
        pinned = f" --revision {wanted}" if wanted else ""
        try:
            folder = Path(hf_hub_download(repo, "config.json", revision=wanted)).parent
            _kind(folder)  # before gigabytes are fetched
            only: dict[str, Any] = {"allow_patterns": list(_FILES), "ignore_patterns": [_ADAPTER]}
            weights = snapshot_download(repo, revision=folder.name, **only)
        except CraftError:
            raise
        except errors.RemoteEntryNotFoundError as error:
            raise CraftError(f"{repo} has no config.json; try --data.captioner {PAPER}") from error
        except Exception as error:  # the client's transport has errors of its own
            absent = f"no captioner {repo}: no such folder, and no such id on the hub; try --data.captioner {PAPER}"
            copy = f"hf download {repo}{pinned} --local-dir FOLDER, then here --data.captioner FOLDER"
            raise hub_error(error, repo, f"https://huggingface.co/{repo}", wanted, absent, copy) from error
        return Path(weights), folder.name


def captioned(split: Split, name: str, dataset: str, reader: Reader, device: torch.device) -> tuple[Split, str]:
    """A split with what a captioner says of its images, and the captioner with its commit.

    What is kept already is read; only if some is missing is the model loaded. One process at a time makes captions of
    one data set, and others wait for them. A kill loses a batch. Raises CraftError: no such captioner, or an image that
    cannot be read.

    Args:
        split: items and images. name: of the captioner. dataset: whose split it is. reader: how its images are
            read. device: for the captioner.
    """
    captioner = Captioner.named(name)
    keys = [_identity(split.images, index) for index in range(len(split.images))]
    path = captioner.store(f"{dataset}-{reader.side}-{reader.aspect}")
    kept = _read(path)
    if any(key not in kept for key in keys):
        with _alone(path):
            kept = _read(path)  # another process may have made some meanwhile
            if missing := {key: index for index, key in enumerate(keys) if key not in kept}:
                _make(captioner, split.images, missing, kept, path, device)
    said = [tuple(kept[key]["captions"]) for key in keys]
    items = tuple(replace(item, generated=said[item.image]) for item in split.items)
    return replace(split, items=items), f"{name} {_commit(kept)}"


def agree(sentences: Sequence[str]) -> None:
    """Make sure that a caption's row is the same sentence in every process: gathered rows are read by all. Raises
    CraftError: machines that do not share the folder of captions made different ones."""
    digests: list[Any] = [None] * world()[0]
    if len(digests) > 1:
        torch.distributed.all_gather_object(digests, hashlib.sha256("\n".join(sentences).encode()).hexdigest())
    if len(set(digests)) > 1:
        raise CraftError("the machines have different captions; set HF_HOME to a folder that they share")


def _make(
    captioner: Captioner, images: Images, missing: dict[str, int], kept: Kept, path: Path, device: torch.device
) -> None:
    """Caption what is missing; the file grows batch by batch."""
    folder, commit = captioner.fetched(_commit(kept))
    keys = list(missing)
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    about = f"{captioner.name} captions {len(keys)} images"
    try:
        model = _Model(folder, device)
        with _disk():
            write_text(path, _written(kept.values()))  # without the line that a kill tore
        for batch in track(batches, about, console=Console(stderr=True)):
            said = model([to_pil(images[missing[key]]) for key in batch])
            made = [{"picture": key, "captions": s, "by": commit} for key, s in zip(batch, said, strict=True)]
            kept.update(zip(batch, made, strict=True))
            with _disk(), path.open("a", encoding="utf-8") as file:
                file.write(_written(made))
    except (torch.OutOfMemoryError, MemoryError) as error:
        fits = f"does not fit in the memory of {device}; use a larger device or a smaller captioner"
        raise CraftError(f"{captioner.name} {fits}") from error
    del model  # the run's own comes next
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _disk() -> Iterator[None]:
    """Errors of the folder of captions as one line."""
    try:
        yield
    except OSError as error:
        raise no_space(error, "captions") from error
    except ValueError as error:  # of a file where the folder should be
        raise CraftError(f"captions cannot be kept ({first_line(error)})") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; one that waits says so."""
    lock = FileLock(f"{path}.lock")
    with _disk():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            about = f"another process makes these captions, waiting for it ({lock.lock_file})"
            Console(stderr=True).print(about, soft_wrap=True, highlight=False)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Model:
    """A captioning model in memory; called with images it says :data:`CAPTIONS` sentences of each."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        kind, safe = _kind(folder), {"local_files_only": True, "trust_remote_code": False}
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, **safe}
        # Seeds stay untouched: a run whose captions are made draws what one that reads them draws.
        with read_as(folder, f"a {kind} captioner"), torch.random.fork_rng(devices=[]), quiet():
            self.processor: Any = AutoProcessor.from_pretrained(str(folder), **safe)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(str(folder), **options)
        model, info = loaded
        if info["missing_keys"]:
            raise CraftError(f"{folder}: missing {listed(map(str, info['missing_keys']))}")
        self.model, self.device, self.dtype = model.to(device).eval(), device, dtype

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> Iterator[list[str]]:
        pixels = self.processor(images=images, return_tensors="pt").pixel_values.to(self.device, self.dtype)
        beams = {"max_new_tokens": LENGTH, "num_beams": BEAMS, "num_return_sequences": CAPTIONS, "do_sample": False}
        with quiet():
            ids = self.model.generate(pixel_values=pixels, **beams)
        texts = [" ".join(text.split()) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        for start in range(0, len(texts), CAPTIONS):
            # The paper's captions are a set: what both beams say counts once, and nothing is no sentence.
            yield list(dict.fromkeys(text for text in texts[start : start + CAPTIONS] if text))


def _kind(folder: Path) -> str:
    """The kind of a checkpoint. Raises CraftError: none that captions."""
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in KINDS:
        raise CraftError(f"{folder} is a checkpoint of kind {kind!r}; captioners are {' and '.join(KINDS)}")
    if kind == "blip-2" and config.get("image_token_index", config.get("image_token_id")) is None:
        raise CraftError(f"{folder}: its config names no image_token_index; take a newer revision of the checkpoint")
    return kind


def _identity(images: Images, index: int) -> str:
    """A hash of an image: of its file's bytes and how they are read where that is when needed, else of its pixels."""
    if isinstance(images, LazyImages):
        content = READING.encode() + images.stored[index].content()
    else:
        content = images[index].numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> Kept:
    """What is kept; what follows the last line feed was torn by a kill, or is being written."""
    if not path.exists():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        kept = {line["picture"]: {name: line[name] for name in ("picture", "captions", "by")} for line in lines}
        for said in (line["captions"] for line in lines):
            if not isinstance(said, list) or not all(isinstance(sentence, str) for sentence in said):
                raise ValueError(f"captions {said!r} are no list of sentences")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CraftError(f"{path} holds no captions ({first_line(error)}); remove it, they are made again") from error
    return kept


def _written(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _commit(kept: Kept) -> str | None:
    """The commit that made what is kept: all of a file is of one."""
    return next((str(line["by"]) for line in kept.values()), None)
