"""The base model: a small Stable Diffusion, whose denoiser and text encoder learn together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from ...models.body_encoder import POSITION_FEATURES, BodyIDEncoder
from ...models.image_projection import ImageProjection
from ...models.keypoints import BONES
from ...models.network_file import read_network, write_network
from ...training.base import DTYPES, TIMESTEPS, Denoiser, autoencoder_fingerprint, to_latents, to_pictures
from ...training.cache import TensorStore
from ...training.data import Share
from ...training.fingerprint import file_hash
from ...training.losses import add_noise, reconstruction_loss, shifted, training_target
from ...training.progress import Progress
from ...training.randomness import keyed_generator
from ...training.samples import grid, sampled_latents, to_image
from ..draws import Draws
from ..looks import every_phrase, with_looks
from .autoencoder import load_autoencoder
from .config import BaseSettings, BaseTraining
from .dataset import Pictures
from .principal import CELL
from .recognition import load_recogniser
from .spots import PartsHead, cell_weights, parts_loss, spots_of
from .task import NetworkTask, PictureBatch
from .vocabulary import LENGTH, Vocabulary

ENCODED_AT_ONCE = 64
REFERENCE_TOKENS = 4
MOST_REFERENCES = 9
POSE_TOKENS = 8
POSE_WIDTH = 64

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    # The last step is pure noise (https://arxiv.org/abs/2305.08891): otherwise the mean colour leaks through it.
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def denoiser_sizes(settings: BaseSettings, *, latent_channels: int) -> dict[str, Any]:
    """Of the `UNet2DConditionModel`."""
    levels = len(settings.block_out_channels)
    return {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "block_out_channels": list(settings.block_out_channels),
        "layers_per_block": settings.layers_per_block,
        "down_block_types": ["CrossAttnDownBlock2D"] * levels,
        "up_block_types": ["CrossAttnUpBlock2D"] * levels,
        "cross_attention_dim": settings.text_dim,
        # What diffusers calls so are heads.
        "attention_head_dim": settings.heads,
    }


def text_encoder_sizes(settings: BaseSettings) -> dict[str, Any]:
    """Of the `CLIPTextModel`, but for its vocabulary."""
    return {
        "hidden_size": settings.text_dim,
        "intermediate_size": 4 * settings.text_dim,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": settings.text_heads,
        "max_position_embeddings": LENGTH,
        "hidden_act": "quick_gelu",
    }


def text_encoder(sizes: dict[str, Any], vocabulary_size: int) -> CLIPTextModel:
    """With random weights."""
    # The end has the highest number, in CLIP's vocabulary and in ours.
    special = {"bos_token_id": vocabulary_size - 2, "eos_token_id": vocabulary_size - 1}
    return CLIPTextModel(CLIPTextConfig(**sizes, **special, pad_token_id=None, vocab_size=vocabulary_size))


@dataclass(frozen=True, kw_only=True)
class Noised(PictureBatch):
    """Pictures to be drawn.

    Attributes:
        latents, noise: [b, C, h, w].
        timesteps: [b].
        ids: [b, 77] numbers of the caption's tokens.
        spots: see `spots.spots_of`; None where nothing is learned from them.
        cell_weights: [b, h, w]; None where all cells count alike.
        image_embeds: [b, d] of other pictures of the person, averaged; None where nothing is learned from them.
        joints: [b, 12, 3] where they are, as `BodyIDEncoder` reads a target pose; None likewise.
        referenced, posed: [b] whether these are shown.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    ids: torch.Tensor
    spots: torch.Tensor | None = None
    cell_weights: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    joints: torch.Tensor | None = None
    referenced: torch.Tensor | None = None
    posed: torch.Tensor | None = None


