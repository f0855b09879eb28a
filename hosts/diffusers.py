"""Attaching adapters to diffusers' UNets, for training and evaluation.

`attach` and `detach` are a pair: after `detach` every attention processor is the object it was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from ..models.branch import Branch
from ..models.cross_attention import CrossAttentionLayer, KeyValue, add_branch_by_role

FEW_TOKENS = 1024
"""Of the picture. On a CPU, going back through the fused attention takes two to five times as long for up to so many as
through its single operations; with more of these, memory grows with their square."""

_SECTIONS = {"down_blocks": "input", "mid_block": "middle", "up_blocks": "output"}


def cross_attention_layers(unet: UNet2DConditionModel) -> list[CrossAttentionLayer]:
    """Every cross-attention layer, in the order of the public files: down, up, mid."""
    layers, transformers = [], {}
    for index, name in enumerate(unet.attn_processors):
        if ".attn2." not in name:
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        transformer, section = name.split(".transformer_blocks.")[0], _SECTIONS[name.split(".")[0]]
        transformers[transformer] = section
        layers.append((index, section, transformer, attention))
    order = sorted(transformers, key=lambda name: ("input", "middle", "output").index(transformers[name]))
    return [
        CrossAttentionLayer(
            index=index,
            section=section,
            transformer_index=order.index(transformer),
            hidden_size=attention.to_k.weight.shape[0],
            cross_attention_dim=attention.to_k.weight.shape[1],
        )
        for index, section, transformer, attention in layers
    ]


def text_projections(unet: UNet2DConditionModel) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The UNet's own K and V weights [h, C] of every cross-attention layer, by layer index N."""
    found = {}
    for index, name in enumerate(unet.attn_processors):
        if ".attn2." in name:
            attention = unet.get_submodule(name.removesuffix(".processor"))
            found[index] = attention.to_k.weight, attention.to_v.weight
    return found


class AttachedBranches:
    """Branches inside a UNet's cross-attention; a context manager that detaches on exit."""

    def __init__(self, unet: UNet2DConditionModel):
        self._unet = unet
        self._original = dict(unet.attn_processors)
        self._condition = _Condition()
        processors = dict(self._original)
        for index, name in enumerate(self._original):
            if ".attn2." in name:
                processors[name] = _BranchProcessor(index, self._condition)
        unet.set_attn_processor(processors)

    def set_key_values(self, key_values: Sequence[Mapping[int, KeyValue]]) -> None:
        """Use these K', V' by layer index N (one mapping per branch) until the next call.

        Their batch is 1 or the UNet's. Gradients flow through them: a training step projects its own tokens and calls
        this before the UNet.
        """
        self._set([{index: [key_value] for index, key_value in mapping.items()} for mapping in key_values], roles=[0])

    def condition(self, branches: Sequence[Branch], *, roles: Sequence[int]) -> None:
        """Compute K', V' of the branches once, for batches made of these roles, until the next call.

        Args:
            branches: see `Branch`; schedule, mask and tokens per picture belong to the ComfyUI host and must be unset.
            roles: `UNCONDITIONAL` or `CONDITIONAL` for each of the batch's equal parts; (0, 1) for diffusers'
                classifier-free guidance.

        Raises:
            ValueError: a branch with a schedule, a mask or tokens per picture.
        """
        self._set([self._key_values(branch) for branch in branches], roles=roles)

    def condition_each(self, rows: Sequence[Sequence[Branch]], *, roles: Sequence[int]) -> None:
        """Like `condition`, for batches whose parts hold a picture per row: each has branches of its own.

        Args:
            rows: branches of each picture; everywhere as many, with as many tokens, in the same order.
            roles: see `condition`.

        Raises:
            ValueError: a branch with a schedule, a mask or tokens per picture.
        """
        self._set(
            [_batched([self._key_values(branch) for branch in branches]) for branches in zip(*rows, strict=True)],
            roles=roles,
        )

    def _key_values(self, branch: Branch) -> dict[int, list[KeyValue]]:
        throughout = branch.start_percent <= 0 and branch.end_percent >= 1 and branch.weight_schedule == "constant"
        if branch.mask is not None or not throughout:
            raise ValueError(
                "The diffusers host takes branches without mask, without start and end percent and with a constant "
                "weight_schedule."
            )
        key_values = branch.key_values(device=self._unet.device, dtype=self._unet.dtype)
        if any(kept.key.shape[0] > 1 for by_role in key_values.values() for kept in by_role):
            raise ValueError(
                "The diffusers host takes branches with the same tokens for every picture. Give each picture branches "
                "of its own: condition_each."
            )
        return key_values

    def _set(self, key_values: list[dict[int, list[KeyValue]]], *, roles: Sequence[int]) -> None:
        self._condition.key_values, self._condition.roles = key_values, roles

    def detach(self) -> None:
        """Give every attention layer its own processor back."""
        self._set([], roles=[0])
        self._unet.set_attn_processor(dict(self._original))

    def __enter__(self) -> AttachedBranches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()


