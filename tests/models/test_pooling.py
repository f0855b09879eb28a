"""Pooling against numpy, photo weights, and what does not depend on the order of the photos."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.models.pooling import POOLING_METHODS, pool
from bolid.models.references import ImageFeatures, PhotoReport, References

from ..support.scenes import features

FEATURES = ("image_embeds", "hidden_states", "face_embeds")
METHODS = ("avg", "max", "normalised_avg", "median", "stack")


def references(photos=3, *, dropped=(), has_face=None, seed=5, **changes) -> References:
    """Features of `photos` photos; `dropped` names positions of further ones that the encoder left out."""
    total = photos + len(dropped)
    report = tuple(
        PhotoReport(photo=index, status="dropped" if index in dropped else "kept", reason="no face found")
        for index in range(total)
    )
    faces = torch.ones(photos, dtype=torch.bool) if has_face is None else torch.tensor(has_face)
    return References(**{**features(photos, seed), "has_face": faces, "report": report, **changes})


def rows(given: References, index) -> References:
    """The references of some of the photos, in the given order."""
    chosen = {name: getattr(given, name)[index] for name in (*FEATURES, "has_face")}
    return References(
        **chosen,
        zero_hidden_states=given.zero_hidden_states,
        report=tuple(PhotoReport(photo=position, status="kept") for position in range(len(index))),
    )


def assert_same(actual, expected, *, tolerance: float = 0.0) -> None:
    for name in (*FEATURES, "zero_hidden_states", "token_weights"):
        one, other = getattr(actual, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# The definitions, in plain numpy: x [n, ..., d], w [n].


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mean(x, w):
    return np.tensordot(w / w.sum(), x, axes=1)


def mean_norm(x, w):
    return mean(np.linalg.norm(x, axis=-1, keepdims=True), w)


DEFINITIONS = {
    "avg": mean,
    "max": lambda x, w: x[w > 0].max(axis=0),
    "median": lambda x, w: np.median(x[w > 0], axis=0),
    "normalised_avg": lambda x, w: unit(mean(unit(x), w)) * mean_norm(x, w),
}


def test_every_method_is_defined_here():
    assert tuple(POOLING_METHODS) == (*METHODS, "per_picture")
    assert {*DEFINITIONS, "stack"} == {*METHODS}


@pytest.mark.parametrize("rescale_norm", [False, True])
@pytest.mark.parametrize("weights", [None, (1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 0.25, 1.0), (3.0, 0.0, 1.0, 0.0)])
@pytest.mark.parametrize("photos", [1, 3, 4])
@pytest.mark.parametrize("method", DEFINITIONS)
def test_methods_are_what_their_names_say(method, photos, weights, rescale_norm):
    given = references(photos)
    weights = weights and weights[:photos]
    result = pool(given, method, photo_weights=weights, rescale_norm=rescale_norm)
    numbers = np.array(weights or (1.0,) * photos)
    for name in FEATURES:
        x = getattr(given, name).double().numpy()
        expected = DEFINITIONS[method](x, numbers)
        if rescale_norm:
            expected = unit(expected) * mean_norm(x, numbers)
        np.testing.assert_allclose(getattr(result, name).numpy(), expected[None], rtol=1e-5, atol=1e-6, err_msg=name)
    assert result.zero_hidden_states is given.zero_hidden_states
    assert result.token_weights is None


def test_numbers_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-8.0, 6.0]])
    given = References(image_embeds=x, report=tuple(PhotoReport(photo=index, status="kept") for index in range(3)))
    expected = {
        "avg": [-5 / 3, 11 / 3],
        "max": [3, 6],
        "median": [0, 4],
    }
    for method, values in expected.items():
        assert pool(given, method).image_embeds[0].tolist() == pytest.approx(values, abs=1e-6)
    # Directions (.6, .8), (0, 1), (-.8, .6): their sum (-.2, 2.4); the mean length is (5 + 1 + 10) / 3.
    length = 16 / 3 / (0.2**2 + 2.4**2) ** 0.5
    assert pool(given, "normalised_avg").image_embeds[0].tolist() == pytest.approx([-0.2 * length, 2.4 * length])
    assert pool(given, "max", rescale_norm=True).image_embeds.norm().item() == pytest.approx(16 / 3)
    even = References(image_embeds=x[:2], report=given.report[:2])
    assert pool(even, "median").image_embeds[0].tolist() == [1.5, 2.5]
    assert pool(given, "avg", photo_weights=[1, 0, 3]).image_embeds[0].tolist() == pytest.approx([-21 / 4, 22 / 4])


@pytest.mark.parametrize("rescale_norm", [False, True])
@pytest.mark.parametrize("method", [*DEFINITIONS])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_photos_equal_one_photo(method, count, rescale_norm):
    one = references(1)
    pooled = pool(rows(one, [0] * count), method, rescale_norm=rescale_norm)
    for name in FEATURES:
        torch.testing.assert_close(getattr(pooled, name), getattr(one, name), rtol=1e-5, atol=1e-6)


def test_stack_keeps_every_photo():
    given = references(3)
    stacked = pool(given, "stack", rescale_norm=True)
    for name in FEATURES:
        assert torch.equal(getattr(stacked, name), getattr(given, name))
    assert stacked.token_weights.tolist() == [1, 1, 1]
    assert pool(given, "stack", photo_weights=[1, 0, 3]).token_weights.tolist() == [0.5, 1.5]


# One photo per picture


def test_a_photo_for_every_picture():
    given = references(3)
    result = pool(given, "per_picture", rescale_norm=True, photo_weights=[0.2, 1, 7])
    assert result.per_picture and result.token_weights is None
    for name in FEATURES:
        assert torch.equal(getattr(result, name), getattr(given, name))
    assert not any(pool(given, method).per_picture for method in METHODS)
    without_report = References(image_embeds=given.image_embeds)
    assert torch.equal(pool(without_report, "per_picture").image_embeds, given.image_embeds)


@pytest.mark.parametrize(
    ("dropped", "weights", "expected"),
    [
        ((1,), None, [0, 0, 1, 2]),
        ((0,), None, [0, 0, 1, 2]),
        ((3,), None, [0, 1, 2, 2]),
        ((0,), [1, 1, 0, 1], [0, 0, 0, 2]),
        ((), [0, 0, 1], [2, 2, 2]),
    ],
)
def test_a_photo_that_was_left_out_leaves_its_picture_to_the_one_before(dropped, weights, expected):
    given = references(3, dropped=dropped)
    result = pool(given, "per_picture", photo_weights=weights)
    for name in FEATURES:
        assert torch.equal(getattr(result, name), getattr(given, name)[expected])


def test_pictures_need_a_face_each():
    given = references(3, has_face=[True, False, True])
    with pytest.raises(ValueError, match="method 'per_picture' needs a face embedding for every photo.*'skip'"):
        pool(given, "per_picture")
    result = pool(given, "per_picture", photo_weights=[1, 0, 1])
    assert torch.equal(result.face_embeds, given.face_embeds[[0, 0, 2]])


def test_the_result_is_float32_and_owns_its_memory():
    given = references(2, image_embeds=torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).half())
    for method in POOLING_METHODS:
        result = pool(given, method)
        assert result.image_embeds.dtype == torch.float32
        assert result.hidden_states.data_ptr() != given.hidden_states.data_ptr()


def test_a_median_of_many_real_photos():
    """60 photos of ViT-H are more than torch.quantile takes."""
    generator = torch.Generator().manual_seed(0)
    hidden_states = torch.randint(-100, 100, (60, 257, 1280), generator=generator, dtype=torch.int8).float()
    report = tuple(PhotoReport(photo=index, status="kept") for index in range(60))
    result = pool(References(hidden_states=hidden_states, report=report), "median").hidden_states
    assert np.array_equal(result[0, :3].numpy(), np.median(hidden_states[:, :3].numpy(), axis=0))


# Photo weights


@pytest.mark.parametrize("rescale_norm", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [1, 0.3, 7, 1e-300, 1e300])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_one_weight_leaves_one_photo(kept, weight, method, rescale_norm):
    """Bit for bit, whatever the weight is."""
    given = references(3)
    weights = [0.0] * 3
    weights[kept] = weight
    result = pool(given, method, photo_weights=weights, rescale_norm=rescale_norm)
    assert_same(result, pool(rows(given, [kept]), method, rescale_norm=rescale_norm))
    assert [entry.status == "kept" for entry in result.report] == [index == kept for index in range(3)]


@pytest.mark.parametrize("method", ["avg", "max", "median", "stack"])
def test_a_photo_alone_is_itself(method):
    given = references(1)
    result = pool(given, method)
    assert all(torch.equal(getattr(result, name), getattr(given, name)) for name in FEATURES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 3.0, 1e-60, 1e60])
def test_only_ratios_of_weights_matter(factor, method):
    given = references(3)
    weights = [1.0, 2.0, 0.5]
    assert_same(
        pool(given, method, photo_weights=[factor * weight for weight in weights]),
        pool(given, method, photo_weights=weights),
        tolerance=1e-6,
    )


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_are_no_weights(method):
    assert_same(pool(references(3), method, photo_weights=[2, 2, 2]), pool(references(3), method))


@pytest.mark.parametrize("method", ["max", "median"])
def test_for_max_and_median_a_weight_says_in_or_out(method):
    given = references(3)
    assert_same(pool(given, method, photo_weights=[0.1, 5, 1]), pool(given, method))
    assert_same(pool(given, method, photo_weights=[0.1, 0, 9]), pool(rows(given, [0, 2]), method))


def test_a_heavier_photo_pulls_the_average():
    given = references(2)
    light, heavy = (pool(given, "avg", photo_weights=[1, weight]).image_embeds for weight in (1, 9))
    second = given.image_embeds[1:]
    assert (heavy - second).norm() < 0.3 * (light - second).norm()


@pytest.mark.parametrize("method", METHODS)
def test_weights_belong_to_the_photos_that_were_loaded(method):
    """The second of four photos was dropped by the encoder: its weight is there and has no effect."""
    given = references(3, dropped=(1,))
    expected = pool(rows(given, [0, 2]), method, photo_weights=[1, 3])
    for weight_of_dropped in (0, 1, 50):
        result = pool(given, method, photo_weights=[1, weight_of_dropped, 0, 3])
        assert_same(result, expected, tolerance=1e-6)
        assert [(entry.status, entry.reason) for entry in result.report] == [
            ("kept", "no face found"),
            ("dropped", "no face found"),
            ("dropped", "photo weight 0"),
            ("kept", "no face found"),
        ]


def test_the_tiles_of_a_photo_have_its_weight():
    report = tuple(PhotoReport(photo=number, status="kept") for number in (1, 1, 2))
    tiled = references(3, report=report)
    assert_same(pool(tiled, "avg", photo_weights=[1, 4]), pool(references(3), "avg", photo_weights=[1, 1, 4]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1], "has 2 values, but MultiRefImageEncoder was given 4 photos"),
        ([1, 1, 1], "has 3 values, but MultiRefImageEncoder was given 4 photos"),
        ([1] * 5, "has 5 values"),
        ([0, 0, 0, 0], "leave no photo"),
        ([0, 1, 0, 0], "leave no photo.*report of MultiRefImageEncoder"),
        ([1, 1, -0.5, 1], "finite and not negative"),
        ([1, float("nan"), 1, 1], "finite and not negative"),
        ([1, 1, float("inf"), 1], "finite and not negative"),
        ([1, 1, float("-inf"), 1], "finite and not negative"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_bad_weights(method, weights, message):
    with pytest.raises(ValueError, match=message):
        pool(references(3, dropped=(1,)), method, photo_weights=weights)


def test_an_unknown_method_and_no_photo():
    with pytest.raises(ValueError, match="Unknown pooling method 'mean'; choose one of avg, max, normalised_avg"):
        pool(references(2), "mean")
    with pytest.raises(ValueError, match="no reference photo left"):
        pool(References())


# Faces


@pytest.mark.parametrize("method", [*DEFINITIONS])
def test_photos_without_a_face_stay_out_of_the_face_average(method):
    given = references(4, has_face=[True, False, True, False])
    given.face_embeds[[1, 3]] = 0
    result = pool(given, method, photo_weights=[1, 2, 3, 4])
    faces = pool(rows(given, [0, 2]), method, photo_weights=[1, 3])
    torch.testing.assert_close(result.face_embeds, faces.face_embeds, rtol=1e-6, atol=1e-7)
    expected = DEFINITIONS[method](given.image_embeds.numpy(), np.array([1.0, 2, 3, 4]))
    np.testing.assert_allclose(result.image_embeds[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_face_of_hardly_any_weight_is_still_the_only_face():
    given = references(2, has_face=[False, True])
    result = pool(given, "avg", photo_weights=[1, 1e-60])
    torch.testing.assert_close(result.face_embeds, given.face_embeds[1:])


@pytest.mark.parametrize("method", [*DEFINITIONS])
def test_no_face_in_use_means_no_face_embedding(method):
    result = pool(references(2, has_face=[True, False]), method, photo_weights=[0, 1])
    assert result.face_embeds is None and result.image_embeds is not None


def test_stack_needs_a_face_in_every_photo():
    given = references(3, has_face=[True, False, True])
    with pytest.raises(ValueError, match="method 'stack' needs a face embedding for every photo.*'skip'"):
        pool(given, "stack")
    stacked = pool(given, "stack", photo_weights=[1, 0, 1])
    assert torch.equal(stacked.face_embeds, given.face_embeds[[0, 2]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", FEATURES)
def test_features_that_are_not_there_stay_away(method, missing):
    changes = {missing: None} | ({"has_face": None} if missing == "face_embeds" else {})
    given = references(3)
    given = References(**{field.name: getattr(given, field.name) for field in fields(given)} | changes)
    result = pool(given, method)
    assert [name for name in FEATURES if getattr(result, name) is None] == [missing]
    assert {field.name for field in fields(ImageFeatures)} == {*FEATURES, "zero_hidden_states"}


# Order


@settings(max_examples=30, deadline=None)
@given(
    method=st.sampled_from([*DEFINITIONS]),
    seed=st.integers(0, 1000),
    rescale_norm=st.booleans(),
    order=st.permutations(range(5)),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=5, max_size=5).filter(any),
    has_face=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_the_order_of_photos_does_not_matter(method, seed, rescale_norm, order, weights, has_face):
    given = references(5, seed=seed, has_face=has_face)
    order = list(order)
    assert_same(
        pool(rows(given, order), method, photo_weights=[weights[index] for index in order], rescale_norm=rescale_norm),
        pool(given, method, photo_weights=weights, rescale_norm=rescale_norm),
        tolerance=1e-4,
    )


def test_the_references_are_not_changed():
    given = references(3)
    before = {name: getattr(given, name).clone() for name in FEATURES}
    for method in POOLING_METHODS:
        pool(given, method, photo_weights=[1, 0, 2], rescale_norm=True)
    assert all(torch.equal(getattr(given, name), before[name]) for name in FEATURES)
    assert all(entry.status == "kept" for entry in given.report)
