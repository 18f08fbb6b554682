"""The data module over drawn datasets: stored items, hold-out, order, resume."""

import subprocess
import sys
from collections import Counter
from dataclasses import fields

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text import multiple_choice as mcq
from craft_lightning.text.prompts import LETTER_DIRECTIVE, SHORT_DIRECTIVE, message
from craft_lightning.types import IGNORED_LABEL
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import DATASETS
from data_modules.twins import TWINS, world_hash
from data_modules.twins.twin import ClassificationTwin

pytestmark = pytest.mark.usefixtures("stub_backbone")

SMALL = {"train_size": 60, "val_size": 40, "test_size": 80, "batch_size": 8}


def module(dataset="kvasir", stage="fit", **options):
    data = VqaDataModule(dataset=dataset, **{**SMALL, **options})
    data.setup(stage)
    return data


def keys(data, epochs=1):
    loader = data.train_dataloader()
    seen = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        seen += [batch.keys for batch in loader]
    return seen


@pytest.mark.parametrize("name", TWINS)
def test_facts_agree_with_the_twin(name):
    facts, twin = DATASETS[name], TWINS[name]()
    assert (facts.name, facts.domain) == (twin.name, twin.domain)
    assert (facts.kind == "classification") == isinstance(twin, ClassificationTwin)
    if isinstance(twin, ClassificationTwin):
        assert facts.query == twin.query
        words = [facts.class_words(label) for label in facts.labels]
        assert words == list(twin.all_class_names)
        assert len(set(words)) == len(words)
        assert set(twin.class_names) <= set(words)


def test_stored_items_are_four_balanced_options_of_all_classes():
    data = module(stage="test")
    examples = data.examples("test")
    letters = Counter(e.answer for e in examples)
    assert letters == dict.fromkeys("ABCD", 20)
    for e in examples:
        assert len(set(e.options)) == 4
        assert e.options[mcq.LETTERS.index(e.answer)] == e.meta["answer_text"]
        assert message(e).endswith(LETTER_DIRECTIVE)
    assert {e.meta["answer_text"] for e in examples} == set(TWINS["kvasir"]().class_names)
    held = set(data.describe()["held_out"])
    assert len(held) == 2
    assert {e.meta["answer_text"] for e in examples if not e.seen} == held


def test_nearest_distractors_are_the_nearest_in_drawn_attributes():
    data = module(stage="test", distractors="nearest")
    twin = TWINS["kvasir"]()
    neighbours = mcq.nearest_labels(twin.class_attributes())
    for e in data.examples("test"):
        near = {twin.class_names[i] for i in neighbours[e.label_id][:3]}
        assert set(e.options) - {e.meta["answer_text"]} == near
    assert data.item_hashes("test") != module(stage="test", distractors="random").item_hashes("test")


def test_stored_items_do_not_depend_on_seed_or_size():
    first = module(stage="test").item_hashes("test")
    assert module(stage="test", seed=7, batch_size=3).item_hashes("test") == first
    larger = module(stage="test", test_size=120).item_hashes("test")
    assert {key: larger[key] for key in first} == first


@pytest.mark.parametrize("dataset", ["kvasir", "eurosat"])
def test_held_out_labels_are_absent_from_training_and_validation(dataset):
    data = module(dataset, train_size=200)
    held = set(data.describe()["held_out"])
    train, val = data.splits["train"], data.examples("val")
    asked = [message(train.example(i, epoch)) for epoch in range(3) for i in range(len(train))]
    asked += [message(e) for e in val] + data.captions
    assert len(train) == 200
    assert len(held) == 2
    assert not any(label in text for text in asked for label in held)
    twin = TWINS[dataset]()
    assert {e.label_id for e in data.examples("train")} == {
        i for i, words in enumerate(twin.class_names) if words not in held
    }
    assert all(e.seen for e in val)


def test_every_label_is_trained_without_hold_out():
    data = module(holdout=0.0, train_size=80)
    assert data.describe()["held_out"] == []
    assert len(data.captions) == 8


def test_training_items_are_redrawn_from_seed_epoch_and_key():
    train = module().splits["train"]
    first, again, later = ([train.example(i, e).options for i in range(40)] for e in (0, 0, 1))
    other = module(seed=1).splits["train"]
    assert first == again
    assert sum(a != b for a, b in zip(first, later, strict=True)) > 30
    assert sum(a != other.example(i).options for i, a in enumerate(first)) > 30


def test_training_letters_are_uniform():
    train = module().splits["train"]
    letters = Counter(train.example(i, epoch).answer for epoch in range(20) for i in range(60))
    assert all(abs(n - 300) < 60 for n in letters.values())


