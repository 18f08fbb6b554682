"""Stage 0: a SigLIP-shaped tower, its text tower and its codebook from nothing.

The recipe of the host's first stage at small scale (VILA-U, section 3): a sigmoid contrastive loss read by the SigLIP
head over the *quantised* tokens, pixel reconstruction from the quantised tokens, and commitment; the codebook follows
by moving averages, after some steps without quantisation. Four things differ because batches and budgets are small:
commitment pulls to the final sum only (pulling to every partial sum leaves the later levels nothing to do), the bias
of the contrastive loss starts where a batch of dozens balances, a quiz on the quantised tokens stands beside the
contrastive loss, and tokens longer than ``width ** 0.5`` cost something.
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
from craft_lightning.losses import contrastive
from craft_lightning.models.quantizer import ResidualQuantizer, straight_through
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.pretraining.plans import TowerSpec
from craft_lightning.pretraining.training_loop import FLOAT32_SDPA
from craft_lightning.types import IGNORED_LABEL


class EmaCodebook(nn.Module):
    """Shared table of ``entries`` codewords, moved by exponential averages of the residuals that chose them.

    Args:
        entries: K. width: d. levels: R. decay: of the averages. restart_below: entries whose average count per step
            falls below it take a random residual of the batch.
    """

    table: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, entries: int, width: int, levels: int, decay: float = 0.99, restart_below: float = 0.1) -> None:
        super().__init__()
        self.levels, self.decay, self.restart_below = levels, decay, restart_below
        self.register_buffer("table", torch.zeros(entries, width))
        self.register_buffer("counts", torch.ones(entries))
        self.register_buffer("sums", torch.zeros(entries, width))
        self.register_buffer("ready", torch.tensor(False))

    @torch.no_grad()
    def start(self, rows: Tensor, generator: torch.Generator, rounds: int = 20) -> None:
        """Residual k-means on ``rows`` ``[n, d]``: half of the table for level 1, the rest for the others."""
        entries, levels = len(self.table), self.levels
        shares = [entries // 2] + [(entries - entries // 2) // (levels - 1)] * (levels - 1) if levels > 1 else [entries]
        shares[-1] = entries - sum(shares[:-1])
        residual, parts = rows, []
        for share in shares:
            centres = residual[torch.randperm(len(residual), generator=generator)[:share]].clone()
            for _ in range(rounds):
                nearest = _nearest(residual, centres)
                counts = torch.bincount(nearest, minlength=share).clamp_min(1).unsqueeze(1)
                moved = torch.zeros_like(centres).index_add_(0, nearest, residual) / counts
                used = torch.bincount(nearest, minlength=share) > 0
                centres[used] = moved[used]
            residual = residual - centres[_nearest(residual, centres)]
            parts.append(centres)
        self.table.copy_(torch.cat(parts))
        self.sums.copy_(self.table)
        self.counts.fill_(1.0)
        self.ready.fill_(True)

    def quantizer(self) -> ResidualQuantizer:
        """The table as it stands, frozen."""
        return ResidualQuantizer(self.table.clone().unsqueeze(0), self.levels)

    @torch.no_grad()
    def encode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Partial sums ``[R, ..., d]`` and codes ``[..., R]`` of ``z`` ``[..., d]``."""
        quantizer = self.quantizer()
        codes = quantizer.encode(z.float()).codes
        return quantizer.partial_sums(codes), codes

    @torch.no_grad()
    def update(self, z: Tensor, sums: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move the table towards the residuals of all levels that chose each entry, and restart unused entries. ``z``
        is ``[n, d]``; ``sums`` ``[R, n, d]`` and ``codes`` ``[n, R]`` are from :meth:`encode`."""
        targets = torch.cat([z] + [z - s for s in sums[:-1]])
        chosen = codes.t().reshape(-1)
        counts = torch.bincount(chosen, minlength=len(self.table)).float()
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).index_add_(0, chosen, targets, alpha=1 - self.decay)
        dead = (self.counts < self.restart_below).nonzero().squeeze(1)
        if len(dead):
            fresh = targets[torch.randint(len(targets), (len(dead),), generator=generator)]
            self.sums[dead] = fresh
            self.counts[dead] = 1.0
        self.table.copy_(self.sums / self.counts.unsqueeze(1))


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return torch.addmm(centres.pow(2).sum(1), rows, centres.t(), alpha=-2.0).argmin(1)


def grid_positions(rows: int, columns: int, width: int, scale: float = 1.0) -> Tensor:
    """``[rows * columns, width]`` sines and cosines of row and column, of amplitude ``scale``, coarse to fine."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    turn = 100.0 ** -torch.linspace(0, 1, width // 4)
    angles = torch.cat([y.reshape(-1, 1) * turn, x.reshape(-1, 1) * turn], dim=1)
    return scale * torch.cat([angles.sin(), angles.cos()], dim=1)


class Quiz(nn.Module):
    """One cross-attention block from question queries to tokens, and a linear layer over all answers.

    Args:
        allowed: ``[Q, A]`` bool, the answers that each question has. width: d. heads: of the attention.
        grid: (rows, columns) of the tokens, whose places the attention knows.
    """

    allowed: Tensor

    def __init__(self, allowed: Tensor, width: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        questions, answers = allowed.shape
        self.register_buffer("allowed", allowed, persistent=False)
        self.queries = nn.Embedding(questions, width)
        self.places = nn.Parameter(grid_positions(*grid, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.answer = nn.Linear(width, answers)

    def forward(self, tokens: Tensor, asked: Tensor, answers: Tensor, places: bool = True) -> Tensor:
        """Mean cross-entropy over the questions asked. tokens: ``[B, N, d]``. For the others see :class:`PairBatch`."""
        seen = self.norms[0](tokens + self.places if places else tokens)
        query = self.queries(asked)
        query = query + self.attention(self.norms[1](query), seen, seen, need_weights=False)[0]
        query = query + self.mlp(self.norms[2](query))
        logits = self.answer(query).float().masked_fill(~self.allowed[asked], -torch.inf)
        return F.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED_LABEL)


@dataclass(frozen=True)
class PairBatch:
    """Images, one sentence each, and all questions about them.

    Attributes:
        pixel_values: ``[B, 3, S, S]`` in [-1, 1]. text_ids: ``[B, L]`` padded token ids.
        same: ``[B, B]`` bool, True where sentence j may be true of image i (no negative).
        asked: ``[B, M]`` number of each question, 0 where an image has fewer than M.
        answers: ``[B, M]`` number of the right answer, :data:`IGNORED_LABEL` where none is asked.
        step: of the run, for the switch to quantisation.
        places: whether the quiz is told where a token stands, or has to read that from the token, too.
    """

    pixel_values: Tensor
    text_ids: Tensor
    same: Tensor
    asked: Tensor
    answers: Tensor
    step: int
    places: bool = True


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
        shape: Any = {"hidden_size": spec.width, "intermediate_size": spec.mlp, "num_attention_heads": spec.heads}
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
        # Whoever reads tokens normalises them, so nothing else holds their length and their common part back: without
        # this the mean is sixteen times what varies, and the codebook's first level is left with naming lengths.
        terms = {"length": spec.length * F.relu(z.square().mean(-1) - 1.0).mean()}
        tokens = z
        if batch.step >= spec.quantize_from and self._ready(z, batch.step):
            sums, codes = self.codebook.encode(z.detach())
            terms["commitment"] = spec.commitment * F.mse_loss(z, sums[-1])
            tokens = straight_through(z, sums[-1])
            if self.training:
                rows = z.detach().flatten(0, 1)
                self.codebook.update(rows, sums.flatten(1, 2), codes.flatten(0, 1), self._generator(batch.step))
        patches = F.unfold(batch.pixel_values, spec.patch_size, stride=spec.patch_size).transpose(1, 2)
        terms["reconstruction"] = spec.reconstruction * F.mse_loss(self.decoder(tokens), patches)
        terms["quiz"] = spec.quiz * self.quiz(tokens, batch.asked, batch.answers, batch.places)
        if batch.step % spec.contrast_every == 0:
            text = self.text(input_ids=batch.text_ids).pooler_output  # SigLIP attends to its padding: no mask
            image, own = self.tower.pooled(tokens), torch.arange(len(text), device=text.device)
            terms["contrastive"] = contrastive(image, text, own, ~batch.same, self.logit_scale, self.logit_bias)
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
    """Rows of a batch: ``per_batch`` groups, equally many images of each, a pure function of the step.

    An image's negatives should be of its own kind, and a batch of all groups would have few of those. Row ``i``
    belongs to group ``i % groups``. Groups take turns. Within a group steps read on along one order after the other,
    and neighbouring steps may read the same part: over a training some images come twice as often as others.
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
