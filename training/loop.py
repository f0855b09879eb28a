"""The loop that everything trained here shares."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, gather_object
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors import SafetensorError
from transformers.optimization import get_cosine_schedule_with_warmup, get_wsd_schedule

from .config import OptimizerSettings, RunSettings, Training, resolved
from .data import Share, Totals
from .progress import Progress
from .run_folder import RunFolder, RunLog, TrainingError

PATIENCE = timedelta(days=1)
"""For processes that wait while others fill their part of the cache, or one of them writes the result."""

MAX_SKIPPED = 100

PARALLEL = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)

FREE = {
    "run.output",
    "run.batch_size",
    "run.gradient_checkpointing",
    "run.log_every",
    "run.validate_every",
    "run.save_every",
    "run.keep_checkpoints",
    "run.sample_every",
    "run.sample_people",
    "run.sample_steps",
    "run.sample_guidance_scale",
    "data.path",
    "data.cache",
    "base.path",
    "base.image_encoder",
    "base.face_pack",
    "base.cache",
    "adapter.initial",
    "loss.keypoint_network",
    "loss.clip_model",
    "loss.clip_weights",
    "optimizer.cooldown_steps",
}
"""Keys that do not change the result or what has been done so far, or in whose place the content of files counts."""


class Batch(Protocol):
    """Samples by the names of their files, for messages."""

    @property
    def names(self) -> tuple[str, ...]: ...


class Task(Protocol):
    """What the loop trains.

    Attributes:
        module: its parameters are what is trained.
        terms: names of the loss's terms, and their λ.
    """

    module: torch.nn.Module
    terms: dict[str, float]

    def data_summary(self) -> dict[str, Any]: ...

    def loss_terms(self, module: torch.nn.Module, number: int, step: int) -> tuple[dict[str, torch.Tensor], Batch]: ...

    def validation_values(self, autocast: Callable[[], AbstractContextManager[None]]) -> Totals: ...

    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image: ...

    def write_result(self, path: Path, training: dict[str, Any]) -> None: ...


def set_up(run: RunSettings, progress: Progress) -> tuple[Accelerator, Share, Progress]:
    """The processes and the device that a run computes with, this process's part, and whom it tells how far it is.

    Only the main process tells anybody.

    Raises:
        ValueError: processes that are set up in a way, or a precision, that cannot be trained with.
    """
    accelerator = Accelerator(
        mixed_precision="no" if run.precision == "fp32" else run.precision,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            # Otherwise every process holds the gradients twice.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )
    if accelerator.distributed_type not in PARALLEL:
        raise ValueError(
            f"accelerate is set up for {accelerator.distributed_type.value}, but BoLID only knows processes that each "
            "hold the whole model. Run accelerate config again, or give accelerate launch --multi_gpu."
        )
    if run.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError('run.precision "fp16" needs a GPU. Take "bf16" or "fp32".')
    share = Share(process=accelerator.process_index, processes=accelerator.num_processes, batch_size=run.batch_size)
    return accelerator, share, progress if accelerator.is_main_process else _silent


def optimizer_for(settings: OptimizerSettings, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a module's weights.

    Raises:
        ValueError: its package is missing.
    """
    kind: Any = torch.optim.AdamW
    if settings.name == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit

            kind = AdamW8bit
        except ImportError as error:
            raise ValueError(
                f'optimizer.name "adamw8bit" needs the package bitsandbytes ({error}): pip install bitsandbytes, or '
                'take "adamw".'
            ) from error
    return kind(
        list(module.parameters()), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )


def train(
    task: Task,
    config: Training,
    *,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    folder: RunFolder,
    share: Share,
    progress: Progress,
) -> dict[str, Any]:
    """Train, or go on with a run that was interrupted.

    Args:
        task: on the accelerator's device, with its data.
        optimizer: of the task's weights.
        folder: of the run.
        progress: told how far it is.

    Returns:
        `output`, the result's file under its name, `steps`, `validation` (the last one's values).

    Raises:
        ValueError: something in the config cannot be used, or the run there is another one.
        TrainingError: the loss is not finite, or a file cannot be written.
        KeyboardInterrupt: the run was stopped; a checkpoint is there.
    """
    return _Run(config, accelerator, task, optimizer, folder, share, progress).go()


