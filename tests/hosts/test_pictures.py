"""Photos and masks that belong to one picture of the batch, whole and in context windows."""

import comfy.context_windows
import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP

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
)

PICTURES = 4
NOISE = random(PICTURES, *LATENT_SHAPE[1:], seed=9)


@pytest.fixture(scope="module")
def model():
    return model_of("sd15")


def photos(*numbers: int, per_picture: bool = True) -> Embeds:
    """Some of four photos."""
    given = {
        name: tensor if name == "zero_hidden_states" else tensor[list(numbers)]
        for name, tensor in features(PICTURES).items()
    }
    return Embeds(**given, per_picture=per_picture)


def run(model, noise=NOISE, positive=None, steps=1):
    texts = conditioning("sd15")
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, 4.0, "euler", "normal", positive or texts["positive"], texts["negative"],
            torch.zeros_like(noise), seed=1, disable_pbar=True,
        )  # fmt: skip


def one_by_one(model, adapter, numbers, **arguments):
    """Every picture in a run of its own, from one photo."""
    return torch.cat(
        [
            run(applied(model, adapter, photos(number, per_picture=False)), noise, **arguments)
            for number, noise in zip(numbers, NOISE.split(1), strict=True)
        ]
    )


@pytest.fixture(scope="module")
def expected(model, adapter):
    return one_by_one(model, adapter, range(PICTURES))


def test_a_photo_for_every_picture(model, adapter, expected):
    per_picture = applied(model, adapter, photos(*range(PICTURES)))
    assert_equal_but_for_rounding(run(per_picture), expected)
    assert torch.equal(run(per_picture), run(per_picture))
    assert (expected - run(applied(model, adapter, photos(0)))).abs().max() > 1e-2


def test_the_last_photo_serves_all_that_follow(model, adapter):
    assert torch.equal(run(applied(model, adapter, photos(0, 1))), run(applied(model, adapter, photos(0, 1, 1, 1))))


def test_under_several_texts_and_with_photos_on_both_sides(model, adapter):
    """Two positive texts share a call, the areas of unequal size do not; all find their rows."""
    texts = conditioning("sd15")
    left, right = torch.zeros(1, 16, 24), torch.zeros(1, 16, 24)
    left[..., :12], right[..., 12:] = 1, 1
    several = [
        [context, {**options, "mask": mask, "mask_strength": 1.0}]
        for (context, options), mask in zip(texts["positive"] + texts["negative"], (left, right), strict=True)
    ]
    several.append([texts["positive"][0][0], {**texts["positive"][0][1], "area": (8, 16, 0, 8)}])
    expected = one_by_one(model, adapter, range(PICTURES), positive=several)
    per_picture = applied(model, adapter, photos(*range(PICTURES)))
    assert_equal_but_for_rounding(run(per_picture, positive=several), expected)
    one = run(applied(model, adapter, photos(0), face_negative=photos(1, 2, 3, 1)))
    other = run(applied(model, adapter, photos(0), face_negative=photos(2)), NOISE[1:2])
    assert_equal_but_for_rounding(one[1:2], other)


def test_more_photos_than_pictures(model, adapter):
    per_picture = applied(model, adapter, photos(0, 1, 2))
    with pytest.raises(ValueError, match="one photo per picture, but 3 photos for 2 pictures. Make the batch"):
        run(per_picture, NOISE[:2])
    assert run(per_picture, NOISE[:3]).shape[0] == 3


# Context windows. The UNet knows no time, so a picture does not depend on the window it is in.


def in_windows(model, schedule="standard_static", causal_window_fix=True):
    """ComfyUI's own 'Context Windows (Manual)'."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return ContextWindowsManualNode.execute(
        model, 2, 1, schedule, 1, False, "pyramid", 0, False, causal_window_fix=causal_window_fix
    ).result[0]


def in_animatediff_windows(model, *, tells=True):
    """What AnimateDiff-Evolved's context options do to a MODEL, as far as other packs see it."""

    def sliding(executor, model, conds, x_in, timestep, model_options):
        results = [torch.zeros_like(x_in) for _ in conds]
        for indices in ([2, 3], [0, 1]):
            if tells:
                exposed = {"full_length": PICTURES, "context_length": 2, "sub_idxs": indices}
                model_options["transformer_options"]["ad_params"] = exposed
            parts = executor(model, conds, x_in[indices], timestep[indices], model_options)
            for result, part in zip(results, parts, strict=True):
                result[indices] = part
        return results

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "ADE", sliding)
    return model


@pytest.mark.parametrize(
    "windows",
    [
        in_windows,
        lambda model: in_windows(model, "looped_uniform", causal_window_fix=False),
        in_animatediff_windows,
    ],
    ids=["static", "looped", "animatediff"],
)
def test_photos_and_masks_follow_their_pictures_into_windows(model, adapter, expected, windows):
    per_picture = applied(model, adapter, photos(*range(PICTURES)))
    windowed = windows(per_picture)
    assert_equal_but_for_rounding(run(windowed), expected)
    assert_equal_but_for_rounding(run(windowed, steps=2), run(per_picture, steps=2))
    masks = torch.zeros(PICTURES, 16, 24)
    for picture, mask in enumerate(masks):
        mask[:, 6 * picture : 6 * picture + 6] = 1
    masked = applied(model, adapter, photos(0), attn_mask=masks)
    assert_equal_but_for_rounding(run(windows(masked)), run(masked))


def test_windows_that_do_not_tell_their_pictures(model, adapter):
    silent = in_animatediff_windows(applied(model, adapter, photos(0, 1, 2)), tells=False)
    with pytest.raises(RuntimeError, match="computes 2 pictures at once where 4 were expected"):
        run(silent)
    same_for_all = in_animatediff_windows(applied(model, adapter, photos(0)), tells=False)
    assert_equal_but_for_rounding(run(same_for_all), run(applied(model, adapter, photos(0))))


def test_roles_in_windows_of_other_guiders(model):
    """Context windows make new lists of conditionings: they are recognised by their entries."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    def guided(model):
        texts = conditioning("sd15")
        guider = Guider_DualCFG(model)
        guider.set_cfg(4.0, 2.0)
        guider.set_conds(texts["positive"], texts["positive"], texts["negative"])
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([10.0, 0.0])
        with torch.inference_mode():
            return guider.sample(NOISE, torch.zeros_like(NOISE), sampler, sigmas, seed=1)

    one = applied(model, loaded_adapter("base"))
    assert_equal_but_for_rounding(guided(in_windows(one)), guided(one))
