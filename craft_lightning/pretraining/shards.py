"""Tensors that are computed once and kept: safetensors files of so many rows each, resumable and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors

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
            yield value.reshape(-1).numpy().tobytes()

    return digest(parts())


def _bytes(key: str) -> bytes:
    """UTF-8, and something for the halves of characters that stand for bytes of a file's name which are no text."""
    return key.encode(errors="surrogatepass")


class Shards:
    """What was made of a list of inputs, some thousand of them in a file.

    A file says what it was made of and with, and the digest of its tensors. One that is not there, was cut off or
    says anything else is made again; none is made twice.

    Args:
        folder: of the files. facts: what everything was made with. keys: one text per row that stands for its input.
        size: rows of a file.
    """

    def __init__(self, folder: Path, facts: Mapping[str, str], keys: Sequence[str], size: int = ROWS) -> None:
        self.folder, self.facts, self.keys, self.size = folder, dict(facts), keys, size

    @property
    def count(self) -> int:
        """Number of files."""
        return -(-len(self.keys) // self.size)

    @property
    def digest(self) -> str:
        """:func:`digest` of what all of it is made of and with."""
        return digest([repr(sorted(self.facts.items())).encode(), *map(_bytes, self.keys)])

    def rows(self, number: int) -> range:
        """Rows of a file."""
        return range(number * self.size, min((number + 1) * self.size, len(self.keys)))

    def path(self, number: int) -> Path:
        """Its name."""
        return self.folder / f"{number:05d}.safetensors"

    def fill(
        self,
        make: Callable[[range], Mapping[str, Tensor]],
        share: int = 0,
        shares: int = 1,
        accept: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: True,
    ) -> int:
        """Make what is missing of every ``shares``-th file from ``share`` on; returns the number of files made.

        Files whose tensors ``accept`` refuses are made again.
        """
        stale = [number for number in range(share, self.count, shares) if not self.whole(number, accept)]
        for number in stale:
            tensors = make(self.rows(number))
            save_tensors(self.path(number), tensors, {**self._told(number), "digest": tensors_digest(tensors)})
        return len(stale)

    def whole(self, number: int, accept: Callable[[Mapping[str, Tensor]], bool]) -> bool:
        """Whether a file is there, made of these inputs with these facts, undamaged and acceptable."""
        try:
            with safe_open(self.path(number), "pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (OSError, SafetensorError):
            return False
        wanted = {**self._told(number), "digest": tensors_digest(tensors)}
        return all(told.get(name) == value for name, value in wanted.items()) and accept(tensors)

    def _told(self, number: int) -> dict[str, str]:
        mine = [_bytes(self.keys[row]) for row in self.rows(number)]
        return {**self.facts, "rows": str(len(mine)), "inputs": digest(mine)}

    @cached_property
    def files(self) -> list[Any]:
        """Open files: what is read of them is mapped into memory, and shared by the processes of a machine."""
        return [safe_open(self.path(number), "pt").__enter__() for number in range(self.count)]

    def column(self, name: str) -> list[Tensor]:
        """A small tensor of every file, read whole."""
        return [file.get_tensor(name) for file in self.files]

    def part(self, number: int, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor of a file."""
        found: Tensor = self.files[number].get_slice(name)[start:stop]
        return found
