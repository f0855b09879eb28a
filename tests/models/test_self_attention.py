"""The self-attention aggregator: the average at first, no order among photos, nine places, and its report."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from torch import nn

from bolid.models.pooling import pool
from bolid.models.references import Embeds, PhotoReport, References
from bolid.models.self_attention import PHOTOS, SelfAttentionAggregator, aggregate, fill_places

from ..support.scenes import ENCODER_WIDTH, FACE_WIDTH, GRID_TOKENS, features, random

WIDTHS = {"image_embeds": ENCODER_WIDTH, "hidden_states": ENCODER_WIDTH, "face_embeds": FACE_WIDTH}


def aggregator_of(dim: int, *, trained: bool = True, depth: int = 2, **arguments) -> SelfAttentionAggregator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        aggregator = SelfAttentionAggregator(dim=dim, depth=depth, **arguments)
        if trained:
            for parameter in aggregator.parameters():
                nn.init.normal_(parameter, std=0.3)
    return aggregator.requires_grad_(False)


def aggregators_of(*names: str, **arguments) -> nn.ModuleDict:
    return nn.ModuleDict({name: aggregator_of(WIDTHS[name], **arguments) for name in names or WIDTHS})


def references(photos: int = 3, *, status: str = "", has_face=None, **changes) -> References:
    """`photos` encoded photos; `status` has a letter for each loaded photo: k for kept, d for dropped."""
    letters = status or "k" * photos
    report = tuple(
        PhotoReport(photo=number, status="kept")
        if letter == "k"
        else PhotoReport(photo=number, status="dropped", reason="no face found")
        for number, letter in enumerate(letters, start=1)
    )
    faces = torch.ones(photos, dtype=torch.bool) if has_face is None else torch.tensor(has_face)
    return References(**{**features(photos), "has_face": faces, "report": report, **changes})


def chosen(given: References, rows) -> References:
    names = (*WIDTHS, "has_face")
    return References(
        **{name: getattr(given, name)[list(rows)] for name in names},
        zero_hidden_states=given.zero_hidden_states,
        report=tuple(PhotoReport(photo=number, status="kept") for number in range(1, len(rows) + 1)),
    )


def aggregated(given: References, aggregators: nn.ModuleDict | None = None, *, fill_seed: int = 0) -> Embeds:
    return aggregate(given, aggregators or aggregators_of(), fill_seed=fill_seed, device="cpu")


def report_of(embeds: Embeds) -> list[tuple[int, str, str]]:
    return [(entry.photo, entry.status, entry.reason) for entry in embeds.report]


def assert_same_but_for_rounding(one: Embeds, other: Embeds) -> None:
    for name in WIDTHS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


# The average at first


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("count", range(1, 13))
def test_an_untrained_aggregator_is_the_average(count, depth):
    given = references(count)
    first = chosen(given, range(min(count, PHOTOS)))
    expected = pool(first, "avg")
    for seed in (0, 1):
        result = aggregated(given, aggregators_of(trained=False, depth=depth), fill_seed=seed)
        for name in WIDTHS:
            assert torch.equal(getattr(result, name), getattr(expected, name)), name


@pytest.mark.parametrize(("tokens", "width"), [(257, 1280), (1, 1024), (50, 768)])
def test_an_untrained_aggregator_is_the_average_of_features_of_real_width(tokens, width):
    given = References(hidden_states=random(7, tokens, width, seed=1), report=references(7).report)
    untrained = nn.ModuleDict({"hidden_states": aggregator_of(width, trained=False, depth=1)})
    result = aggregate(given, untrained, fill_seed=0, device="cpu")
    assert torch.equal(result.hidden_states, pool(given, "avg").hidden_states)


def test_only_the_last_layer_starts_at_zero():
    aggregator = aggregator_of(16, trained=False)
    zero = {name for name, parameter in aggregator.named_parameters() if not parameter.any()}
    assert {"proj_out.weight", "proj_out.bias"} <= zero
    assert not any(name.endswith("weight") for name in zero - {"proj_out.weight"})
    aggregator.requires_grad_(True)(random(1, PHOTOS, 16, seed=0)).sum().backward()
    assert aggregator.proj_out.weight.grad.any() and not aggregator.blocks[0].to_qkv.weight.grad.any()


def test_gradients_reach_every_parameter_of_a_trained_one():
    aggregator = aggregator_of(16).requires_grad_(True)
    (aggregator(random(2, PHOTOS, 16, seed=0)) * random(2, 16, seed=1)).sum().backward()
    for name, parameter in aggregator.named_parameters():
        assert parameter.grad.abs().max() > 1e-7, name


# Photos have no order


@pytest.mark.parametrize("order", [(8, 7, 6, 5, 4, 3, 2, 1, 0), (4, 0, 8, 2, 6, 1, 3, 5, 7)])
def test_the_order_of_nine_photos(order):
    given = references(PHOTOS)
    result = aggregated(given)
    assert_same_but_for_rounding(aggregated(chosen(given, order)), result)
    average = pool(given, "avg")
    for name in WIDTHS:
        assert (getattr(result, name) - getattr(average, name)).abs().max() > 0.1, name


def test_every_photo_counts_beyond_the_average():
    """Attention: what one photo changes is not the same whatever the others are."""
    aggregator, one = aggregator_of(16), random(1, 1, 16, seed=2)
    changes = []
    for seed in (3, 4):
        others = random(1, 7, 16, seed=seed)
        with_it = aggregator(torch.cat((others, one, one), dim=1))
        without = aggregator(torch.cat((others, one, -one), dim=1))
        changes.append(with_it - without)
    assert (changes[0] - changes[1]).abs().max() > 1e-2


def test_people_of_a_batch_do_not_see_each_other():
    aggregator, given = aggregator_of(16), random(3, PHOTOS, 16, seed=5)
    other = given.clone()
    other[1] += 1
    together, changed = aggregator(given), aggregator(other)
    assert together.shape == (3, 16)
    assert torch.equal(changed[[0, 2]], together[[0, 2]]) and not torch.equal(changed[1], together[1])


def test_hidden_states_are_aggregated_token_by_token():
    given, aggregators = references(PHOTOS), aggregators_of("hidden_states")
    result = aggregated(given, aggregators).hidden_states
    assert result.shape == (1, GRID_TOKENS, ENCODER_WIDTH)
    for token in range(GRID_TOKENS):
        alone = aggregators["hidden_states"](given.hidden_states[:, token].unsqueeze(0))
        torch.testing.assert_close(result[:, token], alone, rtol=1e-5, atol=1e-5)


# Nine places


def test_the_first_nine_of_many_photos():
    given = references(12)
    result, expected = aggregated(given), aggregated(chosen(given, range(PHOTOS)))
    for name in WIDTHS:
        assert torch.equal(getattr(result, name), getattr(expected, name))
    assert not torch.allclose(aggregated(chosen(given, range(3, 12))).image_embeds, result.image_embeds, atol=1e-3)
    # More than nine photos leave nothing to draw.
    assert torch.equal(aggregated(given, fill_seed=99).image_embeds, result.image_embeds)


@pytest.mark.parametrize("photos", range(1, 21))
def test_every_photo_has_a_place(photos):
    for seed in (0, 1, 2**31 - 1):
        places = fill_places(photos, seed=seed).tolist()
        assert len(places) == PHOTOS == 9
        assert set(places) == set(range(min(photos, PHOTOS)))
        assert places == sorted(places)


def test_places_are_drawn_evenly():
    counts = torch.zeros(4)
    for seed in range(400):
        counts += torch.bincount(fill_places(4, seed=seed), minlength=4)
    # 5 of 9 places are drawn: 400 · (1 + 5 / 4) each, ± 4 standard deviations.
    assert (counts - 900).abs().max() < 4 * (2000 * 0.25 * 0.75) ** 0.5


def test_places_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = fill_places(4, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(fill_places(4, seed=7), one)
    assert len({tuple(fill_places(4, seed=seed).tolist()) for seed in range(20)}) > 10


def test_aggregation_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    aggregated(references(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_draw_is_seen_in_the_result():
    given = references(4)
    assert torch.equal(aggregated(given, fill_seed=0).image_embeds, aggregated(given, fill_seed=0).image_embeds)
    others = [aggregated(given, fill_seed=seed).image_embeds for seed in range(1, 5)]
    assert any(not torch.equal(other, aggregated(given, fill_seed=0).image_embeds) for other in others)


def test_places_are_photos_given_several_times():
    aggregator, given = aggregator_of(16), random(1, 4, 16, seed=6)
    places = fill_places(4, seed=0)
    repeated = given[:, places]
    # Attention sees the places, the average is that of the photos.
    expected = aggregator(repeated) - repeated.mean(dim=1) + given.mean(dim=1)
    torch.testing.assert_close(aggregator(given, places), expected, rtol=1e-5, atol=1e-5)


def test_one_photo_takes_all_places():
    given = references(1)
    assert report_of(aggregated(given)) == [(1, "repeated", "takes 9 of 9 places")]


# The report and the result


def test_the_report_of_nine_photos_is_that_of_the_encoder():
    given = references(PHOTOS)
    assert aggregated(given).report == given.report


def test_the_report_of_many_photos():
    assert report_of(aggregated(references(11, status="kkdkkkkkkkkk"))) == [
        (1, "kept", ""),
        (2, "kept", ""),
        (3, "dropped", "no face found"),
        *((number, "kept", "") for number in range(4, 11)),
        (11, "dropped", "only the first 9 photos are used"),
        (12, "dropped", "only the first 9 photos are used"),
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_report_of_few_photos(seed):
    given = references(4, status="dkkdkk")
    uses = torch.bincount(fill_places(4, seed=seed), minlength=4).tolist()
    assert max(uses) > 1
    expected = [
        (number, "repeated", f"takes {count} of 9 places") if count > 1 else (number, "kept", "")
        for number, count in zip((2, 3, 5, 6), uses, strict=True)
    ]
    dropped = [(1, "dropped", "no face found"), (4, "dropped", "no face found")]
    assert report_of(aggregated(given, fill_seed=seed)) == sorted(dropped + expected)
    assert [entry.status for entry in given.report].count("kept") == 4


def test_the_encoders_reason_is_kept():
    given = references(1, report=(PhotoReport(photo=1, status="kept", reason="whole photo used"),))
    assert report_of(aggregated(given)) == [(1, "repeated", "whole photo used, takes 9 of 9 places")]


def test_photos_without_a_face_are_left_out_where_faces_are_aggregated():
    has_face = [True, False, True, True, False] + [True] * 7
    given = references(12, has_face=has_face, status="k" * 6 + "d" + "k" * 6)
    result = aggregated(given)
    with_face = [index for index, found in enumerate(has_face) if found][:PHOTOS]
    expected = aggregated(chosen(given, with_face))
    for name in WIDTHS:
        assert torch.equal(getattr(result, name), getattr(expected, name))
    assert report_of(result) == [
        (1, "kept", ""),
        (2, "dropped", "no face embedding"),
        (3, "kept", ""),
        (4, "kept", ""),
        (5, "dropped", "no face embedding"),
        (6, "kept", ""),
        (7, "dropped", "no face found"),
        *((number, "kept", "") for number in range(8, 13)),
        (13, "dropped", "only the first 9 photos are used"),
    ]


def test_photos_without_a_face_count_where_no_faces_are_aggregated():
    given = references(PHOTOS, has_face=[False] * PHOTOS)
    result = aggregated(given, aggregators_of("image_embeds"))
    assert torch.equal(result.image_embeds, aggregated(references(PHOTOS)).image_embeds)
    assert result.report == given.report


@pytest.mark.parametrize("names", [("image_embeds",), ("hidden_states",), ("face_embeds", "hidden_states")])
def test_the_result_has_what_the_adapter_reads(names):
    given = references(4)
    result = aggregated(given, aggregators_of(*names))
    for name in WIDTHS:
        feature = getattr(result, name)
        assert (feature is not None) == (name in names)
        if feature is not None:
            assert feature.shape == (1, *getattr(given, name).shape[1:]) and feature.dtype == torch.float32
    assert result.zero_hidden_states is given.zero_hidden_states
    assert result.token_weights is None


def test_features_of_half_precision():
    given = references(4)
    half = references(4, image_embeds=given.image_embeds.half())
    aggregators = aggregators_of("image_embeds")
    result = aggregated(half, aggregators).image_embeds
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, aggregated(given, aggregators).image_embeds, rtol=0, atol=1e-2)


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16])
def test_weights_of_another_precision_under_the_hosts_layers(weights):
    plain = aggregator_of(ENCODER_WIDTH).to(weights)
    cast = aggregator_of(ENCODER_WIDTH, operations=comfy.ops.manual_cast).to(weights)
    cast.load_state_dict(plain.state_dict())
    given = references(4)
    result = aggregated(given, nn.ModuleDict({"image_embeds": cast}))
    expected = aggregated(given, nn.ModuleDict({"image_embeds": plain.float()}))
    assert next(cast.parameters()).dtype == weights
    torch.testing.assert_close(result.image_embeds, expected.image_embeds, rtol=1e-5, atol=1e-5)
