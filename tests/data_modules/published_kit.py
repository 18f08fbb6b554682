"""Small copies of published datasets in their real shapes: parquet tables of the hub, the authors' own files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from data_modules.datamodule import VqaDataModule


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), kind: str = "JPEG") -> bytes:
    """The bytes of a noisy image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def stored(seed: int = 0, path: str | None = None, **how: Any) -> dict[str, Any]:
    """An image as a table holds it."""
    return {"bytes": picture(seed, **how), "path": path}


def write_table(path: Path, kinds: dict[str, Any], **columns: list[Any]) -> Path:
    """A parquet file with the metadata that hub tables carry; returns its folder's parent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    table.to_parquet(path)
    return path.parent.parent


def write_pictures(root: Path, names: list[str], **how: Any) -> Path:
    """Image files of different contents."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, **how))
    return root


def packed(root: Path) -> Path:
    """The same files in a zip archive, in a folder of their own as authors pack them."""
    archive = root.parent / f"{root.name}.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(root.rglob("*")):
            out.write(path, f"{root.name}/{path.relative_to(root)}")
        out.writestr("__MACOSX/._x.jpg", b"no image")
    return archive


def opened(dataset: str, root: Path, source: str = "folder", stages: tuple[str, ...] = (), **options: Any) -> Any:
    """A data module over it, small enough for a handful of images."""
    data = VqaDataModule(dataset=dataset, source=source, root=str(root), **{"batch_size": 1, **options})
    for stage in stages:
        data.setup(stage)
    return data


def texts(data: Any, split: str) -> dict[str, str]:
    """Key of every item to the words of its answer."""
    return {e.key: e.meta["answer_text"] for e in data.examples(split)}
