"""The networks that look at pictures: each frozen, each asked in the same way, each loaded when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection, Dinov2Model
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from ..detectors.faces import InsightFaceAnalysis
from ..detectors.people import MediaPipePersonDetector
from ..models.keypoint_network import PIXELS, pixels_to_cells, read_keypoint_network
from ..models.keypoints import FIRST_JOINT, JOINTS
from ..training.config import LossSettings
from ..training.image_text import LOCAL, ImageText, load_image_text
from .sources import Kind, Source

DINO_SIDE = 224
"""Pixels. DINOv2 is trained on larger ones too, but published numbers are of these."""

FACE_WIDTH = 512
"""Of ArcFace vectors."""


class Network(Protocol):
    """Says something about pictures, each by itself."""

    def __call__(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tensors [b, ...] by name, from pictures [b, 3, s, s] in -1 to 1 on the CPU.

        `embeds` [b, d] of networks that recognise, `answers` [b, heads] numbers of what their heads say (in the order
        of the file), `found` [b] whether there is a face, `probabilities` [b, classes], `keypoints` [b, 12, 3].
        """
        ...


def load_network(source: Source, *, device: torch.device, models: ExitStack) -> Network:
    """A network that is ready to be asked.

    Args:
        models: closes what has to be closed.

    Raises:
        ValueError: it cannot be loaded; the message names the key of the config.
    """
    with _explained(source):
        return _LOADERS[source.kind](source.path, device, models)


def load_pair(source: Source, *, device: torch.device) -> ImageText:
    """An open_clip pair, for texts; see `load_network`."""
    with _explained(source):
        return _open_clip(source.path, device)


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    try:
        yield
    except (ModuleNotFoundError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything
        raise ValueError(f"{source.key} is {source.path or source.kind}, which cannot be loaded: {error}") from error


def _resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    if pictures.shape[-1] == side:
        return pictures
    return functional.interpolate(pictures, size=side, mode="bicubic", antialias=True).clamp(-1, 1)


def _normalised(pictures: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    means, deviations = (pictures.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pictures / 2 + 0.5 - means) / deviations


def _recognition(path: Path, device: torch.device, models: ExitStack) -> Network:
    from ..world.networks.recognition import load_recogniser
    from ..world.pictures import SIDE

    step = load_recogniser(path).to(device)
    recogniser = step.recogniser
    side = recogniser.network.config.image_size if recogniser.kind == "transformer" else SIDE

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        embeds = recogniser(_resized(pictures.to(device), side))
        answers = [logits.argmax(dim=1) for logits in step.heads(embeds).values()]
        return {"embeds": embeds, **({"answers": torch.stack(answers, dim=1)} if answers else {})}

    return ask


def _pretrained(kind: Any, path: Path) -> Any:
    """A model of transformers, which fills what a folder lacks with random numbers."""
    model, told = kind.from_pretrained(path, output_loading_info=True)
    if told["missing_keys"]:
        raise ValueError(f"it is no {kind.__name__}: {len(told['missing_keys'])} of the weights are missing")
    return model.eval().requires_grad_(False)


def _clip(path: Path, device: torch.device, models: ExitStack) -> Network:
    model = _pretrained(CLIPVisionModelWithProjection, path).to(device)

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = _resized(pictures.to(device), model.config.image_size)
        return {"embeds": model(_normalised(pixels, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)).image_embeds}

    return ask


def _dino(path: Path, device: torch.device, models: ExitStack) -> Network:
    model = _pretrained(Dinov2Model, path).to(device)
    side = min(DINO_SIDE, model.config.image_size)

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = _normalised(_resized(pictures.to(device), side), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        return {"embeds": model(pixels).last_hidden_state[:, 0]}

    return ask


def _inception(path: Path, device: torch.device, models: ExitStack) -> Network:
    """inception-2015-12-05.pt of StyleGAN2-ADA: the weights of the published FID, with its resizing inside; see
    https://github.com/NVlabs/stylegan2-ada-pytorch/blob/375a436003d13acc8a3d287340fdc7877e252e93/metrics/metric_utils.py."""
    model: Any = torch.jit.load(str(path), map_location=device).eval()

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).byte().to(device)
        # Without the bias of its last layer, as the published score has it.
        probabilities = model(pixels, no_output_bias=True)
        return {"embeds": model(pixels, return_features=True), "probabilities": probabilities}

    return ask


def _open_clip(path: Path, device: torch.device) -> ImageText:
    return load_image_text(LossSettings(clip_model=f"{LOCAL}{path}"), device=device)


def _pair(path: Path, device: torch.device, models: ExitStack) -> Network:
    pair = _open_clip(path, device)
    return lambda pictures: {"embeds": pair.encode_image(pictures.to(device))}


def _faces(path: Path, device: torch.device, models: ExitStack) -> Network:
    # insightface wants packs in a folder "models".
    pack = path.resolve()
    analysis = InsightFaceAnalysis(root=pack.parent.parent, model_pack=pack.name)

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        embeds, found = torch.zeros(len(pictures), FACE_WIDTH), torch.zeros(len(pictures))
        for row, image in enumerate(_bytes(pictures)):
            if faces := analysis.detect(image):
                embeds[row], found[row] = torch.from_numpy(faces[0].embedding), 1
        return {"embeds": embeds, "found": found}

    return ask


def _joints(path: Path, device: torch.device, models: ExitStack) -> Network:
    file = read_keypoint_network(path)
    if file.latent_space != PIXELS:
        raise ValueError("it finds joints in the latents of a VAE; give one that `bolid world train` made for pictures")
    network = file.network.to(device)

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        said = network(pixels_to_cells(pictures.to(device)))
        return {"keypoints": torch.cat((said.positions, said.logits.sigmoid().unsqueeze(-1)), dim=-1)}

    return ask


def _mediapipe(path: Path | None, device: torch.device, models: ExitStack) -> Network:
    detector = models.enter_context(MediaPipePersonDetector(path))

    def ask(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        keypoints = torch.zeros(len(pictures), len(JOINTS), 3)
        for row, image in enumerate(_bytes(pictures)):
            if people := detector.detect(image):
                height, width = image.shape[:2]
                keypoints[row] = torch.from_numpy(people[0].keypoints[FIRST_JOINT:] / (width, height, 1))
        return {"keypoints": keypoints}

    return ask


def _bytes(pictures: torch.Tensor) -> np.ndarray:
    """[b, s, s, 3] uint8, as detectors read pictures."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).contiguous().numpy()


_LOADERS: dict[Kind, Callable[[Any, torch.device, ExitStack], Network]] = {
    "recognition": _recognition,
    "clip": _clip,
    "dino": _dino,
    "inception": _inception,
    "pair": _pair,
    "faces": _faces,
    "joints": _joints,
    "mediapipe": _mediapipe,
}
