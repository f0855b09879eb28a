"""The adapter file: what is written is read, what does not belong there is refused, and other loaders read the rest."""

from __future__ import annotations

import copy
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import comfy.ops
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from bolid.models.adapter import Adapter, BodyLayout
from bolid.models.adapter_file import FORMAT, AdapterConfig, read_adapter, write_adapter
from bolid.models.build import build_adapter
from bolid.models.checkpoint import detect_layout, faceid_lora, read_metadata

from ..support.adapter_files import LAYOUTS, adapter_state_dict, write_bin, write_safetensors
from ..support.scenes import LATENT_SHAPE, bolid_adapter, features, random, state_dict_of, unet_of
from ..support.small_models import diffusers_with_ip_adapter

PARTS = {"plain": (0, False), "aggregator": (2, False), "body": (0, True), "both": (1, True)}
LAYERS = [(1, 32), (3, 64)]
BODY = BodyLayout(hidden_size=48, dim=64, depth=1, resampler_depth=1, num_tokens=6)
DESCRIPTION = {"base_model": "sd15", "image_encoder": "CLIP ViT-H/14"}


def public(layout: str, **changes: Any) -> dict[str, torch.Tensor]:
    """The tensors of a small public file."""
    sizes = {"layers": LAYERS, "cross_attention_dim": 64, "image_encoder_width": 32, "resampler_width": 64}
    return adapter_state_dict(layout, **{**sizes, "face_embeds_width": 24, "lora_rank": 4, "seed": 2, **changes})


def adapter_of(layout: str = "base", parts: str = "both", *, seed: int = 1) -> Adapter:
    """A small adapter of which no two tensors are equal."""
    aggregator_depth, has_body = PARTS[parts]
    face = detect_layout(public(layout), name=layout)
    sizes = replace(face, aggregator_depth=aggregator_depth, body=BODY if has_body else None)
    generator = torch.Generator().manual_seed(seed)
    adapter = build_adapter(sizes)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapter


def write(path: Path, adapter: Adapter | None = None, **changes: Any) -> Path:
    write_adapter(path, adapter or adapter_of(), **{**DESCRIPTION, **changes})
    return path


def assert_same_weights(actual: Adapter, expected: Adapter) -> None:
    one, other = actual.state_dict(), expected.state_dict()
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


