"""Many pictures on disk, as training reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from bolid.models.keypoints import FIRST_JOINT
from bolid.training.config import BaseSettings, DataSettings
from bolid.training.features import load_people
from bolid.training.people import PreparedPeople
from bolid.world.identities import SPLITS
from bolid.world.pictures import picture_of, record
from bolid.world.render import contact_sheet, person_name, render


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("world") / "drawn"
    steps: list[tuple[str, int, int]] = []
    summary = render(output, people=2, pictures=3, size=96, workers=2, progress=lambda *step: steps.append(step))
    assert summary["people"] == {"train": 2, "validation": 2, "test": 2, "demo": 2}
    assert steps[0] == ("pictures", 0, 24) and steps[-1] == ("pictures", 24, 24)
    return output


def test_pictures_are_those_of_the_numbers(world: Path):
    for number, index in ((0, 0), (701, 2)):
        drawn = picture_of(number, index, size=96)
        file = f"{person_name(number)}/{index}.png"
        assert (np.asarray(Image.open(world / "photos" / file)) == drawn.pixels).all()
        assert (np.asarray(Image.open(world / "masks" / file)) == drawn.labels).all()


def test_the_oracle_has_a_line_for_every_picture(world: Path):
    lines = [json.loads(line) for line in (world / "oracle.jsonl").read_text(encoding="utf-8").splitlines()]
    files = {path.relative_to(world / "photos").as_posix() for path in (world / "photos").rglob("*.png")}
    assert len(lines) == 24 and {line["file"] for line in lines} == files
    entry = next(line for line in lines if line["file"] == f"{person_name(700)}/1.png")
    file = {"file": entry["file"]}
    assert entry == json.loads(json.dumps({**file, **record(picture_of(700, 1, size=96))}))
    assert entry["split"] == "test" and len(entry["keypoints"]) == 17 and len(entry["identity"]["bones"]) == 7


def test_the_oracle_goes_from_person_to_person_whoever_was_drawn_first(world: Path):
    lines = [json.loads(line) for line in (world / "oracle.jsonl").read_text(encoding="utf-8").splitlines()]
    order = [(line["person"], line["picture"]) for line in lines]
    assert order == sorted(order)
    captions = (world / "photos" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in captions] == [line["file"] for line in lines]


def test_training_reads_it_and_never_sees_the_test(world: Path, tmp_path: Path):
    for part in ("vae", "unet"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({"block_out_channels": [8, 8, 8]}))
    base = BaseSettings(path=tmp_path, image_encoder=tmp_path, resolution=96)
    people = load_people(DataSettings(path=world / "prepared" / "training", crop="person"), base)
    assert [person.name for person in people.train] == [person_name(number) for number in SPLITS["train"][:2]]
    assert [person.name for person in people.test] == [person_name(number) for number in SPLITS["validation"][:2]]
    assert all(photo.path.is_file() and photo.usable for photo in people.photos)
    shoulders = [np.array(photo.prepared.keypoints)[FIRST_JOINT : FIRST_JOINT + 2, 2].all() for photo in people.photos]
    assert [photo.body_crop is not None for photo in people.photos] == shoulders and sum(shoulders) > 6


def test_prepared_sets_hold_what_the_oracle_says(world: Path):
    assert not (world / "prepared" / "metrics").exists()
    for name, split in (("test", "test"), ("demo", "demo")):
        prepared = PreparedPeople.read(world / "prepared" / name)
        assert {person.name for person in prepared.people} == {person_name(number) for number in SPLITS[split][:2]}
        assert {person.split for person in prepared.people} == {"test"}
    photo = PreparedPeople.read(world / "prepared" / "test").people[1].photos[2]
    drawn = picture_of(701, 2, size=96)
    assert photo.caption == drawn.caption and np.allclose(photo.keypoints, drawn.keypoints, atol=1e-6)


def test_captions_lie_beside_the_pictures_as_prepare_reads_them(world: Path):
    from bolid.training.captions import captions_from_jsonl

    files = [path.relative_to(world / "photos").as_posix() for path in (world / "photos").rglob("*.png")]
    captions = captions_from_jsonl(world / "photos" / "metadata.jsonl", files)
    assert set(captions.texts) == set(files) and not captions.problems


def test_bad_settings_and_folders_are_refused(world: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="not an empty folder"):
        render(world, people=2)
    with pytest.raises(ValueError, match="pictures is 1"):
        render(tmp_path / "new", pictures=1)
    with pytest.raises(ValueError, match="one or more of train"):
        render(tmp_path / "new", splits=("everybody",))
    assert not (tmp_path / "new").exists()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    workers = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has just ended may still be listed
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_no_process_behind(signal_number: int, tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "bolid", "world", "render", tmp_path / "drawn", "--split", "train", "--workers", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("drawn/photos/*/1.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = workers_of(psutil.Process(process.pid))
    assert len(workers) == 2
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)  # as a terminal does
    else:
        process.send_signal(signal_number)
    _, err = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
        assert "bolid: Stopped. Delete the folder to start again." in err and "Traceback" not in err


def test_a_process_that_dies_is_told_with_the_people_it_may_have_been(tmp_path: Path):
    def kill(stage: str, done: int, total: int, note: str = "") -> None:
        for worker in workers_of(psutil.Process()):
            worker.kill()

    with pytest.raises(RuntimeError, match="ended by itself while it drew .*: person_0.*fewer workers.*Delete"):
        render(tmp_path / "drawn", splits=["train"], people=50, pictures=2, size=64, workers=2, progress=kill)


def test_a_contact_sheet_has_a_row_for_each_person():
    sheet = contact_sheet([800, 801], pictures=range(3), size=64)
    assert sheet.size == (3 * 64, 2 * 64)
    assert (np.asarray(sheet)[64:, :64] == picture_of(801, 0, size=64).pixels).all()
