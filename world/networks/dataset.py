"""Rendered pictures, and what is known of them, as the world's networks read them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...models.keypoints import FIRST_JOINT
from ...training.data import Share
from ...training.randomness import keyed_generator
from ..identities import Split
from ..render import MASKS_FOLDER, ORACLE_FILE, PHOTOS_FOLDER

HELD_OUT: Split = "validation"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of some people.

    Attributes:
        files, masks: of the pictures, and of the parts that they show.
        captions: of each.
        attributes, identities: as in the oracle's file.
        joints: [n, 12, 3] x, y in 0 to 1, visibility.
        people: [n] whose picture it is, counted from 0.
        pictures_of: numbers of the pictures of each of them.
        fingerprint: of everything that the pictures follow from.
    """

    files: tuple[Path, ...]
    masks: tuple[Path, ...]
    captions: tuple[str, ...]
    attributes: tuple[dict[str, Any], ...]
    identities: tuple[dict[str, Any], ...]
    joints: torch.Tensor
    people: torch.Tensor
    pictures_of: tuple[tuple[int, ...], ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.files)

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """For messages."""
        return tuple(f"{self.files[number].parent.name}/{self.files[number].name}" for number in numbers)

    def pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        """[b, 3, S, S] in -1 to 1."""
        read = [np.asarray(Image.open(self.files[number]).convert("RGB")) for number in numbers]
        return torch.from_numpy(np.stack(read)).movedim(-1, 1).float() / 127.5 - 1

    def parts(self, numbers: Sequence[int]) -> torch.Tensor:
        """[b, S, S] number of the part that each pixel shows, see `world.parts`."""
        read = [np.asarray(Image.open(self.masks[number])) for number in numbers]
        return torch.from_numpy(np.stack(read).astype(np.int64))

    def spread(self, count: int) -> list[int]:
        """Numbers of so many pictures, evenly over all of them; all where there are fewer."""
        count = min(count, len(self))
        return [place * len(self) // count for place in range(count)]

    def summary(self) -> dict[str, int]:
        """How much there is."""
        return {"people": len(self.pictures_of), "photos": len(self)}


def load_pictures(folders: Sequence[Path], split: Split) -> Pictures:
    """The pictures of a split in folders of `bolid world render`.

    Raises:
        ValueError: no such folder, or nobody of that split in them; the message has the command that draws them.
    """
    digest = hashlib.sha256()
    records, files, masks = [], [], []
    for folder in folders:
        path = folder / ORACLE_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} is no folder of drawn people: it has no {ORACLE_FILE}. bolid world render {folder} --split "
                f"{split} draws some."
            )
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            if record["split"] == split:
                digest.update(line)
                records.append(record)
                files.append(folder / PHOTOS_FOLDER / record["file"])
                masks.append(folder / MASKS_FOLDER / record["file"])
    if not records:
        raise ValueError(
            f"There is nobody of the split {split!r} in {', '.join(map(str, folders))}. Draw them with "
            f"bolid world render OUTPUT --split {split}, and add OUTPUT to data.folders."
        )
    numbers: dict[tuple[int, int], int] = {}
    people = [numbers.setdefault((record["seed"], record["person"]), len(numbers)) for record in records]
    pictures_of: list[list[int]] = [[] for _ in numbers]
    for picture, person in enumerate(people):
        pictures_of[person].append(picture)
    return Pictures(
        files=tuple(files),
        masks=tuple(masks),
        captions=tuple(record["caption"] for record in records),
        attributes=tuple(record["attributes"] for record in records),
        identities=tuple(record["identity"] for record in records),
        joints=torch.tensor([record["keypoints"][FIRST_JOINT:] for record in records]),
        people=torch.tensor(people),
        pictures_of=tuple(map(tuple, pictures_of)),
        fingerprint=digest.hexdigest(),
    )


class Shuffled:
    """Numbers below `count`, each once per round, in an order that depends on the key alone."""

    def __init__(self, count: int, *key: object):
        self._count = count
        self._key = key
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, turn: int) -> list[int]:
        return torch.randperm(self._count, generator=keyed_generator(*self._key, turn)).tolist()

    def __getitem__(self, place: int) -> int:
        return self._order(place // self._count)[place % self._count]


class PictureDraws:
    """Which pictures are in which batch; the same for any number of processes.

    Args:
        pictures: to choose from.
        share: rows of this process.
        seed: of the run.
        people_per_batch: a process's rows are of so many people, equally many of each, and nobody is in a batch twice;
            0: any pictures.

    Raises:
        ValueError: fewer people than a batch needs.
    """

    def __init__(self, pictures: Pictures, *, share: Share, seed: int, people_per_batch: int = 0):
        self._pictures = pictures
        self._share = share
        self._seed = seed
        self._people = people_per_batch
        people = len(pictures.pictures_of)
        if people_per_batch * share.processes > people:
            raise ValueError(
                f"A batch is of {people_per_batch * share.processes} people (people_per_batch), but there are {people}."
            )
        self._order = Shuffled(len(pictures.pictures_of) if people_per_batch else len(pictures), seed, "pictures")

    def batch(self, number: int) -> list[int]:
        """Numbers of this process's pictures in a batch."""
        if not self._people:
            first = number * self._share.all_rows
            return [self._order[first + row] for row in self._share.rows]
        # Who is left at the end of a round waits for the next one.
        people, each_batch = len(self._pictures.pictures_of), self._share.processes * self._people
        turn, place_in_turn = divmod(number, people // each_batch)
        first = turn * people + place_in_turn * each_batch + self._share.process * self._people
        each = self._share.batch_size // self._people
        drawn: list[int] = []
        for place in range(first, first + self._people):
            choices = self._pictures.pictures_of[self._order[place]]
            order = torch.randperm(len(choices), generator=keyed_generator(self._seed, "pictures of", place)).tolist()
            drawn.extend(choices[order[index % len(order)]] for index in range(each))
        return drawn

    def generators(self, number: int) -> list[torch.Generator]:
        """Of the random numbers of each row of a batch."""
        return [keyed_generator(self._seed, "row", number, row) for row in self._share.rows]
