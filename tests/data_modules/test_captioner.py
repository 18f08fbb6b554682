"""Captions of a captioning model: made once, kept, drawn beside the statements; without one nothing is different."""

import functools
import json
import shutil
import threading
from collections import Counter

import httpx2
import huggingface_hub
import pytest
import torch
from filelock import FileLock
from huggingface_hub import errors
from lightning.pytorch import Trainer
from PIL import Image

from craft_lightning.errors import CraftError
from craft_lightning.losses import negative_pairs
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.captioning import captioner as captions_module
from data_modules.captioning.captioner import Captioner, agree
from data_modules.datamodule import VqaDataModule
from data_modules.sources import records as records_module
from data_modules.sources.images import LazyImages, to_pil
from tests.data_modules.captioner_kit import WORDS, write_blip, write_blip2
from tests.data_modules.conftest import save_picture

CLASSES = ("elk", "lynx", "red_fox")
ID = "someone/blip2"


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    return write_blip2(tmp_path_factory.mktemp("captioner") / "c0ffee")


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Where captions are kept; they are short here, and few are made at once."""
    folder = tmp_path / "assets"
    there = functools.partial(huggingface_hub.cached_assets_path, assets_dir=folder)
    monkeypatch.setattr(huggingface_hub, "cached_assets_path", there)
    monkeypatch.setattr(captions_module, "LENGTH", 4)
    monkeypatch.setattr(captions_module, "BATCH", 4)
    return folder


@pytest.fixture
def loads(monkeypatch):
    """Number of images of every batch that is captioned; ``loads.limit`` batches, then a kill."""

    class Counted(captions_module._Model):
        batches, models, limit = [], 0, 99

        def __init__(self, *args):
            super().__init__(*args)
            Counted.models += 1

        def __call__(self, pictures):
            if len(Counted.batches) == Counted.limit:
                raise KeyboardInterrupt
            Counted.batches.append(len(pictures))
            return super().__call__(pictures)

    monkeypatch.setattr(captions_module, "_Model", Counted)
    return Counted


def own(root, captioner=None, **options):
    captioner = str(captioner) if captioner else None
    options = {"batch_size": 5, "holdout": 0.0, **options}
    data = VqaDataModule(dataset="folder", source="folder", root=str(root), captioner=captioner, **options)
    data.setup("fit")
    return data


def lines(folder):
    (path,) = folder.rglob("*.jsonl")
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.fixture
def pictures(stub_backbone, class_folder):
    """Ten training images of three classes."""
    root = class_folder(CLASSES, ("train", "val", "test"), each=4)
    (root / "train" / "elk" / "00.png").unlink()
    (root / "train" / "elk" / "01.png").unlink()
    return root


@pytest.mark.parametrize("write", [write_blip2, write_blip])
def test_pictures_are_captioned_once(write, pictures, kept, loads, tmp_path):
    captioner = write(tmp_path / "captioner")
    state = torch.get_rng_state()
    data = own(pictures, captioner)
    assert torch.equal(torch.get_rng_state(), state)
    assert (loads.models, loads.batches) == (1, [4, 4, 2])
    assert len(lines(kept)) == 10
    assert not [path for path in kept.rglob("*") if ".tmp" in path.name]
    said = {e.key: e.captions for e in data.examples("train")}
    for statement, *generated in said.values():
        assert 1 <= len(generated) <= captions_module.CAPTIONS
        assert len(set(generated)) == len(generated)
        for sentence in generated:
            assert sentence.endswith(f" {statement}")
            assert set(sentence.removesuffix(f" {statement}").split()) <= set(WORDS)
    assert len({sentence for sentences in said.values() for sentence in sentences[1:]}) > 5
    assert data.captions == list(dict.fromkeys(sentence for sentences in said.values() for sentence in sentences))
    assert data.describe()["captioner"] == f"{captioner} {lines(kept)[0]['by']}"
    again = own(pictures, captioner)
    assert again.captions == data.captions
    assert (loads.models, len(loads.batches)) == (1, 3)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("write", [write_blip2, write_blip])
def test_captions_are_of_their_own_picture(write, lazy, pictures, loads, tmp_path, monkeypatch):
    for shade, path in enumerate(sorted(pictures.glob("train/*/*.png"))):
        Image.new("RGB", (20, 12), (255 * (shade & 1), 255 * (shade >> 1 & 1), 25 * shade)).save(path)
    if lazy:
        monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    folder = write(tmp_path / "captioner")
    data = own(pictures, folder)
    train = data.splits["train"]
    assert isinstance(train.images, LazyImages) == lazy
    model = captions_module._Model(folder, torch.device("cpu"))
    apart = [next(model([to_pil(train.images[item.image])])) for item in train.items]
    assert [list(item.generated) for item in train.items] == apart
    assert len({tuple(said) for said in apart}) >= 5


def test_a_killed_run_continues(pictures, kept, loads, blip2):
    loads.limit = 2
    with pytest.raises(KeyboardInterrupt):
        own(pictures, blip2)
    first = lines(kept)
    assert len(first) == 8
    loads.limit = 99
    data = own(pictures, blip2)
    assert loads.batches == [4, 4, 2]
    assert lines(kept)[:8] == first
    shutil.rmtree(kept)
    assert own(pictures, blip2).captions == data.captions


def test_new_pictures_alone_are_captioned(pictures, kept, loads, blip2, monkeypatch):
    monkeypatch.setattr(records_module, "CACHE_BYTES", 0)
    own(pictures, blip2)
    assert sum(loads.batches) == 10
    elk = pictures / "train" / "elk"
    shutil.copy(elk / "03.png", elk / "00.png")
    data = own(pictures, blip2)
    assert len(loads.batches) == 3
    said = {e.key.removeprefix("folder/train/"): e.captions for e in data.examples("train")}
    assert said["elk/00.png"] == said["elk/03.png"]
    save_picture(elk / "02.png", seed=77)
    own(pictures, blip2)
    assert loads.batches[3:] == [1]
    assert len(lines(kept)) == 11


def test_one_process_makes_them_and_others_wait(pictures, kept, loads, blip2, monkeypatch, capsys):
    own(pictures, blip2)
    (path,) = kept.rglob("*.jsonl")
    made = path.with_name("made")
    path.rename(made)
    reads, read = threading.Semaphore(0), captions_module._read

    def told(at):
        reads.release()
        return read(at)

    monkeypatch.setattr(captions_module, "_read", told)
    with FileLock(f"{path}.lock"):
        other = threading.Thread(target=own, args=(pictures, blip2))
        other.start()
        assert reads.acquire(timeout=20)  # it has seen that there are none
        assert not reads.acquire(timeout=0.3)
        made.rename(path)
    other.join(timeout=20)
    assert not other.is_alive()
    assert capsys.readouterr().err.count("another process makes these captions") == 1
    assert loads.models == 1


def test_sentences_are_drawn_alike_and_nothing_else_differs(pictures, blip2):
    plain, data = own(pictures), own(pictures, blip2)
    with_captions, drawn = data.splits["train"], Counter()
    for index in range(len(with_captions)):
        for epoch in range(60):
            row, bare = with_captions[epoch, index], plain.splits["train"][epoch, index]
            assert row.text == bare.text
            assert (row.example.options, row.example.answer) == (bare.example.options, bare.example.answer)
            assert plain.captions[bare.caption_id] == row.example.captions[0]
            drawn[row.example.captions.index(data.captions[row.caption_id])] += 1
    assert set(drawn) == {0, 1, 2}
    assert all(150 < count < 250 for count in drawn.values()), drawn
    for ours, theirs in zip(data.train_dataloader(), plain.train_dataloader(), strict=True):
        assert ours.keys == theirs.keys
        assert torch.equal(ours.pixel_values, theirs.pixel_values)
        assert torch.equal(ours.input_ids, theirs.input_ids)


def test_a_statement_is_no_negative_of_itself_behind_a_caption(pictures, blip2, checkpoints):
    data = own(pictures, blip2)
    assert set(data.statements) == {e.captions[0] for e in data.examples("train")}
    bare = data.statements[0]
    behind = next(text for text in data.captions if text.endswith(f" {bare}"))
    texts = [data.captions.index(behind), data.captions.index(bare), data.statements.index(data.statements[-1])]
    spec = VlmSpec(name=str(checkpoints / "host"))
    table = CaptionTable.embed(data.captions, spec, torch.device("cpu"), data.statements)
    rows = table.rows(torch.tensor(texts), torch.arange(3), slice(0, 3))  # three images of a question set
    negative = negative_pairs(rows.labels, rows.labels, rows.sentences, rows.sentences)
    assert negative.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    plain = own(pictures)
    assert plain.statements == plain.captions
    numbers = CaptionTable.embed(plain.captions, spec, torch.device("cpu"), plain.statements).numbers
    assert torch.equal(numbers, CaptionTable.embed(plain.captions, spec, torch.device("cpu")).numbers)


def test_without_a_captioner_there_are_the_statements_alone(pictures, kept):
    data = own(pictures)
    assert data.captions == [f"An image of {name}." for name in ("an elk", "a lynx", "a red fox")]
    batch = next(iter(data.train_dataloader()))
    assert batch.caption_ids.tolist() == batch.label_ids.tolist()
    assert data.describe()["captioner"] is None
    assert not kept.exists()
    with pytest.raises(CraftError, match="grey shows no image to caption"):
        own(pictures, ID, look="grey")


def test_the_contrastive_loss_reads_them(checkpoints, kept, loads, blip2, tmp_path):
    backbone = VlmSpec(name=str(checkpoints / "host"))
    sizes = {"train_size": 12, "val_size": 4, "test_size": 4, "batch_size": 6}
    data = VqaDataModule(backbone, "eurosat", captioner=str(blip2), **sizes)
    seen = []

    class Watched(Craft):
        def caption_rows(self, batch):
            rows = super().caption_rows(batch)
            seen.extend(
                (sentence, row) for sentence, row in zip(batch.caption_ids.tolist(), rows.embeddings, strict=True)
            )
            return rows

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    steps = {"max_steps": 4, "max_epochs": -1, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = Trainer(**quiet, **steps, accelerator="cpu", devices=1, enable_checkpointing=False)
    method = Watched(backbone=backbone)
    trainer.fit(method, datamodule=data)
    assert sum(loads.batches) == 12
    table = method.captions.embeddings
    assert len(table) == len(data.captions) > 12
    statements = {e.captions[0] for e in data.examples("train")}
    generated = {number for number, _ in seen if data.captions[number] not in statements}
    assert len(generated) > 5
    assert all(torch.equal(table[number], row) for number, row in seen)
    test = VqaDataModule(backbone, "kvasir", captioner=str(blip2), **sizes)
    trainer.test(method, datamodule=test, verbose=False)
    assert sum(loads.batches) == 12
    assert test.describe()["captioner"] is None
    uneven = VqaDataModule(backbone, "kvasir", captioner=str(blip2), **{**sizes, "batch_size": 5})
    trainer = Trainer(**quiet, **steps, accelerator="cpu", devices=1, accumulate_grad_batches=2)
    with pytest.raises(CraftError, match="cannot be shared equally"):
        trainer.fit(Craft(backbone=backbone), datamodule=uneven)
    assert sum(loads.batches) == 12


def test_a_checkpoint_of_the_hub_is_fetched_once_and_its_commit_stays(pictures, kept, loads, blip2, monkeypatch):
    asked = []

    def hf_hub_download(repo, file, revision):
        asked.append((repo, revision))
        return str(blip2 / file)

    def snapshot_download(repo, revision, allow_patterns, ignore_patterns):
        assert revision == "c0ffee"  # that of the config that was checked
        assert ignore_patterns == ["adapter_config.json"]
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        return str(blip2)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loads.limit = 1
    with pytest.raises(KeyboardInterrupt):
        own(pictures, ID)
    loads.limit = 99
    data = own(pictures, ID)
    assert own(pictures, ID).captions == data.captions
    assert asked == [(ID, None), (ID, "c0ffee")]
    assert data.describe()["captioner"] == f"{ID} c0ffee"
    own(pictures, f"{ID}@v1")
    assert asked[2:] == [(ID, "v1")]


def made(kind):
    """An error of the hub's client without the reply that it was read from."""
    return kind.__new__(kind)


