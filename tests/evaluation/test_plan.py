"""Who is drawn from what: the same for every method, and never from what it is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bolid.evaluation.plan import Variant

from .conftest import PEOPLE, PHOTOS, Toy

METHODS: dict[str, dict[str, Any]] = {
    "base": {},
    "averaged": {"adapters": ["a", "b"], "references": [1, 4]},
    "given": {"pictures": "folder", "references": [2]},
}


def test_references_grow_and_never_hold_what_is_compared(toy: Toy, tmp_path: Path) -> None:
    settings = toy.settings(tmp_path, METHODS)
    plan = toy.plan(settings)
    assert len(plan.requests) == 2 * PEOPLE
    for request in plan.requests:
        four = plan.references(request, settings.methods["averaged"], 4)
        assert plan.references(request, settings.methods["averaged"], 1) == four[:1]
        assert plan.seen(request.person) == four
        own = {photo.path for photo in request.person.photos}
        assert len(own) == PHOTOS
        assert {photo.path for photo in plan.compared(request.person)} == own - {photo.path for photo in four}
        assert request.model.path not in own and request.prompt == request.model.prepared.caption


def test_corrupted_references_are_the_last_ones(toy: Toy, tmp_path: Path) -> None:
    methods = {"mixed": {"adapter": "a", "references": [4], "other_people": 2}}
    settings = toy.settings(tmp_path, methods)
    plan = toy.plan(settings)
    for request in plan.requests:
        photos = plan.references(request, settings.methods["mixed"], 4)
        own = {photo.path for photo in request.person.photos}
        assert [photo.path in own for photo in photos] == [True, True, False, False]


def test_another_body_is_that_of_one_other_person(toy: Toy, tmp_path: Path) -> None:
    methods = {name: {"adapter": "a", "references": [4], "other_body": name == "other"} for name in ("own", "other")}
    settings = toy.settings(tmp_path, methods)
    plan = toy.plan(settings)
    for request in plan.requests:
        own, other = (plan.body_references(request, settings.methods[name], 4) for name in methods)
        assert own == plan.references(request, settings.methods["other"], 4)
        people = [person for person in plan.people if set(other) <= set(person.photos)]
        assert len(set(other)) == 4 and len(people) == 1 and people[0] is not request.person


def test_prompts_in_turn(toy: Toy, tmp_path: Path) -> None:
    drawing = {"prompts": ["one", "two", "three"], "pictures": 3, "people": 2}
    plan = toy.plan(toy.settings(tmp_path, {"base": {}}, drawing=drawing))
    assert [request.prompt for request in plan.requests] == ["one", "two", "three", "two", "three", "one"]
    assert all(request.model is None for request in plan.requests)


def test_every_variant_is_drawn_by_every_run_with_every_seed(toy: Toy, tmp_path: Path) -> None:
    drawing = {"guidance_scales": [2.0, 3.5], "seeds": [0, 5]}
    plan = toy.plan(toy.settings(tmp_path, METHODS, drawing=drawing))
    variants = plan.variants()
    assert variants == [
        Variant(method="base", references=0, guidance_scale=2.0),
        Variant(method="base", references=0, guidance_scale=3.5),
        Variant(method="averaged", references=1, guidance_scale=2.0),
        Variant(method="averaged", references=1, guidance_scale=3.5),
        Variant(method="averaged", references=4, guidance_scale=2.0),
        Variant(method="averaged", references=4, guidance_scale=3.5),
        Variant(method="given", references=2, guidance_scale=None),
    ]
    assert [setting.folder for setting in plan.settings_of(variants[3])] == [
        "averaged/run_0/1_photos/guidance_3.5/seed_0",
        "averaged/run_0/1_photos/guidance_3.5/seed_5",
        "averaged/run_1/1_photos/guidance_3.5/seed_0",
        "averaged/run_1/1_photos/guidance_3.5/seed_5",
    ]
    folders = [setting.folder for setting in plan.settings()]
    assert len(set(folders)) == len(folders) == 2 * 2 + 4 * 4 + 2
    assert [variant.name for variant in variants[1:3]] == ["base, guidance 3.5", "averaged, 1 photo, guidance 2"]


def test_the_record_tells_other_programs_what_to_draw(toy: Toy, tmp_path: Path) -> None:
    plan = toy.plan(toy.settings(tmp_path, METHODS))
    lines = [json.loads(line) for line in plan.record().splitlines()]
    assert [line["file"] for line in lines] == [request.file for request in plan.requests]
    for line, request in zip(lines, plan.requests, strict=True):
        assert line["person"] == request.person.name and line["prompt"] == request.prompt
        assert line["pose_of"] == request.model.name
        assert (len(line["references"]), len(line["compared_with"])) == (4, PHOTOS - 4)
        names = {photo.name for photo in request.person.photos}
        assert {*line["references"], *line["compared_with"]} == names


@pytest.mark.parametrize(
    ("methods", "drawing", "message"),
    [
        (
            {"m": {"adapter": "a", "references": [PHOTOS]}},
            {},
            f"{PEOPLE} people have too few photos for {PHOTOS} references and one to compare with, such as person_0700",
        ),
        ({"base": {}}, {"people": 1}, "There are 1 people to draw; at least 2 are needed"),
    ],
)
def test_too_little_to_draw(
    toy: Toy, tmp_path: Path, methods: dict[str, Any], drawing: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        toy.plan(toy.settings(tmp_path, methods, drawing=drawing))
