"""Crops: always square, inside the picture where that is possible, and faces as ArcFace expects them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFilter

from bolid.detectors.crops import (
    ARCFACE_TEMPLATE,
    MAX_TILES,
    NEARLY_SQUARE,
    align_face,
    crop_square,
    similarity_transform,
    square_box,
    square_tiles,
    to_uint8,
)

# Eyes, nose and corners of the mouth, read off the photographs.
KEYPOINTS = {
    "astronaut": [(204, 101), (249, 104), (226, 124), (205, 146), (240, 148)],
    "grace_hopper": [(222, 187), (306, 184), (265, 225), (238, 278), (300, 275)],
    "tom_hanks": [(37, 50), (74, 50), (56, 68), (42, 88), (70, 88)],
}

sides = st.integers(1, 400)
coordinates = st.floats(-200, 600)
margins = st.floats(0, 1)


@st.composite
def boxes(draw):
    x0, y0 = draw(coordinates), draw(coordinates)
    return x0, y0, x0 + draw(st.floats(0, 400)), y0 + draw(st.floats(0, 400))


@given(box=boxes(), margin=margins, height=sides, width=sides)
def test_square_box(box, margin, height, width):
    x0, y0, x1, y1 = square_box(box, margin=margin, image_size=(height, width))
    side = x1 - x0
    assert side == y1 - y0
    assert side >= 1
    assert side == pytest.approx(max(1, max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin)), abs=0.5 + 1e-6)
    for start, end, length, low, high in ((x0, x1, width, box[0], box[2]), (y0, y1, height, box[1], box[3])):
        if side <= length:
            assert 0 <= start and end <= length
            # What of the box lies in the picture is in the crop, but for rounding.
            assert start <= max(0, min(low, length - 1)) + 1 and end >= min(length, max(high, 0)) - 1
        else:
            assert start <= 0 and end >= length
            assert abs(start - (length - end)) <= 1  # as much on both sides


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_tiles_cover_the_picture(height, width):
    tiles, side, length = square_tiles((height, width)), min(height, width), max(height, width)
    assert all((x1 - x0, y1 - y0) == (side, side) for x0, y0, x1, y1 in tiles)
    assert all(0 <= x0 and 0 <= y0 and x1 <= width and y1 <= height for x0, y0, x1, y1 in tiles)
    starts = [max(x0, y0) for x0, y0, _, _ in tiles]
    assert starts == sorted(starts) and all(0 in tile[:2] for tile in tiles)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert not gaps or (max(gaps) <= side and max(gaps) - min(gaps) <= 1)
    left_out = (starts[0], length - starts[-1] - side)
    assert abs(left_out[0] - left_out[1]) <= 1
    if length <= NEARLY_SQUARE * side:
        assert len(tiles) == 1
    elif length <= MAX_TILES * side:
        assert left_out == (0, 0) and len(tiles) == -(-length // side)
    else:
        assert len(tiles) == MAX_TILES


def test_tiles_of_usual_photos():
    assert square_tiles((512, 512)) == [(0, 0, 512, 512)]
    assert square_tiles((400, 450)) == [(25, 0, 425, 400)]
    assert square_tiles((400, 600)) == [(0, 0, 400, 400), (200, 0, 600, 400)]
    assert square_tiles((1080, 810)) == [(0, 0, 810, 810), (0, 270, 810, 1080)]
    assert square_tiles((100, 250)) == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]
    assert square_tiles((10, 1000))[0] == (460, 0, 470, 10)


def test_square_box_is_centred_where_there_is_room():
    assert square_box((40, 50, 60, 90), margin=0.25, image_size=(200, 300)) == (20, 40, 80, 100)


def test_square_box_is_shifted_at_an_edge():
    assert square_box((0, 150, 20, 190), margin=0.25, image_size=(200, 300)) == (0, 140, 60, 200)


@given(box=boxes(), height=st.integers(1, 12), width=st.integers(1, 12), margin=margins)
def test_crop_square_repeats_the_edge(box, height, width, margin):
    image = torch.arange(height * width * 3, dtype=torch.float32).view(height, width, 3)
    x0, y0, x1, y1 = square_box(tuple(x / 20 for x in box), margin=margin, image_size=(height, width))
    crop = crop_square(image, (x0, y0, x1, y1))
    around = max(0, -x0, -y0, x1 - width, y1 - height)
    padded = np.pad(image.numpy(), ((around, around), (around, around), (0, 0)), mode="edge")
    expected = padded[y0 + around : y1 + around, x0 + around : x1 + around]
    assert np.array_equal(crop.numpy(), expected)


def test_crop_square_leaves_the_photo_alone():
    image = torch.rand(9, 7, 3, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    crop_square(image, (-3, -3, 12, 12)).zero_()
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", KEYPOINTS)
@pytest.mark.parametrize("size", [112, 224])
def test_align_face_is_insightfaces_norm_crop(name, size, photographs):
    from insightface.utils.face_align import norm_crop

    # Without fine detail: where the face shrinks, cv2 picks single pixels and align_face averages.
    pixels = np.asarray(photographs[name].filter(ImageFilter.GaussianBlur(2)))
    keypoints = np.array(KEYPOINTS[name], dtype=np.float32)
    expected = norm_crop(pixels, keypoints, image_size=size).astype(np.float32) / 255
    aligned = align_face(torch.from_numpy(pixels.copy()) / 255, keypoints, size=size).numpy()
    assert aligned.shape == (size, size, 3) and aligned.dtype == np.float32
    assert aligned.min() >= 0 and aligned.max() <= 1
    difference = np.abs(aligned - expected)
    assert difference.mean() < 0.01
    # The same crop, half a pixel aside, is well above this.
    shifted = np.abs(aligned - align_face(torch.from_numpy(pixels.copy()) / 255, keypoints + 0.5, size=size).numpy())
    assert difference.mean() < 0.8 * shifted.mean()


def test_align_face_is_black_outside():
    white = torch.ones(20, 20, 3)
    aligned = align_face(white, ARCFACE_TEMPLATE - 300, size=112)
    assert aligned[0, 0].sum() == 0 and aligned.max() == 0


def test_align_face_shrinks_without_aliasing():
    """A chequerboard of single pixels becomes grey where the face is reduced eightfold, not black or white."""
    board = torch.zeros(1120, 1120, 3)
    board[::2, ::2] = 1
    board[1::2, 1::2] = 1
    aligned = align_face(board, ARCFACE_TEMPLATE * 8, size=112)
    assert (aligned[8:-8, 8:-8] - 0.5).abs().max() < 0.05


keypoint_sets = st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=5, max_size=5).map(np.array)


@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
)
def test_similarity_transform_undoes_what_was_done(angle, scale, shift):
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    source = scale * ARCFACE_TEMPLATE @ rotation.T + shift
    matrix = similarity_transform(source, ARCFACE_TEMPLATE)
    np.testing.assert_allclose(source @ matrix[:, :2].T + matrix[:, 2], ARCFACE_TEMPLATE, atol=1e-6)


@given(keypoints=keypoint_sets)
def test_similarity_transform_is_the_best_one_and_never_mirrors(keypoints):
    """As complex numbers, a similarity that does not mirror is a·z + b: plain linear least squares."""
    if np.ptp(keypoints, axis=0).max() < 1e-2:  # one point has no direction and no size
        return
    source, target = (points @ (1, 1j) for points in (keypoints, ARCFACE_TEMPLATE))
    (a, b), *_ = np.linalg.lstsq(np.stack((source, np.ones(5)), axis=1), target, rcond=None)
    matrix = similarity_transform(keypoints, ARCFACE_TEMPLATE)
    mapped = (keypoints @ matrix[:, :2].T + matrix[:, 2]) @ (1, 1j)
    np.testing.assert_allclose(mapped, a * source + b, atol=1e-4)


def test_a_mirrored_face_is_turned_not_mirrored():
    mirrored = ARCFACE_TEMPLATE * (-1, 1) + (112, 0)
    matrix = similarity_transform(mirrored, ARCFACE_TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_to_uint8():
    values = torch.tensor([-1.0, 0.0, 0.5, 0.998, 1.0, 2.0])
    grey = values.view(1, 6, 1)
    for image in (grey, grey.expand(-1, -1, 3), torch.cat((grey.expand(-1, -1, 3), torch.zeros(1, 6, 1)), dim=-1)):
        pixels = to_uint8(image)
        assert pixels.shape == (1, 6, 3) and pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
        assert pixels[0, :, 0].tolist() == [0, 0, 128, 254, 255, 255]
        assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_to_uint8_refuses_nan():
    image = torch.zeros(4, 4, 3)
    image[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(image)


def test_a_picture_with_nan_is_refused():
    image = torch.zeros(4, 4, 3)
    image[2, 3, 1] = torch.nan
    with pytest.raises(ValueError, match="no numbers"):
        to_uint8(image)
