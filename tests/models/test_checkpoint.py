"""Adapter files: every public layout in every container, damaged files, and files that are something else."""

from __future__ import annotations

import io
import random as python_random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bolid.models.adapter import AdapterLayout
from bolid.models.checkpoint import adapter_from_state_dict, detect_layout, faceid_lora, read_state_dict

from ..support.adapter_files import (
    LAYOUTS,
    SD15_LAYERS,
    SDXL_LAYERS,
    adapter_state_dict,
    nested,
    write_bin,
    write_malicious_bin,
    write_safetensors,
    write_truncated,
)
from ..support.scenes import ENCODER_WIDTH, FACE_WIDTH, state_dict_of

UNET_LAYERS = {768: SD15_LAYERS, 2048: SDXL_LAYERS}
WRITERS = {".safetensors": write_safetensors, ".bin": write_bin}

# The small SDXL text width does not split into heads of 64, as FaceID-plus needs it.
SMALL_CASES = [
    (layout, family) for layout in LAYOUTS for family in ("sd15", "sdxl") if (layout, family) != ("faceid_plus", "sdxl")
]

PUBLIC = [
    # layout, text width, what the file says (compatibility.md)
    ("base", 768, {"kind": "base", "num_tokens": 4, "image_embed_dim": 1024}),
    ("base", 2048, {"kind": "base", "num_tokens": 4, "image_embed_dim": 1024}),
    ("base_bigg", 2048, {"kind": "base", "num_tokens": 4, "image_embed_dim": 1280}),
    ("plus", 768, {"kind": "plus", "num_tokens": 16, "hidden_size": 1280, "inner_dim": 768, "depth": 4}),
    ("plus", 2048, {"kind": "plus", "num_tokens": 16, "hidden_size": 1280, "inner_dim": 1280, "depth": 4}),
    ("full_face", 768, {"kind": "full_face", "num_tokens": None, "hidden_size": 1280, "inner_dim": 1280}),
    ("faceid", 768, {"kind": "faceid", "num_tokens": 4, "face_embed_dim": 512, "inner_dim": 1024}),
    ("faceid", 2048, {"kind": "faceid", "num_tokens": 4, "face_embed_dim": 512, "inner_dim": 1024}),
    ("faceid_portrait", 768, {"kind": "faceid", "num_tokens": 16, "face_embed_dim": 512, "inner_dim": 1024}),
    *(
        (
            "faceid_plus",
            width,
            {
                "kind": "faceid_plus",
                "num_tokens": 4,
                "face_embed_dim": 512,
                "inner_dim": 1024,
                "hidden_size": 1280,
                "depth": 4,
            },
        )
        for width in (768, 2048)
    ),
]


@pytest.fixture
def public_state_dict(monkeypatch):
    """A state dict of the real size on the meta device: names and shapes without the 1.4 GB of SDXL's weights."""

    def build(layout: str, cross_attention_dim: int) -> dict[str, torch.Tensor]:
        layers = [(layer.key, layer.hidden_size) for layer in UNET_LAYERS[cross_attention_dim]]
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randn", lambda shape, generator: torch.empty(shape, device="meta"))
            return adapter_state_dict(layout, layers=layers, cross_attention_dim=cross_attention_dim)

    return build


def small(layout: str = "base", **changes) -> dict[str, torch.Tensor]:
    return dict(state_dict_of(layout, "sd15")) | changes


