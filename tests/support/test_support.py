"""The witnesses themselves: small models and adapter files against diffusers and ComfyUI."""

import copy
import pickle
from functools import cache

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from .adapter_files import (
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
from .small_models import (
    SDXL_POOLED_WIDTH,
    comfy_model,
    diffusers_with_ip_adapter,
    full_size_unet,
    ip_adapter_layers,
    prepare_comfy,
    sample,
    small_clip_vision,
    small_controlnet,
    small_lora,
    small_unet,
    text_conditioning,
    with_control,
)

FAMILIES = ("sd15", "sdxl")
LAYERS = {"sd15": SD15_LAYERS, "sdxl": SDXL_LAYERS}
ENCODER_WIDTH = 32
PHOTOS, GRID_TOKENS = 2, 5


@cache
def unet_of(family):
    return small_unet(family, seed=1)


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(family, batch=2):
    """Latents, timesteps, text, and SDXL's added conditions for a diffusers UNet."""
    latents = random(batch, 4, 16, 24, seed=2)
    text = random(batch, 77, unet_of(family).config.cross_attention_dim, seed=3)
    added = {
        "text_embeds": random(batch, SDXL_POOLED_WIDTH, seed=4),
        "time_ids": torch.tensor([[128.0, 192.0, 8.0, 16.0, 256.0, 384.0]]).repeat(batch, 1),
    }
    return latents, torch.tensor([801.0, 20.0])[:batch], text, added if family == "sdxl" else {}


def predict_base(family):
    latents, timesteps, text, added = inputs_of(family)
    with torch.no_grad():
        return unet_of(family)(latents, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample


def image_inputs(layout, batch=2, seed=5):
    """Keyword arguments of `diffusers_with_ip_adapter` for small adapters of `layout`."""
    hidden_states = random(batch, PHOTOS, GRID_TOKENS, ENCODER_WIDTH, seed=seed)
    if layout in ("base", "base_bigg"):
        return {"image_embeds": random(batch, PHOTOS, ENCODER_WIDTH, seed=seed)}
    if layout in ("plus", "full_face"):
        return {"image_embeds": hidden_states}
    face_embeds = torch.nn.functional.normalize(random(batch, PHOTOS, 24, seed=seed + 1), dim=-1)
    return {"image_embeds": face_embeds} | ({"hidden_states": hidden_states} if layout == "faceid_plus" else {})


def small_adapter(layout, family, *, seed=6):
    # FaceID-plus splits C itself into heads of 64, which SDXL's small C does not allow.
    return adapter_state_dict(
        layout,
        layers=ip_adapter_layers(unet_of(family)),
        cross_attention_dim=unet_of(family).config.cross_attention_dim,
        seed=seed,
        image_encoder_width=ENCODER_WIDTH,
        resampler_width=128,
        face_embeds_width=24,
        lora_rank=4,
    )


def predict_adapted(layout, family, state_dict, *, scale=0.8, **arguments):
    latents, timesteps, text, added = inputs_of(family)
    arguments = image_inputs(layout) | arguments
    predict = diffusers_with_ip_adapter(unet_of(family), state_dict, scale=scale, **arguments)
    with torch.no_grad():
        return predict(latents, timesteps, text, added)


# Layer tables


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_table_follows_diffusers_numbering_at_full_size(family):
    assert [(layer.key, layer.hidden_size) for layer in LAYERS[family]] == ip_adapter_layers(full_size_unet(family))
    assert len(LAYERS[family]) == {"sd15": 16, "sdxl": 70}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_table_follows_comfyui_block_names(family):
    """Match diffusers' layer N to ComfyUI's by the weights: ComfyUI's `to_v` is asked for at every call."""
    patcher = comfy_model(unet_of(family), family)
    diffusion_model = patcher.model.diffusion_model
    weights_seen = []
    for name, module in diffusion_model.named_modules():
        if name.endswith("attn2.to_v"):
            module.register_forward_pre_hook(lambda module, _: weights_seen.append(module.weight))
    blocks_seen = []

    def note(attention_output, extra_options):
        blocks_seen.append((*extra_options["block"], extra_options["block_index"]))
        return attention_output

    latents, timesteps, text, _ = inputs_of(family)
    with torch.no_grad():
        diffusion_model(
            latents,
            timesteps,
            context=text,
            y=None if family == "sd15" else torch.zeros(2, diffusion_model.label_emb[0][0].in_features),
            transformer_options={"patches": {"attn2_output_patch": [note]}},
        )

    processors = list(unet_of(family).attn_processors)
    by_key = {(layer.block, layer.number, layer.transformer_index): layer.key for layer in LAYERS[family]}
    assert sorted(blocks_seen) == sorted(by_key)
    for block, weight in zip(blocks_seen, weights_seen, strict=True):
        attention = unet_of(family).get_submodule(processors[by_key[block]].removesuffix(".processor"))
        assert torch.equal(attention.to_v.weight, weight), block


# Small models


@pytest.mark.parametrize("family", FAMILIES)
def test_small_unet_has_the_real_topology(family):
    real, small = full_size_unet(family), unet_of(family)
    assert list(small.attn_processors) == list(real.attn_processors)
    named = {name for name, _ in small.named_parameters()}
    assert named - {name for name, _ in real.named_parameters()} == (
        {f"add_embedding.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
        if family == "sdxl"
        else set()
    )
    for (key, hidden_size), layer in zip(ip_adapter_layers(small), LAYERS[family], strict=True):
        assert (key, hidden_size * 10) == (layer.key, layer.hidden_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui_and_diffusers_predict_the_same(family):
    latents, timesteps, text, added = inputs_of(family)
    patcher = comfy_model(unet_of(family), family)
    expected = predict_base(family)
    y = None
    if family == "sdxl":
        (height, width, top, left, target_height, target_width) = added["time_ids"][0].tolist()
        y = patcher.model.encode_adm(
            pooled_output=added["text_embeds"],
            height=height,
            width=width,
            crop_h=top,
            crop_w=left,
            target_height=target_height,
            target_width=target_width,
        )
    with torch.no_grad():
        actual = patcher.model.diffusion_model(latents, timesteps, context=text, y=y)
    assert expected.std() > 0.1
    assert (actual - expected).abs().max() <= 1e-5


def test_small_models_follow_their_seed():
    first, again, other = (small_unet("sd15", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    small_unet("sd15", seed=9)
    small_adapter("plus", "sd15")
    small_clip_vision()
    assert torch.equal(torch.get_rng_state(), before)


def sample_small(patcher, family, *, wrap=lambda positive, negative: (positive, negative), seed=7):
    width = {"sd15": None, "sdxl": SDXL_POOLED_WIDTH}[family]
    context_width = unet_of(family).config.cross_attention_dim
    positive, negative = wrap(*(text_conditioning(context_width, seed, pooled_width=width) for seed in (8, 9)))
    return sample(patcher, positive=positive, negative=negative, latent_shape=(1, 4, 16, 16), seed=seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_twice_is_bit_identical(family):
    patcher = comfy_model(unet_of(family), family)
    first = sample_small(patcher, family)
    assert torch.isfinite(first).all()
    assert first.shape == (1, 4, 16, 16)
    assert torch.equal(first, sample_small(patcher, family))
    assert torch.equal(first, sample_small(comfy_model(unet_of(family), family), family))
    assert not torch.equal(first, sample_small(patcher, family, seed=8))


def test_model_type_reaches_the_sampler():
    prepare_comfy()
    import comfy.model_base

    noise = sample_small(comfy_model(unet_of("sd15"), "sd15"), "sd15")
    image_to_image = comfy_model(unet_of("sd15"), "sd15", model_type=comfy.model_base.ModelType.IMG_TO_IMG)
    assert not torch.allclose(noise, sample_small(image_to_image, "sd15"))


def test_controlnet_changes_the_result():
    patcher = comfy_model(unet_of("sd15"), "sd15")
    controlnet = small_controlnet(unet_of("sd15"))
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(10))
    plain = sample_small(patcher, "sd15")

    def controlled(strength):
        return sample_small(
            patcher, "sd15", wrap=lambda *sides: with_control(*sides, controlnet, hint, strength=strength)
        )

    assert (controlled(0.5) - plain).abs().mean() > 0.01 * plain.abs().mean()
    assert torch.equal(controlled(0.5), controlled(0.5))
    assert torch.equal(controlled(0.0), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_changes_the_result_and_every_key_is_used(family):
    patcher = comfy_model(unet_of(family), family)
    import comfy.lora
    import comfy.sd

    lora = small_lora(unet_of(family))
    loaded = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(patcher.model, {}))
    assert len(loaded) == len(LAYERS[family]) * 2 * 4
    plain = sample_small(patcher, family)
    adapted, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    assert (sample_small(adapted, family) - plain).abs().mean() > 0.01 * plain.abs().mean()
    assert torch.equal(sample_small(patcher, family), plain)


def test_clip_vision_encodes_images():
    encoder = small_clip_vision(image_size=32, hidden_size=64, patch_size=8, projection_dim=48)
    images = torch.rand(2, 40, 50, 3, generator=torch.Generator().manual_seed(11))
    output = encoder.encode_image(images)
    assert output["image_embeds"].shape == (2, 48)
    assert output["penultimate_hidden_states"].shape == (2, 17, 64)
    assert torch.isfinite(output["image_embeds"]).all()
    assert torch.equal(output["image_embeds"], encoder.encode_image(images)["image_embeds"])
    first, second = output["image_embeds"]
    assert torch.cosine_similarity(first, second, dim=0) < 0.99


def test_clip_vision_agrees_with_transformers():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    encoder = small_clip_vision()
    config = encoder.config | {"model_type": "clip_vision_model"}
    reference = CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    reference.load_state_dict({name: tensor.float() for name, tensor in encoder.get_sd().items()}, strict=True)
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(12)).mul(255).round() / 255
    mean, std = torch.tensor(encoder.image_mean), torch.tensor(encoder.image_std)
    with torch.no_grad():
        expected = reference(((images - mean) / std).movedim(-1, 1), output_hidden_states=True)
        actual = encoder.encode_image(images)
    assert torch.allclose(actual["image_embeds"], expected.image_embeds, atol=1e-4)
    assert torch.allclose(actual["penultimate_hidden_states"], expected.hidden_states[-2], atol=1e-4)


# Adapter files


def image_proj_shapes(layout, **arguments):
    state_dict = adapter_state_dict(layout, layers=[], **arguments)
    return {name.removeprefix("image_proj."): tuple(tensor.shape) for name, tensor in state_dict.items()}


def test_image_proj_shapes_are_those_of_the_released_files():
    assert image_proj_shapes("base", cross_attention_dim=768) == {
        "proj.weight": (3072, 1024),
        "proj.bias": (3072,),
        "norm.weight": (768,),
        "norm.bias": (768,),
    }
    assert image_proj_shapes("base", cross_attention_dim=2048)["proj.weight"] == (8192, 1024)
    assert image_proj_shapes("base_bigg", cross_attention_dim=2048)["proj.weight"] == (8192, 1280)
    assert image_proj_shapes("full_face", cross_attention_dim=768) == {
        "proj.0.weight": (1280, 1280),
        "proj.0.bias": (1280,),
        "proj.2.weight": (768, 1280),
        "proj.2.bias": (768,),
        "proj.3.weight": (768,),
        "proj.3.bias": (768,),
    }
    assert image_proj_shapes("faceid", cross_attention_dim=768) == {
        "proj.0.weight": (1024, 512),
        "proj.0.bias": (1024,),
        "proj.2.weight": (3072, 1024),
        "proj.2.bias": (3072,),
        "norm.weight": (768,),
        "norm.bias": (768,),
    }
    assert image_proj_shapes("faceid_portrait", cross_attention_dim=768)["proj.2.weight"] == (12288, 1024)


@pytest.mark.parametrize(("cross_attention_dim", "width"), [(768, 768), (2048, 1280)])
def test_plus_has_51_tensors(cross_attention_dim, width):
    shapes = image_proj_shapes("plus", cross_attention_dim=cross_attention_dim)
    assert len(shapes) == 51
    assert shapes["latents"] == (1, 16, width)
    assert shapes["proj_in.weight"] == (width, 1280)
    assert shapes["proj_out.weight"] == (cross_attention_dim, width)
    assert shapes["layers.3.0.to_kv.weight"] == (2 * width, width)
    assert shapes["layers.0.1.1.weight"] == (4 * width, width)
    assert "layers.0.1.1.bias" not in shapes


def test_faceid_plus_is_faceid_and_a_resampler():
    faceid = image_proj_shapes("faceid", cross_attention_dim=768)
    faceid_plus = image_proj_shapes("faceid_plus", cross_attention_dim=768)
    resampler = image_proj_shapes("plus", cross_attention_dim=768)
    del resampler["latents"]
    assert faceid_plus == faceid | {f"perceiver_resampler.{name}": shape for name, shape in resampler.items()}


@pytest.mark.parametrize(
    ("layout", "cross_attention_dim"),
    [*((layout, 768) for layout in LAYOUTS), ("base", 2048), ("base_bigg", 2048), ("plus", 2048), ("faceid", 2048)],
)
def test_diffusers_loads_the_projections_at_their_real_size(layout, cross_attention_dim):
    state_dict = adapter_state_dict(layout, layers=[], cross_attention_dim=cross_attention_dim)
    projection = unet_of("sd15")._convert_ip_adapter_image_proj_to_diffusers(
        nested(state_dict)["image_proj"], low_cpu_mem_usage=False
    )
    hidden_states = random(1, 257, 1280, seed=13)
    if layout in ("base", "base_bigg"):
        image_embeds, tokens = random(1, 1024 if layout == "base" else 1280, seed=14), 4
    elif layout in ("plus", "full_face"):
        image_embeds, tokens = hidden_states, 16 if layout == "plus" else 257
    else:
        image_embeds = torch.nn.functional.normalize(random(1, 512, seed=15), dim=-1)
        tokens = 16 if layout == "faceid_portrait" else 4
        projection.clip_embeds = hidden_states[None]
    with torch.no_grad():
        out = projection(image_embeds)
    assert out.shape == (1, tokens, cross_attention_dim)
    assert 0.5 < out.std() < 2


def test_lora_covers_every_attention_layer():
    state_dict = adapter_state_dict("faceid", layers=[layer[3:] for layer in SD15_LAYERS], cross_attention_dim=768)
    lora = {name: tensor for name, tensor in state_dict.items() if "_lora." in name}
    assert {int(name.split(".")[1]) for name in lora} == set(range(32))
    assert len(lora) == 32 * 8
    assert lora["ip_adapter.8.to_k_lora.down.weight"].shape == (128, 1280)
    assert lora["ip_adapter.9.to_k_lora.down.weight"].shape == (128, 768)
    assert lora["ip_adapter.9.to_out_lora.up.weight"].shape == (1280, 128)
    assert state_dict["ip_adapter.9.to_k_ip.weight"].shape == (1280, 768)
    assert not any("_lora." in name for name in small_adapter("faceid_portrait", "sd15"))


@pytest.mark.parametrize(
    ("family", "layout"),
    [*(("sd15", layout) for layout in LAYOUTS), ("sdxl", "base"), ("sdxl", "plus"), ("sdxl", "faceid")],
)
def test_diffusers_runs_every_layout(family, layout):
    before = {name: tensor.clone() for name, tensor in unet_of(family).state_dict().items()}
    state_dict = small_adapter(layout, family)
    base = predict_base(family)
    adapted = predict_adapted(layout, family, state_dict)
    assert torch.isfinite(adapted).all()
    assert (adapted - base).abs().mean() > 0.02 * base.abs().mean()
    other_photos = predict_adapted(layout, family, state_dict, **image_inputs(layout, seed=50))
    assert (adapted - other_photos).abs().mean() > 0.005 * base.abs().mean()
    assert torch.equal(predict_adapted(layout, family, state_dict, scale=0.0, lora_strength=0.0), base)
    assert all(torch.equal(before[name], tensor) for name, tensor in unet_of(family).state_dict().items())


def test_face_vectors_may_carry_an_axis_of_one():
    state_dict = small_adapter("faceid", "sd15")
    face_embeds = image_inputs("faceid")["image_embeds"]
    plain = predict_adapted("faceid", "sd15", state_dict, image_embeds=face_embeds)
    as_in_the_manual = predict_adapted("faceid", "sd15", state_dict, image_embeds=face_embeds[:, :, None])
    assert torch.equal(plain, as_in_the_manual)


@pytest.mark.parametrize("argument", [{"shortcut": True}, {"lora_strength": 0.0}, {"scale": 0.4}])
def test_faceid_plus_arguments_reach_diffusers(argument):
    state_dict = small_adapter("faceid_plus", "sd15")
    plain = predict_adapted("faceid_plus", "sd15", state_dict)
    assert not torch.allclose(plain, predict_adapted("faceid_plus", "sd15", state_dict, **argument), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_can_be_seen_in_the_result(family):
    """A host that misses one layer's K or V must fail a parity test at 1e-4."""
    state_dict = small_adapter("base", family)
    unet = copy.deepcopy(unet_of(family))
    unet._load_ip_adapter_weights([nested(state_dict)], low_cpu_mem_usage=False)
    unet.requires_grad_(False)
    processors = list(unet.attn_processors.values())
    latents, timesteps, text, added = inputs_of(family)
    added = added | {"image_embeds": [image_inputs("base")["image_embeds"]]}

    def predict():
        with torch.no_grad():
            return unet(latents, timesteps, encoder_hidden_states=text, added_cond_kwargs=added).sample

    whole = predict()
    for layer in LAYERS[family][:: 1 if family == "sd15" else 3]:
        for part in ("to_k_ip", "to_v_ip"):
            weight = getattr(processors[layer.key], part)[0].weight
            weight.zero_()
            assert (whole - predict()).abs().max() > 1e-3, (layer, part)
            weight.copy_(state_dict[f"ip_adapter.{layer.key}.{part}.weight"])


def test_mismatched_batches_are_refused():
    predict = diffusers_with_ip_adapter(
        unet_of("sd15"), small_adapter("base", "sd15"), scale=1.0, **image_inputs("base", batch=1)
    )
    latents, timesteps, text, _ = inputs_of("sd15")
    with pytest.raises(ValueError, match="hold 1 samples, the latents 2"):
        predict(latents, timesteps, text)


def test_both_containers_hold_the_same_tensors(tmp_path):
    state_dict = small_adapter("faceid_plus", "sd15")
    flat = load_file(write_safetensors(tmp_path / "a.safetensors", state_dict))
    pickled = torch.load(write_bin(tmp_path / "a.bin", state_dict), weights_only=True)
    assert set(pickled) == {"image_proj", "ip_adapter"}
    assert set(flat) == set(state_dict)
    for name, tensor in state_dict.items():
        part, key = name.split(".", 1)
        assert torch.equal(flat[name], tensor)
        assert torch.equal(pickled[part][key], tensor)


def test_malicious_bin_runs_code_only_when_unpickled_in_full(tmp_path):
    marker = write_malicious_bin(tmp_path / "adapter.bin")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "adapter.bin", weights_only=True)
    assert not marker.exists()
    torch.load(tmp_path / "adapter.bin", weights_only=False)["note"].close()
    assert marker.exists()


def test_truncated_files_cannot_be_read(tmp_path):
    state_dict = small_adapter("base", "sd15")
    with pytest.raises(safetensors.SafetensorError):
        load_file(write_truncated(tmp_path / "a.safetensors", state_dict))
    with pytest.raises(RuntimeError):
        torch.load(write_truncated(tmp_path / "a.bin", state_dict), weights_only=True)
    with pytest.raises(ValueError, match=r"expected \.safetensors or \.bin"):
        write_truncated(tmp_path / "a.pt", state_dict)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="unknown layout"):
        adapter_state_dict("light", layers=[], cross_attention_dim=64)
    with pytest.raises(ValueError, match="odd N only"):
        adapter_state_dict("base", layers=[(2, 32)], cross_attention_dim=64)
    with pytest.raises(ValueError, match="head width 64"):
        adapter_state_dict("plus", layers=[], cross_attention_dim=96)
    with pytest.raises(ValueError, match="unknown family"):
        small_unet("sd3")
