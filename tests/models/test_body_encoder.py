"""The Body-ID encoder: shapes, what is masked, what does not matter, where gradients go; the branch of its tokens."""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bolid.models.body_encoder import BodyIDEncoder
from bolid.models.branch import Branch
from bolid.models.cross_attention import EMBEDS_SCALINGS, KeyValue, add_branch, add_branch_by_role
from bolid.models.keypoints import JOINTS

from ..support.bodies import standing
from ..support.scenes import body as small_body
from ..support.scenes import bolid_adapter, random

HIDDEN_SIZE, CROSS_ATTENTION_DIM, NUM_TOKENS, GRID_TOKENS = 24, 40, 8, 5
SIZES = {
    "hidden_size": HIDDEN_SIZE,
    "dim": 64,
    "depth": 2,
    "resampler_depth": 2,
    "num_tokens": NUM_TOKENS,
    "cross_attention_dim": CROSS_ATTENTION_DIM,
}
HIDDEN = [3, 8, 11]
"""Joints that take no part in `inputs`."""


def encoder_of(**changes) -> BodyIDEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return BodyIDEncoder(**{**SIZES, **changes})


def inputs(batch: int = 1, *, photos: int = 2, grid: bool = True, pose: bool = True) -> dict[str, torch.Tensor | None]:
    """Random bodies without the joints of `HIDDEN`."""
    seen = torch.ones(batch, len(JOINTS), dtype=torch.bool)
    seen[:, HIDDEN] = False
    target_pose = standing().repeat(batch, 1, 1)
    target_pose[..., :2] += 0.05 * random(batch, len(JOINTS), 2, seed=7)
    target_pose[:, HIDDEN] = 0
    return {
        "proportions": torch.stack((random(batch, 7, seed=8).exp(), torch.ones(batch, 7)), dim=-1),
        "seen": seen,
        "target_pose": target_pose if pose else torch.zeros_like(target_pose),
        "hidden_states": random(batch, photos * GRID_TOKENS, HIDDEN_SIZE, seed=9) if grid else None,
    }


def row(given: dict, index: int) -> dict:
    return {name: None if value is None else value[index : index + 1] for name, value in given.items()}


@torch.no_grad()
def tokens_of(encoder: BodyIDEncoder, given: dict, **changes) -> torch.Tensor:
    return encoder(**{**given, **changes})


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize(("batch", "photos", "num_tokens", "dim"), [(1, 1, 8, 64), (3, 4, 8, 64), (2, 9, 5, 128)])
def test_one_set_of_tokens_per_body(batch, photos, num_tokens, dim, pose, grid):
    encoder = encoder_of(num_tokens=num_tokens, dim=dim)
    tokens = tokens_of(encoder, inputs(batch, photos=photos, pose=pose, grid=grid))
    assert tokens.shape == (batch, num_tokens, CROSS_ATTENTION_DIM)
    assert tokens.isfinite().all()
    # The tokens differ among themselves and from body to body.
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-2
    if batch > 1:
        assert (tokens[0] - tokens[1]).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [True, False])
def test_bodies_of_a_batch_do_not_see_each_other(grid):
    encoder, given = encoder_of(), inputs(3, grid=grid)
    together = tokens_of(encoder, given)
    for index in range(3):
        assert_close(together[index], tokens_of(encoder, row(given, index))[0])
    other = {name: None if value is None else value.clone() for name, value in given.items()}
    other["proportions"][1] *= 2
    other["seen"][1] = False
    other["target_pose"][1] = 0
    if grid:
        other["hidden_states"][1] += 1
    changed = tokens_of(encoder, other)
    assert torch.equal(changed[[0, 2]], together[[0, 2]])
    assert not torch.equal(changed[1], together[1])


@pytest.mark.parametrize("grid", [True, False])
def test_nobody_is_seen(grid):
    encoder, given = encoder_of(), inputs(2, grid=grid, pose=False)
    nobody = tokens_of(encoder, given, seen=torch.zeros_like(given["seen"]))
    assert nobody.isfinite().all()
    assert not torch.equal(nobody, tokens_of(encoder, given))
    # Everything reaches the tokens through the joints.
    others = inputs(2, photos=3, pose=False) | {"seen": torch.zeros_like(given["seen"])}
    assert torch.equal(tokens_of(encoder, others), nobody)


