"""`bolid prepare`: a folder of folders, one per person, becomes a prepared data set.

Every photo is read and searched for people once, by several processes; what is found goes to `photos.jsonl` in the
output folder, so that a run that was cut off goes on. What is left out is decided afterwards, from these facts alone:
the result depends neither on the order of the work nor on the number of processes, and another setting costs seconds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from ..detectors.faces import Face, MediaPipeFaceDetector
from ..detectors.people import MediaPipePersonDetector, Person
from ..detectors.photos import PHOTO_EXTENSIONS, read_picture
from ..models.keypoints import COCO_KEYPOINTS
from .captions import (
    METADATA_FILE,
    BlipCaptioner,
    Captions,
    captions_from_jsonl,
    captions_from_text_files,
    check_template,
    names_person,
)
from .config import Section
from .files import write_text
from .fingerprint import model_fingerprint
from .journal import Journal
from .people import (
    PEOPLE_FILE,
    Box,
    Keypoints,
    PreparedPeople,
    PreparedPerson,
    PreparedPhoto,
    PrepareSettings,
    Sha256,
    check_format,
)
from .prepare_report import (
    REPORT_FILE,
    REPORT_PAGE,
    Ignored,
    LeftOut,
    PersonLeftOut,
    PhotoReason,
    PrepareReport,
    report_page,
)
from .processes import ProcessDied, cores, results_in_processes
from .progress import Progress

logger = logging.getLogger(__name__)

PHOTOS_FILE, CAPTIONS_FILE, WORKERS_LOG = "photos.jsonl", "captions.jsonl", "workers.log"

ANALYSIS = 2
"""To be raised when the same photo would give other facts."""

MIN_PHOTOS = 2
"""One to be drawn, and one to tell the adapter who it is."""

FINGERPRINT_SIDE = 16
DECIMALS = 6
NOSE = COCO_KEYPOINTS.index("nose")
NO_KEYPOINTS = ((0.0, 0.0, 0.0),) * len(COCO_KEYPOINTS)


def prepare(
    source: str | Path,
    output: str | Path,
    settings: PrepareSettings | None = None,
    *,
    workers: int | None = None,
    progress: Progress = lambda stage, done, total, note="": None,
) -> PrepareReport:
    """Prepare a data set.

    Args:
        source: a folder with a folder per person, photos in each; it is only read.
        output: folder for people.json, report.md, report.json and the results per photo; not inside the source folder.
        settings: what is left out, captions, split; the defaults if not given.
        workers: processes that look at photos; as many as there are cores if not given.
        progress: told how far it is.

    Raises:
        FileNotFoundError: no source folder, or no caption file.
        ValueError: a folder, setting or caption that cannot be used, or no person with two photos is left (the report
            is written all the same).
        RuntimeError: no detectors, or a process ended by itself.
    """
    settings = settings or PrepareSettings()
    source, output = _folders(Path(source), Path(output))
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; at least one process has to look at the photos.")
    template = check_template(settings.caption_template)
    if settings.captions == "blip" and settings.caption_model is None:
        raise ValueError("Captions by BLIP need caption_model, the folder of a BLIP model in transformers' format.")
    found = _scan(source)
    captions = _captions(source, settings, [photo.file for photo in found.photos])
    captioner = _Captioner(settings.caption_model, output) if settings.captions == "blip" else None

    output.mkdir(parents=True, exist_ok=True)
    facts = _all_facts(source, output, found.photos, settings.min_side, workers or cores(), progress)
    left_out = _left_out(facts, settings)
    kept = {file: fact for file, fact in facts.items() if file not in left_out}
    if captioner is not None:
        # The costly way to captions: only for what is used otherwise.
        left_out |= _duplicates(kept, settings.near_duplicates)
        kept = {file: fact for file, fact in kept.items() if file not in left_out}
        captions = captioner.captions(source, kept, progress)
    texts = dict(captions.texts)
    without = [file for file in kept if file not in texts]
    if settings.missing_caption == "template":
        texts |= dict.fromkeys(without, template)
    else:
        left_out |= {
            file: LeftOut(file=file, reason="no caption", detail=captions.problems.get(file, "")) for file in without
        }
        kept = {file: fact for file, fact in kept.items() if file in texts}
    # A copy that has a caption is kept for one that has none.
    left_out |= _duplicates(kept, settings.near_duplicates)
    kept = {file: fact for file, fact in kept.items() if file not in left_out}

    people, people_left_out = _people(found, kept, texts, settings)
    used = [photo.file for person in people for photo in person.photos]
    report = PrepareReport(
        photos_found=len(found.photos),
        photos_kept=len(used),
        people_found=len(found.names),
        people_kept=len(people),
        splits={split: _count(person for person in people if person.split == split) for split in ("train", "test")},
        photos_per_person=dict(sorted(Counter(len(person.photos) for person in people).items())),
        photos_left_out=tuple(left_out[file] for file in sorted(left_out)),
        people_left_out=tuple(people_left_out),
        ignored=tuple(found.ignored),
        captions_from_template=len(set(without) & set(used)) if settings.missing_caption == "template" else 0,
        captions_without_photo=tuple(captions.without_photo),
        captions_with_name=tuple(file for file in used if names_person(texts[file], _name(file))),
    )
    write_text(output / REPORT_FILE, report.model_dump_json(indent=1) + "\n")
    write_text(output / REPORT_PAGE, report_page(report, people, source))
    if not people:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.reasons().items()) or "none"
        raise ValueError(
            f"No person with {MIN_PHOTOS} photos is left of {report.people_found} people and {report.photos_found} "
            f"photos in {source}. Photos left out: {reasons}. {output / REPORT_PAGE} lists them; change the settings, "
            "or add photos."
        )
    PreparedPeople(source=source, settings=settings, people=tuple(people)).write(output)
    return report


def split_people(names: Sequence[str], *, test_share: float, seed: int) -> dict[str, Literal["train", "test"]]:
    """Who is trained on, and who is held out.

    People are ranked by a hash of seed and name, and the first ones are held out. The share is exact up to rounding,
    which a small set needs (drawing each person alone often leaves three people without a held-out one), the order of
    the names does not matter, and one more person moves at most one other. Both sides have somebody as soon as there
    are two people and a share.

    Args:
        names: of the people, each once.
        test_share: 0 to 1.
        seed: of the split.
    """

    def rank(name: str) -> tuple[str, str]:
        # Some systems keep é as one character, some as two.
        text = unicodedata.normalize("NFC", name)
        return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest(), name

    held_out = math.floor(test_share * len(names) + 0.5)
    if test_share:
        held_out = max(1, held_out)
    held_out = min(held_out, len(names) - 1)
    ranked = sorted(names, key=rank)
    return {name: "test" if number < held_out else "train" for number, name in enumerate(ranked)}


# What there is


@dataclass(frozen=True)
class _File:
    """A photo as the folder lists it."""

    file: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Found:
    """Everything in a source folder, in a fixed order."""

    names: list[str]
    photos: list[_File]
    ignored: list[Ignored]


def _folders(source: Path, output: Path) -> tuple[Path, Path]:
    if not source.is_dir():
        raise FileNotFoundError(
            f"There is no folder {source}. Give the folder that holds one folder of photos per person."
        )
    source, output = source.resolve(), output.resolve()
    if not _is_unicode(str(source)):
        raise ValueError(f"The name of the folder {str(source)!a} is no valid UTF-8. Rename it.")
    if output == source or output.is_relative_to(source):
        raise ValueError(
            f"The output folder {output} lies inside the source folder {source}, where it would be taken for a person. "
            "Give a folder elsewhere."
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {output} is a file. Give a folder.")
    prepared = output / PEOPLE_FILE
    if prepared.is_file():
        check_format(prepared)
        other = _source_of(prepared)
        if other is not None and other != source and other.is_dir():
            raise ValueError(
                f"{output} already holds a data set that was made from {other}, not from {source}. Give another output "
                f"folder, or delete {prepared}."
            )
    return source, output


def _source_of(prepared: Path) -> Path | None:
    try:
        return Path(json.loads(prepared.read_bytes())["source"])
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged and is made anew.", prepared)
        return None


def _scan(source: Path) -> _Found:
    names: list[str] = []
    photos: list[_File] = []
    ignored: list[Ignored] = []

    def leave(path: str, reason: str) -> None:
        # A name that is no Unicode cannot be written as it is.
        ignored.append(Ignored(path=path.encode(errors="replace").decode(), reason=reason))

    for entry in _listed(source):
        if not _is_unicode(entry.name):
            leave(entry.name, "its name is no valid UTF-8; rename it")
        elif _is_folder(entry):
            names.append(entry.name)
            for inner in _listed(Path(entry.path)):
                path = f"{entry.name}/{inner.name}"
                if not _is_unicode(inner.name):
                    leave(path, "its name is no valid UTF-8; rename it")
                elif _is_folder(inner):
                    leave(path, "a folder inside a person's folder is not read")
                elif Path(inner.name).suffix.lower() not in PHOTO_EXTENSIONS:
                    if not inner.name.endswith(".txt"):
                        leave(path, "no photo by its extension")
                elif (file := _file(path, inner)) is None:
                    leave(path, "no file: a link that leads nowhere, or a device")
                else:
                    photos.append(file)
        elif Path(entry.name).suffix.lower() in PHOTO_EXTENSIONS:
            leave(entry.name, "in no person's folder")
    if not photos:
        loose = sum(one.reason == "in no person's folder" for one in ignored)
        nested = sum(one.reason.startswith("a folder inside") for one in ignored)
        hint = ""
        if loose:
            hint = f" {loose} photos lie in the folder itself: put those of each person into a folder of their own."
        elif nested:
            deeper = next(one.path for one in ignored if one.reason.startswith("a folder inside"))
            hint = f" There are folders one level deeper, such as {deeper}: give the folder that holds them."
        raise ValueError(
            f"{source} has no photos. It must hold one folder per person with photos in it "
            f"({', '.join(sorted(PHOTO_EXTENSIONS))}).{hint}"
        )
    return _Found(names, photos, ignored)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _file(path: str, entry: os.DirEntry[str]) -> _File | None:
    try:
        if not entry.is_file():
            return None
        status = entry.stat()
    except OSError:
        return None
    return _File(path, status.st_size, status.st_mtime_ns)


def _name(file: str) -> str:
    return file.split("/", maxsplit=1)[0]


# What is in a photo


class PhotoFacts(Section):
    """What is in a photo, whatever the settings; a line of `photos.jsonl`.

    Attributes:
        file, size, mtime_ns, analysis: the facts hold as long as these are the same.
        problem: why the photo cannot be read; then nothing else is known.
        fingerprint: 256 bits that change little when the photo is scaled, recoloured or compressed.
        people: people, or faces if these are more; None where nobody was looked for because the photo is too small.
        keypoints, person_box, face_box: see `PreparedPhoto`.
    """

    file: str
    size: int
    mtime_ns: int
    analysis: str
    problem: str = ""
    sha256: Sha256 | Literal[""] = ""
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]*$")] = "0"
    width: int = 0
    height: int = 0
    people: int | None = None
    keypoints: Keypoints = NO_KEYPOINTS
    person_box: Box | None = None
    face_box: Box | None = None


def _analysis() -> str:
    """What the facts depend on beside the photo."""
    try:
        return f"{ANALYSIS}, mediapipe {importlib.metadata.version('mediapipe')}"
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeError(
            "bolid prepare needs the package mediapipe, which is not installed: python -m pip install "
            "mediapipe==0.10.21, in this environment. It runs on Python 3.10 to 3.12."
        ) from error


def _facts(source: Path, photo: _File, analysis: str, min_side: int) -> PhotoFacts:
    """Look at one photo. Runs in a worker."""
    path = source / photo.file
    known: dict[str, Any] = {
        "file": photo.file, "size": photo.size, "mtime_ns": photo.mtime_ns, "analysis": analysis,
    }  # fmt: skip
    try:
        picture, (width, height) = read_picture(path)
        known["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        return PhotoFacts(**known, problem=str(error).removeprefix(f"{path.name}: "))
    known |= {"fingerprint": _fingerprint(picture), "width": width, "height": height}
    if min(width, height) < min_side:
        return PhotoFacts(**known)
    pixels = np.asarray(picture)
    person_detector, face_detector = _detectors()
    faces = face_detector.detect(pixels)
    people = person_detector.detect(pixels, faces)
    # Somebody may be seen from behind, and somebody else have no more than a face.
    alone = [face for face in faces if not any(_is_inside(face, person) for person in people)]
    known["people"] = len(people) + len(alone)
    face = next(iter(faces), None)
    if people:
        face = next((face for face in faces if _is_face_of(face, people[0])), None)
        keypoints = people[0].keypoints / (*picture.size, 1)
        known["keypoints"] = tuple(_fractions(point) for point in keypoints.tolist())
        known["person_box"] = _relative(people[0].box, picture.size)
    known["face_box"] = None if face is None else _relative(face.box, picture.size)
    return PhotoFacts(**known)


@functools.cache
def _detectors() -> tuple[MediaPipePersonDetector, MediaPipeFaceDetector]:
    """The detectors of this process; they live as long as it does."""
    return MediaPipePersonDetector().__enter__(), MediaPipeFaceDetector().__enter__()


def _fingerprint(picture: Image.Image) -> str:
    """A difference hash: in a tiny grey picture, where is a pixel brighter than its neighbour to the left?

    16 × 16 bits: other sizes, colours and compressions of ten photographs changed at most 12 (mostly below 6), cutting
    off 3 % on each side 29 and more; two of the photographs differ by 112 and more.
    Source: http://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html
    """
    tiny = picture.convert("L").resize((FINGERPRINT_SIDE + 1, FINGERPRINT_SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(tiny)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


def _is_face_of(face: Face, person: Person) -> bool:
    x0, y0, x1, y1 = face.box
    x, y, visibility = person.keypoints[NOSE]
    return bool(visibility > 0 and x0 <= x <= x1 and y0 <= y <= y1)


def _is_inside(face: Face, person: Person) -> bool:
    x0, y0, x1, y1 = person.box
    left, top, right, bottom = face.box
    return x0 <= (left + right) / 2 <= x1 and y0 <= (top + bottom) / 2 <= y1


def _relative(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, ...]:
    return _fractions(edge / length for edge, length in zip(box, size * 2, strict=True))


def _fractions(values: Any) -> tuple[float, ...]:
    return tuple(round(min(max(float(value), 0.0), 1.0), DECIMALS) for value in values)


# Many photos at once


def _all_facts(
    source: Path, output: Path, photos: Sequence[_File], min_side: int, workers: int, progress: Progress
) -> dict[str, PhotoFacts]:
    """Facts by file, in the order of the photos; what the journal has is taken from it."""
    analysis = _analysis()
    with Journal(output / PHOTOS_FILE) as journal:
        facts = _known_facts(journal.entries, {photo.file: photo for photo in photos}, analysis, min_side)
        todo = [photo for photo in photos if photo.file not in facts]
        progress("photos", len(facts), len(photos))
        if todo:
            look = functools.partial(_facts, source, analysis=analysis, min_side=min_side)
            with contextlib.closing(_in_processes(look, todo, workers, output / WORKERS_LOG)) as found:
                for fact in found:
                    # What cannot be read today may be readable with another Pillow tomorrow, and cost nothing.
                    if not fact.problem:
                        journal.append(fact.model_dump(mode="json"))
                    facts[fact.file] = fact
                    progress("photos", len(facts), len(photos))
    return {photo.file: facts[photo.file] for photo in photos}


def _known_facts(
    entries: Sequence[Mapping[str, Any]], photos: Mapping[str, _File], analysis: str, min_side: int
) -> dict[str, PhotoFacts]:
    facts, damaged = {}, 0
    for entry in entries:
        try:
            fact = PhotoFacts.model_validate(entry)
        except ValidationError:
            damaged += 1
            continue
        photo = _File(fact.file, fact.size, fact.mtime_ns)
        is_complete = fact.people is not None or min(fact.width, fact.height) < min_side
        if photos.get(fact.file) == photo and fact.analysis == analysis and is_complete:
            facts[fact.file] = fact
    if damaged:
        logger.warning("%s: %d entries are not understood; their photos are looked at again.", PHOTOS_FILE, damaged)
    return facts


def _in_processes(
    look: Callable[[_File], PhotoFacts], photos: Sequence[_File], workers: int, log: Path
) -> Generator[PhotoFacts]:
    """Results as they come; in any order."""
    log.write_bytes(b"")
    try:
        yield from results_in_processes(look, photos, workers=workers, initializer=functools.partial(_hush, log))
    except ProcessDied as error:
        files = ", ".join(photo.file for photo in error.items)
        raise RuntimeError(
            f"A process ended by itself while it looked at one of these photos: {files}. The computer may be short of "
            f"memory (take fewer workers), or a photo is broken in a way that Pillow or mediapipe does not survive "
            f"(take it away; with one worker at most two are named); {log} may say more. The same command goes on "
            "where this one stopped."
        ) from error


def _hush(log: Path) -> None:
    """mediapipe writes notes for its authors to the terminal, across the progress bar."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)


