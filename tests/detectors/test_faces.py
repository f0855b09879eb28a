"""Faces on real photographs, and what a user reads when a package or a model is missing."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import types
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from bolid.detectors.faces import (
    FACE_CHOICES,
    INSTALL_MEDIAPIPE,
    PROVIDERS,
    Face,
    InsightFaceAnalysis,
    InsightFaceDetector,
    MediaPipeFaceDetector,
    in_order,
    largest_first,
    mediapipe_solutions,
    without_repetitions,
)
from bolid.detectors.people import MediaPipePersonDetector

from ..support.face_analysis import write_face_analysis_pack

# Read off the photographs: from the forehead to the chin, from cheek to cheek. Largest first.
FACES = {
    "astronaut": [(175, 70, 275, 175)],
    "grace_hopper": [(165, 130, 365, 330)],
    "tom_hanks": [(8, 12, 101, 105)],
    "group": [
        (872, 76, 1001, 205),
        (455, 295, 573, 410),
        (1120, 289, 1228, 398),
        (730, 365, 838, 473),
        (260, 167, 364, 271),
        (63, 290, 161, 388),
    ],
    "bus": [(265, 410, 325, 470), (112, 428, 162, 478)],
    "carphone_0": [(60, 42, 116, 98)],
    "carphone_1": [(60, 40, 112, 93)],
    "carphone_2": [(47, 42, 104, 99)],
    "carphone_3": [(45, 31, 103, 89)],
    "carphone_4": [(42, 47, 86, 91)],
}


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


@pytest.fixture(scope="module")
def detector():
    with MediaPipeFaceDetector() as entered:
        yield entered


@pytest.mark.parametrize("name", FACES)
def test_faces_are_where_they_are(name, photographs, detector):
    found = detector.detect(np.asarray(photographs[name]))
    overlaps = [overlap(face.box, box) for face, box in zip(found, FACES[name], strict=True)]
    assert min(overlaps) >= 0.6, (overlaps, found)
    assert [face.area for face in found] == sorted((face.area for face in found), reverse=True)
    assert all(0.5 <= face.score <= 1 and face.keypoints is None and face.embedding is None for face in found)


def test_a_face_is_found_where_the_photo_is_moved_and_scaled(photographs, detector):
    """Boxes are in pixels of the given picture, x before y."""
    wide = Image.new("RGB", (900, 512), "grey")
    wide.paste(photographs["astronaut"], (300, 0))
    moved = [x + offset for x, offset in zip(FACES["astronaut"][0], (300, 0, 300, 0), strict=True)]
    assert overlap(detector.detect(np.asarray(wide))[0].box, moved) >= 0.6
    halved = tuple(x / 2 for x in FACES["astronaut"][0])
    assert overlap(detector.detect(np.asarray(photographs["astronaut"].resize((256, 256))))[0].box, halved) >= 0.6


def test_one_detector_serves_many_photos_in_any_order(photographs, detector):
    alone = detector.detect(np.asarray(photographs["grace_hopper"]))
    detector.detect(np.asarray(photographs["group"]))
    assert detector.detect(np.asarray(photographs["grace_hopper"])) == alone


def test_greyscale_photos_have_faces_too(photographs, detector):
    grey = np.asarray(photographs["astronaut"].convert("L").convert("RGB"))
    assert overlap(detector.detect(grey)[0].box, FACES["astronaut"][0]) >= 0.6


@pytest.mark.parametrize("room", [0.0, 0.2, 0.8])
@pytest.mark.parametrize("name", ["astronaut", "tom_hanks", "carphone_0"])
def test_a_close_up_has_one_face(name, room, photographs, detector):
    """The tiles see but parts of it, and the full-range model nothing of some."""
    x0, y0, x1, y1 = FACES[name][0]
    margin = room * (x1 - x0)
    cut = (round(x0 - margin), round(y0 - margin), round(x1 + margin), round(y1 + margin))
    side = 800 / (cut[2] - cut[0])
    close_up = photographs[name].crop(cut).resize((800, round((cut[3] - cut[1]) * side)))
    (face,) = detector.detect(np.asarray(close_up))
    expected = [side * (x - start) for x, start in zip((x0, y0, x1, y1), cut[:2] * 2, strict=True)]
    assert overlap(face.box, expected) >= 0.6


@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea", "hubble_deep_field", "stereo_motorcycle", "retina"])
def test_photographs_without_people_have_no_face(name, detector):
    import skimage.data

    photo = getattr(skimage.data, name)()
    assert detector.detect(photo[0] if isinstance(photo, tuple) else photo) == []


STRANGE = {
    "black": np.zeros((64, 64, 3), np.uint8),
    "white": np.full((64, 64, 3), 255, np.uint8),
    "one pixel": np.full((1, 1, 3), 200, np.uint8),
    "one row": np.full((1, 3000, 3), 128, np.uint8),
    "one column": np.full((3000, 1, 3), 128, np.uint8),
    "noise": np.random.default_rng(0).integers(0, 256, (97, 203, 3), np.uint8),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_pictures_without_a_face_give_none(kind, detector):
    assert detector.detect(STRANGE[kind]) == []


def test_largest_first():
    boxes = [(0, 0, 2, 2), (0, 0, 1, 9), (5, 5, 1, 1), (0, 0, 3, 3)]
    faces = [Face(box=box, score=score) for box, score in zip(boxes, (1.0, 0.5, 0.9, 0.6), strict=True)]
    assert [face.box for face in largest_first(faces)] == [boxes[index] for index in (1, 3, 0, 2)]


# Which of several


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("largest", [0, 1, 2, 3, 4, 5]),
        ("left_to_right", [5, 4, 1, 3, 0, 2]),
        ("right_to_left", [2, 0, 3, 1, 4, 5]),
        ("top_to_bottom", [0, 4, 5, 2, 1, 3]),
        ("most_central", [3, 1, 4, 0, 5, 2]),
    ],
)
def test_faces_of_a_group_in_every_order(choice, expected, photographs, detector):
    photo = np.asarray(photographs["group"])
    found = in_order(detector.detect(photo), choice, image_size=photo.shape[:2])
    overlaps = [overlap(face.box, FACES["group"][index]) for face, index in zip(found, expected, strict=True)]
    assert min(overlaps) >= 0.6, overlaps


def test_equal_faces_keep_their_order():
    faces = [Face(box=(x, 10.0, x + 20.0, 30.0), score=0.9) for x in (40.0, 40.0, 40.0)]
    for choice in FACE_CHOICES:
        found = in_order(faces, choice, image_size=(50, 100))
        assert all(face is given for face, given in zip(found, faces, strict=True))


def test_repetitions_are_dropped_and_neighbours_are_not():
    boxes = [(0, 0, 100, 100), (5, 5, 95, 98), (90, 0, 160, 80), (300, 300, 310, 310), (301, 299, 312, 311)]
    faces = [Face(box=tuple(map(float, box)), score=0.9) for box in boxes]
    assert without_repetitions(faces) == [faces[0], faces[2], faces[3]]


# What is missing


@pytest.mark.parametrize("detector_class", [MediaPipeFaceDetector, MediaPipePersonDetector])
def test_without_mediapipe_the_message_says_how_to_get_it(detector_class, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(RuntimeError, match="^Finding people and faces needs the mediapipe package") as caught:
        detector_class().__enter__()
    assert str(caught.value).endswith(INSTALL_MEDIAPIPE)
    assert "pip install mediapipe==0.10.21" in INSTALL_MEDIAPIPE
    assert "BoLIDFaceAnalysisLoader" in INSTALL_MEDIAPIPE


@pytest.mark.parametrize("detector_class", [MediaPipeFaceDetector, MediaPipePersonDetector])
def test_a_mediapipe_without_models_is_named_with_its_version(detector_class, monkeypatch):
    newer = types.ModuleType("mediapipe")
    newer.__version__ = "0.10.35"
    monkeypatch.setitem(sys.modules, "mediapipe", newer)
    with pytest.raises(RuntimeError, match=r"^mediapipe 0\.10\.35 is installed, but versions from 0\.10\.31") as caught:
        detector_class().__enter__()
    assert str(caught.value).endswith(INSTALL_MEDIAPIPE)


def test_the_installed_mediapipe_carries_its_models():
    solutions = mediapipe_solutions()
    assert solutions.face_detection.FaceDetection and solutions.pose.Pose


def test_importing_the_detectors_imports_no_detection_package():
    heavy = ("mediapipe", "insightface", "onnxruntime", "cv2", "diffusers", "transformers")
    code = (
        "import sys, bolid.detectors.faces, bolid.detectors.people, bolid.detectors.crops\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# insightface, with a generated pack


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("insightface")
    write_face_analysis_pack(folder)
    return folder


@pytest.fixture(scope="module")
def analysis(root) -> InsightFaceAnalysis:
    return InsightFaceAnalysis(root=root, model_pack="generated")


@pytest.fixture
def no_network(monkeypatch):
    """Whoever reaches for the network or for insightface's downloader fails the test."""
    import insightface.utils
    import requests

    def refuse(*arguments, **named):
        raise AssertionError(f"a download was attempted: {arguments} {named}")

    for name in ("storage", "download"):  # modules that functions of the same name hide
        monkeypatch.setattr(sys.modules[f"{insightface.utils.__name__}.{name}"], "download_file", refuse)
    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def astronaut(photographs) -> np.ndarray:
    return np.asarray(photographs["astronaut"])


