"""`bolid evaluate`: pictures by several methods, measured and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..training import loop
from ..training.base import base_fingerprint, check_base
from ..training.config import RunSettings, resolved
from ..training.data import Share
from ..training.features import Features, Person, check_photos, load_people
from ..training.files import replaced
from ..training.fingerprint import model_fingerprint
from ..training.progress import Progress
from .adapters import Adapters
from .config import OF_ADAPTERS, EvaluationSettings
from .drawing import Drawer
from .folder import EvaluationError, OutputFolder
from .independence import check_independence
from .measuring import Measuring
from .outputs import Outputs
from .pictures import PictureFiles
from .plan import Plan, Request, Setting
from .report import write_report
from .results import results_of, write_results
from .sources import Sources


def evaluate(
    settings: EvaluationSettings, progress: Progress = lambda stage, done, total, note="": None
) -> dict[str, Any]:
    """Draw and measure, or go on with an evaluation that was interrupted.

    Args:
        settings: of `load_config`.
        progress: told how far it is, by the main process alone.

    Returns:
        `output`, `report` and `results` (files), `pictures` (how many were compared), and `summary`: by variant and
        column, mean, low and high.

    Raises:
        ValueError, FileNotFoundError: something in the config cannot be used, or a picture cannot be read.
        EvaluationError: the device has too little memory.
        KeyboardInterrupt: stopped; all that was drawn and measured stays.
    """
    check_base(settings.base.path)
    run = RunSettings(output=settings.output, batch_size=settings.drawing.batch_size)
    accelerator, share, progress = loop.set_up(run, progress)
    if settings.drawing.precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError('drawing.precision "fp16" needs a GPU. Take "bf16" or "fp32".')
    try:
        return _Evaluation(settings, accelerator, share, progress).go()
    except torch.cuda.OutOfMemoryError as error:
        raise EvaluationError(
            f"The device has too little memory ({error}). Lower drawing.batch_size or measures.batch_size, or take "
            'drawing.precision "bf16"; the same command then goes on.'
        ) from error


class _Evaluation:
    """One start of an evaluation."""

    def __init__(self, settings: EvaluationSettings, accelerator: Accelerator, share: Share, progress: Progress):
        self._settings = settings
        self._accelerator = accelerator
        self._share = share
        self._progress = progress
        self._folder = OutputFolder(settings.output)
        self._adapters = Adapters(settings)
        self._sources = Sources.of(settings.measures)
        self._doubts = check_independence(self._sources, self._adapters, settings.base)
        cache = settings.data.cache or settings.data.path / "cache"
        part: dict[str, Any] = {
            "device": accelerator.device,
            "progress": progress,
            "process": share.process,
            "processes": share.processes,
            "wait": accelerator.wait_for_everyone,
        }
        self._features = Features(folder=cache, base=settings.base, **part)
        people = load_people(settings.data, settings.base, to_train=False)
        self._people_fingerprint = people.fingerprint
        held_out = people.test
        if "face_embeds" in self._adapters.feature_names:
            held_out = self._with_faces(held_out)
        self._plan = Plan(held_out, settings)
        self._files = PictureFiles(settings, self._plan, self._folder.pictures)
        self._outputs = Outputs(
            folder=self._folder.measured,
            resolution=settings.base.resolution,
            batch_size=settings.measures.batch_size,
            **part,
        )
        self._measuring = Measuring(settings, self._plan, self._sources, self._files, self._outputs)
        if accelerator.is_main_process:
            photos = [photo for person in self._plan.people for photo in person.photos]
            check_photos(photos, cache / f"photos-evaluation-{people.fingerprint[:12]}.json", progress)
            self._measuring.check_networks()

    def go(self) -> dict[str, Any]:
        """Everything that is not there yet."""
        is_main = self._accelerator.is_main_process
        drawn_from = self._drawn_from()
        for setting, depends_on in drawn_from.items():
            self._folder.check_drawn_from(setting.folder, depends_on)
        if is_main:
            self._folder.start(resolved(self._settings), self._plan.record())
        self._accelerator.wait_for_everyone()
        try:
            odd = self._files.check_given()
            self._draw(drawn_from)
            self._measuring.fill()
            if is_main:
                self._write([*self._doubts, *odd])
        finally:
            if is_main:
                self._folder.close()
        self._accelerator.wait_for_everyone()
        return self._summary()

    def _with_faces(self, people: Sequence[Person]) -> list[Person]:
        """The same people, with only those photos as references in which insightface finds a face."""
        self._features.fill_faces([photo for person in people for photo in person.photos])
        return [
            replace(
                person,
                photos=tuple(
                    replace(photo, usable=photo.usable and self._features.face_embeds(photo) is not None)
                    for photo in person.photos
                ),
            )
            for person in people
        ]

    def _drawn_from(self) -> dict[Setting, dict[str, Any]]:
        """Of every setting that is drawn here, what its pictures depend on."""
        settings = self._settings
        shared = {
            "base.path": base_fingerprint(settings.base.path),
            "data.path": self._people_fingerprint,
            "data.crop": settings.data.crop,
            "base.resolution": settings.base.resolution,
            "drawing.people": len(self._plan.people),
            "drawing.prompts": list(settings.drawing.prompts),
            "drawing.steps": settings.drawing.steps,
            "drawing.precision": settings.drawing.precision,
        }
        if self._adapters.facts:
            shared["base.image_encoder"] = model_fingerprint(settings.base.image_encoder)
        if "face_embeds" in self._adapters.feature_names:
            shared["base.face_pack"] = model_fingerprint(settings.base.face_pack)
        found = {}
        for setting in self._plan.settings():
            method = settings.methods[setting.variant.method]
            if method.pictures is not None:
                continue
            own: dict[str, Any] = {}
            if method.adapter_files:
                own = method.model_dump(include=set(OF_ADAPTERS))
                own["adapter"] = self._adapters.facts[method.adapter_files[setting.run]].sha256
            found[setting] = {**shared, **own}
        return found

    def _draw(self, drawn_from: dict[Setting, dict[str, Any]]) -> None:
        """The pictures that are missing, by all processes: whole batches, so that none depends on who draws it."""
        requests, size = self._plan.requests, self._settings.drawing.batch_size
        batches = [
            (setting, requests[first : first + size])
            for setting in drawn_from
            for first in range(0, len(requests), size)
        ]
        missing = {
            setting: {request.file for request in self._files.missing(setting, requests)} for setting in drawn_from
        }
        mine = [
            (setting, batch, [request.file in missing[setting] for request in batch])
            for number, (setting, batch) in enumerate(batches)
            if number % self._share.processes == self._share.process
        ]
        mine = [(setting, batch, wanted) for setting, batch, wanted in mine if any(wanted)]
        # Before anybody draws: all have to agree on what is missing.
        self._accelerator.wait_for_everyone()
        if not any(missing.values()):
            return
        drawer = Drawer(self._settings, self._plan, self._adapters, self._features, device=self._accelerator.device)
        drawer.load()
        done = sum(len(requests) - len(files) for files in missing.values())
        total = done + sum(sum(wanted) for _, _, wanted in mine)
        self._progress("drawn pictures", done, total)
        for setting, batch, wanted in mine:
            self._draw_batch(drawer, setting, batch, wanted, drawn_from[setting])
            done += sum(wanted)
            self._progress("drawn pictures", done, total, setting.variant.name)
        self._accelerator.wait_for_everyone()

    def _draw_batch(
        self,
        drawer: Drawer,
        setting: Setting,
        batch: Sequence[Request],
        wanted: Sequence[bool],
        depends_on: dict[str, Any],
    ) -> None:
        self._folder.note_drawn_from(setting.folder, depends_on)
        for request, image, is_wanted in zip(batch, drawer.draw(setting, batch), wanted, strict=True):
            if is_wanted:
                with replaced(self._files.path(setting, request)) as partial:
                    image.save(partial, format="PNG")

    def _write(self, warnings: Sequence[str]) -> None:
        folder = self._folder.folder
        self._progress("results", 0, 1)
        measured = self._measuring.measure(folder)
        results = results_of(
            self._settings,
            self._plan,
            self._measuring.columns,
            measured,
            fingerprints={
                "base": base_fingerprint(self._settings.base.path),
                "people": self._people_fingerprint,
                "adapters": {str(path): facts.sha256 for path, facts in self._adapters.facts.items()},
                "networks": {source.name: self._outputs.fingerprint(source) for source in self._sources.all},
            },
            warnings=warnings,
        )
        write_results(folder, results)
        write_report(folder, results, settings=self._settings, plan=self._plan, files=self._files, measured=measured)
        self._progress("results", 1, 1)

    def _summary(self) -> dict[str, Any]:
        folder: Path = self._folder.folder
        results = json.loads((folder / "results.json").read_bytes())
        return {
            "output": str(folder),
            "report": str(folder / "report.html"),
            "results": str(folder / "results.json"),
            "pictures": results["pictures_per_run"] * sum(max(1, len(one["runs"])) for one in results["variants"]),
            "warnings": results["warnings"],
            "summary": {
                variant["name"]: {
                    column: {key: found[key] for key in ("mean", "low", "high")}
                    for column, found in variant["columns"].items()
                    if not results["columns"][column]["is_detail"]
                }
                for variant in results["variants"]
            },
        }
