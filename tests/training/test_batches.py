"""From samples to tensors: what is dropped how often, and that nothing else decides what a sample draws."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.models.body import Body
from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, JOINTS
from bolid.training.batches import (
    KEEP_ALL,
    MIN_VISIBILITY,
    TIMESTEPS,
    VALIDATION,
    Batch,
    Batches,
    cell_weights,
    kept,
    target_row,
)
from bolid.training.config import (
    AdapterTraining,
    BaseSettings,
    DataSettings,
    DroppingSettings,
    LossSettings,
    RunSettings,
)
from bolid.training.features import Crop, Person, Photo
from bolid.training.leave_one_out import Sample
from bolid.training.people import PreparedPhoto
from bolid.training.pictures import place, placed_joints
from bolid.training.randomness import keyed_generator

CELLS, WIDTH = 5, 6
LATENTS = (4, 8, 8)


class FakeFeatures:
    """Random features; the same photo, crop or text gives the same. `asked` tells for what."""

    def __init__(self, *, pooled: bool = False, std: float = 0.5):
        self.asked: set[tuple[Any, ...]] = set()
        self._pooled = pooled
        self._std = std

    def latents(self, photo: Photo) -> dict[str, torch.Tensor]:
        return {"mean": self._random("latents", photo.name, LATENTS), "std": torch.full(LATENTS, self._std)}

    def text(self, text: str) -> dict[str, torch.Tensor]:
        pooled = {"pooled_text": self._random("pooled", text, (3,)).half()} if self._pooled else {}
        return {"text": self._random("text", text, (7, 4)).half()} | pooled

    def image(self, name: str, photo: Photo, crop: Crop) -> torch.Tensor:
        return self._random(name, (photo.name, crop), self._shape(name)).half()

    def reference(self, name: str, photo: Photo) -> torch.Tensor:
        return self.image(name, photo, photo.face_crop)

    def zero_image(self, name: str) -> torch.Tensor:
        return self._random(name, "zero", self._shape(name)).half()

    def clip_text(self, text: str) -> torch.Tensor:
        return self._random("clip_text", text, (9,))

    def clip_image(self, photo: Photo) -> torch.Tensor:
        return self._random("clip_image", photo.name, (9,))

    def _shape(self, name: str) -> tuple[int, ...]:
        return (WIDTH,) if name == "image_embeds" else (CELLS, WIDTH)

    def _random(self, kind: str, what: object, shape: tuple[int, ...]) -> torch.Tensor:
        self.asked.add((kind, what))
        return torch.randn(shape, generator=keyed_generator(kind, what))


def photo(person: int, number: int, *, size: tuple[int, int] = (80, 60), has_body: bool = True) -> Photo:
    """Of width and height `size`; joints all over the picture, some of them hardly seen."""
    points = torch.rand(len(COCO_KEYPOINTS), 3, generator=keyed_generator("keypoints", person, number))
    points[:, 2] = 0.2 + 0.8 * points[:, 2]
    prepared = PreparedPhoto(
        file=f"person {person}/{number}.jpg",
        sha256="0" * 64,
        width=size[0],
        height=size[1],
        caption=f"caption {person} {number}",
        keypoints=tuple(map(tuple, points.tolist())),
        person_box=(0.1, 0.1, 0.9, 0.9) if has_body else None,
        face_box=None,
    )
    return Photo(
        prepared=prepared,
        path=Path(prepared.file),
        placement=place(prepared, [(64, 64)]),
        face_crop=((0.3, 0.1, 0.6, 0.4), 0.3),
        body_crop=((0.1, 0.1, 0.9, 0.9), 0.0) if has_body else None,
        usable=True,
    )


def person(number: int, photos: int, **settings: Any) -> Person:
    return Person(name=f"person {number}", photos=tuple(photo(number, index, **settings) for index in range(photos)))


PEOPLE = [person(0, 5), person(1, 2), person(2, 3, size=(60, 120))]
SAMPLES = [
    Sample(person=0, target=1, references=(4, 0, 3, 2)),
    Sample(person=1, target=1, references=(0,)),
    Sample(person=2, target=0, references=(2, 1)),
]
KEYS = ["training-0-0", "training-0-1", "training-0-2"]


def config_of(method: str = "bolid", **changes: Any) -> AdapterTraining:
    sections = {
        "run": RunSettings(output=Path("run")),
        "data": DataSettings(path=Path("people")),
        "base": BaseSettings(path=Path("base"), image_encoder=Path("encoder")),
    }
    return AdapterTraining(method=method, **sections | changes)


def batches_of(
    method: str = "bolid",
    *,
    features: FakeFeatures | None = None,
    names: tuple[str, ...] = ("image_embeds",),
    **changes: Any,
) -> Batches:
    return Batches(config_of(method, **changes), features or FakeFeatures(), feature_names=names)


def batch_of(
    batches: Batches | None = None,
    *,
    samples: list[Sample] = SAMPLES,
    keys: list[str] = KEYS,
    dropping: DroppingSettings = KEEP_ALL,
) -> Batch:
    return (batches or batches_of()).batch(PEOPLE, samples, keys, dropping)


def row_of(batch: Batch, row: int, *, references: int) -> dict[str, torch.Tensor | None]:
    """One row without what fills the batch up."""
    values: dict[str, torch.Tensor | None] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            values |= {f"feature {name}": tensor[row, :references] for name, tensor in value.items()}
        elif field.name == "in_use":
            values["in_use"] = value[row, :references]
        elif field.name in ("body_image", "body_image_in_use") and value is not None:
            values[field.name] = value[row, : references * CELLS]
        elif field.name != "names":
            values[field.name] = None if value is None else value[row]
    return values


def assert_same(first: dict[str, Any], second: dict[str, Any], *, but: tuple[str, ...] = ()) -> None:
    assert first.keys() == second.keys()
    for name in first.keys() - set(but):
        if first[name] is None:
            assert second[name] is None, name
        else:
            assert torch.equal(first[name], second[name]), name


# What is dropped how often


def outcomes(**probabilities: float) -> dict[tuple[bool, bool, bool], float]:
    """How often text, face and body stay, over numbers that are even in 0 to 1."""
    steps = 2000
    found: dict[tuple[bool, bool, bool], float] = {}
    for number in range(steps):
        stays = kept((number + 0.5) / steps, **probabilities)
        found[stays] = found.get(stays, 0.0) + 1 / steps
    return found


@pytest.mark.parametrize(
    ("text", "face", "body", "all_"), [(0.05, 0.05, 0.05, 0.05), (0.1, 0.2, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1)]
)
def test_what_is_dropped_excludes_each_other(text: float, face: float, body: float, all_: float):
    found = outcomes(text=text, face=face, body=body, all=all_)
    expected = {
        (False, True, True): text,
        (True, False, True): face,
        (True, True, False): body,
        (False, False, False): all_,
        (True, True, True): 1 - text - face - body - all_,
    }
    assert set(found) == {stays for stays, share in expected.items() if share > 1e-9}
    for stays, share in found.items():
        assert share == pytest.approx(expected[stays], abs=1e-3)


def test_without_a_body_branch():
    found = outcomes(text=0.1, face=0.2, body=0.0, all=0.3)
    assert set(found) == {(False, True, True), (True, False, True), (False, False, False), (True, True, True)}
    assert found[True, True, True] == pytest.approx(0.4, abs=1e-3)


def test_nothing_is_dropped_without_probabilities():
    assert set(outcomes(text=0.0, face=0.0, body=0.0, all=0.0)) == {(True, True, True)}


def has(batch: Batch) -> set[tuple[bool, bool, bool]]:
    flags = (batch.has_text.tolist(), batch.has_face.tolist(), batch.has_body.tolist())
    return set(zip(*flags, strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text", (False, True, True)),
        ("face", (True, False, True)),
        ("body", (True, True, False)),
        ("all", (False, False, False)),
    ],
)
def test_probability_of_one(name: str, expected: tuple[bool, bool, bool]):
    whole, batch = batch_of(), batch_of(dropping=KEEP_ALL.model_copy(update={name: 1.0}))
    assert has(whole) == {(True, True, True)}
    assert has(batch) == {expected}
    features = FakeFeatures()
    captions = [PEOPLE[sample.person].photos[sample.target].prepared.caption for sample in SAMPLES]
    texts = torch.stack([features.text(caption if expected[0] else "")["text"] for caption in captions])
    assert torch.equal(batch.text, texts)
    for row, sample in enumerate(SAMPLES):
        count = len(sample.references)
        assert_same(
            row_of(whole, row, references=count),
            row_of(batch, row, references=count),
            but=("text", "has_text", "has_face", "has_body"),
        )


def test_pooled_text_is_dropped_with_the_text():
    batches, features = batches_of(features=FakeFeatures(pooled=True)), FakeFeatures(pooled=True)
    dropped = batch_of(batches, dropping=KEEP_ALL.model_copy(update={"text": 1.0}))
    assert torch.equal(dropped.pooled_text, features.text("")["pooled_text"].expand(3, -1))
    assert not torch.equal(batch_of(batches).pooled_text, dropped.pooled_text)
    assert batch_of().pooled_text is None


@pytest.mark.parametrize("method", ["ip_adapter", "self_attention"])
def test_methods_without_a_body_branch(method: str):
    batch = batch_of(batches_of(method), dropping=KEEP_ALL.model_copy(update={"body": 1.0}))
    assert has(batch) == {(True, True, False)}
    assert (batch.proportions, batch.seen, batch.target_pose) == (None, None, None)
    assert (batch.body_image, batch.body_image_in_use) == (None, None)
    # The probability of the body takes nothing from that of all, either.
    everything = batch_of(batches_of(method), dropping=KEEP_ALL.model_copy(update={"body": 1.0, "all": 1.0}))
    assert has(everything) == {(False, False, False)}


def many(dropping: DroppingSettings, *, rows: int = 600) -> Batch:
    samples, keys = [SAMPLES[1]] * rows, [f"row {row}" for row in range(rows)]
    return batch_of(samples=samples, keys=keys, dropping=dropping)


def test_shares_over_many_samples():
    """The draws for the branches, for the pose and for the image do not depend on each other."""
    dropping = DroppingSettings(text=0.2, face=0.2, body=0.2, all=0.2, target_pose=0.5, body_image=0.5)
    batch = many(dropping)
    has_pose = batch.target_pose.flatten(1).any(dim=1)
    has_image = batch.body_image_in_use.any(dim=1)
    for flags in (batch.has_text & batch.has_face & batch.has_body, ~batch.has_text & batch.has_face):
        assert 0.14 < flags.float().mean() < 0.26
        assert 0.02 < (flags & has_pose & has_image).float().mean() < 0.09
    assert 0.14 < (~batch.has_text & ~batch.has_face & ~batch.has_body).float().mean() < 0.26
    assert 0.42 < has_pose.float().mean() < 0.58
    assert 0.42 < has_image.float().mean() < 0.58
    assert 0.19 < (has_pose & has_image).float().mean() < 0.31


def test_pose_that_is_dropped():
    batch = batch_of(dropping=KEEP_ALL.model_copy(update={"target_pose": 1.0}))
    assert not batch.target_pose.any()
    assert batch.joints.any()  # the loss still looks at them
    whole = batch_of()
    assert torch.equal(whole.target_pose, whole.joints)
    assert has(batch) == {(True, True, True)}


def test_image_of_the_body_that_is_dropped():
    batch = batch_of(dropping=KEEP_ALL.model_copy(update={"body_image": 1.0}))
    assert not batch.body_image_in_use.any()
    assert has(batch) == {(True, True, True)}
    assert torch.equal(batch.proportions, batch_of().proportions)


def test_settings_of_validation():
    assert set(KEEP_ALL.model_dump().values()) == {0.0}
    assert VALIDATION.model_dump() == KEEP_ALL.model_dump() | {"target_pose": 0.5}


# What a sample draws


@pytest.mark.parametrize("method", ["ip_adapter", "bolid"])
@pytest.mark.parametrize("order", [(2, 0, 1), (1,), (0, 2)])
def test_row_does_not_depend_on_its_neighbours(method: str, order: tuple[int, ...]):
    batches = batches_of(method, names=("image_embeds", "hidden_states"))
    dropping = DroppingSettings()
    whole = batch_of(batches, dropping=dropping)
    part = batch_of(
        batches, samples=[SAMPLES[row] for row in order], keys=[KEYS[row] for row in order], dropping=dropping
    )
    for place_, row in enumerate(order):
        count = len(SAMPLES[row].references)
        assert_same(row_of(whole, row, references=count), row_of(part, place_, references=count))
        assert part.names[place_] == whole.names[row]


def test_method_does_not_change_what_is_drawn():
    adapter, bolid = batch_of(batches_of("ip_adapter")), batch_of(batches_of("bolid"))
    for name in ("latents", "noise", "timesteps", "places"):
        assert torch.equal(getattr(adapter, name), getattr(bolid, name))


@pytest.mark.parametrize("name", ["latents", "noise", "timesteps", "places"])
def test_key_and_seed_change_what_is_drawn(name: str):
    other_keys = batch_of(keys=[f"{key} again" for key in KEYS])
    other_seed = batch_of(batches_of(run=RunSettings(output=Path("run"), seed=1)))
    before = getattr(batch_of(), name)
    assert torch.equal(before, getattr(batch_of(), name))
    assert not torch.equal(before, getattr(other_keys, name))
    assert not torch.equal(before, getattr(other_seed, name))


def test_rows_of_one_sample_differ():
    batch = batch_of(samples=[SAMPLES[0]] * 2, keys=KEYS[:2])
    assert not torch.equal(batch.noise[0], batch.noise[1])
    assert not torch.equal(batch.latents[0], batch.latents[1])
    assert torch.equal(batch.features["image_embeds"][0], batch.features["image_embeds"][1])


def test_latents_are_drawn_from_their_distribution():
    rows = 300
    batch = many(KEEP_ALL, rows=rows)
    target = PEOPLE[1].photos[SAMPLES[1].target]
    drawn = (batch.latents - FakeFeatures().latents(target)["mean"]) / 0.5
    for normal in (drawn, batch.noise):
        assert normal.mean().abs() < 0.02
        assert abs(normal.std() - 1) < 0.02
        assert normal.std(dim=0).min() > 0.75
    assert (drawn * batch.noise).mean().abs() < 0.02
    exact = batch_of(batches_of(features=FakeFeatures(std=0.0)))
    assert torch.equal(exact.latents[1], FakeFeatures().latents(target)["mean"])


def test_timesteps_are_even():
    target = PEOPLE[0].photos[0]
    drawn = torch.stack(
        [
            target_row(FakeFeatures(), target, keyed_generator(0, number), has_text=True)["timesteps"]
            for number in range(800)
        ]
    )
    assert 0 <= drawn.min() < 15 and TIMESTEPS - 15 < drawn.max() < TIMESTEPS
    assert (torch.bincount(drawn // (TIMESTEPS // 4)) - 200).abs().max() < 60


def test_shifted_timesteps_are_nearer_to_noise():
    plain, shifted = (batch_of(batches_of(loss=LossSettings(timestep_shift=shift))) for shift in (1.0, 3.0))
    assert (shifted.timesteps > plain.timesteps).all()
    assert torch.equal(shifted.noise, plain.noise)


# What describes the target


def test_cells_of_the_person_count_more():
    assert batch_of().cell_weights is None
    found = batch_of(batches_of(loss=LossSettings(person_weight=3.0))).cell_weights
    assert found.shape == (3, *LATENTS[1:])
    assert torch.equal(found[:, 3:5, 3:5], torch.full((3, 2, 2), 3.0))
    # The box begins at .1 of the photo; a square photo's would begin at .8 cells, and this one loses an eighth left.
    assert 1 < found[0, 0, 4] < found[0, 1, 4] == 3


def test_faces_count_beside_the_person():
    target = photo(0, 0, size=(64, 64))
    target = replace(target, prepared=target.prepared.model_copy(update={"face_box": (0.375, 0.0, 0.625, 0.5)}))
    found = cell_weights(target, (8, 8), LossSettings(person_weight=2.0, face_weight=5.0))
    assert (found[3, 3], found[3, 5], found[5, 3]) == (10, 2, 2)
    assert found[0, 4] == pytest.approx(1.2 * 5, abs=1e-4)
    assert found[0, 0] == pytest.approx(1.04, abs=1e-4)


def test_fields_of_the_targets():
    batch = batch_of()
    assert len(batch.names) == 3
    for row, sample in enumerate(SAMPLES):
        target = PEOPLE[sample.person].photos[sample.target]
        assert batch.names[row] == target.name
        joints = placed_joints(target.prepared, target.placement)
        assert torch.equal(batch.joints[row], torch.where(joints[:, 2:] >= MIN_VISIBILITY, joints, 0.0))
    visibility = batch.joints[..., 2]
    assert ((visibility == 0) | (visibility >= MIN_VISIBILITY)).all()
    assert 0 < visibility.count_nonzero() < visibility.numel()
    # Height and width of the photo; where it was cut: 60×120 became 64×128; height and width of the picture.
    assert batch.time_ids[2].tolist() == [120, 60, 32, 0, 64, 64]
    assert batch.time_ids[0].tolist() == [60, 80, 0, 10, 64, 64]
    assert (batch.timesteps.dtype, batch.timesteps.shape) == (torch.int64, (3,))
    assert batch.latents.shape == batch.noise.shape == (3, *LATENTS)


def test_only_references_are_seen():
    features = FakeFeatures()
    batch = batch_of(batches_of(features=features, names=("image_embeds", "hidden_states")))
    for row, sample in enumerate(SAMPLES):
        photos = [PEOPLE[sample.person].photos[number] for number in sample.references]
        for name in ("image_embeds", "hidden_states"):
            expected = torch.stack([features.image(name, photo, photo.face_crop) for photo in photos])
            assert torch.equal(batch.features[name][row, : len(photos)], expected)
        grids = torch.cat([features.image("hidden_states", photo, photo.body_crop) for photo in photos])
        assert torch.equal(batch.body_image[row, : len(grids)], grids)
    targets = {PEOPLE[sample.person].photos[sample.target].name for sample in SAMPLES}
    seen = {what[0] for kind, what in features.asked if kind in ("image_embeds", "hidden_states") and what != "zero"}
    assert seen and not seen & targets


def test_body_is_that_of_the_references():
    batch = batch_of()
    for row, sample in enumerate(SAMPLES):
        photos = [PEOPLE[sample.person].photos[number].prepared for number in sample.references]
        body = Body(
            keypoints=torch.tensor([photo.keypoints[FIRST_JOINT:] for photo in photos]),
            image_sizes=torch.tensor([(photo.height, photo.width) for photo in photos]),
            min_visibility=MIN_VISIBILITY,
        )
        assert torch.equal(batch.proportions[row], body.proportions)
        assert torch.equal(batch.seen[row], body.seen)
    assert batch.seen.shape == (3, len(JOINTS))
    assert batch.proportions[..., 1].any()


def batch_of_one(one: Person, *, references: tuple[int, ...]) -> Batch:
    sample = Sample(person=0, target=0, references=references)
    return batches_of(features=FakeFeatures()).batch([one], [sample], KEYS[:1], KEEP_ALL)


def test_references_that_show_somebody_else():
    """Their features and their bodies take the place of the person's own; target and caption stay the person's."""
    sample = Sample(person=0, target=1, references=(4, 0, 3), other_people={1: (2, 1)})
    features = FakeFeatures()
    batch = batches_of(features=features).batch(PEOPLE, [sample], KEYS[:1], KEEP_ALL)
    shown = [PEOPLE[0].photos[4], PEOPLE[2].photos[1], PEOPLE[0].photos[3]]
    expected = torch.stack([features.reference("image_embeds", photo) for photo in shown])
    assert torch.equal(batch.features["image_embeds"][0], expected)
    mixed = Person(name="mixed", photos=(PEOPLE[0].photos[1], *shown))
    same = batches_of(features=features).batch(
        [mixed], [Sample(person=0, target=0, references=(1, 2, 3))], KEYS[:1], KEEP_ALL
    )
    for name in ("latents", "noise", "timesteps", "text", "proportions", "body_image", "places"):
        assert torch.equal(getattr(batch, name), getattr(same, name)), name


def test_photos_without_a_person_have_no_grid():
    some = Person(name="some", photos=(photo(3, 0), photo(3, 1, has_body=False), photo(3, 2)))
    none = Person(name="none", photos=(photo(4, 0), photo(4, 1, has_body=False)))
    samples = [Sample(person=0, target=0, references=(1, 2)), Sample(person=1, target=0, references=(1,))]
    features = FakeFeatures()
    batch = batches_of(features=features).batch([some, none], samples, KEYS[:2], KEEP_ALL)
    shown = some.photos[2]
    assert torch.equal(batch.body_image[0], features.image("hidden_states", shown, shown.body_crop))
    assert torch.equal(batch.body_image[1], features.zero_image("hidden_states"))
    assert batch.body_image_in_use.tolist() == [[True] * CELLS, [False] * CELLS]
    # Nor do their keypoints count, and who has no other photo has no body.
    assert torch.equal(batch.seen[0], batch_of_one(some, references=(2,)).seen[0])
    assert not batch.seen[1].any() and not batch.proportions[1].any()
    assert batch.has_body.tolist() == [True, False]
    assert torch.equal(batch.in_use, torch.tensor([[True, True], [True, False]]))


def test_clip_features_where_the_loss_asks_for_them():
    batch = batch_of()
    assert (batch.clip_text, batch.clip_image) == (None, None)
    features = FakeFeatures()
    batch = batch_of(batches_of(features=features, loss=LossSettings(clip=0.05, clip_image=0.1)))
    target = PEOPLE[2].photos[0]
    assert torch.equal(batch.clip_text[2], features.clip_text(target.prepared.caption))
    assert torch.equal(batch.clip_image[2], features.clip_image(target))
    # Of the caption, although the network does not see it.
    dropped = batch_of(batches_of(loss=LossSettings(clip=0.05)), dropping=KEEP_ALL.model_copy(update={"text": 1.0}))
    assert torch.equal(dropped.clip_text, batch.clip_text)
    assert dropped.clip_image is None


# Side by side


def test_rows_are_filled_up_with_zeros():
    batch = batch_of(batches_of(names=("image_embeds", "hidden_states")))
    assert batch.in_use.tolist() == [[True] * 4, [True, False, False, False], [True, True, False, False]]
    assert batch.features["image_embeds"].shape == (3, 4, WIDTH)
    assert batch.features["hidden_states"].shape == (3, 4, CELLS, WIDTH)
    assert batch.body_image.shape == (3, 4 * CELLS, WIDTH)
    for values in batch.features.values():
        filled = values.flatten(2).any(dim=-1)
        assert torch.equal(filled, batch.in_use)
    cells = batch.in_use.repeat_interleave(CELLS, dim=1)
    assert torch.equal(batch.body_image_in_use, cells)
    assert torch.equal(batch.body_image.any(dim=-1), cells)


def test_places_hold_all_references_first():
    people, drawn = [person(0, 13)], []
    for references in (1, 2, 5, 9, 12):
        sample = Sample(person=0, target=12, references=tuple(range(references)))
        keys = [f"key {number}" for number in range(40)]
        batch = batches_of().batch(people, [sample] * len(keys), keys, KEEP_ALL)
        assert batch.places.shape == (len(keys), 9)
        first = min(references, 9)
        assert torch.equal(batch.places[:, :first], torch.arange(first).expand(len(keys), -1))
        assert batch.places.min() == 0 and batch.places.max() == first - 1
        drawn.append(batch.places[:, first:])
    assert set(drawn[1].flatten().tolist()) == {0, 1}
    assert set(drawn[2].flatten().tolist()) == set(range(5))
    assert len({tuple(row) for row in drawn[2].tolist()}) > 30


def test_batch_elsewhere_is_float32():
    batch = batch_of(batches_of(features=FakeFeatures(pooled=True)))
    moved = batch.to(torch.device("cpu"))
    for field in fields(moved):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, dict):
            assert {name: tensor.dtype for name, tensor in after.items()} == dict.fromkeys(before, torch.float32)
        elif isinstance(before, torch.Tensor):
            assert after.dtype == (torch.float32 if before.is_floating_point() else before.dtype)
            assert torch.equal(after, before.to(after.dtype))
        else:
            assert after == before
    assert batch.text.dtype == torch.float16
