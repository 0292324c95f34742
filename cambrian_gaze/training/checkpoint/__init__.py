"""Checkpoints: written whole, checked, resumed from."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.training.checkpoint.checkpoint")
