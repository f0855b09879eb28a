"""Random adapter files in the layouts of the public IP-Adapter releases, whole and damaged.

A second, independent description of those layouts to hold the package against: key names, shapes and layer numbers come
from the released files and from https://github.com/tencent-ailab/IP-Adapter (`ip_adapter/resampler.py`,
`ip_adapter_faceid_separate.py`, `attention_processor_faceid.py`). Nothing here imports the package under test.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

LAYOUTS = ("base", "base_bigg", "plus", "full_face", "faceid", "faceid_portrait", "faceid_plus")


class UNetLayer(NamedTuple):
    """One cross-attention layer of a UNet.

    `block` and `number` are ComfyUI's `transformer_options["block"]`, `transformer_index` is its `block_index` (the
    depth inside the block's spatial transformer), `key` the N of `ip_adapter.N.to_k_ip.weight`.
    """

    block: str
    number: int
    transformer_index: int
    key: int
    hidden_size: int


SD15_LAYERS = [
    UNetLayer("input", 1, 0, 1, 320),
    UNetLayer("input", 2, 0, 3, 320),
    UNetLayer("input", 4, 0, 5, 640),
    UNetLayer("input", 5, 0, 7, 640),
    UNetLayer("input", 7, 0, 9, 1280),
    UNetLayer("input", 8, 0, 11, 1280),
    UNetLayer("output", 3, 0, 13, 1280),
    UNetLayer("output", 4, 0, 15, 1280),
    UNetLayer("output", 5, 0, 17, 1280),
    UNetLayer("output", 6, 0, 19, 640),
    UNetLayer("output", 7, 0, 21, 640),
    UNetLayer("output", 8, 0, 23, 640),
    UNetLayer("output", 9, 0, 25, 320),
    UNetLayer("output", 10, 0, 27, 320),
    UNetLayer("output", 11, 0, 29, 320),
    UNetLayer("middle", 0, 0, 31, 1280),
]

SDXL_LAYERS = [
    *(UNetLayer("input", 4, i, key, 640) for i, key in enumerate((1, 3))),
    *(UNetLayer("input", 5, i, key, 640) for i, key in enumerate((5, 7))),
    *(UNetLayer("input", 7, i, key, 1280) for i, key in enumerate((9, 11, 13, 15, 17, 19, 21, 23, 25, 27))),
    *(UNetLayer("input", 8, i, key, 1280) for i, key in enumerate((29, 31, 33, 35, 37, 39, 41, 43, 45, 47))),
    *(UNetLayer("output", 0, i, key, 1280) for i, key in enumerate((49, 51, 53, 55, 57, 59, 61, 63, 65, 67))),
    *(UNetLayer("output", 1, i, key, 1280) for i, key in enumerate((69, 71, 73, 75, 77, 79, 81, 83, 85, 87))),
    *(UNetLayer("output", 2, i, key, 1280) for i, key in enumerate((89, 91, 93, 95, 97, 99, 101, 103, 105, 107))),
    *(UNetLayer("output", 3, i, key, 640) for i, key in enumerate((109, 111))),
    *(UNetLayer("output", 4, i, key, 640) for i, key in enumerate((113, 115))),
    *(UNetLayer("output", 5, i, key, 640) for i, key in enumerate((117, 119))),
    *(UNetLayer("middle", 0, i, key, 1280) for i, key in enumerate((121, 123, 125, 127, 129, 131, 133, 135, 137, 139))),
]


class _Weights:
    """Fills a state dict with random tensors under which every part of a layout visibly takes part in the output."""

    def __init__(self, *, seed: int, dtype: torch.dtype):
        self.tensors: dict[str, torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def normal(self, name: str, *shape: int, scale: float) -> None:
        self.tensors[name] = (torch.randn(shape, generator=self._generator) * scale).to(self._dtype)

    def linear(self, name: str, rows: int, columns: int, *, bias: bool = True, input_norm: float | None = None) -> None:
        """Unit variance out for inputs of L2 norm `input_norm` (default: unit variance per feature)."""
        scale = columns**-0.5 if input_norm is None else 1 / input_norm
        self.normal(f"{name}.weight", rows, columns, scale=scale)
        if bias:
            self.normal(f"{name}.bias", rows, scale=0.1)

    def norm(self, name: str, width: int) -> None:
        self.normal(f"{name}.weight", width, scale=0.1)
        self.tensors[f"{name}.weight"] += 1
        self.normal(f"{name}.bias", width, scale=0.1)

    def resampler_layers(self, prefix: str, width: int) -> None:
        for i in range(4):
            layer = f"{prefix}layers.{i}"
            self.norm(f"{layer}.0.norm1", width)
            self.norm(f"{layer}.0.norm2", width)
            self.linear(f"{layer}.0.to_q", width, width, bias=False)
            self.linear(f"{layer}.0.to_kv", 2 * width, width, bias=False)
            self.linear(f"{layer}.0.to_out", width, width, bias=False)
            self.norm(f"{layer}.1.0", width)
            self.linear(f"{layer}.1.1", 4 * width, width, bias=False)
            self.linear(f"{layer}.1.3", width, 4 * width, bias=False)

    def lora(self, key: int, hidden_size: int, context_size: int, rank: int) -> None:
        for part, columns in (("q", hidden_size), ("k", context_size), ("v", context_size), ("out", hidden_size)):
            self.normal(f"ip_adapter.{key}.to_{part}_lora.down.weight", rank, columns, scale=columns**-0.5)
            # A quarter of the base weights' own scale: plain to see, and far from drowning them.
            self.normal(f"ip_adapter.{key}.to_{part}_lora.up.weight", hidden_size, rank, scale=0.25 * rank**-0.5)


def adapter_state_dict(
    layout: str,
    *,
    layers: Sequence[tuple[int, int]],
    cross_attention_dim: int,
    seed: int = 0,
    image_encoder_width: int | None = None,
    resampler_width: int | None = None,
    face_embeds_width: int = 512,
    lora_rank: int = 128,
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Build one adapter's flat state dict with random weights.

    Args:
        layout: one of `LAYOUTS`.

            ================= ======================================== ======= =========================== =====
            layout            input                                    tokens  released as                 LoRA
            ================= ======================================== ======= =========================== =====
            base              image_embeds [n, 1024]                   4       ip-adapter_sd15, sdxl_vit-h no
            base_bigg         image_embeds [n, 1280]                   4       ip-adapter_sdxl             no
            plus              hidden_states [n, T, 1280]               16      plus, plus-face             no
            full_face         hidden_states [n, T, 1280]               T (257) full-face_sd15              no
            faceid            face_embeds [n, 512]                     4       faceid_sd15, faceid_sdxl    yes
            faceid_portrait   face_embeds [n, 512]                     16      faceid-portrait_sd15        no
            faceid_plus       face_embeds [n, 512] and hidden_states   4       faceid-plus, faceid-plusv2  yes
            ================= ======================================== ======= =========================== =====

            FaceID-plus v1 and v2 have the same keys; they differ only in the shortcut at run time.
        layers: (N, hidden size) of every cross-attention layer, N odd. With LoRA the self-attention layer N - 1 gets
            its tensors too. Empty: `image_proj` alone.
        cross_attention_dim: width C of the UNet's text context, 768 (SD1.5) or 2048 (SDXL) in the released files.
        seed: of the weights' own generator.
        image_encoder_width: width of the image features; default as in the table above.
        resampler_width: inner width d of layout "plus", a multiple of 64; default 1280 for C = 2048, else C. In
            "faceid_plus" it is always C, which must then be a multiple of 64.
        face_embeds_width: width of the face vectors; the projection's hidden layer is twice as wide.
        lora_rank: rank of the FaceID LoRA.
        dtype: of every tensor.

    Returns:
        Flat keys `image_proj.*` and `ip_adapter.N.*`. Feeding unit-variance image features, or face vectors of norm 1,
        gives tokens, K and V of about unit variance.

    Raises:
        ValueError: unknown layout, an even N, or a resampler width that does not divide into heads of 64.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    even = [key for key, _ in layers if key % 2 == 0]
    if even:
        raise ValueError(f"layers {even} are self-attention layers: K/V tensors belong to odd N only")
    if image_encoder_width is None:
        image_encoder_width = 1024 if layout == "base" else 1280
    if layout == "faceid_plus":
        resampler_width = cross_attention_dim
    elif resampler_width is None:
        resampler_width = 1280 if cross_attention_dim == 2048 else cross_attention_dim
    if layout in ("plus", "faceid_plus") and resampler_width % 64:
        raise ValueError(f"resampler width {resampler_width} is no multiple of the head width 64")

    weights = _Weights(seed=seed, dtype=dtype)
    if layout in ("base", "base_bigg"):
        weights.linear("image_proj.proj", 4 * cross_attention_dim, image_encoder_width)
        weights.norm("image_proj.norm", cross_attention_dim)
    elif layout == "plus":
        weights.normal("image_proj.latents", 1, 16, resampler_width, scale=1.0)
        weights.linear("image_proj.proj_in", resampler_width, image_encoder_width)
        weights.linear("image_proj.proj_out", cross_attention_dim, resampler_width)
        weights.norm("image_proj.norm_out", cross_attention_dim)
        weights.resampler_layers("image_proj.", resampler_width)
    elif layout == "full_face":
        weights.linear("image_proj.proj.0", image_encoder_width, image_encoder_width)
        weights.linear("image_proj.proj.2", cross_attention_dim, image_encoder_width)
        weights.norm("image_proj.proj.3", cross_attention_dim)
    else:
        tokens = 16 if layout == "faceid_portrait" else 4
        inner_width = 2 * face_embeds_width
        weights.linear("image_proj.proj.0", inner_width, face_embeds_width, input_norm=1.0)
        weights.linear("image_proj.proj.2", tokens * cross_attention_dim, inner_width)
        weights.norm("image_proj.norm", cross_attention_dim)
        if layout == "faceid_plus":
            prefix = "image_proj.perceiver_resampler."
            weights.linear(f"{prefix}proj_in", cross_attention_dim, image_encoder_width)
            weights.linear(f"{prefix}proj_out", cross_attention_dim, cross_attention_dim)
            weights.norm(f"{prefix}norm_out", cross_attention_dim)
            weights.resampler_layers(prefix, cross_attention_dim)

    for key, hidden_size in layers:
        if layout in ("faceid", "faceid_plus"):
            weights.lora(key - 1, hidden_size, hidden_size, lora_rank)
            weights.lora(key, hidden_size, cross_attention_dim, lora_rank)
        weights.linear(f"ip_adapter.{key}.to_k_ip", hidden_size, cross_attention_dim, bias=False)
        weights.linear(f"ip_adapter.{key}.to_v_ip", hidden_size, cross_attention_dim, bias=False)
    return weights.tensors


def nested(state_dict: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Turn flat keys into the `{"image_proj": {...}, "ip_adapter": {...}}` form of the `.bin` files."""
    out: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in state_dict.items():
        part, key = name.split(".", 1)
        out[part][key] = tensor
    return out


