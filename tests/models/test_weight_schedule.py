"""Schedules against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bolid.models.weight_schedule import WEIGHT_SCHEDULES, schedule_factor

SIGMAS = torch.tensor([14.0, 6.0, 2.5, 0.5, 0.0])
WHOLE = {"sigma_start": math.inf, "sigma_end": 0.0}
HALF = math.sqrt(0.5) / 2


def factors(schedule, sigmas=SIGMAS, **limits):
    """One factor per step."""
    return [schedule_factor(schedule, sigma, sigmas, **{**WHOLE, **limits}).item() for sigma in sigmas[:-1]]


# Four steps have their middles at 1/8, 3/8, 5/8 and 7/8; (1 - cos(pi / 8)) / 2 and so on.
LOW, HIGH = (1 - math.cos(math.pi / 8)) / 2, (1 - math.cos(3 * math.pi / 8)) / 2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("ramp up", [0.125, 0.375, 0.625, 0.875]),
        ("ramp down", [0.875, 0.625, 0.375, 0.125]),
        ("ease in", [LOW, HIGH, 1 - HIGH, 1 - LOW]),
        ("ease out", [1 - LOW, 1 - HIGH, HIGH, LOW]),
        ("ease in-out", [0.5 - HALF, 0.5 + HALF, 0.5 + HALF, 0.5 - HALF]),
        ("reverse in-out", [0.5 + HALF, 0.5 - HALF, 0.5 - HALF, 0.5 + HALF]),
    ],
)
def test_four_steps(schedule, expected):
    assert factors(schedule) == pytest.approx(expected, abs=1e-6)


def test_every_schedule_is_between_0_and_1_and_half_on_average():
    assert list(WEIGHT_SCHEDULES) == [
        "constant", "ramp up", "ramp down", "ease in", "ease out", "ease in-out", "reverse in-out",
    ]  # fmt: skip
    sigmas = torch.linspace(10, 0, 21)
    for schedule in WEIGHT_SCHEDULES:
        values = factors(schedule, sigmas)
        assert all(0 <= value <= 1 for value in values)
        assert sum(values) / len(values) == pytest.approx(1 if schedule == "constant" else 0.5, abs=1e-5)


def test_between_start_and_end():
    # From the second to the fourth level: two steps, with middles at 1/4 and 3/4.
    assert factors("ramp up", sigma_start=6.0, sigma_end=0.5) == pytest.approx([0, 0.25, 0.75, 1])
    # 10 lies in the middle of the first step, 1.5 of the third: two steps again, from 0.5 to 2.5.
    assert factors("ramp down", sigma_start=10.0, sigma_end=1.5) == pytest.approx([1, 0.5, 0, 0])
    # Nothing of the run lies before its first level.
    assert factors("ramp up", sigma_start=20.0) == factors("ramp up")


def test_runs_of_their_own():
    """From a picture, of one step, in the other direction, with a level twice, and between the levels."""
    assert factors("ramp up", SIGMAS[2:]) == pytest.approx([0.25, 0.75])
    assert factors("ramp up", torch.tensor([14.0, 0.0])) == [0.5]
    assert factors("ramp up", torch.tensor([14.0, 0.0]), sigma_start=14.0, sigma_end=14.0) == [0.5]
    assert factors("ramp up", SIGMAS.flip(0)) == pytest.approx([0.125, 0.375, 0.625, 0.875])
    twice = torch.tensor([14.0, 6.0, 6.0, 0.0])
    assert factors("ramp up", twice) == pytest.approx([1 / 6, 3 / 6, 3 / 6])
    assert schedule_factor("ramp up", torch.tensor(10.0), SIGMAS, **WHOLE).item() == pytest.approx(0.25)
    assert schedule_factor("ramp up", torch.tensor(0.0), SIGMAS, **WHOLE).item() == 1


@pytest.mark.parametrize("schedule", WEIGHT_SCHEDULES)
def test_no_value_reaches_the_host(schedule):
    """A tensor without data has none to give."""
    factor = schedule_factor(
        schedule, torch.tensor(6.0, device="meta"), SIGMAS.to("meta"), sigma_start=10.0, sigma_end=1.5
    )
    assert factor.device.type == "meta" and factor.shape == ()
