"""Together with what else artists put on a MODEL and its conditioning."""

import itertools

import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper

from bolid.models.references import Embeds

from ..support.scenes import (
    LATENT_SHAPE,
    applied,
    assert_equal_but_for_rounding,
    conditioning,
    features,
    loaded_adapter,
    model_of,
    random,
    sampled,
    unet_of,
)
from ..support.small_models import comfy_model, small_controlnet, small_lora, with_control


def with_other_pack(model, *, whole_transformer=False):
    """Another pack's graph-time attn2 replace patch, which adds something of its own in every layer."""

    def replace(q, k, v, extra_options):
        return 0.9 * optimized_attention(q, k, v, extra_options["n_heads"]) + 0.01 * q

    model = model.clone()
    for block, number in itertools.chain(
        (("input", n) for n in (1, 2, 4, 5, 7, 8)), (("output", n) for n in range(3, 12)), [("middle", 0)]
    ):
        model.set_model_attn2_replace(replace, block, number, *(() if whole_transformer else (0,)))
    return model


@pytest.mark.parametrize("whole_transformer", [False, True])
def test_another_packs_replace_patch_in_either_order(adapter, whole_transformer):
    model = model_of("sd15")
    other = with_other_pack(model, whole_transformer=whole_transformer)
    after = sampled(applied(other, adapter))
    before = sampled(with_other_pack(applied(model, adapter), whole_transformer=whole_transformer))
    assert torch.equal(after, before)
    alone = sampled(applied(model, adapter))
    assert not torch.equal(after, sampled(other)) and not torch.equal(after, alone)
    assert torch.equal(sampled(applied(other, adapter, face_weight=0.0)), sampled(other))


def test_other_attention_patches_are_kept(adapter):
    """attn2_patch and attn2_output_patch of other packs act with the adapter as without it."""

    def patched(model):
        model = model.clone()
        model.set_model_attn2_patch(lambda n, context, value, options: (n, context * 1.1, value * 0.9))
        model.set_model_attn2_output_patch(lambda n, options: n * 0.8)
        return model

    model = model_of("sd15")
    assert torch.equal(sampled(patched(applied(model, adapter))), sampled(applied(patched(model), adapter)))
    assert not torch.equal(sampled(patched(applied(model, adapter))), sampled(applied(model, adapter)))


def test_attention_override_sees_every_attention(adapter):
    """`optimized_attention_override` is how packs put another attention kernel in place."""
    calls = []

    def override(attention, *arguments, **keywords):
        calls.append(arguments[1].shape[1])
        return attention(*arguments, **keywords)

    model = applied(model_of("sd15"), adapter)
    expected = sampled(model, steps=1)
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    assert torch.equal(sampled(model, steps=1), expected)
    # Once per layer: text for the whole batch; photos for either half of the guidance.
    assert calls.count(77) == 16 and calls.count(16) == 2 * 16


def test_lora_in_either_order(adapter):
    model = comfy_model(unet_of("sd15"), "sd15")
    lora = small_lora(unet_of("sd15"))

    def with_lora(given):
        return comfy.sd.load_lora_for_models(given, None, lora, 0.8, 0.0)[0]

    one = sampled(applied(with_lora(model), adapter))
    assert torch.equal(one, sampled(with_lora(applied(model, adapter))))
    assert not torch.equal(one, sampled(applied(model, adapter)))
    assert not torch.equal(one, sampled(with_lora(model)))


def test_faceid_lora_leaves_the_upstream_model_alone():
    model = comfy_model(unet_of("sd15"), "sd15")
    plain = sampled(model)
    adapted = applied(model, loaded_adapter("faceid"))
    first = sampled(adapted)
    assert torch.equal(sampled(model), plain)
    assert torch.equal(sampled(adapted), first)
    assert not torch.equal(sampled(applied(model, loaded_adapter("faceid"), lora_strength=0.0)), first)


def test_the_lora_of_a_faceid_file_acts_once(adapter):
    """However often its adapter is applied: it knows neither masks nor times."""
    model, faceid = model_of("sd15"), loaded_adapter("faceid")
    once = applied(model, faceid, end_percent=0.5)
    twice = applied(applied(once, adapter), faceid, start_percent=0.5, lora_strength=0.3)
    assert {key: len(patches) for key, patches in twice.patches.items()} == dict.fromkeys(once.patches, 1)
    # Where the first one leaves it out, the next one brings it.
    later = applied(applied(model, faceid, lora_strength=0.0), faceid)
    assert later.patches.keys() == once.patches.keys()
    assert applied(model, faceid).patches.keys() == once.patches.keys()


def test_a_compiled_model_samples_as_it_is(adapter, caplog):
    """Compiled code would keep the photos, the weight and the layer of its first call."""
    model = comfy_model(unet_of("sd15"), "sd15")
    compiled = model.clone()
    set_torch_compile_wrapper(
        compiled, backend="eager", options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    )
    for settings in ({"start_percent": 0.5}, {}, {"face_weight": 0.5}):
        expected = sampled(applied(model, adapter, **settings))
        assert torch.equal(sampled(applied(compiled, adapter, **settings)), expected)
    assert "the compiled model samples uncompiled" in caplog.text


