"""Work that is done ahead of a device: the same results in the same order, and errors where they belong."""

from __future__ import annotations

import threading

import pytest
import torch

from bolid.training.data import Ahead
from bolid.training.features import _read_ahead

CPU, DEVICE = torch.device("cpu"), torch.device("meta")  # "meta": any that is no CPU


@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_batches_are_those_that_were_asked_for(device: torch.device):
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    ahead = Ahead(make, device=device)
    assert [ahead.get(number) for number in (4, 5, 6, 3, 4)] == [16, 25, 36, 9, 16]
    assert made[0] == 4 and set(made) <= {3, 4, 5, 6, 7}


def test_the_next_batch_is_made_while_the_device_computes():
    made = {number: threading.Event() for number in range(4)}

    def make(number: int) -> int:
        made[number].set()
        return number

    ahead = Ahead(make, device=DEVICE)
    assert ahead.get(0) == 0
    assert made[1].wait(timeout=10)
    assert not made[2].is_set()


@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_a_batch_that_cannot_be_made_says_so_when_it_is_asked_for(device: torch.device):
    def make(number: int) -> int:
        if number == 1:
            raise ValueError("a damaged shard")
        return number

    ahead = Ahead(make, device=device)
    assert ahead.get(0) == 0
    with pytest.raises(ValueError, match="a damaged shard"):
        ahead.get(1)
    assert ahead.get(2) == 2


@pytest.mark.parametrize("device", [CPU, DEVICE])
def test_photos_are_read_in_their_order(device: torch.device):
    keys = [f"photo {number}" for number in range(30)]

    def read(key: str) -> str:
        if key == "photo 20":
            raise OSError("gone")
        return key.upper()

    with _read_ahead(read, keys, device) as ready:
        assert [ready(key) for key in keys[:20]] == [key.upper() for key in keys[:20]]
        with pytest.raises(OSError, match="gone"):
            ready(keys[20])
