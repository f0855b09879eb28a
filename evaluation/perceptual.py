"""How different pictures look from photos of the person: LPIPS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache

import torch

from ..metrics.perceptual import LpipsNetwork, load_lpips, lpips
from ..training.features import Person
from .measure import Column, Measure, Portraits, Values
from .outputs import Asking, Outputs
from .pictures import Shown, as_floats, shown_photo
from .plan import Plan
from .sources import Source


def load_classifier(source: Source, *, device: torch.device) -> LpipsNetwork:
    """The network of LPIPS.

    Raises:
        ValueError: its weights or packages are not there.
    """
    try:
        return load_lpips(str(source.path), device=device)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ValueError(f"{source.key} is {source.path}, which cannot be loaded: {error}") from error


class Perceptual(Measure):
    """Mean LPIPS between a picture and the person's photos that no method sees.

    Args:
        source: of the classifier.
        outputs: where distances are kept.
        plan: who is drawn.
    """

    def __init__(self, source: Source, outputs: Outputs, plan: Plan):
        self._source = source
        self._outputs = outputs
        self._plan = plan
        # One person after the other is asked for.
        self._photos = lru_cache(maxsize=1)(self._read_photos)
        meaning = f"mean LPIPS ({source.path}) to the person's photos that no method sees; another pose counts too"
        self.columns = (Column(name="lpips", meaning=meaning, higher_is_better=False),)

    def fill(self, drawn: Sequence[tuple[Person, Shown]]) -> None:
        """Each picture with the photos of its person."""
        photos = [(person, shown_photo(photo)) for person in self._plan.people for photo in self._plan.seen(person)]
        pairs = {self._key(person, shown.key): (person, shown) for person, shown in (*drawn, *photos)}
        resolution = self._outputs.resolution

        @lru_cache(maxsize=1)
        def compared(name: str) -> torch.Tensor:
            photos = [shown_photo(photo) for photo in self._plan.compared(self._plan.named(name))]
            return as_floats(torch.stack([photo.pixels(resolution) for photo in photos])).to(self._outputs.device)

        def load(models: ExitStack) -> Asking:
            network = load_classifier(self._source, device=self._outputs.device)

            def distance(key: str) -> torch.Tensor:
                person, shown = pairs[key]
                photos = compared(person.name)
                pictures = as_floats(shown.pixels(resolution)).to(photos.device).expand_as(photos)
                return lpips(pictures, photos, network=network).mean()

            return tuple, lambda keys: {"distance": torch.stack([distance(key) for key in keys])}

        self._outputs.fill_with("pairs", self._source, list(pairs), load, stage="LPIPS")

    def of_pictures(self, portraits: Portraits) -> list[Values]:
        """Lower is more alike."""
        keys = [self._key(portraits.person, key) for key in portraits.keys]
        return [{"lpips": float(self._outputs.get(self._source, key, kind="pairs")["distance"])} for key in keys]

    def real(self, person: Person) -> Portraits:
        """The person's photos that methods may see."""
        return Portraits(person=person, keys=[shown_photo(photo).key for photo in self._plan.seen(person)])

    def _read_photos(self, name: str) -> str:
        return " ".join(shown_photo(photo).key for photo in self._plan.compared(self._plan.named(name)))

    def _key(self, person: Person, key: str) -> str:
        """Of a picture and the photos that it is compared with."""
        return hashlib.sha256(f"{key} {self._photos(person.name)}".encode()).hexdigest()[:32]
