"""Pictures by the plan: photos, texts and noise are the same for every method, and a picture however it is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bolid.evaluation.adapters import Adapters
from bolid.evaluation.config import EvaluationSettings
from bolid.evaluation.drawing import Drawer
from bolid.evaluation.plan import Plan, Setting
from bolid.training.features import Features

from ..support.toy_training import SIDE
from .conftest import PEOPLE, Toy

CPU = torch.device("cpu")

METHODS: dict[str, dict[str, Any]] = {
    "base": {},
    "averaged": {"references": [1, 4], "body_weight": 0.0},
    "attention": {"references": [4], "aggregation": "self_attention", "body_weight": 0.0},
    "body": {"references": [4], "target_pose": True},
    "other_body": {"references": [4], "target_pose": True, "other_body": True},
    "off": {"references": [4], "face_weight": 0.0, "body_weight": 0.0},
}


def drawer(toy: Toy, settings: EvaluationSettings) -> tuple[Drawer, Plan]:
    plan = toy.plan(settings)
    features = Features(folder=settings.data.cache, base=settings.base, device=CPU, progress=lambda *_: None)
    drawing = Drawer(settings, plan, Adapters(settings), features, device=CPU)
    drawing.load()
    return drawing, plan


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


Drawn = tuple[Drawer, Plan, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def drawn(toy: Toy) -> Drawn:
    methods = {
        name: values if name == "base" else {"adapter": str(toy.adapters[0]), **values}
        for name, values in METHODS.items()
    }
    methods["averaged"] = {**METHODS["averaged"], "adapters": [str(path) for path in toy.adapters]}
    drawing, plan = drawer(toy, toy.settings(toy.folder / "drawn", methods))
    found = {setting.folder: pixels(drawing.draw(setting, plan.requests)) for setting in plan.settings()}
    return drawing, plan, found


def setting_of(plan: Plan, method: str) -> Setting:
    """With most photos."""
    return [setting for setting in plan.settings() if setting.variant.method == method][-1]


def test_every_method_draws_every_picture_in_its_own_way(drawn: Drawn) -> None:
    found = drawn[2]
    assert all(pictures.shape == (2 * PEOPLE, SIDE, SIDE, 3) for pictures in found.values())
    by_name = {name.removesuffix("/guidance_3/seed_0"): pictures for name, pictures in found.items()}
    assert len(by_name) == 1 + 4 + 1 + 1 + 1 + 1
    assert (by_name["base/run_0/0_photos"] == by_name["off/run_0/4_photos"]).all()
    different = [name for name in by_name if name != "off/run_0/4_photos"]
    for place, one in enumerate(different):
        for other in different[:place]:
            # Each single picture, not only some of them.
            assert (np.abs(by_name[one] - by_name[other]).max(axis=(1, 2, 3)) > 0).all(), (one, other)


@pytest.mark.parametrize("method", ["averaged", "attention", "body"])
def test_a_picture_does_not_depend_on_its_batch(drawn: Drawn, method: str) -> None:
    drawing, plan, found = drawn
    setting = setting_of(plan, method)
    chosen = plan.requests[:3]
    alone = pixels([drawing.draw(setting, [request])[0] for request in reversed(chosen)])[::-1]
    assert np.abs(alone - found[setting.folder][:3]).max() <= 1


def test_noise_follows_seed_person_and_picture(drawn: Drawn) -> None:
    drawing, plan, found = drawn
    setting = setting_of(plan, "base")
    again = pixels(drawing.draw(replace(setting, seed=1), plan.requests[:2]))
    assert (np.abs(again - found[setting.folder][:2]).max(axis=(1, 2, 3)) > 0).all()
    same_text = [replace(plan.requests[number], prompt="a person") for number in (0, 1)]
    drawing._features.fill_text(["a person"])
    one, other = pixels(drawing.draw(setting, same_text))
    assert np.abs(one - other).max() > 0


def test_the_target_pose_counts_and_nothing_else_of_its_photo(drawn: Drawn) -> None:
    drawing, plan, found = drawn
    setting = setting_of(plan, "body")
    request = next(each for each in plan.requests if each.model.body_crop is not None)
    number = plan.requests.index(request)
    posed = found[setting.folder][number]
    without = drawing._settings.methods["body"].model_copy(update={"target_pose": False})
    methods = {**drawing._settings.methods, "body": without}
    settings = drawing._settings
    drawing._settings = settings.model_copy(update={"methods": methods})
    try:
        (free,) = pixels(drawing.draw(setting, [request]))
    finally:
        drawing._settings = settings
    assert np.abs(free - posed).max() > 1
    # Another photo with the same joints and the same caption changes nothing.
    other = request.person.photos[0]
    keypoints = request.model.prepared.keypoints
    swapped = replace(
        other,
        prepared=other.prepared.model_copy(update={"keypoints": keypoints}),
        placement=request.model.placement,
    )
    (same,) = pixels(drawing.draw(setting, [replace(request, model=swapped)]))
    assert np.abs(same - posed).max() <= 1


def test_references_without_a_body_are_a_dropped_body(drawn: Drawn) -> None:
    drawing, plan, found = drawn
    setting = setting_of(plan, "body")
    person = plan.people[0]
    bodiless = replace(person, photos=tuple(replace(photo, body_crop=None) for photo in person.photos))
    requests = [replace(plan.requests[0], person=bodiless), plan.requests[1]]
    no_body, with_body = pixels(drawing.draw(setting, requests))
    assert np.abs(with_body - found[setting.folder][1]).max() <= 1
    assert np.abs(no_body - found[setting.folder][0]).max() > 1
    face_alone = drawing.draw(setting_of(plan, "averaged"), plan.requests[:1])
    assert np.abs(no_body - pixels(face_alone)[0]).max() > 1, "another run's adapter"
    first_run = next(s for s in plan.settings() if s.folder.startswith("averaged/run_0/4_photos"))
    assert np.abs(no_body - pixels(drawing.draw(first_run, plan.requests[:1]))[0]).max() <= 1


def test_an_adapter_of_another_base_is_refused_before_anything_is_drawn(toy: Toy, tmp_path: Path) -> None:
    from bolid.models.adapter import AdapterLayout
    from bolid.models.adapter_file import write_adapter
    from bolid.models.build import build_adapter

    for name, changes, message in (
        ("base", {"cross_attention_dim": 64}, "has 4 layers and reads tokens of width 64, but the UNet of base.path"),
        ("encoder", {"image_embed_dim": 48}, "reads image embeddings of width 48, but base.image_encoder gives 64"),
    ):
        adapters = Adapters(toy.settings(tmp_path, {"m": {"adapter": str(toy.adapters[0]), "references": [1]}}))
        layout = adapters.facts[toy.adapters[0]].layout
        sizes = {"cross_attention_dim": layout.cross_attention_dim, "image_embed_dim": 64, **changes}
        other = AdapterLayout(kind="base", num_tokens=4, layers=layout.layers, **sizes)
        path = tmp_path / f"{name}.safetensors"
        write_adapter(path, build_adapter(other), base_model="custom", image_encoder="toy")
        with pytest.raises(ValueError, match=message):
            drawer(toy, toy.settings(tmp_path, {"m": {"adapter": str(path), "references": [1]}}))
