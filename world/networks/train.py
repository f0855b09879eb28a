"""`bolid world train`: the world's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...training import loop
from ...training.config import read_config
from ...training.progress import Progress
from ...training.run_folder import RunFolder
from .autoencoder import AutoencoderTask
from .base_model import BaseTask
from .config import KINDS, NetworkTraining
from .image_text import ImageTextTask
from .joints import JointTask
from .recognition import RecognitionTask
from .task import NetworkTask

TASKS: dict[str, type[NetworkTask]] = {
    "autoencoder": AutoencoderTask,
    "base": BaseTask,
    "recognition": RecognitionTask,
    "joints": JointTask,
    "image_text": ImageTextTask,
}


def load_network_config(path: str | Path, overrides: Sequence[str] = ()) -> NetworkTraining:
    """Read a config of one of the world's networks; see `training.config.read_config`."""
    return read_config(path, overrides, kinds=KINDS, key="network", examples="world/recipes")


def train_network(
    config: NetworkTraining, progress: Progress = lambda stage, done, total, note="": None
) -> dict[str, Any]:
    """Train a network, or go on with a run that was interrupted.

    Args:
        config: of `load_network_config`.
        progress: told how far it is, by the main process alone.

    Returns:
        `output`, `network` (the file), `steps`, `validation` (the last one's values).

    Raises:
        ValueError, FileNotFoundError: something in the config cannot be used, or the run there is another one.
        TrainingError: the loss is not finite, a file cannot be read or written, or the device has too little memory.
        KeyboardInterrupt: the run was stopped; a checkpoint is there.
    """
    accelerator, share, progress = loop.set_up(config.run, progress)
    task = TASKS[config.network](config, device=accelerator.device)
    depends_on = {**loop.settings_that_matter(config, share), **task.result_depends_on()}
    folder = RunFolder(config.run.output, depends_on, result_name="network")
    with loop.readable_errors(folder):
        optimizer = loop.optimizer_for(config.optimizer, task.module)
        task.load_data(share, progress)
        return loop.train(
            task, config, optimizer=optimizer, accelerator=accelerator, folder=folder, share=share, progress=progress
        )
