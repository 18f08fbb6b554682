"""A user's own data: a folder of labelled images, or questions in JSONL files."""

from __future__ import annotations

from typing import Any

from data_modules.base import VqaDataModule
from data_modules.facts import OWN


class FolderDataModule(VqaDataModule):
    """Your own labelled images or questions, laid out as :mod:`data_modules.sources.folder` says.

    On the command line the same is ``--data.dataset folder --data.source folder --data.root FOLDER``.

    Args:
        root: folder with ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone, or ``train.jsonl``
            and ``test.jsonl``, or one JSONL file. Underscores in class names become spaces.
        kwargs: see :class:`VqaDataModule`.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(root=root, dataset=OWN, source="folder", **kwargs)