def test_batches_are_typed_and_labelled():
    data = module()
    batch = next(iter(data.train_dataloader()))
    assert batch.pixel_values.shape == (8, 3, 16, 16)
    assert batch.pixel_values.dtype == torch.float32
    assert -1.0 <= batch.pixel_values.min() < batch.pixel_values.max() <= 1.0
    assert ((batch.labels != IGNORED_LABEL).sum(1) == 2).all()
    for caption, example_key in zip(batch.caption_ids.tolist(), batch.keys, strict=True):
        example = next(e for e in data.examples("train") if e.key == example_key)
        assert data.captions[caption] == example.captions[0]
    stored = next(iter(data.val_dataloader()))
    assert (stored.labels == IGNORED_LABEL).all()
    assert (stored.caption_ids == -1).all()
    assert torch.equal(stored.attention_mask.sum(1), stored.prompt_lengths)


def test_pinning_a_batch_pins_all_of_it(monkeypatch):
    _, part = next(iter(module("vqa_rad").train_dataloader())).split(2)
    held = [getattr(part, f.name) for f in fields(part)] + [part.share.label_ids, part.share.caption_ids]
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *args: tensor + 1)
    pinned = pin_memory(part)
    assert pinned.keys == part.keys
    now = [getattr(pinned, f.name) for f in fields(pinned)] + [pinned.share.label_ids, pinned.share.caption_ids]
    for before, after in zip(tensors, [value for value in now if isinstance(value, torch.Tensor)], strict=True):
        assert torch.equal(after, before + 1)


@pytest.mark.parametrize("dataset", ["iconqa", "vqa_rad"])
def test_question_sets_ask_everything_in_training_and_the_stored_question_later(dataset):
    data = module(dataset)
    train, test = data.examples("train"), module(dataset, "test").examples("test")
    assert len(train) > 60
    assert len({e.label_id for e in train}) == 60
    assert len(test) == len({e.label_id for e in test}) == 80
    for e in [*train, *test]:
        assert e.seen
        assert message(e).endswith(LETTER_DIRECTIVE if e.options else SHORT_DIRECTIVE)
        if e.options:
            assert e.options[mcq.LETTERS.index(e.answer)] == e.meta["answer_text"]
    pairs = {(e.label_id, e.key.split("/")[2]) for e in train}
    assert len(pairs) == 60


def test_order_is_the_samplers_alone():
    torch.manual_seed(0)
    first = keys(module(), 2)
    torch.manual_seed(1)
    torch.rand(5)
    assert keys(module(), 2) == first
    assert keys(module(seed=1), 2) != first
    epochs = [{k for batch in first[i : i + 7] for k in batch} for i in (0, 7)]
    assert [len(e) for e in epochs] == [56, 56]
    assert first[:7] != first[7:]


@pytest.fixture
def process(monkeypatch):
    """Pretend to be one of several processes."""

    def become(rank, world):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)

    return become


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch_of_one(process, world):
    data = module(batch_size=12)
    whole = keys(data, 2)
    parts = []
    for rank in range(world):
        process(rank, world)
        parts.append(keys(data, 2))
    assert [sum(shares, ()) for shares in zip(*parts, strict=True)] == whole


def test_a_batch_that_cannot_be_shared_is_refused(process):
    data = module(batch_size=12)
    process(0, 5)
    with pytest.raises(CraftError, match=r"12 rows cannot be shared equally by 5 devices; it divides by 1, 2, 3, 4, 6"):
        data.train_dataloader()


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_count_each_stored_item_once_in_equal_numbers_of_batches(process, world):
    data = module(stage="test", eval_batch_size=8)
    alone = [k for batch in data.test_dataloader() for k in batch.keys]
    counted, batches = [], set()
    for rank in range(world):
        process(rank, world)
        mine = list(data.test_dataloader())
        batches.add(tuple(len(b) for b in mine))
        for batch in mine:
            repeats = [False] * len(batch) if batch.repeats is None else batch.repeats.tolist()
            counted += [k for k, repeat in zip(batch.keys, repeats, strict=True) if not repeat]
    assert len(batches) == 1
    assert sorted(counted) == sorted(alone)
    assert len(data.stored("test").dataset) == len([k for b in data.stored("test") for k in b.keys])


