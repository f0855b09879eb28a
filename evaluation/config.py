"""What an evaluation is told: one TOML file, in which every key is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..training.config import BaseSettings, Count, DataSettings, NotNegative, NotNegativeCount, Section

Aggregation = Literal["avg", "max", "normalised_avg", "median", "stack", "self_attention"]


class MethodSettings(Section):
    """One way of drawing people.

    Attributes:
        adapter: file of the adapter; none: the base model alone.
        references: numbers of photos that it sees, one row of results each.
        aggregation: what makes one of them: "self_attention" is the adapter's own aggregator, all others need no
            training.
        face_weight, body_weight: of the branches; 0 leaves one out.
        target_pose: whether the body branch is told the pose of the picture whose caption is drawn.
        other_people: so many of the references show somebody else.
    """

    adapter: Path | None = None
    references: Annotated[tuple[Count, ...], Field(min_length=1)] = (9,)
    aggregation: Aggregation = "avg"
    face_weight: NotNegative = 1.0
    body_weight: NotNegative = 1.0
    target_pose: bool = False
    other_people: NotNegativeCount = 0

    @model_validator(mode="after")
    def _fits_together(self) -> MethodSettings:
        if self.other_people >= min(self.references):
            raise ValueError(
                f"other_people is {self.other_people}, but of {min(self.references)} references at least one has to "
                "show the person"
            )
        return self


class DrawingSettings(Section):
    """How pictures are drawn, by all methods alike.

    Attributes:
        people: the first so many of those who are held out; all if not given.
        pictures: of each person, method, number of photos and seed.
        prompts: texts, in turn; the captions of other people's photos if not given.
        steps, guidance_scales: of the denoising.
        seeds: of the noise; every one draws all pictures again.
        batch_size: pictures at once.
        precision: of the denoiser.
    """

    people: Count | None = None
    pictures: Count = 2
    prompts: tuple[str, ...] = ()
    steps: Count = 20
    guidance_scales: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (5.0,)
    seeds: Annotated[tuple[NotNegativeCount, ...], Field(min_length=1)] = (0,)
    batch_size: Count = 8
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class EvaluationSettings(Section):
    """An evaluation.

    Attributes:
        output: folder for pictures and results; an evaluation that is there goes on.
        data: people to draw; those who are held out of training are drawn.
        base: the models that the adapters belong to.
        methods: by their names in the results.
    """

    output: Path
    data: DataSettings
    base: BaseSettings
    drawing: DrawingSettings = DrawingSettings()
    methods: Annotated[dict[str, MethodSettings], Field(min_length=1)]
