"""Nothing leaks: the upstream MODEL samples bit-identically before and after, whatever happened in between."""

import gc
import weakref

import comfy.model_management
import pytest
import torch

from ..support.scenes import (
    FAMILIES,
    applied,
    assert_equal_but_for_rounding,
    features,
    loaded_adapter,
    model_of,
    sampled,
)


@pytest.fixture(scope="module")
def plain():
    return sampled(model_of("sd15"))


@pytest.fixture(autouse=True)
def upstream_is_untouched(plain):
    """Before and after every test of this file: the same pictures, nothing registered on the shared MODEL."""
    model = model_of("sd15")
    yield
    assert torch.equal(sampled(model), plain)
    assert model.wrappers == {} and model.patches == {} and model.callbacks == {} and model.attachments == {}
    assert model.model_options == {"transformer_options": {}}


def test_re_runs_are_identical(adapter, plain):
    model = applied(model_of("sd15"), adapter)
    first = sampled(model)
    assert not torch.equal(first, plain)
    for _ in range(3):
        assert torch.equal(sampled(model), first)
        assert torch.equal(sampled(applied(model_of("sd15"), adapter)), first)


def test_two_branches_from_one_model(adapter, plain):
    weak, strong = (applied(model_of("sd15"), adapter, face_weight=weight) for weight in (0.3, 1.0))
    weak_alone, strong_alone = sampled(weak), sampled(strong)
    assert not torch.equal(weak_alone, strong_alone)
    assert torch.equal(sampled(strong), strong_alone)
    assert torch.equal(sampled(weak), weak_alone)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["base", "faceid"])
def test_weight_zero_is_no_adapter(family, layout):
    model = model_of(family)
    assert torch.equal(
        sampled(applied(model, loaded_adapter(layout, family), face_weight=0.0), family), sampled(model, family)
    )


def test_two_stacked_adapters(adapter, plain):
    second = loaded_adapter("base", seed=60)
    one, two = applied(model_of("sd15"), adapter), applied(model_of("sd15"), second)
    both, reverse = applied(one, second), applied(two, adapter)
    sampled_both = sampled(both)
    assert not torch.equal(sampled_both, sampled(one))
    assert not torch.equal(sampled_both, sampled(two))
    # The sum does not depend on the order of its terms, but for rounding.
    assert_equal_but_for_rounding(sampled(reverse), sampled_both)
    assert torch.equal(sampled(applied(one, second, face_weight=0.0)), sampled(one))


def test_the_same_adapter_twice_is_the_sum_of_its_weights(adapter):
    twice = applied(applied(model_of("sd15"), adapter, face_weight=0.25), adapter, face_weight=0.5)
    assert_equal_but_for_rounding(sampled(twice), sampled(applied(model_of("sd15"), adapter, face_weight=0.75)))


def test_interrupt_in_the_middle_of_sampling(adapter):
    model = applied(model_of("sd15"), adapter)
    before = sampled(model)

    def interrupt(step, x0, x, total_steps):
        if step == 1:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sampled(model, callback=interrupt)
    assert torch.equal(sampled(model), before)


def test_failed_run(adapter):
    model = applied(model_of("sd15"), adapter)
    before = sampled(model)

    def fail(step, x0, x, total_steps):
        raise RuntimeError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        sampled(model, callback=fail)
    assert torch.equal(sampled(model), before)


def test_key_values_are_gone_after_sampling(adapter):
    """Also after a failure, whose traceback keeps every frame alive."""
    from bolid.hosts import comfyui

    tensors = []

    class Noted(comfyui._SamplingRun):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            for by_branch in self._key_values.values():
                tensors.extend(weakref.ref(kv.key) for layers in by_branch for roles in layers.values() for kv in roles)

    def fail(step, x0, x, total_steps):
        raise RuntimeError("out of paint")

    model = applied(model_of("sd15"), adapter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfyui, "_SamplingRun", Noted)
        with pytest.raises(RuntimeError) as caught:
            sampled(model, callback=fail)
        gc.collect()
        assert len(tensors) == 2 * 16
        assert not [tensor for tensor in tensors if tensor() is not None]
        assert caught.value.__traceback__ is not None


def test_adapter_weights_are_evictable_while_sampling(adapter):
    """Once K', V' exist the host may take the weights' memory; the picture does not change."""
    model = applied(model_of("sd15"), adapter)
    before = sampled(model)
    evicted = []

    def evict(step, x0, x, total_steps):
        for loaded in list(comfy.model_management.current_loaded_models):
            if loaded.model is adapter.patcher:
                loaded.model_unload()
                comfy.model_management.current_loaded_models.remove(loaded)
                for parameter in adapter.adapter.parameters():
                    parameter.data = torch.full_like(parameter, float("nan"))
                evicted.append(step)

    weights = {name: tensor.clone() for name, tensor in adapter.adapter.state_dict().items()}
    try:
        assert torch.equal(sampled(model, callback=evict), before)
        assert evicted == [0]
    finally:
        for name, parameter in adapter.adapter.named_parameters():
            parameter.data = weights[name]
    assert torch.equal(sampled(model), before)


def test_embeds_and_weights_are_not_changed(adapter):
    from bolid.models.references import Embeds

    embeds = Embeds(**features())
    before = {name: tensor.clone() for name, tensor in features().items()}
    weights = {name: tensor.clone() for name, tensor in adapter.adapter.state_dict().items()}
    sampled(applied(model_of("sd15"), adapter, embeds))
    assert all(torch.equal(getattr(embeds, name), tensor) for name, tensor in before.items())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in adapter.adapter.state_dict().items())


@pytest.mark.parametrize(("family", "layers"), [("sd15", 16), ("sdxl", 70)])
@pytest.mark.parametrize("skip_middle", [False, True])
def test_every_layer_fires(family, layers, skip_middle):
    from bolid.hosts import comfyui

    fired = set()

    class Noted(comfyui._SamplingRun):
        def _mask_for_batch(self, number, query, extra_options):
            fired.add((*extra_options["block"], extra_options["block_index"]))
            return super()._mask_for_batch(number, query, extra_options)

    model = applied(model_of(family), loaded_adapter("base", family), skip_middle=skip_middle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfyui, "_SamplingRun", Noted)
        sampled(model, family, steps=1)
    middle = {"sd15": 1, "sdxl": 10}[family]
    assert len(fired) == layers - (middle if skip_middle else 0)
    assert any(block == "middle" for block, _, _ in fired) is not skip_middle
