"""PoolingAggregator: the node around `pool`, its text input and its report."""

from __future__ import annotations

import json

import pytest
import torch

from bolid.models.pooling import POOLING_METHODS, pool
from bolid.models.references import PhotoReport, References
from bolid.nodes.aggregation import PoolingAggregator, parse_photo_weights

from ..support.scenes import features


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


@pytest.mark.parametrize("method", [name for name in POOLING_METHODS if name != "stack"])
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


def test_stack_with_a_faceless_photo(references):
    with pytest.raises(ValueError, match="'stack' needs a face embedding for every photo"):
        run(references, "stack")
    embeds, _ = run(references, "stack", photo_weights="1, 1, 0, 1")
    assert embeds.face_embeds.shape[0] == 2