def attach(unet: UNet2DConditionModel) -> AttachedBranches:
    """Prepare a UNet for branches; until `condition` or `set_key_values` it computes what it did before.

    Raises:
        ValueError: a cross-attention layer has a processor that cannot be combined with branches.
    """
    foreign = {
        type(processor).__name__
        for name, processor in unet.attn_processors.items()
        if ".attn2." in name and not isinstance(processor, AttnProcessor2_0)
    }
    if foreign:
        raise ValueError(
            f"The UNet's cross-attention has the processors {', '.join(sorted(foreign))}; expected AttnProcessor2_0. "
            "Call unet.set_default_attn_processor() or detach the other adapter first."
        )
    return AttachedBranches(unet)


def without_fused_self_attention(unet: UNet2DConditionModel) -> None:
    """Let self-attention compute operation by operation, as branches do on a CPU for few tokens (`FEW_TOKENS`)."""
    processors = {
        name: AttnProcessor() if ".attn1." in name else processor for name, processor in unet.attn_processors.items()
    }
    unet.set_attn_processor(processors)


def _batched(rows: Sequence[Mapping[int, list[KeyValue]]]) -> dict[int, list[KeyValue]]:
    """K', V' of several pictures as those of a batch."""
    return {
        index: [
            KeyValue(key=torch.cat([one.key for one in each]), value=torch.cat([one.value for one in each]))
            for each in zip(*(row[index] for row in rows), strict=True)
        ]
        for index in rows[0]
    }


@dataclass
class _Condition:
    """What all processors of one UNet share: K', V' by branch, layer and role, and the roles of the batch's parts."""

    key_values: list[dict[int, list[KeyValue]]] = field(default_factory=list)
    roles: Sequence[int] = (0,)


class _BranchProcessor:
    """diffusers' default cross-attention, with branches added in front of the output projection."""

    def __init__(self, index: int, condition: _Condition):
        self._index = index
        self._condition = condition

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if attention_mask is not None:
            batch, tokens, _ = encoder_hidden_states.shape
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            attention_mask = attention_mask.unflatten(0, (batch, attn.heads))
        query = attn.to_q(hidden_states)
        attention = partial(_attention, heads=attn.heads)
        attended = attention(
            query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attention_mask=attention_mask
        )
        for key_values in self._condition.key_values:
            if self._index in key_values:
                attended = add_branch_by_role(
                    attended, query, key_values[self._index], self._condition.roles, attention
                )
        for layer in attn.to_out:
            attended = layer(attended)
        return attended


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    heads: int,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    is_learned_from = query.requires_grad or key.requires_grad
    if attention_mask is None and query.device.type == "cpu" and is_learned_from and query.shape[1] <= FEW_TOKENS:
        query, key, value = split
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        attended = weights.to(value.dtype) @ value
    else:
        attended = torch.nn.functional.scaled_dot_product_attention(*split, attn_mask=attention_mask)
    return attended.transpose(1, 2).flatten(2)
