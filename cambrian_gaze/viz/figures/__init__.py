"""The paper's figures 3, 4 and 5, made of traces: `attention_figure`, `eviction_figure`, `video_figure`; each gives a
sheet that `write_sheet` writes."""

from cambrian_gaze.viz.figures.attention import attention_figure
from cambrian_gaze.viz.figures.eviction import eviction_figure
from cambrian_gaze.viz.figures.paint import check_suffix, sheet_image, sheet_svg, write_sheet
from cambrian_gaze.viz.figures.video import video_figure

__all__ = [
    "attention_figure",
    "check_suffix",
    "eviction_figure",
    "sheet_image",
    "sheet_svg",
    "video_figure",
    "write_sheet",
]
