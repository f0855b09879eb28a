"""BoLIDNoiseReference: what each kind does to a photo, that it can be repeated, and that nothing else is touched."""

from __future__ import annotations

import random

import comfy.model_management
import numpy as np
import pytest
import torch

from bolid.detectors.crops import crop_for_encoder
from bolid.nodes.noise import MAX_BLUR, NOISES, BoLIDNoiseReference, noise_pictures

SIZE = 96


@pytest.fixture(scope="module")
def photo(photographs) -> torch.Tensor:
    return torch.from_numpy(np.asarray(photographs["astronaut"], np.float32) / 255)[None]


@pytest.fixture(scope="module")
def middle(photo) -> torch.Tensor:
    """What of the photo the noise is made of."""
    return crop_for_encoder(photo[0], None, size=SIZE)


def noise(photos, kind="fade", *, strength=1.0, blur=0, seed=0, size=SIZE) -> torch.Tensor:
    """As ComfyUI calls a node with `is_input_list`."""
    given = {"kind": [kind], "strength": [strength], "blur": [blur], "pattern_seed": [seed], "size": [size]}
    output = BoLIDNoiseReference.execute(**given, **({} if photos is None else {"images": photos}))
    (pictures,) = output.result
    assert pictures.dtype == torch.float32 and pictures.shape[1:] == (size, size, 3)
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert len(output.ui.values) == len(pictures)
    return pictures


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    """Correlation of two pictures, from -1 to 1."""
    return float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1])


@pytest.mark.parametrize("kind", NOISES)
def test_the_same_arguments_give_the_same_picture(kind, photo):
    first = noise([photo], kind, strength=0.5, blur=5, seed=7)
    torch.manual_seed(1)
    assert torch.equal(noise([photo], kind, strength=0.5, blur=5, seed=7), first)
    assert (noise([photo], kind, strength=0.5, blur=5, seed=8) - first).abs().mean() > 0.001


@pytest.mark.parametrize("kind", NOISES)
def test_random_numbers_of_others_are_neither_read_nor_moved_on(kind, photo):
    torch.manual_seed(3)
    random.seed(3)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    noise_pictures([photo[0]], kind=kind, strength=0.7, blur=3, pattern_seed=5, size=SIZE)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize("kind", ["fade", "dissolve", "gaussian"])
def test_no_strength_is_the_photo(kind, photo, middle):
    assert torch.equal(noise([photo], kind, strength=0), middle)


@pytest.mark.parametrize("kind", NOISES)
def test_the_stronger_the_less_is_left_of_the_photo(kind, photo, middle):
    turned = middle.flip(1, 2) if kind == "shuffle" else middle
    found = [likeness(noise([photo], kind, strength=strength)[0], turned[0]) for strength in (0.2, 0.5, 0.8)]
    assert found == sorted(found, reverse=True) and found[0] - found[2] > 0.25


@pytest.mark.parametrize("kind", ["fade", "dissolve"])
def test_full_strength_is_even_noise(kind, photo, middle):
    pictures = noise([photo], kind, size=224)
    assert abs(likeness(pictures[0], crop_for_encoder(photo[0], None, size=224)[0])) < 0.02
    assert pictures.mean() == pytest.approx(0.5, abs=0.01)
    assert pictures.var() == pytest.approx(1 / 12, abs=0.002)


def test_dissolving_replaces_pixels_and_leaves_the_others(photo, middle):
    untouched = noise([photo], "dissolve", strength=0.3) == middle
    assert untouched.float().mean() == pytest.approx(0.7, abs=0.02)


def test_fading_is_a_mixture_with_one_noise(photo, middle):
    half, full = noise([photo], strength=0.5), noise([photo])
    torch.testing.assert_close(half, (middle + full) / 2, rtol=0, atol=1e-6)


def test_gaussian_noise_has_the_strength_as_its_deviation():
    grey = torch.full((1, 64, 64, 3), 0.5)
    added = noise([grey], "gaussian", strength=0.1, size=224) - 0.5
    assert added.std() == pytest.approx(0.1, abs=0.005) and added.mean() == pytest.approx(0, abs=0.003)


def test_shuffling_turns_the_photo_upside_down_and_bends_it(photo):
    shuffled, middle = noise([photo], "shuffle", strength=0, size=224)[0], crop_for_encoder(photo[0], None, size=224)[0]
    assert likeness(shuffled, middle.flip(0, 1)) > 0.85 > 0.4 > likeness(shuffled, middle)
    assert (shuffled - middle.flip(0, 1)).abs().mean() > 0.02


@pytest.mark.parametrize("blur", [2, 5, MAX_BLUR])
def test_blur(blur, photo):
    def roughness(pictures):
        return (pictures[:, 1:] - pictures[:, :-1]).abs().mean()

    sharp = noise([photo])
    assert torch.equal(noise([photo], blur=1), sharp)
    assert roughness(noise([photo], blur=blur)) < 0.6 * roughness(sharp)
    assert torch.equal(noise([photo], blur=2), noise([photo], blur=3))  # an odd number of pixels


def test_several_photos_of_any_size(photo, photographs):
    bus = torch.from_numpy(np.asarray(photographs["bus"], np.float32) / 255)[None]
    grey = photo.mean(dim=-1, keepdim=True)
    pictures = noise([torch.cat((photo, photo)), bus, grey], strength=0.4)
    assert len(pictures) == 4
    assert torch.equal(pictures[:1], noise([photo], strength=0.4))
    assert (pictures[0] - pictures[1]).abs().mean() > 0.05  # the same photo, another part of the pattern
    assert torch.equal(noise([photo, photo, bus], strength=0.4), pictures[:3])


def test_what_the_other_photos_show_does_not_matter(photo):
    one, other = noise([photo, photo], strength=0.4), noise([1 - photo, photo], strength=0.4)
    assert torch.equal(one[1], other[1])


def test_without_photos():
    pictures = noise(None)
    assert torch.equal(pictures, noise([torch.zeros(1, 8, 8, 3)]))
    assert pictures.std() > 0.2


def test_the_photo_is_not_changed(photo):
    before = photo.clone()
    for kind in NOISES:
        noise([photo], kind, strength=0.5, blur=4)
    assert torch.equal(photo, before)


def test_half_precision(photo):
    torch.testing.assert_close(noise([photo.half()], strength=0.5), noise([photo], strength=0.5), rtol=0, atol=0.01)


def test_under_inference_mode_as_nodes_run(photo):
    with torch.inference_mode():
        inside = noise([photo], "shuffle", strength=0.5, blur=3)
    assert torch.equal(inside, noise([photo], "shuffle", strength=0.5, blur=3))


def test_interrupting(photo):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        noise([photo])
