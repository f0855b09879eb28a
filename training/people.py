"""A prepared data set: whose photos are used, for what, and what is in them.

It is one file, `people.json`, in the folder that `bolid prepare` writes; the photos stay where they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..models.keypoints import COCO_KEYPOINTS
from .config import Count, Fraction, Section
from .files import write_text

FORMAT: Literal[1] = 1
PEOPLE_FILE = "people.json"

DEFAULT_CAPTION = "a photo of a person"
MAX_FINGERPRINT_DISTANCE = 16
"""With more, nearly every pair of photos would have to be compared."""

Keypoint = tuple[Fraction, Fraction, Fraction]
Keypoints = Annotated[tuple[Keypoint, ...], Field(min_length=len(COCO_KEYPOINTS), max_length=len(COCO_KEYPOINTS))]
Box = tuple[Fraction, Fraction, Fraction, Fraction]
CaptionSource = Literal["txt", "jsonl", "template", "blip"]
MissingCaption = Literal["leave_out", "template"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PrepareSettings(Section):
    """What is left out of a data set, and how it is captioned and split.

    Attributes:
        min_side: photos with a shorter side, in pixels, are left out; 0 keeps all. 1000 suits new sets, LFW needs 0.
        max_people: photos with more people or faces are left out; 0 keeps all.
        near_duplicates: bits in which the fingerprints (256 bits) of two photos may differ that count as the same;
            -1 compares contents only.
        test_share: share of the people that training never sees.
        seed: of the split.
        captions: "txt" (a file beside each photo), "jsonl" (one file for all), "template" (one text for all) or "blip".
        caption_file: for "jsonl"; metadata.jsonl in the source folder if not given.
        caption_template: text for "template" and for `missing_caption`.
        caption_model: for "blip": a folder in transformers' format.
        missing_caption: what happens to a photo without a caption.
    """

    min_side: Annotated[int, Field(ge=0)] = 0
    max_people: Annotated[int, Field(ge=0)] = 1
    near_duplicates: Annotated[int, Field(ge=-1, le=MAX_FINGERPRINT_DISTANCE)] = 10
    test_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 1 / 3
    seed: Annotated[int, Field(ge=0)] = 0
    captions: CaptionSource = "template"
    caption_file: Path | None = None
    caption_template: str = DEFAULT_CAPTION
    caption_model: Path | None = None
    missing_caption: MissingCaption = "leave_out"


class PreparedPhoto(Section):
    """One photo, and the person in it; of several people the largest.

    Attributes:
        file: relative to the source folder, with forward slashes.
        sha256: of the file's content.
        width, height: in pixels, once the photo is turned as its EXIF data says.
        caption: without line breaks, never empty.
        keypoints: [17][3] in the order of `models.keypoints.COCO_KEYPOINTS`: x, y in 0 to 1 of the turned photo,
            visibility in 0 to 1. All 0 where only a face was found.
        person_box: x0, y0, x1, y1 in 0 to 1 of the turned photo; None where only a face was found.
        face_box: likewise; None where no face was found, or none of this person.
    """

    file: Annotated[str, Field(min_length=1)]
    sha256: Sha256
    width: Count
    height: Count
    caption: Annotated[str, Field(min_length=1)]
    keypoints: Keypoints
    person_box: Box | None
    face_box: Box | None


class PreparedPerson(Section):
    """One person with at least two photos, in the order of their files."""

    name: Annotated[str, Field(min_length=1)]
    split: Literal["train", "test"]
    photos: Annotated[tuple[PreparedPhoto, ...], Field(min_length=2)]


class PreparedPeople(Section):
    """A prepared data set.

    Attributes:
        format: version of the layout of the file.
        source: absolute path of the folder with the photos.
        settings: with which it was prepared.
        people: in the order of their names.
    """

    format: Literal[1] = FORMAT
    source: Path
    settings: PrepareSettings
    people: Annotated[tuple[PreparedPerson, ...], Field(min_length=1)]

    @classmethod
    def read(cls, folder: str | Path) -> PreparedPeople:
        """Read a folder that `bolid prepare` wrote.

        Raises:
            FileNotFoundError: it holds no prepared data set.
            ValueError: its file is damaged, or of a later version.
        """
        path = Path(folder, PEOPLE_FILE)
        again = f"Run bolid prepare with {folder} as its output to make it anew; results per photo are taken over."
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no prepared data set: there is no {PEOPLE_FILE}. Run bolid prepare SOURCE {folder}."
            )
        check_format(path)
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path} is damaged: {f'{place}: ' if place else ''}{first['msg']}. {again}") from None

    def write(self, folder: str | Path) -> None:
        """Write `people.json` into a folder, in one step."""
        write_text(Path(folder, PEOPLE_FILE), self.model_dump_json() + "\n")


def check_format(path: Path) -> None:
    """Refuse a `people.json` that this version cannot know; damage is none of its business.

    Raises:
        ValueError: of a later version.
    """
    try:
        version = json.loads(path.read_bytes())["format"]
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, and this version of BoLID reads up to {FORMAT}. Update BoLID, or prepare "
            "the photos into another folder."
        )
