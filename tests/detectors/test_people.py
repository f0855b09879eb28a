"""The box of the most visible person: head, hands and feet inside."""

from __future__ import annotations

import numpy as np
import pytest

from bolid.detectors.people import MediaPipePersonDetector

from .test_faces import FACES, STRANGE, overlap

# Read off the photographs, hair and hat included.
HEADS = {
    "astronaut": (153, 15, 300, 190),
    "grace_hopper": (152, 22, 372, 330),
    "tom_hanks": (5, 0, 100, 112),
    "bus": (103, 398, 163, 478),
    "carphone_0": (58, 14, 112, 98),
    "carphone_2": (48, 15, 103, 100),
    "carphone_4": (40, 16, 92, 93),
}
WALKER = (52, 398, 245, 903)
"""The man in the light coat in the photo of the bus, from his hair to the soles of his shoes."""
SHOES = [(52, 850, 107, 902), (175, 852, 245, 900)]


@pytest.fixture(scope="module")
def detector():
    with MediaPipePersonDetector() as entered:
        yield entered


def contains(box: tuple[float, ...], inner: tuple[float, ...], tolerance: float) -> bool:
    x0, y0, x1, y1 = box
    return (
        x0 <= inner[0] + tolerance
        and y0 <= inner[1] + tolerance
        and x1 >= inner[2] - tolerance
        and y1 >= inner[3] - tolerance
    )


@pytest.mark.parametrize("name", HEADS)
def test_the_box_contains_the_head_and_stays_in_the_picture(name, photographs, detector):
    photo = photographs[name]
    (person,) = detector.detect(np.asarray(photo))
    head = HEADS[name]
    # Joints know no hair: a twentieth of the head may be cut.
    assert contains(person.box, head, tolerance=0.05 * (head[3] - head[1])), person
    assert contains((0, 0, *photo.size), person.box, tolerance=0)


def test_the_box_of_a_whole_person_contains_the_feet_and_nobody_else(photographs, detector):
    (person,) = detector.detect(np.asarray(photographs["bus"]))
    assert all(contains(person.box, shoe, tolerance=0) for shoe in SHOES)
    assert overlap(person.box, WALKER) >= 0.6
    second_face, _ = FACES["bus"]
    assert overlap(person.box, second_face) == 0


def test_greyscale(photographs, detector):
    (person,) = detector.detect(np.asarray(photographs["astronaut"].convert("L").convert("RGB")))
    assert contains(person.box, HEADS["astronaut"], tolerance=9)


def test_photos_do_not_influence_each_other(photographs, detector):
    """The pose model can track from picture to picture; here every photo stands alone."""
    alone = detector.detect(np.asarray(photographs["astronaut"]))
    detector.detect(np.asarray(photographs["bus"]))
    assert detector.detect(np.asarray(photographs["astronaut"])) == alone


@pytest.mark.parametrize("kind", STRANGE)
def test_pictures_without_a_person_give_none(kind, detector):
    assert detector.detect(STRANGE[kind]) == []
