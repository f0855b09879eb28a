"""The people world: drawn people whose identity, keypoints and proportions are known, see docs/world.md.

Stands above `training`; `nodes` never imports it.
"""
