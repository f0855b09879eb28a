"""`bolid prepare` on real photographs: what is left out and why, who is held out, going on after a kill."""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bolid.detectors.faces import Face
from bolid.detectors.people import Person
from bolid.models.keypoints import COCO_KEYPOINTS, FIRST_JOINT, LEFT_SHOULDER, RIGHT_SHOULDER
from bolid.training import prepare as prepare_module
from bolid.training.captions import captions_from_jsonl
from bolid.training.journal import Journal
from bolid.training.people import PEOPLE_FILE, PreparedPeople, PrepareSettings
from bolid.training.prepare import prepare, split_people
from bolid.training.prepare_report import PrepareReport

from ..support.blip import write_blip

MIN_SIDE = 100
SETTINGS = PrepareSettings(min_side=MIN_SIDE, captions="txt")
OPTIONS = ("--min-side", str(MIN_SIDE), "--captions", "txt")

DRIVER, ZOE, COLLINS, HOPPER = "Carphone_Driver", "Zoë Müller|x", "Eileen_Collins", "Grace_Hopper"
LEFT_OUT = {
    # file: reason, part of the detail
    f"{HOPPER}/broken.jpg": ("unreadable", "truncated"),
    f"{HOPPER}/text.png": ("unreadable", "cannot identify"),
    f"{HOPPER}/small.png": ("too small", "64 × 75 pixels"),
    f"{HOPPER}/coffee.png": ("no person", "neither a body nor a face"),
    f"{HOPPER}/group.jpg": ("several people", "6 people or faces"),
    f"{HOPPER}/copy.jpg": ("duplicate", f"of {HOPPER}/0001.jpg"),
    f"{HOPPER}/half.webp": ("near duplicate", f"of {HOPPER}/0001.jpg"),
    f"{HOPPER}/collins.jpg": ("under two people", f"also {COLLINS}/0003.png"),
    f"{COLLINS}/0003.png": ("under two people", f"also {HOPPER}/collins.jpg"),
    f"{DRIVER}/0004.png": ("under two people", f"also {ZOE}/0001.png"),
    f"{ZOE}/0001.png": ("under two people", f"also {DRIVER}/0004.png"),
    f"{DRIVER}/uncaptioned.png": ("no caption", ""),
    f"{DRIVER}/silent.png": ("no caption", "silent.txt is empty"),
}


