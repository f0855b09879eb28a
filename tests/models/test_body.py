"""The body identity: what it does not depend on, joints that are not seen, and proportions against known lengths."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.models import body as body_module
from bolid.models.body import Body, has_scale, is_seen, normalise_keypoints, proportions, unseen_joints
from bolid.models.keypoints import AVERAGE_PROPORTIONS, BONES, COCO_KEYPOINTS, FIRST_JOINT, JOINTS

from ..support import bodies
from ..support.scenes import body as small_body
from ..support.scenes import bolid_adapter

POSES = {
    "standing": bodies.standing,
    "sitting": bodies.sitting,
    "back view": bodies.back_view,
    "upper body": bodies.upper_body,
}
HIPS = [JOINTS.index("left_hip"), JOINTS.index("right_hip")]
SHOULDERS = [JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int, *, seed: int = 0, portraits: bool = True) -> torch.Tensor:
    """[n, 12, 3] of one drawn person; every second photo is a portrait."""
    drawn = generator(seed)
    lengths = bodies.drawn_lengths(drawn)
    views = [bodies.random_view(lengths, drawn) for _ in range(count)]
    return torch.stack([bodies.cut_at_the_hips(view) if portraits and i % 2 else view for i, view in enumerate(views)])


def body_of(keypoints: torch.Tensor, *, height: int = 512, width: int = 512, **arguments) -> Body:
    keypoints = keypoints if keypoints.ndim == 3 else keypoints.unsqueeze(0)
    return Body(keypoints=keypoints, image_sizes=torch.tensor([[height, width]] * len(keypoints)), **arguments)


def unseen(keypoints: torch.Tensor, *joints: int, visibility: float = 0.1) -> torch.Tensor:
    keypoints = keypoints.clone()
    keypoints[..., list(joints), 2] = visibility
    return keypoints


def assert_finite(body: Body) -> None:
    assert body.normalised_keypoints.isfinite().all() and body.proportions.isfinite().all()


# The orders


def test_the_orders_used_here():
    assert tuple(BONES) == bodies.BONES
    assert COCO_KEYPOINTS[FIRST_JOINT:] == JOINTS and len(COCO_KEYPOINTS) == 17
    parts = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    assert tuple(f"{side}_{part}" for part in parts for side in ("left", "right")) == JOINTS
    for bone, ends in BONES.items():
        for start, end in ends:
            assert start != end
            assert bone.endswith("width") or JOINTS[start].split("_")[0] == JOINTS[end].split("_")[0]
        assert len(ends) == (1 if bone.endswith("width") else 2)


def test_the_drawn_poses_are_what_their_names_say():
    for name, pose in POSES.items():
        keypoints = pose()
        assert keypoints.shape == (12, 3), name
        assert keypoints.min() >= 0 and keypoints.max() <= 1, name
        in_front = keypoints[SHOULDERS[0], 0] > keypoints[SHOULDERS[1], 0]
        assert in_front == (name != "back view")
    assert (bodies.upper_body()[HIPS[0] :, 2] < 0.5).all()
    thigh = list(BONES).index("thigh")
    lengths = {name: body_of(pose()).proportions[thigh, 0] for name, pose in POSES.items()}
    assert lengths["sitting"] < 0.5 * lengths["standing"]


# What it does not depend on

KEPT = {"rtol": 1e-9, "atol": 1e-9}


def assert_same_identity(actual: Body, expected: Body) -> None:
    torch.testing.assert_close(actual.normalised_keypoints, expected.normalised_keypoints, **KEPT)
    torch.testing.assert_close(actual.proportions, expected.proportions, **KEPT)
    assert torch.equal(actual.seen, expected.seen)


fractions = st.floats(-2, 2, allow_subnormal=False)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), x=fractions, y=fractions, scale=st.floats(0.05, 20))
def test_where_the_person_stands_and_how_near(seed, x, y, scale):
    keypoints = photos(3, seed=seed).double()
    moved = keypoints.clone()
    # Every photo moves elsewhere; x and y are fractions of the same 512 pixels.
    moved[..., :2] = moved[..., :2] * scale * torch.tensor([1, 2, 3]).view(3, 1, 1) + torch.tensor([x, y])
    assert_same_identity(body_of(moved), body_of(keypoints))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(16, 8192), min_size=6, max_size=6))
def test_the_size_and_shape_of_the_picture(seed, sizes):
    keypoints = photos(3, seed=seed).double()
    canvases = torch.tensor(sizes).view(3, 2)
    on_canvas = keypoints.clone()
    on_canvas[..., :2] *= 512 / canvases.flip(-1).double().unsqueeze(1)
    assert_same_identity(Body(keypoints=on_canvas, image_sizes=canvases), body_of(keypoints))


def test_single_precision_suffices():
    """A person of 30 pixels in the corner of a photo of 8000."""
    keypoints = photos(3)
    far = keypoints.clone()
    far[..., :2] = far[..., :2] * 0.004 + 0.99
    actual, expected = body_of(far, height=8000, width=8000), body_of(keypoints)
    torch.testing.assert_close(actual.normalised_keypoints, expected.normalised_keypoints, rtol=0, atol=1e-3)
    torch.testing.assert_close(actual.proportions, expected.proportions, rtol=0, atol=1e-3)


def test_a_picture_that_is_not_square_is_not_a_square_one():
    keypoints = bodies.standing()
    assert not torch.allclose(
        body_of(keypoints, width=256).proportions, body_of(keypoints).proportions, rtol=0, atol=0.1
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_a_mirrored_picture_has_a_mirrored_person_of_the_same_proportions(seed):
    keypoints = photos(3, seed=seed).double()
    body, mirror = body_of(keypoints), body_of(bodies.mirrored(keypoints))
    torch.testing.assert_close(mirror.proportions, body.proportions, **KEPT)
    expected = body.normalised_keypoints.unflatten(1, (6, 2)).flip(2).flatten(1, 2)
    expected[..., 0] *= -1
    torch.testing.assert_close(mirror.normalised_keypoints, expected, **KEPT)
    assert not torch.allclose(mirror.normalised_keypoints, body.normalised_keypoints, atol=1e-2)


def test_the_order_of_the_photos():
    keypoints = photos(5).double()
    order = [3, 0, 4, 1, 2]
    body, other = body_of(keypoints), body_of(keypoints[order])
    torch.testing.assert_close(other.proportions, body.proportions, **KEPT)
    assert torch.equal(other.normalised_keypoints, body.normalised_keypoints[order])


# The normal form


def test_numbers_by_hand():
    """Shoulders at y 0, 80 pixels apart; hips at y 100, 40 apart; an elbow 60 pixels below its shoulder."""
    pixels = torch.full((12, 2), 7.0)
    pixels[SHOULDERS] = torch.tensor([[140.0, 50.0], [60.0, 50.0]])
    pixels[HIPS] = torch.tensor([[120.0, 150.0], [80.0, 150.0]])
    elbow = JOINTS.index("left_elbow")
    pixels[elbow] = torch.tensor([140.0, 110.0])
    visibility = torch.zeros(12)
    visibility[[*SHOULDERS, *HIPS, elbow]] = 0.5
    keypoints = torch.cat((pixels / torch.tensor([200.0, 400.0]), visibility.unsqueeze(-1)), dim=-1)
    body = body_of(keypoints, height=400, width=200)
    expected = torch.zeros(12, 3)
    expected[[*SHOULDERS, *HIPS, elbow]] = torch.tensor(
        [[0.4, -1, 0.5], [-0.4, -1, 0.5], [0.2, 0, 0.5], [-0.2, 0, 0.5], [0.4, -0.4, 0.5]]
    )
    torch.testing.assert_close(body.normalised_keypoints[0], expected)
    # The torso is measured along the body's sides, which lean inwards by 20 pixels.
    side = (100**2 + 20**2) ** 0.5
    assert body.proportions[:, 1].tolist() == [1, 1, 1, 1, 0, 0, 0]
    # The shoulders look longest beside the average adult's, so they are as wide as his.
    unit = 80 / AVERAGE_PROPORTIONS["shoulder_width"]
    lengths = [80 / unit, 40 / unit, side / unit, 60 / unit, 0, 0, 0]
    assert body.proportions[:, 0].tolist() == pytest.approx(lengths, rel=1e-5)
    assert body.seen.tolist() == (visibility > 0).tolist()


@pytest.mark.parametrize("hips", [HIPS, HIPS[:1], HIPS[1:]])
def test_without_both_hips_the_origin_is_between_the_shoulders(hips):
    body = body_of(unseen(bodies.standing(), *hips))
    shoulders = body.normalised_keypoints[0, SHOULDERS, :2]
    torch.testing.assert_close(shoulders.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-6)
    assert (shoulders[0] - shoulders[1]).norm().item() == pytest.approx(1)
    with_hips = body_of(bodies.standing()).normalised_keypoints[0]
    torch.testing.assert_close(with_hips[HIPS, :2].mean(dim=0), torch.zeros(2), rtol=0, atol=1e-6)
    assert with_hips[SHOULDERS, 1].mean().item() == pytest.approx(-1)


def test_broad_shoulders_are_the_unit_of_a_person_who_bends():
    keypoints = bodies.standing()
    keypoints[HIPS, 1] = keypoints[SHOULDERS, 1] + 0.05
    normalised = body_of(keypoints).normalised_keypoints[0]
    assert (normalised[SHOULDERS[0]] - normalised[SHOULDERS[1]]).norm().item() == pytest.approx(1)


@pytest.mark.parametrize("shoulders", [SHOULDERS, SHOULDERS[:1], SHOULDERS[1:]])
def test_without_a_shoulder_there_is_no_scale(shoulders):
    keypoints = unseen(bodies.standing(), *shoulders)
    body = body_of(keypoints)
    assert not has_scale(keypoints[:, 2], min_visibility=0.5)
    assert not body.normalised_keypoints.any() and not body.proportions.any()
    assert has_scale(bodies.standing()[:, 2], min_visibility=0.5)


def test_a_photo_without_scale_does_not_count():
    keypoints = photos(3)
    with_it = torch.cat((keypoints, unseen(bodies.sitting(), SHOULDERS[0]).unsqueeze(0)))
    assert torch.equal(body_of(with_it).proportions, body_of(keypoints).proportions)


def degenerate() -> dict[str, torch.Tensor]:
    standing, portrait = bodies.standing(), bodies.upper_body()
    one_point = torch.full((12, 3), 0.5)
    profile, profile_portrait = standing.clone(), portrait.clone()
    profile[SHOULDERS[0], :2] = profile[SHOULDERS[1], :2]
    profile_portrait[SHOULDERS[0], :2] = profile_portrait[SHOULDERS[1], :2]
    folded = standing.clone()
    folded[HIPS, :2] = folded[SHOULDERS, :2]
    return {
        "nothing seen": torch.zeros(12, 3),
        "all joints at one place": one_point,
        "both shoulders at one place": profile,
        "both shoulders at one place, no hips": profile_portrait,
        "hips at the shoulders": folded,
        "hips at the shoulders in profile": profile.index_copy(0, torch.tensor(HIPS), profile[SHOULDERS]),
        "shoulders alone": unseen(standing, *range(2, 12)),
        "everything but the shoulders": unseen(standing, *SHOULDERS),
        "nearly one place": one_point + torch.rand(12, 1, generator=generator()) * 1e-30,
    }


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_people_give_finite_numbers(name):
    keypoints = degenerate()[name]
    assert_finite(body_of(keypoints))
    alone = body_of(keypoints).proportions
    assert alone[:, 0].min() >= 0 and set(alone[:, 1].tolist()) <= {0.0, 1.0}
    assert ((alone[:, 0] > 0) == (alone[:, 1] > 0)).all()
    if alone.any():
        assert alone[:, 0].max() < 1.5
    for others in (photos(1), photos(4)):
        together = body_of(torch.cat((others, keypoints.unsqueeze(0))))
        assert_finite(together)
        assert (together.proportions[:, 1] == 1).all()


def test_all_degenerate_people_at_once():
    keypoints = torch.stack(list(degenerate().values()))
    assert_finite(body_of(keypoints))
    assert_finite(body_of(keypoints.half().float() * 1e-20))


def test_a_bone_that_no_photo_shows():
    body = body_of(bodies.upper_body())
    bones = list(BONES)
    assert [bone for bone, found in zip(bones, body.proportions[:, 1].tolist(), strict=True) if found] == [
        "shoulder_width",
        "upper_arm",
    ]
    assert not body.proportions[[bones.index("thigh"), bones.index("forearm")]].any()


def test_a_bone_of_a_portrait_alone_joins_the_bones_of_the_whole_person():
    """The whole photo hides the arms, the portrait has no hips: their common shoulders make one person of them."""
    bones = list(BONES)
    arms = [bones.index("upper_arm"), bones.index("forearm")]
    whole = unseen(bodies.standing(), *range(2, 6))
    portrait = unseen(bodies.standing(), *range(6, 12))
    portrait[:, :2] *= 0.3
    assert not body_of(whole).proportions[arms].any()
    together = body_of(torch.stack((whole, portrait)))
    torch.testing.assert_close(together.proportions, body_of(bodies.standing()).proportions, rtol=1e-5, atol=1e-5)


# Joints that are not seen

MIN_VISIBILITY = 0.5
ELSEWHERE = st.floats(allow_nan=True, allow_infinity=True, width=32)


def hidden_at_random(seed: int, *, min_visibility: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Three photos, some of whose joints are not seen (of the shoulders few): keypoints, and which joints."""
    drawn = generator(seed)
    keypoints = photos(3, seed=seed, portraits=False)
    hidden = torch.rand(3, 12, generator=drawn) < torch.tensor([0.1] * 2 + [0.5] * 10)
    visibility = torch.rand(3, 12, generator=drawn)
    keypoints[..., 2] = torch.where(
        hidden, visibility * min_visibility * 0.99, min_visibility + visibility * (1 - min_visibility)
    )
    return keypoints, hidden


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    x=ELSEWHERE,
    y=ELSEWHERE,
    visibility=st.floats(0, 1),
    min_visibility=st.sampled_from([0.05, 0.5, 1.0]),
)
def test_what_a_detector_says_about_a_joint_that_is_not_seen_does_not_matter(seed, x, y, visibility, min_visibility):
    keypoints, hidden = hidden_at_random(seed, min_visibility=min_visibility)
    other = keypoints.clone()
    other[hidden] = torch.tensor([x, y, visibility * min_visibility * 0.99])
    body, perturbed = (body_of(points, min_visibility=min_visibility) for points in (keypoints, other))
    assert torch.equal(perturbed.normalised_keypoints, body.normalised_keypoints)
    assert torch.equal(perturbed.proportions, body.proportions)
    assert torch.equal(perturbed.seen, body.seen)
    assert_finite(body)
    assert torch.equal(body.seen, ~hidden.all(dim=0))


