"""The world's networks as the folders that diffusers, transformers and open_clip read, for `bolid train`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from ...models.network_file import NetworkFile, read_network, write_network
from ...training.files import write_text
from .autoencoder import load_autoencoder
from .base_model import text_encoder
from .image_text import PREPROCESSING
from .recognition import load_recogniser
from .vocabulary import VOCABULARY_SIZE, Vocabulary, write_tokenizer

WEIGHTS = Path(__file__).parent.parent / "weights"
"""The files that ship with the project."""


def unpack(output: str | Path, weights: str | Path = WEIGHTS) -> dict[str, str]:
    """Write the folders; what is there is replaced.

    Args:
        output: gets `base` (a Stable Diffusion model in diffusers' format), `image_encoder` (transformers),
            `body_encoder` (for `adapter.body_encoder` of `bolid train`) where the base model has one, and `image_text`
            and `metric_image_text` (open_clip) where their files are there.
        weights: folder with the networks' files.

    Returns:
        The folders by name.

    Raises:
        FileNotFoundError: a file that is needed is missing.
        ValueError: a file is no such network.
    """
    output, weights = Path(output).resolve(), Path(weights)
    written = {}
    for name, write in _FOLDERS.items():
        if name in _OPTIONAL and not _OPTIONAL[name](weights):
            continue
        unfinished = output / f".{name}.partial"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write(unfinished, weights)
        shutil.rmtree(output / name, ignore_errors=True)
        unfinished.rename(output / name)
        written[name] = str(output / name)
    return written


def _write_base(folder: Path, weights: Path) -> None:
    file = read_network(weights / "base.safetensors", "base")
    unet = UNet2DConditionModel(**file.sizes["unet"])
    unet.load_state_dict(file.part("unet"))
    text = text_encoder(file.sizes["text_encoder"], VOCABULARY_SIZE)
    text.load_state_dict(_with_all_tokens(file, file.part("text_encoder"), "embeddings.token_embedding.weight"))
    load_autoencoder(weights / "autoencoder.safetensors").save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
    DDPMScheduler(**file.sizes["schedule"]).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")


def _write_body_encoder(folder: Path, weights: Path) -> None:
    file = read_network(weights / "base.safetensors", "base")
    write_network(
        folder / "body_encoder.safetensors",
        file.part("body_encoder"),
        network="body_encoder",
        sizes=file.sizes["body_encoder"],
        training=file.training,
    )


def _write_image_encoder(folder: Path, weights: Path) -> None:
    load_recogniser(weights / "image_encoder.safetensors").recogniser.network.save_pretrained(folder)


def _write_image_text(folder: Path, weights: Path, *, name: str) -> None:
    file = read_network(weights / f"{name}.safetensors", "image_text")
    text = {**file.sizes["text_cfg"], "vocab_size": VOCABULARY_SIZE}
    config = {"model_cfg": {**file.sizes, "text_cfg": text}, "preprocess_cfg": PREPROCESSING}
    write_text(folder / "open_clip_config.json", json.dumps(config, indent=1))
    tensors = _with_all_tokens(file, file.state_dict, "token_embedding.weight")
    save_file(tensors, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _with_all_tokens(file: NetworkFile, state_dict: dict[str, torch.Tensor], suffix: str) -> dict[str, torch.Tensor]:
    """A text encoder's weights with a row for every token that CLIP knows."""
    vocabulary = Vocabulary(file.state_dict["tokens"].tolist())
    return {
        key: vocabulary.spread(tensor) if key.endswith(suffix) else tensor
        for key, tensor in state_dict.items()
        if key != "tokens"
    }


def _has_body_encoder(weights: Path) -> bool:
    return "body_encoder" in read_network(weights / "base.safetensors", "base").sizes


def _has_image_text(weights: Path, *, name: str) -> bool:
    return (weights / f"{name}.safetensors").is_file()


_PAIRS = ("image_text", "metric_image_text")
_OPTIONAL: dict[str, Callable[[Path], bool]] = {
    "body_encoder": _has_body_encoder,
    **{name: partial(_has_image_text, name=name) for name in _PAIRS},
}
_FOLDERS: dict[str, Callable[[Path, Path], None]] = {
    "base": _write_base,
    "image_encoder": _write_image_encoder,
    "body_encoder": _write_body_encoder,
    **{name: partial(_write_image_text, name=name) for name in _PAIRS},
}
