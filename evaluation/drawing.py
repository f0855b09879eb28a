"""Pictures by the plan: the diffusers host, a batch of people at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from ..hosts.diffusers import attach, cross_attention_layers
from ..models.adapter import Adapter
from ..models.body import Body
from ..models.branch import CONDITIONAL, UNCONDITIONAL, Branch, ContextTokens, TokenSource
from ..models.keypoints import FIRST_JOINT
from ..models.layer_weights import layer_weights
from ..models.pooling import pool
from ..models.references import Embeds, References
from ..models.self_attention import aggregate
from ..training.base import DTYPES, latent_factor, load_autoencoder, load_denoiser, to_pictures
from ..training.features import MIN_VISIBILITY, Crop, Features, Photo
from ..training.pictures import placed_joints
from ..training.randomness import keyed_generator
from ..training.samples import sampled_latents, to_image
from .adapters import Adapters
from .config import EvaluationSettings, MethodSettings
from .plan import Plan, Request, Setting

FILL_SEED = 0
"""With which places of the aggregator are filled where there are fewer photos."""


class Drawer:
    """Draws the pictures of a plan.

    Args:
        settings: of the evaluation.
        plan: who is drawn, and from what.
        adapters: of the methods.
        features: of the people's photos; what is missing is computed.
        device: where everything computes.

    Raises:
        ValueError: an adapter that does not fit the base or its image encoder.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        plan: Plan,
        adapters: Adapters,
        features: Features,
        *,
        device: torch.device,
    ):
        self._settings = settings
        self._plan = plan
        self._adapters = adapters
        self._features = features
        self._device = device
        self._denoiser = load_denoiser(settings.base.path, dtype=DTYPES[settings.drawing.precision])
        self._layers = cross_attention_layers(self._denoiser.unet)
        adapters.check_fit(self._denoiser)
        side = settings.base.resolution // latent_factor(settings.base.path)
        self._latent_shape = (self._denoiser.unet.config.in_channels, side, side)

    def load(self) -> None:
        """Compute the features of all photos and texts, and move to the device."""
        self._features.fill_text(["", *dict.fromkeys(request.prompt for request in self._plan.requests)])
        usable = [photo for person in self._plan.people for photo in person.photos if photo.usable]
        crops: dict[str, list[tuple[Photo, Crop]]] = {}
        for name in sorted(self._adapters.feature_names - {"face_embeds"}):
            crops[name] = [(photo, photo.face_crop) for photo in usable]
        if "face_embeds" in self._adapters.feature_names:
            self._features.fill_faces(usable)
        if any(self._adapters.has_body(name) for name in self._settings.methods):
            bodies = [(photo, photo.body_crop) for photo in usable if photo.body_crop is not None]
            crops["hidden_states"] = [*crops.get("hidden_states", []), *bodies]
        for name, named in crops.items():
            self._features.fill_image(name, named)
        self._denoiser.to(self._device)
        self._autoencoder = load_autoencoder(self._settings.base.path).to(self._device)

    @torch.no_grad()
    def draw(self, setting: Setting, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture per request; the same whichever are drawn together."""
        texts = [self._features.text(text) for text in ("", *(request.prompt for request in requests))]
        text = torch.stack([texts[0]["text"]] * len(requests) + [each["text"] for each in texts[1:]])
        pooled = None
        if "pooled_text" in texts[0]:
            pooled = torch.stack(
                [texts[0]["pooled_text"]] * len(requests) + [each["pooled_text"] for each in texts[1:]]
            ).to(self._device)
        noise = torch.stack(
            [
                torch.randn(
                    self._latent_shape,
                    generator=keyed_generator("noise", setting.seed, request.person.name, request.number),
                )
                for request in requests
            ]
        )
        size = self._settings.base.resolution
        time_ids = torch.tensor([[size, size, 0, 0, size, size]] * (2 * len(requests)), device=self._device)
        denoise = partial(self._denoiser.predict, text=text.to(self._device), pooled_text=pooled, time_ids=time_ids)
        with attach(self._denoiser.unet) as attached:
            attached.condition_each(
                [self._branches(setting, request) for request in requests], roles=(UNCONDITIONAL, CONDITIONAL)
            )
            latents = sampled_latents(
                denoise,
                noise.to(self._device),
                self._denoiser,
                steps=self._settings.drawing.steps,
                guidance_scale=setting.variant.guidance_scale,
            )
        return [to_image(to_pictures(self._autoencoder, each.unsqueeze(0))[0]) for each in latents]

    def _branches(self, setting: Setting, request: Request) -> list[Branch]:
        variant = setting.variant
        method = self._settings.methods[variant.method]
        adapter = self._adapters.get(variant.method, setting.run, device=self._device)
        if adapter is None:
            return []
        photos = self._plan.references(request, method, variant.references)
        branches = []
        if method.face_weight > 0:
            embeds = self._embeds(adapter, method, photos)
            adapter.check_features(embeds)
            branches.append(self._branch(partial(adapter.face_tokens, embeds), adapter.ip_adapter, method.face_weight))
        if adapter.body_encoder is not None and method.body_weight > 0:
            bodies = self._plan.body_references(request, method, variant.references)
            tokens = self._body_tokens(adapter, bodies, request.model if method.target_pose else None)
            branches.append(self._branch(tokens, adapter.body_adapter, method.body_weight))
        return branches

    def _branch(self, tokens: TokenSource, projections: torch.nn.ModuleDict, weight: float) -> Branch:
        return Branch(tokens=tokens, projections=projections, layer_weights=layer_weights(self._layers, weight))

    def _embeds(self, adapter: Adapter, method: MethodSettings, photos: Sequence[Photo]) -> Embeds:
        names: Collection[str] = adapter.layout.feature_widths
        found: dict[str, Any] = {
            name: torch.stack([self._features.reference(name, photo).float() for photo in photos]) for name in names
        }
        zero = self._features.zero_image("hidden_states").float().unsqueeze(0) if "hidden_states" in names else None
        references = References(**found, zero_hidden_states=zero)
        if method.aggregation == "self_attention":
            return aggregate(references, adapter.aggregator, fill_seed=FILL_SEED, device=self._device)
        return pool(references, method.aggregation)

    def _body_tokens(self, adapter: Adapter, photos: Sequence[Photo], model: Photo | None) -> TokenSource:
        seen = [photo for photo in photos if photo.body_crop is not None]
        if not seen:
            return partial(_no_body, adapter)
        body = Body(
            keypoints=torch.tensor([photo.prepared.keypoints[FIRST_JOINT:] for photo in seen]),
            image_sizes=torch.tensor([(photo.prepared.height, photo.prepared.width) for photo in seen]).float(),
            min_visibility=MIN_VISIBILITY,
            hidden_states=torch.stack(
                [self._features.image("hidden_states", photo, photo.body_crop).float() for photo in seen]
            ),
            target_pose=None if model is None else placed_joints(model.prepared, model.placement),
        )
        adapter.check_body(body)
        return partial(adapter.body_tokens, body)


def _no_body(adapter: Adapter, *, device: torch.device | str, dtype: torch.dtype) -> ContextTokens:
    """Tokens of zeros, as training has them where none of the photos shows a body."""
    layout = adapter.layout
    tokens = torch.zeros(1, layout.body.num_tokens, layout.cross_attention_dim, device=device, dtype=dtype)
    return tokens[:, :0], tokens
