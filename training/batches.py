"""From samples to tensors: everything random in a training step is drawn here, keyed by seed, step and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.utils.rnn import pad_sequence

from ..models.body import Body
from ..models.keypoints import BONES, FIRST_JOINT, JOINTS
from ..models.self_attention import PHOTOS
from .base import TIMESTEPS
from .config import AdapterTraining, DroppingSettings, LossSettings
from .features import MIN_VISIBILITY, Features, Person, Photo
from .leave_one_out import Sample
from .losses import shifted
from .pictures import Size, covered, placed_box, placed_joints
from .randomness import keyed_generator

if TYPE_CHECKING:
    from typing_extensions import Self


KEEP_ALL = DroppingSettings(text=0.0, face=0.0, body=0.0, all=0.0, target_pose=0.0, body_image=0.0)
VALIDATION = KEEP_ALL.model_copy(update={"target_pose": 0.5})


@dataclass(frozen=True, kw_only=True)
class Targets:
    """b photos to be drawn, or looked at; absent fields are None.

    Attributes:
        names: file of each target, for messages.
        latents, noise: [b, C, h, w].
        timesteps: [b] 0 to 999.
        text, pooled_text: [b, 77, C] and [b, P], those of the empty prompt where the text is dropped.
        time_ids: [b, 6] height, width of the photo; top, left of the cut; height, width of the picture (SDXL).
        joints: [b, 12, 3] x, y in 0 to 1 of the picture, visibility; zero where not seen.
    """

    names: tuple[str, ...]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    pooled_text: torch.Tensor | None
    time_ids: torch.Tensor
    joints: torch.Tensor

    def to(self, device: torch.device) -> Self:
        """The same elsewhere; floating-point numbers become float32."""

        def moved(value: torch.Tensor) -> torch.Tensor:
            value = value.to(device)  # before it gets larger
            return value.float() if value.is_floating_point() else value

        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changes[field.name] = moved(value)
            elif isinstance(value, dict):
                changes[field.name] = {name: moved(tensor) for name, tensor in value.items()}
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Batch(Targets):
    """Targets with what describes them to an adapter.

    Attributes:
        features: by name, those of the references: [b, n, ...]; zero where a person has fewer photos.
        in_use: [b, n] bool, references that are there.
        places: [b, 9] references in the aggregator's places.
        has_text, has_face, has_body: [b] bool, False where dropped.
        proportions, seen, target_pose, body_image, body_image_in_use: see `BodyIDEncoder.forward`.
        clip_text, clip_image: [b, E] of the caption and of the target photo, by the network of L_clip.
        cell_weights: [b, h, w] of the latents' cells; None where all count alike.
    """

    features: dict[str, torch.Tensor]
    in_use: torch.Tensor
    places: torch.Tensor
    has_text: torch.Tensor
    has_face: torch.Tensor
    has_body: torch.Tensor
    proportions: torch.Tensor | None
    seen: torch.Tensor | None
    target_pose: torch.Tensor | None
    body_image: torch.Tensor | None
    body_image_in_use: torch.Tensor | None
    clip_text: torch.Tensor | None
    clip_image: torch.Tensor | None
    cell_weights: torch.Tensor | None = None


T = TypeVar("T", bound=Targets)


class Batches:
    """Makes batches of samples.

    Args:
        config: which conditions there are, and how often they are dropped.
        features: filled with all that the samples need.
        feature_names: what the face branch reads.
    """

    def __init__(self, config: AdapterTraining, features: Features, *, feature_names: Sequence[str]):
        self._config = config
        self._features = features
        self._feature_names = feature_names

    def batch(
        self,
        people: Sequence[Person],
        samples: Sequence[Sample],
        keys: Sequence[object],
        dropping: DroppingSettings,
    ) -> Batch:
        """The tensors of samples.

        Args:
            people: to whom the samples' numbers belong.
            keys: of each sample's random numbers, beside the seed.
            dropping: how often conditions are dropped.
        """
        rows = [
            self._row(people, sample, keyed_generator(self._config.run.seed, key), dropping)
            for sample, key in zip(samples, keys, strict=True)
        ]
        return stacked(rows)

    def _row(
        self, people: Sequence[Person], sample: Sample, generator: torch.Generator, dropping: DroppingSettings
    ) -> Batch:
        """A batch of one."""
        target = people[sample.person].photos[sample.target]
        references = [people[person].photos[number] for person, number in sample.shown]
        config, features = self._config, self._features
        # Each sample draws the same numbers in the same order, whatever the settings make of them.
        alone, pose, image = torch.rand(3, generator=generator).tolist()
        places = _places(len(references), generator)
        body = dropping.body if config.has_body else 0.0
        has_text, has_face, has_body = kept(alone, text=dropping.text, face=dropping.face, body=body, all=dropping.all)
        bodies = [photo for photo in references if photo.body_crop is not None]
        drawn = target_row(features, target, generator, has_text=has_text)
        drawn["timesteps"] = shifted(drawn["timesteps"], config.loss.timestep_shift, number=TIMESTEPS)
        return Batch(
            **drawn,
            features={
                name: torch.stack([features.reference(name, photo) for photo in references])
                for name in self._feature_names
            },
            in_use=torch.ones(len(references), dtype=torch.bool),
            places=places,
            has_text=torch.tensor(has_text),
            has_face=torch.tensor(has_face),
            has_body=torch.tensor(has_body and config.has_body and bool(bodies)),
            **self._body(
                bodies,
                target_pose=drawn["joints"] if pose >= dropping.target_pose else torch.zeros(len(JOINTS), 3),
                with_image=image >= dropping.body_image,
            ),
            clip_text=features.clip_text(target.prepared.caption) if config.loss.clip else None,
            clip_image=features.clip_image(target) if config.loss.clip_image else None,
            cell_weights=cell_weights(target, tuple(drawn["latents"].shape[-2:]), config.loss),
        )

    def _body(self, references: Sequence[Photo], *, target_pose: torch.Tensor, with_image: bool) -> dict[str, Any]:
        if not self._config.has_body:
            names = ("proportions", "seen", "target_pose", "body_image", "body_image_in_use")
            return dict.fromkeys(names)
        if not references:
            zero = self._features.zero_image("hidden_states")
            return {
                "proportions": torch.zeros(len(BONES), 2),
                "seen": torch.zeros(len(JOINTS), dtype=torch.bool),
                "target_pose": target_pose,
                "body_image": zero,
                "body_image_in_use": torch.zeros(len(zero), dtype=torch.bool),
            }
        body = Body(
            keypoints=torch.tensor([photo.prepared.keypoints[FIRST_JOINT:] for photo in references]),
            image_sizes=torch.tensor([(photo.prepared.height, photo.prepared.width) for photo in references]),
            min_visibility=MIN_VISIBILITY,
        )
        image = torch.cat([self._features.image("hidden_states", photo, photo.body_crop) for photo in references])
        return {
            "proportions": body.proportions,
            "seen": body.seen,
            "target_pose": target_pose,
            "body_image": image,
            "body_image_in_use": torch.full((len(image),), with_image),
        }


def kept(draw: float, **probabilities: float) -> tuple[bool, bool, bool]:
    """Whether text, face and body stay, by a number that is even in 0 to 1.

    Args:
        probabilities: of dropping `text`, `face` or `body` alone, or `all`.
    """
    dropped, bound = "", 0.0
    for name, probability in probabilities.items():
        bound += probability
        if draw < bound:
            dropped = name
            break
    return dropped not in ("text", "all"), dropped not in ("face", "all"), dropped not in ("body", "all")


def cell_weights(photo: Photo, size: Size, settings: LossSettings) -> torch.Tensor | None:
    """[h, w] how much the cells of a photo's latents count; None where all count alike.

    Args:
        size: h and w.
    """
    if settings.person_weight == settings.face_weight == 1:
        return None
    weights = torch.ones(*size)
    for box, weight in (
        (photo.prepared.person_box, settings.person_weight),
        (photo.prepared.face_box, settings.face_weight),
    ):
        if box is not None:
            weights *= 1 + (weight - 1) * covered(placed_box(box, photo.placement), size)
    return weights


def _places(references: int, generator: torch.Generator) -> torch.Tensor:
    """[9] all references, and further ones drawn from them with replacement; see `self_attention.fill_places`."""
    drawn = torch.randint(references, (PHOTOS,), generator=generator)
    return torch.cat((torch.arange(references)[:PHOTOS], drawn))[:PHOTOS]


def target_row(features: Features, photo: Photo, generator: torch.Generator, *, has_text: bool) -> dict[str, Any]:
    """The fields of `Targets` for one photo, without the batch."""
    timestep = torch.randint(TIMESTEPS, (), generator=generator)
    stored = features.latents(photo)
    latents = stored["mean"] + stored["std"] * torch.randn(stored["mean"].shape, generator=generator)
    text = features.text(photo.prepared.caption if has_text else "")
    joints = placed_joints(photo.prepared, photo.placement)
    prepared, placement = photo.prepared, photo.placement
    time_ids = (prepared.height, prepared.width, placement.top, placement.left, *placement.size)
    return {
        "names": (photo.name,),
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=generator),
        "timesteps": timestep,
        "text": text["text"],
        "pooled_text": text.get("pooled_text"),
        "time_ids": torch.tensor(time_ids, dtype=torch.float32),
        "joints": torch.where(joints[:, 2:] >= MIN_VISIBILITY, joints, 0.0),
    }


def stacked(rows: Sequence[T]) -> T:
    """Rows without a batch, side by side; lists of references and of grid cells are filled up to the longest."""
    values: dict[str, Any] = {}
    for field in fields(rows[0]):
        column = [getattr(row, field.name) for row in rows]
        if field.name == "names":
            values[field.name] = tuple(name for names in column for name in names)
        elif isinstance(column[0], dict):
            values[field.name] = {
                name: pad_sequence([tensors[name] for tensors in column], batch_first=True) for name in column[0]
            }
        elif column[0] is None:
            values[field.name] = None
        elif field.name in ("in_use", "body_image", "body_image_in_use"):
            values[field.name] = pad_sequence(column, batch_first=True)
        else:
            values[field.name] = torch.stack(column)
    return type(rows[0])(**values)
