"""Poses and proportions, held against numbers worked out by hand, and against what failures may never do."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.metrics import poses
from bolid.metrics.poses import (
    BOX_SHARE,
    FARTHEST,
    OKS_SIGMAS,
    WRONG_BONE,
    area_of_box,
    body_proportions,
    body_ratio_error,
    bone_lengths,
    bone_ratio_error,
    detection_rate,
    joint_detection_rate,
    oks,
    pck,
    pose_accuracy,
    torso_length,
)
from bolid.models.body import normalise_keypoints, proportions
from bolid.models.keypoints import AVERAGE_PROPORTIONS, BONES, JOINTS
from bolid.training.losses import joint_error

from ..support import bodies

BONE_NAMES = list(BONES)
SIZE = (100, 200)
"""Height and width; a step of .1 is 20 pixels to the side and 10 down."""


def joint(name: str) -> int:
    return JOINTS.index(name)


def pose(**places: tuple[float, float]) -> torch.Tensor:
    """[12, 3] a person in a picture of `SIZE`: shoulders .1 apart (20 pixels), torso .4 high (40 pixels)."""
    points = {
        "left_shoulder": (0.55, 0.2),
        "right_shoulder": (0.45, 0.2),
        "left_elbow": (0.55, 0.4),
        "right_elbow": (0.45, 0.4),
        "left_wrist": (0.55, 0.5),
        "right_wrist": (0.45, 0.5),
        "left_hip": (0.55, 0.6),
        "right_hip": (0.45, 0.6),
        "left_knee": (0.55, 0.8),
        "right_knee": (0.45, 0.8),
        "left_ankle": (0.55, 0.95),
        "right_ankle": (0.45, 0.95),
    } | places
    return torch.tensor([(*points[name], 1.0) for name in JOINTS], dtype=torch.float64)


def unseen(keypoints: torch.Tensor, *names: str, visibility: float = 0.0) -> torch.Tensor:
    keypoints = keypoints.clone()
    keypoints[..., [joint(name) for name in names], 2] = visibility
    return keypoints


NOBODY = torch.zeros(12, 3, dtype=torch.float64)
HIPS_AND_LEGS = JOINTS[6:]


def random_pose(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return bodies.random_view(bodies.drawn_lengths(generator), generator).double()


# Pose accuracy


def test_pose_accuracy_by_hand():
    moved = pose(left_wrist=(0.65, 0.5), right_ankle=(0.45, 0.75))
    assert float(pose_accuracy(moved, pose())) == pytest.approx((0.01 + 0.04) / 12)
    assert float(pose_accuracy(pose(), pose())) == 0


def test_pose_accuracy_is_the_loss_of_training_where_all_is_found():
    generated = torch.stack([random_pose(seed) for seed in range(4)])
    reference = torch.stack([random_pose(seed + 10) for seed in range(4)])
    reference[1] = unseen(reference[1], *HIPS_AND_LEGS)
    torch.testing.assert_close(pose_accuracy(generated, reference), joint_error(generated[..., :2], reference))


def test_joints_that_are_not_found_count_2_and_nothing_counts_more():
    wrist_lost = unseen(pose(), "left_wrist", visibility=0.49)
    assert float(pose_accuracy(wrist_lost, pose())) == pytest.approx(2 / 12)
    assert float(pose_accuracy(wrist_lost, pose(), min_visibility=0.4)) == 0
    assert float(pose_accuracy(wrist_lost, pose(), undetected=0.5)) == pytest.approx(0.5 / 12)
    far_outside = pose(left_wrist=(9.0, 9.0))
    assert float(pose_accuracy(far_outside, pose())) == pytest.approx(2 / 12)
    assert float(pose_accuracy(NOBODY, pose())) == FARTHEST == 2


def test_only_joints_of_the_reference_are_asked_for():
    reference = unseen(pose(), *HIPS_AND_LEGS)
    generated = unseen(pose(left_elbow=(0.65, 0.4), left_knee=(0.0, 0.0)), "right_ankle")
    assert float(pose_accuracy(generated, reference)) == pytest.approx(0.01 / 6)
    assert float(pck(generated, reference, image_sizes=SIZE, torso=40)) == pytest.approx(5 / 6)
    assert float(joint_detection_rate(generated, reference)) == 1


# Torso and PCK


def test_torso_by_hand():
    assert float(torso_length(pose(), SIZE)) == pytest.approx(40)
    leaning = pose(left_hip=(0.65, 0.6), right_hip=(0.55, 0.6))
    assert float(torso_length(leaning, SIZE)) == pytest.approx(math.hypot(20, 40))


def test_a_torso_that_is_not_seen_is_that_of_the_average_adult():
    portrait = unseen(pose(), *HIPS_AND_LEGS)
    # Shoulders 20 pixels, upper arms 20, forearms 10: the upper arm looks longest beside the average.
    expected = 20 / AVERAGE_PROPORTIONS["upper_arm"]
    assert float(torso_length(portrait, SIZE)) == pytest.approx(expected)
    shoulders = unseen(portrait, "left_elbow", "right_elbow")
    assert float(torso_length(shoulders, SIZE)) == pytest.approx(20 / AVERAGE_PROPORTIONS["shoulder_width"])
    one_hip = unseen(pose(), "left_hip")
    assert float(torso_length(one_hip, SIZE)) == pytest.approx(max(40, expected))
    assert float(torso_length(unseen(pose(), *JOINTS[1:]), SIZE)) == 0


def test_a_person_seen_from_above_has_a_torso():
    from_above = pose(left_hip=(0.55, 0.2), right_hip=(0.45, 0.2))
    assert float(torso_length(from_above, SIZE)) > 0


def test_pck_by_hand():
    # .2 of a torso of 40 pixels are 8 pixels: .04 to the side, .08 down.
    moved = pose(
        left_elbow=(0.55 + 0.039, 0.4),
        right_elbow=(0.45 - 0.041, 0.4),
        left_wrist=(0.55, 0.5 + 0.079),
        right_wrist=(0.45, 0.5 - 0.081),
        left_knee=(0.55 + 0.03, 0.8 + 0.06),
    )
    assert float(pck(moved, pose(), image_sizes=SIZE)) == pytest.approx(9 / 12)
    assert float(pck(moved, pose(), image_sizes=SIZE, alpha=0.22)) == 1
    assert float(pck(moved, pose(), image_sizes=SIZE, torso=60)) == 1
    assert float(pck(pose(), pose(), image_sizes=SIZE)) == 1


def test_pck_of_what_is_not_found():
    assert float(pck(NOBODY, pose(), image_sizes=SIZE)) == 0
    lost = unseen(pose(), "left_wrist", "left_hip")
    assert float(pck(lost, pose(), image_sizes=SIZE)) == pytest.approx(10 / 12)
    # Also where the joint lies at the origin, like the zeros of what is not found.
    corner = pose(left_wrist=(0.0, 0.0))
    assert float(pck(unseen(corner, "left_wrist"), corner, image_sizes=SIZE)) == pytest.approx(11 / 12)


def test_the_wrong_way_round_is_wrong():
    """A person from behind, asked for from the front: left and right are the person's own."""
    swapped = pose().unflatten(0, (6, 2)).flip(1).flatten(0, 1)
    assert float(pck(swapped, pose(), image_sizes=SIZE)) == 0


