"""What training reads of each photo: computed once, then kept in the cache."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..detectors.crops import FACE_MARGIN, PERSON_MARGIN, crop_for_encoder
from ..detectors.faces import InsightFaceAnalysis
from ..detectors.photos import read_picture
from ..models.body import has_scale
from ..models.keypoints import FIRST_JOINT
from .base import (
    SECOND_TEXT_ENCODER,
    autoencoder_fingerprint,
    encode_image,
    encode_text,
    load_autoencoder,
    load_image_encoder,
    load_text_encoders,
    picture_factor,
    to_latents,
)
from .cache import Tensors, TensorStore
from .config import BaseSettings, DataSettings, LossSettings
from .files import write_text
from .fingerprint import file_hash, model_fingerprint
from .people import Box, PreparedPeople, PreparedPhoto
from .pictures import Placement, bucket_sizes, picture, place
from .progress import Progress

logger = logging.getLogger(__name__)

FEATURES = 1
"""To be raised when the same photo and model would give other features."""

MIN_VISIBILITY = 0.5
"""Joints below it count as not seen; the default of the node of the body."""

NAMED = 5
"""Of many, in messages."""

ZERO = "0" * 32
"""Key of the picture that is zero after preprocessing."""

READERS = 4
"""Threads that read photos for a device."""

Encoding = tuple[Callable[[str], Any], Callable[[Any], Tensors]]
"""From a key to what an encoder reads, and from that to what is kept."""

Crop = tuple[Box, float] | None
"""A box in a photo, and the room around it as a fraction of it; None: the middle square of the photo."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo of the data set.

    Attributes:
        prepared: what `bolid prepare` found.
        path: of the file.
        placement: how it is cut when it is the target.
        face_crop, body_crop: what the branches see of it; no body_crop where the body branch leaves the photo out.
        usable: whether it may be a reference: what the settings ask for is there.
    """

    prepared: PreparedPhoto
    path: Path
    placement: Placement
    face_crop: Crop
    body_crop: Crop
    usable: bool

    @property
    def name(self) -> str:
        return self.prepared.file


@dataclass(frozen=True, kw_only=True)
class Person:
    """The photos of one person; at least one can be drawn from another."""

    name: str
    photos: tuple[Photo, ...]


@dataclass(frozen=True, kw_only=True)
class People:
    """A data set as the trainer sees it.

    Attributes:
        train, test: people to learn from, and people who are held out.
        fingerprint: of everything in it that training depends on.
    """

    train: list[Person]
    test: list[Person]
    fingerprint: str

    @property
    def photos(self) -> list[Photo]:
        return [photo for person in (*self.train, *self.test) for photo in person.photos]

    def summary(self) -> dict[str, Any]:
        """Numbers of people and photos in both splits."""
        return {
            split: {"people": len(persons), "photos": sum(len(person.photos) for person in persons)}
            for split, persons in (("train", self.train), ("test", self.test))
        }


def load_people(data: DataSettings, base: BaseSettings, *, to_train: bool = True) -> People:
    """Read a prepared data set.

    Args:
        to_train: whether there has to be somebody to train on; an evaluation needs only people who are held out.

    Raises:
        FileNotFoundError: not prepared.
        ValueError: damaged, or nobody to train on with these settings.
    """
    prepared = PreparedPeople.read(data.path)
    factor = picture_factor(base.path)
    if base.resolution % factor:
        raise ValueError(
            f"base.resolution is {base.resolution}, but the pictures of {base.path} have sides that are multiples of "
            f"{factor}. Take {max(1, round(base.resolution / factor)) * factor}."
        )
    sizes = bucket_sizes(base.resolution, factor) if data.buckets else [(base.resolution, base.resolution)]
    found: dict[str, list[Person]] = {"train": [], "test": []}
    left_out: list[str] = []
    for person in prepared.people:
        photos = tuple(
            Photo(
                prepared=photo,
                path=prepared.source / photo.file,
                placement=place(photo, sizes),
                face_crop=_crop(photo, data.crop),
                body_crop=_crop(photo, "person") if _has_scale(photo) else None,
                usable=data.crop == "whole" or _crop(photo, data.crop) is not None,
            )
            for photo in person.photos
        )
        if _can_be_drawn(photos):
            found[person.split].append(Person(name=person.name, photos=photos))
        else:
            left_out.append(person.name)
    if left_out:
        logger.warning(
            "%d people are left out: data.crop is %r, and none of their photos shows one (%s%s).",
            len(left_out),
            data.crop,
            ", ".join(left_out[:NAMED]),
            ", …" if len(left_out) > NAMED else "",
        )
    if to_train and not found["train"]:
        raise ValueError(
            f"{data.path} has nobody to train on: of {len(prepared.people)} people none is in the train split and has "
            f"a photo with data.crop = {data.crop!r} beside another. Lower test_share of bolid prepare, or add photos."
        )
    if to_train and not found["test"]:
        logger.warning("%s holds nobody out, so nothing is validated; see test_share of bolid prepare.", data.path)
    text = json.dumps([person.model_dump(mode="json") for person in prepared.people], sort_keys=True)
    return People(**found, fingerprint=hashlib.sha256(text.encode()).hexdigest())


def with_faces(people: People, features: Features) -> People:
    """The same people, with only those photos as references in which insightface finds a face.

    Raises:
        ValueError: nobody to train on is left.
    """

    def kept(persons: list[Person]) -> list[Person]:
        found = [
            replace(
                person,
                photos=tuple(
                    replace(photo, usable=photo.usable and features.face_embeds(photo) is not None)
                    for photo in person.photos
                ),
            )
            for person in persons
        ]
        return [person for person in found if _can_be_drawn(person.photos)]

    result = replace(people, train=kept(people.train), test=kept(people.test))
    lost = len(people.train) + len(people.test) - len(result.train) - len(result.test)
    if lost:
        logger.warning("%d people are left out: insightface finds no face in their photos.", lost)
    if not result.train:
        raise ValueError("There is nobody to train on: insightface finds no face in the photos of the train split.")
    return result


def _can_be_drawn(photos: Sequence[Photo]) -> bool:
    """Whether a photo may be the target: another one may be a reference."""
    usable = sum(photo.usable for photo in photos)
    return any(usable > photo.usable for photo in photos)


def _has_scale(photo: PreparedPhoto) -> bool:
    """Whether a person is there whose keypoints can be normalised; the node of the body leaves other photos out."""
    visibility = torch.tensor(photo.keypoints[FIRST_JOINT:])[:, 2]
    return bool(has_scale(visibility, min_visibility=MIN_VISIBILITY))


def _crop(photo: PreparedPhoto, crop: str) -> Crop:
    if crop == "face" and photo.face_box is not None:
        return photo.face_box, FACE_MARGIN
    if crop == "person" and photo.person_box is not None:
        return photo.person_box, PERSON_MARGIN
    return None


def check_photos(photos: Sequence[Photo], record: Path, progress: Progress) -> None:
    """Make sure that the photos are those that were prepared; what was checked before is only looked up.

    Args:
        record: file that remembers size and time of what was checked.

    Raises:
        ValueError: a photo has changed or is gone; the message names some. Or the record is damaged.
    """
    try:
        seen: dict[str, Any] = json.loads(record.read_bytes()) if record.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{record} is damaged ({error}). Delete it: the photos are then checked anew.") from None
    checked, problems = {}, []
    for number, photo in enumerate(photos):
        progress("photos", number, len(photos))
        try:
            status = photo.path.stat()
            state = [status.st_size, status.st_mtime_ns, photo.prepared.sha256]
            if seen.get(photo.name) != state and file_hash(photo.path) != photo.prepared.sha256:
                problems.append(f"{photo.name} has changed")
            checked[photo.name] = state
        except FileNotFoundError:
            problems.append(f"{photo.path} is gone")
    progress("photos", len(photos), len(photos))
    if problems:
        named = "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")
        raise ValueError(f"The photos are no longer those that were prepared: {named}. Run bolid prepare again.")
    if checked == seen:
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(checked) + "\n")


@dataclass(kw_only=True)
class Features:
    """Cached features of the photos of a data set.

    Args:
        folder: of the cache.
        base: whose VAE, text encoders and image encoder are asked.
        device: where they compute; they are there only while something is missing.
        progress: told how far it is.
        process, processes: number of this process, of so many; each fills a part.
        wait: until all processes are here.
    """

    folder: Path
    base: BaseSettings
    device: torch.device
    progress: Progress
    process: int = 0
    processes: int = 1
    wait: Callable[[], None] = lambda: None
    _stores: dict[str, TensorStore] = field(default_factory=dict, repr=False)

    def fill_latents(self, photos: Sequence[Photo]) -> None:
        """Cache what `latents` returns."""
        store = self._open("latents", {"vae": autoencoder_fingerprint(load_autoencoder(self.base.path))})
        by_key = {_latents_key(photo): photo for photo in photos}

        def load() -> Encoding:
            autoencoder = load_autoencoder(self.base.path).to(self.device)

            @torch.no_grad()
            def encode(pixels: torch.Tensor) -> Tensors:
                mean, std = to_latents(autoencoder, pixels.to(self.device))
                return {"mean": mean[0].float().cpu(), "std": std[0].float().cpu()}

            return lambda key: _target(by_key[key]), encode

        self._fill(store, "latents", by_key, load)

    def fill_text(self, texts: Sequence[str]) -> None:
        """Cache what `text` returns."""
        parts = ("text_encoder", "tokenizer", *SECOND_TEXT_ENCODER)
        folders = [self.base.path / part for part in parts if (self.base.path / part).is_dir()]
        store = self._open("text", {folder.name: model_fingerprint(folder) for folder in folders})
        by_key = {_text_key(text): text for text in texts}

        def load() -> Encoding:
            encoders = load_text_encoders(self.base.path)
            for encoder in encoders:
                encoder.model.to(self.device)

            def encode(text: str) -> Tensors:
                return {name: tensor[0].half().cpu() for name, tensor in encode_text(encoders, [text]).items()}

            return by_key.__getitem__, encode

        self._fill(store, "text", by_key, load)

    def fill_image(self, name: str, crops: Sequence[tuple[Photo, Crop]]) -> None:
        """Cache what `image` returns.

        Args:
            name: "image_embeds" or "hidden_states".
            crops: photos, and what is seen of them.
        """
        store = self._open(name, {"image_encoder": model_fingerprint(self.base.image_encoder)})
        by_key = {_crop_key(photo, crop): (photo, crop) for photo, crop in crops}

        def load() -> Encoding:
            encoder = load_image_encoder(self.base.image_encoder).to(self.device)

            def read(key: str) -> torch.Tensor | None:
                return None if key == ZERO else encoder_pixels(*by_key[key], size=encoder.config.image_size)

            def encode(pixels: torch.Tensor | None) -> Tensors:
                image_embeds, hidden_states = encode_image(encoder, pixels)
                features = image_embeds if name == "image_embeds" else hidden_states
                return {name: features[0].half().cpu()}

            return read, encode

        self._fill(store, name, [ZERO, *by_key], load)

    def fill_clip_text(self, settings: LossSettings, texts: Sequence[str]) -> None:
        """Cache what `clip_text` returns."""
        from .image_text import image_text_fingerprint, load_image_text

        by_key = {_text_key(text): text for text in texts}

        def load() -> Encoding:
            network = load_image_text(settings, device=self.device)
            return by_key.__getitem__, lambda text: {"clip_text": network.encode_text(text).cpu()}

        self._fill(self._open("clip_text", {"clip": image_text_fingerprint(settings)}), "clip texts", by_key, load)

    def fill_clip_image(self, settings: LossSettings, photos: Sequence[Photo]) -> None:
        """Cache what `clip_image` returns."""
        from .image_text import image_text_fingerprint, load_image_text

        by_key = {_latents_key(photo): photo for photo in photos}

        def load() -> Encoding:
            network = load_image_text(settings, device=self.device)

            @torch.no_grad()
            def encode(pixels: torch.Tensor) -> Tensors:
                return {"clip_image": network.encode_image(pixels.to(self.device))[0].cpu()}

            return lambda key: _target(by_key[key]), encode

        self._fill(self._open("clip_image", {"clip": image_text_fingerprint(settings)}), "clip images", by_key, load)

    def clip_text(self, text: str) -> torch.Tensor:
        """[E] of a caption, by the network of L_clip."""
        return self._stores["clip_text"].get(_text_key(text))["clip_text"]

    def clip_image(self, photo: Photo) -> torch.Tensor:
        """[E] of a target, by the network of L_clip."""
        return self._stores["clip_image"].get(_latents_key(photo))["clip_image"]

    def fill_faces(self, photos: Sequence[Photo]) -> None:
        """Cache what `face_embeds` returns."""
        store = self._open("face_embeds", {"face_pack": model_fingerprint(self.base.face_pack)})
        by_key = {photo.prepared.sha256: photo for photo in photos}

        def load() -> Encoding:
            # insightface wants packs in a folder "models".
            pack = self.base.face_pack.resolve()
            analysis = InsightFaceAnalysis(root=pack.parent.parent, model_pack=pack.name)

            def encode(pixels: np.ndarray) -> Tensors:
                faces = analysis.detect(pixels)
                return {"face_embeds": torch.from_numpy(faces[0].embedding) if faces else torch.zeros(0)}

            return lambda key: np.array(read_picture(by_key[key].path)[0]), encode

        self._fill(store, "faces", by_key, load)

    def face_embeds(self, photo: Photo) -> torch.Tensor | None:
        """[512] L2-normalised ArcFace vector of the largest face of a photo, or None without one."""
        embeds = self._stores["face_embeds"].get(photo.prepared.sha256)["face_embeds"]
        return embeds if len(embeds) else None

    def reference(self, name: str, photo: Photo) -> torch.Tensor:
        """What the face branch reads of a reference: image_embeds [D], hidden_states [T, H] or face_embeds [512]."""
        return self.face_embeds(photo) if name == "face_embeds" else self.image(name, photo, photo.face_crop)

    def latents(self, photo: Photo) -> Tensors:
        """`mean` and `std` [C, h, w] of the scaled latents of a target, float32."""
        return self._stores["latents"].get(_latents_key(photo))

    def text(self, text: str) -> Tensors:
        """See `base.encode_text`; float16, without the batch."""
        return self._stores["text"].get(_text_key(text))

    def image(self, name: str, photo: Photo, crop: Crop) -> torch.Tensor:
        """image_embeds [D] or hidden_states [T, H] of a crop of a photo, float16."""
        return self._stores[name].get(_crop_key(photo, crop))[name]

    def zero_image(self, name: str) -> torch.Tensor:
        """The same of the picture that is zero after preprocessing."""
        return self._stores[name].get(ZERO)[name]

    def _open(self, kind: str, depends_on: dict[str, Any]) -> TensorStore:
        self._stores[kind] = TensorStore(self.folder, kind, {"features": FEATURES, **depends_on})
        return self._stores[kind]

    def _fill(self, store: TensorStore, stage: str, keys: Collection[str], load: Callable[[], Encoding]) -> None:
        """Compute what is missing with a model that is loaded only then."""
        missing = store.missing(keys)
        if missing:
            self._fill_missing(store, stage, keys, missing, load)
        # Not earlier: another process may have found something missing that this one has just written.
        self.wait()
        store.reload()

    def _fill_missing(
        self,
        store: TensorStore,
        stage: str,
        keys: Collection[str],
        missing: Sequence[str],
        load: Callable[[], Encoding],
    ) -> None:
        # By the key alone: what is missing changes while others write.
        mine = [key for key in missing if int(key[-8:], 16) % self.processes == self.process]
        done, all_mine = len(keys) - len(missing), len(keys) - len(missing) + len(mine)

        def advance() -> None:
            nonlocal done
            done += 1
            self.progress(stage, done, all_mine)

        self.progress(stage, done, all_mine)
        if mine:
            with _released(self.device):
                read, encode = load()
                with _read_ahead(read, mine, self.device) as ready:
                    store.fill(mine, lambda key: encode(ready(key)), advance)


@contextmanager
def _read_ahead(
    read: Callable[[str], Any], keys: Sequence[str], device: torch.device
) -> Iterator[Callable[[str], Any]]:
    """`read`, for keys that are asked for in this order: while a device computes, threads read the next photos."""
    if device.type == "cpu":
        yield read
        return
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        waiting = iter(keys)
        reading = deque(pool.submit(read, key) for key in itertools.islice(waiting, 2 * READERS))

        def ready(key: str) -> Any:
            result = reading.popleft().result()
            reading.extend(pool.submit(read, following) for following in itertools.islice(waiting, 1))
            return result

        yield ready


def _target(photo: Photo) -> torch.Tensor:
    """[1, 3, h, w] in -1 to 1."""
    return picture(read_picture(photo.path)[0], photo.placement).unsqueeze(0)


def encoder_pixels(photo: Photo, crop: Crop, *, size: int) -> torch.Tensor:
    """[1, size, size, 3] in 0 to 1: what the image encoder sees of a photo, as the nodes cut it."""
    image, _ = read_picture(photo.path)
    pixels = torch.from_numpy(np.array(image)).float() / 255
    if crop is None:
        return crop_for_encoder(pixels, None, size=size)
    (x0, y0, x1, y1), margin = crop
    box = x0 * image.width, y0 * image.height, x1 * image.width, y1 * image.height
    return crop_for_encoder(pixels, box, margin=margin, size=size)


@contextmanager
def _released(device: torch.device) -> Iterator[None]:
    """Give the memory of what was loaded inside back."""
    yield
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _latents_key(photo: Photo) -> str:
    return _key(photo.prepared.sha256, photo.placement)


def _text_key(text: str) -> str:
    return _key(text)


def _crop_key(photo: Photo, crop: Crop) -> str:
    return _key(photo.prepared.sha256, crop)


def _key(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