def without(state_dict: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    assert set(names) <= set(state_dict)
    return {name: tensor for name, tensor in state_dict.items() if name not in names}


def refused(path: Path) -> str:
    """The one message of a file that cannot be an adapter; it names the file and not its folder."""
    with pytest.raises(ValueError) as caught:
        adapter_from_state_dict(read_state_dict(path), name=path.name)
    message = str(caught.value)
    assert message.startswith(path.name) and str(path.parent) not in message
    assert len(message) < 900
    return message


# Layouts


@pytest.mark.parametrize(("layout", "cross_attention_dim", "expected"), PUBLIC)
def test_public_files_are_recognised(layout, cross_attention_dim, expected, public_state_dict):
    state_dict = public_state_dict(layout, cross_attention_dim)
    layers = {layer.key: layer.hidden_size for layer in UNET_LAYERS[cross_attention_dim]}
    expected = AdapterLayout(cross_attention_dim=cross_attention_dim, layers=layers, **expected)
    # The order of the keys in a file means nothing.
    for given in (state_dict, dict(reversed(state_dict.items()))):
        assert detect_layout(given, name="any name") == expected
        assert list(detect_layout(given, name="any name").layers) == sorted(layers)
    adapter = adapter_from_state_dict(state_dict, name="any name")
    assert adapter.layout == expected
    assert len(adapter.ip_adapter) == len(layers) == (16 if cross_attention_dim == 768 else 70)
    weights = {name for name in state_dict if "_lora." not in name}
    assert set(adapter.state_dict()) == weights


@pytest.mark.parametrize("prefix", ["ip_adapter.", "adapter_modules."])
@pytest.mark.parametrize("extension", WRITERS)
@pytest.mark.parametrize(("layout", "family"), SMALL_CASES)
def test_every_layout_in_every_container(layout, family, extension, prefix, tmp_path):
    state_dict = state_dict_of(layout, family)
    renamed = {name.replace("ip_adapter.", prefix): tensor for name, tensor in state_dict.items()}
    if extension == ".bin" and prefix != "ip_adapter.":
        path = tmp_path / f"any{extension}"
        parts = nested(state_dict)
        torch.save({"image_proj": parts["image_proj"], "adapter_modules": parts["ip_adapter"]}, path)
    else:
        path = WRITERS[extension](tmp_path / f"any{extension}", renamed)
    read = read_state_dict(path)
    assert set(read) == set(state_dict)
    assert all(torch.equal(read[name], tensor) for name, tensor in state_dict.items())
    adapter = adapter_from_state_dict(read, name=path.name)
    assert adapter.layout == detect_layout(state_dict, name="")
    assert adapter.layout.kind == {"base_bigg": "base", "faceid_portrait": "faceid"}.get(layout, layout)
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, state_dict[name]), name
    assert not adapter.training and not any(parameter.requires_grad for parameter in adapter.parameters())


def test_sizes_come_from_the_tensors():
    layout = detect_layout(state_dict_of("plus", "sd15"), name="")
    assert (layout.hidden_size, layout.inner_dim) == (ENCODER_WIDTH, 128)
    layout = detect_layout(state_dict_of("faceid", "sd15"), name="")
    assert (layout.face_embed_dim, layout.inner_dim) == (FACE_WIDTH, 2 * FACE_WIDTH)
    shallow = {name: tensor for name, tensor in small("plus").items() if "layers.3." not in name}
    assert adapter_from_state_dict(shallow, name="").layout.depth == 3


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a.sft", "a.pt", "a.PTH", "a.ckpt"])
def test_other_endings(name, tmp_path):
    state_dict = small()
    path = tmp_path / name
    if path.suffix.lower() in (".safetensors", ".sft"):
        save_file(state_dict, path)
    else:
        torch.save(nested(state_dict), path)
    assert set(read_state_dict(path)) == set(state_dict)