def test_every_face_has_keypoints_and_a_normalised_vector(analysis, astronaut):
    faces = analysis.detect(astronaut)
    assert len(faces) > 1
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    for face in faces:
        assert face.embedding.shape == (512,) and face.embedding.dtype == np.float32
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert face.keypoints.shape == (5, 2)
        x0, y0, x1, y1 = face.box
        assert ((face.keypoints >= (x0, y0)) & (face.keypoints <= (x1, y1))).all()
        assert 0.5 <= face.score <= 1


def test_the_same_photo_has_the_same_vector_and_other_crops_have_others(analysis, astronaut, photographs):
    first, second = analysis.detect(astronaut)[:2]
    again = analysis.detect(astronaut)[0]
    assert np.array_equal(first.embedding, again.embedding)
    assert first.embedding @ second.embedding < 0.99
    other = analysis.detect(np.asarray(photographs["grace_hopper"]))[0]
    assert first.embedding @ other.embedding < 0.99


def test_the_vector_is_the_recognisers_answer_to_the_aligned_rgb_crop(analysis, astronaut, root):
    """insightface reads BGR and gives the network RGB in -1 to 1; swapped channels would go unnoticed otherwise."""
    from insightface.utils.face_align import norm_crop

    face = analysis.detect(astronaut)[0]
    crop = norm_crop(astronaut, face.keypoints).astype(np.float32)
    session = onnxruntime.InferenceSession(root / "models/generated/w600k_r50.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input.1": (crop.transpose(2, 0, 1)[None] - 127.5) / 127.5})
    assert face.embedding @ (expected[0] / np.linalg.norm(expected)) > 0.9999


