"""Stage 0: a SigLIP-shaped tower, its text tower and its codebook from nothing.

The recipe of the host's first stage at small scale (VILA-U, section 3): a sigmoid contrastive loss read by the SigLIP
head over the *quantised* tokens, pixel reconstruction from the quantised tokens, and commitment; the codebook follows
by moving averages, after some steps without quantisation. Three things differ because batches and budgets are small:
commitment pulls to the final sum only (pulling to every partial sum leaves the later levels nothing to do), the bias
of the contrastive loss starts where a batch of dozens balances, and a quiz on the quantised tokens stands beside the
contrastive loss (see :mod:`craft_lightning.pretraining.quiz`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig

from craft_lightning.checkpoints.vila_u_writer import TowerParts
from craft_lightning.models.quantizer import straight_through
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.pretraining.attention import FLOAT32_SDPA
from craft_lightning.pretraining.codebook import EmaCodebook
from craft_lightning.pretraining.quiz import Quiz, QuizRows, grid_positions


@dataclass(frozen=True)
class TowerSpec:
    """Shape of a tower and weights of its losses.

    Attributes:
        width, layers, heads, mlp: of the vision transformer; the last layer serves the contrastive loss only.
        image_size, patch_size: pixels. text_layers: of the text tower (same width). text_positions: its context.
        codes, levels: of the codebook. quantize_from: step at which quantisation starts.
        places: amplitude of the initial position embeddings.
        reconstruction, commitment, quiz: weights beside the contrastive loss.
        contrast_every: steps between two that compute the contrastive loss, the text tower's only one.
    """

    width: int = 128
    layers: int = 6
    heads: int = 4
    mlp: int = 512
    image_size: int = 64
    patch_size: int = 8
    text_layers: int = 3
    text_positions: int = 64
    codes: int = 1024
    levels: int = 4
    quantize_from: int = 200
    places: float = 0.5
    reconstruction: float = 1.0
    commitment: float = 1.0
    quiz: float = 1.0
    contrast_every: int = 2


@dataclass(frozen=True)
class PairBatch:
    """Pictures, one sentence each, and all questions about them.

    Attributes:
        pixel_values: ``[B, 3, S, S]`` in [-1, 1]. text_ids: ``[B, L]`` padded token ids.
        same: ``[B, B]`` bool, True where sentence j may be true of picture i (no negative).
        quiz: the questions. step: of the run, for the switch to quantisation.
    """

    pixel_values: Tensor
    text_ids: Tensor
    same: Tensor
    quiz: QuizRows
    step: int


class TowerPretraining(nn.Module):
    """All that stage 0 trains, and its loss.

    Args:
        spec: shape and weights. vocabulary: entries of the text tokenizer. allowed: see :class:`Quiz`.
        seed: of initial weights and restarts.
    """

    def __init__(self, spec: TowerSpec, vocabulary: int, pad_id: int, allowed: Tensor, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.spec = spec
        shape: dict[str, Any] = {
            "hidden_size": spec.width,
            "intermediate_size": spec.mlp,
            "num_attention_heads": spec.heads,
        }
        self.tower = SiglipTower.from_config(
            SiglipVisionConfig(
                **shape, num_hidden_layers=spec.layers, image_size=spec.image_size, patch_size=spec.patch_size
            ),
            attention=FLOAT32_SDPA,
        )
        # Its own initial places are a tenth of the patches they are added to: too faint to learn "where" from.
        places = self.tower.vision.embeddings.position_embedding.weight
        places.data.copy_(grid_positions(*self.tower.grid, spec.width, spec.places))
        self.text = SiglipTextModel._from_config(
            SiglipTextConfig(
                **shape,
                num_hidden_layers=spec.text_layers,
                vocab_size=vocabulary,
                max_position_embeddings=spec.text_positions,
                projection_size=spec.width,
                pad_token_id=pad_id,
                bos_token_id=pad_id,
                eos_token_id=pad_id,
            ),
            attn_implementation=FLOAT32_SDPA,
        )
        self.codebook = EmaCodebook(spec.codes, spec.width, spec.levels)
        self.decoder = nn.Linear(spec.width, 3 * spec.patch_size**2)
        self.quiz = Quiz(allowed, spec.width, spec.heads, self.tower.grid)
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())
        self.logit_bias = nn.Parameter(torch.tensor(-4.5))
        self.seed = seed
        self.kept: list[Tensor] = []

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Named terms of the loss (a line in the log each)."""
        spec = self.spec
        z = self.tower.features(batch.pixel_values).float()
        terms: dict[str, Tensor] = {}
        tokens = z
        if batch.step >= spec.quantize_from and self._ready(z, batch.step):
            sums, codes = self.codebook.encode(z.detach())
            terms["commitment"] = spec.commitment * F.mse_loss(z, sums[-1])
            tokens = straight_through(z, sums[-1])
            if self.training:
                rows = z.detach().flatten(0, 1)
                self.codebook.update(rows, sums.flatten(1, 2), codes.flatten(0, 1), self._generator(batch.step))
        terms["reconstruction"] = spec.reconstruction * F.mse_loss(
            self.decoder(tokens), self.patches(batch.pixel_values)
        )
        terms["quiz"] = spec.quiz * self.quiz(tokens, batch.quiz)
        if batch.step % spec.contrast_every == 0:
            pooled = self.pooled(tokens)
            terms["contrastive"] = self.contrastive(pooled, self.embed_text(batch.text_ids), batch.same)
        return terms

    def _ready(self, z: Tensor, step: int) -> bool:
        """Collect features of the first steps, then start the codebook from them."""
        if bool(self.codebook.ready):
            return True
        self.kept.append(z.detach().flatten(0, 1))
        if sum(len(k) for k in self.kept) < 20 * self.spec.codes:
            return False
        self.codebook.start(torch.cat(self.kept), self._generator(step))
        self.kept.clear()
        return True

    def _generator(self, step: int) -> torch.Generator:
        """Randomness of a step, so that a resumed run restarts the same entries."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """``[B, N, 3 p p]`` pixels of each patch."""
        p = self.spec.patch_size
        return F.unfold(pixel_values, p, stride=p).transpose(1, 2)

    def pooled(self, tokens: Tensor) -> Tensor:
        """``[B, d]`` the SigLIP head over (quantised) tokens: last block, final norm, attention pooling."""
        vision = self.tower.vision
        hidden = vision.encoder.layers[-1](tokens, attention_mask=None)
        return vision.head(vision.post_layernorm(hidden))

    def embed_text(self, text_ids: Tensor) -> Tensor:
        """``[B, d]`` of padded token ids ``[B, L]`` (SigLIP attends to its padding, so there is no mask)."""
        return self.text(input_ids=text_ids).pooler_output

    def contrastive(self, image: Tensor, text: Tensor, same: Tensor) -> Tensor:
        """SigLIP's pairwise sigmoid loss, mean over pictures; pairs that may match are no negatives."""
        logits = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).t()
        logits = logits * self.logit_scale.exp().clamp(max=100.0) + self.logit_bias
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        negatives = F.softplus(logits).masked_fill(same | own, 0.0)
        return (F.softplus(-logits.diagonal()) + negatives.sum(1)).mean()

    def parts(self, tokenizer: Any) -> TowerParts:
        """What a checkpoint folder keeps."""
        return TowerParts(
            self.tower.vision,
            self.codebook.table.clone().unsqueeze(0),
            self.spec.levels,
            self.text,
            tokenizer,
            self.logit_scale.item(),
            self.logit_bias.item(),
        )


def grouped_rows(size: int, groups: int, batch_size: int, per_batch: int, step: int, seed: int) -> list[int]:
    """Rows of a batch: ``per_batch`` groups, equally many pictures of each, a pure function of the step.

    A picture's negatives should be of its own kind, and a batch of all groups would have few of those. Row ``i``
    belongs to group ``i % groups``. Groups take turns; within a group rows repeat only after a full pass.
    """
    share, rounds = batch_size // per_batch, groups // math.gcd(groups, per_batch)
    turn = torch.Generator().manual_seed(seed * 1_000_003 + step // rounds)
    order = torch.randperm(groups, generator=turn).repeat(per_batch)
    chosen = order[(step % rounds) * per_batch :][:per_batch].tolist()
    members, rows = size // groups, []
    for group in chosen:
        visit = step * per_batch // groups * share
        epoch, start = divmod(visit, max(1, members - share))
        within = torch.Generator().manual_seed((seed * 1_009 + epoch) * 1_009 + group)
        picked = torch.randperm(members, generator=within)[start : start + share]
        rows += [int(m) * groups + group for m in picked]
    return rows
