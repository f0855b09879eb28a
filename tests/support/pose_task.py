"""A pose_landmarker .task file made of the weights that the installed mediapipe carries."""

from __future__ import annotations

import zipfile
from pathlib import Path

NETWORKS = {
    # name in the .task file: file in the package, mean and deviation of the input, outputs
    "pose_detector.tflite": ("pose_detection/pose_detection.tflite", 127.5, 127.5, 2),
    "pose_landmarks_detector.tflite": ("pose_landmark/pose_landmark_full.tflite", 0.0, 255.0, 5),
}


def write_pose_task(path: Path) -> Path:
    """Write a file that mediapipe's Tasks API reads as it reads the published pose_landmarker_full.task.

    The networks are those of `mediapipe.solutions.pose`; the Tasks API wants them with metadata.
    """
    import mediapipe
    from mediapipe.tasks.python.metadata.metadata_writers.metadata_writer import MetadataWriter

    modules = Path(mediapipe.__file__).parent / "modules"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # mediapipe maps the networks into memory
        for name, (source, mean, deviation, outputs) in NETWORKS.items():
            writer = MetadataWriter.create(bytearray((modules / source).read_bytes()))
            writer.add_image_input([mean], [deviation])
            for index in range(outputs):
                writer.add_feature_output(name=f"output_{index}")
            network, _ = writer.populate()
            archive.writestr(name, bytes(network))
    return path