@contextlib.contextmanager
def readable_errors(folder: RunFolder) -> Iterator[None]:
    """Full disks, damaged files and too little memory become `TrainingError`s that say what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"A file could not be read or written ({error}). {folder.last_checkpoint()} If the disk is full, make "
            "room; the same command then goes on."
        ) from error
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"The device has too little memory ({error}). Lower run.batch_size and raise run.gradient_accumulation, "
            'set run.gradient_checkpointing = true, take run.precision "bf16", or a lower base.resolution.'
        ) from error


def settings_that_matter(config: Training, share: Share) -> dict[str, Any]:
    """Everything in a config that changes the result, flat; what lies in files has to be added."""
    values = dict(_flat(resolved(config)))
    if values["optimizer.schedule"] == "constant":
        del values["run.steps"]  # more steps go on where fewer ended
    kept = {key: value for key, value in values.items() if key not in FREE}
    return {**kept, "samples per forward pass": share.all_rows}


def _schedule(optimizer: torch.optim.Optimizer, config: Training, *, step: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate from this step on: constant with a cooldown (https://arxiv.org/abs/2405.18392), or a cosine."""
    settings = config.optimizer
    if settings.schedule == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, config.run.steps, last_epoch=step - 1)
    return get_wsd_schedule(
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_stable_steps=_cooldown_from(config) - settings.warmup_steps,
        num_decay_steps=settings.cooldown_steps,
        decay_type="1-sqrt",
        last_epoch=step - 1,
    )


def _cooldown_from(config: Training) -> int:
    """The last step before the learning rate falls."""
    return config.run.steps - config.optimizer.cooldown_steps


def _silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