# OKS


def test_sigmas_of_the_joints():
    """In the order of https://cocodataset.org/#keypoints-eval, times ten, after the five of the head."""
    coco = [0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    assert [10 * sigma for sigma in OKS_SIGMAS] == pytest.approx(coco)


def slow_oks(generated: torch.Tensor, reference: torch.Tensor, *, size: tuple[int, int], area: float) -> float:
    similarities = []
    for number in range(12):
        if reference[number, 2] >= 0.5:
            x, y = ((generated[number, :2] - reference[number, :2]) * torch.tensor(size).flip(0)).tolist()
            constant = 2 * OKS_SIGMAS[number]
            found = float(generated[number, 2]) >= 0.5
            similarities.append(math.exp(-(x**2 + y**2) / (2 * area * constant**2)) if found else 0)
    return sum(similarities) / len(similarities)


def test_oks_by_hand():
    # Off by exactly 2σ of the wrist, with an area of 400: 2 · .062 · 20 pixels.
    off = 2 * 0.062 * 20
    moved = pose(left_wrist=(0.55 + off / 200, 0.5))
    expected = (11 + math.exp(-0.5)) / 12
    assert float(oks(moved, pose(), image_sizes=SIZE, area=400)) == pytest.approx(expected)
    down = pose(left_wrist=(0.55, 0.5 + off / 100))
    assert float(oks(down, pose(), image_sizes=SIZE, area=400)) == pytest.approx(expected)
    assert float(oks(pose(), pose(), image_sizes=SIZE, area=1)) == 1
    assert float(oks(NOBODY, pose(), image_sizes=SIZE, area=400)) == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), area=st.floats(10, 1e5))
