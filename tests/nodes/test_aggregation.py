"""PoolingAggregator: the node around `pool`, its text input and its report."""

from __future__ import annotations

import json

import pytest
import torch

from bolid.models.pooling import POOLING_METHODS, pool
from bolid.models.references import PhotoReport, References
from bolid.nodes.aggregation import PoolingAggregator, SelfAttnAggregator, parse_photo_weights

from ..support.scenes import applied, bolid_adapter, cared_for, features, loaded_adapter, model_of, sampled


@pytest.fixture
def references() -> References:
    report = (
        PhotoReport(photo=0, status="kept"),
        PhotoReport(photo=1, status="dropped", reason="no face found"),
        PhotoReport(photo=2, status="kept", reason="no face found, whole photo used"),
        PhotoReport(photo=3, status="kept"),
    )
    return References(**features(3), has_face=torch.tensor([True, False, True]), report=report)


def run(references, method="avg", **arguments):
    embeds, report = PoolingAggregator.execute(references, method, **arguments).result
    return embeds, json.loads(report)


@pytest.mark.parametrize("method", [name for name in POOLING_METHODS if name not in ("stack", "per_picture")])
def test_the_node_pools(method, references):
    embeds, report = run(references, method, photo_weights="1, 1, 2, 0.5", rescale_norm=True)
    expected = pool(references, method, photo_weights=[1, 1, 2, 0.5], rescale_norm=True)
    assert torch.equal(embeds.image_embeds, expected.image_embeds)
    assert torch.equal(embeds.hidden_states, expected.hidden_states)
    assert torch.equal(embeds.face_embeds, expected.face_embeds)
    assert report["method"] == method


def test_the_report_says_what_became_of_every_photo(references):
    _, report = run(references, photo_weights="1, 1, 0, 1")
    assert report == {
        "method": "avg",
        "kept": 2,
        "repeated": 0,
        "dropped": 2,
        "photos": [
            {"photo": 0, "status": "kept", "reason": ""},
            {"photo": 1, "status": "dropped", "reason": "no face found"},
            {"photo": 2, "status": "dropped", "reason": "photo weight 0"},
            {"photo": 3, "status": "kept", "reason": ""},
        ],
    }
    assert references.report[2].status == "kept"


def test_without_weights_nothing_is_dropped(references):
    _, report = run(references)
    assert (report["kept"], report["dropped"]) == (3, 1)
    assert report["photos"][2]["reason"] == "no face found, whole photo used"


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("", None),
        ("  \n", None),
        ("1", [1.0]),
        ("1, 0.5,2", [1.0, 0.5, 2.0]),
        ("1 0 0", [1.0, 0.0, 0.0]),
        ("1;0;.5\n3e-1,", [1.0, 0.0, 0.5, 0.3]),
    ],
)
def test_photo_weights_are_read(text, weights):
    assert parse_photo_weights(text) == weights


@pytest.mark.parametrize("text", ["one, two", "1, 1, x", "1:2", "50%", "1,,a", "[1, 0]"])
def test_text_that_is_no_weights(text, references):
    with pytest.raises(ValueError, match="photo_weights must be numbers such as '1, 1, 0.5'") as caught:
        run(references, photo_weights=text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 1, 1", "has 3 values, but MultiRefImageEncoder was given 4 photos"),
        ("0, 0, 0, 0", "leave no photo"),
        ("1, 1, -1, 1", "not negative"),
        ("1, nan, 1, 1", "finite"),
        ("1, 1, inf, 1", "finite"),
    ],
)
@pytest.mark.parametrize("method", POOLING_METHODS)
def test_numbers_that_are_no_weights(method, text, message, references):
    with pytest.raises(ValueError, match=message):
        run(references, method, photo_weights=text)


def test_a_photo_for_every_picture(references):
    with pytest.raises(ValueError, match="'per_picture' needs a face embedding for every photo"):
        run(references, "per_picture")
    embeds, report = run(references, "per_picture", photo_weights="1, 1, 0, 1")
    assert embeds.per_picture and report["method"] == "per_picture"
    # The second photo was dropped by the encoder, the third by its weight: the first one stands in for both.
    assert torch.equal(embeds.image_embeds, references.image_embeds[[0, 0, 0, 2]])
    assert [entry["status"] for entry in report["photos"]] == ["kept", "dropped", "dropped", "kept"]


def test_stack_with_a_faceless_photo(references):
    with pytest.raises(ValueError, match="'stack' needs a face embedding for every photo"):
        run(references, "stack")
    embeds, _ = run(references, "stack", photo_weights="1, 1, 0, 1")
    assert embeds.face_embeds.shape[0] == 2


# SelfAttnAggregator


def photos(count: int) -> References:
    report = tuple(PhotoReport(photo=number, status="kept") for number in range(1, count + 1))
    return References(**features(count), report=report)


@pytest.mark.parametrize("layout", ["base", "plus", "faceid_plus"])
def test_self_attention_gives_what_the_adapter_reads(layout):
    adapter = cared_for(bolid_adapter(layout=layout))
    embeds, report = SelfAttnAggregator.execute(photos(9), adapter).result
    assert json.loads(report)["kept"] == 9
    pooled = pool(photos(9))
    for name in adapter.adapter.image_proj.inputs:
        aggregated, average = getattr(embeds, name), getattr(pooled, name)
        assert aggregated.shape == average.shape
        assert not torch.allclose(aggregated, average)  # its weights are random, not initial
    model = model_of("sd15")
    assert not torch.equal(sampled(applied(model, adapter, embeds)), sampled(applied(model, adapter, pooled)))


def test_few_photos_are_repeated_and_many_are_cut():
    adapter = cared_for(bolid_adapter())
    few, report = SelfAttnAggregator.execute(photos(4), adapter, fill_seed=1).result
    report = json.loads(report)
    assert report["fill_seed"] == 1 and report["kept"] + report["repeated"] == 4 and report["repeated"] >= 1
    again, _ = SelfAttnAggregator.execute(photos(4), adapter, fill_seed=1).result
    assert torch.equal(few.image_embeds, again.image_embeds)
    others = [SelfAttnAggregator.execute(photos(4), adapter, fill_seed=seed).result[0] for seed in range(2, 6)]
    assert any(not torch.equal(few.image_embeds, other.image_embeds) for other in others)
    _, report = SelfAttnAggregator.execute(photos(11), adapter).result
    report = json.loads(report)
    assert (report["kept"], report["dropped"]) == (9, 2)
    assert [entry["status"] for entry in report["photos"][9:]] == ["dropped", "dropped"]


def test_self_attention_needs_an_adapter_that_carries_it():
    with pytest.raises(ValueError, match=r"base\.safetensors carries no self-attention aggregator.*PoolingAggregator"):
        SelfAttnAggregator.execute(photos(9), loaded_adapter("base"))


def test_self_attention_needs_the_features_that_the_adapter_reads():
    with pytest.raises(ValueError, match="made without an image encoder"):
        SelfAttnAggregator.execute(References(face_embeds=features(9)["face_embeds"]), cared_for(bolid_adapter()))


@pytest.mark.parametrize(("made_for", "given_to"), [("plus", "base"), ("base", "plus")])
def test_embeds_made_for_another_adapter_are_refused(made_for, given_to):
    embeds, _ = SelfAttnAggregator.execute(photos(9), cared_for(bolid_adapter(layout=made_for))).result
    with pytest.raises(ValueError, match="SelfAttnAggregator made them for another adapter"):
        applied(model_of("sd15"), cared_for(bolid_adapter(layout=given_to)), embeds)
