"""Which photo is drawn from which others: never from itself, evenly, and the same for any number of processes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bolid.training import leave_one_out
from bolid.training.batches import TIMESTEPS
from bolid.training.data import Draws, Share
from bolid.training.leave_one_out import LeaveOneOut, Sample

Photos = list[tuple[str, bool]]
"""Shape, and whether it may be a reference, of each photo of a person."""


def can_be_drawn(photos: Photos) -> bool:
    usable = sum(is_usable for _, is_usable in photos)
    return any(usable > is_usable for _, is_usable in photos)


photos_of_one = st.lists(st.tuples(st.sampled_from(["square", "tall"]), st.booleans()), min_size=2, max_size=6)
people_of_some = st.lists(photos_of_one.filter(can_be_drawn), min_size=1, max_size=7)


def plan(people: list[Photos], **changes: Any) -> LeaveOneOut:
    arguments = {"references": 9, "batch_size": 1, "seed": 0, "purpose": "training"} | changes
    return LeaveOneOut(
        [[shape for shape, _ in photos] for photos in people],
        [[is_usable for _, is_usable in photos] for photos in people],
        **arguments,
    )


def alike(people: int, photos: int) -> list[Photos]:
    return [[("square", True)] * photos] * people


def samples(drawn: LeaveOneOut, batches: int) -> list[Sample]:
    return [sample for number in range(batches) for sample in drawn.batch(number)]


@settings(max_examples=60, deadline=None)
@given(
    people=people_of_some,
    references=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_samples(people: list[Photos], references: int, batch_size: int, seed: int):
    drawn = plan(people, references=references, batch_size=batch_size, seed=seed)
    for number in range(12):
        batch = drawn.batch(number)
        assert len(batch) == batch_size
        assert len({people[sample.person][sample.target][0] for sample in batch}) == 1
        for sample in batch:
            photos = people[sample.person]
            others = {photo for photo, (_, is_usable) in enumerate(photos) if is_usable and photo != sample.target}
            assert sample.target not in sample.references
            assert set(sample.references) <= others
            assert len(set(sample.references)) == len(sample.references) == min(references, len(others)) > 0


@settings(max_examples=40, deadline=None)
@given(people=people_of_some, batch_size=st.integers(1, 3), order=st.permutations(range(15)))
def test_batches_do_not_depend_on_the_order_they_are_asked_for(people: list[Photos], batch_size: int, order: list[int]):
    in_order = [plan(people, batch_size=batch_size).batch(number) for number in range(15)]
    shuffled = plan(people, batch_size=batch_size)
    assert {number: shuffled.batch(number) for number in order} == dict(enumerate(in_order))


@settings(max_examples=40, deadline=None)
@given(people=people_of_some, epochs=st.integers(1, 4))
def test_everybody_once_per_epoch(people: list[Photos], epochs: int):
    drawn = plan(people)
    for epoch in range(epochs):
        numbers = range(epoch * len(people), (epoch + 1) * len(people))
        assert sorted(drawn.batch(number)[0].person for number in numbers) == list(range(len(people)))


def test_last_batch_is_filled_with_some_again():
    drawn = plan(alike(5, 3), batch_size=4)
    for epoch in range(10):
        people = Counter(sample.person for number in (0, 1) for sample in drawn.batch(2 * epoch + number))
        assert set(people) == set(range(5))
        assert people.total() == 8


def test_each_shape_fills_batches_of_its_own():
    people: list[Photos] = [[("square", True)] * 2, [("tall", True)] * 2]
    drawn = plan(people, batch_size=2)
    for epoch in range(10):
        batches = [drawn.batch(2 * epoch + number) for number in (0, 1)]
        assert sorted([sample.person for sample in batch] for batch in batches) == [[0, 0], [1, 1]]


def test_fewer_people_than_a_batch_has_rows():
    assert {sample.person for sample in plan(alike(1, 2), batch_size=4).batch(7)} == {0}


def test_targets_and_references_are_drawn_evenly():
    photos, drawings, references = 5, 3000, 2
    drawn = samples(plan(alike(1, photos), references=references), drawings)
    targets = Counter(sample.target for sample in drawn)
    pairs = Counter((sample.target, reference) for sample in drawn for reference in sample.references)
    for counts, kinds, total in (
        (targets, photos, drawings),
        (pairs, photos * (photos - 1), drawings * references),
    ):
        expected = total / kinds
        assert len(counts) == kinds
        assert max(abs(count - expected) for count in counts.values()) < 4.5 * expected**0.5


def test_first_reference_is_drawn_evenly():
    """A person with few photos gives all of them, but those who take the first places have to change."""
    drawn = samples(plan(alike(1, 3)), 600)
    first = Counter((sample.target, sample.references[0]) for sample in drawn)
    assert len(first) == 6
    assert min(first.values()) > 60


def test_two_photos():
    drawn = samples(plan(alike(1, 2)), 100)
    assert {(sample.target, sample.references) for sample in drawn} == {(0, (1,)), (1, (0,))}


def test_photo_that_is_not_usable_is_a_target_and_no_reference():
    drawn = samples(plan([[("square", True), ("square", False), ("square", True)]]), 300)
    targets = Counter(sample.target for sample in drawn)
    assert {reference for sample in drawn for reference in sample.references} == {0, 2}
    assert all(60 < targets[photo] for photo in range(3))


def test_the_only_usable_photo_is_no_target():
    drawn = samples(plan([[("square", False), ("square", True), ("square", False)]]), 100)
    assert {(sample.target, sample.references) for sample in drawn} == {(0, (1,)), (2, (1,))}


@settings(max_examples=60, deadline=None)
@given(
    people=people_of_some.filter(lambda people: len(people) > 1),
    references=st.integers(1, 9),
    most=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
def test_other_people(people: list[Photos], references: int, most: int, seed: int):
    for sample in samples(plan(people, references=references, other_people=most, seed=seed), 12):
        assert len(sample.shown) == len(sample.references)
        assert len(sample.other_people) <= min(most, (len(sample.references) - 1) // 2)
        for place, (person, photo) in enumerate(sample.shown):
            if place in sample.other_people:
                assert person != sample.person
                assert people[person][photo][1]
            else:
                assert (person, photo) == (sample.person, sample.references[place])


def test_other_people_come_evenly():
    """Numbers of them, their places among the references, and who they are."""
    drawings, most, references = 2000, 3, 9
    drawn = samples(plan(alike(4, 10), references=references, other_people=most), drawings)
    numbers = Counter(len(sample.other_people) for sample in drawn)
    places = Counter(place for sample in drawn for place in sample.other_people)
    pairs = Counter((sample.person, person) for sample in drawn for person, _ in sample.other_people.values())
    for counts, kinds in ((numbers, most + 1), (places, references), (pairs, 4 * 3)):
        expected = counts.total() / kinds
        assert len(counts) == kinds
        assert max(abs(count - expected) for count in counts.values()) < 4.5 * expected**0.5


def test_other_people_where_there_is_nobody_else():
    with pytest.raises(ValueError, match="other_people is 2, but the data set has one person to train on"):
        plan(alike(1, 5), other_people=2)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"purpose": "validation"}])
def test_seed_and_purpose_change_the_plan(changes: dict[str, Any]):
    people = alike(6, 5)
    before, after = samples(plan(people), 30), samples(plan(people, **changes), 30)
    assert [sample.person for sample in before] != [sample.person for sample in after]
    assert [sample.target for sample in before] != [sample.target for sample in after]
    assert before == samples(plan(people), 30)


def test_epochs_differ():
    drawn = samples(plan(alike(6, 5)), 12)
    assert drawn[:6] != drawn[6:]


def test_a_run_that_goes_on_plans_one_epoch(monkeypatch: pytest.MonkeyPatch):
    planned: list[tuple[object, ...]] = []
    keyed_generator = leave_one_out.keyed_generator

    def counted(*key: object) -> torch.Generator:
        planned.append(key)
        return keyed_generator(*key)

    expected = samples(plan(alike(5, 3), batch_size=2), 50)[-2:]
    monkeypatch.setattr(leave_one_out, "keyed_generator", counted)
    assert plan(alike(5, 3), batch_size=2).batch(49) == expected
    assert planned == [(0, "training", 16)]


# Several processes


def person(number: int, photos: Photos) -> Any:
    return SimpleNamespace(
        name=f"person {number}",
        photos=[SimpleNamespace(placement=SimpleNamespace(size=shape), usable=usable) for shape, usable in photos],
    )


def draws(people: list[Photos], share: Share, **changes: Any) -> Draws:
    arguments = {"references": 2, "seed": 0, "purpose": "training"} | changes
    return Draws([person(number, photos) for number, photos in enumerate(people)], share=share, **arguments)


@settings(max_examples=20, deadline=None)
@given(people=people_of_some, processes=st.sampled_from([2, 3, 6]), seed=st.integers(0, 100))
def test_processes_share_the_batches_of_one(people: list[Photos], processes: int, seed: int):
    alone = draws(people, Share(process=0, processes=1, batch_size=6), seed=seed)
    shared = [
        draws(people, Share(process=process, processes=processes, batch_size=6 // processes), seed=seed)
        for process in range(processes)
    ]
    for number in range(4):
        parts = [of_one.batch(number) for of_one in shared]
        samples_of_all = [sample for part, _ in parts for sample in part]
        keys_of_all = [key for _, keys in parts for key in keys]
        assert (samples_of_all, keys_of_all) == alone.batch(number)


def test_keys_are_all_different():
    share = Share(process=1, processes=2, batch_size=3)
    keys = [
        key
        for purpose in ("training", "validation")
        for number in range(12)
        for key in draws(alike(4, 3), share, purpose=purpose).batch(number)[1]
    ]
    assert len(set(keys)) == len(keys) == 2 * 12 * 3


def test_even_timesteps():
    """Over all rows of all batches one from the middle of each of so many equal parts, whoever computes them."""
    batches, rows = 5, 6
    alone = Share(process=0, processes=1, batch_size=rows)
    timesteps = torch.cat([alone.even_timesteps(number, batches) for number in range(batches)])
    expected = ((torch.arange(batches * rows) + 0.5) * TIMESTEPS / (batches * rows)).long()
    assert torch.equal(timesteps, expected)
    assert timesteps.dtype == torch.int64 and timesteps.min() >= 0 and timesteps.max() < TIMESTEPS
    for number in range(batches):
        parts = [Share(process=process, processes=3, batch_size=2) for process in range(3)]
        together = torch.cat([share.even_timesteps(number, batches) for share in parts])
        assert torch.equal(together, alone.even_timesteps(number, batches))


def test_even_timesteps_of_many_rows_stay_in_range():
    share = Share(process=0, processes=1, batch_size=7)
    last = share.even_timesteps(142, 143)
    assert 990 < last.min() <= last.max() == TIMESTEPS - 1
