"""What every pixel of the map is called: which part of a person, and whose limb."""

from __future__ import annotations

PARTS = ("background", "skin", "face", "hair", "top", "bottoms", "shoes")
"""Labels of the segmentation, by their number; everything but the background is the person."""

BACKGROUND, SKIN, FACE, HAIR, TOP, BOTTOMS, SHOES = range(len(PARTS))

TRUNK, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, HEAD, LEFT_EAR, RIGHT_EAR, HAIR_OWNER = range(1, 10)
ARMS, LEGS, EARS = (LEFT_ARM, RIGHT_ARM), (LEFT_LEG, RIGHT_LEG), (LEFT_EAR, RIGHT_EAR)

SEEN_ON: dict[str, tuple[int, ...]] = {
    "nose": (HEAD,),
    "left_eye": (HEAD,),
    "right_eye": (HEAD,),
    "left_ear": (LEFT_EAR,),
    "right_ear": (RIGHT_EAR,),
    # Clothes and long hair lie close to the shoulders and hips: one sees where they are.
    "left_shoulder": (TRUNK, LEFT_ARM, HAIR_OWNER),
    "right_shoulder": (TRUNK, RIGHT_ARM, HAIR_OWNER),
    "left_elbow": (LEFT_ARM,),
    "right_elbow": (RIGHT_ARM,),
    "left_wrist": (LEFT_ARM,),
    "right_wrist": (RIGHT_ARM,),
    "left_hip": (TRUNK, LEFT_LEG, RIGHT_LEG),
    "right_hip": (TRUNK, RIGHT_LEG, LEFT_LEG),
    "left_knee": (LEFT_LEG, TRUNK),
    "right_knee": (RIGHT_LEG, TRUNK),
    "left_ankle": (LEFT_LEG,),
    "right_ankle": (RIGHT_LEG,),
}
"""Owners of the pixel at a keypoint that is seen; any other owner hides it."""
