"""One training step: what it trains and what stays, gates, dropping, batches of unlike people, where adapters begin."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bolid.hosts.diffusers import attach, cross_attention_layers, text_projections
from bolid.models.adapter import Adapter
from bolid.models.adapter_file import read_adapter, write_adapter
from bolid.models.body import Body
from bolid.models.branch import CONDITIONAL, UNCONDITIONAL, Branch
from bolid.models.keypoint_network import (
    KeypointNetwork,
    KeypointNetworkLayout,
    read_keypoint_network,
    write_keypoint_network,
)
from bolid.models.layer_weights import layer_weights
from bolid.models.network_file import write_network
from bolid.models.pooling import pool
from bolid.models.references import Embeds, PhotoReport, References
from bolid.models.self_attention import PHOTOS, aggregate, fill_places
from bolid.training.adapter_step import KNOWN_TOKENS_SHARE, AdapterStep, LossNetworks, initial_adapter
from bolid.training.base import (
    Denoiser,
    load_autoencoder,
    load_denoiser,
    load_image_encoder,
    load_text_encoders,
    to_pictures,
)
from bolid.training.batches import Batch, stacked
from bolid.training.config import AdapterTraining, LossSettings
from bolid.training.image_text import load_image_text

from ..support.adapter_files import adapter_state_dict, write_bin, write_safetensors
from ..support.bodies import drawn_lengths, random_view
from ..support.scenes import random
from ..support.small_models import ip_adapter_layers
from ..support.toy_training import SIDE, write_toy_base
from .conftest import Toy

CPU = torch.device("cpu")
WIDTH = 64
"""Of everything that the toy image encoder says."""
GRID = 17
ZERO = random(GRID, WIDTH, seed=900)
EMPTY_TEXT = 901

EXTRA = ("identity", "clip", "clip_image")
ALL_TERMS = LossSettings().model_copy(update=dict.fromkeys(EXTRA, 1.0))

METHODS: dict[str, dict[str, Any]] = {
    "base": {"method": "ip_adapter"},
    "plus": {"method": "ip_adapter", "adapter": {"kind": "plus", "inner_dim": 64, "depth": 1}},
    "faceid": {"method": "ip_adapter", "adapter": {"kind": "faceid"}},
    "base aggregator": {"method": "self_attention"},
    "plus aggregator": {"method": "self_attention", "adapter": {"kind": "plus", "inner_dim": 64, "depth": 1}},
    "faceid aggregator": {"method": "self_attention", "adapter": {"kind": "faceid", "aggregator_depth": 1}},
    "bolid": {"method": "bolid"},
    "bolid aggregator": {
        "method": "bolid",
        "adapter": {"kind": "plus", "inner_dim": 64, "depth": 1, "aggregator_depth": 1, "body": {"dim": 64}},
    },
}

CLEAR, NOISY = 100, 600
"""Timesteps above and below the gate."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The toy world's networks, as a run loads them."""

    base: Callable[[str], Path]
    denoiser: Callable[..., Denoiser]
    networks: LossNetworks
    modules: dict[str, nn.Module]


