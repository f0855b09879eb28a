"""Attaching adapters to ComfyUI's UNets by late binding.

At graph time the MODEL is only cloned and given one wrapper: nothing is patched and nothing that the upstream MODEL
shares is touched. When sampling starts, the wrapper loads the adapter through ComfyUI's memory management, computes
every layer's K', V' once, and puts a branch per layer around whatever attention patch stands there by then, in options
that belong to this one sampling run. When it ends, for whatever reason, K', V' are gone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..models.adapter import Adapter
from ..models.adapter_file import read_adapter
from ..models.branch import CONDITIONAL, UNCONDITIONAL, Branch
from ..models.checkpoint import Lora
from ..models.cross_attention import CrossAttentionLayer, KeyValue, add_branch_by_role
from ..models.weight_schedule import schedule_factor

logger = logging.getLogger(__name__)

WRAPPER_KEY = "bolid"
LORA_KEY = "bolid_lora"
"""Of the attachment that names the adapters whose LoRA a MODEL carries."""

BlockKey = tuple[str, int, int]
"""ComfyUI's name of a transformer block: section, number, depth. The middle block is ("middle", 0, depth)."""


@dataclass(frozen=True, kw_only=True)
class LoadedAdapter:
    """An adapter in ComfyUI's care (`BOLID_ADAPTER`).

    Attributes:
        name: file name, for messages.
        adapter: the module; its weights belong to `patcher`.
        patcher: ComfyUI's handle, which moves the weights between devices.
        lora: the LoRA of a FaceID file, see `checkpoint.faceid_lora`.
    """

    name: str
    adapter: Adapter
    patcher: comfy.model_patcher.ModelPatcher
    lora: Lora


def load_adapter(path: str | Path, *, faceid_plus_shortcut: bool = True) -> LoadedAdapter:
    """Load an adapter file; its weights stay memory-mapped until the first sampling run.

    Raises:
        ValueError: not a readable adapter file; the message says what it is.
    """
    file = read_adapter(path, faceid_plus_shortcut=faceid_plus_shortcut, operations=comfy.ops.manual_cast)
    return in_comfyuis_care(file.adapter, name=Path(path).name, lora=file.lora)


def in_comfyuis_care(adapter: Adapter, *, name: str, lora: Lora | None = None) -> LoadedAdapter:
    """Hand an adapter's weights to ComfyUI's memory management."""
    # CoreModelPatcher is looked up when it is needed: ComfyUI's main reassigns it.
    patcher = comfy.model_patcher.CoreModelPatcher(
        adapter,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return LoadedAdapter(name=name, adapter=adapter, patcher=patcher, lora=lora or {})


def loaded_device(adapter: LoadedAdapter) -> torch.device:
    """Let ComfyUI bring the adapter's weights to where they compute; returns that device."""
    comfy.model_management.load_models_gpu([adapter.patcher])
    return adapter.patcher.load_device


@dataclass(frozen=True, kw_only=True)
class LayerAddress:
    """Where ComfyUI keeps a cross-attention layer."""

    layer: CrossAttentionLayer
    block: BlockKey
    path: str


def layer_addresses(model: comfy.model_patcher.ModelPatcher) -> list[LayerAddress]:
    """Every cross-attention layer of an SD1.5 or SDXL style UNet, in the order of the public files: down, up, mid.

    Raises:
        ValueError: the model is no such UNet.
    """
    unet = model.model.diffusion_model
    unet = getattr(unet, "_orig_mod", unet)  # of torch.compile, while a compiled model is loaded
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"BoLID adapters act in the cross-attention of a Stable Diffusion UNet (SD1.5, SDXL and models of their "
            f"kind), but the connected model is a {type(unet).__name__}. Load an SD1.5 or SDXL checkpoint."
        )
    sections = {
        "input": list(unet.input_blocks),
        "output": list(unet.output_blocks),
        "middle": [unet.middle_block] if unet.middle_block is not None else [],
    }
    found = {
        section: [
            (number, position, transformer)
            for number, block in enumerate(blocks)
            for position, transformer in enumerate(block)
            if isinstance(transformer, SpatialTransformer)
        ]
        for section, blocks in sections.items()
    }
    first_transformer = {
        "input": 0,
        "middle": len(found["input"]),
        "output": len(found["input"]) + len(found["middle"]),
    }
    addresses: list[LayerAddress] = []
    for section, transformers in found.items():
        for order, (number, position, transformer) in enumerate(transformers):
            prefix = "middle_block" if section == "middle" else f"{section}_blocks.{number}"
            for depth, block in enumerate(transformer.transformer_blocks):
                addresses.append(
                    LayerAddress(
                        layer=CrossAttentionLayer(
                            index=2 * len(addresses) + 1,
                            section=section,
                            transformer_index=first_transformer[section] + order,
                            hidden_size=block.attn2.to_k.weight.shape[0],
                            cross_attention_dim=block.attn2.to_k.weight.shape[1],
                        ),
                        block=(section, number, depth),
                        path=f"diffusion_model.{prefix}.{position}.transformer_blocks.{depth}",
                    )
                )
    if not addresses:
        raise ValueError("The connected model's UNet has no cross-attention. Load an SD1.5 or SDXL checkpoint.")
    return addresses