def test_oks_is_the_loop(seed: int, area: float):
    reference = unseen(random_pose(seed), "left_knee", visibility=0.2)
    generated = unseen(random_pose(seed + 1), "right_wrist", visibility=0.3)
    found = oks(generated, reference, image_sizes=SIZE, area=area)
    assert float(found) == pytest.approx(slow_oks(generated, reference, size=SIZE, area=area), rel=1e-9, abs=1e-12)


def test_area_of_a_box():
    assert area_of_box([[0, 0, 10, 20], [5, 5, 4, 9]]).tolist() == pytest.approx([BOX_SHARE * 200, 0])


# Detection rates


def test_detection_rates():
    one_joint = unseen(pose(), *JOINTS[1:])
    people = torch.stack([pose(), NOBODY, one_joint, unseen(pose(), *JOINTS, visibility=0.4)])
    assert detection_rate(people).tolist() == [1, 0, 1, 0]
    assert detection_rate(people, min_visibility=0.3).tolist() == [1, 0, 1, 1]
    assert joint_detection_rate(people, pose()).tolist() == pytest.approx([1, 0, 1 / 12, 0])
    portrait = unseen(pose(), *HIPS_AND_LEGS)
    assert joint_detection_rate(people, portrait).tolist() == pytest.approx([1, 0, 1 / 6, 0])


# Failures


METRICS: dict[str, tuple[Callable[..., torch.Tensor], int]] = {
    "pose_accuracy": (lambda generated, reference: pose_accuracy(generated, reference), -1),
    "pck": (lambda generated, reference: pck(generated, reference, image_sizes=SIZE), 1),
    "oks": (lambda generated, reference: oks(generated, reference, image_sizes=SIZE, area=3000), 1),
    "joint_detection_rate": (joint_detection_rate, 1),
    "detection_rate": (lambda generated, reference: detection_rate(generated), 1),
    "bone_ratio_error": (
        lambda generated, reference: bone_ratio_error(bone_lengths(generated, SIZE), bone_lengths(reference, SIZE)),
        -1,
    ),
}
"""Name -> the metric, and 1 where higher is better."""


