"""What a model replies to a batch, scored: greedy text by exact match, and the most likely letter."""

from __future__ import annotations

from torch import Tensor

from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.text.scoring import MAX_NEW_TOKENS, exact_match, normalise
from craft_lightning.types import Prediction, VisualTokens, VqaBatch


def scored_replies(
    vlm: DiscreteVlm, visual: VisualTokens, batch: VqaBatch, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Prediction]:
    """Greedy replies of at most so many tokens to a batch whose images are seen as ``visual``, whole or pruned."""
    texts, logits = vlm.reply(visual, batch, max_new_tokens)
    likely = [
        None if letter is None else letter == normalise(answer)
        for letter, answer in zip(likely_letters(vlm, logits, batch), batch.answers, strict=True)
    ]
    places = range(len(batch)) if batch.image_of is None else batch.image_of.tolist()
    images = [batch.image_names[place] if batch.image_names else "" for place in places]
    rows = zip(batch.keys, texts, batch.answers, batch.seen.tolist(), likely, images, strict=True)
    return [Prediction(key, text, right, exact_match(text, right), *told) for key, text, right, *told in rows]


def likely_letters(vlm: DiscreteVlm, logits: Tensor, batch: VqaBatch) -> list[str | None]:
    """The option letter of highest likelihood (lower case) by the first reply token's logits ``[B, V]``, None for open
    questions."""
    ids = vlm.letter_ids()
    letters = list(ids)
    return [
        letters[int(row[:options].argmax())].lower() if options else None
        for row, options in zip(logits[:, list(ids.values())], batch.option_counts, strict=True)
    ]