class BaseStep(nn.Module):
    """Noised pictures → terms of the loss, per picture."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        parts: PartsHead | None = None,
        references: ImageProjection | None = None,
        poses: BodyIDEncoder | None = None,
    ):
        super().__init__()
        self.unet = unet
        self.text = text
        self.parts = parts
        self.references = references
        self.poses = poses
        self.denoiser = Denoiser(unet=unet, scheduler=DDPMScheduler(**SCHEDULE))

    def forward(self, batch: Noised) -> dict[str, torch.Tensor]:
        """[b] values of each term.

        Nothing is weighted by signal-to-noise: that would leave out the last timestep, which has no signal, and with
        which drawing begins.
        """
        noisy = add_noise(batch.latents, batch.noise, self.denoiser.alphas_cumprod, batch.timesteps)
        with _middle_of(self.unet) as middle:
            prediction = self.denoise(noisy, batch.timesteps, *self.context(batch))
        target = training_target(
            batch.latents,
            batch.noise,
            self.denoiser.alphas_cumprod,
            batch.timesteps,
            prediction_type=self.denoiser.prediction_type,
        )
        terms = {
            "reconstruction": reconstruction_loss(
                prediction,
                target,
                self.denoiser.alphas_cumprod,
                batch.timesteps,
                prediction_type=self.denoiser.prediction_type,
                cell_weights=batch.cell_weights,
            )
        }
        if self.parts is not None:
            terms["parts"] = parts_loss(self.parts(middle[0]), batch.spots)
        return terms

    def context(self, batch: Noised) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[b, n, C] what the denoiser reads beside the picture, and [b, n] which of it there is; None: all."""
        tokens, there = [self.text(batch.ids).last_hidden_state], [torch.ones_like(batch.ids)]
        if batch.image_embeds is not None:
            tokens.append(self.references(batch.image_embeds))
            there.append(batch.referenced[:, None].expand(-1, REFERENCE_TOKENS))
        if batch.joints is not None:
            tokens.append(self._pose_tokens(batch.joints))
            there.append(batch.posed[:, None].expand(-1, POSE_TOKENS))
        return torch.cat(tokens, dim=1), torch.cat(there, dim=1) if len(there) > 1 else None

    def _pose_tokens(self, joints: torch.Tensor) -> torch.Tensor:
        return self.poses(
            proportions=joints.new_zeros(len(joints), len(BONES), 2),
            seen=torch.zeros_like(joints[..., 0], dtype=torch.bool),
            target_pose=joints,
            hidden_states=None,
        )

    def denoise(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, there: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[b, C, h, w] in float32."""
        time_ids = torch.zeros(len(noisy), 6, device=noisy.device)
        return self.denoiser.predict(
            noisy, timesteps, text=context, text_mask=there, pooled_text=None, time_ids=time_ids
        )


@contextlib.contextmanager
def _middle_of(unet: UNet2DConditionModel) -> Iterator[list[torch.Tensor]]:
    """Gets what the denoiser's middle block gives, [b, C, h, w], each time that it is called."""
    found: list[torch.Tensor] = []
    handle = unet.mid_block.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def _placed(joints: torch.Tensor) -> torch.Tensor:
    """[…, 3] joints as a target pose: those that are not seen have no place."""
    return torch.where(joints[..., 2:] > 0, joints, 0.0)


class BaseTask(NetworkTask):
    """See `NetworkTask`."""

    def __init__(self, config: BaseTraining, *, device: torch.device):
        super().__init__(config, device=device)
        settings = config.base
        self.terms = {"reconstruction": 1.0}
        if settings.parts:
            self.terms["parts"] = settings.parts
        self._vocabulary = Vocabulary.of([*self.training.captions, *(every_phrase() if settings.looks else ())])
        self._autoencoder = load_autoencoder(settings.autoencoder)
        self._unet_sizes = denoiser_sizes(settings, latent_channels=self._autoencoder.config.latent_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            unet = UNet2DConditionModel(**self._unet_sizes)
            text = text_encoder(text_encoder_sizes(settings), len(self._vocabulary))
            widths = settings.block_out_channels
            parts = PartsHead(widths[-1], CELL * 2 ** (len(widths) - 1)) if settings.parts else None
            references = self._reference_projection() if settings.references else None
            poses = self._pose_encoder() if settings.poses else None
        if settings.start is not None:
            self._start_from(settings.start, unet, text)
        if device.type == "cpu":
            # There it is slow to go back through the fused attention: a step takes 1.25 times as long.
            unet.set_attn_processor(AttnProcessor())
            text.set_attn_implementation("eager")
        if config.run.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.module = BaseStep(unet, text, parts, references, poses)
        self._latents: dict[int, torch.Tensor] = {}
        self._image_embeds: dict[int, torch.Tensor] = {}

    def _reference_projection(self) -> ImageProjection:
        settings = self.config.base
        self._recogniser = load_recogniser(settings.image_encoder).recogniser
        sizes = read_network(settings.image_encoder, "recognition").sizes["recogniser"]
        return ImageProjection(
            image_embed_dim=sizes["projection_dim"],
            cross_attention_dim=settings.text_dim,
            num_tokens=REFERENCE_TOKENS,
        )

    def _pose_encoder(self) -> BodyIDEncoder:
        encoder = BodyIDEncoder(hidden_size=1, **self._pose_encoder_sizes())
        encoder.grid_in = nn.Identity()  # there is no grid, and weights without a gradient stop several processes
        # It is told places alone; what adapters tell besides has no weight yet.
        joint_in: Any = encoder.joint_in[0]
        nn.init.zeros_(joint_in.weight[:, POSITION_FEATURES:])
        return encoder

    def _pose_encoder_sizes(self) -> dict[str, int]:
        return {
            "dim": POSE_WIDTH,
            "depth": 1,
            "resampler_depth": 1,
            "num_tokens": POSE_TOKENS,
            "cross_attention_dim": self.config.base.text_dim,
        }

    def _start_from(self, path: Path, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        file = read_network(path, "base")
        own = {"unet": self._unet_sizes, "text_encoder": text_encoder_sizes(self.config.base), "schedule": SCHEDULE}
        different = [name for name, sizes in own.items() if file.sizes[name] != sizes]
        if different:
            raise ValueError(
                f"base.start: {path} has another {' and '.join(different)} than this config; give a base model that "
                "was trained with the same sizes, or leave start out."
            )
        unet.load_state_dict(file.part("unet"))
        state_dict = file.part("text_encoder")
        (name,) = [key for key in state_dict if key.endswith("token_embedding.weight")]
        # Words that it has not read yet stay random.
        spread = Vocabulary(file.state_dict["tokens"].tolist()).spread(state_dict[name])
        fresh = text.state_dict()[name].clone()
        known = torch.isin(torch.tensor(self._vocabulary.tokens), file.state_dict["tokens"])
        numbers = torch.tensor(self._vocabulary.tokens)[known]
        fresh[0] = state_dict[name][0]
        fresh[1:][known] = spread[numbers]
        text.load_state_dict({**state_dict, name: fresh})

    def result_depends_on(self) -> dict[str, Any]:
        """The autoencoder, other files that are learned from, and what all networks depend on."""
        settings = self.config.base
        files = {
            "base.start": settings.start,
            "base.image_encoder": settings.image_encoder if settings.references else None,
        }
        return {
            **super().result_depends_on(),
            "base.autoencoder": autoencoder_fingerprint(self._autoencoder),
            **{name: file_hash(file) for name, file in files.items() if file is not None},
        }

    def load_data(self, share: Share, progress: Progress) -> None:
        """See `NetworkTask.load_data`."""
        for pictures in (self.training, self.held_out):
            self._latents[id(pictures)] = self._latents_of(pictures, progress)
            if self.config.base.references:
                self._image_embeds[id(pictures)] = self._image_embeds_of(pictures, progress)
        self.module.denoiser.to(self.device)
        super().load_data(share, progress)

    def _latents_of(self, pictures: Pictures, progress: Progress) -> torch.Tensor:
        """[n, C, h, w] in half precision."""
        self._autoencoder.to(self.device)
        return self._computed_once(
            "latents",
            pictures,
            {"autoencoder": autoencoder_fingerprint(self._autoencoder)},
            lambda pixels: to_latents(self._autoencoder, pixels)[0],
            progress,
        )

    def _image_embeds_of(self, pictures: Pictures, progress: Progress) -> torch.Tensor:
        """[n, d] in half precision."""
        self._recogniser.to(self.device)
        return self._computed_once(
            "image_embeds",
            pictures,
            {"image_encoder": file_hash(self.config.base.image_encoder)},
            self._recogniser,
            progress,
        )

    @torch.no_grad()
    def _computed_once(
        self,
        name: str,
        pictures: Pictures,
        depends_on: dict[str, str],
        of: Callable[[torch.Tensor], torch.Tensor],
        progress: Progress,
    ) -> torch.Tensor:
        """[n, …] something of each picture, from the cache as far as it is there."""
        precision = self.config.run.precision
        store = TensorStore(
            self.config.base.cache, name, {**depends_on, "pictures": pictures.fingerprint, "precision": precision}
        )
        chunks = {
            f"{first}-{min(first + ENCODED_AT_ONCE, len(pictures))}": range(len(pictures))[first:][:ENCODED_AT_ONCE]
            for first in range(0, len(pictures), ENCODED_AT_ONCE)
        }
        missing = store.missing(chunks)
        done = len(chunks) - len(missing)

        def compute(key: str) -> dict[str, torch.Tensor]:
            pixels = pictures.pixels(chunks[key]).to(self.device, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
                return {name: of(pixels).half().cpu()}

        def advance() -> None:
            nonlocal done
            done += 1
            progress(name.replace("_", " "), min(done * ENCODED_AT_ONCE, len(pictures)), len(pictures))

        store.fill(missing, compute, advance)
        return torch.cat([store.get(key)[name] for key in chunks])

    def batch_of(self, pictures: Pictures, numbers: list[int], generators: list[torch.Generator]) -> Noised:
        """With noise, and some without their caption; those that are held out keep it."""
        settings = self.config.base
        latents = self._latents[id(pictures)][numbers].float()
        timesteps = torch.cat([torch.randint(TIMESTEPS, (1,), generator=each) for each in generators])
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in generators])
        dropped = [float(torch.rand((), generator=each)) < settings.drop_text for each in generators]
        captions = [pictures.captions[number] for number in numbers]
        if pictures is self.training:
            timesteps = shifted(timesteps, settings.timestep_shift, number=TIMESTEPS)
            captions = [
                "" if drop else self._maybe_with_looks(pictures, number, each)
                for number, drop, each in zip(numbers, dropped, generators, strict=True)
            ]
        weighted = settings.person_weight != 1 or settings.head_weight != 1
        spots = spots_of(pictures, numbers) if self.module.parts or weighted else None
        weights = None
        if spots is not None and weighted:
            weights = cell_weights(spots, pixels=CELL, person=settings.person_weight, head=settings.head_weight)
        image_embeds = joints = referenced = posed = None

        def shown(share: float) -> torch.Tensor:
            chances = torch.stack([torch.rand((), generator=each) for each in generators])
            return (chances < (share if pictures is self.training else 0.0)).long()

        if settings.references:
            image_embeds = torch.stack(
                [
                    self._of_others(
                        pictures, number, int(torch.randint(1, MOST_REFERENCES + 1, (), generator=each)), each
                    )
                    for number, each in zip(numbers, generators, strict=True)
                ]
            )
            referenced = shown(settings.references)
        if settings.poses:
            joints = _placed(pictures.joints[numbers])
            posed = shown(settings.poses)
        return Noised(
            names=pictures.names(numbers),
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            ids=self._vocabulary.ids(captions),
            spots=spots if self.module.parts else None,
            cell_weights=weights,
            image_embeds=image_embeds,
            joints=joints,
            referenced=referenced,
            posed=posed,
        )

    def _of_others(self, pictures: Pictures, number: int, count: int, generator: torch.Generator) -> torch.Tensor:
        """[d] mean of what the image encoder sees in so many other pictures of the person in a picture."""
        others = [other for other in pictures.pictures_of[int(pictures.people[number])] if other != number]
        chosen = torch.randperm(len(others), generator=generator)[:count]
        return self._image_embeds[id(pictures)][torch.tensor(others)[chosen]].float().mean(dim=0)

    def _maybe_with_looks(self, pictures: Pictures, number: int, generator: torch.Generator) -> str:
        if float(torch.rand((), generator=generator)) >= self.config.base.looks:
            return pictures.captions[number]
        key = int(torch.randint(2**62, (), generator=generator))
        return with_looks(
            pictures.captions[number],
            identity=pictures.identities[number],
            attributes=pictures.attributes[number],
            joints=pictures.joints[number].tolist(),
            draws=Draws("looks", key),
        )

    def measures(self, batch: Noised) -> dict[str, torch.Tensor]:
        """The terms say what can be measured without drawing, and this what references and poses are worth."""
        found = {}
        if batch.referenced is not None:
            shown = replace(batch, referenced=torch.ones_like(batch.referenced))
            found["reconstruction_with_references"] = self.module(shown)["reconstruction"]
        if batch.posed is not None:
            shown = replace(batch, posed=torch.ones_like(batch.posed))
            found["reconstruction_with_poses"] = self.module(shown)["reconstruction"]
        return found

    @torch.no_grad()
    def sample_grid(self, autocast: Callable[[], AbstractContextManager[None]]) -> Image.Image:
        """Captions of held-out people, drawn from the same noise each time, beside the picture that they describe.

        If it learns from references, then also without a word about looks but from other pictures of the person, and
        if it learns from poses, with the joints of the picture.
        """
        run, settings, pictures = self.config.run, self.config.base, self.held_out
        rows, captions = [], []
        titles = ["picture with this caption", "drawn"]
        for row, number in enumerate(pictures.spread(run.sample_people)):
            caption = self._maybe_with_looks(pictures, number, keyed_generator(run.seed, "sampled looks", row))
            shape = self._latents[id(pictures)].shape[1:]
            noise = torch.randn(1, *shape, generator=keyed_generator(run.seed, "samples", row))
            drawn = [self._drawn(caption, noise, autocast)]
            shown: dict[str, torch.Tensor] = {}
            if settings.references:
                generator = keyed_generator(run.seed, "sampled references", row)
                shown["image_embeds"] = self._of_others(pictures, number, MOST_REFERENCES, generator)
                drawn.append(self._drawn(pictures.captions[number], noise, autocast, **shown))
            if settings.poses:
                shown["joints"] = _placed(pictures.joints[number])
                drawn.append(self._drawn(pictures.captions[number], noise, autocast, **shown))
            rows.append([to_image(picture) for picture in (pictures.pixels([number])[0], *drawn)])
            captions.append(caption)
        titles += ["from references"] * bool(settings.references) + ["and in this pose"] * bool(settings.poses)
        return grid(rows, titles, captions)

    def _drawn(
        self,
        caption: str,
        noise: torch.Tensor,
        autocast: Callable[[], AbstractContextManager[None]],
        **shown: torch.Tensor,
    ) -> torch.Tensor:
        """[3, S, S] the picture of a caption, and of what is shown beside it: `image_embeds` [d], `joints` [12, 3]."""
        run = self.config.run
        both = Noised(
            names=(),
            latents=noise,
            noise=noise,
            timesteps=torch.zeros(2, dtype=torch.long),
            ids=self._vocabulary.ids(["", caption]),
            referenced=torch.tensor([0, 1]),
            posed=torch.tensor([0, 1]),
            **{name: values.expand(2, *values.shape) for name, values in shown.items()},
        ).to(self.device)
        with autocast():
            context, there = self.module.context(both)
            latents = sampled_latents(
                lambda noisy, timesteps: self.module.denoise(noisy, timesteps, context, there),
                both.noise,
                self.module.denoiser,
                steps=run.sample_steps,
                guidance_scale=run.sample_guidance_scale,
            )
        return to_pictures(self._autoencoder, latents)[0]

    def write_result(self, path: Path, training: dict[str, Any]) -> None:
        """Write denoiser and text encoder, and what it reads poses with: adapters may begin there."""
        tensors = {f"unet.{key}": value for key, value in self.module.unet.state_dict().items()}
        tensors |= {f"text_encoder.{key}": value for key, value in self.module.text.state_dict().items()}
        tensors["tokens"] = torch.tensor(self._vocabulary.tokens)
        sizes = {"unet": self._unet_sizes, "text_encoder": text_encoder_sizes(self.config.base), "schedule": SCHEDULE}
        if self.module.poses is not None:
            tensors |= {f"body_encoder.{key}": value for key, value in self.module.poses.state_dict().items()}
            sizes["body_encoder"] = self._pose_encoder_sizes()
        write_network(path, tensors, network="base", sizes=sizes, training=training)
