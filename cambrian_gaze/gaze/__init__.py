"""The method in plain torch: configuration, regions, layout, visibility, descriptors, routing, schedule, cost."""

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget
from cambrian_gaze.gaze.cost import Attended, attended_visual
from cambrian_gaze.gaze.derive import derive_layout
from cambrian_gaze.gaze.layout import TokenLayout
from cambrian_gaze.gaze.regions import region_ids
from cambrian_gaze.gaze.schedule import TopKSchedule

__all__ = [
    "Attended",
    "GazeConfig",
    "RegionBudget",
    "TokenLayout",
    "TopKSchedule",
    "attended_visual",
    "derive_layout",
    "region_ids",
]
