"""The autoencoder: its start, its loss, its measure, its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ModelMixin
from safetensors.torch import load_file

from bolid.models.network_file import read_network
from bolid.training.base import to_latents, to_pictures
from bolid.training.data import Share
from bolid.training.randomness import keyed_generator
from bolid.world.networks.autoencoder import AutoencoderStep, AutoencoderTask, Crops, load_autoencoder
from bolid.world.networks.principal import principal_components
from bolid.world.networks.recognition import RecognitionTask

from .conftest import Config

CPU = torch.device("cpu")
ALONE = Share(process=0, processes=1, batch_size=4)


class WithError(AutoencoderStep):
    """Gives back what it is shown, with a known error."""

    def __init__(self, error: torch.Tensor, *, face_weight: float = 1.0):
        torch.nn.Module.__init__(self)
        self.error = error
        self._face_weight = face_weight

    def reconstructed(self, pixels: torch.Tensor, noise: torch.Tensor | float = 0.0) -> torch.Tensor:
        return pixels + self.error


def crops_of(pixels: torch.Tensor, faces: torch.Tensor | None = None) -> Crops:
    height, width = pixels.shape[-2:]
    return Crops(
        names=tuple(f"{number}.png" for number in range(len(pixels))),
        pixels=pixels,
        noise=torch.zeros(len(pixels), 4, height // 8, width // 8),
        faces=torch.zeros(len(pixels), height, width, dtype=torch.bool) if faces is None else faces,
    )


def random_pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def generators(count: int, *key: object) -> list[torch.Generator]:
    return [keyed_generator(*key, number) for number in range(count)]


@pytest.fixture
def task(config: Config) -> AutoencoderTask:
    return AutoencoderTask(config("autoencoder"), device=CPU)


# Loss and measure


def test_terms_are_what_they_are_called():
    pixels = random_pixels(2, 3, 5, 6)
    error = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)) / 5
    terms = WithError(error)(crops_of(pixels))
    known = error.double().numpy()
    expected = {
        "absolute": np.abs(known).mean(axis=(1, 2, 3)),
        "squared": (known**2).mean(axis=(1, 2, 3)),
        "edges": (
            np.abs(known[..., 1:] - known[..., :-1]).mean(axis=(1, 2, 3))
            + np.abs(known[..., 1:, :] - known[..., :-1, :]).mean(axis=(1, 2, 3))
        )
        / 2,
    }
    assert {name: term.tolist() for name, term in terms.items()} == {
        name: pytest.approx(values.tolist(), rel=1e-4) for name, values in expected.items()
    }


def test_an_offset_has_no_edges_and_a_chessboard_has():
    pixels = random_pixels(1, 3, 8, 8)
    terms = WithError(torch.full((1, 3, 8, 8), 0.25))(crops_of(pixels))
    assert terms["edges"].item() < 1e-6
    assert (terms["absolute"].item(), terms["squared"].item()) == pytest.approx((0.25, 0.0625), rel=1e-4)
    chessboard = 0.25 * (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8))
    terms = WithError(chessboard.expand(1, 3, 8, 8))(crops_of(pixels))
    assert (terms["edges"].item(), terms["absolute"].item()) == pytest.approx((0.5, 0.25), rel=1e-4)


def test_errors_in_faces_weigh_more():
    pixels = random_pixels(1, 3, 4, 4)
    faces = torch.zeros(1, 4, 4, dtype=torch.bool)
    faces[..., 1:3, 1:3] = True
    error = torch.zeros(1, 3, 4, 4)
    error[..., 2, 2], error[..., 0, 0] = 0.5, 0.25
    terms = WithError(error, face_weight=5.0)(crops_of(pixels, faces))
    assert terms["absolute"].item() == pytest.approx((5 * 0.5 + 0.25) / 16)
    assert terms["squared"].item() == pytest.approx((5 * 0.25 + 0.0625) / 16)
    # Each spot has a difference to the left and one to the right, which counts as the right pixel's.
    differences = 0.5 * (5 + 1) + 0.25 * 1
    assert terms["edges"].item() == pytest.approx(differences / 12)


def test_faces_are_measured_by_themselves(task: AutoencoderTask):
    faces = torch.zeros(2, 8, 8, dtype=torch.bool)
    faces[0, 2:4, 2:4] = True  # the second picture shows none
    error = torch.full((2, 3, 8, 8), 0.02)
    error[0, :, 2:4, 2:4] = 0.2
    task.module = WithError(error)
    measures = task.measures(crops_of(torch.zeros(2, 3, 8, 8), faces))
    assert measures["psnr_face"].tolist() == pytest.approx([20.0], abs=1e-3)
    assert measures["psnr"][1].item() == pytest.approx(40.0, abs=1e-3)


def test_faces_are_measured_whatever_they_weigh(config: Config):
    task = AutoencoderTask(config("autoencoder", autoencoder={"face_weight": 1.0}), device=CPU)
    with torch.no_grad():
        measures = task.measures(task.batch_of(task.held_out, list(range(8)), generators(8)))
    shown = (task.held_out.parts(range(8)) == 2).any(dim=2).any(dim=1)
    assert shown.sum() > 4 and len(measures["psnr_face"]) == shown.sum()


def test_faces_are_where_the_masks_have_them(task: AutoencoderTask):
    crops = task.batch_of(task.held_out, [0, 7], generators(2))
    faces = task.held_out.parts([0, 7]) == 2
    assert crops.faces.shape == (2, 64, 64) and faces.any()
    assert torch.equal(crops.faces, faces)
    for number in range(5):
        crops = task.batch_of(task.training, [3], [keyed_generator("crop", number)])
        (whole,), (parts,) = task.training.pixels([3]), task.training.parts([3])
        windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)
        ((top, left), *_) = (windows == crops.pixels[0][:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
        faces = parts[top : top + 32, left : left + 32] == 2
        assert torch.equal(crops.faces[0], faces)


@pytest.mark.parametrize(("error", "decibels"), [(0.2, 20.0), (0.02, 40.0), (2.0, 0.0)])
def test_psnr_of_a_known_error(task: AutoencoderTask, error: float, decibels: float):
    """Of a range of 2: a tenth of it is 20 dB."""
    pixels = torch.full((2, 3, 8, 8), -1.0)
    task.module = WithError(torch.full((2, 3, 8, 8), error))
    assert task.measures(crops_of(pixels))["psnr"].tolist() == pytest.approx([decibels] * 2, abs=1e-3)


def test_psnr_is_of_what_a_picture_can_show(task: AutoencoderTask):
    task.module = WithError(torch.tensor([[[[0.5]]]]))
    pixels = torch.stack((torch.full((3, 8, 8), 0.9), torch.full((3, 8, 8), -0.9)))
    clamped, not_clamped = task.measures(crops_of(pixels))["psnr"].tolist()
    assert (clamped, not_clamped) == pytest.approx((26.02, 12.04), abs=0.01)


# The network


def test_gradients_reach_encoder_and_decoder(task: AutoencoderTask):
    """Not every autoencoder's `forward` lets them: diffusers' `AutoencoderTiny` rounds its latents to bytes."""
    crops = task.batch_of(task.training, [0, 5], generators(2))
    sum(term.mean() for term in task.module(crops).values()).backward()
    autoencoder = task.module.autoencoder
    assert all(weight.grad is not None for weight in autoencoder.parameters())
    for part in (autoencoder.encoder, autoencoder.decoder):
        moving = [weight.grad.abs().sum() > 0 for weight in part.parameters()]
        assert sum(moving) > len(moving) / 3
        assert next(part.parameters()).grad.abs().sum() > 0


def test_what_is_learned_is_what_encoding_and_decoding_do(task: AutoencoderTask):
    """No detour between them: base models and hosts take none either."""
    pixels, autoencoder = task.training.pixels([0, 9]), task.module.autoencoder
    with torch.no_grad():
        expected = to_pictures(autoencoder, to_latents(autoencoder, pixels)[0])
        assert (task.module.reconstructed(pixels) - expected).abs().max() < 1e-4
        assert task.module.reconstructed(pixels).shape == pixels.shape


def best_linear_psnr(pixels: torch.Tensor, count: int) -> float:
    """What is left of pictures in the first components of their 8×8 pixels, in decibels."""
    cells = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).double().numpy()
    centred = cells - cells.mean(axis=0)
    _, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return float(-10 * np.log10((sizes[count:] ** 2).sum() / cells.size / 4))


@pytest.mark.parametrize("channels", [4, 16])
def test_it_starts_as_good_as_any_linear_one(config: Config, channels: int):
    """But for the nonlinearities that its start has to get around: within half a decibel."""
    task = AutoencoderTask(config("autoencoder", autoencoder={"latent_channels": channels}), device=CPU)
    pixels = task.training.pixels(task._sampled)
    with torch.no_grad():
        error = (task.module.reconstructed(pixels) - pixels) / 2
    reached = float(-10 * error.square().mean().log10())
    assert best_linear_psnr(pixels, channels) - 0.5 < reached < best_linear_psnr(pixels, channels) + 0.01


def test_principal_components_are_those_of_a_decomposition():
    generator = np.random.default_rng(0)
    samples = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 6)) + 3
    mean, found = principal_components(torch.from_numpy(samples), 3)
    np.testing.assert_allclose(mean, samples.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-5)
    _, _, expected = np.linalg.svd(samples - samples.mean(axis=0))
    np.testing.assert_allclose(np.abs((found.T.numpy() * expected[:3]).sum(axis=1)), 1, atol=1e-5)


# Pictures


def test_parts_of_pictures_are_learned_from(task: AutoencoderTask):
    places = set()
    for number in range(12):
        crops = task.batch_of(task.training, [3], [keyed_generator("crop", number)])
        assert crops.pixels.shape == (1, 3, 32, 32) and crops.names == task.training.names([3])
        (whole,) = task.training.pixels([3])
        windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)  # [3, 33, 33, 32, 32]
        found = (windows == crops.pixels[0][:, None, None]).all(dim=-1).all(dim=-1).all(dim=0).nonzero().tolist()
        assert found
        places.add(tuple(found[0]))
    assert len(places) > 8


def test_crops_reach_all_corners(config: Config):
    task = AutoencoderTask(config("autoencoder", autoencoder={"crop": 56}), device=CPU)
    (whole,) = task.training.pixels([0])
    seen = set()
    for number in range(300):
        (crop,) = task.batch_of(task.training, [0], [keyed_generator(number)]).pixels
        seen |= {
            (top, left)
            for top in (0, 8)
            for left in (0, 8)
            if torch.equal(crop, whole[:, top : top + 56, left : left + 56])
        }
    assert len(seen) == 4


def test_a_crop_may_be_the_whole_picture(config: Config):
    task = AutoencoderTask(config("autoencoder", autoencoder={"crop": 64}), device=CPU)
    crops = task.batch_of(task.training, [2], generators(1))
    assert torch.equal(crops.pixels, task.training.pixels([2]))


def test_held_out_pictures_are_whole_and_without_noise(task: AutoencoderTask):
    crops = task.batch_of(task.held_out, [1, 4], generators(2))
    assert torch.equal(crops.pixels, task.held_out.pixels([1, 4]))
    assert crops.noise.shape == (2, 4, 8, 8) and not crops.noise.any()


def test_noise_on_latents_is_as_large_as_the_config_says(config: Config):
    task = AutoencoderTask(config("autoencoder", autoencoder={"latent_noise": 0.2}), device=CPU)
    noise = task.batch_of(task.training, [1] * 200, generators(200)).noise
    assert noise.shape == (200, 4, 4, 4)
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((0, 0.2), abs=0.01)
    pixels, latents = task.training.pixels([3, 8]), []
    task.module.autoencoder.decode = lambda reached, return_dict: (latents.append(reached), pixels)[1:]
    with torch.no_grad():
        task.module.reconstructed(pixels)
        task.module.reconstructed(pixels, torch.full((2, 4, 8, 8), 0.5))
    without, with_noise = latents
    torch.testing.assert_close(with_noise - without, torch.full((2, 4, 8, 8), 0.5) * without.std())


# Files


def test_file_is_the_librarys_autoencoder(task: AutoencoderTask, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    task.write_result(path, {"steps": 5, "validation": {"psnr": 12.5}})
    assert all(tensor.dtype == torch.float16 for tensor in load_file(path).values())
    assert read_network(path, "autoencoder").training == {"steps": 5, "validation": {"psnr": 12.5}}

    read = load_autoencoder(path)
    assert isinstance(read, ModelMixin) and type(read).__module__.startswith("diffusers.")
    assert not read.training and not any(weight.requires_grad for weight in read.parameters())
    assert read.state_dict().keys() == task.module.autoencoder.state_dict().keys()
    for name, tensor in task.module.autoencoder.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor.half().float()), name
    pixels = task.training.pixels(range(len(task.training)))
    with torch.no_grad():
        latents, _ = to_latents(read, pixels)
        assert latents.shape == (24, 4, 8, 8)
        assert float(latents.std()) == pytest.approx(1, abs=0.15)
        torch.testing.assert_close(to_pictures(read, latents), task.module.reconstructed(pixels), atol=0.05, rtol=0.05)


def test_file_says_which_colours_latents_stand_for(task: AutoencoderTask, tmp_path: Path):
    path = tmp_path / "network.safetensors"
    task.write_result(path, {})
    sizes = read_network(path, "autoencoder").sizes
    pixels = task.held_out.pixels(range(len(task.held_out)))
    with torch.no_grad():
        latents, _ = to_latents(load_autoencoder(path), pixels)
    factors, bias = torch.tensor(sizes["rgb_factors"]), torch.tensor(sizes["rgb_bias"])
    assert factors.shape == (4, 3) and bias.shape == (3,)
    found = torch.einsum("bchw,cd->bdhw", latents, factors) + bias[:, None, None]
    expected = pixels.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=(-2, -1))
    assert (found - expected).abs().mean() < 0.15 * expected.std()


def test_other_files_are_refused(config: Config, tmp_path: Path):
    path = tmp_path / "recognition.safetensors"
    RecognitionTask(config("recognition"), device=CPU).write_result(path, {})
    with pytest.raises(ValueError, match="is a network of the kind 'recognition'; expected one of the kind 'autoenc"):
        load_autoencoder(path)
    with pytest.raises(FileNotFoundError):
        load_autoencoder(tmp_path / "none.safetensors")


def test_samples_show_pictures_and_what_is_left(task: AutoencoderTask):
    task.load_data(ALONE, lambda *progress: None)
    sheet = task.sample_grid(torch.no_grad)
    assert sheet.width == 2 * 196 + 4 and sheet.height == 16 + 4 * 212
    for row in range(4):
        shown = sheet.crop((4, 20 + row * 212, 196, 20 + row * 212 + 192)).resize((64, 64))
        seen = torch.tensor(np.asarray(shown)).movedim(-1, 0) / 127.5 - 1
        assert (seen - task.held_out.pixels([row * 6])[0]).abs().mean() < 0.05


def test_samples_are_all_pictures_where_there_are_fewer(config: Config):
    task = AutoencoderTask(config("autoencoder", run={"sample_people": 30}), device=CPU)
    task.load_data(ALONE, lambda *progress: None)
    assert task.sample_grid(torch.no_grad).height == 16 + 24 * 212