class _Run:
    """One start of a run, from its checkpoint to its end."""

    def __init__(
        self,
        config: Training,
        accelerator: Accelerator,
        task: Task,
        optimizer: torch.optim.Optimizer,
        folder: RunFolder,
        share: Share,
        progress: Progress,
    ):
        self._config = config
        self._accelerator = accelerator
        self._task = task
        self._folder = folder
        self._share = share
        self._progress = progress
        self._weights = list(task.module.parameters())
        self._module = accelerator.prepare_model(task.module)
        self._optimizer = accelerator.prepare_optimizer(optimizer)
        self._schedule: torch.optim.lr_scheduler.LRScheduler
        decay = config.optimizer.ema_decay
        self._average = EMAModel(self._weights, decay=decay) if decay else None
        self._validation: dict[str, float] = {}
        self._log: RunLog | None = None
        self._skipped = 0
        self._held_until = _cooldown_from(config)

    def go(self) -> dict[str, Any]:
        """Everything from the last checkpoint on."""
        run = self._config.run
        start = self._resume()
        self._schedule = _schedule(self._optimizer.optimizer, self._config, step=start)
        starts = sorted(set(gather_object([start])))
        if len(starts) > 1:
            raise ValueError(
                f"The processes find different checkpoints in {run.output} (steps {', '.join(map(str, starts))}): it "
                "must be the same folder for all of them, on a disk that the machines share."
            )
        if start > run.steps:
            raise ValueError(
                f"{run.output} has a checkpoint of step {start}, but run.steps is {run.steps}. Set it to at least "
                f"{start}, or give another run.output."
            )
        self._check_cooldown(start)
        if start == run.steps == self._folder.result_step():
            return self._result()
        if self._accelerator.is_main_process:
            self._folder.start(resolved(self._config))
            self._log = RunLog(self._folder.folder, step=start)
        self._accelerator.wait_for_everyone()
        try:
            self._go_on(start)
        finally:
            if self._log is not None:
                self._log.close()
                self._folder.close()
        self._accelerator.wait_for_everyone()
        return self._result()

    def _go_on(self, start: int) -> None:
        """The steps after `start`, and the result."""
        run = self._config.run
        if start == 0:
            self._validate(0)
            if run.sample_every:
                self._sample(0)  # what cannot be drawn at all is known at once
        began, samples_per_step = time.monotonic(), self._share.all_rows * run.gradient_accumulation
        self._progress("samples", start * samples_per_step, run.steps * samples_per_step)
        with _stop_requests(self._accelerator) as stop:
            for step in range(start + 1, run.steps + 1):
                loss = self._step(step)
                self._progress("samples", step * samples_per_step, run.steps * samples_per_step, f"loss {loss:.4f}")
                is_last = step == run.steps
                if self._log is not None and step % run.log_every == 0:
                    speed = (step - start) * samples_per_step / (time.monotonic() - began)
                    self._log.show(step, "train", {"samples_per_second": speed})
                if step % run.validate_every == 0 or is_last:
                    self._validate(step)
                if step % run.save_every == 0 or is_last or stop.is_set:
                    self._save(step)
                if run.sample_every and (step % run.sample_every == 0 or is_last):
                    self._sample(step)
                if stop.is_set:
                    raise KeyboardInterrupt
        if self._accelerator.is_main_process:
            with self._averaged():
                self._task.write_result(self._folder.result(), self._summary(run.steps))

    def _result(self) -> dict[str, Any]:
        return {
            "output": str(self._folder.folder),
            self._folder.result_name: str(self._folder.result()),
            "steps": self._config.run.steps,
            "validation": self._validation,
        }

    def _step(self, step: int) -> float:
        """One step of the optimiser; steps count from 1, forward passes from 0."""
        accelerator, passes = self._accelerator, self._config.run.gradient_accumulation
        logs = self._accelerator.is_main_process and step % self._config.run.log_every == 0
        values: dict[str, float] = {}
        for number in range((step - 1) * passes, step * passes):
            is_first, is_last = number == (step - 1) * passes, number == step * passes - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self._module):
                terms, batch = self._task.loss_terms(self._module, number, step - 1)
                means = self._checked_means(step, terms, batch)
                values = {name: values.get(name, 0.0) + mean / passes for name, mean in means.items()}
                weighted = {name: self._task.terms[name] * value.mean() for name, value in terms.items()}
                if is_first:  # when there are no gradients yet beside which these would need memory
                    norms = self._term_norms(weighted) if logs else {}
                accelerator.backward(sum(weighted.values()) / passes)
        norm = float(accelerator.clip_grad_norm_(self._weights, self._config.optimizer.max_grad_norm))
        if not math.isfinite(norm) and accelerator.scaler is None:
            self._stop_not_finite(step, "the gradient", batch.names)
        learning_rate = float(self._schedule.get_last_lr()[0])
        self._optimizer.step()
        self._check_skipped(step, batch)
        self._schedule.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.step(self._weights)
        loss = sum(self._task.terms[name] * value for name, value in values.items())
        if logs:
            named = {"loss": loss, **values, "gradient_norm": norm, **norms, "learning_rate": learning_rate}
            self._log.write(step, "train", named)
        return loss

    def _check_skipped(self, step: int, batch: Batch) -> None:
        """In half precision single steps with too large a gradient are skipped; many in a row are a broken run."""
        self._skipped = self._skipped + 1 if self._optimizer.step_was_skipped else 0
        if self._skipped >= MAX_SKIPPED:
            self._stop_not_finite(step, f"the gradient of {MAX_SKIPPED} steps in a row", batch.names)

    def _checked_means(self, step: int, terms: dict[str, torch.Tensor], batch: Batch) -> dict[str, float]:
        """Mean of each term over all processes; the same on each, so that all stop together."""
        local = torch.stack([value.detach().mean() for value in terms.values()])
        means = dict(zip(terms, self._accelerator.reduce(local, "mean").tolist(), strict=True))
        for name, mean in means.items():
            if not math.isfinite(mean):
                to_blame = (~terms[name].detach().isfinite()).tolist()
                names = [file for file, is_bad in zip(batch.names, to_blame, strict=True) if is_bad]
                self._stop_not_finite(step, f"the term {name}", gather_object(names))
        return means

    def _stop_not_finite(self, step: int, what: str, names: Any) -> None:
        raise TrainingError(
            f"At step {step} {what} is not finite, for {', '.join(names)}. {self._folder.last_checkpoint()} Look at "
            'these photos, take a lower optimizer.learning_rate, or run.precision "fp32".'
        )

    def _term_norms(self, weighted: dict[str, torch.Tensor]) -> dict[str, float]:
        """Norm of each term's own gradient, λ included, on this process; there is nothing to tell of one term."""
        active = {name: value for name, value in weighted.items() if value.requires_grad}
        if len(active) < 2:
            return {}
        # As in the backward pass: small gradients would be lost in half precision.
        scale = 1.0 if self._accelerator.scaler is None else self._accelerator.scaler.get_scale()
        norms = {}
        for name, value in active.items():
            gradients = torch.autograd.grad(value * scale, self._weights, retain_graph=True, allow_unused=True)
            present = [gradient.float().norm() for gradient in gradients if gradient is not None]
            norms[f"gradient_norm_{name}"] = float(torch.stack(present).norm()) / scale
            del gradients, present
        return norms

    def _validate(self, step: int) -> None:
        with self._averaged():
            totals = self._task.validation_values(self._accelerator.autocast)
        if not totals:
            return
        names = list(totals)
        summed = torch.stack([totals[name] for name in names]).to(self._accelerator.device, torch.float32)
        sums, counts = self._accelerator.reduce(summed, "sum").cpu().unbind(dim=1)
        self._validation = {
            name: total / count
            for name, total, count in zip(names, sums.tolist(), counts.tolist(), strict=True)
            if count
        }
        if self._log is not None:
            self._log.write(step, "validation", self._validation)

    def _sample(self, step: int) -> None:
        if self._log is not None:
            with self._averaged():
                self._log.picture(step, self._task.sample_grid(self._accelerator.autocast))
        self._accelerator.wait_for_everyone()

    def _save(self, step: int) -> None:
        if self._accelerator.is_main_process:
            with self._averaged():
                self._task.write_result(self._folder.result(step), self._summary(step))
            scaler = self._accelerator.scaler
            state = {
                "step": step,
                "module": self._task.module.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "cooldown_from": _cooldown_from(self._config),
                "average": self._average.state_dict() if self._average is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "validation": self._validation,
            }
            self._folder.save_checkpoint(step, state, keep=self._config.run.keep_checkpoints)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """The step of the checkpoint that was loaded, or 0."""
        state = self._folder.load_checkpoint()
        if state is None:
            return 0
        self._task.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._held_until = state.get("cooldown_from", state["step"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
            self._average.to(self._accelerator.device)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._validation = state["validation"]
        return state["step"]

    def _check_cooldown(self, step: int) -> None:
        """More steps go on where fewer ended, but not once the learning rate has begun to fall."""
        before, now = self._held_until, _cooldown_from(self._config)
        if before != now and step > min(before, now):
            raise ValueError(
                f"The learning rate in {self._config.run.output} was held until step {before}, but with these "
                f"run.steps and optimizer.cooldown_steps until step {now}, and the newest checkpoint is of step "
                f"{step}. Set them back, delete the checkpoints after step {min(before, now)}, or give another "
                "run.output."
            )

    def _summary(self, step: int) -> dict[str, Any]:
        """For the metadata of the result: without times, hosts and paths."""
        cooldown = self._config.optimizer.cooldown_steps
        return {
            "steps": step,
            **self._task.data_summary(),
            "settings": {**self._folder.depends_on, **({"optimizer.cooldown_steps": cooldown} if cooldown else {})},
            "validation": self._validation,
        }

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The moving average in the place of the weights, where there is one."""
        if self._average is None:
            yield
            return
        self._average.store(self._weights)
        self._average.copy_to(self._weights)
        try:
            yield
        finally:
            self._average.restore(self._weights)


class _Stop:
    is_set = False


@contextlib.contextmanager
def _stop_requests(accelerator: Accelerator) -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM end the run after a checkpoint; a second one ends it at once.

    Several processes would have to agree on the step; they end at once, and go on from their last checkpoint.
    """
    stop = _Stop()
    before: dict[signal.Signals, Any] = {}

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set:
            raise KeyboardInterrupt
        stop.is_set = True

    if accelerator.num_processes == 1:
        for kind in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                before[kind] = signal.signal(kind, request)
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
