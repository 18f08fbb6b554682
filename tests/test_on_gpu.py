"""Every tensor is on the device of the model, tried on a GPU that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.codebook_usage import CodesChanged
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.methods import METHODS
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods._support.feature_cache import FeatureCache
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models import ste_checks
from craft_lightning.models.pruning import PruneRule, count_codes, prune, pruned_sums
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec, build_optimizer
from data_modules.datamodule import VqaDataModule
from tests.pretend_gpu import GPU, on_gpu, pretend_gpu

CPU = torch.device("cpu")
PLACES = [
    *((name, "host") for name, method in METHODS.items() if not method.continuous),
    *((name, "continuous") for name, method in METHODS.items() if method.continuous),
]


@pytest.fixture(scope="module")
def data(checkpoints: Path) -> VqaDataModule:
    small: dict[str, Any] = {"train_size": 8, "val_size": 4, "test_size": 4, "batch_size": 4}
    module = VqaDataModule(VlmSpec(str(checkpoints / "host")), "eurosat", **small)
    module.setup("fit")
    module.setup("test")
    return module


def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretend_gpu() as gpu:
        here, there = torch.arange(3), torch.arange(3).to(gpu)
        assert (there + 1).device == there.clone().device == torch.ones(2, device="cuda").device == gpu
        assert here.device == there.cpu().device == CPU
        for wrong in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there], there.numpy):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        assert (there * torch.tensor(2)).tolist() == [0, 2, 4]
        assert there[here].device == gpu
    with pretend_gpu(default=True):
        assert on_gpu(torch.zeros(2))
    assert not on_gpu(torch.zeros(2))


def made(checkpoints: Path, name: str, backbone: str, data: VqaDataModule, device: torch.device) -> BaseMethod:
    """A method on a device, as a trainer puts it there, with the captions of the data."""
    torch.manual_seed(0)
    spec, craft = VlmSpec(str(checkpoints / backbone)), name.startswith("craft")
    method: Any = METHODS[name](backbone=spec, **({"lambda_contrastive": 1.0} if craft else {}))
    method.configure_model()
    method.to(device)
    if craft:
        method.captions = CaptionTable.embed(data.captions, spec, method.device)
    return method


@pytest.mark.parametrize(("name", "backbone"), PLACES)
def test_a_step_and_an_evaluation(checkpoints: Path, data: VqaDataModule, name: str, backbone: str) -> None:
    found = {}
    for device in (CPU, GPU):
        with pretend_gpu():
            method = made(checkpoints, name, backbone, data, device)
            assert {on_gpu(tensor) for tensor in method.state_dict().values()} == {device == GPU}
            losses = []
            if trained := [parameter for _, parameter in method.trainable()]:
                optimizer = build_optimizer(method.param_groups(), OptimSpec(), 2)["optimizer"]
                loss = method.train().training_step(next(iter(data.train_dataloader())).to(device), 0)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                losses.append(float(loss.detach()))
            method.eval()
            method.token_keep, method.token_also, method.token_rule = 0.5, (1.0,), PruneRule("random")
            method.seen = FeatureCache(method.vlm.grid)
            for _ in range(2):  # the second time from the cache
                replies = method._evaluate(next(iter(data.test_dataloader())).to(device))
            logged = {name: float(value) for name, value in method.accuracy.compute().items()}
            found[device.type] = losses, [p.text for p in replies["predictions"]], logged
    assert found["cpu"] == found["cuda"]


@pytest.mark.parametrize(
    "rule", [PruneRule(), PruneRule("quota"), PruneRule(budget="ceil_only"), PruneRule(position_ids="original")]
)
def test_pruning_and_what_watches_it(checkpoints: Path, data: VqaDataModule, rule: PruneRule) -> None:
    found = {}
    for device in (CPU, GPU):
        with pretend_gpu(), torch.no_grad():
            vlm = load_vlm(VlmSpec(str(checkpoints / "host"))).to(device)
            batch = next(iter(data.test_dataloader())).to(device)
            visual = vlm.encode(batch.pixel_values)
            prior = count_codes([visual.codes], 64)
            assert not on_gpu(prior), "one of a file is on the CPU, too"
            read = prune(visual, 0.5, prior, rule, batch.keys)
            found[device.type] = vlm.generate(read, batch), pruned_sums(read, batch.counted).tolist()
    assert found["cpu"] == found["cuda"]


def test_the_checks_of_a_step(checkpoints: Path, data: VqaDataModule) -> None:
    with pretend_gpu() as gpu:
        method = made(checkpoints, "craft", "host", data, gpu)
        pixels = next(iter(data.val_dataloader())).pixel_values.to(gpu)
        visual = ste_checks.see(method, pixels)
        assert ste_checks.check_gradient(method, visual)[2] == []
        assert [*ste_checks.check_codes(method, visual), *ste_checks.check_codebook(method)] == []
        watcher = CodesChanged()
        assert visual.codes is not None
        watcher.before = dict(zip("abcd", visual.codes[..., 0].int().cpu(), strict=True))
        assert not watcher.changed("abcd", visual.codes).any()


def test_what_is_built_where_the_gpu_is_the_default(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning builds a model within the context of its device, to which transformers would load its part."""
    monkeypatch.setattr("transformers.modeling_utils.get_torch_context_manager_or_global_device", lambda: None)
    with pretend_gpu(default=True) as gpu:
        for name, backbone in (("craft", "host"), ("llm_lora", "host"), ("ldifs", "continuous")):
            method = METHODS[name](backbone=VlmSpec(str(checkpoints / backbone)))
            method.configure_model()
            method.to(gpu)
            assert all(map(on_gpu, method.state_dict().values()))
