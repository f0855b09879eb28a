"""Many pictures: a folder of folders, data sets that `bolid train` reads, and what is known of every picture."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..training.files import write_text
from ..training.people import PreparedPeople, PreparedPerson, PreparedPhoto, PrepareSettings
from ..training.processes import ProcessDied, cores, results_in_processes
from ..training.progress import Progress
from .identities import SPLITS, WORLD_VERSION, Split
from .pictures import MIN_SIDE, SIDE, picture_of, record

PICTURES = 10
"""Of each person."""

PHOTOS_FOLDER, MASKS_FOLDER, PREPARED_FOLDER = "photos", "masks", "prepared"
ORACLE_FILE, CAPTIONS_FILE = "oracle.jsonl", "metadata.jsonl"

PREPARED_SETS: dict[str, dict[Split, Literal["train", "test"]]] = {
    "training": {"train": "train", "validation": "test"},
    "test": {"test": "test"},
    "demo": {"demo": "test"},
    "metrics": {"metrics": "train", "validation": "test"},
}
"""Prepared data sets, and as what the people of each split come in: whoever trains holds out the validation people, and
never sees those of the test."""


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """What a worker says of one person."""

    split: Split
    number: int
    photos: tuple[PreparedPhoto, ...]
    records: tuple[str, ...]


def person_name(number: int) -> str:
    """Name of a person's folder."""
    return f"person_{number:04d}"


def render(
    output: str | Path,
    *,
    splits: Sequence[Split] = ("train", "validation", "test", "demo"),
    people: int | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    size: int = SIDE,
    workers: int | None = None,
    progress: Progress = lambda stage, done, total, note="": None,
) -> dict[str, Any]:
    """Draw the people of some splits.

    The output folder then holds `photos/<person>/<picture>.png`, `masks/<person>/<picture>.png` (palette pictures with
    the numbers of `parts.PARTS`), `photos/metadata.jsonl` (captions), `oracle.jsonl` (a line per picture, see
    `pictures.record`), and `prepared/<name>/people.json` for each of `PREPARED_SETS` that has somebody to learn from or
    to test on.

    Args:
        output: a folder that is empty, or does not exist.
        splits: which people, see `identities.SPLITS`.
        people: the first so many of each split; all if not given.
        pictures: of each person; at least 2.
        seed: of the world; every seed has other people.
        size: side of the pictures in pixels.
        workers: processes that draw; as many as there are cores if not given.
        progress: told how far it is.

    Returns:
        `output`, `world` (the version), `seed`, and `pictures` and `people` per split.

    Raises:
        ValueError: a number or split that cannot be, or a folder that holds something.
        RuntimeError: a process ended by itself.
    """
    output = Path(output).resolve()
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        raise ValueError(f"splits is {list(splits)}; give one or more of {', '.join(SPLITS)}.")
    for name, value, least in (
        ("people", people, 1),
        ("pictures", pictures, 2),
        ("size", size, MIN_SIDE),
        ("workers", workers, 1),
        ("seed", seed, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it has to be at least {least}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not an empty folder. Give a new one: pictures of two worlds must not mix.")

    chosen = [(split, number) for split in SPLITS if split in splits for number in SPLITS[split][:people]]
    output.mkdir(parents=True, exist_ok=True)
    draw = functools.partial(_draw_person, output, pictures=pictures, seed=seed, size=size)
    rendered: list[_Rendered] = []
    progress("pictures", 0, len(chosen) * pictures)
    with closing(_in_any_order(draw, chosen, workers or cores())) as drawn:
        for person in drawn:
            rendered.append(person)
            progress("pictures", len(rendered) * pictures, len(chosen) * pictures)
    rendered.sort(key=lambda person: person.number)
    write_text(output / ORACLE_FILE, "".join(f"{line}\n" for person in rendered for line in person.records))
    captions = [
        json.dumps({"file": photo.file, "text": photo.caption}) + "\n" for person in rendered for photo in person.photos
    ]
    write_text(output / PHOTOS_FOLDER / CAPTIONS_FILE, "".join(captions))
    for name, roles in PREPARED_SETS.items():
        _write_prepared(output, name, roles, rendered)
    counts = {split: sum(person.split == split for person in rendered) for split in splits}
    return {
        "output": str(output),
        "world": WORLD_VERSION,
        "seed": seed,
        "people": counts,
        "pictures": {split: count * pictures for split, count in counts.items()},
    }


def contact_sheet(numbers: Sequence[int], *, pictures: Sequence[int], size: int = SIDE, seed: int = 0) -> Image.Image:
    """A row of pictures for each person."""
    rows = [
        np.concatenate([picture_of(number, picture, seed=seed, size=size).pixels for picture in pictures], axis=1)
        for number in numbers
    ]
    return Image.fromarray(np.concatenate(rows))


def _in_any_order(
    draw: Callable[[tuple[Split, int]], _Rendered], people: Sequence[tuple[Split, int]], workers: int
) -> Generator[_Rendered]:
    if workers == 1:
        yield from map(draw, people)
        return
    try:
        yield from results_in_processes(draw, people, workers=workers)
    except ProcessDied as error:
        names = ", ".join(person_name(number) for _, number in error.items)
        raise RuntimeError(
            f"A process ended by itself while it drew one of these people: {names}. The computer may be short of "
            "memory: take fewer workers. Delete the folder to start again."
        ) from error


def _draw_person(output: Path, person: tuple[Split, int], *, pictures: int, seed: int, size: int) -> _Rendered:
    """Draw and write the pictures of one person. Runs in a worker."""
    split, number = person
    name = person_name(number)
    photos, records = [], []
    for folder in (PHOTOS_FOLDER, MASKS_FOLDER):
        (output / folder / name).mkdir(parents=True)
    for index in range(pictures):
        picture = picture_of(number, index, seed=seed, size=size)
        file = f"{name}/{index}.png"
        content = _png(Image.fromarray(picture.pixels))
        (output / PHOTOS_FOLDER / file).write_bytes(content)
        (output / MASKS_FOLDER / file).write_bytes(_png(_mask(picture.labels)))
        facts = record(picture)
        photos.append(
            PreparedPhoto(
                file=file,
                sha256=hashlib.sha256(content).hexdigest(),
                width=size,
                height=size,
                caption=facts["caption"],
                keypoints=facts["keypoints"],
                person_box=facts["person_box"],
                face_box=facts["face_box"],
            )
        )
        records.append(json.dumps({"file": file, **facts}))
    return _Rendered(split=split, number=number, photos=tuple(photos), records=tuple(records))


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    # A twentieth larger than at the usual level, in half the time.
    picture.save(content, format="PNG", compress_level=3)
    return content.getvalue()


def _mask(labels: np.ndarray) -> Image.Image:
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette([0, 0, 0, 240, 200, 160, 250, 130, 130, 120, 70, 30, 60, 120, 220, 80, 190, 90, 230, 220, 90])
    return mask


def _write_prepared(
    output: Path, name: str, roles: dict[Split, Literal["train", "test"]], rendered: Iterable[_Rendered]
) -> None:
    """One data set, where there is somebody it is for."""
    people = [person for person in rendered if person.split in roles]
    if not any(person.split == next(iter(roles)) for person in people):
        return
    folder = output / PREPARED_FOLDER / name
    folder.mkdir(parents=True)
    PreparedPeople(
        source=output / PHOTOS_FOLDER,
        settings=PrepareSettings(captions="jsonl", near_duplicates=-1),
        people=tuple(
            PreparedPerson(name=person_name(person.number), split=roles[person.split], photos=person.photos)
            for person in people
        ),
    ).write(folder)
