"""Attention under a `VisiblePolicy`: which visual keys are kept, and which of them a text query may see."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.attention.policy.policy")
