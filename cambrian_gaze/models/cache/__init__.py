"""The gaze cache: visual keys by region, in device memory or paged from host memory."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.models.cache.cache")