def rewritten(path: Path, *, tensors: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> Path:
    """The file with other tensors or metadata; None removes an entry ("bolid_config" is `bolid.config`)."""
    changed = read_metadata(path) | {name.replace("_", ".", 1): value for name, value in metadata.items()}
    tensors = load_file(path) if tensors is None else tensors
    # A copy: the tensors are mapped from the file that is about to be replaced.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={name: value for name, value in changed.items() if value is not None})
    return path


def with_config(path: Path, change: Any) -> Path:
    """`change` is called with the description as it is read from JSON."""
    config = json.loads(read_metadata(path)["bolid.config"])
    return rewritten(path, bolid_config=json.dumps(change(config) or config))


def refused(path: Path, expected: str = "") -> str:
    """The one message of a file that cannot be read; it names the file and not its folder."""
    with pytest.raises(ValueError) as caught:
        read_adapter(path)
    message = str(caught.value)
    assert message.startswith(path.name) and str(path.parent) not in message
    assert len(message) < 900 and "\n" not in message
    assert expected in message
    return message


# What is written is read


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read(layout, parts, tmp_path):
    adapter = adapter_of(layout, parts)
    file = read_adapter(write(tmp_path / "adapter.safetensors", adapter, training={"steps": 7, "people": [1, 2]}))
    assert_same_weights(file.adapter, adapter)
    assert file.adapter.layout == adapter.layout
    assert file.config == AdapterConfig(**DESCRIPTION, layout=adapter.layout, training={"steps": 7, "people": [1, 2]})
    assert file.lora == {}
    assert not file.adapter.training
    assert not any(parameter.requires_grad for parameter in file.adapter.parameters())
    assert all(type(index) is int for index in file.config.layout.layers)


@pytest.mark.parametrize("shortcut", [True, False])
def test_the_file_says_which_version_of_faceid_plus_it_is(shortcut, tmp_path):
    adapter = adapter_of("faceid_plus")
    adapter = build_adapter(replace(adapter.layout, shortcut=shortcut))
    path = write(tmp_path / "adapter.safetensors", adapter)
    for argument in (True, False):
        read = read_adapter(path, faceid_plus_shortcut=argument).adapter
        assert read.layout.shortcut == read.image_proj.shortcut == shortcut


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_precisions_are_kept(dtype, tmp_path):
    adapter = adapter_of()
    adapter.body_encoder.to(dtype)
    adapter.ip_adapter.to(dtype)
    file = read_adapter(write(tmp_path / "adapter.safetensors", adapter))
    assert_same_weights(file.adapter, adapter)
    assert {tensor.dtype for tensor in file.adapter.state_dict().values()} == {dtype, torch.float32}


def test_the_tensors_have_the_public_names(tmp_path):
    tensors = load_file(write(tmp_path / "adapter.safetensors", adapter_of("faceid_plus")))
    face = {name for name in public("faceid_plus") if "_lora." not in name}
    rest = set(tensors) - face
    assert face < set(tensors)
    assert {name.split(".")[0] for name in rest} == {"aggregator", "body_encoder", "body_adapter"}
    assert {name.split(".")[1] for name in rest if name.startswith("aggregator.")} == {"face_embeds", "hidden_states"}
    assert {name for name in rest if name.startswith("body_adapter.")} == {
        f"body_adapter.{index}.to_{part}.weight" for index, _ in LAYERS for part in "kv"
    }


def test_the_metadata_is_this_and_nothing_else(tmp_path):
    adapter = adapter_of("plus")
    path = write(tmp_path / "adapter.safetensors", adapter, training={"steps": 7})
    metadata = read_metadata(path)
    config = json.loads(metadata.pop("bolid.config"))
    assert metadata == {
        "bolid.format": "1",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/bolid-adapter",
        "modelspec.implementation": "bolid",
        "modelspec.title": "BoLID adapter",
    }
    layout = asdict(adapter.layout) | {"layers": {str(index): size for index, size in LAYERS}}
    assert config == DESCRIPTION | {"layout": layout, "training": {"steps": 7}}
    assert FORMAT == 1


def test_the_same_weights_give_the_same_file(tmp_path):
    (tmp_path / "other folder").mkdir()
    one = write(tmp_path / "one.safetensors", adapter_of())
    other = write(tmp_path / "other folder" / "other name.safetensors", adapter_of())
    os.utime(other, (1, 1))
    assert read_metadata(one) == read_metadata(other)
    first, second = load_file(one), load_file(other)
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert one.stat().st_size == other.stat().st_size


def test_a_file_that_was_read_is_written_again(tmp_path):
    path, again = write(tmp_path / "adapter.safetensors"), tmp_path / "again.safetensors"
    file = read_adapter(path)
    write_adapter(
        again,
        file.adapter,
        base_model=file.config.base_model,
        image_encoder=file.config.image_encoder,
        training=file.config.training,
    )
    assert read_metadata(again) == read_metadata(path)
    assert_same_weights(read_adapter(again).adapter, adapter_of())


def test_a_file_is_replaced_while_it_is_in_use(tmp_path):
    """The weights of an adapter that was read are mapped from the file."""
    path = write(tmp_path / "adapter.safetensors")
    adapter = read_adapter(path).adapter
    write(path, adapter, training={"steps": 1})
    assert_same_weights(adapter, adapter_of())
    assert_same_weights(read_adapter(path).adapter, adapter_of())
    write(path, adapter_of(seed=2))
    assert_same_weights(adapter, adapter_of())
    assert_same_weights(read_adapter(path).adapter, adapter_of(seed=2))


def test_writing_leaves_the_adapter_alone(tmp_path):
    adapter = adapter_of().train().requires_grad_(True)
    write(tmp_path / "adapter.safetensors", adapter)
    assert adapter.training and all(parameter.requires_grad for parameter in adapter.parameters())
    assert_same_weights(adapter, adapter_of())


def test_the_hosts_layers(tmp_path):
    adapter = read_adapter(write(tmp_path / "adapter.safetensors"), operations=comfy.ops.manual_cast).adapter
    layers = [module for module in adapter.modules() if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm)]
    assert layers and all(layer.comfy_cast_weights for layer in layers)
    assert_same_weights(adapter, adapter_of())


