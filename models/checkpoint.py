"""Reading public IP-Adapter files: containers, layouts, strict loading.

The layout is read from the tensors, never from the file name. Weights are assigned to modules built on the meta
device, so that loading a file costs neither an initialisation nor a copy.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .adapter import Adapter, AdapterLayout
from .build import build_adapter
from .files import tensor_problems

StateDict = dict[str, torch.Tensor]
Lora = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]
"""Down [rank, in] and up [out, rank] by layer index N and "q", "k", "v" or "out"."""

_SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
_KEY_VALUE = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.weight")
_LORA = re.compile(r"ip_adapter\.(\d+)\.to_(q|k|v|out)_lora\.(down|up)\.weight")


def read_state_dict(path: str | Path) -> StateDict:
    """Read an adapter file as a flat state dict with the prefixes `image_proj.` and `ip_adapter.`.

    Safetensors (.safetensors, .sft) are memory-mapped. Pickled files (.bin, .pt, .pth, .ckpt) are read with
    `weights_only=True`.

    Raises:
        ValueError: the file is truncated, is no such file, or holds anything but tensors.
    """
    path = Path(path)
    tensors = _read_safetensors(path) if path.suffix.lower() in _SAFETENSORS_SUFFIXES else _read_pickled(path)
    return {re.sub(r"^adapter_modules\.", "ip_adapter.", key): tensor for key, tensor in tensors.items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of a safetensors file that `read_state_dict` can read; empty for other files."""
    from safetensors import safe_open

    if Path(path).suffix.lower() not in _SAFETENSORS_SUFFIXES:
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path.name} is not a readable safetensors file ({error}). It may be an incomplete download: "
            f"it has {path.stat().st_size:,} bytes; compare with the source and download it again."
        ) from error


def _read_pickled(path: Path) -> StateDict:
    try:
        # Files of the old, unzipped format cannot be memory-mapped.
        nested = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} was refused: it is not a file of plain tensors, and opening it could run code. Use the "
            ".safetensors file of this adapter."
        ) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # unpickling damaged bytes raises nearly anything
        raise ValueError(
            f"{path.name} could not be read ({error}). It may be an incomplete download: "
            f"it has {path.stat().st_size:,} bytes; compare with the source and download it again."
        ) from error
    flat: StateDict = {}
    for key, entry in nested.items() if isinstance(nested, dict) else ():
        if isinstance(entry, dict):
            flat.update({f"{key}.{name}": value for name, value in entry.items()})
        else:
            flat[str(key)] = entry
    return {key: value for key, value in flat.items() if isinstance(value, torch.Tensor)}