def caused(error, text):
    error.__cause__ = made(errors.HfHubHTTPError)
    error.__cause__.args, error.__cause__.__dict__["server_message"] = (text,), None
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (made(errors.GatedRepoError), "someone/blip2 is gated: accept its terms .*: hf auth login"),
        (
            made(errors.RepositoryNotFoundError),
            "no captioner someone/blip2: no such folder, and no such id on the hub; try --data.captioner Salesforce",
        ),
        (
            errors.LocalEntryNotFoundError("no"),
            "cannot be reached .*: hf download|hf download someone/blip2 --local-dir",
        ),
        (errors.OfflineModeIsEnabled("no"), "cannot be reached.*hf download someone/blip2 --local-dir FOLDER"),
        (OSError(28, "No space left on device"), "no space for someone/blip2"),
        (caused(errors.LocalEntryNotFoundError("no"), "500 of the hub"), r"could not be fetched \(500 of the hub\)"),
        (httpx2.ProxyError("407"), r"could not be fetched \(ProxyError: 407\); run the same command again"),
        (errors.RemoteEntryNotFoundError.__new__(errors.RemoteEntryNotFoundError), "has no config.json"),
    ],
)
def test_one_line_if_the_hub_has_none(error, said, pictures, monkeypatch):
    def hf_hub_download(repo, file, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(CraftError, match=said):
        own(pictures, ID)


def test_one_line_for_what_is_no_captioner(pictures, kept, blip2, checkpoints, tmp_path):
    with pytest.raises(CraftError, match=r"no captioner \./nowhere: .* for example Salesforce/blip2-opt-2.7b"):
        own(pictures, "./nowhere")
    with pytest.raises(CraftError, match="is a checkpoint of kind 'llama'; captioners are blip and blip-2"):
        own(pictures, checkpoints / "host" / "llm")
    bare = tmp_path / "bare"
    shutil.copytree(blip2, bare)
    weights = bare / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CraftError, match="cannot be read as a blip-2 captioner"):
        own(pictures, bare)
    weights.unlink()
    torch.save({}, bare / "pytorch_model.bin")
    with pytest.raises(CraftError, match="cannot be read as a blip-2 captioner"):
        own(pictures, bare)
    assert not list(kept.rglob("*.jsonl"))