# What is left out


def _left_out(facts: Mapping[str, PhotoFacts], settings: PrepareSettings) -> dict[str, LeftOut]:
    """Photos that are of no use, by file; each for the first reason that holds."""
    elsewhere = _under_two_people(
        # Not what else may be known of a photo: an earlier run may have looked at it with other settings.
        [fact for fact in facts.values() if _reason(fact, settings)[0] is None],
        settings.near_duplicates,
    )
    left_out = {}
    for file, fact in facts.items():
        reason, detail = _reason(fact, settings)
        if reason is None and file in elsewhere:
            reason, detail = "under two people", f"also {elsewhere[file]}"
        if reason is not None:
            left_out[file] = LeftOut(file=file, reason=reason, detail=detail)
    return left_out


def _reason(fact: PhotoFacts, settings: PrepareSettings) -> tuple[PhotoReason | None, str]:
    if fact.problem:
        return "unreadable", fact.problem
    if min(fact.width, fact.height) < settings.min_side:
        return "too small", f"{fact.width} × {fact.height} pixels, the shorter side must have {settings.min_side}"
    if not fact.people:
        return "no person", "neither a body nor a face was found"
    if settings.max_people and fact.people > settings.max_people:
        return "several people", f"{fact.people} people or faces, allowed: {settings.max_people}"
    return None, ""