def attach(
    model: comfy.model_patcher.ModelPatcher,
    adapter: LoadedAdapter,
    addresses: Sequence[LayerAddress],
    branches: Sequence[Branch],
) -> comfy.model_patcher.ModelPatcher:
    """Return a clone of `model` that samples with these branches; `model` stays as it is."""
    model = model.clone()
    acting = [branch for branch in branches if branch.acts]
    if acting:
        binding = _LateBinding(adapter=adapter, addresses=tuple(addresses), branches=tuple(acting))
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER_KEY, binding)
    return model


def add_faceid_lora(
    model: comfy.model_patcher.ModelPatcher,
    adapter: LoadedAdapter,
    addresses: Sequence[LayerAddress],
    strength: float,
) -> None:
    """Patch a clone's weights with the LoRA of a FaceID file.

    Once for each adapter, with the strength that comes first: a LoRA knows neither masks nor times, so several persons
    or time ranges share it.
    """
    carried = model.get_attachment(LORA_KEY) or ()
    if any(other is adapter for other in carried):
        return
    model.set_attachments(LORA_KEY, (*carried, adapter))
    attention_paths = {
        index: f"{address.path}.attn{1 + index % 2}"
        for address in addresses
        for index in (address.layer.index - 1, address.layer.index)
    }
    lora, targets = {}, {}
    for (index, projection), (down, up) in adapter.lora.items():
        weight = f"{attention_paths[index]}.to_{projection}{'.0' if projection == 'out' else ''}.weight"
        lora[f"{weight}.lora_down.weight"], lora[f"{weight}.lora_up.weight"] = down, up
        targets[weight] = weight
    model.add_patches(comfy.lora.load_lora(lora, targets, log_missing=False), strength)