def test_a_model_whose_unet_is_compiled_in_place(adapter):
    model = comfy_model(unet_of("sd15"), "sd15")
    expected = sampled(applied(model, adapter))
    compiled = model.clone()
    compiled.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model, backend="eager"))
    assert torch.equal(sampled(applied(compiled, adapter)), expected)
    compiled.patch_model()
    try:
        assert applied(compiled, adapter)
    finally:
        compiled.unpatch_model()


def test_controlnet(adapter):
    control = small_controlnet(unet_of("sd15"))
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))

    def controlled(model):
        texts = conditioning("sd15")
        positive, negative = with_control(texts["positive"], texts["negative"], control, hint)
        return sampled(model, positive=positive, negative=negative)

    model = model_of("sd15")
    plain, both = controlled(model), controlled(applied(model, adapter))
    assert not torch.equal(both, plain)
    assert not torch.equal(both, sampled(applied(model, adapter)))
    assert torch.equal(controlled(model), plain)


def area(conditioning_list, height, width, y, x):
    return [[context, {**options, "area": (height, width, y, x)}] for context, options in conditioning_list]


def masked(conditioning_list, mask):
    return [[context, {**options, "mask": mask, "mask_strength": 1.0}] for context, options in conditioning_list]


def test_conditioning_areas_and_masks(adapter):
    """Areas of equal size share a batch, of other sizes do not; both halves of the guidance get the right tokens."""
    texts = conditioning("sd15")
    positive, negative = texts["positive"], texts["negative"]
    mask = torch.zeros(1, 16, 24)
    mask[..., 12:] = 1
    cases = {
        "halves": area(positive, 16, 12, 0, 0) + area(negative, 16, 12, 0, 12),
        "unequal": area(positive, 16, 8, 0, 0) + area(negative, 16, 16, 0, 8),
        "masked": masked(positive, mask) + masked(negative, 1 - mask),
        "area and whole": area(positive, 8, 8, 4, 4) + negative,
    }
    model = model_of("sd15")
    for name, given in cases.items():
        plain = sampled(model, positive=given)
        result = sampled(applied(model, adapter), positive=given)
        assert not torch.equal(result, plain), name
        assert torch.isfinite(result).all(), name
        zero = applied(model, adapter, attn_mask=torch.zeros(1, 64, 64))
        assert torch.equal(sampled(zero, positive=given), plain), name


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("shape", [LATENT_SHAPE, (3, 4, 16, 16), (2, 4, 8, 32)])
def test_cfg_batches_and_sizes(adapter, cfg, shape):
    model = model_of("sd15")
    plain = sampled(model, cfg=cfg, latent_shape=shape)
    result = sampled(applied(model, adapter), cfg=cfg, latent_shape=shape)
    assert result.shape == shape and not torch.equal(result, plain)
    assert torch.equal(sampled(applied(model, adapter, face_weight=0.0), cfg=cfg, latent_shape=shape), plain)


def test_a_batch_is_its_pictures_one_by_one(adapter):
    noise = random(3, *LATENT_SHAPE[1:], seed=9)
    model = applied(model_of("sd15"), adapter)
    import comfy.sample

    def run(noise):
        texts = conditioning("sd15")
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 2, 4.0, "euler", "normal", texts["positive"], texts["negative"],
                torch.zeros_like(noise), seed=1, disable_pbar=True,
            )  # fmt: skip

    assert_equal_but_for_rounding(torch.cat([run(row) for row in noise.split(1)]), run(noise))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(adapter, dtype):
    model = comfy_model(unet_of("sd15"), "sd15", dtype=dtype)
    result = sampled(applied(model, adapter))
    reference = sampled(applied(model_of("sd15"), adapter))
    assert torch.isfinite(result).all()
    assert not torch.equal(result, sampled(model))
    assert (result - reference).abs().mean() < 0.1 * reference.abs().mean()


def test_key_values_take_the_models_compute_dtype(adapter):
    from bolid.hosts import comfyui

    dtypes = set()

    class Noted(comfyui._SamplingRun):
        def _mask_for_batch(self, number, query, extra_options):
            kept = [kv.key.dtype for layers in self._key_values_for(query) for roles in layers.values() for kv in roles]
            dtypes.update((dtype, query.dtype) for dtype in kept)
            return super()._mask_for_batch(number, query, extra_options)

    model = comfy_model(unet_of("sd15"), "sd15", dtype=torch.float16)
    model.model.manual_cast_dtype = torch.bfloat16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfyui, "_SamplingRun", Noted)
        sampled(applied(model, adapter), steps=1)
    assert dtypes == {(torch.bfloat16, torch.bfloat16)}


