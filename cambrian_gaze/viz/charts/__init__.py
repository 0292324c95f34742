"""Charts: SVG for pages, PNG for folders."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.viz.charts.charts")
