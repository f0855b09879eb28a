"""Captions: from text files, from one JSON Lines file, from a template, or by BLIP.

Captions should not name the person: the text would then carry the identity that the photos have to.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

METADATA_FILE = "metadata.jsonl"
"""Where `datasets` of Hugging Face keeps captions of a folder of pictures."""

MAX_TOKENS, BEAMS = 40, 3

BLIP_FOLDER = (
    "Give a folder in transformers' format, such as a copy of Salesforce/blip-image-captioning-base: config.json, "
    "preprocessor_config.json, the tokenizer's files and model.safetensors. Nothing is downloaded."
)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What a source of captions says.

    Attributes:
        texts: file of a photo -> its caption, never empty.
        problems: file of a photo -> why it has none, where there is more to say than that it has none.
        without_photo: captions that belong to no photo: the text file, or the file that is named.
    """

    texts: Mapping[str, str]
    problems: Mapping[str, str] = field(default_factory=dict)
    without_photo: Sequence[str] = ()


def check_template(template: str) -> str:
    """A caption for every photo, as it is used.

    Raises:
        ValueError: empty, or with a field: the only thing that is known of every photo is the person's name, and a
            name in the text would carry the identity.
    """
    text = _one_line(template)
    if not text:
        raise ValueError("The caption template is empty. Give a text that fits every photo, as 'a photo of a person'.")
    if field_ := re.search(r"\{.*?\}", text):
        raise ValueError(
            f"The caption template has a field, {field_[0]}. Fields are not filled in: a person's name in the text "
            "would carry the identity that the photos have to. Give a text that fits every photo."
        )
    return text


def captions_from_text_files(source: Path, files: Iterable[str]) -> Captions:
    """Captions in .txt files that are named like the photos beside them; several lines become one.

    Args:
        source: the folder with a folder per person.
        files: photos, relative to it.
    """
    texts, problems = {}, {}
    used, folders = set(), set()
    for file in files:
        path = (source / file).with_suffix(".txt")
        folders.add(path.parent)
        if not path.is_file():
            continue
        used.add(path)
        try:
            text = _one_line(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            problems[file] = f"{path.name} is no UTF-8"
            continue
        if text:
            texts[file] = text
        else:
            problems[file] = f"{path.name} is empty"
    unused = {path for folder in folders for path in folder.glob("*.txt") if not path.name.startswith(".")} - used
    return Captions(
        texts=texts,
        problems=problems,
        # A name that is no Unicode cannot be written as it is.
        without_photo=sorted(path.relative_to(source).as_posix().encode(errors="replace").decode() for path in unused),
    )


def captions_from_jsonl(path: Path, files: Iterable[str]) -> Captions:
    """Captions in one file, a JSON object per line: {"file": ..., "text": ...}, or "file_name" for "file".

    Args:
        path: of the JSON Lines file.
        files: photos; the file names them in the same way, relative to the source folder.

    Raises:
        FileNotFoundError: not there.
        ValueError: a line that is no such object, or two different captions for one photo.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no caption file {path}. Put one there, or name another, with a line per photo: "
            '{"file": "anna/1.jpg", "text": "a woman on a bench"}.'
        )
    # Some systems keep é as one character, some as two.
    by_name = {unicodedata.normalize("NFC", file): file for file in files}
    texts: dict[str, str] = {}
    problems: dict[str, str] = {}
    without_photo = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            named, text = _json_caption(line, f"{path}, line {number}")
            file = by_name.get(unicodedata.normalize("NFC", PurePosixPath(named.replace("\\", "/")).as_posix()))
            if file is None:
                without_photo.append(named)
            elif not text:
                problems[file] = f"line {number} of {path.name} is empty"
            elif texts.setdefault(file, text) != text:
                raise ValueError(f"{path}, line {number}: {named} already has another caption. Keep one of them.")
    return Captions(
        texts=texts,
        problems={file: problem for file, problem in problems.items() if file not in texts},
        without_photo=without_photo,
    )


def names_person(caption: str, name: str) -> bool:
    """Whether a caption contains a person's name as the folder spells it; numbers are no names."""
    words = _words(name)
    return not words.replace(" ", "").isdigit() and f" {words} " in f" {_words(caption)} "


class BlipCaptioner:
    """BLIP, from a folder (https://arxiv.org/abs/2201.12086); deterministic, one photo at a time.

    Args:
        folder: in transformers' format.

    Raises:
        ValueError: it is none, holds another model, or is incomplete.
        RuntimeError: transformers is not installed.
    """

    def __init__(self, folder: Path):
        config = folder / "config.json"
        if not config.is_file():
            raise ValueError(f"There is no BLIP model in {folder}: it has no config.json. {BLIP_FOLDER}")
        try:
            kind = json.loads(config.read_bytes())["model_type"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{config} names no model_type. {BLIP_FOLDER}") from None
        if kind != "blip":
            raise ValueError(f"{folder} holds a model of type {kind!r}, not 'blip'. {BLIP_FOLDER}")
        # Without one, transformers makes a tokenizer that knows no words.
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise ValueError(f"The BLIP model in {folder} lacks its tokenizer.json or vocab.txt. {BLIP_FOLDER}")
        try:
            import torch
            from transformers import BlipForConditionalGeneration, BlipProcessor
        except ImportError as error:
            raise RuntimeError(
                f"Captioning needs the transformers package ({error}). Install it with `pip install 'bolid[train]'`."
            ) from error
        try:
            self._processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
            model, loading = BlipForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # of many kinds: tokenizers and safetensors have their own
            raise ValueError(f"The BLIP model in {folder} cannot be read ({error}). {BLIP_FOLDER}") from error
        if loading["missing_keys"]:
            missing = sorted(loading["missing_keys"])
            raise ValueError(
                f"The BLIP model in {folder} lacks {len(missing)} of its weights, such as {missing[0]}. {BLIP_FOLDER}"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()

    def caption(self, picture: Image.Image) -> str:
        """Describe an RGB picture; may be empty."""
        import torch

        inputs = self._processor(images=picture, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=MAX_TOKENS, num_beams=BEAMS, do_sample=False)
        return _one_line(self._processor.decode(tokens[0], skip_special_tokens=True))


def _json_caption(line: bytes, place: str) -> tuple[str, str]:
    expected = 'a JSON object per line, such as {"file": "anna/1.jpg", "text": "a woman on a bench"}, is expected.'
    try:
        entry = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{place} cannot be read ({error}); {expected}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is no JSON object; {expected}")
    file = entry.get("file", entry.get("file_name"))
    text = entry.get("text")
    if not isinstance(file, str) or not isinstance(text, str):
        raise ValueError(f"{place} lacks a file or a text; {expected}")
    try:
        f"{file}{text}".encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} has half a character ({error.reason}); write it anew.") from None
    return file, _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).casefold()))
