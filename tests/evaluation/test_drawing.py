"""Pictures by the plan: photos, texts and noise are the same for every method, and a picture however it is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bolid.evaluation.config import EvaluationSettings
from bolid.evaluation.drawing import Drawer
from bolid.evaluation.plan import Plan
from bolid.hosts.diffusers import cross_attention_layers
from bolid.models.adapter import AdapterLayout, BodyLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter
from bolid.training.base import image_encoder_config, load_denoiser
from bolid.training.features import Features, load_people

from ..support.toy_training import write_toy_base, write_toy_image_encoder, write_toy_people

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("toy")
    base, image_encoder = write_toy_base(folder / "base"), write_toy_image_encoder(folder / "image_encoder")
    unet = load_denoiser(base, dtype=torch.float32).unet
    encoder = image_encoder_config(image_encoder)
    layout = AdapterLayout(
        kind="base",
        cross_attention_dim=unet.config.cross_attention_dim,
        num_tokens=4,
        image_embed_dim=encoder.projection_dim,
        layers={layer.index: layer.hidden_size for layer in cross_attention_layers(unet)},
        aggregator_depth=1,
        body=BodyLayout(hidden_size=encoder.hidden_size, dim=64, depth=1, resampler_depth=1),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter = build_adapter(layout)
        for module in adapter.aggregator.values():
            torch.nn.init.normal_(module.proj_out.weight, std=0.2)
    path = folder / "adapter.safetensors"
    write_adapter(path, adapter, base_model="custom", image_encoder="toy")
    people = write_toy_people(folder / "people", people=9, photos=5)
    return {"base": base, "image_encoder": image_encoder, "people": people, "adapter": path, "cache": folder / "cache"}


def settings(toy: dict[str, Path], methods: dict[str, Any], **drawing: Any) -> EvaluationSettings:
    return EvaluationSettings.model_validate(
        {
            "output": toy["cache"].parent / "out",
            "data": {"path": toy["people"], "references": 4},
            "base": {"path": toy["base"], "image_encoder": toy["image_encoder"], "resolution": SIDE},
            "drawing": {"steps": 3, "pictures": 2, "guidance_scales": [3.0], **drawing},
            "methods": methods,
        }
    )


def drawer(toy: dict[str, Path], config: EvaluationSettings) -> tuple[Drawer, Plan]:
    people = load_people(config.data, config.base)
    plan = Plan(people.test, config)
    features = Features(folder=toy["cache"], base=config.base, device=CPU, progress=lambda *_: None)
    drawing = Drawer(config, plan, features, device=CPU)
    drawing.load()
    return drawing, plan


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


METHODS: dict[str, dict[str, Any]] = {
    "none": {"references": [1]},
    "averaged": {"references": [1, 4], "body_weight": 0.0},
    "attention": {"references": [4], "aggregation": "self_attention", "body_weight": 0.0},
    "body": {"references": [4], "target_pose": True},
    "off": {"references": [4], "face_weight": 0.0, "body_weight": 0.0},
}


@pytest.fixture(scope="module")
def drawn(toy: dict[str, Path]) -> tuple[Drawer, Plan, dict[str, np.ndarray]]:
    methods = {
        name: values if name == "none" else {"adapter": toy["adapter"], **values} for name, values in METHODS.items()
    }
    drawing, plan = drawer(toy, settings(toy, methods))
    requests = plan.requests()
    found = {setting.folder: pixels(drawing.draw(setting, requests)) for setting in plan.settings()}
    return drawing, plan, found


def test_every_method_draws_every_picture_in_its_own_way(drawn: tuple[Drawer, Plan, dict[str, np.ndarray]]) -> None:
    _, plan, found = drawn
    assert len(found) == 6
    assert all(pictures.shape == (2 * len(plan.people), SIDE, SIDE, 3) for pictures in found.values())
    by_name = {name.removesuffix("/guidance_3/seed_0"): pictures for name, pictures in found.items()}
    assert (by_name["none/1_photos"] == by_name["off/4_photos"]).all()
    different = [name for name in by_name if name != "off/4_photos"]
    for place, one in enumerate(different):
        for other in different[:place]:
            # Each single picture, not only some of them.
            assert (np.abs(by_name[one] - by_name[other]).max(axis=(1, 2, 3)) > 0).all(), (one, other)


@pytest.mark.parametrize("method", ["averaged", "attention", "body"])
def test_a_picture_does_not_depend_on_its_batch(drawn: tuple[Drawer, Plan, dict[str, np.ndarray]], method: str) -> None:
    drawing, plan, found = drawn
    setting = next(setting for setting in plan.settings() if setting.method == method and setting.references == 4)
    requests = plan.requests()
    alone = pixels([drawing.draw(setting, [request])[0] for request in reversed(requests)])[::-1]
    assert np.abs(alone - found[setting.folder]).max() <= 1


def test_noise_follows_seed_person_and_picture(drawn: tuple[Drawer, Plan, dict[str, np.ndarray]]) -> None:
    drawing, plan, found = drawn
    setting = next(plan.settings())
    requests = plan.requests()
    again = pixels(drawing.draw(replace(setting, seed=1), requests[:2]))
    assert (np.abs(again - found[setting.folder][:2]).max(axis=(1, 2, 3)) > 0).all()
    same_text = [replace(requests[number], prompt="a person") for number in (0, 1)]
    drawing._features.fill_text(["a person"])
    one, other = pixels(drawing.draw(setting, same_text))
    assert np.abs(one - other).max() > 0


def test_references_grow_and_never_hold_what_is_compared(drawn: tuple[Drawer, Plan, dict[str, np.ndarray]]) -> None:
    _, plan, _ = drawn
    methods = plan._settings.methods
    for request in plan.requests():
        four = plan.references(request, methods["averaged"], 4)
        assert plan.references(request, methods["body"], 4) == four
        assert plan.references(request, methods["averaged"], 1) == four[:1]
        compared = plan.compared(request.person)
        own = {photo.path for photo in request.person.photos}
        assert {photo.path for photo in compared} == own - {photo.path for photo in four}
        assert request.model.path not in own and request.prompt == request.model.prepared.caption


def test_corrupted_references(toy: dict[str, Path]) -> None:
    config = settings(toy, {"mixed": {"adapter": toy["adapter"], "references": [4], "other_people": 2}})
    plan = Plan(load_people(config.data, config.base).test, config)
    for request in plan.requests():
        photos = plan.references(request, config.methods["mixed"], 4)
        own = {photo.path for photo in request.person.photos}
        assert [photo.path in own for photo in photos] == [True, True, False, False]


def test_prompts_in_turn(toy: dict[str, Path]) -> None:
    config = settings(toy, {"none": {"references": [1]}}, prompts=["one", "two", "three"], pictures=3, people=2)
    plan = Plan(load_people(config.data, config.base).test, config)
    assert [request.prompt for request in plan.requests()] == ["one", "two", "three", "two", "three", "one"]
    assert all(request.model is None for request in plan.requests())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"adapter": "nowhere.safetensors", "references": [1]}, "methods.m.adapter is nowhere.safetensors, but there"),
        ({"references": [5]}, "3 people have too few photos for 5 references and one to compare with, such as"),
    ],
)
def test_what_cannot_be_drawn(toy: dict[str, Path], method: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawer(toy, settings(toy, {"m": method}))


def test_somebody_has_to_be_right(toy: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="other_people is 3, but of 3 references at least one has to show the person"):
        settings(toy, {"m": {"references": [3], "other_people": 3}})


def test_one_person_is_too_few(toy: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="There are 1 people to draw; at least 2 are needed"):
        drawer(toy, settings(toy, {"m": {"references": [1]}}, people=1))
