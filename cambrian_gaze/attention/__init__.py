"""Attention: one contract (`registry.attend`), several backends that declare what they can do, and decoding."""

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.record import GazeRecorder, GazeStats
from cambrian_gaze.attention.registry import BACKENDS, Backend, attend, prepare

__all__ = ["BACKENDS", "Backend", "GazeContext", "GazeRecorder", "GazeStats", "attend", "prepare"]
