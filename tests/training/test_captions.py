"""Where captions come from, and what is said of those that cannot be used."""

from __future__ import annotations

import json
import shutil
import socket
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from bolid.training.captions import (
    BlipCaptioner,
    captions_from_jsonl,
    captions_from_text_files,
    check_template,
    names_person,
)

FILES = ["anna/1.jpg", "anna/2.jpg", "Zoë/1.jpg"]


# Text files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


def test_text_files_beside_the_photos(source: Path):
    (source / "anna/1.txt").write_bytes(b"\xef\xbb\xbf a woman \r\n on a\tbench \n")
    (source / "Zoë/1.txt").write_text("eine Frau im Grünen", encoding="utf-8")
    captions = captions_from_text_files(source, FILES)
    assert captions.texts == {"anna/1.jpg": "a woman on a bench", "Zoë/1.jpg": "eine Frau im Grünen"}
    assert (captions.problems, captions.without_photo) == ({}, [])


def test_text_files_that_cannot_be_used_are_named(source: Path):
    (source / "anna/1.txt").write_text(" \n\t")
    (source / "anna/2.txt").write_bytes(b"caf\xe9")
    (source / "anna/3.txt").write_text("a photo that is gone")
    captions = captions_from_text_files(source, FILES)
    assert captions.texts == {}
    assert captions.problems == {"anna/1.jpg": "1.txt is empty", "anna/2.jpg": "2.txt is no UTF-8"}
    assert captions.without_photo == ["anna/3.txt"]


# JSON Lines


def jsonl(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_line_per_photo(tmp_path: Path):
    path = jsonl(
        tmp_path / "captions.jsonl",
        {"file": "anna/1.jpg", "text": "a woman\non a bench", "stars": 5},
        "",
        {"file_name": "./anna\\2.jpg", "text": "a woman who runs"},
        {"file": unicodedata.normalize("NFD", "Zoë/1.jpg"), "text": "a woman in a wood"},
        {"file": "anna/1.jpg", "text": "a woman on a bench"},
        {"file": "anna/9.jpg", "text": "gone"},
    )
    captions = captions_from_jsonl(path, FILES)
    texts = ("a woman on a bench", "a woman who runs", "a woman in a wood")
    assert captions.texts == dict(zip(FILES, texts, strict=True))
    assert captions.without_photo == ["anna/9.jpg"]


def test_an_empty_text_counts_only_where_there_is_no_other(tmp_path: Path):
    path = jsonl(
        tmp_path / "captions.jsonl",
        {"file": "anna/1.jpg", "text": " "},
        {"file": "anna/2.jpg", "text": ""},
        {"file": "anna/2.jpg", "text": "a woman"},
    )
    captions = captions_from_jsonl(path, FILES)
    assert captions.texts == {"anna/2.jpg": "a woman"}
    assert captions.problems == {"anna/1.jpg": "line 1 of captions.jsonl is empty"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 cannot be read"),
        ("[1]", "line 2 is no JSON object"),
        ('{"text": "a"}', "line 2 lacks a file or a text"),
        ('{"file": "anna/2.jpg", "text": null}', "line 2 lacks a file or a text"),
        ('{"file": "anna/1.jpg", "text": "a man"}', "line 2: anna/1.jpg already has another caption"),
    ],
)
def test_lines_that_cannot_be_used_are_errors(line: str, message: str, tmp_path: Path):
    path = jsonl(tmp_path / "captions.jsonl", {"file": "anna/1.jpg", "text": "a woman"}, line)
    with pytest.raises(ValueError, match=message) as caught:
        captions_from_jsonl(path, FILES)
    assert str(path) in str(caught.value)


def test_without_a_file_the_message_shows_a_line(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r'There is no caption file .*metadata\.jsonl.*"file": "anna/1\.jpg"'):
        captions_from_jsonl(tmp_path / "metadata.jsonl", FILES)


# Templates and names


def test_a_template_is_one_line():
    assert check_template(" a photo\n of a person ") == "a photo of a person"


@pytest.mark.parametrize(
    ("template", "message"),
    [("", "is empty"), (" \n", "is empty"), ("a photo of {name}", "has a field, {name}.*would carry the identity")],
)
def test_templates_that_are_refused(template: str, message: str):
    with pytest.raises(ValueError, match=message):
        check_template(template)


@pytest.mark.parametrize(
    ("caption", "name", "expected"),
    [
        ("a portrait of Grace Hopper, 1984", "Grace_Hopper", True),
        ("ZOË MÜLLER smiles", unicodedata.normalize("NFD", "Zoë-Müller"), True),
        ("a woman named Annabel", "anna", False),
        ("a photo of 2 people", "2", False),
        ("a photo of a person", "Grace_Hopper", False),
    ],
)
def test_captions_that_name_the_person(caption: str, name: str, expected: bool):
    assert names_person(caption, name) is expected


# BLIP


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP with random weights."""
    from ..support.blip import write_blip

    return write_blip(tmp_path_factory.mktemp("blip"))


def test_blip_describes_a_picture_and_reaches_for_no_network(
    blip: Path, photographs: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments, **named):
        raise AssertionError(f"a connection was attempted: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    captioner = BlipCaptioner(blip)
    captions = {name: captioner.caption(picture) for name, picture in photographs.items()}
    assert all(caption and "[" not in caption for caption in captions.values())
    assert len(set(captions.values())) > 1
    torch.manual_seed(1)
    assert captioner.caption(photographs["astronaut"]) == captions["astronaut"]


def test_folders_that_are_no_blip(blip: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"There is no BLIP model in .*nowhere.*Nothing is downloaded"):
        BlipCaptioner(tmp_path / "nowhere")

    other = Path(shutil.copytree(blip, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(ValueError, match="holds a model of type 'clip', not 'blip'"):
        BlipCaptioner(other)
    (other / "config.json").write_text("{")
    with pytest.raises(ValueError, match="names no model_type"):
        BlipCaptioner(other)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_blip_without_one_of_its_files_is_named(blip: Path, file: str, tmp_path: Path):
    incomplete = Path(shutil.copytree(blip, tmp_path / "incomplete"))
    (incomplete / file).unlink()
    with pytest.raises(ValueError, match=r"The BLIP model in .*incomplete (cannot be read|lacks)"):
        BlipCaptioner(incomplete)


def test_a_blip_without_some_of_its_weights_is_named(blip: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    incomplete = Path(shutil.copytree(blip, tmp_path / "incomplete"))
    weights = load_file(incomplete / "model.safetensors")
    del weights["vision_model.embeddings.class_embedding"]
    save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of its weights, such as vision_model\.embeddings\.class_embedding"):
        BlipCaptioner(incomplete)
