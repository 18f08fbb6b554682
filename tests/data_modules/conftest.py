"""A reader whose tokenizer is built in code, and folders made on the spot, so that data tests need no checkpoint."""

import json

import numpy as np
import pytest
from PIL import Image

from craft_lightning.pretraining.tokenizers import train_tokenizer
from craft_lightning.text.prompts import PromptBuilder
from data_modules import datamodule as base
from data_modules.backbone_reader import Reader

TEXT = ["Which of these is shown in the image? A. one B. two C. three D. four Answer in one letter only. ASSISTANT:"]


@pytest.fixture(scope="session")
def reader():
    tokenizer = train_tokenizer(TEXT, ["yes", "no"], 420, "llama")
    return Reader(PromptBuilder(tokenizer, "chat_template"), side=16)


@pytest.fixture
def stub_backbone(monkeypatch, reader):
    """Data modules read the tokenizer above instead of a checkpoint's."""
    monkeypatch.setattr(base, "read_backbone", lambda spec: reader)


def save_picture(path, seed=0, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def class_folder(tmp_path):
    """``build(classes, splits, each)``: a folder of tiny images."""

    def build(classes, splits=("train", "test"), each=6):
        for s, split in enumerate(splits):
            for c, name in enumerate(classes):
                for i in range(each):
                    save_picture(tmp_path / split / name / f"{i:02}.png", seed=1000 * s + 100 * c + i)
        return tmp_path

    return build


@pytest.fixture
def question_folder(tmp_path):
    """``build({"train": records, ...}, images)``: JSONL files and their images; a record may be raw text."""

    def build(files, pictures=4):
        for i in range(pictures):
            save_picture(tmp_path / "images" / f"{i}.png", seed=i)
        for name, records in files.items():
            lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path

    return build


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """Where the tests unpack tables, without progress bars."""
    import datasets

    datasets.disable_progress_bars()
    return str(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def table_cache(monkeypatch, tables):
    """Tables are unpacked into a folder of the test run."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tables)
