"""The table of public files, and finding a file in it by whatever name a graph has for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bolid.catalogue.folders import PACKS, PLACES
from bolid.catalogue.public_files import IMAGE_ENCODERS, PUBLIC_FILES, PublicFile, named, probable, readable_size

ROOT = Path(__file__).resolve().parents[2]


def test_names_are_unique_and_lead_back():
    names = [name.lower() for file in PUBLIC_FILES for name in {file.name, file.file}]
    assert len(set(names)) == len(names)
    for file in PUBLIC_FILES:
        assert named(file.name) is file and named(file.file.upper()) is file
        assert probable(file.file, file.kind) is file


@pytest.mark.parametrize("file", PUBLIC_FILES, ids=lambda file: file.name)
def test_an_entry_can_be_true(file: PublicFile):
    assert file.source.startswith("https://") and bool(file.url) != bool(file.repository)
    if file.repository:
        assert re.fullmatch(r"[0-9a-f]{40}", file.revision) and file.path
    for checksum in (file.sha256, *(member.sha256 for member in file.members)):
        assert checksum is None or re.fullmatch(r"[0-9a-f]{64}", checksum)
    assert file.size is None or file.size > 10**6
    if file.members:
        # The archives are compressed a little.
        assert 0.5 < file.size / sum(member.size for member in file.members) < 1
        assert sum(member.is_needed for member in file.members) == 2
    if file.kind == "insightface pack":
        assert file.folder == PACKS and file.members
    else:
        kind, endings = PLACES[file.folder]
        assert kind == file.kind and file.file.endswith(endings)
    assert all(named(name) is not None for name in file.needs)


def test_checksums_are_those_of_different_files():
    checksums = [file.sha256 for file in PUBLIC_FILES if file.sha256]
    assert len(set(checksums)) == len(checksums)


def test_encoders_are_public_files():
    assert [file.name for file in PUBLIC_FILES if file.kind == "image encoder"] == [
        "clip-vit-h",
        "clip-vit-bigg",
        "clip-vit-l",
    ]
    assert {encoder.name for encoder in IMAGE_ENCODERS} == {"clip-vit-h", "clip-vit-bigg", "clip-vit-l"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SD1.5\\IPAdapter_plus_sd15.bin", "ip-adapter-plus_sd15"),
        ("sd15/ip-adapter_sd15_plus.pth", "ip-adapter-plus_sd15"),
        ("ip-adapter-plus_sd15 (1).safetensors", "ip-adapter-plus_sd15"),
        ("full_face_sd15.safetensors", "ip-adapter-full-face_sd15"),
        ("ip-adapter_sd15.bin", "ip-adapter_sd15"),
        ("ip-adapter-faceid-plusv2_sdxl.safetensors", "ip-adapter-faceid-plusv2_sdxl"),
        ("bolid_sd15.safetensors", None),
        ("ip-adapter-faceid-portrait_sdxl_unnorm.bin", None),
        ("CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors", None),
        ("", None),
    ],
)
def test_an_adapter_by_another_name(name: str, expected: str | None):
    found = probable(name, "adapter")
    assert (found.name if found else None) == expected


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "size not known"), (999, "999 bytes"), (44_642_768, "44.6 MB"), (2_528_373_448, "2.53 GB")],
)
def test_sizes_are_readable(size: int | None, text: str):
    assert readable_size(size) == text


def test_the_page_lists_every_file():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = {
        cells[0].strip("` "): cells
        for line in page.splitlines()
        if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6
    }
    assert set(rows) == {file.name for file in PUBLIC_FILES}
    for file in PUBLIC_FILES:
        _, what, size, folder, needs, licence = rows[file.name]
        assert what == file.what and folder == f"`{file.folder}`"
        assert size == ("" if file.size is None else readable_size(file.size))
        assert needs == ", ".join(f"`{name}`" for name in file.needs) and licence == file.licence