def test_the_pickle_format_of_old_and_flat_pickles(tmp_path):
    state_dict = small()
    torch.save(nested(state_dict), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(state_dict, tmp_path / "flat.bin")
    for name in ("old.bin", "flat.bin"):
        assert set(read_state_dict(tmp_path / name)) == set(state_dict)
        adapter_from_state_dict(read_state_dict(tmp_path / name), name=name)


# What loading costs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("extension", WRITERS)
def test_the_precision_of_the_file_is_kept(extension, dtype, tmp_path):
    state_dict = {name: tensor.to(dtype) for name, tensor in small("faceid_plus").items()}
    path = WRITERS[extension](tmp_path / f"half{extension}", state_dict)
    read = read_state_dict(path)
    adapter = adapter_from_state_dict(read, name=path.name)
    assert {parameter.dtype for parameter in adapter.parameters()} == {dtype}
    assert {tensor.dtype for pair in faceid_lora(read).values() for tensor in pair} == {dtype}


def test_tensors_are_assigned_and_not_copied(tmp_path):
    read = read_state_dict(write_safetensors(tmp_path / "a.safetensors", small("plus")))
    adapter = adapter_from_state_dict(read, name="a")
    assert all(tensor.data_ptr() == read[name].data_ptr() for name, tensor in adapter.state_dict().items())
    assert all(tensor.device.type == "cpu" for tensor in adapter.state_dict().values())


def resident_bytes() -> int:
    """Memory of this process that is not backed by a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.parametrize("extension", WRITERS)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process what memory it uses")
def test_weights_stay_in_the_file_until_they_are_used(extension, tmp_path):
    wide = adapter_state_dict("base", layers=[], cross_attention_dim=768)
    wide |= {f"ip_adapter.1.to_{part}_ip.weight": torch.zeros(40_000, 768) for part in "kv"}
    path = WRITERS[extension](tmp_path / f"wide{extension}", wide)
    size = path.stat().st_size
    del wide
    assert size > 240e6
    before = resident_bytes()
    adapter = adapter_from_state_dict(read_state_dict(path), name=path.name)
    assert resident_bytes() - before < 0.1 * size
    assert adapter.ip_adapter["1"].to_k_ip.weight.shape == (40_000, 768)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loading_draws_no_random_numbers(layout, tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", state_dict_of(layout, "sd15"))
    before = torch.get_rng_state(), python_random.getstate(), np.random.get_state()[1].copy()
    adapter_from_state_dict(read_state_dict(path), name="a")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert python_random.getstate() == before[1] and np.array_equal(np.random.get_state()[1], before[2])


# Damaged files


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("extension", WRITERS)
def test_truncated_files(extension, keep, tmp_path):
    path = write_truncated(tmp_path / f"half{extension}", small("faceid_plus"), keep=keep)
    message = refused(path)
    assert "incomplete download" in message or "refused" in message
    if "incomplete" in message:
        assert f"{path.stat().st_size:,} bytes" in message


@pytest.mark.parametrize("extension", WRITERS)
@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>\n", b"\xff\xfe\x00text\x80" * 50, b"PK\x03\x04nothing"]
)
def test_files_that_are_no_container(content, extension, tmp_path):
    path = tmp_path / f"thing{extension}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_any_damage_has_one_message(old_format, tmp_path):
    """Bytes changed at random: either the file still loads, or it is refused by name."""
    generator = python_random.Random(0)
    buffer = io.BytesIO()
    torch.save(nested(small("faceid")), buffer, _use_new_zipfile_serialization=not old_format)
    path = tmp_path / "a.bin"
    outcomes = set()
    for attempt in range(150):
        content = bytearray(buffer.getvalue())
        limit = 3000 if attempt % 2 else len(content)
        for _ in range(generator.randrange(1, 8)):
            content[generator.randrange(limit)] = generator.randrange(256)
        path.write_bytes(content)
        try:
            adapter_from_state_dict(read_state_dict(path), name=path.name)
            outcomes.add("loaded")
        except ValueError as error:
            assert str(error).startswith("a.bin ")
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path):
    path = tmp_path / "nice.bin"
    marker = write_malicious_bin(path)
    message = refused(path)
    assert "could run code" in message and ".safetensors" in message
    assert not marker.exists()
    path.rename(tmp_path / "nice.safetensors")
    refused(tmp_path / "nice.safetensors")
    assert not marker.exists()


def test_a_missing_file():
    with pytest.raises(FileNotFoundError):
        read_state_dict("no such file.safetensors")
    with pytest.raises(FileNotFoundError):
        read_state_dict("no such file.bin")


KEY = "ip_adapter.1.to_k_ip.weight"


@pytest.mark.parametrize(
    ("layout", "change", "expected"),
    [
        ("base", lambda given: without(given, "image_proj.norm.bias"), "image_proj.norm.bias"),
        ("base", lambda given: without(given, KEY), KEY),
        ("plus", lambda given: without(given, "image_proj.layers.2.0.to_q.weight"), "layers.2.0.to_q.weight"),
        ("base", lambda given: given | {"image_proj.extra.weight": torch.zeros(2)}, "image_proj.extra.weight"),
        ("base", lambda given: given | {"aggregator.weight": torch.zeros(2)}, "aggregator.weight"),
        ("base", lambda given: given | {KEY: given[KEY][:, :-1]}, "to_._ip.weight"),
        ("base", lambda given: given | {KEY: given[KEY][:-1]}, "to_._ip.weight"),
        ("base", lambda given: given | {KEY: given[KEY].flatten()}, KEY),
        ("base", lambda given: given | {"image_proj.norm.bias": torch.zeros(3)}, "image_proj.norm.bias"),
        ("faceid", lambda given: given | {"image_proj.proj.0.bias": torch.zeros(3)}, "image_proj.proj.0.bias"),
    ],
)
def test_missing_unexpected_and_misshapen_tensors(layout, change, expected, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(small(layout)).items()}, path)
    message = refused(path)
    assert "its tensors do not fit" in message
    with pytest.raises(ValueError, match=expected):
        adapter_from_state_dict(read_state_dict(path), name=path.name)


@pytest.mark.parametrize(
    "change",
    [
        lambda given: given | {KEY: given[KEY][:, :-1]},
        lambda given: given | {"image_proj.proj.weight": given["image_proj.proj.weight"][:-5]},
        lambda given: given | {f"{KEY.removesuffix('weight')}bias": torch.zeros(len(given[KEY]))},
    ],
)
def test_tensors_of_other_shapes_where_comfyui_loads_weights_bit_by_bit(change, monkeypatch):
    """DynamicVRAM: its layers have no shapes of their own."""
    import comfy.memory_management
    import comfy.ops

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    with pytest.raises(ValueError, match="its tensors do not fit"):
        adapter_from_state_dict(change(small("base")), name="odd", operations=comfy.ops.manual_cast)
    assert adapter_from_state_dict(small("base"), name="even", operations=comfy.ops.manual_cast)


@pytest.mark.parametrize("part", ["k", "v"])
def test_one_message_stays_short_where_every_layer_is_wrong(part):
    state_dict = {name: tensor for name, tensor in state_dict_of("base", "sdxl").items() if f"to_{part}_ip" not in name}
    with pytest.raises(ValueError, match="Missing key") as caught:
        adapter_from_state_dict(state_dict, name="halved")
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("layout", "name", "tensor"),
    [
        ("plus", "image_proj.latents", torch.zeros(16, 8)),
        ("plus", "image_proj.proj_in.weight", torch.zeros(8)),
        ("faceid", "image_proj.norm.weight", torch.zeros(0)),
        ("faceid", "image_proj.proj.0.weight", torch.zeros(8)),
        ("base", "image_proj.proj.weight", torch.zeros(())),
    ],
)
def test_tensors_of_the_wrong_rank(layout, name, tensor):
    with pytest.raises(ValueError, match="^odd.bin has an image projection that BoLID does not know.*FaceID-plus"):
        adapter_from_state_dict(small(layout, **{name: tensor}), name="odd.bin")


def test_an_unknown_projection():
    state_dict = {name: tensor for name, tensor in small().items() if name.startswith("ip_adapter")}
    with pytest.raises(ValueError, match="^new.bin has an image projection that BoLID does not know .tensors mapper"):
        adapter_from_state_dict(state_dict | {"image_proj.mapper.weight": torch.zeros(2, 2)}, name="new.bin")


# Files of another kind


@pytest.mark.parametrize(
    ("names", "belongs"),
    [
        (("lora_unet_down_blocks_0_attn1_to_q.lora_down.weight",), "a LoRA, which belongs in models/loras"),
        (("unet.down_blocks.0.attn1.processor.to_q_lora.up.weight",), "it looks like a LoRA"),
        (
            ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"),
            "it looks like a full checkpoint, which belongs in models/checkpoints",
        ),
        (
            ("vision_model.embeddings.class_embedding", "visual_projection.weight"),
            "it looks like an image encoder, which belongs in models/clip_vision",
        ),
        (("something.weight",), "its tensors are named something.weight"),
        (("image_proj.proj.weight",), "its tensors are named image_proj.proj.weight"),
        ((), "its tensors are named nothing at all"),
    ],
)
@pytest.mark.parametrize("extension", WRITERS)
def test_a_file_of_another_kind(names, belongs, extension, tmp_path):
    path = tmp_path / f"other{extension}"
    tensors = {name: torch.zeros(2, 2) for name in names}
    save_file(tensors, path) if extension == ".safetensors" else torch.save(tensors, path)
    message = refused(path)
    assert "is not an IP-Adapter or BoLID adapter file" in message and belongs in message


@pytest.mark.parametrize(
    "content", [[1, 2], "text", torch.zeros(3), {0: torch.zeros(3)}, {"a": 1}, {"a": {"b": "c"}}, None]
)
def test_a_pickle_of_something_else(content, tmp_path):
    torch.save(content, tmp_path / "thing.bin")
    assert "is not an IP-Adapter or BoLID adapter file" in refused(tmp_path / "thing.bin")


# The LoRA of FaceID files


@pytest.mark.parametrize(("layout", "family"), [("faceid", "sd15"), ("faceid", "sdxl"), ("faceid_plus", "sd15")])
def test_the_lora_is_complete(layout, family):
    state_dict = state_dict_of(layout, family)
    lora = faceid_lora(state_dict)
    indices = {int(name.split(".")[1]) for name in state_dict if name.startswith("ip_adapter.")}
    assert indices == set(range(2 * (16 if family == "sd15" else 70)))
    assert set(lora) == {(index, projection) for index in indices for projection in ("q", "k", "v", "out")}
    for (index, projection), (down, up) in lora.items():
        assert down is state_dict[f"ip_adapter.{index}.to_{projection}_lora.down.weight"]
        assert up is state_dict[f"ip_adapter.{index}.to_{projection}_lora.up.weight"]
        assert down.shape[0] == up.shape[1] == 4
    assert 2 * len(lora) == sum("_lora." in name for name in state_dict)


@pytest.mark.parametrize("layout", ["base", "plus", "full_face", "faceid_portrait"])
def test_files_without_a_lora(layout):
    assert faceid_lora(state_dict_of(layout, "sd15")) == {}


LORA = "ip_adapter.2.to_out_lora"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda given: without(given, f"{LORA}.up.weight"), f"{LORA}.down.weight has no counterpart"),
        (lambda given: without(given, f"{LORA}.down.weight"), f"{LORA}.up.weight has no counterpart"),
        (lambda given: given | {f"{LORA}.up.weight": torch.zeros(32, 3)}, "does not fit its counterpart"),
        (lambda given: given | {f"{LORA}.down.weight": torch.zeros(4)}, "does not fit its counterpart"),
        (
            lambda given: given | {name.replace("r.2.", "r.90."): given[name] for name in given if LORA in name},
            "belongs to a layer that the file has no K', V' for",
        ),
    ],
)
def test_a_damaged_lora_is_found_when_the_file_is_read(change, problem):
    with pytest.raises(ValueError, match="^face.bin has a damaged LoRA: ip_adapter") as caught:
        adapter_from_state_dict(change(small("faceid")), name="face.bin")
    assert problem in str(caught.value)
