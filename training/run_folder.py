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

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from ..models.checkpoint import read_metadata
from .files import replaced, write_text
from .work_folder import WorkFolder, changes

FORMAT = 1
RECORD = "run.json"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what mends it."""


class RunFolder(WorkFolder):
    """The folder of a run.

    Args:
        folder: `run.output`.
        depends_on: everything that the result depends on; flat, JSON values.
        result_name: what is trained.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
    """

    def __init__(self, folder: Path, depends_on: dict[str, Any], *, result_name: str = "adapter"):
        super().__init__(folder, record=RECORD, format=FORMAT, key="run.output", what="a run")
        self.result_name = result_name
        self.depends_on = json.loads(json.dumps(depends_on))
        if self.recorded is not None and (changed := changes(self.recorded["depends_on"], self.depends_on)):
            raise ValueError(
                f"{folder} holds a run with other settings: {changed}. Set them back to go on with it, or give another "
                "run.output: nothing is overwritten."
            )

    def start(self, config: dict[str, Any]) -> None:
        """See `begin`."""
        self.begin(config, depends_on=self.depends_on)
        for name in ("checkpoints", f"{self.result_name}s", "samples"):
            (self.folder / name).mkdir(exist_ok=True)

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


def _step(line: str) -> float:
    """Of a line of metrics.jsonl; the last one may have been cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
