"""Photos of drawn people, and their joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bolid.detectors.drawn_people import DrawnPersonDetector
from bolid.models.keypoint_network import PIXELS, KeypointNetwork, KeypointNetworkLayout, write_keypoint_network
from bolid.models.keypoints import FIRST_JOINT
from bolid.nodes import demo_people
from bolid.nodes.demo_people import PEOPLE, PHOTOS, BoLIDDemoPhotos, BoLIDDemoPoseDetector
from bolid.world.identities import split_of
from bolid.world.pictures import picture_of

NAMES = sorted(path.stem for path in PEOPLE.glob("*.png"))


@pytest.mark.parametrize("name", NAMES)
def test_photos_are_those_of_the_world_and_of_nobody_whom_networks_learn_from(name: str):
    number = int(name.removeprefix("person_"))
    assert split_of(number) == "demo"
    photos = BoLIDDemoPhotos.execute(name, 1, PHOTOS)[0]
    assert photos.shape == (PHOTOS, 128, 128, 3)
    for picture in (0, 7):
        drawn = torch.from_numpy(picture_of(number, picture).pixels) / 255
        assert (photos[picture] - drawn).abs().mean() < 0.5 / 255


def test_photos_are_counted_from_one_and_go_round():
    whole = BoLIDDemoPhotos.execute(NAMES[0], 1, PHOTOS)[0]
    some = BoLIDDemoPhotos.execute(NAMES[0], 9, 3)[0]
    assert torch.equal(some, whole[[8, 9, 0]])


def weights_that_say(folder: Path, *, seen: bool) -> Path:
    """A network for which every joint lies in the middle."""
    network = KeypointNetwork(KeypointNetworkLayout(latent_channels=48, width=8, depth=2))
    for parameter in network.parameters():
        parameter.data.zero_()
    network.maps_out.bias.data[len(network.maps_out.bias) // 2 :] = 5.0 if seen else -5.0
    path = folder / "joints.safetensors"
    write_keypoint_network(path, network, latent_space=PIXELS)
    return path


def test_joints_are_told_in_pixels_of_the_picture(tmp_path: Path):
    detector = DrawnPersonDetector(weights_that_say(tmp_path, seen=True))
    (person,) = detector.detect(np.zeros((200, 320, 3), dtype=np.uint8))
    np.testing.assert_allclose(person.keypoints[FIRST_JOINT:, :2], [[160, 100]] * 12, atol=0.01)
    assert (person.keypoints[FIRST_JOINT:, 2] > 0.99).all() and not person.keypoints[:FIRST_JOINT].any()


def test_a_picture_may_show_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_people, "WEIGHTS", weights_that_say(tmp_path, seen=False).parent)
    frames, preview = BoLIDDemoPoseDetector.execute([torch.zeros(2, 64, 64, 3), torch.ones(1, 96, 48, 3)]).args
    assert [(frame["canvas_width"], frame["canvas_height"]) for frame in frames] == [(64, 64), (64, 64), (48, 96)]
    assert not any(frame["people"] for frame in frames) and preview.shape == (3, 512, 512, 3)
