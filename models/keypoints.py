"""The names and the order of body keypoints, and what joins them.

People are described in the order of COCO-17: five points of the head, then the twelve joints of torso and limbs that
make up the body identity. Left and right are the person's own.
"""

from __future__ import annotations

JOINTS = (
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The twelve joints, in the order of every tensor [..., 12, 3]."""

HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")

COCO_KEYPOINTS = (*HEAD, *JOINTS)
"""The seventeen keypoints of COCO (https://cocodataset.org/#keypoints-2020)."""

FIRST_JOINT = len(HEAD)
"""Where the twelve joints begin in `COCO_KEYPOINTS`."""

LEFT_SHOULDER, RIGHT_SHOULDER = JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")
LEFT_HIP, RIGHT_HIP = JOINTS.index("left_hip"), JOINTS.index("right_hip")

BONES: dict[str, tuple[tuple[int, int], ...]] = {
    bone: tuple((JOINTS.index(start), JOINTS.index(end)) for start, end in ends)
    for bone, ends in {
        "shoulder_width": (("left_shoulder", "right_shoulder"),),
        "hip_width": (("left_hip", "right_hip"),),
        "torso": (("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")),
        "upper_arm": (("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow")),
        "forearm": (("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
        "thigh": (("left_hip", "left_knee"), ("right_hip", "right_knee")),
        "shin": (("left_knee", "left_ankle"), ("right_knee", "right_ankle")),
    }.items()
}
"""The bones whose ratios make up the proportions: pairs of joint numbers, one pair for each side of the body."""

AVERAGE_PROPORTIONS = {
    "shoulder_width": 0.75,
    "hip_width": 0.5,
    "torso": 1.0,
    "upper_arm": 0.65,
    "forearm": 0.51,
    "thigh": 0.85,
    "shin": 0.85,
}
"""An adult's bones as fractions of the torso. Limbs and torso from Drillis and Contini, "Body Segment Parameters"
(1966); widths are those between the joints, which are narrower than the breadths measured there."""
