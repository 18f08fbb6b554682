from __future__ import annotations

import pytest
import torch

from craft_lightning.optim import OptimSpec, build_optimizer, lr_factor


def test_warm_up_is_rounded_up_and_the_end_is_zero() -> None:
    factors = [lr_factor(step, 34, 0.03) for step in range(35)]  # ceil(1.02) = 2 steps of warm-up
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors == sorted(factors[:2]) + sorted(factors[2:], reverse=True)
    assert factors[-1] == pytest.approx(0.0, abs=1e-12)
    assert factors[2 + 16] == pytest.approx(0.5)


def test_the_rate_follows_the_schedule_step_by_step() -> None:
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0, "lr": 0.5}]
    built = build_optimizer(groups, OptimSpec(lr=0.1, weight_decay=0.2, warmup=0.5), total_steps=4)
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(4):
        rates.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx(r) for r in ([0.05, 0.25], [0.1, 0.5], [0.1, 0.5], [0.05, 0.25])]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.2, 0.0]
    assert built["lr_scheduler"]["interval"] == "step"
