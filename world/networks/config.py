"""What the training of one of the world's networks is told: one TOML file, as for `bolid train`.

`world/recipes/` holds those of the networks that ship with the project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...training.config import Count, Fraction, NotNegative, Positive, Section, Training

HeadName = Literal[
    "place",
    "place_colour",
    "action",
    "balloon_colour",
    "style",
    "framing",
    "top_kind",
    "top_colour",
    "top_pattern",
    "skin_tone",
    "hair_shape",
    "hair_colour",
    "beard",
    "glasses",
    "eye_colour",
    "freckles",
    "bottoms",
    "bottoms_colour",
    "shoes_colour",
    "bones",
]


GROUPS = 32
"""Of the denoiser's normalisation: its widths are multiples."""

HEAD_WIDTH = 32
"""Of the attention in networks that look at pictures."""


class PictureSettings(Section):
    """The pictures to learn from.

    Attributes:
        folders: that `bolid world render` wrote.
        split: whose pictures are learned from; those of the `validation` people are held out.
    """

    folders: Annotated[tuple[Path, ...], Field(min_length=1)]
    split: Literal["base", "train", "metrics"]


class AutoencoderSettings(Section):
    """An `AutoencoderDC` (https://arxiv.org/abs/2410.10733) with eight pixels per latent along a side.

    Attributes:
        latent_channels: of the latents; a divisor of 128.
        encoder_layers, decoder_layers: blocks at two, four and eight pixels per cell.
        crop: side of the squares that are learned from, in pixels.
        latent_noise: standard deviation of the noise on latents while the decoder learns, in theirs; a diffusion model
            does not hit them exactly.
        face_weight: of the errors in faces, which are few pixels and the first that one looks at.
    """

    latent_channels: Literal[4, 8, 16, 32] = 32
    encoder_layers: tuple[Count, Count, Count] = (1, 1, 2)
    decoder_layers: tuple[Count, Count, Count] = (1, 2, 3)
    crop: Annotated[int, Field(ge=32, multiple_of=8)] = 64
    latent_noise: NotNegative = 0.05
    face_weight: Positive = 6.0


class TextEncoderSettings(Section):
    """A CLIP text encoder.

    Attributes:
        text_dim, text_layers, text_heads: its sizes.
    """

    text_dim: Count = 128
    text_layers: Count = 2
    text_heads: Count = 4

    @model_validator(mode="after")
    def _text_fits_together(self) -> TextEncoderSettings:
        _check_multiples(self.text_heads, text_dim=self.text_dim)
        return self


class PictureEncoderSettings(Section):
    """An encoder of pictures.

    Attributes:
        kind: "transformer" is CLIP's vision transformer, "convolutional" a ResNet.
        dim: width of the embedding.
        width, depth: of the network.
    """

    kind: Literal["transformer", "convolutional"]
    dim: Count = 128
    width: Annotated[int, Field(ge=16, multiple_of=16)] = 128
    depth: Count = 4

    @model_validator(mode="after")
    def _picture_encoder_fits_together(self) -> PictureEncoderSettings:
        if self.kind == "transformer":
            _check_multiples(HEAD_WIDTH, width=self.width)
        return self


class BaseSettings(TextEncoderSettings):
    """The denoiser and its text encoder, which learn together.

    Attributes:
        autoencoder: file of the trained autoencoder.
        cache: folder for the latents, which are computed once.
        start: file of a base model of the same sizes, with whose weights learning begins; random ones without it.
        block_out_channels: widths of the denoiser's levels.
        layers_per_block: of each level.
        heads: of every attention in the denoiser.
        drop_text: share of the pictures that are learned from without their caption.
        looks: share of the captions that go on with what the picture shows of its person (see `world.looks`).
        references: share of the pictures that are learned from together with what the image encoder sees in others of
            their person: tokens behind those of the caption, whose projection is not kept.
        image_encoder: its file, for `references`.
        poses: share of the pictures that are learned from together with where the joints are: more such tokens.
        parts: weight of the term that reads off the denoiser's middle what each spot of the picture shows: parts of the
            person, or none.
        timestep_shift: moves the timesteps of training towards noise; see `training.losses.shifted`.
        person_weight: of squared errors where the person is seen, where they are 1 elsewhere.
        head_weight: of those where face or hair are seen, beside `person_weight`.
    """

    autoencoder: Path
    cache: Path
    start: Path | None = None
    block_out_channels: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 192)
    layers_per_block: Count = 1
    heads: Count = 4
    drop_text: Fraction = 0.1
    looks: Fraction = 0.0
    references: Fraction = 0.0
    image_encoder: Path | None = None
    poses: Fraction = 0.0
    parts: NotNegative = 0.0
    timestep_shift: Positive = 1.0
    person_weight: Positive = 1.0
    head_weight: Positive = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> BaseSettings:
        _check_multiples(GROUPS, **{f"block_out_channels {n}": n for n in self.block_out_channels})
        _check_multiples(self.heads, **{f"block_out_channels {n}": n for n in self.block_out_channels})
        if self.references and self.image_encoder is None:
            raise ValueError("references need an image_encoder: the network.safetensors of that training.")
        return self