@pytest.fixture(scope="module")
def frozen(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    folder = tmp_path_factory.mktemp("frozen")

    @cache
    def base(kind: str) -> Path:
        if kind == "sdxl":
            return write_toy_base(folder / kind, family="sdxl", trained=False)
        if kind == "v_prediction":
            return write_toy_base(folder / kind, prediction_type="v_prediction", trained=False)
        return toy.base

    @cache
    def loaded(kind: str, dtype: torch.dtype) -> Denoiser:
        return load_denoiser(base(kind), dtype=dtype)

    def denoiser(kind: str = "epsilon", dtype: torch.dtype = torch.float32) -> Denoiser:
        """One with no adapter in it."""
        given = loaded(kind, dtype)
        return replace(given, unet=copy.deepcopy(given.unet))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = KeypointNetwork(KeypointNetworkLayout(latent_channels=4, width=8, depth=2))
    path = folder / "keypoints.safetensors"
    write_keypoint_network(path, network, latent_space="toy")
    keypoints = read_keypoint_network(path).network
    autoencoder = load_autoencoder(toy.base)
    clip = load_image_text(LossSettings(clip=1, clip_model=f"local-dir:{toy.clip}"), device=CPU)
    return Frozen(
        base=base,
        denoiser=denoiser,
        networks=LossNetworks(
            keypoints=keypoints, decode=partial(to_pictures, autoencoder), encode_image=clip.encode_image
        ),
        modules={
            "keypoints": keypoints,
            "vae": autoencoder,
            "clip": clip.model,
            "image encoder": load_image_encoder(toy.image_encoder),
            "text encoder": load_text_encoders(toy.base)[0].model,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A step and what it was made of."""

    step: AdapterStep
    adapter: Adapter
    denoiser: Denoiser
    config: AdapterTraining


Scenes = Callable[..., Scene]


@pytest.fixture
def scene(toy: Toy, frozen: Frozen) -> Scenes:
    def make(
        method: str = "bolid",
        *,
        base: str = "epsilon",
        loss: LossSettings = ALL_TERMS,
        fresh: bool = False,
        dtype: torch.dtype = torch.float32,
        networks: LossNetworks = frozen.networks,
    ) -> Scene:
        config = config_of(toy, method, base={"path": str(frozen.base(base))})
        denoiser = frozen.denoiser(base, dtype)
        adapter = initial_adapter(config, denoiser, image_embed_dim=WIDTH, hidden_size=WIDTH)
        if not fresh:
            stir(adapter)
        step = AdapterStep(adapter, denoiser=denoiser, networks=networks, settings=loss, zero_hidden_states=ZERO)
        return Scene(step=step, adapter=adapter, denoiser=denoiser, config=config)

    return make


def config_of(toy: Toy, method: str = "bolid", **sections: Any) -> AdapterTraining:
    chosen = METHODS[method]
    changes = sections.pop("adapter", {})
    adapter = {**chosen.get("adapter", {}), **changes}
    if "initial" in changes:  # which decides on the layout of the face branch
        adapter = {name: value for name, value in adapter.items() if name not in ("kind", "inner_dim", "depth")}
    values = toy.values(Path("run"), **sections)
    values["adapter"] |= adapter
    return AdapterTraining(**values | {"method": chosen["method"]})


def stir(adapter: Adapter) -> None:
    """As after training: no weight is zero or the UNet's any more."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def a_body(person: int, photos: int, *, grids: int | None, target_pose: bool = True) -> Body:
    """Somebody on photos that do not show all joints.

    Args:
        grids: photos of which there are image features; None: there is no image encoder.
    """
    generator = torch.Generator().manual_seed(person)
    lengths = drawn_lengths(generator)
    keypoints = torch.stack([random_view(lengths, generator) for _ in range(photos)])
    keypoints[:, -1 - person % 3 :, 2] = 0.1  # ankles or knees
    return Body(
        keypoints=keypoints,
        image_sizes=torch.tensor([[512, 512]] * photos),
        hidden_states=random(grids, GRID, WIDTH, seed=40 + person) if grids else None,
        target_pose=random_view(lengths, generator) if target_pose else None,
    )


def row(
    person: int,
    *,
    photos: int = 3,
    grids: int = 2,
    image: bool = True,
    target_pose: bool = True,
    timesteps: int = CLEAR,
    has_text: bool = True,
    has_face: bool = True,
    has_body: bool = True,
    width: int = 32,
) -> Batch:
    """One sample of `Batches`, without the batch.

    Args:
        image: whether the body branch gets its image features.
        width: of the text; other than 32: SDXL's.
    """
    body = a_body(person, photos, grids=grids, target_pose=target_pose)
    joints = random_view(drawn_lengths(torch.Generator().manual_seed(person)), torch.Generator().manual_seed(7))
    joints[person % 12] = 0.0
    grid = ZERO if body.hidden_states is None else body.hidden_states.flatten(0, 1)
    return Batch(
        names=(f"{person}.png",),
        latents=random(4, 8, 8, seed=100 + person),
        noise=random(4, 8, 8, seed=200 + person),
        timesteps=torch.tensor(timesteps),
        text=random(77, width, seed=300 + person if has_text else EMPTY_TEXT),
        pooled_text=None if width == 32 else random(32, seed=400 + person),
        time_ids=torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE], dtype=torch.float32),
        joints=joints,
        features=reference_features(person, photos),
        in_use=torch.ones(photos, dtype=torch.bool),
        places=fill_places(photos, seed=person),
        has_text=torch.tensor(has_text),
        has_face=torch.tensor(has_face),
        has_body=torch.tensor(has_body),
        proportions=body.proportions,
        seen=body.seen,
        target_pose=body.target_pose if target_pose else torch.zeros(12, 3),
        body_image=grid,
        body_image_in_use=torch.full((len(grid),), grids > 0 and image),
        clip_text=functional.normalize(random(64, seed=500 + person), dim=0),
        clip_image=functional.normalize(random(64, seed=600 + person), dim=0),
    )


def reference_features(person: int, photos: int) -> dict[str, torch.Tensor]:
    return {
        "image_embeds": random(photos, WIDTH, seed=700 + person),
        "hidden_states": random(photos, GRID, WIDTH, seed=800 + person),
        "face_embeds": functional.normalize(random(photos, 512, seed=1000 + person), dim=-1),
    }


def for_method(batch: Batch, adapter: Adapter) -> Batch:
    """Without what this adapter does not read; `Batches` leaves it out."""
    changes: dict[str, Any] = {
        "features": {name: batch.features[name] for name in adapter.layout.feature_widths},
    }
    if adapter.layout.body is None:
        names = ("proportions", "seen", "target_pose", "body_image", "body_image_in_use")
        changes |= dict.fromkeys(names) | {"has_body": torch.zeros_like(batch.has_body)}
    return replace(batch, **changes)


def batch_of(given: Scene, *rows: Batch) -> Batch:
    return stacked([for_method(one, given.adapter) for one in rows])


def mixed_rows() -> list[Batch]:
    """Every condition there, and every condition dropped."""
    return [
        row(0),
        row(1, image=False, timesteps=CLEAR + 50),
        row(2, has_text=False, target_pose=False, timesteps=CLEAR + 100),
        row(3, has_face=False, timesteps=CLEAR - 50),
        row(4, has_body=False),
        row(5, has_face=False, has_body=False, has_text=False),
        row(6, timesteps=NOISY),
        row(7, grids=0, timesteps=CLEAR + 200),
    ]


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def part_of(name: str) -> str:
    return name.split(".")[0]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Largest difference as a fraction of the largest value."""
    atol = tolerance * max(1e-6, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# What is trained, and what stays


@pytest.mark.parametrize("base", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("term", EXTRA)
def test_every_term_alone_moves_every_weight_of_both_branches(
    term: str, base: str, scene: Scenes, frozen: Frozen
) -> None:
    given = scene("bolid aggregator", base=base, loss=LossSettings().model_copy(update={term: 1.0}))
    assert given.denoiser.prediction_type == base and given.step.extra_terms == {term: 1.0}
    terms = given.step(batch_of(given, *mixed_rows()), every_term=True)
    assert set(terms) == {"reconstruction", term}
    terms[term].mean().backward()
    found = gradients(given.adapter)
    assert set(found) == {name for name, _ in given.adapter.named_parameters()}
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    for part in ("image_proj", "ip_adapter", "aggregator", "body_encoder", "body_adapter"):
        norm = torch.stack([gradient.norm() for name, gradient in found.items() if part_of(name) == part]).norm()
        assert norm > 1e-5, part
    for name, module in {"unet": given.denoiser.unet, **frozen.modules}.items():
        assert not gradients(module), name
        assert not any(parameter.requires_grad for parameter in module.parameters()), name


@pytest.mark.parametrize("term", EXTRA)
def test_untrained_branches_can_begin_to_learn(term: str, scene: Scenes) -> None:
    """Their values are zero, so at first only they learn; what makes their tokens does after one step."""
    given = scene("bolid", fresh=True)
    optimizer = torch.optim.SGD(given.step.parameters(), lr=1.0)
    branches = {"ip_adapter", "body_adapter"}
    for trained in (branches, {*branches, "image_proj", "body_encoder"}):
        optimizer.zero_grad()
        given.step(batch_of(given, *mixed_rows()), every_term=True)[term].mean().backward()
        moved = {part_of(name) for name, gradient in gradients(given.adapter).items() if gradient.abs().max() > 0}
        assert moved == trained
        optimizer.step()


def test_frozen_parts_stay_as_they_are_over_real_steps(scene: Scenes, frozen: Frozen) -> None:
    given = scene("bolid aggregator", fresh=True)
    modules = {"unet": given.denoiser.unet, **frozen.modules}
    before = {name: digest(module) for name, module in modules.items()}
    fresh = {name: tensor.clone() for name, tensor in given.adapter.state_dict().items()}
    assert {id(weight) for weight in given.step.parameters()} == {id(weight) for weight in given.adapter.parameters()}
    assert all(key.startswith("adapter.") for key in given.step.state_dict())
    optimizer = torch.optim.AdamW(given.step.parameters(), lr=1e-3)
    batch, losses = batch_of(given, *mixed_rows()), []
    for _ in range(4):
        loss = sum(value.mean() for value in given.step(batch, every_term=True).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {name: digest(module) for name, module in modules.items()} == before
    assert not any(gradients(module) for module in modules.values())
    unmoved = [name for name, tensor in given.adapter.state_dict().items() if torch.equal(tensor, fresh[name])]
    assert not unmoved


# Gates


def by_hand(given: Scene, batch: Batch, networks: LossNetworks) -> dict[str, torch.Tensor]:
    """[b] values of the terms without gates, and ᾱ_t, from the formulas."""
    noisy, prediction = given.step.predict(batch)
    kept = given.denoiser.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise)
    latents = (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()
    if given.denoiser.prediction_type == "v_prediction":
        latents = kept.sqrt() * noisy - (1 - kept).sqrt() * prediction
    seen = batch.joints[..., 2] > 0
    distances = (networks.keypoints(latents).positions - batch.joints[..., :2]).square().sum(dim=-1)
    embeds = networks.encode_image(networks.decode(latents))
    return {
        "alpha_bar": kept.flatten(),
        "identity": torch.stack([values[mask].mean() for values, mask in zip(distances, seen, strict=True)]),
        "clip": 1 - functional.cosine_similarity(embeds, batch.clip_text),
        "clip_image": 1 - functional.cosine_similarity(embeds, batch.clip_image),
    }


@torch.no_grad()
@pytest.mark.parametrize("base", ["epsilon", "v_prediction"])
def test_terms_are_weighted_by_alpha_bar_and_count_only_above_the_gate(
    base: str, scene: Scenes, frozen: Frozen
) -> None:
    timesteps = (999, 0, 354, 200, 355, 353)
    schedule = scene(base=base).denoiser.alphas_cumprod
    gate = schedule[354].item()
    given = scene(base=base, loss=ALL_TERMS.model_copy(update={"min_alpha_bar": gate, "bone_ratio": 0.0}))
    batch = batch_of(given, *(row(person, timesteps=at) for person, at in enumerate(timesteps)))
    expected, terms = by_hand(given, batch, frozen.networks), given.step(batch, every_term=True)
    above = torch.tensor(timesteps) < 354
    weights = torch.where(above, expected["alpha_bar"], 0.0)
    for name in EXTRA:
        assert_close(terms[name], weights * expected[name], 1e-4)
        assert torch.equal(terms[name] > 0, above) and not terms[name][~above].any(), name
    assert (terms["reconstruction"] > 0).all()


@torch.no_grad()
def test_the_gate_of_the_default_is_half(scene: Scenes) -> None:
    given = scene()
    schedule = given.denoiser.alphas_cumprod
    last = int((schedule > 0.5).sum()) - 1
    terms = given.step(batch_of(given, row(0, timesteps=last), row(0, timesteps=last + 1)), every_term=True)
    for name in EXTRA:
        assert terms[name][0] > 0 and terms[name][1] == 0
    none = given.step(batch_of(given, row(0, timesteps=999)), every_term=True)
    assert set(none) == {"reconstruction", *EXTRA} and not any(none[name].any() for name in EXTRA)


@torch.no_grad()
def test_bone_ratios_are_a_part_of_the_keypoint_term(scene: Scenes) -> None:
    values = []
    for weight in (0.0, 1.0, 2.0):
        given = scene("base", loss=ALL_TERMS.model_copy(update={"bone_ratio": weight}))
        values.append(given.step(batch_of(given, row(0), row(1)), every_term=True)["identity"])
    assert (values[1] > values[0]).all()
    torch.testing.assert_close(values[2] - values[1], values[1] - values[0])


@torch.no_grad()
def test_a_term_counts_only_where_its_condition_is_there(scene: Scenes) -> None:
    def terms(given: Scene, **conditions: bool) -> set[str]:
        values = given.step(batch_of(given, row(0), row(1, **conditions), row(2)), every_term=True)
        assert all(values[name][0] > 0 and values[name][2] > 0 for name in EXTRA)
        return {name for name in EXTRA if values[name][1] > 0}

    given = scene("bolid")
    assert terms(given) == {"identity", "clip", "clip_image"}
    assert terms(given, has_text=False) == {"identity", "clip_image"}
    assert terms(given, has_face=False) == {"identity", "clip", "clip_image"}
    assert terms(given, has_body=False) == {"clip", "clip_image"}  # the face does not know the pose
    assert terms(given, has_face=False, has_body=False) == {"clip"}
    assert terms(given, has_face=False, has_body=False, has_text=False) == set()
    without_body = scene("base")
    assert terms(without_body) == {"identity", "clip", "clip_image"}
    assert terms(without_body, has_face=False) == {"clip"}


@torch.no_grad()
def test_a_first_stage_is_reconstruction_alone(scene: Scenes) -> None:
    """`AdapterTask.loss_terms` chooses by loss.start_step; see test_train_and_apply."""
    given = scene(networks=LossNetworks())  # what is not used need not be there
    batch = batch_of(given, row(0), row(1))
    terms = given.step(batch, every_term=False)
    assert set(terms) == {"reconstruction"}
    _, prediction = given.step.predict(batch)
    torch.testing.assert_close(terms["reconstruction"], (prediction - batch.noise).square().flatten(1).mean(dim=1))


@torch.no_grad()
@pytest.mark.parametrize("base", ["epsilon", "v_prediction"])
def test_min_snr_weighs_samples_by_their_noise(base: str, scene: Scenes) -> None:
    values = []
    for gamma in (None, 5.0):
        given = scene("base", base=base, loss=LossSettings(min_snr_gamma=gamma))
        batch = batch_of(given, row(0, timesteps=20), row(1, timesteps=900))
        values.append(given.step(batch, every_term=False)["reconstruction"])
    plain, capped = values
    kept = given.denoiser.alphas_cumprod[[20, 900]]
    snr = kept / (1 - kept)
    expected = snr.clamp(max=5) / (snr if base == "epsilon" else snr + 1)
    torch.testing.assert_close(capped / plain, expected)


def test_the_mean_of_two_half_batches_is_that_of_the_whole(scene: Scenes) -> None:
    """Samples that a gate leaves out count as zero: one half has one of them, the other three."""
    given = scene("bolid aggregator")
    rows = [*mixed_rows()[:4], row(8, timesteps=NOISY), row(9, has_text=False), row(10, timesteps=900), row(11)]
    halves, whole = (batch_of(given, *rows[:4]), batch_of(given, *rows[4:])), batch_of(given, *rows)

    def values_and_gradient(*batches: Batch) -> tuple[dict[str, float], torch.Tensor]:
        given.adapter.zero_grad()
        means: dict[str, float] = {}
        for batch in batches:
            terms = given.step(batch, every_term=True)
            means = {name: means.get(name, 0) + value.mean().item() / len(batches) for name, value in terms.items()}
            (sum(value.mean() for value in terms.values()) / len(batches)).backward()
        return means, torch.cat([gradient.flatten() for gradient in gradients(given.adapter).values()])

    (one, one_gradient), (two, two_gradient) = values_and_gradient(whole), values_and_gradient(*halves)
    assert one == pytest.approx(two, rel=1e-5) and set(one) == {"reconstruction", *EXTRA}
    assert_close(two_gradient, one_gradient, 1e-4)


# Dropping


def embeds_of(given: Scene, person: int, photos: int) -> Embeds:
    """What the aggregating node makes of the same photos."""
    references = References(
        **reference_features(person, photos),
        zero_hidden_states=ZERO.unsqueeze(0),
        has_face=torch.ones(photos, dtype=torch.bool),
        report=tuple(PhotoReport(photo=number + 1, status="kept") for number in range(photos)),
    )
    given.adapter.check_features(references)
    if given.adapter.aggregator is None:
        return pool(references, "avg")
    return aggregate(references, given.adapter.aggregator, fill_seed=person, device="cpu")


def face_tokens(given: Scene, person: int, photos: int) -> tuple[torch.Tensor, torch.Tensor]:
    return given.adapter.face_tokens(embeds_of(given, person, photos), device="cpu", dtype=torch.float32)


def branches_of(given: Scene, person: int, photos: int, body: Body | None) -> list[Branch]:
    """What the applying node makes of a person."""
    weights = layer_weights(cross_attention_layers(given.denoiser.unet), 1.0)
    adapter = given.adapter
    branches = [
        Branch(
            tokens=partial(adapter.face_tokens, embeds_of(given, person, photos)),
            projections=adapter.ip_adapter,
            layer_weights=weights,
        )
    ]
    if body is not None:
        adapter.check_body(body)
        branches.append(
            Branch(tokens=partial(adapter.body_tokens, body), projections=adapter.body_adapter, layer_weights=weights)
        )
    return branches


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_dropped_face_is_the_unconditional_side_of_guidance(method: str, scene: Scenes) -> None:
    given = scene(method)
    batch = batch_of(given, row(0, photos=2, has_face=False), row(1), row(2, photos=5, has_face=False))
    tokens = given.step.face_tokens(batch)
    unconditional, conditional = face_tokens(given, 1, 3)
    for number in (0, 2):
        assert_close(tokens[number : number + 1], unconditional)
    assert_close(tokens[1:2], conditional)
    assert (unconditional - conditional).abs().max() > 0.1
    ((name, width),) = given.adapter.layout.feature_widths.items()
    zero = ZERO.unsqueeze(0) if name == "hidden_states" else torch.zeros(1, width)
    torch.testing.assert_close(unconditional, given.adapter.image_proj(zero))


@torch.no_grad()
def test_a_dropped_body_adds_nothing(scene: Scenes) -> None:
    given, face_alone = scene("bolid"), scene("base")
    face = {name: weight for name, weight in given.adapter.state_dict().items() if not name.startswith("body_")}
    face_alone.adapter.load_state_dict(face)
    dropped = batch_of(given, row(0, has_body=False), row(1, has_body=False), row(2))
    _, prediction = given.step.predict(dropped)
    _, without = face_alone.step.predict(for_method(dropped, face_alone.adapter))
    assert torch.equal(prediction[:2], without[:2])
    assert (prediction[2] - without[2]).abs().max() > 1e-2
    assert not given.step.body_tokens(dropped)[:2].any()


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_all_dropped_is_the_unconditional_side_as_the_nodes_compute_it(
    method: str, scene: Scenes, frozen: Frozen
) -> None:
    given = scene(method)
    shown = batch_of(given, row(1, grids=2))
    empty = batch_of(given, row(1, grids=2, has_text=False, has_face=False, has_body=False))
    pair = batch_of(given, row(1, has_text=False, has_face=False, has_body=False), row(1))
    body = a_body(1, 3, grids=2) if given.adapter.layout.body is not None else None
    branches = branches_of(given, 1, 3, body)

    applied = frozen.denoiser()
    predictions = {}
    with attach(applied.unet) as attached:
        for name, batch, roles in (
            ("empty", empty, (UNCONDITIONAL,)),
            ("shown", shown, (CONDITIONAL,)),
            ("pair", pair, (UNCONDITIONAL, CONDITIONAL)),
        ):
            noisy, prediction = given.step.predict(batch)
            attached.condition(branches, roles=roles)
            inputs = {"text": batch.text, "pooled_text": None, "time_ids": batch.time_ids}
            predictions[name] = applied.predict(noisy, batch.timesteps, **inputs)
            assert_close(prediction, predictions[name])
            attached.condition([], roles=roles)
            bare = applied.predict(noisy, batch.timesteps, **inputs)
            assert (prediction - bare).abs().max() > 1e-2  # also the unconditional face does something
    assert (predictions["empty"] - predictions["shown"]).abs().max() > 1e-2
    assert_close(torch.cat((predictions["empty"], predictions["shown"])), predictions["pair"])


@torch.no_grad()
def test_without_branches_the_unet_is_what_it_was(scene: Scenes, frozen: Frozen) -> None:
    given = scene("bolid aggregator")
    batch = batch_of(given, row(0), row(1))
    bare = frozen.denoiser()
    noisy, prediction = given.step.predict(batch, branches=False)
    inputs = {"text": batch.text, "pooled_text": None, "time_ids": batch.time_ids}
    expected = bare.predict(noisy, batch.timesteps, **inputs)
    assert_close(prediction, expected)
    _, with_branches = given.step.predict(batch)
    assert not torch.allclose(with_branches, expected, atol=1e-2)
    given.step.set_branches(batch)
    assert torch.equal(given.step.denoise(batch, noisy, batch.timesteps), with_branches)
    given.step.set_branches(None)
    assert torch.equal(given.step.denoise(batch, noisy, batch.timesteps), prediction)


# Batches of unlike people

UNLIKE: list[dict[str, Any]] = [
    {"photos": 1, "grids": 1},
    {"photos": 9, "grids": 5},
    {"photos": 3, "grids": 3, "image": False},
    {"photos": 5, "grids": 0},
    {"photos": 2, "grids": 2, "target_pose": False, "timesteps": NOISY},
]


def with_rubbish(batch: Batch) -> Batch:
    """The same batch, with other numbers where it was filled up."""
    photos, changes = ~batch.in_use, {}
    filled = {name: values.clone() for name, values in batch.features.items()}
    for values in filled.values():
        values[photos] = 1e3
    if batch.body_image is not None:
        image = batch.body_image.clone()
        image[~batch.body_image_in_use] = 1e3
        changes["body_image"] = image
    return replace(batch, features=filled, **changes)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_the_same_as_one_by_one_and_as_what_the_nodes_compute(method: str, scene: Scenes) -> None:
    given = scene(method)
    rows = [row(person, **how) for person, how in enumerate(UNLIKE)]
    whole = batch_of(given, *rows)
    assert whole.in_use.sum(dim=1).tolist() == [1, 9, 3, 5, 2] and whole.places.shape == (5, PHOTOS)
    terms, rubbish = given.step(whole, every_term=True), given.step(with_rubbish(whole), every_term=True)
    tokens = given.step.face_tokens(whole)
    has_body = given.adapter.layout.body is not None
    body_tokens = given.step.body_tokens(whole) if has_body else None
    for number, (one, how) in enumerate(zip(rows, UNLIKE, strict=True)):
        alone = batch_of(given, one)
        assert_close(tokens[number : number + 1], given.step.face_tokens(alone))
        assert_close(tokens[number : number + 1], face_tokens(given, number, how["photos"])[1])
        if has_body:
            assert_close(body_tokens[number : number + 1], given.step.body_tokens(alone))
            grids = how["grids"] if how.get("image", True) else None
            body = a_body(number, how["photos"], grids=grids, target_pose=how.get("target_pose", True))
            expected = given.adapter.body_tokens(body, device="cpu", dtype=torch.float32)[1]
            assert_close(body_tokens[number : number + 1], expected)
        for name, value in given.step(alone, every_term=True).items():
            torch.testing.assert_close(terms[name][number : number + 1], value, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(rubbish[name][number : number + 1], value, rtol=1e-4, atol=1e-6)
    different = torch.cat([tokens.flatten(1), body_tokens.flatten(1)], dim=1) if has_body else tokens.flatten(1)
    assert torch.cdist(different, different).fill_diagonal_(1).min() > 0.1


@torch.no_grad()
def test_a_person_without_any_joint_is_finite(scene: Scenes) -> None:
    """Photos on which only a face was found, and the pose dropped."""
    given = scene("bolid")
    nobody = replace(row(0, grids=0, target_pose=False), seen=torch.zeros(12, dtype=torch.bool))
    nobody = replace(nobody, proportions=torch.zeros(7, 2), joints=torch.zeros(12, 3))
    terms = given.step(batch_of(given, nobody, row(1)), every_term=True)
    assert all(values.isfinite().all() for values in terms.values())
    assert terms["identity"][0] == 0 < terms["identity"][1]


@torch.no_grad()
def test_the_body_branch_reads_pose_proportions_and_image(scene: Scenes) -> None:
    given = scene("bolid")
    whole = row(0)
    changed = {
        "pose": row(0, target_pose=False),
        "image": row(0, image=False),
        "proportions": replace(whole, proportions=1.2 * whole.proportions),
        "joints": replace(whole, seen=~whole.seen),
    }
    tokens = given.step.body_tokens(batch_of(given, whole, *changed.values()))
    for name, other in zip(changed, tokens[1:], strict=True):
        assert (other - tokens[0]).abs().max() > 1e-3, name


# Where an adapter begins


def initial(toy: Toy, method: str, denoiser: Denoiser, **sections: Any) -> Adapter:
    return initial_adapter(config_of(toy, method, **sections), denoiser, image_embed_dim=WIDTH, hidden_size=WIDTH)


@pytest.fixture(scope="module")
def denoiser(frozen: Frozen) -> Denoiser:
    return frozen.denoiser()


def text_weights(denoiser: Denoiser) -> dict[int, torch.Tensor]:
    """K of the text by N, told by the names in the UNet's own state dict."""
    state, unet = denoiser.unet.state_dict(), denoiser.unet
    names = {number: name.removesuffix(".processor") for number, name in enumerate(unet.attn_processors)}
    return {number: state[f"{names[number]}.to_k.weight"] for number, _ in ip_adapter_layers(unet)}


@pytest.mark.parametrize("method", METHODS)
def test_fresh_keys_are_the_unets_own_and_values_zero(method: str, toy: Toy, denoiser: Denoiser) -> None:
    adapter = initial(toy, method, denoiser)
    expected = text_weights(denoiser)
    assert {int(number) for number in adapter.ip_adapter} == set(expected)
    for number, key in expected.items():
        face = adapter.ip_adapter[str(number)]
        assert torch.equal(face.to_k_ip.weight, key) and not face.to_v_ip.weight.any()
        assert face.to_k_ip.weight.data_ptr() != key.data_ptr()
        if adapter.body_adapter is not None:
            body = adapter.body_adapter[str(number)]
            assert torch.equal(body.to_k.weight, key) and not body.to_v.weight.any()
    assert (adapter.body_adapter is not None) == method.startswith("bolid")
    assert (adapter.aggregator is not None) == method.endswith("aggregator")
    for parameter in adapter.parameters():
        assert parameter.requires_grad and parameter.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in denoiser.unet.parameters())


