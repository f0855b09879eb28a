"""Embeds files: what is written is read bit for bit, and what is no such file, or no longer one, is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bolid.models import files
from bolid.models.checkpoint import read_metadata
from bolid.models.embeds_file import DIMENSIONS, FORMAT, read_embeds, write_embeds
from bolid.models.pooling import POOLING_METHODS, pool
from bolid.models.references import Embeds, PhotoReport, ReferenceReport, References

REPORT = (
    ReferenceReport(photo=1, status="kept", row=1, faces=2),
    ReferenceReport(photo=2, status="dropped", reason="no face found", faces=0),
    ReferenceReport(photo=3, status="kept", row=2, tile="1 of 2", box=(0, 0, 40, 40), faces=1),
    ReferenceReport(photo=3, status="kept", row=3, tile="2 of 2", box=(20, 0, 60, 40), faces=1),
)


def references(**changes: Any) -> References:
    """Three rows of two photos; values in all their bits, with the rare ones among them."""
    generator = torch.Generator().manual_seed(4)
    image_embeds = torch.randn(3, 12, generator=generator)
    image_embeds[0, :4] = torch.tensor([0.0, -0.0, 1e-45, torch.finfo(torch.float32).max])
    features: dict[str, Any] = {
        "image_embeds": image_embeds,
        "hidden_states": torch.randn(3, 5, 8, generator=generator),
        "zero_hidden_states": torch.randn(1, 5, 8, generator=generator),
        "face_embeds": torch.randn(3, 16, generator=generator),
        "has_face": torch.tensor([True, False, True]),
        "report": REPORT,
    }
    return References(**(features | changes))


def without_faces(**changes: Any) -> References:
    return references(face_embeds=None, has_face=None, **changes)


def assert_same(one: Embeds | References, other: Embeds | References) -> None:
    assert type(one) is type(other)
    for field in fields(one):
        value, expected = getattr(one, field.name), getattr(other, field.name)
        if isinstance(expected, torch.Tensor):
            assert value.dtype == expected.dtype and value.shape == expected.shape, field.name
            raw = [tensor.contiguous().view(torch.uint8) for tensor in (value, expected)]
            assert torch.equal(*raw), field.name
        else:
            assert value == expected, field.name


CONTENTS: dict[str, Callable[[], Embeds | References]] = {
    "references": references,
    "references without faces": without_faces,
    "faces alone": lambda: References(
        face_embeds=torch.randn(1, 512), has_face=torch.tensor([True]), report=REPORT[:2]
    ),
    "base layout": lambda: References(image_embeds=torch.randn(3, 1024), report=REPORT),
    "half precision": lambda: without_faces(image_embeds=torch.randn(3, 12).half()),
} | {method: lambda method=method: pool(without_faces(), method) for method in POOLING_METHODS}


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_written_is_read(content, tmp_path):
    features = CONTENTS[content]()
    config = write_embeds(tmp_path / "1.safetensors", features, person="Анна 安娜 \N{GRINNING FACE}")
    found = read_embeds(tmp_path / "1.safetensors")
    assert_same(found.features, features)
    assert found.config == config and config.person == "Анна 安娜 \N{GRINNING FACE}"
    assert config.kind == ("references" if isinstance(features, References) else "embeds")


def test_references_serve_as_embeds_and_embeds_as_references(tmp_path):
    path = tmp_path / "1.safetensors"
    write_embeds(path, references())
    found = read_embeds(path)
    assert found.references is found.features
    assert_same(found.embeds, pool(references(), "avg"))
    for method in POOLING_METHODS:
        given = pool(references(has_face=torch.ones(3, dtype=torch.bool)), method)
        write_embeds(path, given)
        found = read_embeds(path)
        assert found.embeds is found.features
        again = pool(found.references, "stack")
        for name in ("image_embeds", "hidden_states", "zero_hidden_states", "face_embeds"):
            assert torch.equal(getattr(again, name), getattr(given, name))
        assert len(found.references.report) == found.references.count == found.config.rows


def test_every_field_has_a_place_in_the_file():
    names = {field.name for kind in (Embeds, References) for field in fields(kind)}
    assert names == {*DIMENSIONS, "per_picture", "report"}


def test_the_description_is_for_people_and_programs(tmp_path):
    write_embeds(tmp_path / "1.safetensors", references(), person="Anna")
    metadata = read_metadata(tmp_path / "1.safetensors")
    assert metadata.keys() == {"bolid.embeds.format", "bolid.embeds.config"}
    assert metadata["bolid.embeds.format"] == str(FORMAT)
    config = json.loads(metadata["bolid.embeds.config"])
    photos = config.pop("photos")
    assert config == {
        "kind": "references",
        "person": "Anna",
        "rows": 3,
        "image_embed_dim": 12,
        "hidden_states": [5, 8],
        "face_embed_dim": 16,
        "per_picture": False,
    }
    assert [photo["photo"] for photo in photos] == [1, 2, 3, 3]
    assert photos[3] == {
        "photo": 3,
        "status": "kept",
        "reason": "",
        "row": 3,
        "tile": "2 of 2",
        "box": [20, 0, 60, 40],
        "faces": 1,
    }


def test_the_same_embeds_give_the_same_file(tmp_path):
    for name in ("1", "2"):
        write_embeds(tmp_path / f"{name}.safetensors", references(), person="Anna")
    one, other = (tmp_path / f"{name}.safetensors" for name in ("1", "2"))
    assert read_metadata(one) == read_metadata(other)
    assert all(torch.equal(load_file(one)[name], load_file(other)[name]) for name in load_file(one))


def test_views_and_gradients_can_be_written(tmp_path):
    shared = torch.randn(2, 6, 8, requires_grad=True)
    features = Embeds(hidden_states=shared[:, 1:], zero_hidden_states=shared[:1, 1:], image_embeds=shared[:, 0])
    write_embeds(tmp_path / "1.safetensors", features)
    found = read_embeds(tmp_path / "1.safetensors").features
    assert torch.equal(found.hidden_states, shared[:, 1:]) and torch.equal(found.image_embeds, shared[:, 0])
    assert not found.hidden_states.requires_grad


def test_a_report_of_plain_entries_is_kept(tmp_path):
    entry = PhotoReport(photo=1, status="kept", reason="as it was")
    write_embeds(tmp_path / "1.safetensors", replace(references(), report=(entry,) * 3))
    (first, *_) = read_embeds(tmp_path / "1.safetensors").features.report
    assert (first.photo, first.status, first.reason) == (1, "kept", "as it was")


def test_what_was_read_outlives_the_file(tmp_path):
    path = tmp_path / "1.safetensors"
    write_embeds(path, references())
    found = read_embeds(path).features
    path.write_bytes(b"")
    assert_same(found, references())


def test_an_existing_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "1.safetensors"
    write_embeds(path, references(), person="before")

    def fail(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            write_embeds(path, without_faces(), person="after")
    assert read_embeds(path).config.person == "before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "features", [References(), Embeds(zero_hidden_states=torch.zeros(1, 5, 8)), Embeds(image_embeds=torch.zeros(0, 4))]
)
def test_nothing_is_not_written(features, tmp_path):
    with pytest.raises(ValueError, match="^There is nothing to save"):
        write_embeds(tmp_path / "1.safetensors", features)
    assert not list(tmp_path.iterdir())


# Other files


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff" * 100])
def test_what_is_no_safetensors_file(content, tmp_path):
    path = tmp_path / "1.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^1\.safetensors is not a readable safetensors file"):
        read_embeds(path)


@pytest.mark.parametrize("keep", [4, 200, -1, -40])
def test_a_truncated_file(keep, tmp_path):
    path = tmp_path / "1.safetensors"
    write_embeds(path, references())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="incomplete download"):
        read_embeds(path)


class Harmful:
    ran = False

    def __reduce__(self):
        return (setattr, (Harmful, "ran", True))


@pytest.mark.parametrize("name", ["1.ipadpt", "1.pt", "1.bin", "1"])
def test_pickles_are_never_opened(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="is no safetensors file.*pickles"):
        read_embeds(tmp_path / name)
    (tmp_path / "2.safetensors").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        read_embeds(tmp_path / "2.safetensors")
    assert not Harmful.ran


@pytest.mark.parametrize("metadata", [None, {}, {"bolid.format": "1"}, {"format": "pt"}])
def test_safetensors_of_another_kind(metadata, tmp_path):
    save_file({"image_embeds": torch.zeros(1, 4)}, tmp_path / "1.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"is no embeds file of BoLID \(tensors image_embeds\).*BoLIDSaveEmbeds"):
        read_embeds(tmp_path / "1.safetensors")


def changed(path: Path, *, tensors: dict[str, torch.Tensor | None] | None = None, **config: Any) -> Path:
    """A file of `references`, with other tensors or another description."""
    write_embeds(path, references())
    metadata = read_metadata(path)
    description = json.loads(metadata["bolid.embeds.config"]) | config
    metadata["bolid.embeds.config"] = json.dumps(
        {name: value for name, value in description.items() if value is not ...}
    )
    loaded = {name: tensor.clone() for name, tensor in load_file(path).items()} | (tensors or {})
    save_file({name: tensor for name, tensor in loaded.items() if tensor is not None}, path, metadata=metadata)
    return path


def test_the_helper_itself_changes_nothing_by_itself(tmp_path):
    assert_same(read_embeds(changed(tmp_path / "1.safetensors")).features, references())


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"image_embeds": torch.zeros(2, 12)}, "rows are"),
        ({"image_embeds": torch.zeros(3, 13)}, "image_embed_dim is 13, described is 12"),
        ({"image_embeds": torch.zeros(3, 12, dtype=torch.int32)}, r"image_embeds is torch\.int32"),
        ({"image_embeds": torch.zeros(3, 1, 12)}, r"image_embeds is torch\.float32 \[3, 1, 12\]"),
        ({"image_embeds": None}, "image_embed_dim is None, described is 12"),
        ({"hidden_states": torch.zeros(3, 6, 8)}, r"hidden_states is \(6, 8\)"),
        ({"zero_hidden_states": torch.zeros(2, 5, 8)}, "zero_hidden_states is"),
        ({"zero_hidden_states": torch.zeros(1, 4, 8)}, "zero_hidden_states is"),
        ({"has_face": torch.ones(3)}, r"has_face is torch\.float32"),
        ({"has_face": None}, "go together"),
        ({"token_weights": torch.ones(3)}, "references have no token_weights"),
        ({"image_proj.weight": torch.ones(3)}, "references have no image_proj.weight"),
        (dict.fromkeys(("image_embeds", "hidden_states", "face_embeds")), "there are no features"),
    ],
)
def test_tensors_that_do_not_fit(tensors, problem, tmp_path):
    path = changed(tmp_path / "1.safetensors", tensors=tensors)
    with pytest.raises(ValueError, match=f"^1.safetensors is an embeds file of BoLID, but its tensors.*{problem}"):
        read_embeds(path)


@pytest.mark.parametrize(
    ("config", "problem"),
    [({"kind": "embeds"}, "embeds have no has_face"), ({"rows": 4}, "described are 4"), ({"photos": []}, "keeps 0")],
)
def test_a_description_that_does_not_fit(config, problem, tmp_path):
    with pytest.raises(ValueError, match=f"do not fit its description.*{problem}"):
        read_embeds(changed(tmp_path / "1.safetensors", **config))


@pytest.mark.parametrize(
    "config",
    [{"kind": "latent"}, {"rows": "3"}, {"rows": ...}, {"more": 1}, {"photos": [{"photo": 1}]}, {"hidden_states": [5]}],
)
def test_a_damaged_description(config, tmp_path):
    with pytest.raises(ValueError, match=r"^1\.safetensors is a BoLID embeds file, but its description of itself"):
        read_embeds(changed(tmp_path / "1.safetensors", **config))


@pytest.mark.parametrize(("version", "message"), [("2", "newer version of BoLID"), ("one", "no version number")])
def test_another_format(version, message, tmp_path):
    path = changed(tmp_path / "1.safetensors")
    metadata, tensors = read_metadata(path), {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata=metadata | {"bolid.embeds.format": version})
    with pytest.raises(ValueError, match=message):
        read_embeds(path)


def test_no_byte_of_the_header_crashes_the_reader(tmp_path):
    """Every failure is a ValueError that names the file."""
    path = tmp_path / "1.safetensors"
    write_embeds(path, references())
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for position in range(0, end, 7):
        damaged = bytearray(content)
        damaged[position] ^= 0x15
        path.write_bytes(damaged)
        try:
            read_embeds(path)
        except ValueError as error:
            assert "1.safetensors" in str(error)
            refused += 1
    assert refused > 50