@pytest.mark.parametrize("name", ["pose_accuracy", "pck", "oks", "joint_detection_rate", "detection_rate"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), lost=st.sets(st.sampled_from(JOINTS)), far=st.floats(0, 5))
def test_being_unrecognisable_never_helps(name: str, seed: int, lost: set[str], far: float):
    metric, better = METRICS[name]
    reference, generated = random_pose(seed), random_pose(seed + 1)
    generated[..., :2] += far
    fewer = unseen(generated, *lost)
    assert better * float(metric(fewer, reference)) <= better * float(metric(generated, reference)) + 1e-12


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("missing", [math.nan, math.inf, 0.0])
def test_nothing_is_ever_nan_or_dropped(name: str, missing: float):
    metric, _ = METRICS[name]
    lost, nobody = pose(), torch.full((12, 3), missing, dtype=torch.float64)
    lost[joint("left_wrist")] = missing
    if missing == 0:
        lost[joint("left_wrist"), 2] = 0
    found = metric(torch.stack([lost, nobody, pose()]), pose())
    worst = {"pose_accuracy": 2, "bone_ratio_error": math.log(2)}.get(name, 0)
    best = {"pose_accuracy": 0, "bone_ratio_error": 0}.get(name, 1)
    expected = metric(unseen(pose(), "left_wrist"), pose())
    assert found.tolist() == pytest.approx([float(expected), worst, best])
    # Only one forearm is gone, and the other tells its length.
    assert name in ("bone_ratio_error", "detection_rate") or float(expected) != best


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_pictures_and_batches_do_not_count(name: str):
    metric, _ = METRICS[name]
    generated = torch.stack([random_pose(seed) for seed in range(6)]).view(2, 3, 12, 3)
    reference = torch.stack([random_pose(seed + 50) for seed in range(6)]).view(2, 3, 12, 3)
    found = metric(generated, reference)
    assert found.shape == (2, 3)
    torch.testing.assert_close(metric(generated.flip(0, 1), reference.flip(0, 1)), found.flip(0, 1))
    torch.testing.assert_close(metric(generated[1, 2], reference[1, 2]), found[1, 2])
    torch.testing.assert_close(
        metric(generated.float(), reference.float()).double(), found.double(), rtol=1e-3, atol=1e-5
    )
    # One target for many pictures.
    torch.testing.assert_close(metric(generated, reference[0, 0])[0, 0], found[0, 0])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), x=st.floats(-1, 1), y=st.floats(-1, 1), scale=st.floats(0.2, 5))
def test_where_both_stand_and_how_large_they_are(seed: int, x: float, y: float, scale: float):
    reference, generated = random_pose(seed), random_pose(seed + 1)
    both = torch.stack([reference, generated])
    both[..., :2] = both[..., :2] * scale + torch.tensor([x, y])

    def values(one: torch.Tensor, other: torch.Tensor, area: float) -> list[float]:
        return [
            float(pck(one, other, image_sizes=SIZE)),
            float(oks(one, other, image_sizes=SIZE, area=area)),
            float(bone_ratio_error(bone_lengths(one, SIZE), bone_lengths(other, SIZE))),
        ]

    moved = values(both[1], both[0], 2000 * scale**2)
    assert moved == pytest.approx(values(generated, reference, 2000), rel=1e-6, abs=1e-9)


# Bones


def test_bone_lengths_by_hand():
    found = bone_lengths(pose(), SIZE)
    lengths = {"shoulder_width": 0.5, "hip_width": 0.5, "upper_arm": 0.5, "forearm": 0.25, "thigh": 0.5, "shin": 0.375}
    for number, bone in enumerate(BONE_NAMES):
        assert found[number].tolist() == pytest.approx([lengths[bone], 1] if bone != "torso" else [0, 0])
    # The arm at the left bends towards the camera: the mean of both sides.
    bent = bone_lengths(pose(left_elbow=(0.55, 0.3), left_wrist=(0.55, 0.3)), SIZE)
    assert bent[BONE_NAMES.index("upper_arm")].tolist() == pytest.approx([0.375, 1])
    # A bone of length 0 is not known, so the other side tells it.
    assert bent[BONE_NAMES.index("forearm")].tolist() == pytest.approx([0.25, 1])
    one_sided = bone_lengths(unseen(pose(), "left_wrist"), SIZE)
    assert one_sided[BONE_NAMES.index("forearm")].tolist() == pytest.approx([0.25, 1])
    no_forearm = bone_lengths(unseen(pose(), "left_wrist", "right_wrist"), SIZE)
    assert no_forearm[BONE_NAMES.index("forearm")].tolist() == [0, 0]
    assert bone_lengths(unseen(pose(), "left_hip", "right_hip"), SIZE).tolist() == [[0, 0]] * 7