def test_the_pack_answers_to_bright_spots(analysis):
    spot = np.zeros((640, 640, 3), np.uint8)
    spot[384:448, 128:192] = 255
    x0, y0, x1, y1 = analysis.detect(spot)[0].box
    assert 96 <= (x0 + x1) / 2 <= 224 and 352 <= (y0 + y1) / 2 <= 480


def test_a_dark_picture_has_no_face(analysis):
    assert analysis.detect(STRANGE["black"]) == []


@pytest.mark.parametrize("kind", STRANGE)
def test_insightface_survives_strange_pictures(kind, analysis):
    for face in analysis.detect(STRANGE[kind]):
        assert np.isfinite(face.embedding).all() and np.isfinite(face.box).all()


def test_a_small_face_analysis_pass_finds_what_the_large_one_misses(analysis, astronaut, monkeypatch):
    detect, sizes = analysis._analysis.det_model.detect, []

    def blind_at_640(pixels, input_size):
        sizes.append(input_size)
        boxes, keypoints = detect(pixels, input_size=input_size)
        return (boxes[:0], keypoints[:0]) if input_size == (640, 640) else (boxes, keypoints)

    monkeypatch.setattr(analysis._analysis.det_model, "detect", blind_at_640)
    assert analysis.detect(astronaut)
    assert sizes == [(640, 640), (320, 320)]


