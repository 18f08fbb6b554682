"""Our models as one of lmms-eval: ``lmms-eval --model craft_lightning --model_args backbone=NAME,encoder=FOLDER``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from itertools import groupby
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval import evaluator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError, unknown
from craft_lightning.inference import prompt_batch
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from craft_lightning.types import VisualTokens, VqaBatch, VqaExample


class LmmsEvalModel(lmms):
    """A model, with or without an adapted encoder, that answers greedily about one image; the task words the prompt.

    Args:
        backbone: a name of `list backbones`, or a checkpoint's folder. encoder: an adapted encoder's folder or hub id.
        keep: share of the visual tokens that pruning keeps, by the encoder's prior.
        batch_size, device: ``--batch_size`` and ``--device``; the device is each process's own by default.
        max_batch_size: not used. settings: further ones of :class:`.VlmSpec`.

    Raises:
        CraftError: an unknown setting, a batch size that is no number, or a model or encoder that cannot be loaded.
    """

    def __init__(
        self,
        backbone: str = "pocket-vila-u",
        encoder: str | None = None,
        keep: float = 1.0,
        batch_size: str | int = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        known = ["backbone", "encoder", "keep", *[f.name for f in fields(VlmSpec) if f.name not in ("name", "encoder")]]
        for name in settings:
            if name not in known:
                raise unknown("model argument", name, known)
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise CraftError(f"--batch_size {batch_size}: give a number, at least 1; it is not searched for")
        if find_spec("filelock._api") is None:  # its patch of locks looks there, as they were before filelock 4
            evaluator._enable_reentrant_filelocks._patched = True
        self.accelerator = Accelerator()
        self.device = torch.device(device or self.accelerator.device)
        self.vlm = load_vlm(VlmSpec(str(backbone), encoder, **settings)).eval().to(self.device)
        self.keep, self.batch_size = keep, int(batch_size)

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Greedy replies, cut at the task's stop texts. Raises CraftError: a task that samples or searches, or an item
        without exactly one image."""
        replies: list[str] = []
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding")
        for length, same in groupby(requests, lambda request: reply_length(request.args[1])):
            asked = list(same)
            for start in range(0, len(asked), self.batch_size):
                part = asked[start : start + self.batch_size]
                batch = self.batch(part)
                texts, _ = self.vlm.reply(self.read(batch), batch, length)
                replies += [until_stop(text, r.args[1]) for text, r in zip(texts, part, strict=True)]
                bar.update(len(part))
        bar.close()
        return replies

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Raises CraftError: lmms-eval 0.7.3 makes a text of each pair of numbers, and then fails."""
        raise CraftError(f"{requests[0].task_name}: lmms-eval cannot score choices by likelihood; ask for a reply")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Raises CraftError: our models answer once."""
        raise CraftError(f"{requests[0].task_name}: a conversation of several rounds; our models answer one question")

    def batch(self, requests: Sequence[Instance]) -> VqaBatch:
        """Prompts with their images, on the model's device. Raises CraftError: an item without exactly one image."""
        asked = [
            VqaExample(f"{r.task_name}/{r.doc_id}", self.image(r), r.args[0], answer="", meta={"directive": ""})
            for r in requests
        ]
        return prompt_batch(self.vlm, asked)

    def read(self, batch: VqaBatch) -> VisualTokens:
        """The visual tokens of a batch, pruned if ``keep`` < 1. Raises CraftError: see :func:`.pruning.prune`."""
        return prune(self.vlm.encode(batch.pixel_values), self.keep, self.vlm.token_prior, PruneRule(), batch.keys)

    def image(self, request: Instance) -> Image.Image:
        """The one image of a request. Raises CraftError: none, several, or another medium."""
        _, _, shown, number, task, split = request.args
        visuals = shown(self.task_dict[task][split][number]) or []
        if len(visuals) != 1 or not isinstance(visuals[0], Image.Image):
            given = ", ".join(type(visual).__name__ for visual in visuals) or "nothing"
            raise CraftError(f"{task}, item {number}: our models need exactly one image, not {given}")
        return visuals[0]


def reply_length(generation: Mapping[str, Any]) -> int:
    """Most tokens of a reply by a task's generation settings, as many as in ``test`` where it sets none. Raises
    CraftError: it samples or searches."""
    sampled = generation.get("do_sample") and generation.get("temperature") != 0
    if sampled or int(generation.get("num_beams") or 1) > 1:
        raise CraftError(
            "the task samples or searches, our models reply greedily: --gen_kwargs do_sample=False,num_beams=1"
        )
    return int(generation.get("max_new_tokens") or MAX_NEW_TOKENS)


def until_stop(text: str, generation: Mapping[str, Any]) -> str:
    """A reply as far as the first of the task's stop texts."""
    until = generation.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
