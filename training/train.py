"""`bolid train`: adapters, and the keypoint network of their loss."""

from __future__ import annotations

from typing import Any

from . import adapter_task, keypoint_task, loop
from .base import DTYPES, base_fingerprint, check_base, load_denoiser
from .config import AdapterTraining, TrainingConfig
from .features import Features, check_photos, load_people
from .progress import Progress
from .run_folder import RunFolder


def train(config: TrainingConfig, progress: Progress = lambda stage, done, total, note="": None) -> dict[str, Any]:
    """Train, or go on with a run that was interrupted.

    Args:
        progress: told how far it is, by the main process alone.

    Returns:
        `output`, `adapter` (the file), `steps`, `validation` (the last one's values).

    Raises:
        ValueError, FileNotFoundError: something in the config cannot be used, or the run there is another one.
        TrainingError: the loss is not finite, a file cannot be read or written, or the device has too little memory.
        KeyboardInterrupt: the run was stopped; a checkpoint is there.
    """
    check_base(config.base.path)
    accelerator, share, progress = loop.set_up(config.run, progress)
    method = adapter_task if isinstance(config, AdapterTraining) else keypoint_task
    people = load_people(config.data, config.base)
    depends_on = {
        **loop.settings_that_matter(config, share),
        **method.result_depends_on(config),
        "base.path": base_fingerprint(config.base.path),
        "data.path": people.fingerprint,
    }
    folder = RunFolder(config.run.output, depends_on)

    cache = config.data.cache or config.data.path / "cache"
    features = Features(
        folder=cache,
        base=config.base,
        device=accelerator.device,
        progress=progress,
        process=share.process,
        processes=share.processes,
        wait=accelerator.wait_for_everyone,
    )
    with loop.readable_errors(folder):
        # First all that may be wrong with the config, then what takes hours.
        denoiser = load_denoiser(config.base.path, dtype=DTYPES[config.run.precision])
        if config.run.gradient_checkpointing:
            denoiser.unet.enable_gradient_checkpointing()
        task = method.task(config, denoiser=denoiser, device=accelerator.device)
        optimizer = loop.optimizer_for(config.optimizer, task.module)
        if accelerator.is_main_process:
            check_photos(people.photos, cache / f"photos-{people.fingerprint[:12]}.json", progress)
        accelerator.wait_for_everyone()
        task.load_data(people, features, share)
        return loop.train(
            task,
            config,
            optimizer=optimizer,
            accelerator=accelerator,
            folder=folder,
            share=share,
            progress=progress,
        )
