"""Evaluation by 5-token greedy exact match, beside transformers' ``generate`` on the same model and items.

    python benchmarks/evaluation.py [--quick]

Peers: ``generate`` called sample by sample, as common evaluation scripts do, and called with batches of the same size
as ours, padded on the left. Ours is all that ``test`` does with a batch: image, replies, their score and the option
letter of highest likelihood, which the peers do not compute. Measured with all visual tokens, and with all of them and
four fifths, where ours encodes an image once and the peers twice. The bound is what stands before the first reply
token of any of them: images through the tower and the quantiser, prompts through the language model, once.
Ours takes the items of a test in their order; what batches sorted by length would save is counted for all ten twins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.evaluation.generate import scored_replies
from craft_lightning.models.pruning import PruneRule, count_codes, prune_each
from craft_lightning.models.vlm import DiscreteVlm, prompts_only
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from craft_lightning.types import VisualTokens, VqaBatch
from data_modules.datamodule import VqaDataModule
from data_modules.twins import TWINS
from timing import Row, alternate, program

DATASETS = ("eurosat", "vqa_rad")
"""Answers of one letter, and of words."""
ROUNDS = 7
PICTURE = 63
"""Positions that a pocket model's image takes beyond the one of its placeholder."""


@dataclass(frozen=True)
class Asked:
    """What is evaluated: a model, batches of items, the keep ratios and the prior that pruning needs."""

    vlm: DiscreteVlm
    batches: tuple[VqaBatch, ...]
    keeps: tuple[float, ...]
    prior: Tensor

    def see(self, batch: VqaBatch, keeps: Sequence[float]) -> Sequence[VisualTokens]:
        """The visual tokens of a batch at each ratio; its images are encoded once."""
        return prune_each(self.vlm.encode(batch.pixel_values), keeps, self.prior, PruneRule(), batch.keys)


def ours(asked: Asked) -> list[str]:
    """Every reply as ``test`` finds it, ratio after ratio within a batch."""
    texts = []
    for batch in asked.batches:
        for visual in asked.see(batch, asked.keeps):
            texts += [found.text for found in scored_replies(asked.vlm, visual, batch)]
    return texts


def theirs(asked: Asked, size: int) -> list[str]:
    """The same replies by transformers' ``generate``, so many items at a time."""
    texts = []
    for batch in asked.batches:
        for keep in asked.keeps:
            for part in batch.split(max(1, len(batch) // size)):
                (visual,) = asked.see(part, (keep,))
                texts += generated(asked.vlm, visual, part)
    return texts


def bound(asked: Asked) -> None:
    """Images and prompts read, and nothing said."""
    for batch in asked.batches:
        prompts = prompts_only(batch)
        for visual in asked.see(batch, asked.keeps):
            counts = None if visual.selection is None else visual.selection.counts
            embeds, *_ = asked.vlm.embed(visual.tokens, prompts.input_ids, prompts.attention_mask, counts)
            asked.vlm.language_model.get_decoder()(inputs_embeds=embeds, use_cache=True)


def generated(vlm: DiscreteVlm, visual: VisualTokens, batch: VqaBatch) -> list[str]:
    """Replies to a batch whose prompts fit the context."""
    batch = prompts_only(batch)
    counts = None if visual.selection is None else visual.selection.counts
    embeds, mask, _ = vlm.embed(visual.tokens, batch.input_ids, batch.attention_mask, counts)
    order = mask.int().argsort(dim=1, stable=True)  # generate wants the padding on the left
    embeds, mask = embeds.gather(1, order.unsqueeze(-1).expand_as(embeds)), mask.gather(1, order)
    model = vlm.language_model
    ids = model.generate(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        pad_token_id=vlm.tokenizer.pad_token_id,
    )
    return [text.strip() for text in vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)]


@torch.no_grad()
def measured(backbone: str, dataset: str, items: int, size: int, keeps: tuple[float, ...], rounds: int) -> list[Row]:
    """Time an item against both peers, and the replies that differ from theirs."""
    vlm = load_vlm(VlmSpec(backbone))
    assert vlm.tower.quantizer is not None
    data = VqaDataModule(VlmSpec(backbone), dataset, test_size=items, train_size=64, eval_batch_size=size)
    data.setup("test")
    prior = count_codes((vlm.encode(part).codes for part in data.training_images()), vlm.tower.quantizer.entries)
    asked = Asked(vlm, tuple(data.test_dataloader()), keeps, prior)
    replied: list[Callable[[], list[str]]] = [
        partial(theirs, asked, 1),
        partial(theirs, asked, size),
        partial(ours, asked),
    ]
    one, many, mine = (run() for run in replied)
    differ = sum(not (a == b == c) for a, b, c in zip(one, many, mine, strict=True))
    runs = [*replied, partial(bound, asked)]
    single, batched, own, least = (1000 * seconds / len(mine) for seconds in alternate(runs, rounds, warm_up=0))
    shares = " and ".join(f"{keep:g}" for keep in keeps)
    figure = f"Evaluation, {dataset}, {items} items in batches of {size}, keep {shares}: a reply"
    return [
        Row(3, figure, "`generate`, one by one", single, own, "ms", least=5.0),
        Row(3, figure, "`generate`, batches", batched, own, "ms", least=1.5),
        Row(3, figure, "images and prompts read once", least, own, "ms", bound=True),
        Row(3, f"{figure} that differs", f"{len(mine)} replies", len(mine), differ, "", most=0.0),
    ]


def padded(backbone: str, items: int, size: int) -> Row:
    """Positions of prompts and images that the twins' tests read, as they come and in order of length."""
    found = {"as they come": 0, "sorted": 0}
    for dataset in TWINS:
        data = VqaDataModule(VlmSpec(backbone), dataset, test_size=items, eval_batch_size=size)
        data.setup("test")
        lengths = [int(n) for batch in data.test_dataloader() for n in batch.prompt_lengths]
        for name, order in (("as they come", lengths), ("sorted", sorted(lengths))):
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            found[name] += sum(len(part) * (max(part) + PICTURE) for part in parts)
    figure = f"Positions read in ten tests of {items} items, batches of {size}"
    return Row(3, figure, "sorted by length", found["sorted"], found["as they come"], "")


def rows(quick: bool) -> list[Row]:
    """Both kinds of set at one ratio, and one at two."""
    if quick:
        return [*measured("pocket-vila-u", "eurosat", 16, 16, (1.0,), 1), padded("pocket-vila-u", 16, 8)]
    found = [row for dataset in DATASETS for row in measured("pocket-vila-u", dataset, 128, 64, (1.0,), ROUNDS)]
    found += measured("pocket-vila-u", DATASETS[0], 64, 64, (1.0, 0.8), ROUNDS)
    return [*found, padded("pocket-vila-u", 400, 64)]


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
