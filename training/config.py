"""What a training run is told: one TOML file, in which every key is known.

`training/configs/` holds commented examples for every method.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
NotNegativeCount = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Settings that belong together: unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Config = TypeVar("Config", bound=Section)


class DataSettings(Section):
    """The prepared data set, and what is read of each photo.

    Attributes:
        path: folder that `bolid prepare` wrote.
        references: photos per step that the adapter sees; a person with fewer gives all but the target.
        other_people: in training so many of them or fewer, always less than half, show somebody else: what lies in
            people's folders by mistake.
        crop: what the image encoder sees of a reference for the face branch.
        buckets: pictures keep about their aspect ratio; otherwise all are square.
        cache: folder for what is computed once; a folder `cache` in `path` if not given.
    """

    path: Path
    references: Annotated[int, Field(ge=1, le=64)] = 9
    other_people: Annotated[int, Field(ge=0, le=31)] = 0
    crop: Literal["whole", "face", "person"] = "whole"
    buckets: bool = False
    cache: Path | None = None


class BaseSettings(Section):
    """The Stable Diffusion model that is adapted, and the image encoder; both stay frozen.

    Attributes:
        path: folder in diffusers' format (unet, vae, text_encoder, tokenizer, scheduler).
        image_encoder: folder in transformers' format (`CLIPVisionModelWithProjection`).
        face_pack: folder with the .onnx files of an insightface pack, for adapters that read ArcFace vectors.
        resolution: side of a square training picture in pixels; with buckets, pictures have at most its area.
        family: of the adapter file: "sd15", "sdxl" or another name; told by the UNet if not given.
    """

    path: Path
    image_encoder: Path
    face_pack: Path | None = None
    resolution: Annotated[int, Field(ge=32, le=1024, multiple_of=8)] = 512
    family: str = ""


class BodySettings(Section):
    """Sizes of the body branch, see `models.body_encoder`."""

    dim: Annotated[int, Field(ge=64, multiple_of=64)] = 512
    depth: Count = 2
    resampler_depth: Count = 1
    num_tokens: Count = 8


class AdapterSettings(Section):
    """What is trained.

    Attributes:
        initial: public IP-Adapter or BoLID file to start from; what it lacks starts fresh.
        body_encoder: file of a body encoder that a fresh body branch starts with, all but what reads the image encoder;
            its sizes have to be those of `body`. `bolid world unpack` writes one.
        kind: layout of a fresh face branch: "base" reads the image encoder's embeddings, "plus" its hidden states,
            "faceid" ArcFace vectors.
        num_tokens: tokens of a fresh face branch; 4, or 16 for plus, if not given.
        inner_dim, depth: of a fresh resampler ("plus").
        aggregator_depth: self-attention blocks; 0 averages the photos. 2 for method "self_attention", otherwise 0, if
            not given.
        save_precision: of the weights in the result's file.
        body: sizes of the body branch, where the method has one.
    """

    initial: Path | None = None
    body_encoder: Path | None = None
    kind: Literal["base", "plus", "faceid"] = "base"
    num_tokens: Count | None = None
    inner_dim: Annotated[int, Field(ge=64, multiple_of=64)] = 768
    depth: Count = 4
    aggregator_depth: Annotated[int, Field(ge=0, le=8)] | None = None
    save_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    body: BodySettings = BodySettings()


class DroppingSettings(Section):
    """Probabilities with which a sample loses conditions, so that guidance has something to compare with.

    Attributes:
        text, face, body, all: of one of these alone, or of all; they exclude each other. `body` counts only where there
            is a body branch.
        target_pose: of the pose, so that the body branch also works without one.
        body_image: of the image features of the body branch, so that it also works without them.
    """

    text: Fraction = 0.05
    face: Fraction = 0.05
    body: Fraction = 0.05
    all: Fraction = 0.05
    target_pose: Fraction = 0.5
    body_image: Fraction = 0.1


class LossSettings(Section):
    """The reconstruction loss, and the terms beside it.

    Attributes:
        min_snr_gamma: cap of the signal-to-noise weighting (https://arxiv.org/abs/2303.09556); no weighting if not
            given.
        identity: λ_id of the keypoint term; needs `keypoint_network`.
        bone_ratio: weight of the bone ratios inside the keypoint term.
        keypoint_network: file that `method = "keypoints"` wrote, for the same VAE.
        clip: λ_clip of the text term.
        clip_image: weight of the term that compares with the target photo, by the same network.
        clip_model: an open_clip model: "EVA02-L-14", or "local-dir:FOLDER".
        clip_weights: file with its weights, or the name of public ones, which are downloaded; not for "local-dir:".
        min_alpha_bar: the terms act only where ᾱ_t is larger, and are weighted by ᾱ_t.
        start_step: the terms act from here on; before that, reconstruction alone.
        timestep_shift: moves the timesteps of training towards noise, where it is decided what people look like
            (https://arxiv.org/abs/2403.03206, equation 23); at 1 all are as likely.
        person_weight: of squared errors inside the person's box, where they are 1 outside.
        face_weight: of those inside the face's box, beside `person_weight`.
    """

    min_snr_gamma: Positive | None = None
    identity: NotNegative = 0.0
    bone_ratio: NotNegative = 0.1
    keypoint_network: Path | None = None
    clip: NotNegative = 0.0
    clip_image: NotNegative = 0.0
    clip_model: str = "EVA02-L-14"
    clip_weights: str = ""
    min_alpha_bar: Fraction = 0.5
    start_step: NotNegativeCount = 0
    timestep_shift: Positive = 1.0
    person_weight: Positive = 1.0
    face_weight: Positive = 1.0


class OptimizerSettings(Section):
    """How the weights move.

    Attributes:
        name: "adamw8bit" needs the package bitsandbytes and a GPU.
        warmup_steps: the learning rate rises from 0 in these steps.
        cooldown_steps: a constant learning rate falls to 0 in the last so many steps.
        ema_decay: of the moving average of the weights that is validated and written; 0 keeps none.
    """

    name: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: NotNegativeCount = 0
    cooldown_steps: NotNegativeCount = 0
    max_grad_norm: Positive = 1.0
    ema_decay: BelowOne = 0.0


class RunSettings(Section):
    """How long, how, and what is written meanwhile.

    Attributes:
        output: folder of the run; a run that is there goes on.
        seed: of everything random.
        steps: steps of the optimiser.
        batch_size: samples per process and forward pass.
        gradient_accumulation: forward passes per step.
        precision: of the frozen networks and of autocast; what is trained stays float32.
        log_every, validate_every, save_every: in steps. The last step is validated and saved in any case.
        sample_every: in steps; 0: no pictures.
        keep_checkpoints: older ones are deleted.
        validation_batches: size of the fixed validation set of held-out people.
        sample_people, sample_steps, sample_guidance_scale: rows, denoising steps and guidance of the sample grids.
    """

    output: Path
    seed: NotNegativeCount = 0
    steps: Count = 10_000
    batch_size: Count = 4
    gradient_accumulation: Count = 1
    gradient_checkpointing: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    log_every: Count = 20
    validate_every: Count = 500
    validation_batches: Count = 8
    save_every: Count = 1000
    keep_checkpoints: Count = 2
    sample_every: NotNegativeCount = 1000
    sample_people: Count = 4
    sample_steps: Count = 20
    sample_guidance_scale: NotNegative = 5.0


class Training(Section):
    """What all runs of `training.loop` have."""

    run: RunSettings
    optimizer: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _cools_down(self) -> Training:
        optimizer = self.optimizer
        if optimizer.cooldown_steps and optimizer.schedule != "constant":
            raise ValueError('optimizer.cooldown_steps needs schedule "constant"; a cosine falls by itself')
        if optimizer.cooldown_steps and optimizer.warmup_steps + optimizer.cooldown_steps > self.run.steps:
            raise ValueError(
                f"optimizer.warmup_steps and cooldown_steps are {optimizer.warmup_steps + optimizer.cooldown_steps} "
                f"together, more than run.steps ({self.run.steps})"
            )
        return self


class AdapterTraining(Training):
    """`method` "ip_adapter", "self_attention" or "bolid": an adapter for a Stable Diffusion model."""

    method: Literal["ip_adapter", "self_attention", "bolid"]
    data: DataSettings
    base: BaseSettings
    adapter: AdapterSettings = AdapterSettings()
    dropping: DroppingSettings = DroppingSettings()
    loss: LossSettings = LossSettings()

    @property
    def has_body(self) -> bool:
        return self.method == "bolid"

    @property
    def aggregator_depth(self) -> int:
        if self.adapter.aggregator_depth is not None:
            return self.adapter.aggregator_depth
        return 2 if self.method == "self_attention" else 0

    @model_validator(mode="after")
    def _fits_together(self) -> AdapterTraining:
        from ..models.self_attention import PHOTOS  # torch takes its time, and `bolid --help` has none

        alone = self.dropping.text + self.dropping.face + self.has_body * self.dropping.body + self.dropping.all
        if alone > 1 + 1e-9:  # decimal fractions do not add up exactly
            raise ValueError(f"the probabilities text, face, body and all of dropping add up to {alone:g}, more than 1")
        if self.method == "ip_adapter" and self.aggregator_depth:
            raise ValueError('adapter.aggregator_depth needs method "self_attention" or "bolid", not "ip_adapter"')
        if self.method == "self_attention" and not self.aggregator_depth:
            raise ValueError('adapter.aggregator_depth is 0, but method "self_attention" trains an aggregator')
        if self.aggregator_depth and self.data.references > PHOTOS:
            raise ValueError(f"data.references is {self.data.references}, but the aggregator has {PHOTOS} places")
        if 2 * self.data.other_people >= self.data.references:
            raise ValueError(
                f"data.other_people is {self.data.other_people}, but of {self.data.references} references more than "
                "half have to show the person"
            )
        ignored = {"kind", "num_tokens", "inner_dim", "depth"} & self.adapter.model_fields_set
        if self.adapter.initial is not None and ignored:
            raise ValueError(
                f"adapter.initial decides on adapter.{', adapter.'.join(sorted(ignored))}: leave out one or the other"
            )
        if self.adapter.body_encoder is not None and not self.has_body:
            raise ValueError(f'adapter.body_encoder needs method "bolid", not "{self.method}"')
        if self.loss.identity and self.loss.keypoint_network is None:
            raise ValueError(
                'loss.identity needs loss.keypoint_network, the file that a run with method = "keypoints" wrote'
            )
        return self


class KeypointSettings(Section):
    """The keypoint network.

    Attributes:
        width, depth: see `models.keypoint_network`.
        noisy: share of the training latents that are the base's own guesses x̂_0 at a random noise level, which is what
            the network sees in the loss.
        min_alpha_bar: noise levels of those guesses, as in the loss.
    """

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    depth: Annotated[int, Field(ge=1, le=5)] = 4
    noisy: Fraction = 0.5
    min_alpha_bar: Fraction = 0.5


class KeypointTraining(Training):
    """`method` "keypoints": the network that finds joints in latents, for the keypoint term of the adapters' loss."""

    method: Literal["keypoints"]
    data: DataSettings
    base: BaseSettings
    network: KeypointSettings = KeypointSettings()


TrainingConfig = AdapterTraining | KeypointTraining

KINDS: dict[str, type[Training]] = {
    **dict.fromkeys(("ip_adapter", "self_attention", "bolid"), AdapterTraining),
    "keypoints": KeypointTraining,
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a config file of `bolid train`; see `read_config`."""
    return read_config(path, overrides, kinds=KINDS, key="method", examples="training/configs")


def read_config(
    path: str | Path, overrides: Sequence[str], *, kinds: Mapping[str, type[Training]], key: str, examples: str
) -> Any:
    """Read a config file that says itself what it configures; see `read_values`.

    Args:
        kinds: what there is to be trained, and the config of each.
        key: what tells which of them it is.

    Raises:
        ValueError: not TOML, or a key or value that is not known; the message names all of them, and the nearest key.
    """
    values = read_values(path, overrides, examples=examples)
    kind = values.get(key)
    if not isinstance(kind, str) or kind not in kinds:
        given = repr(values[key]) if key in values else "missing"
        raise ValueError(f"{path}: {key} must be one of {', '.join(kinds)}, but it is {given}.")
    return validated(values, kinds[kind], path)


def read_values(path: str | Path, overrides: Sequence[str], *, examples: str) -> dict[str, Any]:
    """The values of a config file, unchecked.

    Args:
        path: a TOML file; relative paths in it are relative to the working directory.
        overrides: "section.key=value" each; the value is TOML, or plain text where it is none.
        examples: folder with configs, for messages.

    Raises:
        ValueError: not TOML.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"There is no config file {path}. Examples are in {examples}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    for override in overrides:
        _set(values, override)
    return values


def validated(values: Mapping[str, Any], section: type[Config], path: str | Path) -> Config:
    """The config that these values make.

    Args:
        path: where they stand, for messages.

    Raises:
        ValueError: a key or value that is not known; the message names all of them, and the nearest key.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(_problems(error, section))) from None


def resolved(config: Section) -> dict[str, Any]:
    """The config with every default, as plain JSON values."""
    return json.loads(config.model_dump_json())


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *tables, name = key.strip().split(".")
    if not separator or not name:
        raise ValueError(f"{override!r} is no override; expected section.key=value, such as run.steps=2000.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ValueError(f"{override!r}: {table} is a value and has no keys.")
    values[name] = value


def _problems(error: ValidationError, section: type[BaseModel]) -> Iterable[str]:
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        key = ".".join(place)
        match problem["type"]:
            case "extra_forbidden":
                nearest = _nearest(place, list(_all_keys(section)))
                yield f"unknown key {key}" + (f" (did you mean {nearest}?)" if nearest else "")
            case "missing":
                yield f"{key} is missing"
            case "value_error":
                yield str(problem["ctx"]["error"])
            case _:
                yield f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _nearest(place: Sequence[str], known: Sequence[str]) -> str | None:
    """The known key that was probably meant: one of the same name in another table, or a similar one."""
    *tables, name = place
    if elsewhere := [key for key in known if key.split(".")[-1] == name]:
        return elsewhere[0]
    table = "".join(f"{table}." for table in tables)
    siblings = [key.removeprefix(table) for key in known if key.startswith(table)]
    found = difflib.get_close_matches(name, [key for key in siblings if "." not in key], n=1)
    return table + found[0] if found else None
