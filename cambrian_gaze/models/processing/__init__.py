"""Chat messages, pictures and videos to the model's tensors."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.models.processing.processor")