def test_bone_ratio_error_by_hand():
    reference = bone_lengths(pose(), SIZE)
    # Forearms of 8 pixels in the place of 10, thighs of 22 in the place of 20: six bones are asked for.
    generated = pose(left_wrist=(0.55, 0.48), right_wrist=(0.45, 0.48), left_knee=(0.55, 0.82), right_knee=(0.45, 0.82))
    generated[[joint("left_ankle"), joint("right_ankle")], 1] += 0.02
    found = bone_ratio_error(bone_lengths(generated, SIZE), reference)
    assert float(found) == pytest.approx((math.log(10 / 8) + math.log(22 / 20)) / 6)
    torch.testing.assert_close(bone_ratio_error(reference, bone_lengths(generated, SIZE)), found)


def test_bones_that_are_not_found_or_more_than_twice_off_count_ln_2():
    reference = bone_lengths(pose(), SIZE)
    no_legs = bone_lengths(unseen(pose(), "left_knee", "right_knee"), SIZE)
    assert float(bone_ratio_error(no_legs, reference)) == pytest.approx(2 * math.log(2) / 6)
    assert float(bone_ratio_error(no_legs, reference, undetected=1.0)) == pytest.approx(2 / 6)
    long_arms = bone_lengths(pose(left_wrist=(0.55, 0.9), right_wrist=(0.45, 0.9)), SIZE)
    assert float(bone_ratio_error(long_arms, reference)) == pytest.approx(math.log(2) / 6)
    assert float(bone_ratio_error(bone_lengths(NOBODY, SIZE), reference)) == pytest.approx(WRONG_BONE)
    # What the reference does not know is not asked for.
    assert float(bone_ratio_error(reference, no_legs)) == 0


def test_foreshortening_is_no_error_in_the_same_pose_and_one_against_proportions():
    standing, sitting = bone_lengths(bodies.standing(), (512, 512)), bone_lengths(bodies.sitting(), (512, 512))
    assert float(bone_ratio_error(sitting, sitting)) == 0
    assert float(bone_ratio_error(sitting, standing)) > 0.2
    thigh = BONE_NAMES.index("thigh")
    assert sitting[thigh, 0] < 0.5 * standing[thigh, 0]


def test_proportions_of_several_pictures_are_free_of_foreshortening():
    truth = torch.stack((bodies.LENGTHS, torch.ones(7)), dim=-1)
    generator = torch.Generator().manual_seed(0)
    other = bodies.LENGTHS * torch.tensor([1.0, 1.0, 1.0, 0.8, 0.8, 1.25, 1.25])

    def error_of(lengths: torch.Tensor, count: int) -> float:
        views = torch.stack([bodies.random_view(lengths, generator, noise=0) for _ in range(count)])
        return float(bone_ratio_error(body_proportions(views, (512, 512)), truth))

    same, else_ = ([error_of(lengths, 9) for _ in range(20)] for lengths in (bodies.LENGTHS, other))
    assert max(same) < 0.1 < min(else_)
    one = [error_of(bodies.LENGTHS, 1) for _ in range(20)]
    assert sum(one) > 2 * sum(same)


def test_pictures_without_the_person_count_in_the_error_of_proportions():
    views = torch.stack([random_pose(seed) for seed in range(6)])
    truth = torch.stack((bodies.LENGTHS, torch.ones(7)), dim=-1)
    error = float(bone_ratio_error(body_proportions(views, SIZE), truth))
    assert float(body_ratio_error(views, truth, image_sizes=SIZE)) == pytest.approx(error)
    with_failures = torch.cat((views, torch.zeros(2, 12, 3), torch.full((1, 12, 3), math.nan)))
    found = float(body_ratio_error(with_failures, truth, image_sizes=SIZE))
    assert found == pytest.approx((6 * error + 3 * math.log(2)) / 9) and found > error
    nobody = body_ratio_error(torch.zeros(3, 12, 3), truth, image_sizes=SIZE)
    assert nobody.shape == () and float(nobody) == pytest.approx(WRONG_BONE)


