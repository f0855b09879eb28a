"""Networks that measure: each says what its own library says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from bolid.detectors.faces import InsightFaceAnalysis
from bolid.detectors.people import Person
from bolid.evaluation import networks
from bolid.evaluation.networks import load_network, load_pair
from bolid.evaluation.pictures import as_floats
from bolid.evaluation.sources import Kind, Source
from bolid.models.keypoint_network import pixels_to_cells, read_keypoint_network
from bolid.world.networks.recognition import load_recogniser

from ..support.face_analysis import write_face_analysis_pack
from .conftest import HEADS, SIDE, Toy, write_joints

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """[3, 3, SIDE, SIDE] uint8: smooth, so that ways of resizing differ little."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 5, 5, generator=generator)
    return (torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1) * 255).byte()


def ask(kind: Kind, path: Path | None, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    with ExitStack() as models, torch.no_grad():
        network = load_network(Source(kind, path, "measures.x"), device=CPU, models=models)
        return network(as_floats(pictures))


def test_recognition(toy: Toy, pictures: torch.Tensor) -> None:
    said = ask("recognition", toy.attributes, pictures)
    step = load_recogniser(toy.attributes)
    enlarged = torch.nn.functional.interpolate(as_floats(pictures), 128, mode="bicubic", antialias=True).clamp(-1, 1)
    embeds = step.recogniser(enlarged)
    torch.testing.assert_close(said["embeds"], embeds)
    heads = step.heads(embeds)
    assert list(heads) == list(HEADS)
    assert said["answers"].tolist() == [[int(heads[head][row].argmax()) for head in HEADS] for row in range(3)]
    assert ask("recognition", toy.identity, pictures).keys() == {"embeds"}


def test_clip_is_that_of_transformers(toy: Toy, pictures: torch.Tensor) -> None:
    said = ask("clip", toy.image_encoder, pictures)["embeds"]
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    images = [Image.fromarray(image) for image in pictures.movedim(1, -1).numpy()]
    model = CLIPVisionModelWithProjection.from_pretrained(toy.image_encoder)
    theirs = model(processor(images, return_tensors="pt").pixel_values).image_embeds
    assert torch.cosine_similarity(said, theirs).min() > 0.999
    assert torch.cosine_similarity(said, theirs.roll(1, dims=0)).max() < 0.999


def test_dino_is_the_class_token(tmp_path: Path, pictures: torch.Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Dinov2Model(
            Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
        ).eval()
    model.save_pretrained(tmp_path / "dino")
    said = ask("dino", tmp_path / "dino", pictures)["embeds"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    resized = torch.nn.functional.interpolate(as_floats(pictures), 56, mode="bicubic", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        theirs = model((resized / 2 + 0.5 - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(said, theirs)


class TinyInception(nn.Module):
    """With the signature of the published TorchScript file; it refuses what is no bytes."""

    def forward(
        self, pixels: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        if pixels.dtype != torch.uint8:
            raise ValueError("bytes are expected")
        means = pixels.float().mean(dim=(2, 3))
        if return_features:
            return torch.cat((means, means.square()), dim=1)
        if not no_output_bias:
            means = means + torch.tensor([1000.0, 0.0, 0.0])
        return means.softmax(dim=1)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_inception_gives_features_and_probabilities(tmp_path: Path, pictures: torch.Tensor) -> None:
    torch.jit.script(TinyInception()).save(str(tmp_path / "inception.pt"))
    said = ask("inception", tmp_path / "inception.pt", pictures)
    means = pictures.float().mean(dim=(2, 3))
    torch.testing.assert_close(said["embeds"], torch.cat((means, means.square()), dim=1))
    torch.testing.assert_close(said["probabilities"], means.softmax(dim=1))


def test_pair_is_that_of_open_clip(toy: Toy, pictures: torch.Tensor) -> None:
    said = ask("pair", toy.pair, pictures)["embeds"]
    pair = load_pair(Source("pair", toy.pair), device=CPU)
    torch.testing.assert_close(said, pair.encode_image(as_floats(pictures)))
    assert said.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    assert pair.encode_text("a person").shape == said[0].shape


def test_joints_are_seen_where_the_network_says_so(toy: Toy, pictures: torch.Tensor) -> None:
    said = ask("joints", toy.joints, pictures)["keypoints"]
    found = read_keypoint_network(toy.joints).network(pixels_to_cells(as_floats(pictures)))
    torch.testing.assert_close(said[..., :2], found.positions)
    assert ((said[..., 2] >= 0.5) == (found.logits >= 0)).all()


@pytest.mark.filterwarnings("ignore:`estimate`:FutureWarning")
def test_faces_are_found_or_not(tmp_path: Path) -> None:
    pack = write_face_analysis_pack(tmp_path)
    bright, dark = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    bright[:, 16:48, 16:48] = 255
    said = ask("faces", pack, torch.stack((bright, dark)))
    assert said["found"].tolist() == [1, 0]
    (face, *_) = InsightFaceAnalysis(root=tmp_path, model_pack=pack.name).detect(
        np.ascontiguousarray(bright.movedim(0, -1).numpy())
    )
    assert said["embeds"][0].tolist() == pytest.approx(face.embedding.tolist())
    assert not said["embeds"][1].any()


def test_mediapipe_tells_of_the_largest_person(monkeypatch: pytest.MonkeyPatch, pictures: torch.Tensor) -> None:
    asked: list[np.ndarray] = []

    class Detector:
        """Finds two people in the first picture and nobody in others."""

        def __init__(self, path: Path | None):
            assert path == Path("pose.task")

        def __enter__(self) -> Detector:
            return self

        def __exit__(self, *error: object) -> None:
            asked.append(np.zeros(0))

        def detect(self, image: np.ndarray) -> list[Person]:
            asked.append(image)
            people = [Person(box=(0, 0, 9, 9), keypoints=np.full((17, 3), place)) for place in (SIDE / 4, SIDE / 2)]
            return people if len(asked) == 1 else []

    monkeypatch.setattr(networks, "MediaPipePersonDetector", Detector)
    said = ask("mediapipe", Path("pose.task"), pictures[:2])["keypoints"]
    assert said[0].tolist() == [[0.25, 0.25, SIDE / 4]] * 12 and not said[1].any()
    assert (asked[0] == pictures[0].movedim(0, -1).numpy()).all() and asked[0].dtype == np.uint8
    assert len(asked) == 3, "closed"


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_cannot_be_loaded_names_its_key(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    latents = write_joints(tmp_path / "latents.safetensors", latent_space="vae")
    for kind, path, message in (
        (
            "recognition",
            tmp_path / "damaged.safetensors",
            "measures.x is .*damaged.safetensors, which cannot be loaded",
        ),
        ("recognition", toy.joints, "joints.safetensors, which cannot be loaded: .*expected one of the kind 'recogn"),
        ("joints", toy.identity, "identity.safetensors, which cannot be loaded: .* is not a keypoint network"),
        ("joints", latents, "it finds joints in the latents of a VAE"),
        ("inception", tmp_path / "damaged.pt", "damaged.pt, which cannot be loaded"),
        ("dino", toy.image_encoder, "it is no Dinov2Model: .* of the weights are missing"),
        ("pair", toy.image_encoder, "measures.x is .*image_encoder, which cannot be loaded"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(kind, path, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8))
