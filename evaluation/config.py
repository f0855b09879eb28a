"""What an evaluation is told: one TOML file, in which every key is known.

`evaluation/configs/` holds examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..training.config import (
    BaseSettings,
    Count,
    DataSettings,
    NotNegative,
    NotNegativeCount,
    Section,
    read_values,
    validated,
)

Aggregation = Literal["avg", "max", "normalised_avg", "median", "stack", "self_attention"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Column = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

COLUMNS = (
    "text",
    "attributes",
    "person_found",
    "joints_found",
    "pck",
    "oks",
    "pose_error",
    "bone_error",
    "lpips",
    *("method", "run", "references", "guidance_scale", "seed", "person", "file"),
)
"""Columns that measures of other names cannot have."""

OF_ADAPTERS = ("aggregation", "face_weight", "body_weight", "target_pose", "other_people", "other_body")
"""Settings of a method that only an adapter knows."""


class MethodSettings(Section):
    """One way of drawing people: the base alone, with an adapter, or pictures that were drawn elsewhere.

    Attributes:
        adapter: file of the adapter.
        adapters: several in its place, such as those of training runs with different seeds; each draws everything, and
            the results are averaged.
        pictures: folder with pictures that another program drew, named as the `file`s of plan.jsonl in the output
            folder; with several seeds a folder `seed_N` for each.
        references: numbers of photos that it sees, one row of results each.
        aggregation: what makes one of them: "self_attention" is the adapter's own aggregator, all others need no
            training.
        face_weight, body_weight: of the branches; 0 leaves one out.
        target_pose: whether the body branch is told the pose of the picture whose caption is drawn.
        other_people: so many of the references show somebody else.
        other_body: whether the body branch sees photos of somebody else; what it then loses is what it knew.
        compare_with: methods that it is compared with besides the baseline.
    """

    adapter: Path | None = None
    adapters: tuple[Path, ...] = ()
    pictures: Path | None = None
    references: Annotated[tuple[Count, ...], Field(min_length=1)] = (9,)
    aggregation: Aggregation = "avg"
    face_weight: NotNegative = 1.0
    body_weight: NotNegative = 1.0
    target_pose: bool = False
    other_people: NotNegativeCount = 0
    other_body: bool = False
    compare_with: tuple[str, ...] = ()

    @property
    def adapter_files(self) -> tuple[Path, ...]:
        """One for each run; empty without an adapter."""
        return self.adapters or (() if self.adapter is None else (self.adapter,))

    @property
    def runs(self) -> int:
        """How many times it draws everything, beside the seeds."""
        return max(1, len(self.adapter_files))

    @property
    def photo_counts(self) -> tuple[int, ...]:
        """Numbers of photos that it sees; 0 where the base draws alone."""
        return self.references if self.adapter_files or self.pictures else (0,)

    @model_validator(mode="after")
    def _fits_together(self) -> MethodSettings:
        given = [name for name in ("adapter", "adapters", "pictures") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"a method has {' and '.join(given)}; give one of them")
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


class AttributeSettings(Section):
    """Whether a picture shows what its caption says, in the people world.

    Attributes:
        network: file of a recognition network with heads.
        oracle: `oracle.jsonl` of the photos, which tells what their captions say.
    """

    network: Path
    oracle: Path


class MeasureSettings(Section):
    """What is measured, and with which networks; what is not named is not measured.

    A network is named by its file (`bolid world train`), or by its kind and a folder or file: "clip:FOLDER"
    (transformers' CLIPVisionModelWithProjection), "dino:FOLDER" (Dinov2Model), "faces:FOLDER" (an insightface pack),
    "inception:FILE" (InceptionV3 of the published FID, as TorchScript).

    Attributes:
        identity: how much a picture is like the person's photos, by the name of the column; the first is the one that
            plots and sheets show.
        text: folder of an open_clip pair.
        attributes: see `AttributeSettings`.
        pose: file of a joints network, "mediapipe", or "mediapipe:FILE" with a pose_landmarker_*.task file.
        features: in which the distances of whole sets are measured, by a name each.
        lpips: with which classifier.
        batch_size: pictures at once.
        resamples: of every bootstrap.
    """

    identity: dict[Column, str] = Field(default_factory=dict)
    text: Path | None = None
    attributes: AttributeSettings | None = None
    pose: str | None = None
    features: dict[Column, str] = Field(default_factory=dict)
    lpips: Literal["alex", "vgg", "squeeze"] | None = None
    batch_size: Count = 32
    resamples: Count = 10_000

    @model_validator(mode="after")
    def _names_differ(self) -> MeasureSettings:
        taken = [name for name in self.identity if name in COLUMNS or name.startswith("attribute_")]
        if taken:
            raise ValueError(f"measures.identity.{taken[0]}: other measures have columns of that name; choose another")
        return self


class EvaluationSettings(Section):
    """An evaluation.

    Attributes:
        output: folder for pictures and results; an evaluation that is there goes on.
        baseline: name of the method that all others are compared with. Without one, numbers of photos are compared, and
            what `compare_with` of a method names.
        data: people to draw; those who are held out of training are drawn.
        base: the models that the adapters belong to.
        measures: what is measured.
        methods: by their names in the results.
    """

    output: Path
    baseline: str | None = None
    data: DataSettings
    base: BaseSettings
    drawing: DrawingSettings = DrawingSettings()
    measures: MeasureSettings = MeasureSettings()
    methods: Annotated[dict[Name, MethodSettings], Field(min_length=1)]

    @property
    def most_references(self) -> int:
        """The largest number of photos that any method sees, but at least 1."""
        return max(1, *(count for method in self.methods.values() for count in method.photo_counts))

    @model_validator(mode="after")
    def _fits_together(self) -> EvaluationSettings:
        if self.baseline is not None and self.baseline not in self.methods:
            raise ValueError(f"baseline is {self.baseline!r}, which is none of the methods {', '.join(self.methods)}")
        for name, method in self.methods.items():
            _check_method(name, method)
            for other in method.compare_with:
                if other not in self.methods or other in (name, self.baseline):
                    raise ValueError(
                        f"methods.{name}.compare_with has {other!r}; expected others of the methods "
                        f"{', '.join(self.methods)}, without the baseline, with which all are compared"
                    )
        if self.data.buckets:
            raise ValueError("data.buckets is true, but all methods draw square pictures: leave it out")
        if self.measures.attributes is not None and self.drawing.prompts:
            raise ValueError(
                "measures.attributes needs the captions of the photos, of which the oracle knows what they say: leave "
                "out drawing.prompts"
            )
        return self


def _check_method(name: str, method: MethodSettings) -> None:
    """Refuse settings that would change nothing."""
    given = method.model_fields_set
    if method.pictures is not None:
        ignored = given & set(OF_ADAPTERS)
        if len(method.references) > 1:
            raise ValueError(
                f"methods.{name}.references has {len(method.references)} numbers, but pictures were drawn from one: "
                "make a method of each"
            )
    else:
        ignored = set() if method.adapter_files else given & {"references", *OF_ADAPTERS}
    if ignored:
        raise ValueError(
            f"methods.{name} has no adapter, so {', '.join(sorted(ignored))} would change nothing: leave it out"
        )
    if len(set(method.references)) < len(method.references):
        raise ValueError(f"methods.{name}.references names a number twice")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> EvaluationSettings:
    """Read a config file of `bolid evaluate`; see `training.config.read_values`.

    Raises:
        ValueError: not TOML, or a key or value that is not known; the message names all of them.
    """
    return validated(read_values(path, overrides, examples="evaluation/configs"), EvaluationSettings, path)
