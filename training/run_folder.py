"""What a run leaves behind: its folder, its checkpoints, its log.

```
run.json            what the result depends on; a run with other settings is refused
config.json         the resolved config of the last start
starts.jsonl        when it was started, with which config and in which environment
metrics.jsonl       losses, gradient norms and validations by step
tensorboard/        the same, and the sample grids
checkpoints/        to resume from; the newest ones
adapters/           intermediate results, under the plural of the result's name
samples/            sample grids
```
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError

from ..models.checkpoint import read_metadata
from .files import PARTIAL, replaced, write_text

FORMAT = 1
RECORD = "run.json"
LOCK = ".lock"

PACKAGES = ("bolid", "torch", "diffusers", "transformers", "accelerate", "open-clip-torch", "bitsandbytes", "numpy")


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what mends it."""


class RunFolder:
    """The folder of a run.

    Args:
        folder: `run.output`.
        depends_on: everything that the result depends on; flat, JSON values.
        result_name: what is trained.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
    """

    def __init__(self, folder: Path, depends_on: dict[str, Any], *, result_name: str = "adapter"):
        self.folder = folder
        self.result_name = result_name
        self.depends_on = json.loads(json.dumps(depends_on))
        self._record = folder / RECORD
        self._lock = FileLock(folder / LOCK)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"run.output is {folder}, which is a file. Give a folder.")
        if self._record.is_file():
            try:
                recorded = json.loads(self._record.read_bytes())
            except ValueError as error:
                raise ValueError(f"{self._record} is damaged ({error}). Give another run.output.") from None
            self._check_same(recorded)
        elif folder.is_dir() and any(not path.name.startswith((LOCK, f".{RECORD}.")) for path in folder.iterdir()):
            raise ValueError(
                f"run.output is {folder}, which holds other files and no run. Give a new one: nothing is overwritten."
            )

    def _check_same(self, recorded: dict[str, Any]) -> None:
        if recorded.get("format") != FORMAT:
            raise ValueError(
                f"{self.folder} holds a run of another version of BoLID (format {recorded.get('format')}; this one has "
                f"{FORMAT}). Give another run.output."
            )
        before, now = recorded["depends_on"], self.depends_on
        changed = [
            f"{key} was {_shown(before.get(key))}, now {_shown(now.get(key))}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a run with other settings: {'; '.join(changed)}. Set them back to go on with it, "
                "or give another run.output: nothing is overwritten."
            )

    def start(self, config: dict[str, Any], environment: dict[str, Any]) -> None:
        """Write down that the run is started, or goes on; until `close` no other process can.

        Raises:
            ValueError: another process is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another process is training into {self.folder}. Wait for it, stop it, or give another run.output."
            ) from None
        # First: without it the folder would be taken for somebody else's.
        write_text(self._record, _json({"format": FORMAT, "depends_on": self.depends_on}))
        for name in ("checkpoints", f"{self.result_name}s", "samples"):
            (self.folder / name).mkdir(exist_ok=True)
        for left in self.folder.rglob(f".*{PARTIAL}"):
            left.unlink()
        write_text(self.folder / "config.json", _json(config))
        with (self.folder / "starts.jsonl").open("a", encoding="utf-8") as file:
            entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "config": config, "environment": environment}
            file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Let other processes go on with the run."""
        self._lock.release()

    def result(self, step: int | None = None) -> Path:
        """Where the result is written, or that of an earlier step."""
        name = self.result_name
        return self.folder / (f"{name}.safetensors" if step is None else f"{name}s/step-{step:08d}.safetensors")

    def result_step(self) -> int | None:
        """After which step the result that is there was written; None without one that can be read."""
        try:
            metadata = read_metadata(self.result())
        except (OSError, SafetensorError):
            return None
        configs = [json.loads(text) for key, text in metadata.items() if key.endswith(".config")]
        return configs[0]["training"].get("steps") if configs else None

    # Checkpoints

    def checkpoints(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted((self.folder / "checkpoints").glob("step-*.pt"))

    def last_checkpoint(self) -> str:
        """A sentence that names it, for messages."""
        kept = self.checkpoints()
        return f"The last good checkpoint is {kept[-1]}." if kept else "There is no checkpoint yet."

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int) -> None:
        """Write a checkpoint in one step, then delete all but the newest `keep`.

        Raises:
            TrainingError: it could not be written; the earlier ones are still there.
        """
        path = self.folder / "checkpoints" / f"step-{step:08d}.pt"
        try:
            with replaced(path) as partial, partial.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint of step {step} could not be written ({error}). {self.last_checkpoint()} Make room on "
                "the disk; the same command then goes on."
            ) from error
        for old in self.checkpoints()[:-keep]:
            old.unlink()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None.

        Raises:
            ValueError: it is damaged.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            return None
        try:
            with zipfile.ZipFile(checkpoints[-1]) as archive:  # torch.load does not look at the checksums
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of {damaged} is wrong")
            return torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes raise nearly anything
            raise ValueError(
                f"The checkpoint {checkpoints[-1]} is damaged ({error}). Delete it; the same command then goes on from "
                "the one before it, or from the start."
            ) from error


class RunLog:
    """Numbers and pictures of a run, in metrics.jsonl and for TensorBoard.

    Args:
        folder: of the run.
        step: that the run goes on from; later entries are those of a run that was cut off, and are dropped.
    """

    def __init__(self, folder: Path, *, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        self._samples = folder / "samples"
        # A run that starts anew validates step 0 again.
        lines = self._path.read_text(encoding="utf-8").splitlines() if step and self._path.is_file() else []
        write_text(self._path, "".join(f"{line}\n" for line in lines if _step(line) <= step))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Numbers of a step.

        Args:
            kind: "train" or "validation".
        """
        # In half precision a gradient may be infinite, which JSON cannot say.
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
        self._file.flush()
        self.show(step, kind, values)

    def show(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Numbers for TensorBoard alone, which are different each time."""
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, image: Image.Image) -> None:
        """A sample grid."""
        import numpy as np

        with replaced(self._samples / f"step-{step:08d}.png") as partial:
            image.save(partial, format="PNG")
        self._board.add_image("samples", np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held back."""
        self._file.close()
        self._board.close()


def environment() -> dict[str, Any]:
    """What a run computes with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def _step(line: str) -> float:
    """Of a line of metrics.jsonl; the last one may have been cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _json(values: Any) -> str:
    return json.dumps(values, indent=1) + "\n"
