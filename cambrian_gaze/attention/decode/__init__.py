"""One decoding step per row: the reference in plain torch, and its faster ways on CPUs and GPUs."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.attention.decode.step")