@torch.no_grad()
def test_an_untrained_body_branch_changes_nothing(scene: Scenes) -> None:
    given = scene("bolid", fresh=True)
    rows = [row(0), row(1, target_pose=False), row(2, grids=0)]
    _, prediction = given.step.predict(batch_of(given, *rows))
    _, without = given.step.predict(batch_of(given, *(replace(one, has_body=torch.tensor(False)) for one in rows)))
    assert torch.equal(prediction, without)


def test_what_is_random_comes_from_the_seed_alone(toy: Toy, denoiser: Denoiser) -> None:
    method = "bolid aggregator"
    state = torch.get_rng_state()
    first = initial(toy, method, denoiser).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = initial(toy, method, denoiser).state_dict()
    other = initial(toy, method, denoiser, run={"seed": 1}).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {part_of(name) for name in first if not torch.equal(first[name], other[name])}
    assert differing == {"image_proj", "aggregator", "body_encoder"}


def public_file(folder: Path, layout: str, denoiser: Denoiser, **sizes: Any) -> Path:
    """A small file in a public layout, half precision, for the toy base and the toy image encoder."""
    state_dict = adapter_state_dict(
        layout,
        **{
            "layers": ip_adapter_layers(denoiser.unet),
            "cross_attention_dim": 32,
            "seed": 3,
            "image_encoder_width": WIDTH,
            "resampler_width": 64,
            "lora_rank": 4,
            "dtype": torch.float16,
            **sizes,
        },
    )
    name = f"ip-adapter-{layout}"
    if layout == "full_face":
        return write_bin(folder / f"{name}.bin", state_dict)
    return write_safetensors(folder / f"{name}.safetensors", state_dict)


