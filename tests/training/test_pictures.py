"""Training pictures: sizes, cuts that keep the person, and joints that lie where the picture shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, JOINTS
from bolid.training.people import Box, Keypoint, PreparedPhoto
from bolid.training.pictures import MAX_ASPECT, bucket_sizes, covered, picture, place, placed_box, placed_joints

SQUARE = [(64, 64)]


def photo(
    width: int,
    height: int,
    *,
    joints: Sequence[Keypoint] = (),
    person_box: Box | None = None,
    face_box: Box | None = None,
) -> PreparedPhoto:
    joints = (*joints, *[(0.0, 0.0, 0.0)] * (len(JOINTS) - len(joints)))
    return PreparedPhoto(
        file="anna/1.jpg",
        sha256="0" * 64,
        width=width,
        height=height,
        caption="a person",
        keypoints=(*[(0.0, 0.0, 0.0)] * FIRST_JOINT, *joints),
        person_box=person_box,
        face_box=face_box,
    )


# Sizes


@settings(deadline=None)
@given(factor=st.sampled_from([8, 16, 32, 64]), times=st.integers(1, 32))
def test_bucket_sizes(factor: int, times: int):
    resolution = factor * times
    sizes = bucket_sizes(resolution, factor)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % factor == width % factor == 0
        assert 0 < height * width <= resolution**2
        assert max(height, width) <= MAX_ASPECT * min(height, width)
        # No more rows would fit into the area.
        assert (height + factor) * width > resolution**2


def test_bucket_sizes_of_stable_diffusion():
    sizes = bucket_sizes(512, 64)
    assert sizes == [(640, 384), (576, 448), (512, 512), (448, 576), (384, 640)]
    assert {(1024, 1024), (1152, 896), (832, 1216), (768, 1344)} <= set(bucket_sizes(1024, 64))


# Where the photo is cut

lengths = st.integers(40, 4000)
fractions = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, x1 = sorted((draw(fractions), draw(fractions)))
    y0, y1 = sorted((draw(fractions), draw(fractions)))
    return x0, y0, x1, y1


@settings(max_examples=200, deadline=None)
@given(width=lengths, height=lengths, box=boxes(), buckets=st.booleans(), is_face=st.booleans())
def test_place(width: int, height: int, box: Box, buckets: bool, is_face: bool):
    sizes = bucket_sizes(512, 64) if buckets else [(512, 512)]
    around = (0.0, 0.0, 1.0, 1.0)
    shown = photo(width, height, face_box=box if is_face else None, person_box=around if is_face else box)
    placement = place(shown, sizes)
    assert placement.size in sizes
    for start, kept, resized, length in zip(
        (placement.top, placement.left), placement.size, placement.resized, (height, width), strict=True
    ):
        assert 0 <= start <= start + kept <= resized
        # As large as it has to be to cover the picture, and no larger.
        scale = max(size / side for size, side in zip(placement.size, (height, width), strict=True))
        assert abs(resized - scale * length) <= 0.5 + 1e-6
    assert any(kept == resized for kept, resized in zip(placement.size, placement.resized, strict=True))
    inside(placement.top, placement.size[0], placement.resized[0], box[1], box[3])
    inside(placement.left, placement.size[1], placement.resized[1], box[0], box[2])


def inside(start: int, kept: int, length: int, low: float, high: float) -> None:
    """The box is in the cut, to the pixel, or too large for it: then as much is missing on both sides."""
    before, after = start - low * length, high * length - (start + kept)
    if math.ceil(high * length) - math.floor(low * length) <= kept:
        assert before <= 1e-6 and after <= 1e-6
    elif 0 < start < length - kept:
        assert abs(before - after) <= 3


def test_nearest_aspect_ratio_is_taken():
    sizes = bucket_sizes(512, 64)
    taken = [place(photo(width, 1000), sizes).size for width in (400, 600, 780, 1000, 1290, 1700, 3000)]
    assert taken == [(640, 384), (640, 384), (576, 448), (512, 512), (448, 576), (384, 640), (384, 640)]


def test_the_middle_is_cut_out_where_nothing_says_otherwise():
    assert place(photo(100, 200), SQUARE).top == 32
    assert place(photo(100, 200, face_box=(0.4, 0.3, 0.6, 0.45)), SQUARE).top == 32
    assert place(photo(200, 100), SQUARE).left == 32


def test_cut_moves_as_little_as_keeps_the_face():
    assert place(photo(100, 200, face_box=(0.4, 0.125, 0.6, 0.25)), SQUARE).top == 16
    assert place(photo(100, 200, face_box=(0.4, 0.75, 0.6, 0.875)), SQUARE).top == 48
    assert place(photo(200, 100, face_box=(0.0, 0.1, 0.2, 0.9)), SQUARE).left == 0
    assert place(photo(200, 100, face_box=(0.9, 0.1, 1.0, 0.9)), SQUARE).left == 64


def test_face_comes_before_person():
    person = (0.3, 0.5, 0.7, 1.0)
    assert place(photo(100, 200, person_box=person), SQUARE).top == 64
    assert place(photo(100, 200, person_box=person, face_box=(0.4, 0.5, 0.6, 0.6)), SQUARE).top == 32


def test_person_who_does_not_fit_loses_as_much_above_as_below():
    assert place(photo(100, 200, person_box=(0.2, 0.0, 0.8, 1.0)), SQUARE).top == 32
    assert place(photo(100, 200, person_box=(0.2, 0.0, 0.8, 0.75)), SQUARE).top == 16
    assert place(photo(300, 100, person_box=(0.5, 0.1, 1.0, 0.9)), SQUARE).left == 112


# Pixels and joints


def test_picture_of_a_photo_that_fits():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shown = picture(Image.fromarray(pixels), place(photo(64, 64), SQUARE))
    assert (shown.shape, shown.dtype) == ((3, 64, 64), torch.float32)
    assert torch.equal(((shown + 1) * 127.5).round().movedim(0, -1).to(torch.uint8), torch.from_numpy(pixels))


@pytest.mark.parametrize(("value", "expected"), [(0, -1.0), (255, 1.0)])
def test_range_of_a_picture(value: int, expected: float):
    image = Image.new("RGB", (90, 50), (value,) * 3)
    assert torch.equal(picture(image, place(photo(90, 50), SQUARE)), torch.full((3, 64, 64), expected))


def with_dot(width: int, height: int, x: float, y: float) -> Image.Image:
    """A red dot without an edge on grey, its middle at fractions x, y of the photo."""
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    squared = (columns - x * width) ** 2 + (rows - y * height) ** 2
    dot = np.exp(-squared / (2 * (0.02 * min(width, height)) ** 2))
    grey = 100 + 0 * dot
    return Image.fromarray(np.stack((grey + 150 * dot, grey, grey), axis=-1).round().astype(np.uint8))


def found_dot(shown: torch.Tensor) -> tuple[float, float]:
    """x, y in 0 to 1 of the middle of what is red."""
    red = (shown[0] - shown[1]).clamp(min=0)
    red = torch.where(red > 0.1, red, 0.0)
    assert red.sum() > 0
    height, width = red.shape
    x = (red.sum(dim=0) * (torch.arange(width) + 0.5)).sum() / red.sum() / width
    y = (red.sum(dim=1) * (torch.arange(height) + 0.5)).sum() / red.sum() / height
    return float(x), float(y)


@pytest.mark.parametrize(("width", "height"), [(300, 300), (400, 200), (180, 420), (90, 70), (613, 457)])
@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.2, 0.25), (0.84, 0.3), (0.15, 0.85)])
@pytest.mark.parametrize("buckets", [True, False])
def test_joints_are_where_the_picture_shows_them(width: int, height: int, x: float, y: float, buckets: bool):
    box = (max(0.0, x - 0.1), max(0.0, y - 0.1), min(1.0, x + 0.1), min(1.0, y + 0.1))
    shown = photo(width, height, joints=[(x, y, 0.9)], face_box=box)
    placement = place(shown, bucket_sizes(128, 16) if buckets else [(128, 128)])
    joint = placed_joints(shown, placement)[0]
    dot = found_dot(picture(with_dot(width, height, x, y), placement))
    assert joint[2] == pytest.approx(0.9)
    pixels = torch.tensor(placement.size).flip(0)
    assert ((joint[:2] - torch.tensor(dot)) * pixels).abs().max() < 0.1


def test_joints_that_are_cut_off_are_not_seen():
    joints = [(0.5, 0.1, 0.9), (0.5, 0.5, 0.8), (0.5, 0.9, 0.7)]
    shown = photo(100, 300, joints=joints)
    placed = placed_joints(shown, place(shown, SQUARE))
    assert placed[:3, 2].tolist() == pytest.approx([0.0, 0.8, 0.0])
    assert placed[1, :2].tolist() == pytest.approx([0.5, 0.5])
    assert not placed[[0, 2]].any()


def test_joints_that_are_not_seen_stay_zero():
    shown = photo(100, 100, joints=[(0.5, 0.5, 0.0), (0.25, 0.75, 0.3)])
    placed = placed_joints(shown, place(shown, SQUARE))
    assert placed.shape == (len(COCO_KEYPOINTS) - FIRST_JOINT, 3)
    assert not placed[0].any()
    assert placed[1].tolist() == pytest.approx([0.25, 0.75, 0.3])


@settings(deadline=None)
@given(width=lengths, height=lengths, x=fractions, y=fractions, box=boxes())
def test_joints_in_the_picture_are_between_0_and_1(width: int, height: int, x: float, y: float, box: Box):
    shown = photo(width, height, joints=[(x, y, 1.0)], face_box=box)
    placement = place(shown, SQUARE)
    joint = placed_joints(shown, placement)[0].tolist()
    row, column = y * placement.resized[0] - placement.top, x * placement.resized[1] - placement.left
    assume(min(abs(edge - place) for edge in (0, 64) for place in (row, column)) > 1e-3)
    if 0 < row < 64 and 0 < column < 64:
        assert joint == pytest.approx([column / 64, row / 64, 1.0], abs=1e-4)
    else:
        assert joint == [0.0, 0.0, 0.0]


# Boxes


def test_box_is_where_the_picture_shows_it():
    """A photo twice as wide as high loses a quarter on either side."""
    placement = place(photo(200, 100), SQUARE)
    assert placed_box((0.25, 0.0, 0.75, 1.0), placement) == pytest.approx((0, 0, 1, 1), abs=0.02)
    assert placed_box((0.5, 0.5, 1.0, 0.75), placement) == pytest.approx((0.5, 0.5, 1.5, 0.75), abs=0.02)


def test_share_of_cells_that_a_box_covers():
    found = covered((0.125, 0.5, 0.5, 2.0), (4, 4))
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0.5, 1, 0, 0], [0.5, 1, 0, 0]])
    torch.testing.assert_close(found, expected)
    assert covered((-1.0, -1.0, 2.0, 2.0), (2, 3)).eq(1).all()
    assert not covered((1.2, 0.0, 1.5, 1.0), (2, 3)).any()
    assert not covered((-0.5, 0.0, -0.2, 1.0), (2, 3)).any()