@pytest.mark.parametrize("grid", [True, False])
def test_joints_that_take_no_part_are_masked(grid):
    encoder, given = encoder_of(), inputs(2, grid=grid)
    tokens = tokens_of(encoder, given)
    moved = given["target_pose"].clone()
    moved[:, HIDDEN, :2] = random(2, len(HIDDEN), 2, seed=1)
    assert torch.equal(tokens_of(encoder, given, target_pose=moved), tokens)
    with torch.no_grad():
        encoder.joint_embedding[:, HIDDEN] += 100 * random(1, len(HIDDEN), SIZES["dim"], seed=2)
    assert torch.equal(tokens_of(encoder, given), tokens)
    with torch.no_grad():
        encoder.joint_embedding[:, 0] += random(1, SIZES["dim"], seed=3)
    assert not torch.equal(tokens_of(encoder, given), tokens)


def test_a_joint_takes_part_if_it_is_seen_or_placed():
    encoder, given = encoder_of(), inputs()
    joint = HIDDEN[0]
    seen, placed = given["seen"].clone(), given["target_pose"].clone()
    seen[:, joint] = True
    placed[:, joint] = torch.tensor([0.3, 0.4, 0.9])
    results = [
        tokens_of(encoder, given),
        tokens_of(encoder, given, seen=seen),
        tokens_of(encoder, given, target_pose=placed),
        tokens_of(encoder, given, seen=seen, target_pose=placed),
    ]
    for first, one in enumerate(results):
        for other in results[first + 1 :]:
            assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("joint", [index for index in range(len(JOINTS)) if index not in HIDDEN])
def test_the_target_pose_places_every_joint(joint):
    encoder, given = encoder_of(), inputs()
    tokens = tokens_of(encoder, given)
    for coordinate in range(3):
        moved = given["target_pose"].clone()
        moved[:, joint, coordinate] -= 0.2
        assert (tokens_of(encoder, given, target_pose=moved) - tokens).abs().max() > 1e-4
    # Left out of the pose it is still seen, and it no longer matters where it was.
    absent = given["target_pose"].clone()
    absent[:, joint, 2] = 0
    absent_elsewhere = absent.clone()
    absent_elsewhere[:, joint, :2] = 0.9
    assert not torch.equal(tokens_of(encoder, given, target_pose=absent), tokens)
    assert torch.equal(
        tokens_of(encoder, given, target_pose=absent), tokens_of(encoder, given, target_pose=absent_elsewhere)
    )


def test_left_and_right_are_not_the_same():
    encoder, given = encoder_of(), inputs(pose=False)
    left, right = given["seen"].clone(), given["seen"].clone()
    left[:, 0], right[:, 1] = False, False
    assert (tokens_of(encoder, given, seen=left) - tokens_of(encoder, given, seen=right)).abs().max() > 1e-4


def test_every_bone_counts():
    encoder, given = encoder_of(), inputs(pose=False)
    tokens = tokens_of(encoder, given)
    for bone in range(7):
        for change in (torch.tensor([0.3, 0.0]), torch.tensor([0.0, -1.0])):
            other = given["proportions"].clone()
            other[:, bone] += change
            assert (tokens_of(encoder, given, proportions=other) - tokens).abs().max() > 1e-5


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0)])
def test_the_order_of_the_photos(order):
    encoder, given = encoder_of(), inputs(2, photos=4)
    photos = given["hidden_states"].unflatten(1, (4, GRID_TOKENS))
    tokens = tokens_of(encoder, given)
    assert_close(tokens_of(encoder, given, hidden_states=photos[:, list(order)].flatten(1, 2)), tokens)
    for index in range(4):
        other = photos.clone()
        other[:, index] += 1
        assert (tokens_of(encoder, given, hidden_states=other.flatten(1, 2)) - tokens).abs().max() > 1e-4