# Writing in one step


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_midway_leaves_nothing_behind(existing, tmp_path):
    path = tmp_path / "adapter.safetensors"
    content = write(path).read_bytes() if existing else None
    with pytest.raises(Exception, match="(?i)file too large|os error"), disk_full_after(10_000):
        write(path, adapter_of(seed=2))
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if existing else [])
    if existing:
        assert path.read_bytes() == content


@pytest.mark.parametrize("failing", ["safetensors.torch.save_file", "os.replace"])
def test_a_write_that_is_interrupted_leaves_nothing_behind(failing, tmp_path, monkeypatch):
    path = write(tmp_path / "adapter.safetensors")
    content = path.read_bytes()

    def interrupted(*arguments, **keywords):
        if failing.endswith("save_file"):
            Path(arguments[1]).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(failing, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, adapter_of(seed=2))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("umask", "mode"),
    [
        (0o022, 0o644),
        (0o002, 0o664),
        (0o077, 0o600),
    ],
)
def test_others_may_read_the_file_as_far_as_the_umask_says(umask, mode, tmp_path):
    previous = os.umask(umask)
    try:
        path = write(tmp_path / "adapter.safetensors")
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == mode


# Files that are refused


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("version", ["2", "10", "999"])
def test_a_newer_format(version, path):
    message = refused(rewritten(path, bolid_format=version), "newer version of BoLID")
    assert f"adapter format {version}" in message and "Update BoLID" in message


def test_a_newer_format_is_refused_before_anything_of_it_is_read(path):
    """Its description and its tensors may be of any kind."""
    refused(rewritten(path, bolid_format="2", bolid_config="<xml/>", tensors={"a": torch.zeros(1)}), "newer version")


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "one", "1 ", "0x1", "²"])
def test_a_format_that_is_no_version(version, path):
    refused(rewritten(path, bolid_format=version), f"has the adapter format {version!r}, which is no version number")


@pytest.mark.parametrize("config", [None, "", "{", "[]", "null", "{}", '"text"', "{'a': 1}"])
def test_a_description_that_is_missing_or_damaged(config, path):
    refused(rewritten(path, bolid_config=config), "its description of itself is damaged (")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ((), "base_model"),
        ((), "image_encoder"),
        ((), "layout"),
        (("layout",), "kind"),
        (("layout",), "cross_attention_dim"),
        (("layout",), "num_tokens"),
        (("layout", "body"), "dim"),
        (("layout", "body"), "hidden_size"),
    ],
)
def test_a_field_that_is_missing(where, name, path):
    def change(config):
        for step in where:
            config = config[step]
        del config[name]

    assert f"{'.'.join((*where, name))}: Field required" in refused(with_config(path, change))


@pytest.mark.parametrize("where", [(), ("layout",), ("layout", "body")])
def test_a_field_that_is_unknown(where, path):
    def change(given):
        config = given
        for step in where:
            config = config[step]
        config["new_field"] = 1
        return given

    assert ".".join((*where, "new_field")) in refused(with_config(path, change), "its description of itself is damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", 3),
        ("num_tokens", "four"),
        ("num_tokens", 4.5),
        ("layers", {"one": 32}),
        ("layers", [32, 64]),
        ("cross_attention_dim", None),
        ("shortcut", 7),
        ("body", "yes"),
    ],
)
def test_a_field_of_another_type(name, value, path):
    damaged = with_config(path, lambda config: config["layout"].update({name: value}))
    assert f"layout.{name}" in refused(damaged, "its description of itself is damaged")