def test_one_line_for_missing_tensors_and_damaged_lines(pictures, kept, blip2, tmp_path):
    from safetensors.torch import load_file, save_file

    partial = tmp_path / "partial"
    shutil.copytree(blip2, partial)
    tensors = load_file(partial / "model.safetensors")
    del tensors["language_projection.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CraftError, match=r"missing language_projection\.weight"):
        own(pictures, partial)
    own(pictures, blip2)
    (path,) = kept.rglob("*.jsonl")
    whole = path.read_text()
    for damaged in (whole[30:], whole.replace('"captions": [', '"captions": [1, ', 1)):
        path.write_text(damaged)
        with pytest.raises(CraftError, match=r"holds no captions .*; remove it"):
            own(pictures, blip2)


def test_a_torn_last_line_is_made_again(pictures, kept, loads, blip2):
    own(pictures, blip2)
    (path,) = kept.rglob("*.jsonl")
    whole = path.read_text()
    path.write_text(whole[:-30])
    own(pictures, blip2)
    assert loads.batches == [4, 4, 2, 1]
    assert path.read_text() == whole


def edited(blip2, folder, **entries):
    shutil.copytree(blip2, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return folder


def test_one_line_for_an_old_config_and_an_adapter(pictures, kept, blip2, tmp_path):
    old = edited(blip2, tmp_path / "old", image_token_index=None)
    with pytest.raises(CraftError, match="names no image_token_index; take a newer revision"):
        own(pictures, old)
    (blip2 / "adapter_config.json").write_text("{}")
    try:
        with pytest.raises(CraftError, match="holds an adapter"):
            own(pictures, blip2)
    finally:
        (blip2 / "adapter_config.json").unlink()


def test_a_tokenizer_tells_a_folder_from_another(blip2, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(blip2, copy)
    stamp = Captioner.named(str(copy)).stamp
    tokens = copy / "tokenizer_config.json"
    tokens.write_text(tokens.read_text() + " ")
    assert Captioner.named(str(copy)).stamp != stamp


def test_one_line_for_disk_and_memory(pictures, kept, blip2, monkeypatch):
    def fails(error):
        def call(*args, **options):
            raise error

        return call

    with monkeypatch.context() as patched:
        patched.setattr(captions_module, "write_text", fails(OSError(28, "No space left on device")))
        with pytest.raises(CraftError, match="no space for captions"):
            own(pictures, blip2)
    with monkeypatch.context() as patched:
        patched.setattr(captions_module.FileLock, "acquire", fails(PermissionError(13, "Permission denied")))
        with pytest.raises(CraftError, match=r"captions cannot be kept in .*; set HF_HOME"):
            own(pictures, blip2)
    with monkeypatch.context() as patched:
        patched.setattr(captions_module._Model, "__call__", fails(torch.OutOfMemoryError("CUDA out of memory")))
        with pytest.raises(CraftError, match="does not fit in the memory of cpu"):
            own(pictures, blip2)
    kept.rename(kept.with_name("away"))
    kept.write_text("a file")
    with pytest.raises(CraftError, match="captions c"):
        own(pictures, blip2)


def test_machines_with_other_captions_stop(monkeypatch):
    def gathers(other):
        def all_gather_object(into, mine):
            into[:] = [mine, other or mine]

        return all_gather_object

    agree(["a"])
    monkeypatch.setattr(captions_module, "world", lambda: (2, 0))
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathers(None))
    agree(["a"])
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathers("others"))
    with pytest.raises(CraftError, match="different captions; set HF_HOME"):
        agree(["a"])
