"""A prompt as CLIP compares it with pictures, from ComfyUI's text encoders."""

from __future__ import annotations

import re
from dataclasses import dataclass

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import torch


@dataclass(frozen=True, kw_only=True)
class PromptEmbeds:
    """A prompt as CLIP compares it with pictures.

    Attributes:
        embeds: [1, E] pooled and projected.
        notes: what a user should know of it.
    """

    embeds: torch.Tensor
    notes: list[str]


def encode_prompt(clip: comfy.sd.CLIP, prompt: str, *, encoder: comfy.clip_vision.ClipVisionModel) -> PromptEmbeds:
    """The prompt by the part of a text encoder that belongs to the image encoder.

    What samplers get as pooled output will not do: for SD1.5, SD3 and Flux it is not projected, for SD3 it is that of
    two text encoders. Clip skip changes nothing here, since the projection follows the last layer.

    Raises:
        ValueError: no CLIP text encoder, one of another width, or one without its projection.
    """
    width = encoder.model.visual_projection.out_features if _is_projected(encoder) else None
    towers = {
        name: module
        for name, module in clip.cond_stage_model.named_children()
        if isinstance(module, comfy.sd1_clip.SDClipModel)
        and isinstance(module.transformer, comfy.clip_model.CLIPTextModel)
    }
    if not towers:
        raise ValueError(
            "This clip has no CLIP text encoder (T5 and language models cannot be compared with pictures). Connect "
            "'Load CLIP' with the text encoder of the same CLIP model as clip_vision."
        )
    widths = {name: module.transformer.text_projection.out_features for name, module in towers.items()}
    fitting = [name for name in towers if widths[name] == width]
    if not fitting:
        raise ValueError(
            f"clip has text features of width {' and '.join(map(str, widths.values()))}, but clip_vision gives image "
            f"features of {f'width {width}' if width else 'another kind'}: they are of different CLIP models. Widths "
            "are 768 for ViT-L, 1024 for ViT-H and SD2, 1280 for ViT-bigG and SDXL."
        )
    name = fitting[0]
    if not _has_projection(clip, towers[name].transformer.text_projection.weight):
        raise ValueError(
            "The text encoder in clip has no text projection, without which text and pictures cannot be compared; "
            "SD1.5 checkpoints and many clip_l files leave it out. Connect 'Load CLIP' with a file that has "
            "text_projection.weight, such as the model.safetensors of openai/clip-vit-large-patch14, and the same "
            "file as clip_vision."
        )
    sections = clip.tokenize(prompt)[name.removeprefix("clip_")]
    notes = []
    if len(sections) > 1:
        notes.append(
            f"The prompt is longer than the {len(sections[0])} tokens that CLIP reads; the rest does not count."
        )
    tokens = [[(token, 1.0) for token, *_ in sections[0]]]
    return PromptEmbeds(embeds=_pooled(clip, towers[name], tokens), notes=notes)


def _pooled(clip: comfy.sd.CLIP, tower: comfy.sd1_clip.SDClipModel, tokens: list) -> torch.Tensor:
    """[1, E], computed as `CLIP.encode_from_tokens` does it."""
    model, device = clip.cond_stage_model, clip.patcher.load_device
    model.reset_clip_options()
    clip.load_model()
    try:
        tower.set_clip_options({"projected_pooled": True, "execution_device": device})
        with comfy.model_management.cuda_device_context(device):
            _, pooled, *_ = tower.encode_token_weights(tokens)
    finally:
        model.reset_clip_options()
    return pooled


def _is_projected(encoder: comfy.clip_vision.ClipVisionModel) -> bool:
    return isinstance(getattr(encoder.model, "visual_projection", None), torch.nn.Linear)


def _has_projection(clip: comfy.sd.CLIP, weight: torch.Tensor | None) -> bool:
    """Whether a text projection was in the file: ComfyUI leaves a missing one as zeros, or as what the memory held.

    Text encoders that other packs load do not tell their file; of these the weights have to do.
    """
    if weight is None:
        return False
    in_files = [_file_has_projection(path, list(weight.shape)) for path in _source_files(clip)]
    if in_files and None not in in_files:
        return any(in_files)
    largest = float(weight.detach().float().abs().max())
    return 0 < largest < 100  # False for NaN


def _source_files(clip: comfy.sd.CLIP) -> list[str]:
    """The files that ComfyUI would load this text encoder from again; empty where another pack loaded it."""
    loading = getattr(clip.patcher, "cached_patcher_init", None)  # a function and its arguments
    paths = loading[1][0] if loading and loading[1] else ()
    return [paths] if isinstance(paths, str) else list(paths) if isinstance(paths, (list, tuple)) else []


def _file_has_projection(path: str, shape: list[int]) -> bool | None:
    """None for what is no safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return any(
                re.search(r"(^|\.)text_projection(\.weight)?$", key) and file.get_slice(key).get_shape() == shape
                for key in file.keys()
            )
    except (SafetensorError, OSError, TypeError):
        return None
