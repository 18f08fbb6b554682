"""What must hold while a quantised encoder learns, each check a source of sentences that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from craft_lightning.models.sharding import as_forward, sharded
from craft_lightning.types import VisualTokens

RATIO, COSINE = 0.02, 0.999
"""How far the gradient may be from the identity: rounding to bfloat16 stays well below."""
PARTS = {"vlm.projector": "the projector", "vlm.language_model": "the language model", "vlm.tower": "the tower"}


def see(module: Any, pixels: Tensor) -> VisualTokens:
    """The method's own tokens of some images, with a graph of their own that nothing is ever propagated through.

    Sharded weights would be gathered for that graph: there the features are a leaf in front of the quantiser.
    """
    with torch.set_grad_enabled(not sharded(module)):
        visual: VisualTokens = as_forward(module, module.visual_tokens, pixels)
    if visual.features.requires_grad:
        return visual
    leaf = visual.features.detach().requires_grad_()
    with torch.enable_grad():
        tokens, found = module.vlm.tower.quantizer(leaf)
    return VisualTokens(leaf, tokens, found.codes, None, visual.grid)


def check_gradient(module: Any, visual: VisualTokens) -> tuple[float, float, list[str]]:
    """Ratio and cosine of the gradient of ``(tokens * r).sum()`` at the features to r, and what is wrong with them."""
    drawn = torch.randn(visual.tokens.shape, generator=torch.Generator().manual_seed(0))
    wanted = drawn.to(visual.tokens.device, visual.tokens.dtype)
    found = None
    if visual.tokens.requires_grad:
        score = (visual.tokens * wanted).sum()
        found = torch.autograd.grad(score, visual.features, retain_graph=True, allow_unused=True)[0]
    wanted = wanted.float().flatten()
    gradient = torch.zeros_like(wanted) if found is None else found.float().flatten()
    along = float(gradient @ wanted)
    ratio = along / float(wanted @ wanted)
    cosine = along / max(float(gradient.norm() * wanted.norm()), 1e-30)
    levels, problems = module.vlm.tower.quantizer.levels, []
    if not bool(gradient.any()):
        problems.append(
            "no gradient passes the quantiser: the tokens are detached from the encoder's features, "
            "straight_through is missing"
        )
    elif levels > 1 and abs(ratio - levels) < levels * RATIO and cosine > COSINE:
        problems.append(
            f"the gradient through the quantiser is {ratio:.2f} times the identity: a straight-through estimator at "
            f"each of the {levels} levels in place of one on their sum"
        )
    elif abs(ratio - 1.0) > RATIO or cosine < COSINE:
        problems.append(
            f"the gradient through the quantiser is not the identity (ratio {ratio:.3f}, cosine {cosine:.3f}): "
            "something other than straight_through stands between features and tokens, as a rotation or a scale"
        )
    return ratio, cosine, problems


def check_codes(module: Any, visual: VisualTokens) -> Iterator[str]:
    """Tokens are the sums of the codewords of their codes, up to rounding."""
    quantizer, codes = module.vlm.tower.quantizer, visual.codes
    if codes is None:
        yield "the tokens come without codes although the tower has a codebook: they bypass the quantiser"
        return
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest < 0 or highest >= quantizer.entries:
        yield f"codes run from {lowest} to {highest}, but the codebook has {quantizer.entries} entries"
        return
    words = quantizer.decode(codes)
    coarse = max(torch.finfo(visual.tokens.dtype).eps, torch.finfo(quantizer.dtype).eps)
    room = 16 * coarse * float(torch.maximum(words.abs().max(), visual.features.detach().abs().max().float()))
    off = float((visual.tokens.detach().float() - words).abs().max())
    if off > room:
        yield (
            f"what the language model reads is not the sum of the codewords of its codes (off by {off:.3g}, rounding "
            f"explains {room:.1g}): the tokens bypass the quantiser, or the codes are those of another pass"
        )


def check_codebook(module: Any) -> Iterator[str]:
    """The codebook has the hash that it was loaded with, and takes no gradient."""
    quantizer = module.vlm.tower.quantizer
    if quantizer is None:
        return
    now, loaded = quantizer.hash(), module.vlm.codebook_hash
    if now != loaded:
        yield (
            f"the codebook has moved since it was loaded (SHA-256 {loaded[:12]} is now {now[:12]}): something writes "
            "into vlm.tower.quantizer.codebooks, as a moving average or an optimiser would"
        )
    if quantizer.codebooks.requires_grad:
        yield (
            "a gradient reaches the codebook: vlm.tower.quantizer.codebooks requires one, and would if it were a "
            "parameter; codewords are buffers"
        )


def check_modes(module: nn.Module) -> Iterator[str]:
    """Modules that hold tensors, but none that learns, are in eval mode; what holds none goes with its owner."""
    for name, part in module.named_modules():
        if not part.training or isinstance(part, Metric):
            continue
        held = [*part.parameters(), *part.buffers()]
        if held and not any(p.requires_grad for p in held if isinstance(p, nn.Parameter)):
            yield (
                f"{name} has nothing to train but is in train mode, in which dropout drops and a codebook of moving "
                "averages moves without a gradient: something called train() on it after configure_model"
            )
            return


def check_gradients(module: Any) -> Iterator[str]:
    """Of all parameters, exactly those that the method declares trainable have a gradient."""
    declared = {id(p) for _, p in module.trainable()}
    named = list(module.named_parameters())
    without = [name for name, p in named if id(p) in declared and p.grad is None]
    for name in (name for name, p in named if id(p) not in declared and (p.grad is not None or p.requires_grad)):
        part = next((words for start, words in PARTS.items() if name.startswith(start)), "it")
        yield (
            f"a gradient reaches {name}, which {module.name} does not declare trainable: something unfroze {part} "
            "after configure_model"
        )
        break
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        yield (
            f"no gradient reached {without[0]}{more}, which {module.name} declares trainable: the loss does not depend "
            "on it, or something on the way is detached"
        )