def _under_two_people(facts: Sequence[PhotoFacts], distance: int) -> dict[str, str]:
    """Files of photos that are there under another person as well -> one of those."""
    pairs = itertools.chain(_equal(facts), _similar(facts, distance))
    found: dict[str, str] = {}
    for one, other in pairs:
        if _name(one.file) != _name(other.file):
            for here, there in ((one.file, other.file), (other.file, one.file)):
                found[here] = min(found.get(here, there), there)
    return found


def _equal(facts: Sequence[PhotoFacts]) -> Iterator[tuple[PhotoFacts, PhotoFacts]]:
    groups = defaultdict(list)
    for fact in facts:
        groups[fact.sha256].append(fact)
    for group in groups.values():
        yield from itertools.combinations(group, 2)


def _similar(facts: Sequence[PhotoFacts], distance: int) -> Iterator[tuple[PhotoFacts, PhotoFacts]]:
    """Pairs whose fingerprints differ in at most `distance` bits, some more than once; none if it is negative.

    Not every pair is compared: where at most d bits differ, one of d + 1 bands of bits is the same.
    """
    fingerprints = [(int(fact.fingerprint, 16), fact) for fact in facts]
    bits = FINGERPRINT_SIDE**2
    for band in range(distance + 1):
        # Bits of a band lie far apart, so that a plain background does not make it equal in many photos.
        mask = sum(1 << bit for bit in range(band, bits, distance + 1))
        groups = defaultdict(list)
        for fingerprint, fact in fingerprints:
            groups[fingerprint & mask].append((fingerprint, fact))
        for group in groups.values():
            for (one, fact), (other, other_fact) in itertools.combinations(group, 2):
                if (one ^ other).bit_count() <= distance:
                    yield fact, other_fact