SIZES_OF_NO_ADAPTER = [
    {"kind": "odd"},
    {"num_tokens": None},
    {"num_tokens": -4},
    {"image_embed_dim": None},
    {"image_embed_dim": -32},
    {"cross_attention_dim": 2**70},
    {"layers": {"1": -32, "3": 64}},
    {"body": asdict(BODY) | {"dim": -64}},
    {"body": asdict(BODY) | {"num_tokens": -1}},
]


@pytest.mark.parametrize("change", SIZES_OF_NO_ADAPTER, ids=str)
def test_sizes_that_no_adapter_has(change, path):
    refused(with_config(path, lambda config: config["layout"].update(change)))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "plus", "inner_dim": 64, "hidden_size": 32},
        {"cross_attention_dim": 128},
        {"num_tokens": 5},
        {"image_embed_dim": 40},
        {"layers": {"1": 32}},
        {"layers": {"1": 32, "3": 64, "5": 64}},
        {"layers": {"1": 32, "5": 64}},
        {"aggregator_depth": 0},
        {"aggregator_depth": 2},
        {"body": None},
        {"body": asdict(BODY) | {"num_tokens": 7}},
        {"body": asdict(BODY) | {"depth": 2}},
        {"body": asdict(BODY) | {"hidden_size": 32}},
    ],
    ids=str,
)
def test_a_description_of_another_adapter(change, path):
    damaged = with_config(path, lambda config: config["layout"].update(change))
    refused(damaged, "its tensors do not fit")


@pytest.mark.parametrize(
    "name",
    [
        "image_proj.norm.bias",
        "ip_adapter.3.to_v_ip.weight",
        "aggregator.image_embeds.proj_out.bias",
        "body_encoder.null_grid",
        "body_encoder.joint_embedding",
        "body_encoder.resampler.layers.0.0.to_q.weight",
        "body_adapter.1.to_k.weight",
    ],
)
def test_missing_misshapen_and_unexpected_tensors(name, path):
    tensors = load_file(path)
    whole, part = dict(tensors), name.split(".")[0]
    del tensors[name]
    assert f'Missing key(s) in state_dict: "{name}"' in refused(rewritten(path, tensors=tensors))
    message = refused(rewritten(path, tensors=whole | {name: whole[name][:-1]}))
    assert "size mismatch" in message or name in message
    message = refused(rewritten(path, tensors=whole | {f"{part}.9.to_x.weight": torch.zeros(2)}))
    assert f"{part}.9.to_x.weight" in message
    read_adapter(rewritten(path, tensors=whole))


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_is_cut_off(keep, path):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert "download" in refused(path)


def test_a_file_without_its_description(path):
    """Other tools drop metadata. The face branch alone would be a public file; with more it is not."""
    refused(rewritten(path, bolid_format=None, bolid_config=None), "description of itself is missing")


# Public files