def save(picture: Image.Image, path: Path, caption: str | None = "a portrait", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def cut(picture: Image.Image, left: float, upper: float, right: float, lower: float) -> Image.Image:
    """A part of a picture, by fractions: another photo of the same person as far as fingerprints go."""
    width, height = picture.size
    return picture.crop((round(left * width), round(upper * height), round(right * width), round(lower * height)))


@pytest.fixture(scope="module")
def source(photographs: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people in LFW's layout, a photo for every reason, and what else may lie in such a folder."""
    import skimage.data

    root = tmp_path_factory.mktemp("source")
    astronaut, hopper = photographs["astronaut"], photographs["grace_hopper"]
    frames = [photographs[f"carphone_{number}"] for number in range(5)]

    save(hopper, root / HOPPER / "0001.jpg", "an officer, Grace Hopper, in uniform", quality=92)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying, to be turned to the right
    save(cut(hopper, 0.1, 0, 1, 0.8).transpose(Image.Transpose.ROTATE_90), root / HOPPER / "0002.jpg", exif=turned)
    save(ImageOps.mirror(hopper), root / HOPPER / "0003.png")
    for number, picture in enumerate((cut(astronaut, 0.1, 0, 0.9, 0.8), ImageOps.mirror(astronaut), astronaut), 1):
        save(picture, root / COLLINS / f"{number:04d}.png")
    for number, frame in enumerate((*frames[:4], ImageOps.mirror(frames[0])), 1):
        save(frame, root / DRIVER / f"{number:04d}.png")
    for number, picture in enumerate((frames[3], ImageOps.mirror(frames[4]), cut(frames[4], 0, 0, 0.9, 0.9)), 1):
        save(picture, root / ZOE / f"{number:04d}.png")
    save(photographs["tom_hanks"], root / "Tom_Hanks" / "0001.png")
    (root / "Nobody").mkdir()

    content = (root / HOPPER / "0001.jpg").read_bytes()
    (root / HOPPER / "copy.jpg").write_bytes(content)
    (root / HOPPER / "copy.txt").write_text("an officer")
    (root / HOPPER / "broken.jpg").write_bytes(content[: len(content) // 2])
    (root / HOPPER / "text.png").write_text("no picture")
    save(hopper.resize((64, 75)), root / HOPPER / "small.png")
    save(hopper.resize((256, 300)), root / HOPPER / "half.webp", quality=70)
    save(astronaut.resize((400, 400)), root / HOPPER / "collins.jpg", quality=80)
    save(photographs["group"], root / HOPPER / "group.jpg")
    save(Image.fromarray(skimage.data.coffee()), root / HOPPER / "coffee.png")
    save(cut(frames[1], 0.1, 0.1, 1, 1), root / DRIVER / "uncaptioned.png", caption=None)
    save(cut(frames[2], 0.1, 0.1, 1, 1), root / DRIVER / "silent.png", caption=" ")
    (root / DRIVER / "gone.txt").write_text("a photo that is gone")

    save(astronaut, root / "loose.png", caption=None)
    save(astronaut, root / COLLINS / "more" / "0004.png", caption=None)
    save(astronaut, root / ".thumbnails" / "0001.png", caption=None)
    save(astronaut, root / COLLINS / ".hidden.png", caption=None)
    (root / COLLINS / "raw.cr2").write_bytes(b"raw")
    (root / COLLINS / "round").symlink_to(root / COLLINS, target_is_directory=True)
    (root / COLLINS / "circle.png").symlink_to("circle.png")
    os.mkfifo(root / COLLINS / "pipe.png")
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    return root


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport, list[Any]]:
    """Output folder, report and progress of a run with two processes."""
    output = tmp_path_factory.mktemp("prepared") / "new" / "folder"
    calls: list[Any] = []
    report = prepare(source, output, SETTINGS, workers=2, progress=lambda *call: calls.append(call))
    return output, report, calls


@pytest.fixture
def again(prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a run left behind; whoever looks at a photo again fails the test."""

    def refuse(look, photos: Sequence[Any], *_: object) -> Iterator[Any]:
        unknown = [photo for photo in photos if Path(photo.file).name not in ("broken.jpg", "text.png")]
        assert not unknown, f"these photos were looked at again: {unknown}"
        yield from map(look, photos)

    monkeypatch.setattr(prepare_module, "_in_processes", refuse)
    return Path(shutil.copytree(prepared[0], tmp_path / "again"))


def command(*arguments: object, environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bolid", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        **options,
    )


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    process = command(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# What is left out, and what is kept


@pytest.mark.parametrize("file", LEFT_OUT)
def test_every_reason(file: str, prepared):
    _, report, _ = prepared
    (found,) = [photo for photo in report.photos_left_out if photo.file == file]
    reason, detail = LEFT_OUT[file]
    assert found.reason == reason
    assert detail in found.detail


def test_nothing_else_is_left_out(prepared, source: Path):
    output, report, _ = prepared
    assert {photo.file for photo in report.photos_left_out} == set(LEFT_OUT)
    assert {(person.name, person.reason, person.detail) for person in report.people_left_out} == {
        ("Nobody", "no photo", "the folder has none"),
        ("Tom_Hanks", "fewer than two photos", "1 of 1 left"),
    }
    people = PreparedPeople.read(output)
    assert people.source == source
    assert {person.name: [Path(photo.file).name for photo in person.photos] for person in people.people} == {
        DRIVER: ["0001.png", "0002.png", "0003.png", "0005.png"],
        COLLINS: ["0001.png", "0002.png"],
        HOPPER: ["0001.jpg", "0002.jpg", "0003.png"],
        ZOE: ["0002.png", "0003.png"],
    }
    assert (report.photos_found, report.photos_kept, report.people_found, report.people_kept) == (25, 11, 6, 4)
    assert report.photos_per_person == {2: 2, 3: 1, 4: 1}


def test_what_is_no_photo_of_a_person_is_named(prepared):
    _, report, _ = prepared
    assert {one.path: one.reason for one in report.ignored} == {
        "loose.png": "in no person's folder",
        f"{COLLINS}/more": "a folder inside a person's folder is not read",
        f"{COLLINS}/round": "a folder inside a person's folder is not read",
        f"{COLLINS}/raw.cr2": "no photo by its extension",
        f"{COLLINS}/circle.png": "no file: a link that leads nowhere, or a device",
        f"{COLLINS}/pipe.png": "no file: a link that leads nowhere, or a device",
        "caf?": "its name is no valid UTF-8; rename it",
    }


def test_captions(prepared):
    output, report, _ = prepared
    captions = {photo.file: photo.caption for person in PreparedPeople.read(output).people for photo in person.photos}
    assert captions.pop(f"{HOPPER}/0001.jpg") == "an officer, Grace Hopper, in uniform"
    assert set(captions.values()) == {"a portrait"}
    assert report.captions_with_name == (f"{HOPPER}/0001.jpg",)
    assert report.captions_without_photo == (f"{DRIVER}/gone.txt",)
    assert report.captions_from_template == 0


def test_people_are_found_where_they_are(prepared):
    """In fractions of the photo as it is seen: the second photo lies on its side in the file."""
    output, _, _ = prepared
    photos = {photo.file: photo for person in PreparedPeople.read(output).people for photo in person.photos}
    upright, turned = photos[f"{HOPPER}/0001.jpg"], photos[f"{HOPPER}/0002.jpg"]
    assert (upright.width, upright.height, turned.width, turned.height) == (512, 600, 461, 480)
    for photo, expected in ((upright, (165, 130, 365, 330)), (turned, (114, 130, 314, 330))):
        size = np.array((photo.width, photo.height))
        face = np.array(photo.face_box) * (*size, *size)
        np.testing.assert_allclose(face, expected, atol=30)
        keypoints = np.array(photo.keypoints)
        assert keypoints.shape == (len(COCO_KEYPOINTS), 3)
        nose = keypoints[COCO_KEYPOINTS.index("nose"), :2] * size
        assert (face[:2] < nose).all() and (nose < face[2:]).all()
        left, right = keypoints[FIRST_JOINT + LEFT_SHOULDER], keypoints[FIRST_JOINT + RIGHT_SHOULDER]
        assert left[0] > right[0] and min(left[2], right[2]) > 0.5
        body = np.array(photo.person_box) * (*size, *size)
        assert (body[:2] <= face[:2] + 30).all() and (body[2:] >= face[2:] - 30).all()


def test_the_page_says_it_all(prepared):
    output, report, _ = prepared
    page = (output / "report.md").read_text(encoding="utf-8")
    for file, (reason, _) in LEFT_OUT.items():
        assert f"### {reason.capitalize()}" in page
        assert file.replace("_", "\\_").replace("|", "\\|") in page
    assert "| people | 6 | 4 | 3 | 1 |" in page
    assert all(line.count("|") - line.count("\\|") in (3, 4, 6) for line in page.splitlines() if line.startswith("|"))
    assert PrepareReport.model_validate_json((output / "report.json").read_bytes()) == report


def test_progress_counts_every_photo_once(prepared):
    _, report, calls = prepared
    assert calls == [("photos", done, report.photos_found) for done in range(report.photos_found + 1)]


# Another setting, another place


def test_another_setting_looks_at_no_photo_again(again: Path, source: Path):
    settings = PrepareSettings(min_side=MIN_SIDE, max_people=0, near_duplicates=-1, missing_caption="template")
    report = prepare(source, again, settings.model_copy(update={"captions": "txt"}))
    assert report.reasons() == {"under two people": 2, "unreadable": 2, "duplicate": 1, "no person": 1, "too small": 1}
    assert report.captions_from_template == 2
    people = PreparedPeople.read(again)
    (driver,) = [person for person in people.people if person.name == DRIVER]
    assert {photo.caption for photo in driver.photos} == {"a portrait", "a photo of a person"}


def test_a_folder_that_was_moved_keeps_its_results(again: Path, source: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(source, moved, symlinks=True, ignore=shutil.ignore_patterns("pipe.png"))
    settings = PreparedPeople.read(again).model_dump(mode="json") | {"source": str(tmp_path / "was_here")}
    (again / PEOPLE_FILE).write_text(json.dumps(settings))
    prepare(moved, again, SETTINGS)
    assert PreparedPeople.read(again).source == moved


def test_captions_from_a_file_for_all(again: Path, source: Path, tmp_path: Path):
    captions = tmp_path / "captions.jsonl"
    files = [f"{HOPPER}/0001.jpg", f"{HOPPER}/0002.jpg", f"{HOPPER}/9999.jpg"]
    captions.write_text("".join(json.dumps({"file_name": file, "text": file[-8:-4]}) + "\n" for file in files))
    report = prepare(source, again, PrepareSettings(captions="jsonl", caption_file=captions, min_side=MIN_SIDE))
    (person,) = PreparedPeople.read(again).people
    assert [photo.caption for photo in person.photos] == ["0001", "0002"]
    assert report.captions_without_photo == (f"{HOPPER}/9999.jpg",)
    assert report.splits == {"train": {"people": 1, "photos": 2}, "test": {"people": 0, "photos": 0}}


def test_captions_by_blip_are_made_once_and_only_for_what_is_kept(
    again: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "blip").mkdir()
    settings = PrepareSettings(captions="blip", caption_model=write_blip(tmp_path / "blip"), min_side=MIN_SIDE)
    made: list[Image.Image] = []
    caption = prepare_module.BlipCaptioner.caption
    monkeypatch.setattr(
        prepare_module.BlipCaptioner, "caption", lambda self, picture: made.append(picture) or caption(self, picture)
    )
    calls: list[Any] = []
    report = prepare(source, again, settings, progress=lambda *call: calls.append(call))
    first = (again / PEOPLE_FILE).read_bytes()
    # Those without a caption of their own are no longer left out, the lone one of Tom Hanks is looked at in vain.
    assert len(made) == report.photos_kept + 1 == 14
    assert [call for call in calls if call[0] == "captions"] == [("captions", done, 14) for done in range(15)]
    assert all(photo.caption for person in PreparedPeople.read(again).people for photo in person.photos)

    journal = again / "captions.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    (again / PEOPLE_FILE).unlink()
    prepare(source, again, settings)
    assert len(made) == 15
    assert (again / PEOPLE_FILE).read_bytes() == first


# Going on, and any number of processes


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def end(process: subprocess.Popen[str], signal_number: int, *, journal: Path, lines: int) -> None:
    """End a command once it has two workers and so many lines; nothing of it may be left."""
    wait_for(lambda: len(workers_of(process)) == 2, process)
    wait_for(lambda: lines_of(journal) >= lines, process)
    workers = workers_of(process)
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)  # as a terminal does
    else:
        process.send_signal(signal_number)
    _, err = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, alive
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
        assert "bolid: Stopped. The same command goes on from here." in err and "Traceback" not in err


@pytest.mark.slow
def test_killed_and_interrupted_at_any_point_it_ends_as_if_it_never_was(prepared, source: Path, tmp_path: Path):
    output = tmp_path / "output"
    journal = output / "photos.jsonl"
    lines = 0
    for more, signal_number in (
        (0, signal.SIGINT),
        (0, signal.SIGKILL),
        (1, signal.SIGKILL),
        (6, signal.SIGKILL),
        (5, signal.SIGINT),
    ):
        process = command("prepare", source, output, *OPTIONS, "--workers", 2, start_new_session=True)
        end(process, signal_number, journal=journal, lines=lines + more)
        assert not (output / PEOPLE_FILE).exists()
        content = journal.read_bytes()
        lines = content.count(b"\n")
        # As if it had been killed in the middle of a line, at one place or another.
        journal.write_bytes(content + content.splitlines()[-1][: 7 * lines] if lines else b'{"file": "Gr')
    assert 0 < lines < 23
    answer = run("prepare", source, output, *OPTIONS, "--workers", 1)
    assert answer.returncode == 0, answer.stderr
    assert lines_of(journal) == 23  # one for each photo that can be read
    for name in (PEOPLE_FILE, "report.md", "report.json"):
        assert (output / name).read_bytes() == (prepared[0] / name).read_bytes()


def test_damaged_lines_are_made_anew(prepared, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    output = Path(shutil.copytree(prepared[0], tmp_path / "output"))
    journal = output / "photos.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    other = json.loads(lines[3])
    lines[1] = b"\x00\xff" + lines[1][5:]
    lines[2] = b"[]\n"
    lines[3] = json.dumps(other | {"keypoints": "none"}).encode() + b"\n"
    lines[4] = json.dumps(json.loads(lines[4]) | {"mtime_ns": 1}).encode() + b"\n"
    lines[5] = json.dumps(json.loads(lines[5]) | {"analysis": "0"}).encode() + b"\n"
    journal.write_bytes(b"".join(lines))
    (output / PEOPLE_FILE).write_text('{"format":')
    calls: list[Any] = []
    prepare(source, output, SETTINGS, workers=1, progress=lambda *call: calls.append(call))
    assert calls[0] == ("photos", 25 - 2 - 5, 25)
    assert (output / PEOPLE_FILE).read_bytes() == (prepared[0] / PEOPLE_FILE).read_bytes()
    assert "photos.jsonl: 2 damaged lines are made anew (the first is line 2)." in caplog.text
    assert "photos.jsonl: 1 entries are not understood" in caplog.text
    assert f"{output / PEOPLE_FILE} is damaged and is made anew." in caplog.text


def test_a_journal_survives_a_cut_at_every_byte(tmp_path: Path):
    entries = [{"file": "Zoë/1.jpg", "n": 1}, {"file": "line\nbreak", "n": 2}]
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for entry in entries:
            journal.append(entry)
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        journal = Journal(path)
        assert journal.entries == entries[: content[:length].count(b"\n")]
        with journal:
            journal.append({"last": True})
        assert Journal(path).entries == [*journal.entries, {"last": True}]


def test_a_process_that_dies_is_told_with_the_photos_it_may_have_been(source: Path, tmp_path: Path):
    photos = [photo for photo in prepare_module._scan(source).photos if photo.file.startswith(DRIVER)]
    look = functools.partial(prepare_module._facts, source, analysis="", min_side=0)
    results = prepare_module._in_processes(look, photos, 1, tmp_path / "workers.log")
    next(results)
    for process in psutil.Process().children():
        if "spawn_main" in " ".join(process.cmdline()):
            process.kill()
    with pytest.raises(RuntimeError, match=rf"ended by itself while .*: {DRIVER}/000.*fewer workers.*goes on"):
        list(results)


# Who is held out


@given(st.sets(st.text(min_size=1, max_size=8), max_size=40), st.integers(0, 9), st.sampled_from((0.0, 1 / 3, 0.5)))
def test_the_split_is_exact_and_hardly_moves(names: set[str], seed: int, share: float):
    listed = sorted(names)
    splits = split_people(listed, test_share=share, seed=seed)
    assert split_people(listed[::-1], test_share=share, seed=seed) == splits
    held_out = sum(split == "test" for split in splits.values())
    if share and len(names) >= 2:
        assert 1 <= held_out < len(names)
        assert abs(held_out - share * len(names)) <= 0.5
    else:
        assert held_out == 0
    more = split_people([*listed, "one more person"], test_share=share, seed=seed)
    if len(names) >= 2:
        assert sum(more[name] != split for name, split in splits.items()) <= 1


def test_the_seed_changes_the_split():
    names = [f"person {number}" for number in range(300)]
    splits = [split_people(names, test_share=1 / 3, seed=seed) for seed in (0, 1)]
    assert all(list(split.values()).count("test") == 100 for split in splits)
    both = sum(splits[0][name] == splits[1][name] == "test" for name in names)
    assert 15 <= both <= 55  # 33 are expected by chance


# The same photo


def test_similar_fingerprints_are_found_without_comparing_all_of_them():
    generator = random.Random(0)
    fingerprints = [generator.getrandbits(256) for _ in range(60)]
    for distance in (0, 1, 9, 10, 10, 11, 30):
        near = fingerprints[distance]
        for bit in generator.sample(range(256), distance):
            near ^= 1 << bit
        fingerprints.append(near)
    facts = [
        prepare_module.PhotoFacts(file=str(number), size=0, mtime_ns=0, analysis="", fingerprint=f"{fingerprint:064x}")
        for number, fingerprint in enumerate(fingerprints)
    ]
    for distance in (-1, 0, 1, 10, 32):
        found = {frozenset((one.file, other.file)) for one, other in prepare_module._similar(facts, distance)}
        assert found == {
            frozenset((str(one), str(other)))
            for one, other in itertools.combinations(range(len(facts)), 2)
            if (fingerprints[one] ^ fingerprints[other]).bit_count() <= distance
        }


def test_fingerprints_tell_copies_from_other_photos(photographs: dict[str, Image.Image]):
    def compressed(picture: Image.Image, quality: int) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    fingerprints = {name: int(prepare_module._fingerprint(picture), 16) for name, picture in photographs.items()}
    for name, picture in photographs.items():
        width, height = picture.size
        copies = (compressed(picture, 30), picture.resize((width // 2, height // 2)), picture.convert("L"))
        for copy in copies:
            difference = int(prepare_module._fingerprint(copy.convert("RGB")), 16) ^ fingerprints[name]
            assert difference.bit_count() <= PrepareSettings().near_duplicates
    for one, other in itertools.combinations(fingerprints.values(), 2):
        assert (one ^ other).bit_count() > PrepareSettings().near_duplicates


# What a folder may be


def test_folders_that_cannot_be_used(photographs: dict[str, Image.Image], tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere.*one folder of photos per person"):
        prepare(tmp_path / "nowhere", tmp_path / "output")

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty has no photos. It must hold one folder per person"):
        prepare(empty, tmp_path / "output")
    save(photographs["tom_hanks"], empty / "1.png")
    with pytest.raises(ValueError, match="1 photos lie in the folder itself"):
        prepare(empty, tmp_path / "output")

    save(photographs["tom_hanks"], tmp_path / "deep" / "lfw" / "Tom_Hanks" / "1.png")
    with pytest.raises(ValueError, match="folders one level deeper, such as lfw/Tom_Hanks: give the folder that holds"):
        prepare(tmp_path / "deep", tmp_path / "output")

    source = tmp_path / "deep" / "lfw"
    for inside in (source, source / "output", source / "Tom_Hanks" / ".." / "output"):
        with pytest.raises(ValueError, match="lies inside the source folder"):
            prepare(source, inside)
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    with pytest.raises(ValueError, match="lies inside the source folder"):
        prepare(source, tmp_path / "link" / "output")
    with pytest.raises(ValueError, match=r"1\.txt is a file"):
        prepare(source, source.parent / "lfw" / ".." / ".." / "empty" / "1.txt")
    assert not (tmp_path / "output").exists()


def test_a_data_set_of_other_photos_is_not_overwritten(again: Path, source: Path, photographs, tmp_path: Path):
    save(photographs["tom_hanks"], tmp_path / "others" / "Tom_Hanks" / "1.png")
    before = {path: path.read_bytes() for path in again.iterdir()}
    with pytest.raises(ValueError, match="already holds a data set that was made from .*source.*Give another output"):
        prepare(tmp_path / "others", again)
    newer = json.loads((again / PEOPLE_FILE).read_bytes()) | {"format": 2}
    (again / PEOPLE_FILE).write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="has format 2, and this version of BoLID reads up to 1. Update BoLID"):
        prepare(source, again, SETTINGS)
    before[again / PEOPLE_FILE] = json.dumps(newer).encode()
    assert {path: path.read_bytes() for path in again.iterdir()} == before


def test_where_nobody_is_left_the_report_says_why_and_the_data_set_stays(again: Path, source: Path):
    before = (again / PEOPLE_FILE).read_bytes()
    settings = SETTINGS.model_copy(update={"min_side": 5000})
    with pytest.raises(
        ValueError, match=r"No person with 2 photos is left of 6 people and 25 .*too small: 23.*report\.md"
    ):
        prepare(source, again, settings)
    assert (again / PEOPLE_FILE).read_bytes() == before
    assert "the shorter side must have 5000" in (again / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "workers", "message"),
    [
        (PrepareSettings(captions="blip"), 1, "Captions by BLIP need caption_model"),
        (PrepareSettings(caption_template="{name} in a photo"), 1, "has a field, {name}"),
        (PrepareSettings(), 0, "workers is 0"),
    ],
)
def test_settings_that_cannot_be_used(settings, workers: int, message: str, source: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / "output", settings, workers=workers)
    assert not (tmp_path / "output").exists()


# people.json


def test_what_is_written_is_read(again: Path, tmp_path: Path):
    people = PreparedPeople.read(again)
    people.write(tmp_path)
    assert PreparedPeople.read(tmp_path) == people
    assert (tmp_path / PEOPLE_FILE).read_bytes() == (again / PEOPLE_FILE).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_without_a_data_set_the_message_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no prepared data set.*bolid prepare SOURCE"):
        PreparedPeople.read(tmp_path)


DAMAGES = {
    "cut off": (lambda text: text[: len(text) // 2], "Invalid JSON"),
    "empty": (lambda text: "", "Invalid JSON"),
    "a list": (lambda text: "[]", "object"),
    "no people": (lambda text: json.dumps(json.loads(text) | {"people": []}), "people: "),
    "unknown key": (lambda text: json.dumps(json.loads(text) | {"person": 1}), "person: "),
    "a joint too few": (
        lambda text: changed(text, "keypoints", [[0, 0, 0]] * 16),
        r"photos\.0\.keypoints: ",
    ),
    "pixels": (lambda text: changed(text, "face_box", [10, 20, 30, 40]), r"people\.0\.photos\.0\.face_box\.0: "),
    "no caption": (lambda text: changed(text, "caption", ""), r"people\.0\.photos\.0\.caption: "),
    "no hash": (lambda text: changed(text, "sha256", "0"), r"people\.0\.photos\.0\.sha256: "),
}


def changed(text: str, key: str, value: Any) -> str:
    values = json.loads(text)
    values["people"][0]["photos"][0][key] = value
    return json.dumps(values)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_set_is_named(damage: str, again: Path):
    change, message = DAMAGES[damage]
    path = again / PEOPLE_FILE
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{PEOPLE_FILE} is damaged: .*{message}.*Run bolid prepare with {again}"):
        PreparedPeople.read(again)


def test_a_data_set_of_a_later_version_is_refused(again: Path):
    (again / PEOPLE_FILE).write_text(json.dumps({"format": 7, "faces": []}))
    with pytest.raises(ValueError, match="has format 7, and this version of BoLID reads up to 1. Update BoLID"):
        PreparedPeople.read(again)


# The command


def test_the_summary_for_programs_is_all_of_stdout(prepared, source: Path, tmp_path: Path):
    output = Path(shutil.copytree(prepared[0], tmp_path / "output"))
    answer = run("prepare", source, output, *OPTIONS, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == {
        "output": str(output),
        "people_file": str(output / PEOPLE_FILE),
        "photos_found": 25,
        "photos_kept": 11,
        "photos_left_out": prepared[1].reasons(),
        "people_found": 6,
        "people_kept": 4,
        "splits": prepared[1].splits,
        "captions_from_template": 0,
        "captions_without_photo": 1,
        "captions_with_name": 1,
    }
    assert answer.stdout.count("\n") == 1
    assert "photos" in answer.stderr and "25/25" in answer.stderr
    told = run("prepare", source, output, *OPTIONS)
    assert told.returncode == 0, told.stderr
    assert "left out, near duplicate: 1" in told.stdout and str(output / "report.md") in told.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "nowhere", "output"), "bolid: There is no folder nowhere."),
        (("prepare", ".", "output"), "lies inside the source folder"),
        (("prepare", "nowhere", "output", "--min-side", "-1"), "bolid: --min-side -1: Input should be greater"),
        (("prepare", "nowhere", "output", "--captions", "guess"), "'guess' is not one of 'txt'"),
        (("prepare", "nowhere"), "Missing argument"),
    ],
)
def test_errors_are_one_message(arguments: tuple[str, ...], message: str, tmp_path: Path):
    answer = run(*arguments, cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert message in answer.stderr and "Traceback" not in answer.stderr


def test_without_detectors_the_message_says_what_to_install(source: Path, tmp_path: Path):
    # A module that cannot be imported stands in for one that is not installed.
    (tmp_path / "mediapipe.py").write_text("raise ImportError('not here')")
    environment = {"PYTHONPATH": str(tmp_path)}
    answer = run("prepare", source, tmp_path / "output", "--workers", 1, environment=environment)
    assert answer.returncode == 2
    assert "bolid: Finding people and faces needs the mediapipe package." in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [(), ("prepare",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]):
    code = (
        "import sys\n"
        "from bolid.__main__ import main\n"
        f"sys.argv = ['bolid', *{arguments!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(*sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    *page, status, modules = answer.stdout.splitlines()
    assert status == "0" and "Usage:" in "".join(page)
    heavy = {"PIL", "cv2", "diffusers", "mediapipe", "numpy", "torch", "transformers"}
    assert not heavy & set(modules.split())


def test_an_earlier_run_with_other_settings_changes_nothing(photographs: dict[str, Image.Image], tmp_path: Path):
    """A small copy in another person's folder is known to show somebody only where a run has looked at it."""
    source = tmp_path / "source"
    astronaut, hopper = photographs["astronaut"], photographs["grace_hopper"]
    for name, photo in (("Anna", astronaut), ("Bea", hopper)):
        pictures = (photo, ImageOps.mirror(photo))
        for number, picture in enumerate(pictures):
            save(picture, source / name / f"{number}.png")
    save(astronaut.resize((96, 96)), source / "Bea" / "small.png")
    settings = PrepareSettings(min_side=100)
    prepare(source, tmp_path / "fresh", settings, workers=1)
    prepare(source, tmp_path / "again", PrepareSettings(min_side=0), workers=1)
    prepare(source, tmp_path / "again", settings, workers=1)
    assert PreparedPeople.read(tmp_path / "again") == PreparedPeople.read(tmp_path / "fresh")


def test_a_body_and_a_face_elsewhere_are_two_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    people = [Person(box=(0, 0, 40, 100), keypoints=np.zeros((17, 3)))]
    faces = {"own": Face(box=(10, 5, 30, 25), score=1.0), "other": Face(box=(70, 5, 90, 25), score=1.0)}
    found: list[Face] = []
    detectors = (
        SimpleNamespace(detect=lambda pixels, faces: people),
        SimpleNamespace(detect=lambda pixels: found),
    )
    monkeypatch.setattr(prepare_module, "_detectors", lambda: detectors)
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    photo = prepare_module._File("a.png", 1, 1)
    for names, expected in (((), 1), (("own",), 1), (("other",), 2), (("own", "other"), 2)):
        found[:] = [faces[name] for name in names]
        assert prepare_module._facts(tmp_path, photo, "", 0).people == expected, names


def test_half_a_character_in_captions_is_found_at_the_start(tmp_path: Path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file": "a/1.jpg", "text": "fine"}\n{"file": "a/2.jpg", "text": "smiling \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"line 2 has half a character"):
        captions_from_jsonl(path, ["a/1.jpg", "a/2.jpg"])
