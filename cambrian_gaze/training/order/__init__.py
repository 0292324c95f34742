"""Which samples each step of each rank reads, and where a run stands in them."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.training.order.order")
