"""Codes and token ids of whole pre-training sets: computed once, kept in checked files, looked up row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.pretraining.language_stage import TokenizedConversation
from craft_lightning.types import IGNORED_LABEL

ROWS = 4096


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of byte strings one after the other, told apart by their lengths."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """:func:`digest` of names, shapes and bytes."""

    def parts() -> Iterator[bytes]:
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
            yield value.reshape(-1).view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16

    return digest(parts())


class Shards:
    """What was made of a list of inputs, some thousand of them in a safetensors file.

    A file says what it was made of and with, and the digest of its tensors. One that is not there, was cut off or
    says anything else is made again; none is made twice.

    Args:
        folder: of the files. facts: what everything was made with. keys: one text per row that stands for its input.
        size: rows of a file.

    Attributes:
        ranges: rows of each file. digest: of what all of it is made of and with.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str], keys: Sequence[str], size: int = ROWS) -> None:
        self.folder, self.facts = folder, facts
        # A file's name may hold bytes that are no text, which stand as halves of characters.
        self.keys = [key.encode(errors="surrogatepass") for key in keys]
        self.ranges = [range(start, min(start + size, len(keys))) for start in range(0, len(keys), size)]
        self.digest = digest([repr(sorted(facts.items())).encode(), *self.keys])

    def path(self, number: int) -> Path:
        """The file of ``ranges[number]``."""
        return self.folder / f"{number:05d}.safetensors"

    def fill(
        self,
        make: Callable[[range], Mapping[str, Tensor]],
        share: int = 0,
        shares: int = 1,
        accept: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: True,
    ) -> int:
        """Make what is missing of every ``shares``-th file from ``share`` on, and again those whose tensors ``accept``
        refuses; returns the number of files made."""
        made = 0
        for number, rows in list(enumerate(self.ranges))[share::shares]:
            inputs = digest(self.keys[rows.start : rows.stop])
            told = {**self.facts, "rows": str(len(rows)), "inputs": inputs}
            if not self._whole(number, told, accept):
                tensors = make(rows)
                save_tensors(self.path(number), tensors, {**told, "digest": tensors_digest(tensors)})
                made += 1
        return made

    def _whole(self, number: int, told: Mapping[str, str], accept: Callable[[Mapping[str, Tensor]], bool]) -> bool:
        """Whether a file is there, made of these inputs with these facts, undamaged and acceptable."""
        try:
            held, tensors = _read(self.path(number))
        except (OSError, SafetensorError):
            return False
        wanted = {**told, "digest": tensors_digest(tensors)}
        return all(held.get(name) == value for name, value in wanted.items()) and accept(tensors)

    @cached_property
    def tensors(self) -> list[dict[str, Tensor]]:
        """Of every file, mapped into memory: only what is read of them is loaded, once for all processes."""
        return [_read(self.path(number))[1] for number in range(len(self.ranges))]

    def column(self, name: str) -> Tensor:
        """A small tensor of all files."""
        return torch.cat([tensors[name] for tensors in self.tensors])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class StoredConversations:
    """Tokenised conversations of several sets, numbered through.

    Args:
        parts: the number of a set's first image, and what :func:`token_rows` made of the set.

    Attributes:
        lengths, replies, images: of every row, ``[n]``: its tokens, those that carry a loss, its image.
    """

    def __init__(self, parts: Sequence[tuple[int, Shards]]) -> None:
        self.lengths, self.starts, self.replies = (
            torch.cat([shards.column(name) for _, shards in parts]) for name in ("lengths", "starts", "replies")
        )
        self.images = torch.cat([shards.column("images") + first for first, shards in parts])
        self.files = [tensors for _, shards in parts for tensors in shards.tensors]
        self.ends = torch.tensor([len(tensors["lengths"]) for tensors in self.files]).cumsum(0)

    def __getitem__(self, row: int) -> TokenizedConversation:
        tensors = self.files[int(torch.searchsorted(self.ends, row, right=True))]
        span = slice(int(self.starts[row]), int(self.starts[row] + self.lengths[row]))
        return TokenizedConversation(tensors["ids"][span].tolist(), tensors["labels"][span].tolist())


def token_rows(rows: Sequence[TokenizedConversation], images: Sequence[int]) -> Mapping[str, Tensor]:
    """Conversations as flat tensors: what :class:`StoredConversations` reads."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    return {
        "ids": torch.tensor([i for row in rows for i in row.ids], dtype=torch.int32),
        "labels": torch.tensor([i for row in rows for i in row.labels], dtype=torch.int32),
        "lengths": lengths,
        "starts": lengths.cumsum(0) - lengths,
        "replies": torch.tensor([sum(label != IGNORED_LABEL for label in row.labels) for row in rows]),
        "images": torch.tensor(images),
    }