@pytest.mark.parametrize("layout", ["base", "plus", "full_face", "faceid_portrait"])
@pytest.mark.parametrize("method", ["base", "base aggregator", "bolid"])
def test_a_public_file_gives_the_face_branch_and_the_rest_is_fresh(
    layout: str, method: str, toy: Toy, denoiser: Denoiser, tmp_path: Path
) -> None:
    path = public_file(tmp_path, layout, denoiser)
    section = {"adapter": {"initial": str(path)}}
    adapter = initial(toy, method, denoiser, **section)
    file = read_adapter(path).adapter
    given, found = file.state_dict(), adapter.state_dict()
    for name, tensor in given.items():
        assert tensor.dtype == torch.float16 and found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.float()), name
    assert replace(adapter.layout, aggregator_depth=0, body=None) == file.layout
    fresh = {name: tensor for name, tensor in found.items() if name not in given}
    assert {part_of(name) for name in fresh} == {
        "base": set(),
        "base aggregator": {"aggregator"},
        "bolid": {"body_encoder", "body_adapter"},
    }[method]
    for name, tensor in fresh.items():
        if name.endswith("to_v.weight") or (name.startswith("aggregator.") and ".proj_out." in name):
            assert not tensor.any(), name


def test_a_bolid_file_is_taken_over_whole(toy: Toy, denoiser: Denoiser, tmp_path: Path) -> None:
    trained = initial(toy, "bolid aggregator", denoiser)
    stir(trained)
    path = tmp_path / "earlier.safetensors"
    write_adapter(path, trained, base_model="toy", image_encoder="toy")
    # A further seed: nothing of the result may be random.
    adapter = initial(toy, "bolid aggregator", denoiser, adapter={"initial": str(path)}, run={"seed": 5})
    assert adapter.layout == trained.layout
    for name, tensor in trained.state_dict().items():
        assert torch.equal(adapter.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("bolid", {}, r"aggregator has depth 1, but the config asks for none\. Set adapter\.aggregator_depth = 1"),
        ("bolid", {"aggregator_depth": 2}, r"aggregator has depth 1, but the config asks for 2"),
        ("base", {}, r"aggregator has depth 1, but the config asks for none.*with method"),
        ("plus aggregator", {"aggregator_depth": 1}, r'has a body branch.*asks for none\. Take method = "bolid"'),
        ("bolid aggregator", {"body": {"dim": 128}}, r"has a body branch.*dim=64.*asks for .*dim=128"),
    ],
)
def test_a_bolid_file_is_not_taken_over_in_part(
    method: str, changes: dict[str, Any], message: str, toy: Toy, denoiser: Denoiser, tmp_path: Path
) -> None:
    path = tmp_path / "earlier.safetensors"
    write_adapter(path, initial(toy, "bolid aggregator", denoiser), base_model="toy", image_encoder="toy")
    with pytest.raises(ValueError, match=f"adapter.initial is earlier.safetensors, .*{message}"):
        initial(toy, method, denoiser, adapter={"initial": str(path), **changes})