def write_safetensors(
    path: str | Path, state_dict: dict[str, torch.Tensor], *, metadata: dict[str, str] | None = None
) -> Path:
    """Write flat keys as `.safetensors`."""
    from safetensors.torch import save_file

    save_file(state_dict, str(path), metadata=metadata)
    return Path(path)


def write_bin(path: str | Path, state_dict: dict[str, torch.Tensor]) -> Path:
    """Write the nested pickle form of the `.bin` releases."""
    torch.save(nested(state_dict), path)
    return Path(path)


class _CallOnLoad:
    def __init__(self, function: Callable, *arguments: object):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


def write_malicious_bin(path: str | Path) -> Path:
    """Write a `.bin` whose unpickling runs code: `torch.load(..., weights_only=False)` creates the returned marker.

    The rest of the file is a valid small adapter. Full unpickling also leaves an open file under the key "note".
    """
    path = Path(path)
    marker = path.with_name(path.name + ".executed")
    state_dict = adapter_state_dict("base", layers=[(1, 32)], cross_attention_dim=64, image_encoder_width=32)
    torch.save({**nested(state_dict), "note": _CallOnLoad(io.open, str(marker), "w")}, path)
    return marker


def write_truncated(path: str | Path, state_dict: dict[str, torch.Tensor], *, keep: float = 0.5) -> Path:
    """Write the first `keep` (0 to 1) of the bytes of a valid file, as an interrupted download leaves it.

    The suffix of `path`, `.safetensors` or `.bin`, chooses the container.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    writers = {".safetensors": write_safetensors, ".bin": write_bin}
    if path.suffix not in writers:
        raise ValueError(f"{path.name} ends in {path.suffix!r}: expected .safetensors or .bin")
    writers[path.suffix](path, state_dict)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path
