"""LoRSU: what it chooses, that nothing else moves, and that what moved is merged when it is exported."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from timm.models import eva
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.losses import info_nce
from craft_lightning.methods import base
from craft_lightning.methods._support.subset import Block, largest, update_of
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.craft_lorsu import CraftLorsu
from craft_lightning.methods.lorsu import Lorsu
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.models.image_processing import CLIP_MEAN, CLIP_STD
from craft_lightning.models.towers.continuous import ClipTower, TimmTower
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import DiscreteVlm, Projector
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

FAST = OptimSpec(lr=1e-2, weight_decay=0.1)
"""With decay: it may not move what was not chosen."""
TOWERS = ("siglip", "clip", "timm", "gated")


def clip() -> Tower:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(4)
    return ClipTower(CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8))).eval()


def fused() -> Tower:
    torch.manual_seed(4)
    return TimmTower("test_vit", image_size=32).eval()


def gated() -> Tower:
    """timm's EVA with an MLP of two first matrices, and q, k and v apart: no shipped size of it is this small."""
    torch.manual_seed(4)
    vision = eva.Eva(32, 8, num_classes=0, embed_dim=32, depth=3, num_heads=2, swiglu_mlp=True, qkv_fused=False)
    vision.default_cfg = {"mean": CLIP_MEAN, "std": CLIP_STD}
    with mock.patch("timm.create_model", return_value=vision):
        return TimmTower("eva", image_size=32).eval()


MADE: dict[str, Callable[[], Tower]] = {"clip": clip, "timm": fused, "gated": gated}


@pytest.fixture
def on(build: Any, monkeypatch: Any) -> Callable[..., Any]:
    """A method on the tiny continuous model, with another kind of tower in it."""

    def load(kind: str, spec: VlmSpec) -> DiscreteVlm:
        vlm = load_vlm(spec)
        if kind in MADE:
            vlm.tower = MADE[kind]()
            vlm.grid = vlm.tower.grid
            torch.manual_seed(5)
            vlm.projector = Projector("mlp2x_gelu", vlm.tower.width, 48).eval()
        return vlm

    def make(kind: str, cls: Any = Lorsu, **options: Any) -> Any:
        monkeypatch.setattr(base, "load_vlm", lambda spec: load(kind, spec))
        return build(cls, "continuous", **options)

    return make


def used(method: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.vlm.tower.used_weights()}


# -- what is chosen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_keep_the_most_of_the_norm(seed: int) -> None:
    """Lemma 3.2, against all masks; corollary 3.4, against all choices of groups."""
    torch.manual_seed(seed)
    vector = torch.randn(9)
    for count in range(1, 10):
        masks = (mask for n in range(count + 1) for mask in itertools.combinations(range(9), n))
        best = max(float(vector[list(mask)].square().sum()) for mask in masks)
        assert float(vector[largest(vector.abs(), count)].square().sum()) == pytest.approx(best)
    groups = torch.randn(3, 6, 4)
    best = max((groups[:, list(some)].square().sum().item(), some) for some in itertools.combinations(range(6), 2))
    assert largest(groups.square().sum((0, 2)), 2).tolist() == list(best[1])


def test_of_equal_scores_the_first_are_chosen() -> None:
    assert largest(torch.tensor([1.0, 3.0, 1.0, 3.0, 3.0, 1.0]), 2).tolist() == [1, 3]
    assert largest(torch.zeros(100_000), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("kind", "head"), [("siglip", 0), ("siglip", 1), ("timm", 1), ("gated", 1)])
@pytest.mark.parametrize("part", range(3))
def test_a_planted_gradient_is_found(
    kind: str, head: int, part: int, on: Any, data: Any, trainer: Any, monkeypatch: Any
) -> None:
    """Of one head, in its queries, keys or values alone; and of some entries of the MLP."""
    method = on(kind, density=0.01)
    block = method.blocks[1]
    width, entries = block.head_width, torch.tensor([7, 300, 1000])
    fused = len(block.projections) == 1
    layer = block.projections[0 if fused else part]
    start = (part * block.heads if fused else 0) * width + head * width

    def planted(batch: VqaBatch, out: Any) -> dict[str, Tensor]:
        places = block.first[0].weight.flatten()[entries]
        return {"sal": out.answer_loss + 100 * layer.weight[start : start + width].sum() + 100 * places.sum()}

    monkeypatch.setattr(method, "losses", planted)
    trainer(max_steps=1).fit(method, data("continuous"))
    own = torch.arange(head * width, (head + 1) * width)
    for found in block.projections:
        shifts = range(3) if fused else range(1)
        assert torch.equal(update_of(found).rows, torch.cat([own + n * block.heads * width for n in shifts]))
    assert set(entries.tolist()) <= set(update_of(block.first[0]).entries.tolist())