@dataclass(kw_only=True, eq=False)
class _LateBinding:
    """The OUTER_SAMPLE wrapper: keeps nothing of a run, so one MODEL can be sampled again and in parallel."""

    adapter: LoadedAdapter
    addresses: tuple[LayerAddress, ...]
    branches: tuple[Branch, ...]
    logged: bool = False

    def __call__(self, executor: Any, noise: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        run = _SamplingRun(executor.class_obj, self, noise)
        compiled = _is_compiled(executor.class_obj.model_patcher)
        if not self.logged:
            logger.info("BoLID: %s: %s", self.adapter.name, ", ".join(map(self._described, self.branches)))
            if compiled:
                logger.warning("BoLID: %s: the compiled model samples uncompiled.", self.adapter.name)
            self.logged = True
        # ComfyUI tells torch.compile to take all options for constants, and those of a run are none.
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            try:
                return executor(noise, *args, **kwargs)
            finally:
                run.close()

    def _described(self, branch: Branch) -> str:
        weights = [weight for weight in branch.layer_weights.values() if weight != 0]
        spread = dict.fromkeys((f"{min(weights):.3g}", f"{max(weights):.3g}"))
        return f"{branch.name} at {' to '.join(spread)} in {len(weights)} of {len(self.addresses)} layers"


def _is_compiled(model: comfy.model_patcher.ModelPatcher) -> bool:
    """By ComfyUI's own node, or by one that puts a compiled module in the place of the UNet."""
    by_wrapper = model.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    return bool(by_wrapper) or hasattr(model.get_model_object("diffusion_model"), "_orig_mod")


class _SamplingRun:
    """The branches of one sampling run: K', V' and what changes from step to step.

    Args:
        noise: [b, c, h, w] of what is sampled.
    """

    def __init__(self, guider: Any, binding: _LateBinding, noise: torch.Tensor):
        self._guider = guider
        self._branches = binding.branches
        self._pictures, *_, height, width = noise.shape
        self._latent_size = (height, width)
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self._sigmas = [
            (
                math.inf if branch.start_percent <= 0 else float(model_sampling.percent_to_sigma(branch.start_percent)),
                0.0 if branch.end_percent >= 1 else float(model_sampling.percent_to_sigma(branch.end_percent)),
            )
            for branch in binding.branches
        ]
        self._active = [True] * len(binding.branches)
        self._factors: list[torch.Tensor | None] = [None] * len(binding.branches)
        # Of one evaluation: the latents that it is asked for, which context windows cut out of the whole.
        self._evaluated = self._pictures
        self._evaluated_size = self._latent_size
        # Guiders order their conditionings differently, and context windows make lists of their own; the entries keep
        # their ids, and what the guider calls a list says what it is.
        self._role_of = {
            entry["uuid"]: UNCONDITIONAL if "negative" in name else CONDITIONAL
            for name, conditioning in guider.conds.items()
            for entry in conditioning or ()
        }
        self._roles: list[int] = []
        self._masks: dict[Any, torch.Tensor] = {}
        self._rows: dict[Any, torch.Tensor] = {}
        device, dtype = loaded_device(binding.adapter), guider.model_patcher.model.get_dtype_inference()
        with torch.no_grad():
            self._key_values = {
                (device, dtype): [branch.key_values(device=device, dtype=dtype) for branch in binding.branches]
            }
        self._check_pictures()
        self._bind(binding)

    def _check_pictures(self) -> None:
        (by_branch,) = self._key_values.values()
        photos = max(kept.key.shape[0] for layers in by_branch for by_role in layers.values() for kept in by_role)
        if photos > self._pictures:
            raise ValueError(
                f"There is one photo per picture, but {photos} photos for {self._pictures} pictures. Make the batch of "
                f"'Empty Latent Image' {photos} pictures, give MultiRefImageEncoder fewer photos, or set method of "
                "PoolingAggregator to something else than 'per_picture'."
            )

    def _bind(self, binding: _LateBinding) -> None:
        options = self._guider.model_options
        replace = options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn2", {})
        layers = {index for by_layer in next(iter(self._key_values.values())) for index in by_layer}
        for address in binding.addresses:
            if address.layer.index not in layers:
                continue
            # A patch for the whole transformer is shadowed by one for a single depth.
            previous = replace.get(address.block) or replace.get(address.block[:2])
            replace[address.block] = partial(self._attention, address.layer.index, previous or _host_attention)
        add_wrapper_with_key(
            WrappersMP.CALC_COND_BATCH, WRAPPER_KEY, self._before_evaluation, options, is_model_options=True
        )

    def close(self) -> None:
        self._key_values.clear()
        self._masks.clear()
        self._rows.clear()

    def _before_evaluation(
        self, executor: Any, model: Any, conds: list, x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
    ) -> Any:
        """Once per model evaluation: which branches act, how strongly, and which conditionings are unconditional."""
        if any(limits != (math.inf, 0.0) for limits in self._sigmas):
            sigma = float(timestep[0])
            self._active = [end <= sigma <= start for start, end in self._sigmas]
        self._factors = [
            None
            if branch.weight_schedule == "constant"
            else schedule_factor(
                branch.weight_schedule,
                timestep[0],
                model_options["transformer_options"]["sample_sigmas"].to(timestep),
                sigma_start=start,
                sigma_end=end,
            ).view(1, 1, 1)
            for branch, (start, end) in zip(self._branches, self._sigmas, strict=True)
        ]
        self._evaluated, self._evaluated_size = x_in.shape[0], (x_in.shape[-2], x_in.shape[-1])
        self._roles = [
            # The first entry is the list's own; those of other lists may follow, to cover their areas.
            self._role_of.get(given[0]["uuid"] if given else None, UNCONDITIONAL if position else CONDITIONAL)
            for position, given in enumerate(conds)
        ]
        return executor(model, conds, x_in, timestep, model_options)

    def _attention(
        self,
        index: int,
        attention: Callable[..., torch.Tensor],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        extra_options: dict[str, Any],
    ) -> torch.Tensor:
        """The attn2 patch of one layer: the attention that stood there, plus every active branch."""
        hidden_states = attention(query, key, value, extra_options)
        branch_attention = partial(_host_attention, extra_options=extra_options)
        roles = [self._roles[number] for number in extra_options["cond_or_uncond"]] * self._tiles(query, extra_options)
        for number, key_values in enumerate(self._key_values_for(query)):
            if self._active[number] and index in key_values:
                mask, factor = self._mask_for_batch(number, query, extra_options), self._factors[number]
                if factor is not None:
                    mask = factor.to(query) if mask is None else mask * factor.to(query)
                hidden_states = add_branch_by_role(
                    hidden_states,
                    query,
                    [self._of_pictures(kept, query, extra_options) for kept in key_values[index]],
                    roles,
                    branch_attention,
                    mask=mask,
                )
        return hidden_states

    def _tiles(self, query: torch.Tensor, extra_options: dict[str, Any]) -> int:
        """How often all conditionings of this call come in a row: packs that draw in tiles batch several of them."""
        tiles, rest = divmod(query.shape[0], self._evaluated * len(extra_options["cond_or_uncond"]))
        return tiles if tiles and not rest else 1

    def _of_pictures(self, key_value: KeyValue, query: torch.Tensor, extra_options: dict[str, Any]) -> KeyValue:
        """K', V' of the pictures in this call, where each has its own; the last one serves all that follow."""
        last = key_value.key.shape[0] - 1
        if last == 0:
            return key_value
        places = self._places(query, extra_options)
        cache_key = (places, last, query.device)
        if cache_key not in self._rows:
            self._rows[cache_key] = torch.tensor([min(place, last) for place in places], device=query.device)
        return key_value.map(lambda x: x[self._rows[cache_key]])

    def _places(self, query: torch.Tensor, extra_options: dict[str, Any]) -> tuple[int, ...]:
        """Which pictures of the batch this call computes, for each of its conditionings.

        That is all of them, but for context windows, which take a part of the batch at a time.
        """
        window = extra_options.get("context_window")
        places = (extra_options.get("ad_params") or {}).get("sub_idxs")  # AnimateDiff-Evolved tells it in this way
        if window is not None and window.dim == 0:
            places = window.get_tensor(torch.arange(window.total_frames)).tolist()
        elif places is None:
            places = range(self._pictures)
        pictures = query.shape[0] // len(extra_options["cond_or_uncond"]) // self._tiles(query, extra_options)
        if len(places) != pictures:
            raise RuntimeError(
                f"What belongs to each picture of the batch (photos, masks) cannot be placed: another node computes "
                f"{pictures} pictures at once where {len(places)} were expected, and does not say which. Remove that "
                "node, or use one photo and one mask for all pictures."
            )
        return tuple(places)

    def _key_values_for(self, query: torch.Tensor) -> list[dict[int, list[KeyValue]]]:
        """K', V' by branch, layer and role, where and in what this layer computes.

        One further copy per device when ComfyUI samples on several.
        """
        place = (query.device, query.dtype)
        if place not in self._key_values:
            self._key_values[place] = [
                {index: [kept.map(lambda x: x.to(query)) for kept in by_role] for index, by_role in layers.items()}
                for layers in next(iter(self._key_values.values()))
            ]
        return self._key_values[place]

    def _mask_for_batch(self, number: int, query: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor | None:
        """The branch's mask at this layer's resolution: [b, n, 1], or None."""
        mask = self._branches[number].mask
        if mask is None:
            return None
        height, width = extra_options["activations_shape"][-2:]
        if height * width != query.shape[1]:
            raise RuntimeError(
                f"The mask cannot be placed: another node changed the number of positions in this layer from "
                f"{height}×{width} to {query.shape[1]} (token merging does this). Remove that node or the mask."
            )
        areas = tuple(self._area(uuid) for uuid in extra_options["uuids"])
        window = extra_options.get("context_window")
        self._check_whole(areas, extra_options)
        tiles = self._tiles(query, extra_options)
        pictures = query.shape[0] // len(areas) // tiles
        places = (0,) * pictures if mask.shape[0] == 1 else self._places(query, extra_options)
        cut = None if window is None or window.dim == 0 else window
        cache_key = (number, height, width, areas, places, tiles, cut and (cut.dim, *cut.index_list), query.device)
        if cache_key not in self._masks:
            resized = _area_average(mask.float().unsqueeze(1), self._latent_size)
            if cut is not None:
                resized = cut.get_tensor(resized)
            self._masks[cache_key] = torch.cat(
                [_mask_for_area(resized, area=area, size=(height, width), places=places) for area in areas] * tiles
            ).to(query)
        return self._masks[cache_key]

    def _check_whole(self, areas: Sequence[tuple[int, int, int, int] | None], extra_options: dict[str, Any]) -> None:
        """Raise a RuntimeError where the model is called with a part of the picture and nobody says which."""
        height, width = extra_options["original_shape"][-2:]
        expected = {self._evaluated_size if area is None else area[:2] for area in areas}
        if expected != {(height, width)}:
            raise RuntimeError(
                f"The mask cannot be placed: another node draws the picture in parts of {height}×{width} latents "
                "(tiled diffusion does this), and does not say which. Remove that node or the mask."
            )

    def _area(self, uuid: Any) -> tuple[int, int, int, int] | None:
        """Latent area (height, width, y, x) of a conditioning, or None for the whole picture."""
        for conditioning in self._guider.conds.values():
            for entry in conditioning or ():
                if entry["uuid"] == uuid:
                    area = entry.get("area")
                    return tuple(area) if area is not None else None
        return None


def _host_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, extra_options: dict[str, Any]
) -> torch.Tensor:
    """The attention that ComfyUI would have run in this layer."""
    return optimized_attention(
        query,
        key,
        value,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )


def _mask_for_area(
    mask: torch.Tensor, *, area: tuple[int, int, int, int] | None, size: tuple[int, int], places: Sequence[int]
) -> torch.Tensor:
    """Cut an area out of a mask [m, 1, h, w] of the latent's size, and resize that: [b, n, 1].

    Args:
        places: the b pictures' places in the batch; fewer masks than pictures start again.
    """
    if area is not None:
        height, width, y, x = area
        mask = mask[:, :, y : y + height, x : x + width]
    resized = _area_average(mask, size)
    return resized[[place % resized.shape[0] for place in places]].flatten(1).unsqueeze(-1)


def _area_average(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[m, 1, h, w] in another size: an edge between two regions stays an edge."""
    return torch.nn.functional.interpolate(x, size=size, mode="area")