def _duplicates(facts: Mapping[str, PhotoFacts], distance: int) -> dict[str, LeftOut]:
    """Photos of which there is another of the same person; the largest is kept, the first of equally large ones."""
    left_out = {}
    by_name = defaultdict(list)
    for fact in facts.values():
        by_name[_name(fact.file)].append(fact)
    for photos in by_name.values():
        kept: list[tuple[int, PhotoFacts]] = []
        for fact in sorted(photos, key=lambda fact: (-fact.width * fact.height, fact.file)):
            fingerprint = int(fact.fingerprint, 16)
            same = next((other for _, other in kept if other.sha256 == fact.sha256), None)
            near = next((other for bits, other in kept if (bits ^ fingerprint).bit_count() <= distance), None)
            if same is not None:
                left_out[fact.file] = LeftOut(file=fact.file, reason="duplicate", detail=f"of {same.file}")
            elif near is not None:
                left_out[fact.file] = LeftOut(file=fact.file, reason="near duplicate", detail=f"of {near.file}")
            else:
                kept.append((fingerprint, fact))
    return left_out


# Captions


def _captions(source: Path, settings: PrepareSettings, files: Sequence[str]) -> Captions:
    match settings.captions:
        case "txt":
            return captions_from_text_files(source, files)
        case "jsonl":
            return captions_from_jsonl(settings.caption_file or source / METADATA_FILE, files)
        case "template":
            return Captions(texts=dict.fromkeys(files, check_template(settings.caption_template)))
        case "blip":
            return Captions(texts={})


