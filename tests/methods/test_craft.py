"""CRAFT: codes of step 0 are the zero-shot ones, what is frozen stays bit for bit, each loss is done by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F

from craft_lightning.checkpoints.vila_u import load_text_tower
from craft_lightning.errors import CraftError
from craft_lightning.losses import contrastive, negative_pairs
from craft_lightning.methods._support import contrastive as contrast
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec
from craft_lightning.types import IGNORED_LABEL, VqaBatch

SENTENCES = tuple(f"An image of a thing, specifically a number {i}." for i in range(8))


@pytest.fixture
def craft(build: Any) -> Any:
    """A method in training mode, with captions."""

    def make(**options: Any) -> Craft:
        method = build(Craft, **options)
        method.captions = CaptionTable.embed(SENTENCES, method.backbone, torch.device("cpu"))
        return method

    return make


def terms(method: Craft, batch: VqaBatch) -> dict[str, torch.Tensor]:
    return method.losses(batch, method(batch))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_codes_at_step_0_are_the_zero_shot_codes(scale: float, craft: Any, build: Any, batch: VqaBatch) -> None:
    method = craft()
    with torch.no_grad():
        method.cls.mul_(scale)
    base = build(ZeroShot).visual_tokens(batch.pixel_values)
    ours = method.visual_tokens(batch.pixel_values)
    assert ours.image_embedding is not None
    assert torch.equal(ours.codes, base.codes)
    assert torch.equal(ours.features, base.features)
    method.eval()
    without = method.visual_tokens(batch.pixel_values)
    assert without.image_embedding is None
    assert torch.equal(without.tokens, base.tokens)


def test_the_contrastive_gradient_reaches_an_early_block(craft: Any, batch: VqaBatch) -> None:
    method = craft(lambda_sal=0.0, lambda_commitment=0.0)
    sum(terms(method, batch).values()).backward()
    early = dict(method.named_parameters())["vlm.tower.vision.encoder.layers.0.self_attn.v_proj.weight"]
    assert early.grad is not None
    assert float(early.grad.norm()) > 0.0


def test_the_answer_loss_is_the_cross_entropy_of_the_reply(craft: Any, batch: VqaBatch) -> None:
    method = craft(lambda_commitment=0.0, lambda_contrastive=0.0)
    out = method(batch)
    visual = method.visual_tokens(batch.pixel_values)
    embeds, mask, positions = method.vlm.embed(visual.tokens, batch.input_ids, batch.attention_mask)
    logits = method.vlm.language_model(inputs_embeds=embeds, attention_mask=mask.long()).logits
    total, count = torch.zeros(()), 0
    for row in range(len(batch)):
        for column in range(batch.labels.shape[1]):
            if batch.labels[row, column] != IGNORED_LABEL:
                at = positions[row, column] - 1
                total = total - F.log_softmax(logits[row, at], dim=-1)[batch.labels[row, column]]
                count += 1
    assert count == 2 * len(batch)  # a letter and the end of turn
    torch.testing.assert_close(terms(method, batch)["sal"], total / count)
    torch.testing.assert_close(out.answer_loss, total / count)


def test_padding_does_not_matter(craft: Any, batch: VqaBatch) -> None:
    method = craft(lambda_commitment=0.0, lambda_contrastive=0.0)
    padded = replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, 7), value=5),
        attention_mask=F.pad(batch.attention_mask, (0, 7), value=False),
        labels=F.pad(batch.labels, (0, 7), value=IGNORED_LABEL),
    )
    torch.testing.assert_close(terms(method, padded)["sal"], terms(method, batch)["sal"])
    visual = method.visual_tokens(batch.pixel_values)
    right = method.vlm.answer_logits(visual, batch).argmax(dim=-1)
    first = method.vlm._greedy(visual, batch, 1)[0]  # generation pads on the right
    assert [row[0] for row in first] == right.tolist()


def test_the_answer_gradient_reaches_every_visual_token(craft: Any, batch: VqaBatch) -> None:
    method = craft()
    visual = method.visual_tokens(batch.pixel_values)
    tokens = visual.tokens.detach().requires_grad_(True)
    method.vlm(replace(visual, tokens=tokens), batch).answer_loss.backward()
    assert tokens.grad is not None
    assert bool((tokens.grad.norm(dim=-1) > 0).all())


def test_commitment_is_the_squared_last_residual(craft: Any, batch: VqaBatch) -> None:
    method = craft(lambda_sal=0.0, lambda_contrastive=0.0, lambda_commitment=1.0)
    visual = method.visual_tokens(batch.pixel_values)
    residual = visual.features - method.vlm.tower.quantizer.decode(visual.codes)
    torch.testing.assert_close(terms(method, batch)["commitment"], residual.square().mean())
    cumulative = craft(lambda_sal=0.0, lambda_contrastive=0.0, lambda_commitment=1.0, commitment_level="cumulative")
    partial = method.vlm.tower.quantizer.partial_sums(visual.codes)
    expected = torch.stack([(visual.features - p).square().mean() for p in partial]).mean()
    torch.testing.assert_close(terms(cumulative, batch)["commitment"], expected)


def test_the_total_is_linear_in_the_weights(craft: Any, batch: VqaBatch) -> None:
    torch.manual_seed(0)
    ones = terms(craft(lambda_commitment=1.0, lambda_contrastive=1.0), batch)
    torch.manual_seed(0)
    scaled = terms(craft(lambda_sal=2.0, lambda_commitment=0.1, lambda_contrastive=0.5), batch)
    for name, weight in {"sal": 2.0, "commitment": 0.1, "contrastive": 0.5}.items():
        torch.testing.assert_close(scaled[name], weight * ones[name])


@pytest.mark.parametrize("gone", ["sal", "commitment", "contrastive"])
def test_a_weight_of_zero_leaves_no_term(gone: str, craft: Any, batch: VqaBatch) -> None:
    method = craft(**{"lambda_contrastive": 1.0, f"lambda_{gone}": 0.0})
    assert set(terms(method, batch)) == {"sal", "commitment", "contrastive"} - {gone}
    assert hasattr(method, "cls") == (gone != "contrastive")


def test_the_paper_weights_the_contrastive_term_by_the_kind_of_data(data: Any, trainer: Any, checkpoints: Any) -> None:
    for dataset, weight in {"eurosat": 1.0, "vqa_rad": 0.1}.items():
        method = Craft(backbone=VlmSpec(name=str(checkpoints / "host")))
        trainer(max_steps=1).fit(method, data(dataset=dataset))
        assert method.lambda_contrastive == weight
        assert method.hparams["lambda_contrastive"] == weight


def test_a_tower_without_codebook_has_nothing_to_commit_to(build: Any) -> None:
    with pytest.raises(CraftError, match="no codebook to commit to"):
        build(Craft, "continuous")
    assert build(Craft, "continuous", lambda_commitment=0.0).usage is None


def test_temperature_and_cls_start_where_the_specification_says(craft: Any) -> None:
    method = craft()
    assert math.exp(method.log_temperature.item()) == pytest.approx(10.0)
    assert method.cls.std().item() == pytest.approx(0.02, rel=0.5)
    decayed, plain = method.param_groups()
    assert not any(p is method.cls or p is method.log_temperature for p in decayed["params"])
    assert plain["weight_decay"] == 0.0


def test_caption_rows_are_the_text_towers(craft: Any, batch: VqaBatch) -> None:
    method = craft()
    rows = method.caption_rows(batch)
    texts = [SENTENCES[i] for i in batch.caption_ids]
    tower = load_text_tower(method.backbone)
    torch.testing.assert_close(rows.embeddings, tower.embed_texts(texts))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(rows.embeddings, tower.embed_texts(texts), rtol=0, atol=1e-6)
    assert torch.equal(rows.own, torch.arange(len(batch)))


def test_a_fit_leaves_the_text_tower_as_it_was(build: Any, data: Any, trainer: Any) -> None:
    method, module = build(Craft), data()
    trainer().fit(method, datamodule=module)
    fresh = load_text_tower(method.backbone).embed_texts(module.captions)
    torch.testing.assert_close(method.captions.embeddings, fresh, rtol=0, atol=0)
    assert not any("text_tower" in name for name, _ in method.named_parameters()), "no part of the method"


def test_long_sentences_lose_their_beginning_never_their_answer(checkpoints: Path) -> None:
    spec = VlmSpec(name=str(checkpoints / "host"))
    tower = load_text_tower(spec)
    long, cut = "very " * 80 + "answer is red.", None
    table = CaptionTable.embed([long, "A river."], spec, torch.device("cpu"))
    for start in range(len(long.split(" "))):
        cut = " ".join(long.split(" ")[start:])
        if len(tower.token_ids(cut)) <= tower.positions:
            break
    assert cut.endswith("answer is red.")
    torch.testing.assert_close(table.embeddings, tower.embed_texts([cut, "A river."]))


def test_a_long_sentence_without_blanks_keeps_its_end(checkpoints: Path) -> None:
    spec = VlmSpec(name=str(checkpoints / "host"))
    tower, long = load_text_tower(spec), "\u8fd9\u662f" * 60 + "\u7ea2"
    table = CaptionTable.embed([long], spec, torch.device("cpu"))
    kept = next(long[start:] for start in range(len(long)) if len(tower.token_ids(long[start:])) <= tower.positions)
    assert 1 < len(kept) < len(long)
    torch.testing.assert_close(table.embeddings, tower.embed_texts([kept]))


def test_gathered_ranks_equal_one_device(craft: Any) -> None:
    """Two processes of three images, each against all six texts: the mean is the one-device loss."""
    table = craft().captions
    ids, labels = torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([0, 1, 2, 2, 0, 3])
    images = torch.randn(6, table.embeddings.shape[1])

    def loss(part: slice) -> torch.Tensor:
        rows = table.rows(ids, labels, part)
        negatives = negative_pairs(labels[part], rows.labels, rows.sentences[rows.own], rows.sentences)
        return contrastive(images[part], rows.embeddings, rows.own, negatives, torch.tensor(2.0))

    whole = loss(slice(0, 6))
    torch.testing.assert_close((loss(slice(0, 3)) + loss(slice(3, 6))) / 2, whole)


def test_the_class_mask_reaches_the_loss(craft: Any, batch: VqaBatch) -> None:
    """Rows of one label, or of one sentence, never push each other apart (eq. 4): pair by pair, by hand."""
    method = craft(lambda_contrastive=1.0)
    labels, sentences = torch.tensor([0, 0, 1, 2, 3, 3]), torch.tensor([0, 1, 2, 2, 4, 5])
    batch = replace(batch, label_ids=labels, caption_ids=sentences)
    visual = method.visual_tokens(batch.pixel_values)
    images = F.normalize(method.text_head(visual.image_embedding), dim=-1)
    scores = 10.0 * images @ F.normalize(method.captions.embeddings[sentences], dim=-1).T
    pull, push = F.softplus(-scores.diagonal()), F.softplus(scores)
    apart = {"label": labels[:, None] != labels[None], "sentence": sentences[:, None] != sentences[None]}
    value = method.contrast(batch, visual)["contrastive"]
    torch.testing.assert_close(value, (pull + (push * (apart["label"] & apart["sentence"])).sum(1)).mean())
    for fewer in (apart["label"], apart["sentence"], ~torch.eye(6, dtype=torch.bool)):
        assert (pull + (push * fewer).sum(1)).mean().item() > 1.01 * value.item()


def test_parts_of_a_step_weigh_as_much_as_their_tokens(craft: Any, batch: VqaBatch) -> None:
    """The mean over parts is the mean over all tokens, also where one part has shorter replies."""
    method = craft(lambda_commitment=0.0, lambda_contrastive=0.0)
    method.all_gather = lambda value: value  # what Lightning's does in one process
    labels = batch.labels.clone()
    for row in labels[:3]:
        row[(row != IGNORED_LABEL).nonzero()[1:]] = IGNORED_LABEL
    batch = replace(batch, labels=labels)
    whole = method.training_step(batch, 0)
    parts = list(batch.split(2))
    assert [len(method(part).targets) for part in parts] == [3, 6]
    torch.testing.assert_close(sum(method.training_step(part, 0) for part in parts) / 2, whole)
    unweighed = sum(method(part).answer_loss for part in parts) / 2
    assert abs(unweighed.item() - whole.item()) > 1e-4, "the comparison can fail"


def test_the_answer_loss_to_the_letter_of_the_paper(craft: Any, batch: VqaBatch) -> None:
    """``sum_per_sample``: eq. 2, a sum over each reply, averaged over the batch, however a step is cut."""
    options = {"lambda_commitment": 0.0, "lambda_contrastive": 0.0, "lambda_sal": 0.5}
    mean, literal = craft(**options), craft(**options, sal_reduction="sum_per_sample")
    tokens = int((batch.labels != IGNORED_LABEL).sum())
    expected = terms(mean, batch)["sal"] * tokens / len(batch)
    torch.testing.assert_close(terms(literal, batch)["sal"], expected)
    parts = [terms(literal, part)["sal"] for part in batch.split(2)]
    torch.testing.assert_close(sum(parts) / 2, expected)


def test_a_bias_of_the_scores_is_an_option(craft: Any, batch: VqaBatch) -> None:
    plain, biased = craft(lambda_contrastive=1.0), craft(lambda_contrastive=1.0, logit_bias=True)
    names = [{name for name, _ in method.trainable()} for method in (plain, biased)]
    assert names[1] - names[0] == {"logit_bias"}
    assert plain.logit_bias is None
    assert biased.logit_bias.tolist() == [-10.0]
    biased.cls = plain.cls
    before = terms(plain, batch)["contrastive"]
    with torch.no_grad():
        biased.logit_bias.zero_()
    torch.testing.assert_close(terms(biased, batch)["contrastive"], before)
    terms(biased, batch)["contrastive"].backward()
    assert float(biased.logit_bias.grad) > 0.0, "four negatives an image: fewer scores are better"


def test_cls_may_start_at_the_mean_patch(data: Any, trainer: Any, checkpoints: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(contrast, "CLS_IMAGES", 10)
    spec = VlmSpec(name=str(checkpoints / "host"))
    method = Craft(backbone=spec, cls_init="patch_mean", optim=OptimSpec(lr=0.0))
    module = data()
    trainer(max_steps=1).fit(method, module)
    pictures = torch.cat(list(module.training_images()))[:10]
    expected = method.vlm.tower.vision.embeddings(pictures).mean((0, 1))
    torch.testing.assert_close(method.cls[0, 0], expected)


def test_an_untouched_model_is_read_without_a_random_cls(craft: Any, build: Any, batch: VqaBatch) -> None:
    """Patches attend to a bidirectional [CLS], so without its trained value the model is its own zero-shot."""
    method = craft(cls_attention="bidirectional").eval()
    own = build(ZeroShot).visual_tokens(batch.pixel_values).features
    assert torch.equal(method.visual_tokens(batch.pixel_values).features, own)
    method.moved = True
    assert not torch.equal(method.visual_tokens(batch.pixel_values).features, own)


def test_data_without_captions_is_a_clear_error() -> None:
    with pytest.raises(CraftError, match="lambda_contrastive 0"):
        CaptionTable.embed((), VlmSpec(), torch.device("cpu"))
    table = CaptionTable(torch.zeros(2, 3), torch.arange(2), 0.0)
    with pytest.raises(CraftError, match="no caption"):
        table.rows(torch.tensor([-1]), torch.tensor([0]), slice(0, 1))


class Logged(Callback):
    """What was logged at each step, and the distance of the features to their codewords, done by hand."""

    def __init__(self) -> None:
        self.logged, self.by_hand = list[dict[str, float]](), list[float]()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: VqaBatch, batch_idx: int) -> None:
        with torch.no_grad():
            visual = module.visual_tokens(batch.pixel_values)
            words = module.vlm.tower.quantizer.decode(visual.codes)
            self.by_hand.append(float((visual.features - words).square().mean()))

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_distance_to_the_codebook_is_logged_whatever_its_weight(
    weight: float, build: Any, data: Any, trainer: Any
) -> None:
    """It is no term: the loss is the sum of the terms alone."""
    seen = Logged()
    method = build(Craft, lambda_commitment=weight, optim=OptimSpec(lr=1e-3))
    trainer(max_steps=3, callbacks=[seen], log_every_n_steps=1).fit(method, datamodule=data())
    assert [each["train/codebook_distance"] for each in seen.logged] == pytest.approx(seen.by_hand, rel=1e-4)
    assert len(set(seen.by_hand)) == 3
    for each in seen.logged:
        distance, loss = each.pop("train/codebook_distance"), each.pop("train/loss")
        assert loss == pytest.approx(sum(each.values()), rel=1e-5)
        assert ("train/commitment" in each) == bool(weight)
        assert each.get("train/commitment", 0.0) == pytest.approx(weight * distance, rel=1e-4)