@pytest.mark.parametrize(("writer", "suffix"), [(write_safetensors, ".safetensors"), (write_bin, ".bin")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_files_are_read(layout, writer, suffix, tmp_path):
    state_dict = public(layout)
    path = writer(tmp_path / f"public{suffix}", state_dict)
    file = read_adapter(path, faceid_plus_shortcut=False)
    assert file.config is None
    assert file.adapter.layout == detect_layout(state_dict, name="", faceid_plus_shortcut=False)
    assert file.adapter.aggregator is file.adapter.body_encoder is file.adapter.body_adapter is None
    read = file.adapter.state_dict()
    assert set(read) == {name for name in state_dict if "_lora." not in name}
    assert all(torch.equal(tensor, state_dict[name]) for name, tensor in read.items())
    expected = faceid_lora(state_dict)
    assert set(file.lora) == set(expected) and bool(expected) == (layout in ("faceid", "faceid_plus"))
    for target, (down, up) in file.lora.items():
        assert torch.equal(down, expected[target][0]) and torch.equal(up, expected[target][1])


def test_a_public_file_with_metadata_of_its_own_is_public(tmp_path):
    metadata = {"modelspec.architecture": "stable-diffusion-v1/ip-adapter", "format": "pt"}
    path = write_safetensors(tmp_path / "public.safetensors", public("base"), metadata=metadata)
    assert read_adapter(path).config is None


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_public_file_becomes_an_adapter_file(layout, suffix, tmp_path):
    writer = write_bin if suffix == ".bin" else write_safetensors
    given = read_adapter(writer(tmp_path / f"public{suffix}", public(layout, dtype=torch.float16)))
    file = read_adapter(write(tmp_path / "adapter.safetensors", given.adapter))
    assert_same_weights(file.adapter, given.adapter)
    assert file.config.layout == given.adapter.layout


# diffusers


def unet_output(folder: Path, name: str, **embeds: torch.Tensor) -> torch.Tensor:
    """What a UNet says after diffusers' own pipeline has loaded the file from a local folder."""
    pipeline = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=copy.deepcopy(unet_of("sd15")),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_ip_adapter(str(folder), subfolder="", weight_name=name, image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.8)
    projection = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
    if "hidden_states" in embeds:
        projection.clip_embeds, projection.shortcut = embeds["hidden_states"], True
    latents, timesteps, text = unet_inputs()
    with torch.no_grad():
        return pipeline.unet(
            latents,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"image_embeds": [embeds["image_embeds"]]},
        ).sample


def unet_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    text = random(1, 77, unet_of("sd15").config.cross_attention_dim, seed=3)
    return random(1, *LATENT_SHAPE[1:], seed=2), torch.tensor([801.0]), text


def diffusers_embeds(layout: str) -> dict[str, torch.Tensor]:
    given = {name: tensor.unsqueeze(0) for name, tensor in features(2).items()}
    if layout.startswith("faceid"):
        embeds = {"image_embeds": given["face_embeds"]}
        return embeds | ({"hidden_states": given["hidden_states"]} if layout == "faceid_plus" else {})
    return {"image_embeds": given["image_embeds" if layout == "base" else "hidden_states"]}


@pytest.mark.parametrize("parts", ["plain", "both"])
@pytest.mark.parametrize("layout", ["base", "plus", "full_face", "faceid", "faceid_portrait", "faceid_plus"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_face_branch_opens_in_diffusers(layout, parts, tmp_path):
    """Aggregator and body branch are no business of diffusers', and the face branch gives what it gave before."""
    state_dict = state_dict_of(layout, "sd15")
    # The LoRA of FaceID files is no part of the adapter.
    face = {name: tensor for name, tensor in state_dict.items() if "_lora." not in name}
    write_safetensors(tmp_path / "public.safetensors", face)
    if parts == "plain":
        adapter = read_adapter(tmp_path / "public.safetensors").adapter
    else:
        adapter = bolid_adapter("sd15", layout)
        assert any(name.startswith("body_adapter.") for name in adapter.state_dict())
    write(tmp_path / "adapter.safetensors", adapter)
    embeds = diffusers_embeds(layout)
    result = unet_output(tmp_path, "adapter.safetensors", **embeds)
    assert torch.equal(result, unet_output(tmp_path, "public.safetensors", **embeds))
    shortcut = {"shortcut": True} if layout == "faceid_plus" else {}
    reference = diffusers_with_ip_adapter(unet_of("sd15"), face, scale=0.8, **shortcut, **embeds)
    torch.testing.assert_close(result, reference(*unet_inputs()), rtol=0, atol=1e-5)
    latents, timesteps, text = unet_inputs()
    with torch.no_grad():
        plain = unet_of("sd15")(latents, timesteps, encoder_hidden_states=text).sample
    assert (result - plain).abs().max() > 1e-2


def test_a_faceid_files_lora_is_kept(tmp_path):
    given = read_adapter(write_safetensors(tmp_path / "public.safetensors", public("faceid")))
    assert given.lora
    write_adapter(tmp_path / "own.safetensors", given.adapter, base_model="sd15", image_encoder="none", lora=given.lora)
    again = read_adapter(tmp_path / "own.safetensors")
    assert again.lora.keys() == given.lora.keys()
    for target, pair in given.lora.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, again.lora[target], strict=True))


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"own\.bin must end in \.safetensors"):
        write_adapter(tmp_path / "own.bin", adapter_of(), base_model="sd15", image_encoder="none")
    assert not list(tmp_path.iterdir())
