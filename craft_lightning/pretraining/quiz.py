"""Questions asked of visual tokens: what makes a small tower keep detail.

Contrast alone teaches a tower from nothing what a picture shows, hardly how many, where, or which word: a batch of
dozens rarely holds two pictures that differ in that alone. So every question that can be asked of a picture is asked,
each by a query of its own that looks at all tokens (the design of Query2Label, Liu et al. 2021), and answered among
the answers this question has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from craft_lightning.types import IGNORED_LABEL


@dataclass(frozen=True)
class QuizRows:
    """Questions of some pictures and their right answers.

    Attributes:
        asked: ``[B, M]`` number of each question, 0 where a picture has fewer than M.
        answers: ``[B, M]`` number of the right answer, :data:`IGNORED_LABEL` where none is asked.
    """

    asked: Tensor
    answers: Tensor


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

    def forward(self, tokens: Tensor, rows: QuizRows) -> Tensor:
        """Mean cross-entropy over the questions asked. tokens: ``[B, N, d]``."""
        seen = self.norms[0](tokens + self.places)
        query = self.queries(rows.asked)
        query = query + self.attention(self.norms[1](query), seen, seen, need_weights=False)[0]
        query = query + self.mlp(self.norms[2](query))
        logits = self.answer(query).float().masked_fill(~self.allowed[rows.asked], -torch.inf)
        return F.cross_entropy(logits.flatten(0, 1), rows.answers.flatten(), ignore_index=IGNORED_LABEL)