def test_proportions_are_those_of_the_body():
    views = torch.stack([random_pose(seed) for seed in range(4)])
    views[2] = unseen(views[2], "left_shoulder", visibility=0.2)
    sizes = torch.tensor([[100, 200], [200, 100], [300, 300], [64, 512]])
    expected = proportions(normalise_keypoints(views, sizes, min_visibility=0.5))
    torch.testing.assert_close(body_proportions(views, sizes), expected)
    views[2] = math.nan
    torch.testing.assert_close(body_proportions(views, sizes), expected)
    assert body_proportions(views[:1], sizes[0]).shape == (7, 2)
    nobody = body_proportions(torch.zeros(3, 12, 3), SIZE)
    assert nobody.tolist() == [[0, 0]] * 7
    assert float(bone_ratio_error(nobody, expected)) == pytest.approx(WRONG_BONE)


# What is refused


@pytest.mark.parametrize("shape", [(0, 12, 3), (17, 3), (12, 2), (12,)])
def test_keypoints_of_another_shape(shape: tuple[int, ...]):
    given = torch.zeros(*shape)
    message = r"generated has the shape .*; expected \[..., 12, 3\]: x, y and visibility"
    for measure in (
        lambda: pose_accuracy(given, pose()),
        lambda: pck(given, pose(), image_sizes=SIZE),
        lambda: oks(given, pose(), image_sizes=SIZE, area=1),
        lambda: detection_rate(given),
        lambda: joint_detection_rate(given, pose()),
    ):
        with pytest.raises(ValueError, match=message):
            measure()
    with pytest.raises(ValueError, match="reference has the shape"):
        pose_accuracy(pose(), given)
    with pytest.raises(ValueError, match="keypoints has the shape"):
        bone_lengths(given, SIZE)


def test_references_without_truth():
    references = torch.stack([pose(), unseen(pose(), *JOINTS), pose()])
    with pytest.raises(ValueError, match="1 of 3 references show no joint, first number 1"):
        pose_accuracy(references, references)
    shoulder_alone = unseen(pose(), *JOINTS[1:])
    with pytest.raises(ValueError, match="1 of 1 reference poses show no bone to measure a torso by, first number 0"):
        pck(pose(), shoulder_alone, image_sizes=SIZE)
    assert float(pck(pose(), shoulder_alone, image_sizes=SIZE, torso=40)) == 1
    with pytest.raises(ValueError, match="reference poses show no bone"):
        pck(pose(), pose(), image_sizes=SIZE, torso=math.nan)
    with pytest.raises(ValueError, match="1 of 2 references show no bone, first number 1"):
        bone_ratio_error(torch.ones(2, 7, 2), torch.stack([torch.ones(7, 2), torch.zeros(7, 2)]))


@pytest.mark.parametrize("area", [0.0, -1.0, math.nan, math.inf])
def test_areas_that_are_none(area: float):
    with pytest.raises(ValueError, match="area has values from .* above 0"):
        oks(pose(), pose(), image_sizes=SIZE, area=area)


def test_sizes_and_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match=r"image_sizes has the shape \[3\]; expected \[..., 2\]"):
        pck(pose(), pose(), image_sizes=(3, 100, 200))
    with pytest.raises(ValueError, match=r"image_sizes .* above 0"):
        torso_length(pose(), (0, 100))
    pair, three = torch.stack([pose()] * 2), torch.stack([pose()] * 3)
    with pytest.raises(ValueError, match=r"generated is of \[2\] pictures, but reference of \[3\]"):
        pose_accuracy(pair, three)
    with pytest.raises(ValueError, match=r"generated_bones is of \[2\] pictures, but reference_bones of \[3\]"):
        bone_ratio_error(torch.ones(2, 7, 2), torch.ones(3, 7, 2))
    with pytest.raises(ValueError, match=r"generated_bones has the shape \[7\]; expected \[..., 7, 2\]"):
        bone_ratio_error(torch.ones(7), torch.ones(7, 2))


def test_every_metric_of_the_table_is_there():
    named = [line.split("|")[1] for line in poses.__doc__.splitlines() if line.startswith("| `")]
    names = {name.strip(" `") for cell in named for name in cell.split(",")}
    assert names == {*METRICS, "body_ratio_error"}
