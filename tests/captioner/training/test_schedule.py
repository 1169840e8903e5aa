"""The learning rate equals the rate of PyTorch's schedulers at every step."""

from __future__ import annotations

import pytest
import torch

from captioner.config import TrainConfig
from captioner.training.schedule import rate_at


@pytest.mark.parametrize(("total", "warm_up"), [(100, 0.1), (37, 0.3), (1000, 0.0011), (10, 1.0)])
def test_one_cycle_equals_pytorchs(total, warm_up):
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.5, total_steps=total, pct_start=max(warm_up, 2 / total))
    train = TrainConfig(schedule="one-cycle", warm_up=warm_up)
    for step in range(total):
        rate = rate_at(step, train, total)
        assert 0.5 * rate.factor == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        assert rate.momentum == pytest.approx(optimiser.param_groups[0]["betas"][0])
        optimiser.step()
        if step < total - 1:
            schedule.step()


def test_cosine_rises_linearly_and_falls_along_half_a_wave():
    train = TrainConfig(schedule="cosine", warm_up=0.1)
    rates = [rate_at(step, train, 100).factor for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 90
    )
    for rate in rates[10:]:
        assert rate == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
        expected.optimizer.step()
        expected.step()


def test_linear_rises_and_falls_linearly():
    rates = [rate_at(step, TrainConfig(schedule="linear", warm_up=0.2), 10).factor for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_cosine_and_linear_fall_to_the_last_rate(schedule):
    train = TrainConfig(schedule=schedule, warm_up=0, last_rate=0.1)
    assert rate_at(0, train, 1000).factor == 1
    assert rate_at(500, train, 1000).factor == pytest.approx(0.55)
    assert rate_at(999, train, 1000).factor == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_constant_and_plateau_rise_and_stay(schedule):
    train = TrainConfig(schedule=schedule, warm_up=0.2)
    assert [rate_at(step, train, 10).factor for step in range(4)] == [0.5, 1, 1, 1]
    assert rate_at(5, train, 10, scale=0.25).factor == 0.25


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "linear", "constant", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warm_up", [0, 0.5, 1])
def test_rates_are_in_range_in_a_run_of_few_steps(schedule, total, warm_up):
    train = TrainConfig(schedule=schedule, warm_up=warm_up)
    assert all(0 <= rate_at(step, train, total).factor <= 1 for step in range(total))
