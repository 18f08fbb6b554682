"""Five questions about an image, read as branches of one sequence, beside the same questions with a copy of the image
each.

    python benchmarks/shared_images.py [--quick]

Evaluation is all that ``test`` does with a batch; training is CRAFT's step, optimiser included. Both ways must give the
same replies, and losses that agree to 1e-5. Text has the lengths of OCR-VQA's prompts by a Llama tokenizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from craft_lightning.evaluation.generate import scored_replies
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec, build_optimizer
from craft_lightning.text.prompts import Encoded, collate_text
from craft_lightning.types import IMAGE_TOKEN_ID, VqaBatch
from timing import Row, alternate, program
from tiny import write_middle, write_tiny

QUESTIONS, HEAD, ASKED, REPLY = 5, 36, 24, 5
"""About an image; tokens before the image, behind it, and of a reply."""


def questions(images: int, side: int, words: int, with_reply: bool) -> VqaBatch:
    """Random text about random images, every image once."""
    rows = images * QUESTIONS
    head, *asked = torch.randint(10, words, (1 + rows, HEAD)).tolist()
    encoded = [
        Encoded((*head, IMAGE_TOKEN_ID, *asked[row][:ASKED]), (*asked[row][ASKED : ASKED + REPLY], 1))
        for row in range(rows)
    ]
    numbers, names = torch.arange(rows), tuple(map(str, range(rows)))
    return VqaBatch(
        pixel_values=torch.rand(images, 3, side, side) * 2 - 1,
        **collate_text(encoded, 0, with_reply),
        label_ids=numbers // QUESTIONS,
        caption_ids=numbers,
        seen=torch.ones(rows, dtype=torch.bool),
        answers=names,
        keys=names,
        option_counts=(0,) * rows,
        image_of=numbers // QUESTIONS,
    )


def copied(batch: VqaBatch) -> VqaBatch:
    """The same rows with a copy of its image each."""
    return replace(batch, pixel_values=batch.by_row(batch.pixel_values), image_of=None)


class Trained:
    """CRAFT on a model, and its optimiser."""

    def __init__(self, backbone: str, rows: int) -> None:
        self.method = Craft(backbone=VlmSpec(backbone), lambda_contrastive=0.1)
        self.method.configure_model()
        self.method.captions = CaptionTable.embed(
            [f"book {n}" for n in range(rows)], self.method.backbone, torch.device("cpu")
        )
        self.optimizer = build_optimizer(self.method.param_groups(), OptimSpec(), 1000)["optimizer"]

    def loss(self, batch: VqaBatch) -> torch.Tensor:
        """Of a step that is to be taken."""
        return torch.stack([*self.method.losses(batch, self.method(batch)).values()]).sum()

    def step(self, batch: VqaBatch) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step()

    @torch.no_grad()
    def replies(self, batch: VqaBatch) -> list[str]:
        """What an evaluation finds."""
        return [found.text for found in scored_replies(self.method.vlm, self.method._look(batch), batch)]


def measured(name: str, backbone: str, images: tuple[int, int], rounds: int) -> list[Row]:
    """Time of a question both ways, in an evaluation and in a step of so many images."""
    torch.manual_seed(0)
    trained = Trained(backbone, images[1] * QUESTIONS)
    vlm = trained.method.vlm
    words = vlm.language_model.config.vocab_size
    trained.method.eval()
    batch = questions(images[0], vlm.image_size, words, with_reply=False)
    replies: list[list[str]] = []
    runs = [lambda each=each: replies.append(trained.replies(each)) for each in (copied(batch), batch)]
    found = [_row("Evaluation", name, images[0], alternate(runs, rounds, warm_up=0), 3.0)]
    if any(said != replies[0] for said in replies):
        raise SystemExit(f"replies differ: {replies}")
    trained.method.train()
    batch = questions(images[1], vlm.image_size, words, with_reply=True)
    losses = [float(trained.loss(each).detach()) for each in (copied(batch), batch)]
    if abs(losses[0] - losses[1]) > 1e-5 * abs(losses[0]):
        raise SystemExit(f"losses differ: {losses}")
    steps = [partial(trained.step, each) for each in (copied(batch), batch)]
    return [*found, _row("CRAFT's step", name, images[1], alternate(steps, rounds, warm_up=0), 2.5)]


def _row(what: str, name: str, images: int, seconds: Sequence[float], least: float) -> Row:
    alone, shared = (1000 * each / images / QUESTIONS for each in seconds)
    figure = f"{what}, {name}, batch of {images} x {QUESTIONS} questions about an image: a question"
    return Row(7, figure, "a copy of the image each", alone, shared, "ms", least=least)


def rows(quick: bool) -> list[Row]:
    """The model in between, or a tiny one."""
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            return measured("tiny", str(write_tiny(folder)), (2, 2), 1)
        middle = write_middle(Path(folder), side=256)
        return measured("ViT-B tower (256 tokens) and 135M language model", str(middle), (2, 1), 2)


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
