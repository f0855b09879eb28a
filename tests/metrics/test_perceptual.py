"""LPIPS with random weights, held against its formula; and what is said where weights or packages are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchmetrics.functional.image.lpips as torchmetrics_lpips
import torchvision

from bolid.metrics.perceptual import load_lpips, lpips

SQUEEZE_FILE = "squeezenet1_1-b8a52dc0.pth"


def pictures(count: int, *, seed: int, height: int = 48, width: int = 64) -> torch.Tensor:
    return 2 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """An empty hub folder of torch."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def classifier(hub: Path) -> torch.nn.Sequential:
    """A classifier with random weights, where torchvision looks for its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.squeezenet1_1(weights=None).eval()
    hub.mkdir()
    torch.save(network.state_dict(), hub / SQUEEZE_FILE)
    return network.features


@torch.no_grad()
def slow_lpips(classifier: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> float:
    """One pair [3, h, w], after equation 1, with the authors' weights of the layers."""
    weights = torch.load(Path(torchmetrics_lpips.__file__).parent / "lpips_models" / "squeeze.pth", map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = 0.0
    activations = [((picture - shift.view(3, 1, 1)) / scale.view(3, 1, 1)).unsqueeze(0) for picture in (x, y)]
    layers = iter(range(7))
    for number, module in enumerate(classifier):
        activations = [module(each) for each in activations]
        # After the first ReLU, before each pooling, and after the Fire modules 9 to 12.
        if number in (1, 4, 7, 9, 10, 11, 12):
            units = [each / (1e-8 + each.square().sum(dim=1, keepdim=True)).sqrt() for each in activations]
            layer_weights = weights[f"lin{next(layers)}.model.1.weight"].view(1, -1, 1, 1)
            total += float((layer_weights * (units[0] - units[1]).square()).sum(dim=1).mean())
    return total


def test_it_is_the_formula(classifier: torch.nn.Sequential):
    network = load_lpips("squeeze")
    images, others = pictures(3, seed=1), pictures(3, seed=2)
    found = lpips(images, others, network=network)
    assert found.shape == (3,) and not found.requires_grad
    assert found.tolist() == pytest.approx(
        [slow_lpips(classifier, x, y) for x, y in zip(images, others, strict=True)], rel=1e-4
    )
    assert found.min() > 0.001
    torch.testing.assert_close(lpips(others, images, network=network), found)
    torch.testing.assert_close(lpips(images[:1], others[:1], network=network), found[:1])
    assert lpips(images, images, network=network).tolist() == [0, 0, 0]
    near = lpips(images, 0.9 * images + 0.1 * others, network=network)
    assert (near < found).all()


def test_loading_leaves_the_random_numbers_alone(classifier: torch.nn.Sequential):
    state = torch.get_rng_state()
    load_lpips("squeeze")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_is_anything_that_compares_pictures():
    def mean_difference(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.float32 and not torch.is_grad_enabled()
        return (images - others).abs().mean(dim=(1, 2, 3), keepdim=True)

    images = pictures(2, seed=1).half()
    found = lpips(images, -images, network=mean_difference)
    torch.testing.assert_close(found, 2 * images.float().abs().mean(dim=(1, 2, 3)))


# What is missing


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_weights_are_not_downloaded_unasked(net: str, hub: Path, monkeypatch: pytest.MonkeyPatch):
    def download(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(
        RuntimeError, match=rf"LPIPS with '{net}' needs the weights of .* {hub}.* is not there"
    ) as error:
        load_lpips(net)
    assert "https://download.pytorch.org/models/" in str(error.value)


def test_a_download_that_fails(hub: Path, monkeypatch: pytest.MonkeyPatch):
    def download(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(RuntimeError, match="could not be loaded from .* no route to host.* Without a connection"):
        load_lpips("squeeze", download=True)


def test_a_download_that_was_asked_for(
    classifier: torch.nn.Sequential, hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    kept = (hub / SQUEEZE_FILE).rename(tmp_path / "kept.pth")
    asked = []

    def download(address: str, file: str, *_: object, **__: object) -> None:
        asked.append(address)
        kept.rename(file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert lpips(pictures(1, seed=1), pictures(1, seed=2), network=load_lpips("squeeze", download=True)) > 0
    assert asked == [f"https://download.pytorch.org/models/{SQUEEZE_FILE}"]


def test_damaged_weights(hub: Path):
    hub.mkdir()
    (hub / SQUEEZE_FILE).write_bytes(b"half a file")
    with pytest.raises(
        RuntimeError, match=f"The weights of LPIPS with 'squeeze' could not be loaded from .*{SQUEEZE_FILE}"
    ):
        load_lpips("squeeze")


@pytest.mark.parametrize("package", ["torchmetrics.image.lpip", "torchvision.models"])
def test_packages_that_are_not_installed(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match="LPIPS needs the packages torchmetrics and torchvision"):
        load_lpips()


def test_the_other_metrics_need_none_of_them():
    """Nodes use them: ComfyUI starts with every import."""
    program = (
        "import sys; from bolid.metrics import bootstrap, distributions, perceptual, poses, similarity;"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    heavy = ("torchmetrics", "torchvision", "transformers", "scipy", "diffusers", "accelerate", "comfy")
    answer = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# What is refused


def test_a_network_that_is_not_known():
    with pytest.raises(ValueError, match="LPIPS knows no network 'alexnet'; choose one of alex, vgg, squeeze"):
        load_lpips("alexnet")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "others", "message"),
    [
        (pictures(2, seed=1), pictures(1, seed=1), "expected two equal shapes"),
        (pictures(2, seed=1)[:0], pictures(2, seed=1)[:0], "expected two equal shapes"),
        (pictures(2, seed=1)[:, :1], pictures(2, seed=1)[:, :1], "expected two equal shapes"),
        (pictures(2, seed=1)[0], pictures(2, seed=1)[0], "expected two equal shapes"),
        (pictures(1, seed=1, height=16), pictures(1, seed=1, height=16), "pictures of 64×16 pixels"),
        (pictures(1, seed=1), 255 * pictures(1, seed=1), "values from -25. to 25"),
        (pictures(1, seed=1), pictures(1, seed=1) * torch.nan, "values from nan to nan"),
        (pictures(1, seed=1).byte(), pictures(1, seed=1).byte(), "type torch.uint8"),
    ],
)
def test_pictures_that_do_not_fit(images: torch.Tensor, others: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        lpips(images, others, network=lambda x, y: (x - y).sum())
