"""Attributes: what captions say, and whether a classifier finds it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.evaluation.attributes import Attributes, said
from bolid.evaluation.config import AttributeSettings
from bolid.evaluation.plan import Plan
from bolid.evaluation.sources import Source
from bolid.world.captions import FRAMED, MEDIA
from bolid.world.networks.heads import OF_THE_PICTURE
from bolid.world.pictures import picture_of, record

from .conftest import HEADS, Said, Toy


def records(count: int = 120) -> list[dict[str, Any]]:
    return [record(picture_of(700 + number % 40, number // 40, size=64)) for number in range(count)]


def test_only_what_the_caption_says_is_asked() -> None:
    """By the words of the caption, which this looks at in another way than the code: it has no list of them."""
    seen: dict[str, set[bool]] = {}
    for line in records():
        caption, attributes, told = line["caption"], line["attributes"], said(line)
        assert all(attributes[head] == answer for head, answer in told.items())
        assert {"place", "style"} <= told.keys()
        assert any(word in caption for word in MEDIA[told["style"]])
        words = {
            "place_colour": attributes["place_colour"] and attributes["place_colour"] in caption,
            "balloon_colour": attributes["balloon_colour"] and attributes["balloon_colour"] in caption,
            "top_kind": attributes["garment"] is not None and attributes["top_kind"] in caption,
            "top_pattern": attributes["garment"] is not None,
            "framing": any(word in caption for word in ("full-body", "close-up", "portrait ")),
            "action": not ("smil" in caption or (attributes["action"] == "standing" and "standing" not in caption)),
        }
        for head, is_said in words.items():
            assert (head in told) == bool(is_said), (head, caption)
            seen.setdefault(head, set()).add(head in told)
    assert all(both == {True, False} for both in seen.values()), seen
    assert FRAMED["half body"] == ("", ""), "half a body is never said"


@pytest.fixture
def plan(toy: Toy, tmp_path: Path) -> Plan:
    return toy.plan(toy.settings(tmp_path, {"base": {}}))


def measure_of(toy: Toy, plan: Plan, outputs: Any, **changes: Any) -> Attributes:
    settings = AttributeSettings(**{"network": toy.attributes, "oracle": toy.world / "oracle.jsonl", **changes})
    return Attributes(Source("recognition", settings.network, "measures.attributes.network"), settings, outputs, plan)


def test_the_share_of_what_is_said_that_is_read_off(toy: Toy, plan: Plan) -> None:
    lines = [json.loads(line) for line in (toy.world / "oracle.jsonl").read_text().splitlines()]
    oracle = {line["file"]: line for line in lines}
    outputs = Said({})
    measure = measure_of(toy, plan, outputs)
    assert [column.name for column in measure.columns] == [
        "attributes",
        *(f"attribute_{head}" for head in OF_THE_PICTURE if head in HEADS),
    ]
    unsaid = 0
    for person in plan.people:
        real = measure.real(person)
        told = [
            {head: answer for head, answer in said(oracle[request.model.name]).items() if head in HEADS}
            for request in real.requests
        ]
        for key, answers in zip(real.keys, told, strict=True):
            right = [OF_THE_PICTURE[head].index(answers[head]) if head in answers else -1 for head in HEADS]
            # All right but the style.
            right[HEADS.index("style")] += 1
            outputs.pictures[key] = {"answers": torch.tensor(right).float()}
        for row, answers in zip(measure.of_pictures(real), told, strict=True):
            assert row["attributes"] == pytest.approx(1 - 1 / len(answers))
            expected = {head: float(head != "style") for head in answers}
            assert {head: row[f"attribute_{head}"] for head in HEADS[:-1]} == {
                head: expected.get(head) for head in HEADS[:-1]
            }
            unsaid += len(HEADS) - 1 - len(answers)
    assert unsaid


def test_what_does_not_fit(toy: Toy, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="identity.safetensors, whose heads are none; none of them reads what captions"
    ):
        measure_of(toy, plan, Said({}), network=toy.identity)
    with pytest.raises(ValueError, match="measures.attributes.oracle is nowhere.jsonl, but there is no such file"):
        measure_of(toy, plan, Said({}), oracle=Path("nowhere.jsonl"))
    lines = (toy.world / "oracle.jsonl").read_text().splitlines()
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(lines[:3]))
    with pytest.raises(ValueError, match="short.jsonl, which does not know 5 of 6 photos, such as person_070"):
        measure_of(toy, plan, Said({}), oracle=short)
    short.write_text(lines[0] + "\n{\n")
    with pytest.raises(ValueError, match="short.jsonl, whose line 2 is none of bolid world render"):
        measure_of(toy, plan, Said({}), oracle=short)
