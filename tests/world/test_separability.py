"""People can be told apart by what is known of them, and not by where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from bolid.detectors.drawn_people import DrawnPersonDetector
from bolid.models.keypoints import AVERAGE_PROPORTIONS, BONES
from bolid.world.identities import SPLITS, identity
from bolid.world.networks.unpack import WEIGHTS
from bolid.world.pictures import picture_of
from bolid.world.separability import (
    area_under_curve,
    bones_found,
    measured_proportions,
    separability,
    true_proportions,
)


def test_area_under_curve():
    assert area_under_curve(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1
    assert area_under_curve(np.array([5.0]), np.array([3.0, 4.0])) == 0
    assert area_under_curve(np.array([3.0]), np.array([3.0, 3.0])) == 0.5
    assert area_under_curve(np.array([3.5, 0.0]), np.array([3.0, 4.0])) == 0.75


def test_true_proportions_are_the_bones_up_to_a_common_scale():
    for number in range(5):
        person = identity(number)
        ratios = true_proportions(person)[:, 0].numpy() / np.array(person.bones)
        assert ratios.max() / ratios.min() == pytest.approx(1, abs=0.01)
    assert list(AVERAGE_PROPORTIONS) == list(BONES)


def test_nine_pictures_measure_the_bones():
    errors = []
    for number in SPLITS["validation"][:6]:
        pictures = [picture_of(number, index) for index in range(9)]
        measured, true = measured_proportions(pictures), true_proportions(identity(number))
        assert measured[:, 1].all()
        errors.append((measured[:, 0] / true[:, 0]).log().abs().mean())
    assert np.mean(errors) < 0.08


def test_people_can_be_told_apart():
    found = separability(SPLITS["validation"][:20], references=4)
    assert found["bones"]["all"]["auc"] > 0.85 and found["colours"]["all"]["auc"] > 0.93
    assert found["pixels"]["face"] > 5 * found["pixels"]["chance"]
    assert found["pixels"]["without_person"] < 3 * found["pixels"]["chance"]


def test_people_can_be_told_apart_by_the_bones_that_a_network_finds():
    """Which no drawn picture can be judged better than."""
    found = bones_found(
        DrawnPersonDetector(WEIGHTS / "metric_joints.safetensors"), SPLITS["validation"][:10], references=(1, 9)
    )
    assert found["9"]["auc"] > 0.9
    assert found["9"]["error"] < 0.7 * found["others"] and found["9"]["error"] < found["1"]["error"]
