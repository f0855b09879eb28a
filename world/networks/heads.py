"""What can be read off a picture in fixed words, and off an embedding by linear layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import nn
from torch.nn import functional

from ...models.keypoints import AVERAGE_PROPORTIONS, BONES
from ..captions import PLACES, STYLES, Framing
from ..colours import CLOTH, EYES, HAIR, SKIN
from ..identities import HAIR_SHAPES, PATTERNS, Beard, BottomsKind, Glasses, TopKind
from ..poses import ACTIONS
from .config import HeadName
from .dataset import Pictures

CLOTH_COLOURS = tuple(CLOTH)

OF_THE_PICTURE: Mapping[str, tuple[object, ...]] = {
    "place": PLACES,
    "place_colour": CLOTH_COLOURS,
    "action": ACTIONS,
    "balloon_colour": CLOTH_COLOURS,
    "style": STYLES,
    "framing": get_args(Framing),
    "top_kind": get_args(TopKind),
    "top_colour": CLOTH_COLOURS,
    "top_pattern": tuple(PATTERNS),
}
"""Answers by head, of what captions speak of; tops as they are worn in the picture."""

OF_THE_PERSON: Mapping[str, tuple[object, ...]] = {
    "skin_tone": tuple(range(len(SKIN))),
    "hair_shape": tuple(HAIR_SHAPES),
    "hair_colour": tuple(HAIR),
    "beard": get_args(Beard),
    "glasses": get_args(Glasses),
    "eye_colour": tuple(EYES),
    "freckles": (False, True),
    "bottoms": get_args(BottomsKind),
    "bottoms_colour": CLOTH_COLOURS,
    "shoes_colour": CLOTH_COLOURS,
}
"""Answers by head, of what no caption speaks of."""

BONE_SPREAD = 0.14
"""About the standard deviation of the logarithm of a bone's length from person to person."""

UNKNOWN = -1


def answers_of(pictures: Pictures, heads: Sequence[HeadName]) -> dict[str, torch.Tensor]:
    """The truth for each head: [n] numbers of the right answers, `UNKNOWN` where there is none; "bones" [n, 7].

    Bones are logarithms of their lengths relative to the average adult's, in units of `BONE_SPREAD`.
    """
    truths: dict[str, torch.Tensor] = {}
    average = torch.tensor([AVERAGE_PROPORTIONS[bone] for bone in BONES])
    for head in heads:
        if head == "bones":
            lengths = [[identity["bones"][bone] for bone in BONES] for identity in pictures.identities]
            truths[head] = (torch.tensor(lengths) / average).log() / BONE_SPREAD
            continue
        known, said = (
            (OF_THE_PICTURE, pictures.attributes) if head in OF_THE_PICTURE else (OF_THE_PERSON, pictures.identities)
        )
        numbers = {answer: number for number, answer in enumerate(known[head])}
        truths[head] = torch.tensor([numbers.get(each[head], UNKNOWN) for each in said])
    return truths


class Heads(nn.Module):
    """Linear layers on an embedding.

    Args:
        dim: of the embedding.
        heads: their names.
    """

    def __init__(self, dim: int, heads: Sequence[HeadName]):
        super().__init__()
        self.layers = nn.ModuleDict({head: nn.Linear(dim, answers_count(head)) for head in heads})

    def forward(self, embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """[b, dim] → [b, answers] logits of each head; of "bones" the lengths themselves."""
        return {head: layer(embeds).float() for head, layer in self.layers.items()}


def answers_count(head: str) -> int:
    """Outputs of a head."""
    if head == "bones":
        return len(BONES)
    return len(OF_THE_PICTURE.get(head) or OF_THE_PERSON[head])


def heads_loss(said: Mapping[str, torch.Tensor], truths: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[b] mean over the heads of the cross-entropy in units of guessing, 0 where there is no answer."""
    losses = []
    for head, logits in said.items():
        truth = truths[head]
        if head == "bones":
            losses.append(functional.smooth_l1_loss(logits, truth, reduction="none").mean(dim=1))
            continue
        loss = functional.cross_entropy(logits, truth.clamp(min=0), reduction="none")
        losses.append(torch.where(truth == UNKNOWN, 0.0, loss / math.log(logits.shape[1])))
    return torch.stack(losses).mean(dim=0)


def heads_measures(said: Mapping[str, torch.Tensor], truths: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For every answer whether it is right, 1 or 0; of "bones" the error of a length as a fraction of it."""
    measures = {}
    for head, logits in said.items():
        truth = truths[head]
        if head == "bones":
            measures["bones_error"] = ((logits - truth) * BONE_SPREAD).exp().sub(1).abs().mean(dim=1)
        else:
            known = truth != UNKNOWN
            measures[head] = (logits.argmax(dim=1) == truth)[known].float()
    return measures
