"""All pictures through all measures: networks first, one after the other, then numbers, person by person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..training.features import Person
from .attributes import Attributes
from .config import EvaluationSettings
from .likeness import Likeness
from .measure import Column, Measure, Portraits, Values
from .networks import load_network
from .outputs import Outputs
from .perceptual import Perceptual, load_classifier
from .pictures import PictureFiles, Shown, shown_photo
from .plan import Plan, Request, Setting, Variant
from .posing import Bones, Pose
from .sets import SetDistances, Sets
from .sources import Sources
from .table import TOLD_APART, Rows, Table, described, rows_to
from .wording import Text


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All numbers.

    Attributes:
        table: scores by person.
        sets: by variant and name, distances of each run.
        floors: by name.
    """

    table: Table
    sets: dict[Variant, dict[str, list[SetDistances]]]
    floors: dict[str, SetDistances]


class Measuring:
    """The measures of an evaluation.

    Args:
        settings: of the evaluation.
        plan: what is drawn.
        sources: the networks.
        files: the pictures.
        outputs: what networks say; filled by `fill`.

    Raises:
        ValueError: a file that a measure reads does not fit.
    """

    def __init__(
        self, settings: EvaluationSettings, plan: Plan, sources: Sources, files: PictureFiles, outputs: Outputs
    ):
        self._settings = settings
        self._plan = plan
        self._sources = sources
        self._files = files
        self._outputs = outputs
        self._requests: dict[str, list[Request]] = {}
        for request in plan.requests:
            self._requests.setdefault(request.person.name, []).append(request)
        self.measures = list(self._measures())

    @property
    def columns(self) -> list[Column]:
        """Of all measures: those of pictures, then those of people."""
        return [
            *(column for measure in self.measures for column in measure.columns),
            *(column for measure in self.measures for column in measure.person_columns),
        ]

    def _measures(self) -> Iterator[Measure]:
        sources, outputs, plan = self._sources, self._outputs, self._plan
        drawing, resolution = self._settings.drawing, self._settings.base.resolution
        for name, source in sources.identity.items():
            yield Likeness(name, source, outputs, plan)
        if sources.text is not None:
            yield Text(sources.text, outputs, plan)
        if sources.attributes is not None:
            yield Attributes(sources.attributes, self._settings.measures.attributes, outputs, plan)
        if sources.pose is not None:
            pictures = drawing.pictures * len(drawing.seeds)
            yield Pose(sources.pose, outputs, plan, resolution=resolution)
            yield Bones(sources.pose, outputs, plan, resolution=resolution, pictures=pictures)
        if sources.lpips is not None:
            yield Perceptual(sources.lpips, outputs, plan)

    def check_networks(self) -> None:
        """Load every network once: what cannot be loaded shall be known before pictures are drawn.

        Raises:
            ValueError: one cannot be loaded; the message names it.
        """
        cpu = torch.device("cpu")
        for source in self._sources.all:
            with ExitStack() as models:
                load_network(source, device=cpu, models=models)
        if self._sources.lpips is not None:
            load_classifier(self._sources.lpips, device=cpu)

    def fill(self) -> None:
        """Ask every network about every drawn and every real picture."""
        drawn = [
            (request.person, self._files.shown(setting, request))
            for setting in self._plan.settings()
            for request in self._plan.requests
        ]
        pictures: list[Shown] = [*(shown for _, shown in drawn), *self._real]
        for source in self._sources.all:
            self._outputs.fill(source, pictures)
        self._outputs.forget_pixels()
        for measure in self.measures:
            measure.fill(drawn)

    @property
    def _real(self) -> list[Shown]:
        """All photos of the people who are drawn."""
        return [shown_photo(photo) for person in self._plan.people for photo in person.photos]

    def measure(self, folder: Path) -> Measured:
        """Values of all pictures and people; pictures.csv and people.csv are written meanwhile.

        Args:
            folder: for these files.
        """
        table = Table()
        run_columns = [*TOLD_APART, "run"]
        of_pictures = [column.name for measure in self.measures for column in measure.columns]
        of_people = [column.name for column in self.columns]
        with (
            rows_to(folder / "pictures.csv", [*run_columns, "seed", "person", "file", *of_pictures]) as pictures,
            rows_to(folder / "people.csv", [*run_columns, "person", *of_people]) as people,
        ):
            for variant in self._plan.variants():
                for person in self._plan.people:
                    for run in range(self._settings.methods[variant.method].runs):
                        values = self._person(table, variant, run, person, pictures)
                        people.write({**described(variant), "run": run, "person": person.name, **values})
        for person in self._plan.people:
            self._bounds(table, person)
        return Measured(table=table, **self._distances())

    def _person(self, table: Table, variant: Variant, run: int, person: Person, rows: Rows) -> Values:
        """Means of all columns over a person's pictures by one run."""
        requests = self._requests[person.name]
        shown = [(setting, request) for setting in self._settings_of(variant, run) for request in requests]
        keys = [self._files.shown(setting, request).key for setting, request in shown]
        portraits = Portraits(person=person, keys=keys, requests=[request for _, request in shown])
        values: list[dict[str, float | None]] = [{} for _ in keys]
        scores = table.variants[variant]
        for measure in self.measures:
            for row, found in zip(values, measure.of_pictures(portraits), strict=True):
                row.update(found)
            scores.add(run, person.name, measure.of_person(portraits))
        for (setting, request), row in zip(shown, values, strict=True):
            scores.add(run, person.name, row)
            told = {"run": run, "seed": setting.seed, "person": person.name, "file": request.file}
            rows.write({**described(variant), **told, **row})
        return {column.name: scores.mean(column.name, person.name, run) for column in self.columns}

    def _bounds(self, table: Table, person: Person) -> None:
        for measure in self.measures:
            real = measure.real(person)
            if real is not None:
                for row in measure.of_pictures(real):
                    table.real.add(0, person.name, row)
                table.real.add(0, person.name, measure.of_person(real))
            table.others.add(0, person.name, measure.others(person))

    def _settings_of(self, variant: Variant, run: int) -> list[Setting]:
        return [setting for setting in self._plan.settings_of(variant) if setting.run == run]

    def _distances(self) -> dict[str, Any]:
        drawing = self._settings.drawing
        count = len(self._plan.people) * drawing.pictures * len(drawing.seeds)
        real = [shown.key for shown in self._real]
        distances: dict[Variant, dict[str, list[SetDistances]]] = {variant: {} for variant in self._plan.variants()}
        floors = {}
        for name, source in self._sources.features.items():
            sets = Sets(source, self._outputs, real, count=count)
            for variant, found in distances.items():
                found[name] = [sets.distances(self._run_keys(variant, run)) for run in self._runs(variant)]
            if (floor := sets.floor()) is not None:
                floors[name] = floor
        return {"sets": distances, "floors": floors}

    def _runs(self, variant: Variant) -> Sequence[int]:
        return range(self._settings.methods[variant.method].runs)

    def _run_keys(self, variant: Variant, run: int) -> list[str]:
        return [
            self._files.shown(setting, request).key
            for setting in self._settings_of(variant, run)
            for request in self._plan.requests
        ]