def test_a_known_provider_is_needed(root):
    with pytest.raises(ValueError, match="provider is 'Abacus'; it must be one of CPU, CUDA"):
        InsightFaceAnalysis(root=root, model_pack="generated", provider="Abacus")


def test_a_silent_fall_back_to_the_cpu_is_an_error(root, monkeypatch):
    """onnxruntime lists a provider whose libraries are missing, warns, and computes elsewhere."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(RuntimeError, match="has CUDA but could not start it.*choose CPU"):
        InsightFaceAnalysis(root=root, model_pack="generated", provider="CUDA")


def test_nothing_is_printed(root, capsys):
    InsightFaceAnalysis(root=root, model_pack="generated")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["no folder", "empty folder", "nested folder"])
def test_a_missing_pack_names_its_folder_and_downloads_nothing(content, tmp_path, no_network):
    folder = tmp_path / "models" / "buffalo_l"
    if content != "no folder":
        folder.mkdir(parents=True)
    if content == "nested folder":
        write_face_analysis_pack(tmp_path / "elsewhere", "buffalo_l").rename(folder / "buffalo_l")
    with pytest.raises(FileNotFoundError) as caught:
        InsightFaceAnalysis(root=tmp_path, model_pack="buffalo_l")
    assert str(folder) in str(caught.value) and "buffalo_l.zip" in str(caught.value)
    assert folder.exists() == (content != "no folder")


def test_a_pack_that_is_there_needs_no_network(root, no_network):
    InsightFaceAnalysis(root=root, model_pack="generated")


@pytest.mark.parametrize("missing", ["insightface", "onnxruntime"])
def test_a_missing_package_is_named(missing, root, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "insightface":
        monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(RuntimeError, match=f"needs insightface and onnxruntime .*{missing}") as caught:
        InsightFaceAnalysis(root=root, model_pack="generated")
    assert "pip install insightface onnxruntime" in str(caught.value)


def test_a_provider_that_does_not_start_is_no_silent_cpu(root, monkeypatch):
    """A build of onnxruntime with CUDA, on a machine without CUDA's libraries."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(RuntimeError) as caught:
        InsightFaceAnalysis(root=root, model_pack="generated", provider="CUDA")
    assert "onnxruntime has CUDA but could not start it" in str(caught.value)


def test_an_unknown_provider_names_those_that_are_known(root):
    with pytest.raises(ValueError, match="provider is 'GPU'; it must be one of CPU, CUDA, ROCM, DirectML, CoreML"):
        InsightFaceAnalysis(root=root, model_pack="generated", provider="GPU")


def test_an_unavailable_provider_names_those_that_are(root):
    absent = [name for name, provider in PROVIDERS.items() if provider not in onnxruntime.get_available_providers()]
    with pytest.raises(RuntimeError, match=f"cannot compute on {absent[0]} here; available: .*CPU"):
        InsightFaceAnalysis(root=root, model_pack="generated", provider=absent[0])


@pytest.mark.parametrize(
    ("kept", "lacks"), [("det_10g.onnx", "no recognition model"), ("w600k_r50.onnx", "no face detection model")]
)
def test_a_pack_with_half_of_its_models_says_which_is_missing(kept, lacks, tmp_path):
    folder = write_face_analysis_pack(tmp_path)
    for file in folder.iterdir():
        if file.name != kept:
            file.unlink()
    with pytest.raises(RuntimeError, match=lacks) as caught:
        InsightFaceAnalysis(root=tmp_path, model_pack="generated")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_truncated_model_file_is_named(keep, tmp_path):
    file = write_face_analysis_pack(tmp_path) / "w600k_r50.onnx"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(RuntimeError, match="cannot be read.*download") as caught:
        InsightFaceAnalysis(root=tmp_path, model_pack="generated")
    assert "w600k_r50.onnx" in str(caught.value)


