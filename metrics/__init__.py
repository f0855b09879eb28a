"""Metrics: pure functions and small accumulators over features, keypoints and pictures that others computed."""
