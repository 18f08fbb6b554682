"""Token pruning in evaluations (paper, section 3.3), never in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.evaluation.prior import counts_in, data_of, domain_counts, read_counts
from craft_lightning.metrics import ExactMatch
from craft_lightning.models.pruning import PruneRule, budget_of, pruned_sums


class PruneAtValidation(Callback):
    """Sets keep ratio, rule and prior on the method for ``validate``, ``test`` and ``predict``, and in ``fit`` for its
    validations.

    Logs ``<stage>/prune/keep`` (the ratio asked for), ``tokens`` (the share kept), ``codes`` (the share of an image's
    distinct first-level codes that is left), ``gamma`` (mean over the images whose budget quotas can meet) and
    ``beyond`` (the share of the others); and for further ratios ``<stage>/keep<ratio>/exact_match`` and its parts.

    Args:
        enabled: nothing happens otherwise.
        keep: share of the visual tokens that stay. null: the method's own, 0.8 for CRAFT and 1.0 for all others.
        also: further ratios that ``validate`` and ``test`` reply at, from the same codes, so that the effects of
            training and of pruning can be told apart.
        prior: how common each code is. ``domain``: counts of the training split, from the encoder's folder or taken
            anew with the encoder as it is; ``generic``: counts of the pre-training images, with the same encoder; or
            a file of ``counts``, as ``tokenize --counts`` writes it.
        rule: how tokens are chosen.
    """

    def __init__(
        self,
        enabled: bool = False,
        keep: float | None = None,
        also: Sequence[float] = (1.0,),
        prior: str = "domain",
        rule: PruneRule = PruneRule(),
    ) -> None:
        for ratio in (*also, *([] if keep is None else [keep])):
            budget_of(ratio, 1)
        self.enabled, self.keep, self.also, self.prior, self.rule = enabled, keep, tuple(also), prior, rule
        self._meters: dict[float, ExactMatch] = {}
        self._sums = torch.zeros(6)

    def share(self, method: Any) -> float:
        """The keep ratio of a method."""
        if self.keep is not None:
            return self.keep
        return float(method.usual_keep) if method.vlm.tower.quantizer is not None else 1.0

    def describe(self, method: Any) -> dict[str, Any]:
        """What ``result.json`` says."""
        return {"keep": self.share(method), "also": list(self.also), "prior": self.prior, "rule": asdict(self.rule)}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune from here on; in ``fit`` at one ratio only."""
        if not self.enabled or trainer.sanity_checking:
            return
        module: Any = pl_module
        also = () if trainer.state.fn in ("fit", "predict") else self.also
        module.token_keep, module.token_rule = self.share(module), self.rule
        least = min((module.token_keep, *also))
        # Where nothing is pruned there is nothing to tell apart.
        module.token_also = also = also if least < 1.0 else ()
        if self.rule.by_quota and least < 1.0:
            module.token_prior = self.find_prior(trainer, module)
        self._meters = {keep: ExactMatch().to(module.device) for keep in also}
        self._sums = torch.zeros(6, dtype=torch.float64, device=module.device)

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        if self.enabled:
            module.token_keep, module.token_also = 1.0, ()

    on_test_end = on_predict_end = on_validation_end

    def find_prior(self, trainer: Trainer, module: Any) -> Tensor:
        """``[K]`` counts (see the class). Raises CraftError: a continuous tower, no data to count, or a file that is
        not there or of another codebook."""
        if (known := self.stored_prior(module, moved=module.moved)) is not None:
            return known
        if self.prior == "generic":
            return counts_in(trainer, module, data_of(trainer).generic_images())
        return domain_counts(trainer, module)

    def stored_prior(self, module: Any, moved: bool) -> Tensor | None:
        """The prior, if it need not be counted: of a file, or of an encoder whose weights have not ``moved`` since.
        Raises CraftError: a continuous tower, or a file that is not there or of another codebook."""
        quantizer = module.vlm.tower.quantizer
        if quantizer is None:
            raise CraftError(f"{module.backbone.name} has no codes to prune by; use --prune.rule.variant random")
        if self.prior not in ("domain", "generic"):
            return read_counts(Path(self.prior), quantizer.entries)
        return None if moved or self.prior == "generic" else module.vlm.token_prior

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        for keep, meter in self._meters.items():
            meter.update(outputs["also"][keep])
        if self.enabled and outputs["read"].selection is not None:
            self._sums += pruned_sums(outputs["read"], outputs["counted"])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val", "accuracy")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test", "exact_match")

    def _log(self, trainer: Trainer, module: Any, stage: str, name: str) -> None:
        if not self.enabled or trainer.sanity_checking:
            return
        values = {f"{stage}/prune/keep": torch.tensor(module.token_keep, device=module.device)}
        pictures, tokens, codes, gamma, reached, beyond = trainer.strategy.reduce(self._sums, reduce_op="sum").float()
        if pictures > 0:
            shares = {"tokens": tokens / pictures, "codes": codes / pictures, "beyond": beyond / pictures}
            shares |= {"gamma": gamma / reached} if reached > 0 else {}
            values |= {f"{stage}/prune/{part}": value for part, value in shares.items()}
        for keep, meter in self._meters.items():
            found = meter.compute()
            parts = {"all": name, "seen": f"{name}_seen", "unseen": f"{name}_unseen"}
            values |= {f"{stage}/keep{keep}/{parts[p]}": value for p, value in found.items() if p in parts}
        module.log_dict(values, sync_dist=True)  # equal on all processes already; this says so to Lightning
