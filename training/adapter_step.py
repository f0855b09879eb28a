"""One training step of an adapter, up to the terms of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hosts.diffusers import attach, cross_attention_layers, text_projections
from ..models.adapter import Adapter, AdapterLayout, BodyLayout
from ..models.adapter_file import read_adapter
from ..models.build import build_adapter
from ..models.cross_attention import KeyValue
from ..models.keypoint_network import KeypointNetwork
from ..models.network_file import read_network
from ..models.self_attention import average
from .base import Denoiser
from .batches import Batch
from .config import AdapterSettings, AdapterTraining, LossSettings
from .losses import (
    add_noise,
    bone_ratio_error,
    gate,
    joint_error,
    predicted_latents,
    reconstruction_loss,
    training_target,
)

FACE_EMBED_DIM = 512
"""Width of ArcFace vectors."""

KNOWN_TOKENS_SHARE = 0.2
"""In one attention with the text, tokens get a part of it; in a branch of their own all. With .15 to .3 of the text's V
the people world's base model draws best what its own body encoder tells it, with .6 worse than without."""


def initial_adapter(config: AdapterTraining, denoiser: Denoiser, *, image_embed_dim: int, hidden_size: int) -> Adapter:
    """The adapter before its first step.

    Fresh K' are the UNet's own of the text, and V' zero: an untrained branch adds nothing. With a body encoder whose
    tokens the UNet has read beside the text, the body's V' are a share of the text's. What is random comes from the
    config's seed.

    Args:
        image_embed_dim, hidden_size: widths of the image encoder.

    Raises:
        ValueError: the initial adapter does not fit the UNet, the image encoder or the trainer, or has an aggregator or
            a body branch that the config does not ask for in this size; or `adapter.body_encoder` does not fit.
    """
    settings, unet = config.adapter, denoiser.unet
    layers = {layer.index: layer.hidden_size for layer in cross_attention_layers(unet)}
    widths = {"image_embed_dim": image_embed_dim, "hidden_size": hidden_size}
    initial = None if settings.initial is None else _read_initial(settings.initial, layers, widths, unet)
    layout = replace(
        _fresh_layout(settings, layers, widths, unet) if initial is None else initial.layout,
        aggregator_depth=config.aggregator_depth,
        body=BodyLayout(hidden_size=hidden_size, **settings.body.model_dump()) if config.has_body else None,
    )
    if initial is not None:
        _check_parts(settings, initial.layout, layout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        adapter = build_adapter(layout)
    with torch.no_grad():
        body_values = 0.0 if settings.body_encoder is None else KNOWN_TOKENS_SHARE
        for index, (key, value) in text_projections(unet).items():
            face: Any = adapter.ip_adapter[str(index)]
            face.to_k_ip.weight.copy_(key)
            face.to_v_ip.weight.zero_()
            if adapter.body_adapter is not None:
                body: Any = adapter.body_adapter[str(index)]
                body.to_k.weight.copy_(key)
                body.to_v.weight.copy_(body_values * value)
    if settings.body_encoder is not None:
        _begin_body_encoder(adapter.body_encoder, layout, settings.body_encoder)
    if initial is not None:
        adapter.load_state_dict(initial.state_dict(), strict=False)  # what it lacks stays fresh
    return adapter.float().requires_grad_(True)


def _read_initial(path: Path, layers: dict[int, int], widths: dict[str, int], unet: Any) -> Adapter:
    if not path.is_file():
        raise ValueError(f"adapter.initial is {path}, but there is no such file.")
    file = read_adapter(path)
    if file.lora:
        raise ValueError(
            f"adapter.initial is {path.name}, a FaceID adapter with a LoRA, which changes the UNet itself. Training "
            "leaves the UNet as it is: start from an adapter without one, or from fresh weights."
        )
    layout = file.adapter.layout
    if layout.layers != layers or layout.cross_attention_dim != unet.config.cross_attention_dim:
        raise ValueError(
            f"adapter.initial is {path.name}, which has {len(layout.layers)} layers and reads tokens of width "
            f"{layout.cross_attention_dim}, but the UNet of base.path has {len(layers)} and "
            f"{unet.config.cross_attention_dim}: they belong to different models."
        )
    for name, width in widths.items():
        needed = getattr(layout, name)
        if needed is not None and needed != width:
            raise ValueError(
                f"adapter.initial is {path.name}, which reads {name} {needed}, but base.image_encoder has {width}. "
                "Give the image encoder that the adapter was trained with."
            )
    return file.adapter


def _begin_body_encoder(body_encoder: nn.Module, layout: AdapterLayout, path: Path) -> None:
    """Take over all but `grid_in`, which belongs to the image encoder."""
    if not path.is_file():
        raise ValueError(f"adapter.body_encoder is {path}, but there is no such file.")
    file = read_network(path, "body_encoder")
    sizes = asdict(layout.body) | {"cross_attention_dim": layout.cross_attention_dim}
    del sizes["hidden_size"]
    if file.sizes != sizes:
        raise ValueError(
            f"adapter.body_encoder is {path.name} with the sizes {file.sizes}, but adapter.body and base.path ask for "
            f"{sizes}. Give adapter.body the sizes of the file."
        )
    body_encoder.load_state_dict(file.state_dict, strict=False)


def _check_parts(settings: AdapterSettings, initial: AdapterLayout, layout: AdapterLayout) -> None:
    """Nothing that was trained is left out, or taken over in part."""
    name = settings.initial.name
    if initial.aggregator_depth not in (0, layout.aggregator_depth):
        raise ValueError(
            f"adapter.initial is {name}, whose aggregator has depth {initial.aggregator_depth}, but the config asks "
            f"for {layout.aggregator_depth or 'none'}. Set adapter.aggregator_depth = {initial.aggregator_depth}, with "
            'method "self_attention" or "bolid".'
        )
    if initial.body not in (None, layout.body):
        raise ValueError(
            f"adapter.initial is {name}, which has a body branch ({initial.body}), but the config asks for "
            f'{layout.body or "none"}. Take method = "bolid", and the same sizes in adapter.body.'
        )
    if initial.body is not None and settings.body_encoder is not None:
        raise ValueError(f"adapter.initial is {name}, which has a body encoder: leave adapter.body_encoder out.")


def _fresh_layout(
    settings: AdapterSettings, layers: dict[int, int], widths: dict[str, int], unet: Any
) -> AdapterLayout:
    common: dict[str, Any] = {"cross_attention_dim": unet.config.cross_attention_dim, "layers": layers}
    if settings.kind == "base":
        return AdapterLayout(
            kind="base",
            num_tokens=settings.num_tokens or 4,
            image_embed_dim=widths["image_embed_dim"],
            **common,
        )
    if settings.kind == "faceid":
        return AdapterLayout(
            kind="faceid",
            num_tokens=settings.num_tokens or 4,
            face_embed_dim=FACE_EMBED_DIM,
            inner_dim=2 * FACE_EMBED_DIM,
            **common,
        )
    return AdapterLayout(
        kind="plus",
        num_tokens=settings.num_tokens or 16,
        hidden_size=widths["hidden_size"],
        inner_dim=settings.inner_dim,
        depth=settings.depth,
        **common,
    )


@dataclass(frozen=True, kw_only=True)
class LossNetworks:
    """The frozen networks that the terms on x̂_0 look through; None where a term is not used.

    Attributes:
        keypoints: finds joints in latents.
        decode: scaled latents → pictures [b, 3, h, w] in -1 to 1.
        encode_image: pictures → [b, E], by the network of L_clip.
    """

    keypoints: KeypointNetwork | None = None
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None
    encode_image: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class _Frozen:
    denoiser: Denoiser
    networks: LossNetworks


class AdapterStep(nn.Module):
    """Batch → terms of the loss, per sample. Its parameters are the adapter's; what is frozen is no part of it.

    Args:
        adapter: what is trained.
        denoiser: its UNet gets the adapter's branches, for good.
        networks: of the terms beside reconstruction.
        settings: of the terms.
        zero_hidden_states: [T, H] of the picture that is zero after preprocessing, where the face branch reads hidden
            states.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        denoiser: Denoiser,
        networks: LossNetworks,
        settings: LossSettings,
        zero_hidden_states: torch.Tensor | None = None,
    ):
        super().__init__()
        self.adapter = adapter
        self._branches = attach(denoiser.unet)
        # In a container, so that no optimiser finds what is frozen.
        self._frozen = _Frozen(denoiser=denoiser, networks=networks)
        self._settings = settings
        self.zero_hidden_states = zero_hidden_states

    @property
    def extra_terms(self) -> dict[str, float]:
        """Terms beside reconstruction, and their λ."""
        settings = self._settings
        weights = {"identity": settings.identity, "clip": settings.clip, "clip_image": settings.clip_image}
        return {name: weight for name, weight in weights.items() if weight}

    def forward(self, batch: Batch, *, every_term: bool) -> dict[str, torch.Tensor]:
        """[b] values of each term: gated and weighted by ᾱ_t, not yet by λ.

        Args:
            every_term: False: reconstruction alone.
        """
        noisy, prediction = self.predict(batch)
        terms = {"reconstruction": self.reconstruction(batch, prediction)}
        if every_term:
            terms |= self.extra_values(batch, noisy, prediction)
        return terms

    def extra_values(self, batch: Batch, noisy: torch.Tensor, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        """[b] values of the terms on x̂_0, gated and weighted by ᾱ_t."""
        settings = self._settings
        zeros = torch.zeros_like(batch.timesteps, dtype=torch.float32)
        weight = gate(self._frozen.denoiser.alphas_cumprod, batch.timesteps, min_alpha_bar=settings.min_alpha_bar)
        chosen = weight.nonzero().flatten()
        if not self.extra_terms or not len(chosen):
            return dict.fromkeys(self.extra_terms, zeros)
        # A term counts only where the condition that it is about is there.
        has_image = batch.has_face | batch.has_body
        has_identity = batch.has_face if self.adapter.body_encoder is None else batch.has_body
        latents = self.predicted_latents(noisy[chosen], prediction[chosen], batch.timesteps[chosen])
        values: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if settings.identity:
            values["identity"] = self.identity_error(latents, batch.joints[chosen]), has_identity
        if settings.clip or settings.clip_image:
            networks = self._frozen.networks
            embeds = networks.encode_image(networks.decode(latents))
            if settings.clip:
                values["clip"] = 1 - (embeds * batch.clip_text[chosen]).sum(dim=1), batch.has_text
            if settings.clip_image:
                values["clip_image"] = 1 - (embeds * batch.clip_image[chosen]).sum(dim=1), has_image
        return {
            name: zeros.index_copy(0, chosen, value * (weight * counts)[chosen])
            for name, (value, counts) in values.items()
        }

    def predict(self, batch: Batch, *, branches: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """x_t, and what the UNet makes of it.

        Args:
            branches: False: without the adapter.
        """
        denoiser = self._frozen.denoiser
        self._branches.set_key_values(self.key_values(batch) if branches else [])
        noisy = add_noise(batch.latents, batch.noise, denoiser.alphas_cumprod, batch.timesteps)
        return noisy, self.denoise(batch, noisy, batch.timesteps)

    def denoise(self, batch: Batch, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The UNet's prediction, float32, with the branches that were set last."""
        return self._frozen.denoiser.predict(
            noisy, timesteps, text=batch.text, pooled_text=batch.pooled_text, time_ids=batch.time_ids
        )

    def set_branches(self, batch: Batch | None) -> None:
        """Use the branches of a batch for `denoise`; None: none."""
        self._branches.set_key_values([] if batch is None else self.key_values(batch))

    def key_values(self, batch: Batch) -> list[dict[int, KeyValue]]:
        """K', V' of every branch, by layer index N."""
        adapter = self.adapter
        branches = [(adapter.ip_adapter, self.face_tokens(batch))]
        if adapter.body_encoder is not None:
            branches.append((adapter.body_adapter, self.body_tokens(batch)))
        return [
            {int(index): projection(tokens) for index, projection in projections.items()}
            for projections, tokens in branches
        ]

    def face_tokens(self, batch: Batch) -> torch.Tensor:
        """[b, t, C]; a dropped face is zero before the projection, as in `Adapter.face_tokens`."""
        features = {}
        for name, values in batch.features.items():
            aggregated = self._aggregated(name, values, batch)
            zero = torch.zeros_like(aggregated[:1])
            if name == "hidden_states":
                zero = self.zero_hidden_states.to(aggregated)
            present = batch.has_face.view(-1, *[1] * (aggregated.ndim - 1))
            features[name] = torch.where(present, aggregated, zero)
        return self.adapter.image_proj(**features)

    def _aggregated(self, name: str, values: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[b, n, D] → [b, D], or [b, n, T, H] → [b, T, H], token by token."""
        size, _, *shape = values.shape
        tokens = shape[0] if len(shape) > 1 else 1
        by_token = values.transpose(1, 2).flatten(0, 1) if len(shape) > 1 else values
        in_use, places = (mask.repeat_interleave(tokens, dim=0) for mask in (batch.in_use, batch.places))
        if self.adapter.aggregator is None:
            result = average(by_token, in_use)
        else:
            result = self.adapter.aggregator[name](by_token, places, in_use)
        return result.view(size, *shape)

    def body_tokens(self, batch: Batch) -> torch.Tensor:
        """[b, t, C]; those of a dropped body are zero."""
        tokens = self.adapter.body_encoder(
            proportions=batch.proportions,
            seen=batch.seen,
            target_pose=batch.target_pose,
            hidden_states=batch.body_image,
            in_use=batch.body_image_in_use,
        )
        return tokens * batch.has_body.view(-1, 1, 1)

    def reconstruction(self, batch: Batch, prediction: torch.Tensor) -> torch.Tensor:
        """[b] L_rec."""
        denoiser = self._frozen.denoiser
        target = training_target(
            batch.latents,
            batch.noise,
            denoiser.alphas_cumprod,
            batch.timesteps,
            prediction_type=denoiser.prediction_type,
        )
        return reconstruction_loss(
            prediction,
            target,
            denoiser.alphas_cumprod,
            batch.timesteps,
            prediction_type=denoiser.prediction_type,
            min_snr_gamma=self._settings.min_snr_gamma,
            cell_weights=batch.cell_weights,
        )

    def predicted_latents(self, noisy: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x̂_0."""
        denoiser = self._frozen.denoiser
        return predicted_latents(
            prediction, noisy, denoiser.alphas_cumprod, timesteps, prediction_type=denoiser.prediction_type
        )

    def identity_error(self, latents: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        """[b] distance of the joints in x̂_0 from those of the target, and of the ratios of their bones."""
        positions = self._frozen.networks.keypoints(latents).positions
        aspect = latents.shape[-1] / latents.shape[-2]
        ratios = bone_ratio_error(positions, joints, aspect=aspect)
        return joint_error(positions, joints) + self._settings.bone_ratio * ratios