@pytest.mark.parametrize(("parts", "samples", "rows"), [(1, 1000, 24), (1, 7, 12), (3, 7, 12), (1, 6, 6)])
def test_it_chooses_by_the_mean_gradient_over_whole_steps(
    parts: int, samples: int, rows: int, build: Any, data: Any, trainer: Any, monkeypatch: Any
) -> None:
    method, module = build(Lorsu, samples=samples), data("continuous")
    found: dict[Any, Tensor] = {}
    gradients = method._gradients
    monkeypatch.setattr(method, "_gradients", lambda: found.update(gradients()) or found)
    trainer(max_steps=1, accumulate_grad_batches=parts).fit(method, module)
    plain = build(ZeroShot, "continuous")
    blocks = [Block.of(block) for block in plain.vlm.tower.blocks[:-1]]
    weights = [layer.weight.requires_grad_() for block in blocks if block for layer in block.layers]
    alone = data("continuous")
    alone.setup("fit")
    total = [torch.zeros_like(weight) for weight in weights]
    for batch in itertools.islice(alone.train_dataloader(), rows // 6):
        for sum_, gradient in zip(total, torch.autograd.grad(plain(batch).answer_loss, weights), strict=True):
            sum_ += gradient * 6 / rows
    scale = parts * rows / 6
    layers = [layer for block in method.blocks for layer in block.layers]
    assert len(layers) == len(total) == 8
    for layer, mean in zip(layers, total, strict=True):
        torch.testing.assert_close(found[update_of(layer)] / scale, mean, atol=1e-7, rtol=1e-4)


def test_choosing_leaves_nothing_behind(build: Any, data: Any, trainer: Any, monkeypatch: Any) -> None:
    """No gradients, moments or hooks: steps begin from what they would have begun from."""
    method, choose = build(Lorsu), Lorsu.on_train_start
    seen: list[Any] = []

    def watched(self: Any) -> None:
        choose(self)
        hooks = [h for m in self.modules() for h in m._forward_hooks]
        grads = [p for p in self.parameters() if p.grad is not None]
        seen.append((hooks, grads, dict(self.optimizers().state)))

    monkeypatch.setattr(Lorsu, "on_train_start", watched)
    trainer(max_steps=1).fit(method, data("continuous"))
    assert seen == [([], [], {})]


# -- what moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOWERS)
def test_only_what_was_chosen_moves(kind: str, on: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    method = on(kind, optim=FAST)
    plain = on(kind, ZeroShot)
    assert torch.equal(method.visual_tokens(batch.pixel_values).tokens, plain.visual_tokens(batch.pixel_values).tokens)
    before = used(method)
    assert before.keys() == dict(plain.vlm.tower.used_parameters()).keys()
    assert all(torch.equal(value, before[name]) for name, value in plain.vlm.tower.used_parameters())
    trainer(max_steps=4).fit(method, data("continuous"))
    moved = {name: (value != before[name]).nonzero() for name, value in used(method).items()}
    expected: dict[str, set[tuple[int, ...]]] = {}
    names = {id(module): name for name, module in method.vlm.tower.named_modules()}
    for block in method.blocks:
        for layer in block.projections:
            rows, columns = update_of(layer).rows, range(layer.in_features)
            expected[f"{names[id(layer)]}.weight"] = set(itertools.product(rows.tolist(), columns))
        for layer in block.first:
            entries = update_of(layer).entries
            places = zip((entries // layer.in_features).tolist(), (entries % layer.in_features).tolist(), strict=True)
            expected[f"{names[id(layer)]}.weight"] = set(places)
            if layer.bias is not None:
                expected[f"{names[id(layer)]}.bias"] = {(n,) for n in range(layer.out_features)}
    assert {name for name, places in moved.items() if len(places)} == expected.keys()
    for name, places in expected.items():
        found = set(map(tuple, moved[name].tolist()))
        assert found <= places, name
        assert len(found) > 0.9 * len(places), name


@pytest.mark.parametrize("kind", TOWERS)
def test_the_number_of_trained_entries(kind: str, on: Any) -> None:
    """Low-rank factors of the chosen heads' rows, ``floor(density * entries)`` of the first MLP matrix, its bias."""
    method = on(kind, rank=5, heads=1, density=0.03)
    tower, count = method.vlm.tower, 0
    for block in method.blocks:
        width, head = tower.width, tower.width // block.heads
        fused = len(block.projections) == 1
        count += 5 * (3 * head + width) if fused else 3 * 5 * (head + width)
        count += sum(
            int(0.03 * x.out_features * width) + (0 if x.bias is None else x.out_features) for x in block.first
        )
    assert len(method.blocks) == tower.depth
    assert sum(p.numel() for _, p in method.trainable()) == count
    defaults = on(kind)
    block = defaults.blocks[0]
    assert update_of(block.projections[0]).left.shape[1] == tower.width // 4
    assert len(update_of(block.projections[0]).rows) == block.head_width * (3 if fused else 1), "one head of few"


@pytest.mark.parametrize("kind", TOWERS)
def test_merged_is_what_was_trained(kind: str, on: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    method = on(kind, optim=FAST, alpha=40.0)
    trainer(max_steps=3).fit(method, data("continuous"))
    plain = on(kind, ZeroShot)
    started, merged = dict(plain.vlm.tower.used_parameters()), used(method)
    layer = method.blocks[0].projections[0]
    name = next(n for n, m in method.vlm.tower.named_modules() if m is layer)
    update = update_of(layer)
    mask = torch.zeros(layer.out_features, 1).index_fill(0, update.rows, 1.0)
    full = torch.zeros(layer.out_features, update.left.shape[1]).index_copy(0, update.rows, update.left.detach())
    by_hand = started[f"{name}.weight"] + 40.0 / update.left.shape[1] * mask * (full @ update.right)
    torch.testing.assert_close(merged[f"{name}.weight"], by_hand)
    before = plain.vlm.encode(batch.pixel_values).tokens
    for parameter_name, parameter in plain.vlm.tower.used_parameters():
        parameter.data = merged[parameter_name]
    after = plain.vlm.encode(batch.pixel_values).tokens
    assert torch.equal(after, method.vlm.encode(batch.pixel_values).tokens)
    assert not torch.equal(after, before)


def test_an_encoder_is_exported_merged_and_a_new_training_chooses_anew(
    build: Any, data: Any, trainer: Any, batch: VqaBatch, checkpoints: Path
) -> None:
    """Continual sessions: one after the other, each from the encoder that the last one has left."""
    method, run = build(Lorsu, optim=FAST), trainer(max_steps=3)
    run.fit(method, data("continuous"))
    spec = VlmSpec(str(checkpoints / "continuous"), encoder=f"{run.default_root_dir}/encoder")
    again = Lorsu(backbone=spec, optim=FAST)
    again.configure_model()
    assert torch.equal(again.vlm.encode(batch.pixel_values).tokens, method.vlm.encode(batch.pixel_values).tokens)
    before = used(again)
    trainer(max_steps=3).fit(again, data("continuous", dataset="kvasir"))
    first, second = (update_of(m.blocks[0].first[0]).entries for m in (method, again))
    assert not torch.equal(first, second)
    name = "vision.encoder.layers.0.mlp.fc1.weight"
    places = (used(again)[name] != before[name]).flatten().nonzero()[:, 0].tolist()
    assert set(places) <= set(second.tolist())


def test_a_training_that_goes_on_has_chosen(build: Any, data: Any, trainer: Any, tmp_path: Path) -> None:
    method, run = build(Lorsu, optim=FAST), trainer(max_steps=2)
    run.fit(method, data("continuous"))
    run.save_checkpoint(tmp_path / "2.ckpt")
    stored = torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"]
    places = {name: value for name, value in stored.items() if name.endswith((".rows", ".entries"))}
    assert len(places) == 2 * 4
    again = build(Lorsu, optim=FAST)
    again._gradients = lambda: pytest.fail("chosen again")
    trainer(max_steps=3).fit(again, data("continuous"), ckpt_path=tmp_path / "2.ckpt", weights_only=True)
    state = again.state_dict()
    assert all(torch.equal(state[name], value) for name, value in places.items())


def test_recomputing_and_half_precision_choose_and_train_alike(
    data: Any, trainer: Any, checkpoints: Path, batch: VqaBatch
) -> None:
    """Blocks that run twice count once; what is held in bfloat16 is float32 where it is added to."""
    found = []
    for spec, precision in (
        (VlmSpec(str(checkpoints / "continuous")), "32-true"),
        (VlmSpec(str(checkpoints / "continuous"), gradient_checkpointing=True), "32-true"),
        (VlmSpec(str(checkpoints / "continuous"), dtype="bfloat16"), "bf16-mixed"),
    ):
        torch.manual_seed(0)
        method = Lorsu(backbone=spec, optim=FAST)
        trainer(max_steps=3, precision=precision).fit(method, data("continuous"))
        found.append(method)
    plain, recomputed, half = ({n: v for n, v in m.state_dict().items() if "parametrizations" in n} for m in found)
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)
        assert half[name].dtype == value.dtype
        if name.endswith(".entries"):
            assert len(set(half[name].tolist()) & set(value.tolist())) > 0.8 * len(value)


def test_a_rehearsal_chooses_by_its_one_batch(build: Any, data: Any, trainer: Any, monkeypatch: Any) -> None:
    method, seen = build(Lorsu), []
    monkeypatch.setattr(Lorsu, "losses", lambda self, batch, out: seen.append(1) or {"sal": out.answer_loss})
    trainer(fast_dev_run=True).fit(method, data("continuous"))
    assert len(seen) == 2


def test_a_checkpoint_without_its_choice_is_refused(build: Any) -> None:
    method = build(Lorsu)
    made: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(made)
    some = {k: v for k, v in made["state_dict"].items() if not k.endswith(".entries")}
    with pytest.raises(CraftError, match=r"it lacks .*fc1\.parametrizations\.weight\.0\.entries \(and 1 more\)"):
        method.on_load_checkpoint({**made, "state_dict": some})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "--model.rank 0: at least 1"),
        ({"heads": 3}, "--model.heads 3: a block of .*continuous has 2"),
        ({"density": 0.0}, r"--model.density 0.0: a share of the entries, above 0 and at most 1"),
        ({"samples": 0}, "--model.samples 0: at least 1"),
    ],
)
def test_settings_that_make_no_subset(options: dict[str, Any], said: str, build: Any) -> None:
    with pytest.raises(CraftError, match=said):
        build(Lorsu, **options)


def test_blocks_of_another_kind_are_refused(on: Any, monkeypatch: Any) -> None:
    odd = clip()
    odd.blocks[1].mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    monkeypatch.setitem(MADE, "clip", lambda: odd)
    with pytest.raises(CraftError, match=r"lorsu moves attention with q_proj, .* not all blocks of .*continuous have"):
        on("clip")


# -- the other losses --------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_is_clip_s() -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(3, 5), torch.randn(3, 5)
    scores = [[2.0 * float(F.cosine_similarity(i, t, dim=0)) for t in texts] for i in images]
    table = torch.tensor(scores).exp()
    rows = sum(float(-(table[n, n] / table[n].sum()).log()) for n in range(3)) / 3
    columns = sum(float(-(table[n, n] / table[:, n].sum()).log()) for n in range(3)) / 3
    loss = float(info_nce(images, texts, torch.tensor(2.0).log().item()))
    assert loss == pytest.approx((rows + columns) / 2, rel=1e-5)
    assert float(info_nce(7 * images, 0.1 * texts, torch.tensor(2.0).log().item())) == pytest.approx(loss, rel=1e-5)


def test_clip_trains_the_whole_tower_on_captions(build: Any, data: Any, trainer: Any) -> None:
    method = build(Lorsu, variant="clip", optim=FAST, samples=6)
    assert len(method.blocks) == 3
    update = update_of(method.blocks[0].projections[0])
    assert float(update.right.detach().abs().max()) == 0.0
    assert 0.7 < float(update.left.detach().abs().max()) * update.left.shape[1] ** 0.5 <= 1.0, (
        "Kaiming over the rank, a = sqrt 5"
    )
    before, language = used(method), [p.clone() for p in method.vlm.language_model.parameters()]
    run = trainer(max_steps=3)
    run.fit(method, data("continuous"))
    terms = {name for name in run.callback_metrics if name.startswith("train/")}
    assert terms == {"train/clip", "train/loss"}
    changed = {
        name.split("layers.")[-1] for name, value in used(method).items() if not torch.equal(value, before[name])
    }
    parts = [f"self_attn.{p}_proj.{w}" for p in "qv" for w in ("weight", "bias")] + ["self_attn.k_proj.weight"]
    wanted = {f"{n}.{part}" for n in range(2) for part in (*parts, "mlp.fc1.weight", "mlp.fc1.bias")}
    assert changed - {f"{n}.self_attn.k_proj.bias" for n in range(2)} == wanted  # which no softmax sees
    last = method.blocks[2]
    assert all(bool(update_of(layer).values.any()) for layer in last.first), "moves, though no model reads it"
    assert all(map(torch.equal, language, method.vlm.language_model.parameters()))


def test_clip_reads_the_tower_s_own_embedding(build: Any, batch: VqaBatch) -> None:
    method = build(Lorsu, variant="clip").train()
    visual = method.visual_tokens(batch.pixel_values)
    own = method.vlm.tower.vision(batch.pixel_values)
    torch.testing.assert_close(visual.image_embedding, own.pooler_output)
    assert torch.equal(visual.tokens, method.eval().visual_tokens(batch.pixel_values).tokens)
    assert method.visual_tokens(batch.pixel_values).image_embedding is None


def test_what_clip_cannot_do_is_said(build: Any, on: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    with pytest.raises(CraftError, match="clip contrasts all images of a step: one device, one batch a step"):
        trainer(accumulate_grad_batches=2).fit(build(Lorsu, variant="clip"), data("continuous"))
    method = build(Lorsu, variant="clip")
    with pytest.raises(CraftError, match=r"no captions to contrast with; set --model.variant ppl"):
        method.train().losses(batch, method(batch))
    with pytest.raises(CraftError, match="a ClipTower has no text half"):
        trainer().fit(on("clip", variant="clip"), data("continuous"))


def test_craft_on_the_subset_is_craft_elsewhere(build: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    """The loss, [CLS] and codes of CRAFT; of the encoder what the gradient of that very loss chooses."""
    torch.manual_seed(0)
    whole = build(Craft, optim=FAST)
    torch.manual_seed(0)
    method = build(CraftLorsu, optim=FAST)
    outs = [m(batch) for m in (whole.train(), method.train())]
    assert torch.equal(outs[0].visual.codes, outs[1].visual.codes)
    outside = {n: p.shape for n, p in whole.trainable() if not n.startswith("vlm.tower.")}
    assert {n: p.shape for n, p in method.trainable() if not n.startswith("vlm.tower.")} == outside
    names = [n for n, _ in method.trainable()]
    assert len(names) == len(set(names)) == len(outside) + 2 * (3 * 2 + 2)
    before, run = used(method), trainer(max_steps=3)
    run.fit(method, data())
    assert {"train/sal", "train/commitment", "train/contrastive"} <= set(run.callback_metrics)
    changed = {n.split(".")[-2] for n, value in used(method).items() if not torch.equal(value, before[n])}
    assert changed == {"q_proj", "k_proj", "v_proj", "fc1"}


def test_a_gradient_that_is_not_finite_chooses_nothing_and_leaves_no_hook(build: Any, data: Any, trainer: Any) -> None:
    method = build(Lorsu)
    method.losses = lambda batch, out: {"sal": out.answer_loss * torch.inf}
    with pytest.raises(CraftError, match="lorsu cannot choose what moves: a gradient of the first steps is not finite"):
        trainer(max_steps=1).fit(method, data("continuous"))
    assert not any(update_of(layer)._forward_hooks for block in method.blocks for layer in block.layers)
