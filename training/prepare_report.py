"""What `bolid prepare` tells of its work: for programs as JSON, for people as a page of Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from .config import Section
from .people import PreparedPerson

REPORT_FILE, REPORT_PAGE = "report.json", "report.md"

ROWS_PER_REASON = 20
"""Of what was left out, as the report's page lists it; report.json has all."""

PhotoReason = Literal[
    "unreadable",
    "too small",
    "no person",
    "several people",
    "under two people",
    "no caption",
    "duplicate",
    "near duplicate",
]
PersonReason = Literal["no photo", "fewer than two photos"]


class LeftOut(Section):
    """A photo that is not used, by its file relative to the source folder."""

    file: str
    reason: PhotoReason
    detail: str


class PersonLeftOut(Section):
    """A person who is not used."""

    name: str
    reason: PersonReason
    detail: str


class Ignored(Section):
    """Something in the source folder that is no photo of a person."""

    path: str
    reason: str


class PrepareReport(Section):
    """What became of a folder of photos.

    Attributes:
        photos_found, people_found: with an extension of a photo; folders.
        photos_kept, people_kept: in the prepared data set.
        splits: "train" and "test" -> {"people": n, "photos": m}.
        photos_per_person: number of photos -> number of people who have that many.
        photos_left_out: one entry for each photo that has a reason of its own, in the order of the files.
        people_left_out: likewise. Their remaining photos are in no other list.
        ignored: files and folders that are no photo of a person.
        captions_from_template: photos without a caption that got the template.
        captions_without_photo: captions that belong to no photo.
        captions_with_name: kept photos whose caption names the person, which carries identity into the text.
    """

    photos_found: int
    photos_kept: int
    people_found: int
    people_kept: int
    splits: dict[str, dict[str, int]]
    photos_per_person: dict[int, int]
    photos_left_out: tuple[LeftOut, ...]
    people_left_out: tuple[PersonLeftOut, ...]
    ignored: tuple[Ignored, ...]
    captions_from_template: int
    captions_without_photo: tuple[str, ...]
    captions_with_name: tuple[str, ...]

    def reasons(self) -> dict[str, int]:
        """Reason -> number of photos that were left out for it, the most frequent first."""
        return dict(Counter(photo.reason for photo in self.photos_left_out).most_common())


def report_page(report: PrepareReport, people: Sequence[PreparedPerson], source: Path) -> str:
    """The report as Markdown."""
    lines = [
        "# Prepared photos",
        "",
        f"Source: {_cell(str(source))}",
        "",
        *_table(
            ("", "found", "kept", "train", "test"),
            [
                (what, found, kept, report.splits["train"][what], report.splits["test"][what])
                for what, found, kept in (
                    ("people", report.people_found, report.people_kept),
                    ("photos", report.photos_found, report.photos_kept),
                )
            ],
        ),
        "## Photos that were left out",
        "",
        *_table(("reason", "photos"), list(report.reasons().items())),
    ]
    for reason in report.reasons():
        rows = [(photo.file, photo.detail) for photo in report.photos_left_out if photo.reason == reason]
        lines += [f"### {reason[0].upper()}{reason[1:]}", "", *_table(("photo", "why"), rows, ROWS_PER_REASON)]
    lines += [
        "## People who were left out",
        "",
        *_table(
            ("person", "reason", "photos"),
            [(person.name, person.reason, person.detail) for person in report.people_left_out],
            ROWS_PER_REASON,
        ),
        "## Photos per person",
        "",
        *_table(("photos", "people"), list(report.photos_per_person.items())),
        *_table(("person", "split", "photos"), [(person.name, person.split, len(person.photos)) for person in people]),
    ]
    notes: list[tuple[str, Sequence[tuple[str, ...]]]] = [
        ("Ignored", [(one.path, one.reason) for one in report.ignored]),
        ("Captions without a photo", [(one, "") for one in report.captions_without_photo]),
        ("Captions that name the person", [(one, "the text carries identity") for one in report.captions_with_name]),
    ]
    for title, noted in notes:
        if noted:
            lines += [f"## {title}", "", *_table(("what", "why"), noted, ROWS_PER_REASON)]
    if report.captions_from_template:
        lines += [f"{report.captions_from_template} photos had no caption and got the template.", ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], most: int | None = None) -> list[str]:
    if not rows:
        return ["None.", ""]
    lines = [head, ["---"] * len(head), *rows[:most]]
    table = [f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in lines]
    rest = len(rows) - len(rows[:most])
    return [*table, "", *([f"… and {rest} more, see {REPORT_FILE}.", ""] if rest else [])]


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, in one cell."""
    special = "\\`*_[]<>|#"
    return "".join(f"\\{character}" if character in special else character for character in " ".join(text.split()))
