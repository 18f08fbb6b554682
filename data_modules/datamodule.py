"""The data module: one class for ten benchmarks, drawn, on disk or from the hub, and for a user's own data."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from craft_lightning import run_facts
from craft_lightning.errors import CraftError, unknown
from craft_lightning.io import check_root
from craft_lightning.models.image_files import told
from craft_lightning.models.image_processing import to_pixels
from craft_lightning.models.image_workers import usual_workers
from craft_lightning.models.vlm_spec import VlmSpec, spec_of
from craft_lightning.optim import rows_per_pass
from craft_lightning.text import multiple_choice as mcq
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from craft_lightning.types import VqaExample
from data_modules.backbone_reader import Reader, read_backbone
from data_modules.captioning.captioner import agree, captioned
from data_modules.captioning.wording import class_name
from data_modules.dataset import Distractors, ItemRow, VqaDataset
from data_modules.datasets import DATASETS, OWN, dataset_name, usual_holdout
from data_modules.datasets.facts import DatasetFacts
from data_modules.samplers import EpochSampler, StoredSampler, TrainLoader, world
from data_modules.sources.drawn import TwinSource, draw_studio
from data_modules.sources.folder import Place, open_folder
from data_modules.sources.images import LazyImages
from data_modules.sources.items import OnBad, Problems, Source, Split, SplitName
from data_modules.sources.records import RecordSource, Unit
from data_modules.sources.rows import open_hub

SOURCES = ("twin", "folder", "hub")
DIRECTIVES = ("answer", "justify")
TWIN_SIZES: dict[SplitName, int] = {"train": 1024, "val": 256, "test": 400}
FOLDER_SIZES: dict[SplitName, int | None] = {"train": None, "val": 256, "test": 1000}

_STAGES: dict[str, tuple[SplitName, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class VqaDataModule(LightningDataModule):
    """Images and questions of a dataset, the same items in the same order for every method.

    Args:
        backbone: whose tokenizer, prompt format and image size are used; a text is taken as its name. The command line
            links it to ``model.backbone``, and refuses another value here.
        dataset: a name of ``python -m craft_lightning list datasets``, ``folder`` for your own data, or the import path
            of :class:`.DatasetFacts` (``my_pkg.BIRDS``).
        source: ``twin`` (drawn), ``folder`` (on disk) or ``hub`` (of datasets; ``docs/datasets.md``).
        root: the folder, JSONL file or zip archive of source ``folder``, whose layouts are told in
            ``data_modules/sources/folder.py``; for source ``hub`` a copy of the repository that was fetched before.
        hub_id: a repository of the hub other than the first choice, hub_revision: its branch, tag or commit.
        query: the question asked of a labelled image. None: the dataset's own wording.
        domain: what all images show, for captions: *An image of a {domain}, specifically a {label}.* None: the
            dataset's own; of your own data nothing, and captions are *An image of a {label}.*
        look: of drawn images: ``field`` (to adapt to) or ``studio`` (as in pre-training); ``grey`` shows no image
            at all, for any source: what can be answered from the text alone.
        batch_size: training rows of one optimiser step, shared equally by all processes and the batches that gradient
            accumulation adds up. eval_batch_size: rows of one process's evaluation batch.
        group_by_image: training rows that ask about one image follow each other, and a batch that holds several of them
            reads it once, as evaluations always do (docs/performance.md).
        num_workers: processes that read images and prepare batches; 0: none but the run's own. None: where images are
            files or lie in archives or tables one a core, at most 8 (:func:`.usual_workers`).
        seed: order, options and captions of training; stored items never depend on it. None: what
            ``seed_everything`` was called with, else 0.
        train_size: training images. None: 1,024 drawn, all of a folder, the paper's number from the hub.
        train_unit: what that counts of a question set on disk: a ``question``, a ``picture`` with all of its questions,
            or ``one_each``, images with one question. None: images from the hub, else questions.
        val_size: validation items. None: 256. They show no held-out label.
        test_size: test items. None: 400 drawn, at most 1,000 of a folder, the paper's number from the hub.
        apart: leave images that test shows, too, by name or content, out of training and validation.
        partial: take a dataset that is not whole.
        holdout: share of the labels kept out of training and validation, in every form. None: a fifth of a published
            dataset's, none of your own.
        distractors: wrong options of stored items: ``nearest`` in looks (drawn classes only) or ``random``. None:
            nearest where that is known.
        captioner: a BLIP or BLIP-2 checkpoint (folder, ID or ID@REVISION) that captions training images, or none.
        directive: what stored items ask for: an ``answer`` (a letter, or a few words), or to ``justify`` it, with
            *Justify your answer.* in place of *Answer ...*; training asks for answers.
        on_bad: ``error`` ends at the first bad input, ``skip`` leaves bad inputs out and counts them.
    """

    def __init__(
        self,
        backbone: VlmSpec = VlmSpec(),
        dataset: str = "eurosat",
        source: Literal["twin", "folder", "hub"] = "twin",
        root: str | None = None,
        hub_id: str | None = None,
        hub_revision: str | None = None,
        query: str | None = None,
        domain: str | None = None,
        look: Literal["field", "studio", "grey"] = "field",
        batch_size: int = 24,
        eval_batch_size: int = 64,
        group_by_image: bool = False,
        num_workers: int | None = None,
        seed: int | None = None,
        train_size: int | None = None,
        train_unit: Unit | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        apart: bool = False,
        partial: bool = False,
        holdout: float | None = None,
        distractors: Distractors | None = None,
        captioner: str | None = None,
        directive: Literal["answer", "justify"] = "answer",
        on_bad: OnBad = "error",
    ) -> None:
        super().__init__()
        backbone, seed = spec_of(backbone), (run_facts.seed() or 0) if seed is None else seed
        holdout = usual_holdout(dataset) if holdout is None else holdout
        # The model logs the run's settings; the same key logged twice with two values would raise.
        self.save_hyperparameters(logger=False)
        if source not in SOURCES:
            raise unknown("data source", source, SOURCES)
        counted = (batch_size, eval_batch_size, train_size, val_size, test_size)
        if any(size is not None and size < 1 for size in counted):
            raise CraftError("batch and split sizes are at least 1")
        if directive not in DIRECTIVES:
            raise unknown("directive", directive, DIRECTIVES)
        if num_workers is not None and num_workers < 0:
            raise CraftError(f"num_workers is at least 0, not {num_workers}")
        if not 0.0 <= holdout < 1.0:
            raise CraftError(f"holdout is a share of the labels in [0, 1), not {holdout}")
        if source != "hub" and (hub_id or hub_revision):
            raise CraftError("--data.hub_id and --data.hub_revision need --data.source hub")
        self.dataset = dataset_name(dataset)
        self.backbone, self.source, self.root, self.look = backbone, source, root, look
        self.query, self.domain, self.hub_id, self.hub_revision = query, domain, hub_id, hub_revision
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.group_by_image = group_by_image
        self.seed, self.distractors, self.on_bad, self.captioner = seed, distractors, on_bad, captioner
        self.captioned_by: str | None = None
        self.directive = directive
        self.holdout, self.train_unit, self.apart, self.partial = holdout, train_unit, apart, partial
        self.sizes: dict[SplitName, int | None] = {"train": train_size, "val": val_size, "test": test_size}
        self.captions: list[str] = []
        self.statements: list[str] = []  # of each caption, without what was generated
        self.splits: dict[SplitName, VqaDataset] = {}
        self._digests: dict[SplitName, dict[str, Any]] = {}
        self._problems = Problems(on_bad)
        self._opened: tuple[Source, Reader] | None = None

    # what there is

    @functools.cached_property
    def facts(self) -> DatasetFacts:
        """Names, licence and wording of the dataset. Raises CraftError: no such dataset; or, for a user's own data, no
        such folder."""
        if self.dataset == OWN:
            kind, title = self._place.kind, Path(str(self.root)).expanduser().resolve().name
            facts = DatasetFacts(name=OWN, title=title, kind=kind, licence="the owner's", label_words=class_name)
        else:
            facts = DATASETS[self.hparams["dataset"]]
        return replace(facts, query=self.query or facts.query, domain=self.domain or facts.domain)

    @functools.cached_property
    def _place(self) -> Place:
        return Place(check_root(self.root, self.dataset))

    @property
    def kind(self) -> str:
        """``classification`` or ``question``."""
        return self.facts.kind

    def open(self) -> tuple[Source, Reader]:
        """The source and the reader of the backbone, opened once. Raises CraftError: a wrong folder, a bad input, or
        options that exclude each other."""
        if self._opened is None:
            reader = read_backbone(self.backbone)
            if self.source != "folder" and self.dataset == OWN:
                raise CraftError("your own data are on disk: --data.source folder --data.root FOLDER")
            source = self._drawn(reader) if self.source == "twin" else self._records(reader)
            if self.distractors == "nearest" and source.neighbours is None and source.class_names:
                raise CraftError("distractors 'nearest' needs drawn classes; use --data.distractors random")
            self._opened = source, reader
        return self._opened

    def _drawn(self, reader: Reader) -> Source:
        sizes = {name: self.sizes[name] or size for name, size in TWIN_SIZES.items()}
        return TwinSource(self.facts, reader.side, "studio" if self.look == "studio" else "field", sizes, self.holdout)

    def _records(self, reader: Reader) -> Source:
        facts, problems, hub = self.facts, self._problems, self.source == "hub"
        usual = dict(FOLDER_SIZES)
        if hub:
            found = open_hub(facts, self.hub_id, self.hub_revision, self.root, problems)
            usual |= {"train": facts.paper.get("train"), "test": facts.paper.get("test")}
        else:
            found = open_folder(facts, self._place, problems)
        caps = {name: self.sizes[name] or size for name, size in usual.items()}
        unit = self.train_unit or ("picture" if hub else "question")
        return RecordSource(facts, reader, found, problems, caps, unit, self.holdout, self.apart, self.num_workers)

    def prepare_data(self) -> None:
        """Fetch the dataset, on one process of a machine, compare it with what was published, and have it captioned.
        Raises CraftError: see :meth:`open`; or a published dataset's counts or labels differ, unless ``partial``."""
        source = self.open()[0]
        if isinstance(source, RecordSource):
            source.check(self.partial)
        fits = self.trainer is not None and self.trainer.state.fn == "fit"
        if self.captioner and fits and "train" not in self.splits:
            self._agree_with_model()  # what ends a run ends it before hours of captioning
            self._parts()
            self.splits["train"] = self._split("train")  # kept: what is skipped is counted once

    def setup(self, stage: str | None = None) -> None:
        """Read or draw the splits of a stage. Raises CraftError: see :meth:`open`; also if the method has another
        backbone, or a split is empty or, in training, smaller than one batch."""
        self._agree_with_model()
        for name in _STAGES.get(getattr(stage, "value", stage) or "", ("train", "val", "test")):
            if name not in self.splits:
                self.splits[name] = self._split(name)
        if self.captioner and "train" in self.splits:
            agree(self.captions)

    def _split(self, name: SplitName) -> VqaDataset:
        source, reader = self.open()
        split = self._read(name)
        # A handful of training images leaves nothing to validate on; the run is none the worse for it.
        need = {"train": self.batch_size, "val": 0 if "train" in self.splits else 1, "test": 1}[name]
        if len(split.items) < need:
            fewer = f"{len(split.items)} items, fewer than one batch of {need}: lower --data.batch_size"
            what = fewer if split.items else "no items"
            hint = f"; {self.facts.elsewhere}" if self.source == "hub" and self.facts.elsewhere else ""
            left = f"; left out: {told(self._problems.skipped)}" if self._problems.skipped else ""
            raise CraftError(f"the {name} split of {self.root or self.dataset} has {what}{hint}{left}")
        if name == "train" and self.captioner:
            if self.look == "grey":
                raise CraftError("--data.look grey shows no image to caption; leave out --data.captioner")
            device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
            split, self.captioned_by = captioned(split, self.captioner, self.dataset, reader, device)
        if name == "train":
            stated = {said: item.caption for item in split.items for said in item.captions}
            self.captions, self.statements = list(stated), list(stated.values())
        rows = {caption: i for i, caption in enumerate(self.captions)} if name == "train" else {}
        chosen = self.distractors or ("random" if source.neighbours is None else "nearest")
        shares = name != "train" or self.group_by_image
        justified = self.directive == "justify" and name != "train"
        made = (split, name, source, self.dataset, reader.builder, chosen, self.seed, rows, shares, justified)
        return VqaDataset(*made)

    def _read(self, name: SplitName) -> Split:
        source, reader = self.open()
        split = source.split(name)
        return split.without_images(reader.side) if self.look == "grey" else split

    def _agree_with_model(self) -> None:
        """A link that failed must not end in a batch made for another model."""
        model = None if self.trainer is None else self.trainer.lightning_module
        theirs = getattr(model, "backbone", None)
        if isinstance(theirs, VlmSpec) and theirs.name != self.backbone.name:
            raise CraftError(f"the data are for backbone {self.backbone.name!r}, the method has {theirs.name!r}")

    # what is handed out

    def train_dataloader(self) -> DataLoader[ItemRow]:
        """Batches of a new permutation each epoch; incomplete batches are dropped. Raises CraftError: the processes and
        accumulated batches do not divide the batch, or an epoch ends within a step."""
        data, parts, rows = self.splits["train"], self._parts(), self.batch_size // world()[0]
        sampler = EpochSampler(data, self.batch_size, self.seed, self.group_by_image)
        sampler.taken = self._taken(sampler.batches, parts)
        return TrainLoader(data, parts=parts, drop_last=True, **self._loading(data, sampler, rows))

    def _parts(self) -> int:
        parts = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        rows_per_pass(self.batch_size, world()[0], parts)
        return parts

    def _taken(self, steps: int, parts: int) -> int:
        """Steps that the trainer takes of an epoch."""
        if self.trainer is None:
            return steps
        limit, every = self.trainer.limit_train_batches, getattr(self.trainer, "val_check_interval", None)
        batches = min(steps * parts, limit) if isinstance(limit, int) else int(steps * parts * limit)
        if batches % parts:
            told = f"leaves {batches} batches of an epoch, and a step takes {parts} (--trainer.accumulate_grad_batches)"
            raise CraftError(f"--trainer.limit_train_batches {limit} {told}")
        validates = self.trainer.check_val_every_n_epoch is not None and self.trainer.limit_val_batches > 0
        if validates and isinstance(every, int) and every > batches:
            mend = "to count through epochs, set --trainer.check_val_every_n_epoch null"
            raise CraftError(f"--trainer.val_check_interval {every}: an epoch has {batches} batches; {mend}")
        return batches // parts

    def val_dataloader(self) -> DataLoader[ItemRow]:
        """This process's stored validation items, seen labels only."""
        return self.stored("val", dealt=True)

    def test_dataloader(self) -> DataLoader[ItemRow]:
        """This process's stored test items, all labels."""
        return self.stored("test", dealt=True)

    predict_dataloader = test_dataloader

    def stored(self, name: SplitName, dealt: bool = False) -> DataLoader[ItemRow]:
        """The stored items of a split: all of them, or those ``dealt`` out to this process."""
        data = self.splits[name]
        sampler = StoredSampler(data, self.eval_batch_size) if dealt else None
        return DataLoader(data, **self._loading(data, sampler, self.eval_batch_size))

    def _loading(self, data: VqaDataset, sampler: Sampler[Any] | None, rows: int) -> dict[str, Any]:
        lazy, trainer = isinstance(data.images, LazyImages), self.trainer
        count = usual_workers(len(data) if lazy else 0) if self.num_workers is None else self.num_workers
        # Pinning opens a context on a GPU, where a run on CPUs has no business.
        pinned = trainer is not None and trainer.strategy.root_device.type == "cuda"
        workers = {"num_workers": count, "persistent_workers": count > 0, "pin_memory": pinned}
        return {"batch_size": rows, "sampler": sampler, "collate_fn": data.collate, **workers}

    def training_images(self) -> Iterator[Tensor]:
        """Every training image once, ``[b, 3, S, S]`` in [-1, 1]: what the prior of token pruning is counted on.
        Raises CraftError: see :meth:`open`."""
        kept, split = self._problems.skipped.copy(), self.splits.get("train") or self._read("train")
        self._problems.skipped = kept  # what is left out here is no part of what is tested
        for part in torch.arange(len(split.images)).split(self.eval_batch_size):
            yield to_pixels(torch.stack([split.images[i] for i in part.tolist()]))

    def generic_images(self) -> Iterator[Tensor]:
        """The same of the synthetic datasets' studio images, which the pocket towers were pre-trained on."""
        for images in draw_studio(self.open()[1].side).split(self.eval_batch_size):
            yield to_pixels(images)

    def examples(self, split: SplitName) -> list[VqaExample]:
        """The examples of a split that is set up (training: as asked in epoch 0)."""
        data = self.splits[split]
        return [data.example(index) for index in range(len(data))]

    def asked(self, split: SplitName, count: int | None = None) -> list[VqaExample]:
        """:meth:`examples`, or the first ``count`` of them, with a blank image: nothing is read or decoded."""
        data = self.splits[split]
        return [data.asked(index) for index in range(len(data))[:count]]

    def item_hashes(self, split: SplitName) -> dict[str, str]:
        """Key to hash of every stored item: options, order and wording as asked."""
        return {example.key: mcq.item_hash(example) for example in self.asked(split)}

    def write_items(self, split: SplitName, path: str | Path) -> None:
        """Store the items of a split beside a run's results."""
        mcq.write_items(Path(path), self.asked(split))

    def digest(self) -> dict[SplitName, dict[str, Any]]:
        """Of the training and validation splits that are set up: number of items, and hashes of items and images, the
        same wherever the data lie and on every machine; settings of how they are read do not count."""
        for name, split in self.splits.items():
            if name != "test" and name not in self._digests:
                images = "grey" if self.look == "grey" else split.source.identity(name)
                self._digests[name] = {"count": len(split), "items": split.items_hash(), "pictures": images}
        return dict(self._digests)

    def describe(self) -> dict[str, Any]:
        """What the run banner and ``result.json`` say of the data: source, sizes, labels, hashes, skipped inputs.
        Raises CraftError: see :meth:`open`."""
        (source, reader), facts = self.open(), self.facts
        model = None if self.trainer is None else self.trainer.lightning_module
        decoded = int(getattr(model, "max_new_tokens", MAX_NEW_TOKENS))
        stored = {name: data for name, data in self.splits.items() if name != "train"}
        return {
            "dataset": self.dataset,
            "title": facts.title,
            "kind": facts.kind,
            "licence": facts.licence,
            "source": self.source,
            **source.facts(),
            "look": self.look if self.source == "twin" or self.look == "grey" else None,
            "splits": {name: len(data) for name, data in self.splits.items()},
            "pictures": {name: len(data.images) for name, data in self.splits.items()},
            "items": {name: mcq.items_hash(self.asked(name)) for name in stored},
            "classes": len(source.class_names),
            "held_out": [source.class_names[label] for label in sorted(source.held_out)],
            "too_long": {name: count for name, data in stored.items() if (count := data.too_long(decoded))},
            "distractors": next((data.distractors for data in self.splits.values()), self.distractors),
            "captions": len(self.captions),
            "captioner": self.captioned_by,
            "skipped": dict(self._problems.skipped),
            "batch_size": self.batch_size,
            "group_by_image": self.group_by_image,
            "seed": self.seed,
            "conversation": reader.builder.conversation,
        }
