"""The folder of an evaluation: nobody else's files, one process at a time, and pictures of what they say they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from bolid.evaluation.folder import DRAWN_FROM, OutputFolder


def test_a_start_is_written_down(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.start({"output": "out"}, '{"file": "a.png"}\n')
    assert json.loads((folder.folder / "config.json").read_text()) == {"output": "out"}
    assert (folder.folder / "plan.jsonl").read_text() == '{"file": "a.png"}\n'
    (folder.folder / "pictures").mkdir()
    (folder.folder / "pictures" / ".a.png.7.partial").touch()
    folder.close()
    again = OutputFolder(tmp_path / "out")
    again.start({"output": "out"}, "")
    starts = [json.loads(line) for line in (folder.folder / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 2 and starts[0]["environment"]["packages"]["torch"]
    assert not list(folder.folder.rglob("*.partial"))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        with pytest.raises(ValueError, match="Another process is at work in .*out. Wait for it, stop it"):
            OutputFolder(tmp_path / "out").start({}, "")
    OutputFolder(tmp_path / "out").start({}, "")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"format": 2}', "holds an evaluation of another version of BoLID \\(format 2; this one has 1\\)"),
        ("{", "evaluation.json is damaged"),
        ("[]", "evaluation.json is damaged"),
        (None, "which holds other files and not an evaluation. Give a new one: nothing is overwritten"),
    ],
)
def test_other_folders_are_left_alone(tmp_path: Path, record: str | None, message: str) -> None:
    if record is not None:
        (tmp_path / "evaluation.json").write_text(record)
    (tmp_path / "somebodys.txt").touch()
    with pytest.raises(ValueError, match=message):
        OutputFolder(tmp_path)
    with pytest.raises(ValueError, match="somebodys.txt, which is a file. Give a folder"):
        OutputFolder(tmp_path / "somebodys.txt")


def test_pictures_are_of_what_they_were_drawn_from(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.check_drawn_from("m/seed_0", {"steps": 3})
    drawn = folder.note_drawn_from("m/seed_0", {"steps": 3, "prompts": ("a", "b"), "adapter": None})
    assert drawn == tmp_path / "out" / "pictures" / "m" / "seed_0"
    folder.check_drawn_from("m/seed_0", {"steps": 3, "prompts": ["a", "b"], "adapter": None})
    with pytest.raises(ValueError, match='something else: adapter was not set, now "x"; steps was 3, now 4. Set it'):
        folder.check_drawn_from("m/seed_0", {"steps": 4, "prompts": ["a", "b"], "adapter": "x"})
    (drawn / DRAWN_FROM).write_text("{")
    with pytest.raises(ValueError, match=f"{DRAWN_FROM} is damaged .*Delete .*seed_0: it is drawn anew"):
        folder.check_drawn_from("m/seed_0", {"steps": 3})