def test_a_joint_that_is_masked_is_a_joint_that_is_not_there():
    resampler = encoder_of().resampler
    features, latents = random(2, len(JOINTS), SIZES["dim"], seed=1), random(2, NUM_TOKENS, SIZES["dim"], seed=2)
    everything = torch.ones(2, len(JOINTS), dtype=torch.bool)
    first_six = everything.clone()
    first_six[:, 6:] = False
    with torch.no_grad():
        assert_close(resampler.resample(features, latents, everything), resampler.resample(features, latents))
        assert_close(resampler.resample(features, latents, first_six), resampler.resample(features[:, :6], latents))


# Gradients


def gradients(encoder: BodyIDEncoder, given: dict) -> dict[str, torch.Tensor]:
    tokens = encoder(**given)
    (tokens * random(*tokens.shape, seed=5)).sum().backward()
    return {name: parameter.grad for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("grid", [True, False])
def test_gradients_reach_every_parameter_that_takes_part(grid):
    found = gradients(encoder_of(), inputs(2, grid=grid))
    idle = {"null_grid"} if grid else {"grid_in.weight", "grid_in.bias"}
    assert {name for name, gradient in found.items() if gradient is None} == idle
    for name, gradient in found.items():
        if name not in idle:
            assert gradient.isfinite().all() and gradient.abs().max() > 1e-7, name


@pytest.mark.parametrize("grid", [True, False])
def test_a_masked_joint_learns_nothing(grid):
    embedding = gradients(encoder_of(), inputs(2, grid=grid))["joint_embedding"][0]
    for joint in range(len(JOINTS)):
        assert bool(embedding[joint].any()) == (joint not in HIDDEN)


def test_gradients_of_bodies_of_which_nothing_is_seen_are_finite():
    given = inputs(2, grid=False, pose=False)
    found = gradients(encoder_of(), {**given, "seen": torch.zeros_like(given["seen"])})
    assert all(gradient.isfinite().all() for gradient in found.values() if gradient is not None)
    assert found["latents"].abs().max() > 0 and not found["joint_embedding"].any()


# The host's layers


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("grid", [True, False])
def test_weights_of_another_precision_under_the_hosts_layers(weights, grid):
    encoder = encoder_of().to(weights)
    cast = encoder_of(operations=comfy.ops.manual_cast).to(weights)
    cast.load_state_dict(encoder.state_dict())
    given = inputs(2, grid=grid)
    tokens = tokens_of(cast, given)
    assert tokens.dtype == torch.float32
    assert {parameter.dtype for parameter in cast.parameters()} == {weights}
    assert_close(tokens, tokens_of(encoder.float(), given))


def test_bodies_of_an_adapter():
    """What `Adapter.body_tokens` gives to the encoder: all photos' grids in a row, a pose only where there is one."""
    adapter = bolid_adapter()
    body = small_body(3)
    given = {
        "proportions": body.proportions.unsqueeze(0),
        "seen": body.seen.unsqueeze(0),
        "target_pose": torch.zeros(1, len(JOINTS), 3),
        "hidden_states": torch.cat(list(body.hidden_states)).unsqueeze(0),
    }
    _, tokens = adapter.body_tokens(body, device="cpu", dtype=torch.float32)
    assert torch.equal(tokens, tokens_of(adapter.body_encoder, given))
    posed = small_body(3, grid=False, target_pose=True)
    _, tokens = adapter.body_tokens(posed, device="cpu", dtype=torch.float32)
    given |= {"target_pose": posed.target_pose.unsqueeze(0), "hidden_states": None}
    assert torch.equal(tokens, tokens_of(adapter.body_encoder, given))


# The body branch: nothing on the unconditional side


def branch_of(**changes) -> Branch:
    adapter, body = bolid_adapter(), small_body()

    def tokens(*, device, dtype):
        return adapter.body_tokens(body, device=device, dtype=dtype)

    layer_weights = dict.fromkeys(adapter.layout.layers, 0.5)
    return Branch(tokens=tokens, projections=adapter.body_adapter, layer_weights=layer_weights, **changes)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    assert key.shape[0] == query.shape[0] and key.shape[1] > 0
    return scaled_dot_product_attention(query, key, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("embeds_scaling", EMBEDS_SCALINGS)
def test_a_branch_without_unconditional_tokens(embeds_scaling, dtype):
    branch = branch_of(embeds_scaling=embeds_scaling)
    adapter = bolid_adapter()
    _, tokens = branch.tokens(device="cpu", dtype=torch.float32)
    key_values = branch.key_values(device="cpu", dtype=dtype)
    assert set(key_values) == set(adapter.layout.layers)
    for index, hidden_size in adapter.layout.layers.items():
        unconditional, conditional = key_values[index]
        assert unconditional.key.shape == unconditional.value.shape == (1, 0, hidden_size)
        assert unconditional.nbytes == 0 and unconditional.key.dtype == dtype
        # The empty half has no part in the other one, whose mean some scalings take.
        alone = adapter.body_adapter[str(index)](tokens).weighted(0.5, embeds_scaling).map(lambda x: x.to(dtype))
        assert conditional.key.shape == (1, 8, hidden_size) and conditional.value.isfinite().all()
        assert torch.equal(conditional.key, alone.key) and torch.equal(conditional.value, alone.value)


def test_keys_and_values_of_the_body_branch():
    adapter, branch = bolid_adapter(), branch_of()
    _, tokens = branch.tokens(device="cpu", dtype=torch.float32)
    for index, (_, conditional) in branch.key_values(device="cpu", dtype=torch.float32).items():
        projection = adapter.body_adapter[str(index)]
        assert_close(conditional.key, tokens @ projection.to_k.weight.T)
        assert_close(conditional.value, 0.5 * tokens @ projection.to_v.weight.T)


@pytest.mark.parametrize("embeds_scaling", EMBEDS_SCALINGS)
@pytest.mark.parametrize("roles", [(0, 1), (1, 0), (0, 1, 1, 0), (0, 0), (1, 1), (0,)])
@pytest.mark.parametrize("mask", [None, "one", "one per row"])
def test_rows_without_tokens_stay_bit_for_bit(embeds_scaling, roles, mask):
    index = next(iter(bolid_adapter().layout.layers))
    by_role = branch_of(embeds_scaling=embeds_scaling).key_values(device="cpu", dtype=torch.float32)[index]
    rows, positions, hidden_size = 2 * len(roles), 6, by_role[1].key.shape[2]
    hidden_states, query = random(rows, positions, hidden_size, seed=1), random(rows, positions, hidden_size, seed=2)
    before = hidden_states.clone()
    factors = None if mask is None else random(1 if mask == "one" else rows, positions, 1, seed=3).sigmoid()
    result = add_branch_by_role(hidden_states, query, by_role, roles, attention, mask=factors)
    assert torch.equal(hidden_states, before)
    assert result.shape == hidden_states.shape
    for row_number in range(rows):
        row = slice(row_number, row_number + 1)
        if roles[row_number // 2] == 0:
            assert torch.equal(result[row], hidden_states[row])
        else:
            factor = None if factors is None else factors[row if mask == "one per row" else slice(None)]
            alone = add_branch(hidden_states[row], query[row], by_role[1], attention, mask=factor)
            assert_close(result[row], alone)
            assert not torch.equal(result[row], hidden_states[row])


def test_no_tokens_are_what_tokens_of_zeros_are():
    """A dropped body is a body of zeros before the projection, which has no bias."""
    index, hidden_size = next(iter(bolid_adapter().layout.layers.items()))
    projection = bolid_adapter().body_adapter[str(index)]
    hidden_states, query = random(2, 6, hidden_size, seed=1), random(2, 6, hidden_size, seed=2)
    zeros = projection(torch.zeros(1, 8, bolid_adapter().layout.cross_attention_dim))
    none = KeyValue(key=zeros.key[:, :0], value=zeros.value[:, :0])
    assert torch.equal(add_branch(hidden_states, query, zeros, attention), hidden_states)
    assert torch.equal(add_branch(hidden_states, query, none, attention), hidden_states)
