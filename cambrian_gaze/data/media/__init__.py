"""Pictures and videos: files to pixels and frames, and what may be wrong with them."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.data.media.image_files")