class RecognitionSettings(PictureEncoderSettings):
    """A network that says of a picture who is in it, or what.

    Attributes:
        contrast: weight of the term that tells people apart.
        people_per_batch: for that term; the other pictures of a batch are theirs too.
        heads: what is read off the embedding, each by a linear layer.
        parts: weight of the term that reads off the tokens of a transformer what each spot of the picture shows: parts
            of the person, or none. Without it a transformer takes very long to see shapes.
    """

    contrast: NotNegative = 1.0
    people_per_batch: Count = 16
    heads: tuple[HeadName, ...] = ()
    parts: NotNegative = 0.0

    @model_validator(mode="after")
    def _fits_together(self) -> RecognitionSettings:
        if self.parts and self.kind != "transformer":
            raise ValueError('parts are read off the tokens of a transformer: set parts = 0, or kind = "transformer"')
        if not self.contrast and not self.heads:
            raise ValueError("nothing is learned: set contrast above 0, or name heads")
        return self


class JointSettings(Section):
    """A network that finds the twelve joints in pictures; see `models.keypoint_network`."""

    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    depth: Annotated[int, Field(ge=1, le=5)] = 4


class ImageTextSettings(PictureEncoderSettings, TextEncoderSettings):
    """A pair of encoders for pictures and texts (https://arxiv.org/abs/2103.00020), in open_clip's form."""


def _check_multiples(factor: int, **sizes: int) -> None:
    """Raise a ValueError unless all sizes are multiples of a factor."""
    for name, size in sizes.items():
        if size % factor:
            raise ValueError(f"{name} is {size}, which is no multiple of {factor}")


class NetworkTraining(Training):
    """What the runs of all kinds of networks have.

    Attributes:
        network: the kind, one of `KINDS`.
    """

    network: str
    data: PictureSettings


class AutoencoderTraining(NetworkTraining):
    """`network` "autoencoder"."""

    network: Literal["autoencoder"]
    autoencoder: AutoencoderSettings = AutoencoderSettings()


class BaseTraining(NetworkTraining):
    """`network` "base": what draws pictures from noise and text."""

    network: Literal["base"]
    base: BaseSettings


class RecognitionTraining(NetworkTraining):
    """`network` "recognition"."""

    network: Literal["recognition"]
    recognition: RecognitionSettings

    @model_validator(mode="after")
    def _fits_together(self) -> RecognitionTraining:
        people, rows = self.recognition.people_per_batch, self.run.batch_size
        if self.recognition.contrast and (rows % people or rows == people):
            raise ValueError(
                f"run.batch_size is {rows}, of which {people} people (recognition.people_per_batch) have to have "
                "equally many pictures, and more than one: give a multiple"
            )
        return self


class JointTraining(NetworkTraining):
    """`network` "joints"."""

    network: Literal["joints"]
    joints: JointSettings = JointSettings()


class ImageTextTraining(NetworkTraining):
    """`network` "image_text"."""

    network: Literal["image_text"]
    image_text: ImageTextSettings


KINDS: dict[str, type[NetworkTraining]] = {
    "autoencoder": AutoencoderTraining,
    "base": BaseTraining,
    "recognition": RecognitionTraining,
    "joints": JointTraining,
    "image_text": ImageTextTraining,
}
