"""Packs that draw a picture in parts: several tiles in a call, windows across the picture, and masks in them."""

import comfy.sample
import pytest
import torch

from bolid.models.references import Embeds

from ..support.scenes import LATENT_SHAPE, applied, assert_equal_but_for_rounding, conditioning, features, model_of

PICTURES = 2
LEFT = torch.zeros(1, LATENT_SHAPE[2], LATENT_SHAPE[3])
LEFT[..., :8] = 1


@pytest.fixture(scope="module")
def model():
    return model_of("sd15")


def run(model, pictures=PICTURES):
    texts = conditioning("sd15")
    noise = torch.randn(pictures, *LATENT_SHAPE[1:], generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 4.0, "euler", "normal", texts["positive"], texts["negative"],
            torch.zeros_like(noise), seed=1, disable_pbar=True,
        )  # fmt: skip


def in_tiles(model, *, at_once):
    """Three tiles that do not overlap, as MultiDiffusion nodes call the model: all conditionings of a tile in a row."""

    def tiled(apply_model, arguments):
        x, timestep, given = arguments["input"], arguments["timestep"], arguments["c"]
        tiles = x.split(8, dim=-1)
        drawn = []
        for first in range(0, len(tiles), at_once):
            some = tiles[first : first + at_once]
            repeated = {
                name: torch.cat([value] * len(some)) if isinstance(value, torch.Tensor) else value
                for name, value in given.items()
            }
            drawn += apply_model(torch.cat(some), torch.cat([timestep] * len(some)), **repeated).split(len(x))
        return torch.cat(drawn, dim=-1)

    model = model.clone()
    model.set_model_unet_function_wrapper(tiled)
    return model


def in_columns(model):
    """ComfyUI's own 'Context Windows (Manual)', across the picture."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return ContextWindowsManualNode.execute(
        model, 8, 0, "standard_static", 1, False, "pyramid", 3, False, causal_window_fix=False
    ).result[0]


@pytest.mark.parametrize("per_picture", [False, True])
def test_several_tiles_in_a_call_are_drawn_as_one_by_one(model, adapter, per_picture):
    adapted = applied(model, adapter, Embeds(**features(PICTURES), per_picture=per_picture))
    one_by_one = run(in_tiles(adapted, at_once=1))
    assert_equal_but_for_rounding(run(in_tiles(adapted, at_once=3)), one_by_one)
    assert_equal_but_for_rounding(run(in_tiles(adapted, at_once=2)), one_by_one)
    assert (one_by_one - run(in_tiles(model, at_once=1))).abs().max() > 1e-2


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_mask_in_tiles_is_refused(model, adapter, at_once):
    masked = applied(model, adapter, Embeds(**features()), attn_mask=LEFT)
    with pytest.raises(RuntimeError, match="draws the picture in parts of 16×8 latents"):
        run(in_tiles(masked, at_once=at_once))


def test_windows_across_the_picture_see_their_part_of_a_mask(model, adapter):
    """Of one picture: ComfyUI cannot do more of them in such windows."""
    masked, whole, plain = (
        run(in_columns(given), pictures=1)
        for given in (
            applied(model, adapter, Embeds(**features()), attn_mask=LEFT),
            applied(model, adapter, Embeds(**features())),
            model,
        )
    )
    assert_equal_but_for_rounding(masked[..., :8], whole[..., :8])
    assert_equal_but_for_rounding(masked[..., 8:], plain[..., 8:])
    assert (whole - plain).abs().amin(dim=(0, 1, 2)).max() > 1e-2
