"""The folder of a run: nothing foreign is touched, and whatever happens the last good checkpoint is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bolid.training import work_folder
from bolid.training.run_folder import FORMAT, RunFolder, RunLog, TrainingError
from bolid.training.work_folder import environment

from .conftest import file_size_limit

DEPENDS_ON = {"method": "bolid", "run.seed": 0, "loss.min_snr_gamma": None, "optimizer.betas": (0.9, 0.999)}


def started(folder: Path, **changes: Any) -> RunFolder:
    run = RunFolder(folder, DEPENDS_ON | changes)
    run.start({"method": "bolid"})
    run.close()
    return run


def state(step: int) -> dict[str, Any]:
    return {"step": step, "module": {"weight": torch.full((50,), float(step))}, "average": None}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


# Whose folder it is


def test_nothing_is_written_before_the_start(tmp_path: Path):
    RunFolder(tmp_path / "new", DEPENDS_ON)
    assert not (tmp_path / "new").exists()


def test_start_in_a_new_or_empty_folder(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "parent" / "new", tmp_path / "empty"):
        run = started(folder)
        assert names(folder) == ["adapters", "checkpoints", "config.json", "run.json", "samples", "starts.jsonl"]
        assert json.loads((folder / "run.json").read_text())["format"] == FORMAT
        assert json.loads((folder / "config.json").read_text()) == {"method": "bolid"}
        assert run.load_checkpoint() is None


def test_one_process_at_a_time(tmp_path: Path):
    run, other = RunFolder(tmp_path, DEPENDS_ON), RunFolder(tmp_path, DEPENDS_ON)
    run.start({})
    with pytest.raises(ValueError, match="Another process is at work in .*another run.output"):
        other.start({})
    run.close()
    other.start({})
    other.close()


def test_goes_on_with_the_same_settings(tmp_path: Path):
    started(tmp_path)
    RunFolder(tmp_path, dict(reversed(DEPENDS_ON.items()))).start({"run": 2})
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [start["config"] for start in starts] == [{"method": "bolid"}, {"run": 2}]
    assert [start["environment"] for start in starts] == [environment()] * 2
    assert json.loads((tmp_path / "config.json").read_text()) == {"run": 2}


def test_other_settings_are_named(tmp_path: Path):
    started(tmp_path)
    now = {"method": "bolid", "run.seed": 1, "loss.min_snr_gamma": 5.0, "data.crop": "face"}
    with pytest.raises(ValueError) as caught:
        RunFolder(tmp_path, now)
    assert str(caught.value).startswith(
        f'{tmp_path} holds a run with other settings: data.crop was not set, now "face"; loss.min_snr_gamma was not '
        "set, now 5.0; optimizer.betas was [0.9, 0.999], now not set; run.seed was 0, now 1. "
    )
    assert "nothing is overwritten" in str(caught.value)


@pytest.mark.parametrize("file", ["photo.jpg", ".hidden", "checkpoints/step-00000001.pt"])
def test_folder_of_somebody_else(tmp_path: Path, file: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises(ValueError, match="holds other files and not a run.*nothing is overwritten"):
        RunFolder(tmp_path, DEPENDS_ON)
    assert (tmp_path / file).read_text() == "mine"


def test_file_in_the_place_of_the_folder(tmp_path: Path):
    path = tmp_path / "run"
    path.write_text("mine")
    with pytest.raises(ValueError, match="which is a file"):
        RunFolder(path, DEPENDS_ON)


def test_run_of_another_format(tmp_path: Path):
    started(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    for version in (FORMAT + 1, None):
        (tmp_path / "run.json").write_text(json.dumps(record | {"format": version}))
        with pytest.raises(ValueError, match=rf"another version of BoLID \(format {version}; this one has {FORMAT}\)"):
            RunFolder(tmp_path, DEPENDS_ON)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"\xff"])
def test_damaged_record(tmp_path: Path, content: bytes):
    started(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/run.json is damaged"):
        RunFolder(tmp_path, DEPENDS_ON)


def test_start_that_was_killed(tmp_path: Path):
    """Before the record was there, or in the middle of a checkpoint."""
    (tmp_path / ".run.json.partial").write_text("{")
    run = started(tmp_path)
    (tmp_path / "checkpoints" / ".step-00000007.pt.partial").write_bytes(b"half")
    run = started(tmp_path)
    assert names(tmp_path / "checkpoints") == []
    assert run.load_checkpoint() is None
    assert ".run.json.partial" not in names(tmp_path)


# Checkpoints


def test_checkpoints(tmp_path: Path):
    run = started(tmp_path)
    for step in (9, 10, 100):
        run.save_checkpoint(step, state(step), keep=5)
    assert [path.name for path in run.checkpoints()] == [f"step-{step:08d}.pt" for step in (9, 10, 100)]
    loaded = RunFolder(tmp_path, DEPENDS_ON).load_checkpoint()
    assert loaded["step"] == 100
    assert torch.equal(loaded["module"]["weight"], torch.full((50,), 100.0))


@pytest.mark.parametrize(("keep", "kept"), [(1, [6]), (2, [4, 6]), (9, [2, 4, 6])])
def test_older_checkpoints_are_deleted(tmp_path: Path, keep: int, kept: list[int]):
    run = started(tmp_path)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    for step in (2, 4, 6):
        run.save_checkpoint(step, state(step), keep=keep)
    expected = [f"step-{step:08d}.pt" for step in kept]
    assert names(tmp_path / "checkpoints") == ["notes.txt", *expected]


def test_checkpoint_of_the_same_step_is_replaced(tmp_path: Path):
    run = started(tmp_path)
    run.save_checkpoint(5, state(5), keep=2)
    run.save_checkpoint(5, {**state(5), "average": {"decay": 0.9}}, keep=2)
    assert run.load_checkpoint()["average"] == {"decay": 0.9}
    assert len(run.checkpoints()) == 1


def fails(values: object, file: Any) -> None:
    file.write(b"the beginning")
    raise OSError(28, "No space left on device")


def test_failure_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = started(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fails)
        with pytest.raises(TrainingError, match=r"step 3 could not be written \(.*No space left.*no checkpoint yet"):
            run.save_checkpoint(3, state(3), keep=1)
    assert names(tmp_path / "checkpoints") == []
    run.save_checkpoint(5, state(5), keep=1)
    monkeypatch.setattr(torch, "save", fails)
    last = tmp_path / "checkpoints" / "step-00000005.pt"
    with pytest.raises(TrainingError, match=f"step 8 could not .* last good checkpoint is {last}. Make room on"):
        run.save_checkpoint(8, state(8), keep=1)
    assert names(tmp_path / "checkpoints") == [last.name]
    assert run.load_checkpoint()["step"] == 5


def test_full_disk(tmp_path: Path):
    run = started(tmp_path)
    run.save_checkpoint(5, state(5), keep=1)
    large = state(8) | {"module": {"weight": torch.zeros(1_000_000)}}
    with file_size_limit(200_000), pytest.raises(TrainingError, match="last good checkpoint is .*step-00000005.pt"):
        run.save_checkpoint(8, large, keep=1)
    assert names(tmp_path / "checkpoints") == ["step-00000005.pt"]
    assert run.load_checkpoint()["step"] == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "pickle"])
def test_damaged_checkpoint(tmp_path: Path, damage: str):
    run = started(tmp_path)
    for step in (5, 8):
        run.save_checkpoint(step, state(step), keep=2)
    path = run.checkpoints()[-1]
    content = path.read_bytes()
    middle = content.index(torch.full((50,), 8.0).numpy().tobytes())
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    pickle = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R."
    path.write_bytes({"cut": content[:-100], "empty": b"", "flipped": flipped, "pickle": pickle}[damage])
    with pytest.raises(ValueError, match=f"The checkpoint {path} is damaged .*Delete it; the same command") as caught:
        run.load_checkpoint()
    assert "weights_only" not in str(caught.value)
    path.unlink()
    assert run.load_checkpoint()["step"] == 5


def test_paths_of_results(tmp_path: Path):
    run = RunFolder(tmp_path, DEPENDS_ON)
    assert run.result() == tmp_path / "adapter.safetensors"
    assert run.result(1500) == tmp_path / "adapters" / "step-00001500.safetensors"


# The log


def logged(folder: Path) -> list[tuple[int, str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["kind"], entry["loss"]) for entry in map(json.loads, lines)]


def shown(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def write_steps(folder: Path, steps: list[int], *, start: int, loss: float) -> None:
    log = RunLog(folder, step=start)
    for step in steps:
        log.write(step, "train", {"loss": loss})
    log.close()


def test_log(tmp_path: Path):
    started(tmp_path)
    log = RunLog(tmp_path, step=0)
    log.write(0, "validation", {"loss": 0.75})
    log.write(1, "train", {"loss": 0.5, "learning_rate": 1e-4})
    assert logged(tmp_path) == [(0, "validation", 0.75), (1, "train", 0.5)]  # before it is closed
    log.show(1, "train", {"samples_per_second": 3.0})
    log.close()
    assert shown(tmp_path, "train/loss") == [(1, 0.5)]
    assert shown(tmp_path, "validation/loss") == [(0, 0.75)]
    assert shown(tmp_path, "train/samples_per_second") == [(1, 3.0)]
    assert "samples_per_second" not in (tmp_path / "metrics.jsonl").read_text()


def test_later_entries_are_dropped_on_resume(tmp_path: Path):
    started(tmp_path)
    write_steps(tmp_path, [1, 2, 3, 4], start=0, loss=1.0)
    write_steps(tmp_path, [3, 4, 5], start=2, loss=2.0)
    assert logged(tmp_path) == [(step, "train", 1.0 if step <= 2 else 2.0) for step in range(1, 6)]
    assert shown(tmp_path, "train/loss") == [(step, 1.0 if step <= 2 else 2.0) for step in range(1, 6)]


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_last_line_that_was_cut_off(tmp_path: Path, cut: int):
    started(tmp_path)
    write_steps(tmp_path, [1, 2, 3], start=0, loss=1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    write_steps(tmp_path, [4], start=3, loss=2.0)
    kept = {1: [1, 2, 3]}.get(cut, [1, 2])  # without a line break alone it is still whole
    assert [step for step, _, _ in logged(tmp_path)] == [*kept, 4]


def test_log_of_another_line(tmp_path: Path):
    started(tmp_path)
    write_steps(tmp_path, [1], start=0, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\n[]\n{"loss": 1}\n')
    write_steps(tmp_path, [2], start=1, loss=2.0)
    assert [step for step, _, _ in logged(tmp_path)] == [1, 2]


def test_sample_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started(tmp_path)
    log = RunLog(tmp_path, step=0)
    image = Image.new("RGB", (8, 4), (250, 0, 5))
    log.picture(20, image)
    with Image.open(tmp_path / "samples" / "step-00000020.png") as found:
        assert (found.size, found.getpixel((3, 3))) == ((8, 4), (250, 0, 5))

    def fails(self: Image.Image, path: Path, **options: Any) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="No space left on device"):
        log.picture(40, image)
    log.close()
    assert names(tmp_path / "samples") == ["step-00000020.png"]


def test_environment():
    found = environment()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert set(found["packages"]) <= set(work_folder.PACKAGES)
    assert json.loads(json.dumps(found)) == found
