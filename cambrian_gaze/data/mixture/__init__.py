"""What a run reads: sources and weights, the rows chosen of each, and the plan of an epoch."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.data.mixture.mixture")