class _Captioner:
    """Captions by BLIP; results per photo go to `captions.jsonl` in the output folder."""

    def __init__(self, folder: Path, output: Path):
        self._model = BlipCaptioner(folder)
        self._model_fingerprint = model_fingerprint(folder)
        self._output = output

    def captions(self, source: Path, facts: Mapping[str, PhotoFacts], progress: Progress) -> Captions:
        texts = {}
        with Journal(self._output / CAPTIONS_FILE) as journal:
            known = {
                entry.get("sha256"): entry.get("text")
                for entry in journal.entries
                if entry.get("model") == self._model_fingerprint and isinstance(entry.get("text"), str)
            }
            for number, (file, fact) in enumerate(facts.items()):
                progress("captions", number, len(facts))
                text = known.get(fact.sha256)
                if text is None:
                    text = self._model.caption(read_picture(source / file)[0])
                    journal.append({"sha256": fact.sha256, "model": self._model_fingerprint, "text": text})
                if text:
                    texts[file] = text
            progress("captions", len(facts), len(facts))
        return Captions(texts=texts, problems={file: "BLIP gave none" for file in facts if file not in texts})


# What is kept, and how one reads of it


def _people(
    found: _Found, kept: Mapping[str, PhotoFacts], texts: Mapping[str, str], settings: PrepareSettings
) -> tuple[list[PreparedPerson], list[PersonLeftOut]]:
    photos = defaultdict(list)
    for file, fact in kept.items():
        photos[_name(file)].append(
            PreparedPhoto(
                file=file,
                sha256=fact.sha256,
                width=fact.width,
                height=fact.height,
                caption=texts[file],
                keypoints=fact.keypoints,
                person_box=fact.person_box,
                face_box=fact.face_box,
            )
        )
    counts = Counter(_name(photo.file) for photo in found.photos)
    left_out = []
    for name in found.names:
        if not counts[name]:
            left_out.append(PersonLeftOut(name=name, reason="no photo", detail="the folder has none"))
        elif len(photos[name]) < MIN_PHOTOS:
            detail = f"{len(photos[name])} of {counts[name]} left"
            left_out.append(PersonLeftOut(name=name, reason="fewer than two photos", detail=detail))
    names = [name for name in found.names if len(photos[name]) >= MIN_PHOTOS]
    splits = split_people(names, test_share=settings.test_share, seed=settings.seed)
    people = [PreparedPerson(name=name, split=splits[name], photos=tuple(photos[name])) for name in names]
    return people, left_out


def _count(people: Iterator[PreparedPerson]) -> dict[str, int]:
    photos = [len(person.photos) for person in people]
    return {"people": len(photos), "photos": sum(photos)}