def detect_layout(state_dict: StateDict, *, name: str, faceid_plus_shortcut: bool = True) -> AdapterLayout:
    """Read the layout from the tensors.

    Args:
        state_dict: as `read_state_dict` returns it.
        name: file name for messages.
        faceid_plus_shortcut: `AdapterLayout.shortcut`, which the tensors do not say.

    Raises:
        ValueError: not an IP-Adapter file, or one of a layout that is not known.
    """
    shape = {
        key.removeprefix("image_proj."): tuple(tensor.shape)
        for key, tensor in state_dict.items()
        if key.startswith("image_proj.")
    }
    key_values = {
        int(match[1]): tuple(tensor.shape)
        for key, tensor in state_dict.items()
        if (match := _KEY_VALUE.fullmatch(key)) and tensor.ndim == 2
    }
    if not key_values or not shape:
        raise ValueError(f"{name} is not an IP-Adapter or BoLID adapter file: {_what_it_looks_like(state_dict)}")
    try:
        return AdapterLayout(
            **_projection_layout(shape),
            layers={index: hidden_size for index, (hidden_size, _) in sorted(key_values.items())},
            cross_attention_dim=next(iter(key_values.values()))[1],
            shortcut=faceid_plus_shortcut,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        raise ValueError(
            f"{name} has an image projection that BoLID does not know (tensors {', '.join(sorted(shape)[:6])}, …). "
            "Known are the base, plus, plus-face, full-face, FaceID, FaceID-portrait and FaceID-plus layouts of SD1.5 "
            "and SDXL."
        ) from None


def _projection_layout(shape: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    if "perceiver_resampler.proj_in.weight" in shape:
        return {
            **_faceid_layout(shape),
            "kind": "faceid_plus",
            "hidden_size": shape["perceiver_resampler.proj_in.weight"][1],
            "depth": _depth(shape, "perceiver_resampler."),
        }
    if "latents" in shape:
        _, num_tokens, dim = shape["latents"]
        return {
            "kind": "plus",
            "num_tokens": num_tokens,
            "hidden_size": shape["proj_in.weight"][1],
            "inner_dim": dim,
            "depth": _depth(shape, ""),
        }
    if "proj.3.weight" in shape:
        inner_dim, hidden_size = shape["proj.0.weight"]
        return {"kind": "full_face", "num_tokens": None, "hidden_size": hidden_size, "inner_dim": inner_dim}
    if "proj.2.weight" in shape:
        return {**_faceid_layout(shape), "kind": "faceid"}
    rows, image_embed_dim = shape["proj.weight"]
    return {"kind": "base", "num_tokens": rows // shape["norm.weight"][0], "image_embed_dim": image_embed_dim}


def _faceid_layout(shape: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    inner_dim, face_embed_dim = shape["proj.0.weight"]
    return {
        "num_tokens": shape["proj.2.weight"][0] // shape["norm.weight"][0],
        "face_embed_dim": face_embed_dim,
        "inner_dim": inner_dim,
    }


def _depth(shape: dict[str, tuple[int, ...]], prefix: str) -> int:
    numbers = {match[1] for key in shape if (match := re.match(rf"{re.escape(prefix)}layers\.(\d+)\.", key))}
    return len(numbers)


def _what_it_looks_like(state_dict: StateDict) -> str:
    keys = list(state_dict)
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in keys):
        return "it looks like a full checkpoint, which belongs in models/checkpoints."
    if any("vision_model." in key for key in keys):
        return "it looks like an image encoder, which belongs in models/clip_vision."
    if any("lora" in key for key in keys):
        return "it looks like a LoRA, which belongs in models/loras."
    return f"its tensors are named {', '.join(sorted(keys)[:4]) or 'nothing at all'} …"


def adapter_from_state_dict(
    state_dict: StateDict, *, name: str, faceid_plus_shortcut: bool = True, operations: Any = nn
) -> Adapter:
    """Build the adapter that the tensors of a public file describe; arguments and errors of the functions it calls."""
    layout = detect_layout(state_dict, name=name, faceid_plus_shortcut=faceid_plus_shortcut)
    return adapter_with_weights(layout, state_dict, name=name, operations=operations)


def adapter_with_weights(layout: AdapterLayout, state_dict: StateDict, *, name: str, operations: Any = nn) -> Adapter:
    """Build an adapter and give it these tensors, without copying them.

    Args:
        layout: as `detect_layout` returns it, or as a BoLID file describes itself.
        state_dict: as `read_state_dict` returns it; a FaceID LoRA inside it is left out (see `faceid_lora`).
        name: file name for messages.
        operations: see `build_adapter`.

    Raises:
        ValueError: missing, unexpected or misshapen tensors, those of the LoRA included.
    """
    try:
        with torch.device("meta"):
            plain, adapter = build_adapter(layout), build_adapter(layout, operations=operations)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} describes an adapter of sizes that cannot be ({str(error).splitlines()[0]}). Get the file again."
        ) from error
    weights = {key: tensor for key, tensor in state_dict.items() if not _LORA.fullmatch(key)}
    try:
        plain.load_state_dict(weights, strict=True, assign=True)  # a host's own layers may take any shape
        adapter.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"{name} looks like the {layout.kind!r} layout, but its tensors do not fit: {tensor_problems(error)}"
        ) from error
    _check_lora(state_dict, layout, name)
    return adapter.eval().requires_grad_(False)


def _check_lora(state_dict: StateDict, layout: AdapterLayout, name: str) -> None:
    for key, tensor in state_dict.items():
        match = _LORA.fullmatch(key)
        if match is None:
            continue
        index, part = int(match[1]), match[3]
        other = state_dict.get(key.replace(f"_lora.{part}.", f"_lora.{'up' if part == 'down' else 'down'}."))
        # An even index is the self-attention in front of the cross-attention of the next one.
        if index + 1 - index % 2 not in layout.layers:
            problem = "belongs to a layer that the file has no K', V' for"
        elif other is None:
            problem = "has no counterpart"
        elif tensor.ndim != 2 or other.ndim != 2 or tensor.shape[part == "up"] != other.shape[part == "down"]:
            problem = f"of shape {tuple(tensor.shape)} does not fit its counterpart of shape {tuple(other.shape)}"
        else:
            continue
        raise ValueError(f"{name} has a damaged LoRA: {key} {problem}. Download the file again.")


def faceid_lora(state_dict: StateDict) -> Lora:
    """The LoRA inside a FaceID file.

    Even N are self-attention layers, odd N cross-attention layers. Empty for files without one.
    """
    found: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for key, tensor in state_dict.items():
        if match := _LORA.fullmatch(key):
            found.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    return {target: (pair["down"], pair["up"]) for target, pair in found.items()}


def lora_state_dict(lora: Lora) -> StateDict:
    """The tensors that `faceid_lora` reads."""
    return {
        f"ip_adapter.{index}.to_{projection}_lora.{part}.weight": tensor
        for (index, projection), pair in lora.items()
        for part, tensor in zip(("down", "up"), pair, strict=True)
    }