def tokens_of(body: Body) -> torch.Tensor:
    unconditional, conditional = bolid_adapter().body_tokens(body, device="cpu", dtype=torch.float32)
    assert unconditional.shape == (1, 0, conditional.shape[2])
    return conditional


@pytest.mark.parametrize("position", [0.0, 0.77, -3.0, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("visibility", [0.0, 0.1, 0.499])
def test_the_body_tokens_do_not_know_joints_that_are_not_seen(position, visibility):
    hidden = [HIPS[1], JOINTS.index("left_wrist"), JOINTS.index("right_ankle")]
    given = small_body(target_pose=True)
    given = replace(
        given, keypoints=unseen(given.keypoints, *hidden), target_pose=unseen(given.target_pose, 0, *hidden)
    )
    keypoints, target_pose = given.keypoints.clone(), given.target_pose.clone()
    keypoints[:, hidden] = torch.tensor([position, -position, visibility])
    target_pose[[0, *hidden]] = torch.tensor([position, -position, visibility])
    tokens = tokens_of(given)
    assert tokens.isfinite().all()
    assert torch.equal(tokens_of(replace(given, keypoints=keypoints)), tokens)
    assert torch.equal(tokens_of(replace(given, target_pose=target_pose)), tokens)


def test_the_body_tokens_know_the_joints_that_are_seen():
    body = small_body(target_pose=True)
    tokens = tokens_of(body)
    longer_arm = body.keypoints.clone()
    longer_arm[:, JOINTS.index("left_wrist"), 1] += 0.1
    assert not torch.equal(tokens_of(replace(body, keypoints=longer_arm)), tokens)
    hidden = unseen(body.keypoints, JOINTS.index("left_wrist"))
    other = unseen(body.keypoints, JOINTS.index("right_wrist"))
    assert not torch.equal(tokens_of(replace(body, keypoints=hidden, target_pose=None)), tokens)
    assert not torch.equal(
        tokens_of(replace(body, keypoints=hidden, target_pose=None)),
        tokens_of(replace(body, keypoints=other, target_pose=None)),
    )
    moved = body.target_pose.clone()
    moved[JOINTS.index("left_wrist"), 0] += 0.1
    assert not torch.equal(tokens_of(replace(body, target_pose=moved)), tokens)


def test_the_body_tokens_do_not_know_the_poses_of_the_photos():
    """The same person elsewhere, nearer and in a wider picture: x and y come from the target pose alone."""
    body = small_body(target_pose=True)
    moved = body.keypoints.clone()
    moved[..., :2] = moved[..., :2] * 0.5 + 0.3
    torch.testing.assert_close(tokens_of(replace(body, keypoints=moved)), tokens_of(body), rtol=1e-4, atol=1e-4)
    raised = bodies.standing()
    raised[2:6, 1] = 2 * raised[:2, 1].repeat(2) - raised[2:6, 1]
    arms = [list(BONES).index(bone) for bone in ("upper_arm", "forearm")]
    lowered_body, raised_body = body_of(bodies.standing()), body_of(raised)
    torch.testing.assert_close(raised_body.proportions[arms], lowered_body.proportions[arms])
    torch.testing.assert_close(tokens_of(raised_body), tokens_of(lowered_body), rtol=1e-4, atol=1e-4)
    assert not torch.equal(raised_body.normalised_keypoints, lowered_body.normalised_keypoints)


@pytest.mark.parametrize(
    ("visibility", "min_visibility", "expected"),
    [
        (0.5, 0.5, True),
        (0.4999, 0.5, False),
        (1.0, 1.0, True),
        (0.0, 0.0, False),
        (1e-30, 0.0, True),
        (-0.1, -1.0, False),
    ],
)
def test_the_threshold(visibility, min_visibility, expected):
    assert is_seen(torch.tensor([visibility]), min_visibility=min_visibility).tolist() == [expected]


def test_a_visibility_of_zero_is_never_seen():
    keypoints = unseen(bodies.standing(), *HIPS, visibility=0.0)
    body = body_of(keypoints, min_visibility=0.0)
    assert not body.seen[HIPS].any() and not body.normalised_keypoints[0, HIPS].any()


def test_seen_is_seen_in_any_photo():
    keypoints = torch.stack((unseen(bodies.standing(), 2, 4), unseen(bodies.standing(), 2, 5)))
    assert body_of(keypoints).seen.tolist() == [index != 2 for index in range(12)]
    assert not body_of(keypoints, min_visibility=0.99).seen.any()


@pytest.mark.parametrize(
    ("hidden", "names"),
    [
        ((), []),
        ((8, 9), ["knees"]),
        ((4,), ["left wrist"]),
        ((1,), ["right shoulder"]),
        ((0, 1, 5, 10, 11), ["shoulders", "right wrist", "ankles"]),
    ],
)
def test_the_names_of_joints_that_are_not_seen(hidden, names):
    assert unseen_joints(torch.tensor([index not in hidden for index in range(12)])) == names


# Proportions against known lengths

PEOPLE = 80


@cache
def drawn_people(*, photos: int = 9, gross_errors: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Known lengths [7] and normalised keypoints [n, 12, 3] of people, every second photo of whom is a portrait.

    Args:
        gross_errors: how many of the joints are off by a large part of the person.
    """
    drawn, people = generator(11), []
    for _ in range(PEOPLE):
        lengths = bodies.drawn_lengths(drawn)
        views = torch.stack([bodies.random_view(lengths, drawn) for _ in range(photos)])
        wrong = torch.rand(photos, 12, 1, generator=drawn) < gross_errors
        views[..., :2] += wrong * 0.12 * torch.randn(photos, 12, 2, generator=drawn)
        views[1::2] = torch.stack([bodies.cut_at_the_hips(view) for view in views[1::2]])
        people.append((lengths, body_of(views).normalised_keypoints))
    return people


def log_error(estimate: torch.Tensor, lengths: torch.Tensor) -> float:
    """Mean |log error| of the ratios of the bones that were found."""
    found = estimate > 0
    difference = estimate[found].log() - lengths[found].log()
    return float((difference - difference.mean()).abs().mean())


def mean_error(estimate, *, photos: int = 9, gross_errors: float = 0.0) -> float:
    people = drawn_people(gross_errors=gross_errors)
    return sum(log_error(estimate(views[:photos]), lengths) for lengths, views in people) / PEOPLE


def estimated(views: torch.Tensor) -> torch.Tensor:
    return proportions(views)[:, 0]


def bone_views(normalised_keypoints: torch.Tensor) -> torch.Tensor:
    """[7, 2 · n], NaN where an end is not seen, in each photo's own unit."""
    rows = []
    for ends in BONES.values():
        sides = []
        for start, end in ends:
            seen = (normalised_keypoints[:, [start, end], 2] > 0).all(dim=1)
            length = (normalised_keypoints[:, start, :2] - normalised_keypoints[:, end, :2]).norm(dim=-1)
            sides.append(torch.where(seen, length, torch.nan))
        rows.append(torch.cat((sides[0], sides[-1])))
    return torch.stack(rows)


def plain_mean(views: torch.Tensor) -> torch.Tensor:
    return bone_views(views).nanmean(dim=1).nan_to_num()


def quantile_in_own_units(views: torch.Tensor) -> torch.Tensor:
    return torch.nanquantile(bone_views(views), 0.9, dim=1).nan_to_num()


def test_more_photos_bring_the_lengths_nearer():
    errors = [mean_error(estimated, photos=count) for count in (1, 3, 9)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.75 * errors[1]
    # Nine photos say more than the average person, who is off by 8 %.
    average = mean_error(lambda views: bodies.LENGTHS)
    assert errors[2] < 0.65 * average < errors[0]


@pytest.mark.parametrize(
    ("alternative", "factors"), [(plain_mean, {3: 0.75, 9: 0.5}), (quantile_in_own_units, {3: 0.5, 9: 0.3})]
)
def test_nearer_than_without_a_common_unit(alternative, factors):
    for count, factor in factors.items():
        assert mean_error(estimated, photos=count) < factor * mean_error(alternative, photos=count), count


@pytest.mark.parametrize("angles", [(60,), (75,), (85,), (0, 75), (0, 85), (0, 0, 0, 0, 85)], ids=str)
def test_a_turned_portrait_does_not_blow_the_arms_up(angles):
    """Its shoulders look narrow, and there is no torso to measure the arms by."""
    views = []
    for angle in angles:
        view = bodies.upper_body()
        shoulders = view[:2, 0].mean()
        narrow = shoulders + (view[:2, 0] - shoulders) * math.cos(math.radians(angle))
        view[2:, 0] += (narrow - view[:2, 0]).repeat(5)  # the arms hang from the shoulders
        view[:2, 0] = narrow
        views.append(view)
    found = body_of(torch.stack(views)).proportions[:, 0]
    front = body_of(bodies.upper_body()).proportions[:, 0]
    arms = [list(BONES).index("upper_arm")]
    torch.testing.assert_close(found[arms], front[arms], rtol=0.25, atol=0)
    assert found.max() < 1.5


@pytest.mark.parametrize(
    ("quantile", "gross_errors", "factor"), [(0.5, 0.0, 0.85), (0.5, 0.05, 0.85), (0.9, 0.05, 0.85), (1.0, 0.05, 0.4)]
)
def test_the_quantile_of_the_bones(quantile, gross_errors, factor, monkeypatch):
    """The middle is shortened, and the longest views are the detector's errors where a joint is quite wrong."""
    chosen = mean_error(estimated, gross_errors=gross_errors)
    monkeypatch.setattr(body_module, "BONE_QUANTILE", quantile)
    assert chosen < factor * mean_error(estimated, gross_errors=gross_errors)


def test_the_price_of_that_is_small(monkeypatch):
    chosen = mean_error(estimated)
    monkeypatch.setattr(body_module, "BONE_QUANTILE", 0.9)
    assert chosen < 1.3 * mean_error(estimated)


def test_the_quantile_of_the_scales(monkeypatch):
    """A photo's unit shows in its longest bones too."""
    chosen = mean_error(estimated)
    monkeypatch.setattr(body_module, "SCALE_QUANTILE", 0.5)
    assert chosen < 0.96 * mean_error(estimated)


def test_whole_batches_are_normalised_at_once():
    keypoints = photos(4)
    sizes = torch.tensor([[512, 512], [300, 700], [64, 48], [1080, 1920]])
    together = normalise_keypoints(keypoints.view(2, 2, 12, 3), sizes.view(2, 2, 2), min_visibility=0.5)
    for index in range(4):
        one = normalise_keypoints(keypoints[index], sizes[index], min_visibility=0.5)
        torch.testing.assert_close(together.flatten(0, 1)[index], one)
