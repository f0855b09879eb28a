"""Whether pictures of the people world show what their captions say, by a classifier that reads it off them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..models.network_file import read_network
from .config import AttributeSettings
from .measure import Column, Portraits, Values
from .outputs import Outputs
from .plan import Plan
from .sources import Source
from .wording import OfRequests

GARMENT = ("top_kind", "top_colour", "top_pattern")
"""Heads about the top; captions speak of it only where it is not the person's own."""


class Attributes(OfRequests):
    """Which of the things that its caption says a picture shows.

    Args:
        source: of a recognition network with heads.
        settings: of the config.
        outputs: filled with all pictures.
        plan: what is drawn.

    Raises:
        ValueError: the oracle does not know a photo, or the network has no head for what captions say.
    """

    def __init__(self, source: Source, settings: AttributeSettings, outputs: Outputs, plan: Plan):
        super().__init__(plan)
        from ..world.networks.heads import OF_THE_PICTURE

        self._source = source
        self._outputs = outputs
        self._answers = OF_THE_PICTURE
        heads = read_network(source.path, "recognition").sizes["heads"]
        self._places = {head: place for place, head in enumerate(heads) if head in OF_THE_PICTURE}
        self._heads = [head for head in OF_THE_PICTURE if head in heads]
        if not self._heads:
            raise ValueError(
                f"{source.key} is {source.path}, whose heads are {', '.join(heads) or 'none'}; none of them reads what "
                f"captions say ({', '.join(OF_THE_PICTURE)}). Give a network such as metric_attributes."
            )
        records = _records(settings.oracle, {request.model.name for request in plan.requests})
        self._said = {name: self._readable(said(record)) for name, record in records.items()}
        meaning = f"share of what the caption says that {source.name} reads off the picture"
        details = [
            Column(name=f"attribute_{head}", meaning=f"the same of {head.replace('_', ' ')} alone", is_detail=True)
            for head in self._heads
        ]
        self.columns = (Column(name="attributes", meaning=meaning), *details)

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """1 or 0 for every head that the caption answers, and their mean."""
        rows: list[Values] = []
        for key, request in zip(portraits.keys, portraits.requests, strict=True):
            seen = self._outputs.get(self._source, key)["answers"]
            right: dict[str, float | None] = {
                head: float(int(seen[self._places[head]]) == self._answers[head].index(answer))
                for head, answer in self._said[request.model.name].items()
            }
            mean = sum(right.values()) / len(right) if right else None
            rows.append({"attributes": mean, **{f"attribute_{head}": right.get(head) for head in self._heads}})
        return rows

    def _readable(self, answers: dict[str, Any]) -> dict[str, Any]:
        return {head: answers[head] for head in self._heads if head in answers}


def said(record: dict[str, Any]) -> dict[str, Any]:
    """What a caption says, by head: of the attributes of its picture those that it names, see `world.captions`.

    Args:
        record: a line of the oracle.
    """
    from ..world.captions import FRAMED

    attributes, caption = record["attributes"], record["caption"]
    found = {head: attributes[head] for head in ("place", "style")}
    # A portrait of somebody who stands speaks of the smile instead.
    if attributes["framing"] != "portrait" or attributes["action"] != "standing":
        found["action"] = attributes["action"]
    if any(phrase and phrase in f"{caption} " for phrase in FRAMED[attributes["framing"]]):
        found["framing"] = attributes["framing"]
    found |= {head: attributes[head] for head in ("place_colour", "balloon_colour") if attributes[head]}
    if attributes["garment"] is not None:
        found |= {head: attributes[head] for head in GARMENT}
    return found


def _records(oracle: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Lines of the oracle, by the names of photos."""
    if not oracle.is_file():
        raise ValueError(f"measures.attributes.oracle is {oracle}, but there is no such file.")
    found = {}
    with oracle.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if record["file"] in names:
                    found[record["file"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"measures.attributes.oracle is {oracle}, whose line {number} is none of bolid world render "
                    f"({error})."
                ) from None
    unknown = sorted(set(names) - found.keys())
    if unknown:
        raise ValueError(
            f"measures.attributes.oracle is {oracle}, which does not know {len(unknown)} of {len(names)} photos, such "
            f"as {unknown[0]}. Give the oracle of the folder that data.path was rendered into."
        )
    return found
