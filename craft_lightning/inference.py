"""A model in one's hand: load it, ask it about an image, turn images into discrete tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from craft_lightning.checkpoints.configs import aspect_of, checkpoint_root
from craft_lightning.checkpoints.encoder import apply_encoder, codebook_of
from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.generate import likely_letters
from craft_lightning.models.image_files import find_images, square_of
from craft_lightning.models.image_processing import Aspect, preprocess, read_image, to_pixels
from craft_lightning.models.image_workers import in_order
from craft_lightning.models.pruning import PruneRule, count_codes, prune
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from craft_lightning.text.prompts import LETTERS, Encoded, PromptBuilder, collate_text, message
from craft_lightning.text.scoring import MAX_NEW_TOKENS, normalise
from craft_lightning.types import VisualTokens, VqaBatch, VqaExample

AnImage = str | Path | Image.Image
"""A file, or an image that is open already."""


@dataclass(frozen=True)
class Reply:
    """What a model says about an image; as a text ``A  forest``, or where it names no option, its own words.

    Attributes:
        text: the greedy reply, as ``test`` scores it.
        option: the option that the reply names, by the normalisation of exact match; None if it names none.
        likeliest: the option whose letter is the most likely first token; None for open questions.
    """

    text: str
    option: str | None = None
    likeliest: str | None = None

    def __str__(self) -> str:
        return self.text if self.option is None else f"{self.text.strip()}  {self.option}"


class VisualTokenizer:
    """The vision tower of a model alone: images to discrete tokens, without a language model in memory.

    Args:
        tower: in eval mode. aspect: how an image becomes a square. prior: ``[K]`` counts of codes, for pruning.
    """

    def __init__(self, tower: Tower, aspect: Aspect = "resize", prior: Tensor | None = None) -> None:
        self.tower, self.aspect, self.prior = tower, aspect, prior

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        encoder: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        attention: str = "eager",
        codebook: Mapping[str, Any] | None = None,
    ) -> Self:
        """The tower of a known model or a checkpoint's folder.

        Args:
            name: see ``python -m craft_lightning list backbones``. encoder: an adapted encoder's folder or hub id.
            device: where it computes; None for the first GPU, if there is one.
            dtype: of the tower and of the distances to codewords. attention: ``eager`` (the original's) or ``sdpa``.
            codebook: ``codebook_share`` or ``codebook_growth`` of :class:`.VlmSpec`; None for what the encoder says.

        Raises:
            CraftError: no such checkpoint, a continuous tower, or an encoder that does not fit.
        """
        folder = resolve(VlmSpec(str(name)))
        codebook = codebook_of(encoder) if codebook is None else codebook
        tower = load_tower(folder, dtype=dtype, quantizer_dtype=dtype, attention=attention, **codebook)
        if tower.quantizer is None:
            raise CraftError(f"{folder} is a continuous model: it has no discrete tokens")
        found = cls(tower, aspect_of(checkpoint_root(folder)))
        if encoder is not None:
            found.plug_in(encoder)
        tower.to(device or _first_gpu())
        return found

    def plug_in(self, encoder: str | Path) -> None:
        """Replace the tower's weights by an adapted encoder's, and take its prior. Raises CraftError: see
        :func:`.encoder.apply_encoder`."""
        self.prior = apply_encoder(self.tower, encoder)[1]

    def tokenize(
        self,
        images: AnImage | Sequence[AnImage],
        *,
        keep: float = 1.0,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> dict[str, Tensor]:
        """Discrete tokens of images: open ones, files, or folders with all that is below them.

        Args:
            keep: share of tokens that pruning keeps. batch_size: images that are encoded at once.
            workers: processes that read the images; 0 for none but this one, None for one a core if there are many.

        Returns:
            On the CPU: ``codes [B, N, R]`` int32; ``features [B, N, d]`` before quantisation; ``quantized [B, N, d]``,
            the sums of codewords that the projector reads; and if ``keep`` < 1 ``kept [B, M]`` int32, the positions not
            pruned.

        Raises:
            CraftError: no image, one that is not there or broken, or pruning without an encoder's prior.
        """
        given = [images] if isinstance(images, AnImage) or not isinstance(images, Iterable) else list(images)
        if not given:
            raise CraftError("no images given")
        found: list[Path | Image.Image] = []
        for one in map(_checked, given):
            found += [one] if isinstance(one, Image.Image) else find_images([Path(one)])
        read = partial(square_of, side=self.tower.image_size, aspect=self.aspect)
        return self.encode(self.pixels(map(_whole, in_order(read, found, workers)), batch_size), keep)

    def pixels(self, squares: Iterable[Tensor], batch_size: int = 32) -> Iterator[Tensor]:
        """Batches ``[b, 3, S, S]`` float32 in [-1, 1] of squares ``[3, S, S]`` uint8."""
        remaining = iter(squares)
        while part := list(islice(remaining, batch_size)):
            yield to_pixels(torch.stack(part))

    @property
    def _device(self) -> torch.device:
        return next(self.tower.parameters()).device

    @torch.no_grad()
    def counts(self, batches: Iterable[Tensor]) -> Tensor:
        """``[K]`` counts of the first-level codes of pixels ``[b, 3, S, S]``: a prior for pruning."""
        assert self.tower.quantizer is not None
        codes = (self.tower.encode(pixels.to(self._device)).codes for pixels in batches)
        return count_codes(codes, self.tower.quantizer.entries)

    @torch.no_grad()
    def encode(self, batches: Iterable[Tensor], keep: float = 1.0) -> dict[str, Tensor]:
        """:meth:`tokenize` of pixels ``[b, 3, S, S]``."""
        found: dict[str, list[Tensor]] = {}
        for pixels in batches:
            tokens = self.tower.encode(pixels.to(self._device))
            assert tokens.codes is not None
            parts = {"codes": tokens.codes.int(), "features": tokens.features, "quantized": tokens.tokens}
            selection = prune(tokens, keep, self.prior, PruneRule(), ()).selection
            if selection is not None:
                parts["kept"] = selection.positions.int()
            for name, part in parts.items():
                found.setdefault(name, []).append(part.cpu())
        return {name: torch.cat(rows) for name, rows in found.items()}


class VisionLanguageModel:
    """A whole model: tower, codebook, projector and language model.

    Args:
        vlm: in eval mode, for example the ``vlm`` of a method that a Trainer has just trained.
    """

    def __init__(self, vlm: DiscreteVlm) -> None:
        self.vlm = vlm.eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        encoder: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> Self:
        """A known model or a checkpoint's folder, with or without an adapted encoder.

        Args:
            name: see ``python -m craft_lightning list backbones``. encoder: an adapted encoder's folder or hub id.
            device: where it computes; None for the first GPU, if there is one.
            settings: of :class:`.VlmSpec`, as ``dtype``, ``quantizer_dtype`` and ``attention``.

        Raises:
            CraftError: no such model, or an encoder that does not fit its codebook.
        """
        vlm = load_vlm(VlmSpec(str(name), encoder=None if encoder is None else str(encoder), **settings))
        return cls(vlm.to(device or _first_gpu()))

    @torch.no_grad()
    def ask(
        self,
        image: AnImage,
        question: str,
        options: Sequence[str] | None = None,
        *,
        directive: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Reply:
        """The greedy reply, with the prompt, the image reader and the scoring of ``test``.

        Args:
            image: a file or an open image. options: choices, lettered in this order.
            directive: in place of ``Answer in one letter only.`` or ``Answer as succinctly as possible.``

        Raises:
            CraftError: no such image, an empty question, or more options than the tokenizer has letters.
        """
        example = asked(image, question, options, directive)
        batch = prompt_batch(self.vlm, [example])
        return replies(self.vlm, self.vlm.encode(batch.pixel_values), batch, example.options, max_new_tokens)[0]

    def tokenize(self, images: AnImage | Sequence[AnImage], *, batch_size: int = 32) -> dict[str, Tensor]:
        """Discrete tokens of images, see :meth:`VisualTokenizer.tokenize`. Raises CraftError: a continuous model, or an
        image that is not there or broken."""
        if self.vlm.tower.quantizer is None:
            raise CraftError("a continuous model has no discrete tokens")
        return VisualTokenizer(self.vlm.tower, self.vlm.aspect).tokenize(images, batch_size=batch_size)


def replies(
    vlm: DiscreteVlm, visual: VisualTokens, batch: VqaBatch, options: Sequence[str], max_new_tokens: int
) -> list[Reply]:
    """The greedy replies to a batch of prompts with the same options."""
    by_letter = {letter.lower(): option for letter, option in zip(LETTERS, options, strict=False)}
    texts, logits = vlm.reply(visual, batch, max_new_tokens)
    likely = likely_letters(vlm, logits, batch)
    return [
        Reply(text, by_letter.get(normalise(text)), by_letter.get(letter or ""))
        for text, letter in zip(texts, likely, strict=True)
    ]


def asked(
    image: AnImage, question: str, options: Sequence[str] | None = None, directive: str | None = None
) -> VqaExample:
    """A question of one's own about an image, as the data modules hand out theirs. Raises CraftError: no question, a
    single option or one given twice, or an image that cannot be read."""
    if not question.strip():
        raise CraftError("a question needs a text")
    if options is not None and (isinstance(options, str) or len(options) < 2):
        raise CraftError("options are a list of at least two choices")
    if twice := [option for option, count in Counter(options or ()).items() if count > 1]:
        raise CraftError(f"option {twice[0]!r} is given more than once")
    key = "asked" if isinstance(image, Image.Image) else str(image)
    meta = {} if directive is None else {"directive": directive}
    return VqaExample(key, _opened(image), question, "A", tuple(options or ()), meta=meta)


def _first_gpu() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _whole(found: Tensor | CraftError) -> Tensor:
    if isinstance(found, CraftError):
        raise found
    return found


def _opened(image: AnImage) -> Image.Image:
    return image if isinstance(image, Image.Image) else read_image(_checked(image))


def _checked(image: Any) -> Any:
    if not isinstance(image, AnImage):
        kind = type(image).__name__
        raise CraftError(f"an image is a file or a PIL.Image, not {kind}; PIL.Image.fromarray makes one of an array")
    return image


def prompt_batch(vlm: DiscreteVlm, examples: Sequence[VqaExample]) -> VqaBatch:
    """The prompts of examples on the model's device. Raises CraftError: more options than the tokenizer has
    letters."""
    counts = tuple(len(example.options) for example in examples)
    builder = PromptBuilder(vlm.tokenizer, vlm.conversation, lettered=any(counts))
    if max(counts) > len(builder.letters):
        raise CraftError(f"{max(counts)} options, but there are only the letters {builder.letters}")
    prompts = [Encoded(builder.prompt_ids(message(example)), ()) for example in examples]
    return VqaBatch(
        pixel_values=torch.stack([preprocess(example.image, vlm.image_size, vlm.aspect) for example in examples]),
        **collate_text(prompts, builder.pad_id, with_reply=False),
        label_ids=torch.tensor([example.label_id for example in examples]),
        caption_ids=torch.full((len(examples),), -1),
        seen=torch.tensor([example.seen for example in examples]),
        answers=tuple(example.answer for example in examples),
        keys=tuple(example.key for example in examples),
        option_counts=counts,
    ).to(vlm.device)