def test_accumulated_parts_are_the_batch_and_know_their_step():
    data = module(batch_size=12)
    whole = next(iter(data.train_dataloader()))
    parts = list(whole.split(3))
    assert sum((p.keys for p in parts), ()) == whole.keys
    assert torch.equal(torch.cat([p.pixel_values for p in parts]), whole.pixel_values)
    assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
    assert [len(p) for p in parts] == [4, 4, 4]
    assert [p.step.part for p in parts] == [0, 1, 2]
    for part in parts:
        assert torch.equal(part.step.caption_ids, whole.caption_ids)
        assert torch.equal(part.step.label_ids, whole.label_ids)
        assert (part.step.parts, part.step.tokens) == (3, int((whole.labels != IGNORED_LABEL).sum()))
    assert parts[0].to(torch.float64).step.label_ids.dtype == torch.float64


class Recorder(pl.LightningModule):
    """Trains nothing of note and remembers what it saw."""

    def __init__(self, backbone=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        if backbone is not None:
            self.backbone = backbone

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.keys, batch.answers))
        return self.weight * batch.pixel_values.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, steps, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet["enable_checkpointing"] = False
    return pl.Trainer(max_steps=steps, default_root_dir=folder, limit_val_batches=0, **quiet, **options)


class SaveAt(pl.Callback):
    """Writes a checkpoint after a step, as a killed run would leave it."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("ended", [False, True], ids=["killed", "ended"])
@pytest.mark.parametrize("stop", [3, 7, 10])
def test_a_stopped_run_continues_in_the_middle_of_an_epoch(tmp_path, stop, ended):
    path = tmp_path / "stop.ckpt"
    whole = Recorder()
    trainer(tmp_path, 17, callbacks=[SaveAt(stop, path)]).fit(whole, datamodule=module())
    if ended:
        shorter = trainer(tmp_path, stop)
        shorter.fit(Recorder(), datamodule=module())
        shorter.save_checkpoint(path)
    second = Recorder()
    trainer(tmp_path, 17).fit(second, datamodule=module(), ckpt_path=path, weights_only=False)
    assert len(whole.seen) == 17
    assert whole.seen[stop:] == second.seen


def test_workers_give_the_same_batches():
    plain = keys(module())
    assert keys(module(num_workers=1)) == plain


def test_two_backbones_in_one_run_are_refused(tmp_path):
    data = VqaDataModule(dataset="kvasir", backbone=VlmSpec(name="pocket-vila"), **SMALL)
    with pytest.raises(CraftError, match="'pocket-vila', the method has 'pocket-vila-u'"):
        trainer(tmp_path, 1).fit(Recorder(VlmSpec()), datamodule=data)


def test_grey_pictures_hold_no_information():
    data = module(stage="test", look="grey")
    batch = next(iter(data.test_dataloader()))
    assert batch.pixel_values.unique().numel() == 1
    assert data.item_hashes("test") == module(stage="test").item_hashes("test")


def test_describe_says_what_was_used():
    data = module()
    said = data.describe()
    assert said["splits"] == {"train": 60, "val": 40}
    assert (said["dataset"], said["source"], said["look"]) == ("kvasir", "twin", "field")
    assert said["world_hash"] == world_hash()
    assert said["captions"] == 6
    assert said["items"] == {"val": mcq.items_hash(data.examples("val"))}
    assert module(look="studio").describe()["look"] == "studio"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "hub"}, "no copy of Kvasir on the hub is known; get kvasir-dataset.zip"),
        ({"hub_id": "a/b"}, "need --data.source hub"),
        ({"source": "twins"}, "did you mean 'twin'"),
        ({"dataset": "eurosta"}, "did you mean 'eurosat'"),
        ({"holdout": 1.0}, "holdout is a share"),
        ({"batch_size": 0}, "at least 1"),
        ({"train_size": 5}, "fewer than one batch of 8: lower --data.batch_size"),
        ({"source": "folder"}, "--data.root"),
    ],
)
def test_mistakes_are_one_line(options, said):
    with pytest.raises(CraftError, match=said) as error:
        module(**options)
    assert "\n" not in str(error.value)


def test_hyperparameters_are_not_logged_by_the_data(tmp_path):
    assert VqaDataModule(dataset="kvasir")._log_hyperparams is False


def test_listing_datasets_needs_no_torch():
    code = "import sys, data_modules.datasets as r; print('eurosat' in list(r.DATASETS), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "False"]


@pytest.mark.parametrize("look", ["field", "studio"])
def test_the_look_is_what_the_encoder_sees(look):
    data = module("kvasir", "test", look=look, test_size=4)
    (batch,) = data.test_dataloader()
    side = batch.pixel_values.shape[-1]
    drawn = TWINS["kvasir"]().draw("test", range(4), side, look).images
    assert torch.equal(batch.pixel_values, drawn.float() / 127.5 - 1)