def test_masks_restrict_the_adapter(adapter):
    """One evaluation, so that nothing spreads: the UNet mixes positions, but a mask of ones is no mask at all."""
    model = model_of("sd15")
    plain, full = sampled(model), sampled(applied(model, adapter))
    ones = sampled(applied(model, adapter, attn_mask=torch.ones(1, 128, 192)))
    zeros = sampled(applied(model, adapter, attn_mask=torch.zeros(1, 128, 192)))
    left = torch.zeros(1, 128, 192)
    left[..., :96] = 1
    half = sampled(applied(model, adapter, attn_mask=left))
    assert_equal_but_for_rounding(ones, full)
    assert torch.equal(zeros, plain)
    assert not torch.equal(half, plain) and not torch.equal(half, full)


def test_one_mask_per_picture_of_the_batch(adapter):
    shape = (2, *LATENT_SHAPE[1:])
    model = model_of("sd15")
    masks = torch.stack((torch.zeros(64, 96), torch.ones(64, 96)))
    result = sampled(applied(model, adapter, attn_mask=masks), latent_shape=shape)
    plain = sampled(model, latent_shape=shape)
    full = sampled(applied(model, adapter), latent_shape=shape)
    assert_equal_but_for_rounding(result[:1], plain[:1])
    assert_equal_but_for_rounding(result[1:], full[1:])


def test_mask_is_cut_out_where_the_conditioning_area_is():
    """A mask that covers one area only acts on that area's conditioning, although both areas share a batch."""
    from bolid.hosts.comfyui import _mask_for_area

    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 12:] = 1
    arguments = {"size": (8, 6), "places": (0,)}
    left = _mask_for_area(mask, area=(16, 12, 0, 0), **arguments)
    right = _mask_for_area(mask, area=(16, 12, 0, 12), **arguments)
    assert left.shape == (1, 48, 1)
    assert left.max() == 0 and right.min() == 1
    whole = _mask_for_area(mask, area=None, size=(4, 6), places=(0, 1))
    assert whole.shape == (2, 24, 1)
    assert whole[0].view(4, 6)[:, :3].max() == 0 and whole[1].view(4, 6)[:, 3:].min() == 1


def test_schedule(adapter):
    model = model_of("sd15")
    full = sampled(applied(model, adapter), steps=4)
    plain = sampled(model, steps=4)
    assert torch.equal(sampled(applied(model, adapter, start_percent=0.0, end_percent=1.0), steps=4), full)
    assert torch.equal(sampled(applied(model, adapter, start_percent=1.0), steps=4), plain)
    assert torch.equal(sampled(applied(model, adapter, end_percent=0.0), steps=4), plain)
    first = sampled(applied(model, adapter, end_percent=0.4), steps=4)
    last = sampled(applied(model, adapter, start_percent=0.4), steps=4)
    assert not torch.equal(first, last) and not torch.equal(first, full) and not torch.equal(last, plain)
    both = applied(applied(model, adapter, end_percent=0.4), adapter, start_percent=0.4)
    assert_equal_but_for_rounding(sampled(both, steps=4), full)


@pytest.mark.parametrize("guider", ["dual", "perp_negative"])
def test_other_guiders_get_the_right_tokens(adapter, guider):
    """Guiders list their conditionings in their own order; negative text always goes with unconditional tokens."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    from bolid.hosts import comfyui

    rows = {}

    class Noted(comfyui._SamplingRun):
        def _before_evaluation(self, executor, model, conds, *arguments):
            result = super()._before_evaluation(executor, model, conds, *arguments)
            names = [next(n for n, c in self._guider.conds.items() if c is given) for given in conds]
            rows.update(zip(names, self._roles, strict=True))
            return result

    texts = conditioning("sd15")
    model = applied(model_of("sd15"), adapter)
    if guider == "dual":
        instance = Guider_DualCFG(model)
        instance.set_cfg(4.0, 2.0)
        instance.set_conds(texts["positive"], texts["positive"], texts["negative"])
        expected = {"positive": 1, "middle": 1, "negative": 0}
    else:
        instance = Guider_PerpNeg(model)
        instance.set_conds(texts["positive"], texts["negative"], texts["negative"])
        instance.set_cfg(4.0, 1.0)
        expected = {"positive": 1, "negative": 0, "empty_negative_prompt": 0}
    noise = random(*LATENT_SHAPE, seed=3)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(comfyui, "_SamplingRun", Noted)
        instance.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            torch.tensor([10.0, 2.0, 0.0]),
            seed=1,
        )
    assert rows == expected


def test_stacked_photos_and_their_weights(adapter):
    model = model_of("sd15")
    one = {name: tensor[:1] for name, tensor in features(1).items()}
    twice = {
        name: tensor if name == "zero_hidden_states" else tensor.repeat(2, *[1] * (tensor.ndim - 1))
        for name, tensor in one.items()
    }
    assert_equal_but_for_rounding(
        sampled(applied(model, adapter, Embeds(**twice))), sampled(applied(model, adapter, Embeds(**one)))
    )
    two = features(2)
    even = sampled(applied(model, adapter, Embeds(**two, token_weights=torch.tensor([1.0, 1.0]))))
    uneven = sampled(applied(model, adapter, Embeds(**two, token_weights=torch.tensor([1.5, 0.5]))))
    assert torch.equal(even, sampled(applied(model, adapter, Embeds(**two))))
    assert not torch.equal(even, uneven)