def test_what_insightface_prints_stays_inside(root, monkeypatch):
    """Its older versions print while they load; a server's output is not theirs."""
    import insightface.app

    class Chatty(insightface.app.FaceAnalysis):
        def __init__(self, *arguments, **named):
            sys.stdout.write("find model: w600k_r50")
            super().__init__(*arguments, **named)

    monkeypatch.setattr(insightface.app, "FaceAnalysis", Chatty)
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stdout", heard)
    InsightFaceAnalysis(root=root, model_pack="generated")
    assert heard.getvalue() == ""


# insightface that another pack has loaded


@pytest.fixture(scope="module")
def foreign(root):
    """As ComfyUI_IPAdapter_plus loads it: all models of the pack, and its own detection size."""
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name="generated", root=str(root), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=0, det_size=(640, 640))
    return analysis


def same(one: list[Face], other: list[Face]) -> bool:
    return len(one) == len(other) > 0 and all(
        (face.box, face.score) == (given.box, given.score)
        and np.array_equal(face.keypoints, given.keypoints)
        and np.array_equal(face.embedding, given.embedding)
        for face, given in zip(one, other, strict=True)
    )


def test_insightface_of_another_pack_finds_the_same(foreign, analysis, astronaut):
    assert same(InsightFaceDetector(foreign).detect(astronaut), analysis.detect(astronaut))


def test_every_face_is_one_that_insightface_itself_finds(foreign, astronaut):
    """Its own `get`, as other packs call it."""
    theirs = {tuple(face.bbox.tolist()): face for face in foreign.get(np.ascontiguousarray(astronaut[..., ::-1]))}
    ours = InsightFaceDetector(foreign).detect(astronaut)
    assert len(ours) == len(theirs) > 1
    for face in ours:
        face_of_theirs = theirs[face.box]
        assert np.array_equal(face.embedding, face_of_theirs.normed_embedding)
        assert np.array_equal(face.keypoints, face_of_theirs.kps)


def test_what_other_packs_set_neither_counts_nor_changes(foreign, analysis, astronaut, monkeypatch):
    """ComfyUI_IPAdapter_plus leaves the size at which it found something in the shared model."""
    monkeypatch.setattr(foreign.det_model, "input_size", (256, 256))
    if hasattr(foreign.det_model, "input_sizes"):
        monkeypatch.setattr(foreign.det_model, "input_sizes", [(256, 256)])
    before = {name: value for name, value in vars(foreign.det_model).items() if "size" in name}
    assert same(InsightFaceDetector(foreign).detect(astronaut), analysis.detect(astronaut))
    assert {name: value for name, value in vars(foreign.det_model).items() if "size" in name} == before


def test_a_detector_of_one_size_is_given_no_other(root, astronaut, tmp_path):
    from insightface.app import FaceAnalysis

    folder = write_face_analysis_pack(tmp_path)
    model = onnx.load(folder / "det_10g.onnx")
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 320
    onnx.save(model, folder / "det_10g.onnx")
    fixed = FaceAnalysis(name="generated", root=str(tmp_path), providers=["CPUExecutionProvider"])
    fixed.prepare(ctx_id=0, det_size=(640, 640))
    found = InsightFaceDetector(fixed).detect(astronaut)
    assert found == [] or all(face.embedding.shape == (512,) for face in found)
    assert InsightFaceDetector(fixed).detect(np.full((320, 320, 3), 255, np.uint8))


@pytest.mark.parametrize("given", [{"model": None}, "antelopev2", types.SimpleNamespace(models=[], det_model=1), 3])
def test_what_is_no_insightface_is_refused(given):
    with pytest.raises(ValueError, match=f"face_analysis is a {type(given).__name__}; expected insightface's Face"):
        InsightFaceDetector(given)


def test_insightface_without_recognition_is_refused(root):
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(
        name="generated", root=str(root), allowed_modules=["detection"], providers=["CPUExecutionProvider"]
    )
    with pytest.raises(ValueError, match="without its recognition model"):
        InsightFaceDetector(analysis)
