"""Records on disk: the forms in which they are written, row indexes, tables and streams."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.data.records.records")