def body_encoder_file(folder: Path, adapter: Adapter, **sizes: Any) -> Path:
    """A body encoder for the toy base that reads no image encoder, as `bolid world unpack` writes one."""
    path = folder / "body_encoder.safetensors"
    own = {"dim": 64, "depth": 2, "resampler_depth": 1, "num_tokens": 8, "cross_attention_dim": 32}
    state_dict = {
        key: tensor for key, tensor in adapter.body_encoder.state_dict().items() if not key.startswith("grid_in.")
    }
    write_network(path, state_dict, network="body_encoder", sizes=own | sizes)
    return path


def test_a_body_encoder_is_taken_over_but_for_what_reads_the_image_encoder(
    toy: Toy, denoiser: Denoiser, tmp_path: Path
) -> None:
    fresh = initial(toy, "bolid", denoiser)
    trained = initial(toy, "bolid", denoiser, run={"seed": 5})
    path = body_encoder_file(tmp_path, trained)
    adapter = initial(toy, "bolid", denoiser, adapter={"body_encoder": str(path)})
    for index, (_, value) in text_projections(denoiser.unet).items():
        values = adapter.body_adapter[str(index)].to_v.weight
        torch.testing.assert_close(values, KNOWN_TOKENS_SHARE * value)
        values.data.zero_()
    found = adapter.state_dict()
    for name, tensor in fresh.state_dict().items():
        taken_over = name.startswith("body_encoder.") and not name.startswith("body_encoder.grid_in.")
        expected = trained.state_dict()[name].half().float() if taken_over else tensor
        assert torch.equal(found[name], expected), name


