"""Settings of a run: YAML files, flags, and the arguments they become."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.training.config.config")
