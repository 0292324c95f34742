"""How the ranks of a run are started, and how they are asked to stop."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.training.launch.launch")