def test_body_encoders_that_cannot_be_used(toy: Toy, denoiser: Denoiser, tmp_path: Path) -> None:
    def refused(path: Path, **changes: Any) -> str:
        with pytest.raises(ValueError) as caught:
            initial(toy, "bolid", denoiser, adapter={"body_encoder": str(path), **changes})
        return str(caught.value)

    missing = tmp_path / "missing.safetensors"
    assert refused(missing) == f"adapter.body_encoder is {missing}, but there is no such file."
    adapter = initial(toy, "bolid", denoiser)
    wide = refused(body_encoder_file(tmp_path, adapter, cross_attention_dim=64))
    assert "'cross_attention_dim': 64" in wide and wide.endswith("Give adapter.body the sizes of the file.")
    fit = body_encoder_file(tmp_path, adapter)
    assert "'dim': 128" in refused(fit, body={"dim": 128})
    earlier = tmp_path / "earlier.safetensors"
    write_adapter(earlier, adapter, base_model="toy", image_encoder="toy")
    assert "no network of the people world" in refused(earlier)
    assert "leave adapter.body_encoder out" in refused(fit, initial=str(earlier))


def test_initial_files_that_cannot_be_used(toy: Toy, denoiser: Denoiser, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(ValueError, match="adapter.initial is ") as caught:
            initial(toy, "bolid", denoiser, adapter={"initial": str(path)})
        return str(caught.value)

    assert "there is no such file" in refused(tmp_path / "missing.safetensors")
    for layout in ("faceid", "faceid_plus"):
        sizes = {"cross_attention_dim": 64} if layout == "faceid_plus" else {}
        assert "a FaceID adapter with a LoRA" in refused(public_file(tmp_path, layout, denoiser, **sizes))
    layers = ip_adapter_layers(denoiser.unet)
    wide = refused(public_file(tmp_path, "base", denoiser, cross_attention_dim=64))
    assert f"{len(layers)} layers and reads tokens of width 64" in wide and f"has {len(layers)} and 32" in wide
    few = refused(public_file(tmp_path, "base", denoiser, layers=layers[:3]))
    assert "has 3 layers" in few and "different models" in few
    narrow = [(number, 16) for number, _ in layers]
    assert "different models" in refused(public_file(tmp_path, "base", denoiser, layers=narrow))
    encoder = refused(public_file(tmp_path, "base", denoiser, image_encoder_width=1024))
    assert "reads image_embed_dim 1024, but base.image_encoder has 64" in encoder
    encoder = refused(public_file(tmp_path, "plus", denoiser, image_encoder_width=1280))
    assert "reads hidden_size 1280, but base.image_encoder has 64" in encoder
    (tmp_path / "text.safetensors").write_text("no adapter")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a readable"):
        initial(toy, "bolid", denoiser, adapter={"initial": str(tmp_path / "text.safetensors")})


# Memory, precision, SDXL


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(scene: Scenes, frozen: Frozen) -> None:
    saving = replace(
        frozen.networks, decode=lambda latents: checkpoint(frozen.networks.decode, latents, use_reentrant=False)
    )
    results, calls = {}, {}
    for name, networks in (("plain", frozen.networks), ("saving", saving)):
        given = scene("bolid aggregator", networks=networks)
        if name == "saving":
            given.denoiser.unet.enable_gradient_checkpointing()
        seen: list[str] = []
        block = given.denoiser.unet.down_blocks[0].attentions[0].transformer_blocks[0]
        block.register_forward_pre_hook(lambda *_, seen=seen: seen.append("block"))
        terms = given.step(batch_of(given, *mixed_rows()), every_term=True)
        weights = list(given.step.parameters())
        # As the loop does when it logs the norms: each term's own gradient, then that of the sum.
        alone = torch.autograd.grad(terms["clip"].mean(), weights, retain_graph=True, allow_unused=True)
        sum(value.mean() for value in terms.values()).backward()
        results[name] = terms, alone, [weight.grad for weight in weights]
        calls[name] = len(seen)
    assert calls == {"plain": 1, "saving": 3}
    (terms, alone, both), (saved_terms, saved_alone, saved_both) = results["plain"], results["saving"]
    for name in terms:
        torch.testing.assert_close(saved_terms[name], terms[name], rtol=1e-6, atol=0)
    for plain, saved in (*zip(alone, saved_alone, strict=True), *zip(both, saved_both, strict=True)):
        assert_close(saved, plain, 1e-5)


def test_half_precision_with_autocast_is_close(scene: Scenes) -> None:
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        given = scene("bolid aggregator", dtype=dtype)
        assert given.denoiser.unet.dtype == dtype
        assert {weight.dtype for weight in given.step.parameters()} == {torch.float32}
        batch = batch_of(given, *mixed_rows())
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            terms = given.step(batch, every_term=True)
            noisy, prediction = given.step.predict(batch)
        assert noisy.dtype == prediction.dtype == torch.float32
        assert {value.dtype for value in terms.values()} == {torch.float32}
        sum(value.mean() for value in terms.values()).backward()
        found = torch.cat([gradient.flatten() for gradient in gradients(given.adapter).values()])
        assert found.dtype == torch.float32 and found.isfinite().all()
        results[dtype] = terms, found
    (exact, exact_gradient), (half, half_gradient) = results.values()
    for name in exact:
        torch.testing.assert_close(half[name], exact[name], rtol=0.1, atol=0.02 * exact[name].max().item())
    assert functional.cosine_similarity(half_gradient, exact_gradient, dim=0) > 0.98


def test_sdxl_reads_the_pooled_text_and_the_sizes(scene: Scenes) -> None:
    given = scene("bolid aggregator", base="sdxl")
    rows = [row(person, width=64) for person in range(2)]
    batch = batch_of(given, *rows)
    given.step(batch, every_term=True)["reconstruction"].mean().backward()
    assert set(gradients(given.adapter)) == {name for name, _ in given.adapter.named_parameters()}
    with torch.no_grad():
        _, expected = given.step.predict(batch)
        for name, changed in (
            ("pooled_text", batch.pooled_text.flip(0)),
            ("time_ids", batch.time_ids + torch.tensor([512.0, 512, 0, 0, 0, 0])),
            ("time_ids", batch.time_ids + torch.tensor([0.0, 0, 32, 0, 0, 0])),
            ("text", batch.text.flip(0)),
        ):
            _, found = given.step.predict(replace(batch, **{name: changed}))
            assert (found - expected).abs().max() > 1e-3, name
    assert given.denoiser.family == "custom"


def test_every_field_of_a_batch_is_covered_here() -> None:
    """A new field of Batch needs a place in `row`."""
    assert {field.name for field in fields(Batch)} == set(vars(row(0)))
