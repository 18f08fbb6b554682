"""The contract of a method: what it trains, what it builds, how it sees an image, and its loss terms.

Everything else (steps, optimiser, logging, evaluation, checkpoints) is the same for all methods and lives here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from callbacks.adapter_export import AdapterExport
from callbacks.codebook_usage import CodesChanged
from callbacks.encoder_export import EncoderExport
from callbacks.hparams_tab import HparamsTab
from callbacks.last_step import LastValidation
from callbacks.result_writer import ResultWriter
from callbacks.run_banner import RunBanner
from craft_lightning.checkpoints.load import load_vlm, shrink, skeleton
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.generate import scored_replies
from craft_lightning.losses import commitment
from craft_lightning.methods._support.checkpointed import Checkpointed
from craft_lightning.methods._support.feature_cache import FeatureCache
from craft_lightning.methods._support.resuming import weight_hashes
from craft_lightning.metrics import CodebookUsage, ExactMatch
from craft_lightning.models.pruning import PruneRule, prune_each
from craft_lightning.models.sharding import shard
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec, spec_of
from craft_lightning.optim import OptimSpec, build_optimizer
from craft_lightning.settings import JUDGE
from craft_lightning.text.multiple_choice import pick
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from craft_lightning.types import MethodOutput, Prediction, VisualTokens, VqaBatch

HOOKS = ("trainable", "build", "visual_tokens", "losses", "param_groups")
FINAL = (
    *("configure_model", "forward", "training_step", "validation_step", "test_step", "predict_step"),
    *("configure_optimizers", "configure_gradient_clipping", "on_save_checkpoint", "on_load_checkpoint"),
    "configure_callbacks",
)

# Checkpoints are read with ``weights_only``; those that Python code writes hold the specs themselves.
torch.serialization.add_safe_globals([VlmSpec, OptimSpec])


class BaseMethod(Checkpointed, ABC):
    """A way to adapt a discrete vision-language model.

    Subclasses override the five hooks in :data:`HOOKS`, and those of Lightning's that the base leaves alone; their
    constructors take typed keywords of their own and end in ``super().__init__(**kwargs)``.

    Args:
        backbone: the model that is adapted (the surrogate, in training) or tested; a text is taken as its name.
        optim: learning rate and its schedule.
        start_from: a checkpoint of this method whose trained weights are begun with, or None.
        max_new_tokens: length of the replies that evaluations score.

    Attributes:
        name: key in results, configs and checkpoints; never derived from the class name.
        continuous: True refuses backbones that have a codebook.
        usual_keep: share of visual tokens that evaluations keep when pruning is on and no other share is asked for.
        vlm: the model; exists once ``configure_model`` has run, that is after the strategy does.
        seen: what a frozen encoder made of the images of this fit; None where it has to see each again.
        beside_encoder: what an evaluation needs besides the encoder's own parameters, in words; empty for nothing.
        token_keep, token_prior, token_rule: see :func:`.pruning.prune`; used outside of training only, set by
            PruneAtValidation. token_also: further keep ratios to reply at, from the same codes.
    """

    name: ClassVar[str]
    continuous: ClassVar[bool] = False
    usual_keep: ClassVar[float] = 1.0
    vlm: DiscreteVlm

    def __init__(
        self,
        *,
        backbone: VlmSpec = VlmSpec(),
        optim: OptimSpec = OptimSpec(),
        start_from: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.backbone, self.optim, self.start_from = spec_of(backbone), optim, start_from
        self.max_new_tokens = max_new_tokens
        if isinstance(backbone, str):  # else it stays as the command line keeps it, which makes the method anew of it
            self.hparams["backbone"] = self.backbone
        self.strict_loading = False
        self.accuracy = ExactMatch()
        self.usage: CodebookUsage | None = None
        self.token_keep, self.token_rule = 1.0, PruneRule()
        self.token_also: tuple[float, ...] = ()
        self.token_prior: Tensor | None = None
        self.beside_encoder = ""
        self.seen: FeatureCache | None = None
        self._built = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if final := [name for name in FINAL if name in vars(cls)]:
            raise TypeError(f"{cls.__name__} overrides {', '.join(final)}; a method may override {', '.join(HOOKS)}")

    # -- the five hooks ------------------------------------------------------------------------------------------

    @abstractmethod
    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (of :meth:`named_parameters`) and parameters that move. The base freezes everything else."""

    def build(self) -> None:
        """Attach what the method adds (a teacher, LoRA, a read-out token) to ``self`` or ``self.vlm``."""

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        """Pixels ``[B, 3, H, W]`` to what the projector sees; by default the backbone's own path."""
        return self.vlm.encode(pixel_values)

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Named loss terms, weights included, which the base adds up and logs as ``train/<name>``; by default ``sal``
        alone, the next-token loss of the answer through the language model (equation 2)."""
        return {"sal": out.answer_loss}

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; by default matrices are decayed, vectors and scalars are not."""
        groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for _, parameter in self.trainable():
            groups[sum(side > 1 for side in parameter.shape) < 2].append(parameter)
        return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]

    @property
    def data_kind(self) -> str:
        """``classification`` or ``question``, as the data module says; classification without one."""
        return str(getattr(self._data, "kind", "classification"))

    # -- final ---------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Load the backbone, let the method build, freeze everything but :meth:`trainable`, take over what it starts
        with; idempotent. Raises CraftError: a backbone with a codebook, for a method that knows none, or a checkpoint
        to start with that does not fit."""
        if not self._built:
            vlm = load_vlm(replace(self.backbone, language_dtype="same"))
            if self.continuous and vlm.codebook_hash is not None:
                raise CraftError(
                    f"{self.name} is for continuous models, and {self.backbone.name} has a codebook; take "
                    "--model.backbone.name pocket-vila (through a codebook, the same is craft with lambda_commitment "
                    "and lambda_contrastive 0)"
                )
            self.weights = weight_hashes(vlm)  # of the whole weights, whatever they are held in below
            shrink(vlm.language_model, self.backbone)
            self._configure(vlm, self.start_from)

    def configure_callbacks(self) -> list[Callback]:
        """What every run does, also that of a plain Trainer: say what it is, end with a validation of the weights that
        it leaves, and write ``encoder/``, ``result.json``, ``predictions.jsonl`` and ``items.jsonl`` to the Trainer's
        ``default_root_dir``. A ``fast_dev_run`` writes nothing."""
        rehearsal = getattr(self.trainer, "fast_dev_run", False)
        # A result comes behind what it stands for.
        files = [] if rehearsal else [EncoderExport(), AdapterExport(), ResultWriter()]
        asked = getattr(self._data, "directive", "answer") == "justify"
        judges = [import_module(JUDGE).OfflineJudging()] if asked else []
        return [RunBanner(), LastValidation(), CodesChanged(), *judges, *files, HparamsTab()]

    def sketch(self) -> Self:
        """A copy on the meta device, from config files alone: names, shapes and what trains, without weights."""
        copy = deepcopy(self)
        with torch.device("meta"):
            copy._configure(skeleton(self.backbone))
        return copy

    def _configure(self, vlm: DiscreteVlm, start_from: str | None = None) -> None:
        self.vlm, small = vlm, self.backbone.language_dtype
        packed = {id(p) for p in vlm.language_model.parameters()} if small != "same" else set()
        self.build()
        self.requires_grad_(False)
        own = {id(p) for p in self.parameters()}
        for name, parameter in self.trainable():
            if id(parameter) not in own:
                raise TypeError(f"{self.name}.trainable() yields {name}, which is no parameter of the method")
            if id(parameter) in packed:
                raise CraftError(
                    f"{self.name} trains the language model: --model.backbone.language_dtype {small} is for a "
                    "frozen one, take same"
                )
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
        if start_from is not None:
            self._begin_with(start_from)
        # Lightning keeps this mode: a frozen model must not drop out. What holds no tensor goes with its owner.
        for module in self.modules():
            held = [*module.parameters(), *module.buffers()]
            if held and not any(tensor.requires_grad for tensor in held):
                module.eval()
        quantizer = self.vlm.tower.quantizer
        if quantizer is not None:
            self.usage = CodebookUsage(quantizer.entries, quantizer.levels, quantizer.shared)
        if self.device_mesh is not None:
            if small != "same":
                raise CraftError(f"--trainer.strategy fsdp2 cannot cut matrices in {small}: take ddp")
            shard(self, self.device_mesh["data_parallel"])
            self.vlm.lockstep = True
        self._built = True

    def forward(self, batch: VqaBatch) -> MethodOutput:
        """Encode, quantise, project, and read the answer's logits and loss (labels are needed)."""
        return self.vlm(self._look(batch), batch)

    def setup(self, stage: str) -> None:
        """In ``fit`` the weights are the method's from the first step on."""
        self.moved = self.moved or stage == "fit"
        self.seen = None  # what a fit that failed has left

    def on_fit_start(self) -> None:
        """Keep what the encoder makes of images, if it stays as it is in this fit; not where the tower is sharded: all
        processes gather its weights together."""
        own = type(self).visual_tokens is not BaseMethod.visual_tokens
        moves = any(parameter.requires_grad for parameter in self.vlm.tower.parameters())
        self.seen = None if own or moves or self.vlm.lockstep else FeatureCache(self.vlm.grid)
        self._tell_plan()

    def on_fit_end(self) -> None:
        """Free the memory of the cached features."""
        self.seen = None

    def _look(self, batch: VqaBatch) -> VisualTokens:
        if self.seen is None or not batch.image_names:
            visual = self.visual_tokens(batch.pixel_values)
        else:
            visual = self.seen.look(batch, self.visual_tokens)
        return visual if batch.image_of is None else visual.rows(batch.image_of)

    def on_train_batch_start(self, batch: VqaBatch, batch_idx: int) -> None:
        """What a step draws (dropout) depends on seed, process and step alone: a resumed run draws it again."""
        seed = getattr(self._data, "seed", 0)
        torch.manual_seed(pick(2**63, "step", seed, self.global_rank, self.trainer.global_step, batch_idx))

    def training_step(self, batch: VqaBatch, batch_idx: int) -> Tensor:
        """Sum of the method's terms, after the refusal of one that is no number; logs ``train/loss``, each
        ``train/<term>``, and where there is a codebook ``train/codebook_distance``, the mean squared distance of the
        features to the sums of their codewords: the commitment loss without its weight."""
        out = self._balanced(self(batch), batch)
        terms = self.losses(batch, out)
        if self._trainer is not None and self.trainer.global_step == 0:
            self._note_gradients(terms, out.visual.features, batch)
        values = torch.stack(list(terms.values()))
        self._refuse_divergence(list(terms), values.detach(), self.optim.lr)
        known = out.visual.codes is not None
        beside = {"codebook_distance": commitment(out.visual.features.detach(), out.visual.tokens)} if known else {}
        self._log_terms(terms, beside, batch)
        return values.sum()

    def validation_step(self, batch: VqaBatch, batch_idx: int) -> dict[str, Any]:
        """Greedy exact match on the validation items, which are the same for all methods and seeds.

        Returns:
            ``predictions``, ``codes``, ``visual`` (all tokens), ``read`` (those that were not pruned), and ``also``,
                predictions by keep ratio; and ``counted`` ``[B]`` bool, False at rows that another process counts.
        """
        return self._evaluate(batch)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics: an evaluation counts its own items alone."""
        self.accuracy.reset()
        if self.usage is not None:
            self.usage.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Log ``val/accuracy``, ``_seen``, ``_unseen``, ``val/letter_likelihood`` and the use of the codebook."""
        self._log_metrics("val", "accuracy")

    def on_test_epoch_end(self) -> None:
        """Log ``test/exact_match``, ``_seen``, ``_unseen``, ``test/letter_likelihood`` and the use of the codebook."""
        self._log_metrics("test", "exact_match")

    def test_step(self, batch: VqaBatch, batch_idx: int) -> dict[str, Any]:
        """Greedy replies of at most ``max_new_tokens``, scored by exact match: as :meth:`validation_step`."""
        return self._evaluate(batch)

    def predict_step(self, batch: VqaBatch, batch_idx: int) -> list[Prediction]:
        """Scored replies; nothing is logged."""
        return self._evaluate(batch, count=False)["predictions"]

    def configure_optimizers(self) -> Any:
        """AdamW over :meth:`param_groups`; steps are the trainer's. Raises CraftError: the method trains nothing, or
        the run has no end."""
        groups = [group for group in self.param_groups() if group["params"]]
        if not groups:
            raise CraftError(f"{self.name} trains nothing: use test, not fit")
        self._planned = self._planned[0], self._steps()
        return build_optimizer(groups, self.optim, self._planned[1])

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip to the spec's norm; where it has none, as the trainer says."""
        value = gradient_clip_val if self.optim.clip is None else self.optim.clip
        if value is not None:
            self.clip_gradients(optimizer, value, gradient_clip_algorithm or "norm")

    def _evaluate(self, batch: VqaBatch, count: bool = True) -> dict[str, Any]:
        visual = self._look(batch)
        keeps = (self.token_keep, *self.token_also)
        read, *others = prune_each(visual, keeps, self.token_prior, self.token_rule, batch.keys)
        predictions = scored_replies(self.vlm, read, batch, self.max_new_tokens)
        also = {
            keep: predictions
            if keep == self.token_keep
            else scored_replies(self.vlm, other, batch, self.max_new_tokens)
            for keep, other in zip(self.token_also, others, strict=True)
        }
        if count:
            self.accuracy.update(predictions)
            if self.usage is not None and visual.codes is not None:
                self.usage.update(visual.codes[batch.counted])
        found = {"predictions": predictions, "also": also, "visual": visual, "read": read}
        return found | {"codes": visual.codes, "counted": batch.counted}

    def _log_metrics(self, stage: str, name: str) -> None:
        found = self.accuracy.compute()
        named = {"all": name, "seen": f"{name}_seen", "unseen": f"{name}_unseen", "letter": "letter_likelihood"}
        values = {f"{stage}/{named.get(part, part)}": value for part, value in found.items()}
        if self.usage is not None:
            usage = self.usage.compute()  # of all processes, also where this one's items were all repeated ones
            values[f"{stage}/codebook_perplexity"] = usage["perplexity"][0]
            values[f"{stage}/codebook_dead"] = usage["dead"].float()
        self.log_dict(values, sync_dist=True)  # equal on all processes already; this says so to Lightning
